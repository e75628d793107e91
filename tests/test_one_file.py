"""tutorials/one_file.py is the frozen reference of the package: everything that both compute must
agree.
"""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minimixce as mm

PATH = Path(__file__).parents[1] / "tutorials" / "one_file.py"
TOLERANCE = 1e-12  # largest difference in a tensor, relative to the tensor's largest element

# B, T, H, C, V, block_size, n_layer: all different within a row where the case allows it
SHAPES = [
    (2, 5, 3, 12, 7, 8, 1),
    (3, 4, 2, 6, 11, 4, 3),
    (1, 7, 4, 8, 5, 9, 2),  # one sequence
    (5, 1, 2, 10, 6, 3, 3),  # one position: queries and keys have no gradient
    (1, 1, 1, 4, 3, 2, 1),
    (4, 9, 5, 15, 2, 16, 1),
]
CASES = [(shape, seed) for shape in SHAPES for seed in (0, 1)]


def load():
    spec = importlib.util.spec_from_file_location("one_file", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def one_file():
    return load()


class Case:
    """One shape with random parameters (biases and layer norms too, which init leaves at 0 and 1),
    tokens and targets.
    """

    def __init__(self, one_file, shape, seed):
        self.B, self.T, self.H, self.C, self.V, self.block_size, self.n_layer = shape
        rng = np.random.default_rng(seed)
        config = mm.GPTConfig(
            self.V, self.block_size, self.n_layer, self.H, self.C, dtype="float64"
        )
        self.model = mm.GPT(config, seed=seed, device="cpu")
        initial = one_file.init(self.V, self.block_size, self.n_layer, self.H, self.C, seed)
        self.params = {name: p + 0.3 * rng.standard_normal(p.shape) for name, p in initial.items()}
        self.model.params = {name: p.copy() for name, p in self.params.items()}
        self.tokens = rng.integers(0, self.V, (self.B, self.T))
        self.targets = rng.integers(0, self.V, (self.B, self.T))


@pytest.fixture(
    params=CASES,
    ids=lambda case: "B{}T{}H{}C{}V{}-block{}-layers{}-seed{}".format(*case[0], case[1]),
)
def case(request, one_file):
    return Case(one_file, *request.param)


def assert_same(name, ours, package):
    assert ours.shape == package.shape, name
    assert ours.dtype == package.dtype == np.float64, name
    error = np.abs(ours - package).max() / max(np.abs(package).max(), np.finfo(float).tiny)
    assert error <= TOLERANCE, f"{name} differs by {error:.1e} of its maximum"


def assert_all_same(ours, package):
    assert ours.keys() == package.keys()
    for name in package:
        assert_same(name, ours[name], package[name])


def loss_and_grads(one_file, params, case, eta):
    logits, cache = one_file.forward(params, case.tokens, case.H)
    loss, dlogits = one_file.mixce(logits, case.targets, eta)
    return loss, one_file.backward(params, dlogits, cache, case.H)


def package_loss_and_grads(case, eta):
    logits, cache = case.model.forward(case.tokens)
    loss, dlogits = mm.objectives.mixce(logits, case.targets, eta=eta)
    return loss, case.model.backward(dlogits, cache)


# ---- equal to the package ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 7])
def test_init_is_exactly_the_package_s(one_file, shape, seed):
    _, _, H, C, V, block_size, n_layer = shape
    ours = one_file.init(V, block_size, n_layer, H, C, seed)
    package = mm.GPT(
        mm.GPTConfig(V, block_size, n_layer, H, C, dtype="float64"), seed=seed, device="cpu"
    ).params
    assert list(ours) == list(package)
    for name in package:
        assert ours[name].dtype == package[name].dtype
        assert np.array_equal(ours[name], package[name]), name


def test_logits(one_file, case):
    assert_same(
        "logits",
        one_file.forward(case.params, case.tokens, case.H)[0],
        case.model.forward(case.tokens)[0],
    )


@pytest.mark.parametrize("eta", [0, 0.3, 1])
def test_mixce(one_file, case, eta):
    logits = case.model.forward(case.tokens)[0]
    ours, package = (
        one_file.mixce(logits, case.targets, eta),
        mm.objectives.mixce(logits, case.targets, eta=eta),
    )
    assert_same("loss", ours[0], package[0])
    assert_same("dlogits", ours[1], package[1])


@pytest.mark.parametrize("eta", [0, 0.3, 1])
def test_mixce_of_huge_logits(one_file, eta):
    # q = e^−2000, which rounds to 0, and 1
    logits, targets = np.array([[[0.0, 2000.0], [5000.0, 0.0]]]), np.array([[0, 0]])
    loss, dlogits = one_file.mixce(logits, targets, eta)
    assert loss == pytest.approx((eta * 2000 - (1 - eta)) / 2)
    assert np.allclose(dlogits, [[[-eta / 2, eta / 2], [0, 0]]])
    package_loss, package_dlogits = mm.objectives.mixce(logits, targets, eta=eta)
    assert_same("loss", loss, package_loss)
    assert_same("dlogits", dlogits, package_dlogits)


@pytest.mark.parametrize("eta", [0.3, 1])
def test_gradients(one_file, case, eta):
    loss, grads = loss_and_grads(one_file, case.params, case, eta)
    assert list(grads) == list(case.params)
    package_loss, package_grads = package_loss_and_grads(case, eta)
    assert_same("loss", loss, package_loss)
    assert_all_same(grads, package_grads)


def test_three_steps_of_training(one_file, case):
    # The derivative of the key bias is 0, computed as some 1e-18 of rounding that differs between
    # the two; AdamW divides it by itself + eps, so the default eps of 1e-8 would make it visible.
    # All other options are the defaults.
    params, state, lr, eps = case.params, {}, 1e-3, 1e-6
    optimizer = mm.AdamW(case.model.params, lr=1.0, eps=eps)
    for step in range(3):
        loss, grads = loss_and_grads(one_file, params, case, eta=0.5)
        params, state = one_file.adamw(params, grads, state, lr / (1 + step), eps=eps)
        package_loss, package_grads = package_loss_and_grads(case, eta=0.5)
        optimizer.step(package_grads, lr=lr / (1 + step))
        assert_same("loss", loss, package_loss)
    assert_all_same(params, case.model.params)


@pytest.mark.parametrize(
    "options",
    [{}, {"betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.7}],
    ids=["default", "others"],
)
def test_adamw_on_the_same_gradients(one_file, case, options):
    rng = np.random.default_rng(0)
    params, state, optimizer = case.params, {}, mm.AdamW(case.model.params, lr=0.1, **options)
    for _ in range(3):
        grads = {name: rng.standard_normal(p.shape) for name, p in params.items()}
        params, state = one_file.adamw(params, grads, state, 0.1, **options)
        optimizer.step(grads)
    assert_all_same(params, case.model.params)


def test_sample_is_what_the_package_generates(one_file, case):
    # as long as the text fits the window; beyond it the package moves the window in larger strides
    new = case.block_size - 1
    ours = one_file.sample(case.params, [1], new, case.H, seed=3)
    package = case.model.generate(np.array([[1]]), new, stop=0, seed=3)[0].tolist()
    assert package[: len(ours)] == ours
    assert not any(package[len(ours) :])  # filled with the boundary, where the file stops
    assert len(ours) == 1 + new or ours[-1] == 0


def test_sample_beyond_the_window(one_file):
    params = one_file.init(5, 3, 1, 1, 4, seed=0)
    longest = max(
        (one_file.sample(params, [1, 2], 20, 1, seed=seed) for seed in range(10)), key=len
    )
    assert longest[:2] == [1, 2]
    assert 3 < len(longest) <= 22
    assert set(longest) <= set(range(5))


# ---- right by itself -----------------------------------------------------------------------------


def check_gradients(one_file, shape):
    case = Case(one_file, shape, seed=0)
    names = list(case.params)

    def forward(*values):
        params = dict(zip(names, values))
        logits, cache = one_file.forward(params, case.tokens, case.H)
        loss, dlogits = one_file.mixce(logits, case.targets, 0.3)
        return np.asarray(loss), (params, dlogits, cache)

    def backward(dy, cache):
        params, dlogits, cache = cache
        grads = one_file.backward(params, dy * dlogits, cache, case.H)
        return tuple(grads[name] for name in names)

    return mm.gradcheck(forward, backward, list(case.params.values()), names=names)


def test_gradients_numerically(one_file):
    report = check_gradients(one_file, (2, 3, 2, 4, 5, 6, 2))
    assert report.ok, f"\n{report}"


def test_a_broken_backward_is_found():
    broken = load()
    gelu_backward = broken.gelu_backward
    broken.gelu_backward = lambda dy, cache: gelu_backward(dy, cache) * (1 + 1e-5)
    assert not check_gradients(broken, (1, 2, 1, 3, 4, 2, 1)).ok
    case = Case(broken, SHAPES[0], seed=0)
    _, grads = loss_and_grads(broken, case.params, case, eta=0.3)
    with pytest.raises(AssertionError, match="differs by"):
        assert_all_same(grads, package_loss_and_grads(case, eta=0.3)[1])


def check_slope(module):
    case = Case(module, (2, 3, 2, 4, 5, 6, 2), seed=0)
    return module.check_slope(case.params, case.tokens, case.targets, case.H, 0.3, seed=0)


def test_the_file_s_own_check_tells_right_from_wrong(one_file):
    said, found = check_slope(one_file)
    assert said == pytest.approx(found, rel=1e-6)
    broken = load()
    gelu_backward = broken.gelu_backward
    broken.gelu_backward = lambda dy, cache: gelu_backward(dy, cache) * 1.01
    said, found = check_slope(broken)
    assert said != pytest.approx(found, rel=1e-4)


def test_nothing_is_changed_in_place(one_file, case):
    before = {name: p.copy() for name, p in case.params.items()}
    logits, cache = one_file.forward(case.params, case.tokens, case.H)
    kept_logits = logits.copy()
    _, dlogits = one_file.mixce(logits, case.targets, 0.5)
    kept_dlogits = dlogits.copy()
    grads = one_file.backward(case.params, dlogits, cache, case.H)
    again = one_file.backward(case.params, dlogits, cache, case.H)  # the cache can be used again
    state = {}
    one_file.adamw(case.params, grads, state, lr=0.1)
    assert state == {}
    assert np.array_equal(logits, kept_logits)
    assert np.array_equal(dlogits, kept_dlogits)
    assert all(np.array_equal(case.params[name], before[name]) for name in before)
    assert all(np.array_equal(grads[name], again[name]) for name in before)


def test_float32_stays_float32(one_file):
    params = {
        name: p.astype(np.float32) for name, p in one_file.init(5, 4, 2, 2, 6, seed=0).items()
    }
    tokens = np.array([[1, 2, 3], [4, 0, 1]])
    logits, cache = one_file.forward(params, tokens, 2)
    loss, dlogits = one_file.mixce(logits, tokens, 0.5)
    grads = one_file.backward(params, dlogits, cache, 2)
    params, _ = one_file.adamw(params, grads, {}, lr=1e-3)
    assert {x.dtype for x in (logits, loss, dlogits, *grads.values(), *params.values())} == {
        np.dtype("float32")
    }


def test_text_and_batches(one_file):
    tokens, characters = one_file.load_text()
    text = "".join(characters[t] for t in tokens)
    assert characters[0] == "\0"
    assert tokens[0] == 0
    assert text.count("\0") == len(one_file.topics)
    assert text.split("\0")[1:] == list(one_file.topics.values())
    inputs, targets = one_file.random_batch(np.arange(10), 50, 4, np.random.default_rng(0))
    assert inputs.shape == targets.shape == (50, 4)
    assert np.array_equal(targets, inputs + 1)
    assert np.array_equal(inputs, inputs[:, :1] + np.arange(4))
    assert {inputs.min(), targets.max()} == {0, 9}  # the whole text is used


# ---- the file itself -----------------------------------------------------------------------------


def test_size_and_imports():
    source = PATH.read_text(encoding="utf-8")
    lines = source.splitlines()
    assert len(lines) <= 395
    assert max(map(len, lines)) <= 100
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported <= {"numpy"} | sys.stdlib_module_names


def test_import_does_nothing(capfd):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    load()
    assert capfd.readouterr() == ("", "")
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("arguments", [["3"], ["3", "1"]])
def test_script(arguments, tmp_path):
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, PATH, *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    progress, text = done.stdout.split("\nIt writes:\n")
    slopes = re.findall(r"says (-?[\d.]+)", progress)
    assert len(slopes) == 2
    assert float(slopes[0]) == pytest.approx(float(slopes[1]), abs=1e-6)
    losses = [
        float(line.split("−log q ")[1].split()[0])
        for line in progress.splitlines()
        if line.startswith("step")
    ]
    assert len(losses) == 3
    assert losses[-1] < losses[0] < 5  # a uniform guess would be log V = 4.6
    assert len(text) > 10
    assert not list(tmp_path.iterdir())


def test_a_word_for_a_number_is_one_sentence(tmp_path):
    command = [sys.executable, PATH, "many"]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=60, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert "argument steps: invalid int value: 'many'" in done.stderr
    assert "Traceback" not in done.stderr
