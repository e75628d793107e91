"""The command line, as a user runs it: what it prints, what it writes, and one sentence for bad
input.
"""

import gc
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import minimixce as mm
from minimixce import cli, layers, text
from minimixce.experiments.compare import compare
from minimixce.experiments.options import ComparisonOptions

SMALL = (
    "--n-layer 1 --n-embd 16 --n-head 2 --block-size 16 --batch-size 4 --steps 20 --eval-every 10"
    " --warmup 2".split()
)


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    cat = "the cat sat on the mat and the dog sat on the log\n"
    dog = "the dog sat on the mat and the cat sat on the log\n"
    path.write_text((cat + dog) * 20)
    return str(path)


def run(capsys, *argv):
    status = cli.main(list(map(str, argv)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("objective", ["mle", "mixce", "mixce_surrogate", "tailr", "emo"])
def test_train_writes_a_model_that_loads_and_prints_what_it_found(
    capsys, tmp_path, story, objective
):
    out = tmp_path / "run"
    status, printed, _ = run(
        capsys, "train", "--data", story, "--out", out, "--objective", objective, *SMALL
    )
    assert status == 0
    model, tokenizer = mm.GPT.load(out, device="cpu"), text.load_tokenizer(out)
    assert model.config.vocab_size == tokenizer.vocab_size
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [10, 20]
    assert f"{records[-1]['validation_mle']:.3f} nats per character" in printed
    assert f"perplexity {np.exp(records[-1]['validation_mle']):.2f}" in printed
    assert str(out) in printed
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == tokenizer.boundary


def test_train_never_overwrites_unasked(capsys, tmp_path, story):
    out = tmp_path / "run"
    assert run(capsys, "train", "--data", story, "--out", out, *SMALL)[0] == 0
    before = (out / "model.safetensors").read_bytes()
    status, _, error = run(capsys, "train", "--data", story, "--out", out, "--seed", 1, *SMALL)
    assert status == 2
    assert "already holds a run" in error
    assert (out / "model.safetensors").read_bytes() == before
    assert (
        run(capsys, "train", "--data", story, "--out", out, "--seed", 1, "--overwrite", *SMALL)[0]
        == 0
    )
    assert (out / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--data", "no/such/file"], "no/such/file does not exist"),
        (["--eta", "1.5"], "eta must be between 0 and 1, got 1.5"),
        (["--n-embd", "15"], "n_embd must be a multiple of n_head"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(capsys, tmp_path, story, argv, words):
    """Three of the many cases of test_hostile.py, one from each place that may refuse."""
    status, _, error = run(
        capsys, "train", "--data", story, "--out", tmp_path / "run", *SMALL, *argv
    )
    assert status == 2
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_gradcheck_passes_and_writes_its_table(capsys, tmp_path):
    status, printed, _ = run(
        capsys, "gradcheck", "--device", "cpu", "--out", tmp_path / "table.jsonl"
    )
    assert status == 0
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert all(row["ok"] for row in rows)
    assert {"h.1.mlp.c_proj.weight", "wte.weight"} <= {row["name"] for row in rows}
    assert f"all {len(rows)} tensors OK" in printed


def test_gradcheck_exits_1_and_names_the_tensor_when_a_backward_is_wrong(capsys, monkeypatch):
    right = layers.gelu_backward
    monkeypatch.setattr(layers, "gelu_backward", lambda dy, cache: 1.001 * right(dy, cache))
    status, printed, _ = run(capsys, "gradcheck", "--device", "cpu")
    assert status == 1
    assert "WRONG: at [" in printed
    assert re.search(r"\b[1-9]\d* of 60 tensors not OK", printed)


@pytest.fixture
def my_layer(tmp_path):
    path = tmp_path / "my_layer.py"
    path.write_text(
        "import numpy as np\n"
        "def forward(x, weight):\n"
        "    return np.tanh(x @ weight), (x, weight)\n"
        "def backward(dy, cache):\n"
        "    x, weight = cache\n"
        "    dz = dy * (1 - np.tanh(x @ weight) ** 2)\n"
        "    return dz @ weight.T, x.T @ dz\n"
        "def halved(dy, cache):\n"
        "    dx, dweight = backward(dy, cache)\n"
        "    return dx, dweight / 2\n"
        "def inputs():\n"
        "    rng = np.random.default_rng(0)\n"
        "    return rng.standard_normal((2, 3)), rng.standard_normal((3, 4))\n"
    )
    return path


@pytest.mark.parametrize("shapes", [[], ["--shapes", "2,3", "3,5"]])
def test_gradcheck_of_a_pair_in_a_file(capsys, tmp_path, my_layer, shapes):
    out = tmp_path / "table.jsonl"
    pair = f"{my_layer}:forward,backward"
    status, printed, _ = run(capsys, "gradcheck", pair, *shapes, "--out", out)
    assert status == 0
    assert [line.split()[-1] for line in printed.splitlines()[1:]] == ["OK", "OK"]
    assert [json.loads(line)["name"] for line in out.read_text().splitlines()] == ["x", "weight"]
    status, printed, _ = run(capsys, "gradcheck", f"{my_layer}:forward,halved", *shapes)
    assert status == 1
    assert "weight: everywhere 0.5 times the right one: 1/2, a mean over an axis of 2" in printed


@pytest.mark.parametrize(
    ("pair", "options", "words"),
    [
        ("{}:forward", [], "the pair must be FILE.py:FORWARD,BACKWARD"),
        ("{}:forward,other", [], "defines no function 'other'"),
        ("{}:forward,backward", ["--shapes", "2,3"], "shapes must be 2, one for each parameter of"),
        ("{}:forward,backward", ["--shapes", "2,x", "3"], "a shape must be sizes with commas"),
        ("{}x:forward,backward", [], "the pair must be FILE.py"),
        ("no.py:forward,backward", [], "no.py does not exist"),
    ],
)
def test_gradcheck_of_what_is_no_pair_is_one_sentence(capsys, my_layer, pair, options, words):
    status, _, error = run(capsys, "gradcheck", pair.format(my_layer), *options)
    assert status == 2
    assert words in error
    assert error.count("\n") == 1


def test_module_and_help():
    def python(*argv):
        return subprocess.run(
            [sys.executable, "-m", "minimixce", *argv], capture_output=True, text=True
        )

    assert python("--version").stdout.splitlines()[0] == f"minimixce {mm.__version__}"
    for command in ("train", "gradcheck"):
        done = python(command, "--help")
        assert done.returncode == 0
        assert "default:" in done.stdout


def test_resume_takes_the_options_of_the_run_and_refuses_others(capsys, tmp_path, story):
    out = tmp_path / "run"
    assert run(capsys, "train", "--data", story, "--out", out, *SMALL)[0] == 0
    status, _, error = run(capsys, "train", "--out", out, "--resume", "--steps", 30)
    assert status == 2
    assert "--steps 20, not 30; add --change" in error
    assert run(capsys, "train", "--out", out, "--resume", "--eval-every", 5)[0] == 0
    assert run(capsys, "train", "--out", out, "--resume", "--steps", 30, "--change")[0] == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [10, 20, 25, 30]
    with open(story, "a") as file:
        file.write("more")
    status, _, error = run(capsys, "train", "--out", out, "--resume")
    assert status == 2
    assert "training text is not the one" in error


def test_an_objective_of_your_own_is_gradient_checked_first(capsys, tmp_path, story):
    module = tmp_path / "mine.py"
    module.write_text(
        "import minimixce as mm\n"
        "def right(logits, targets, normalizer=None):\n"
        "    return mm.objectives.mixce(logits, targets, eta=0.7, normalizer=normalizer)\n"
        "def wrong(logits, targets):\n"
        "    return mm.objectives.mixce_surrogate(logits, targets, eta=0.7)\n"
    )
    train = ["train", "--data", story, *SMALL, "--out"]
    assert run(capsys, *train, tmp_path / "a", "--objective", f"{module}:right")[0] == 0
    status, _, error = run(capsys, *train, tmp_path / "b", "--objective", f"{module}:wrong")
    assert status == 2
    first, *table = error.splitlines()
    assert first.startswith(
        "minimixce train: the dlogits of wrong are not the derivative of its loss"
    )
    assert len(table) == 2
    assert "WRONG: at [" in table[1]
    assert not (tmp_path / "b").exists()
    assert (
        run(capsys, *train, tmp_path / "b", "--objective", f"{module}:wrong", "--unchecked")[0] == 0
    )
    assert run(capsys, *train, tmp_path / "c", "--objective", "mixce", "--eta", "0.7")[0] == 0
    models = [mm.GPT.load(tmp_path / name, device="cpu").params["wte.weight"] for name in "ac"]
    assert np.array_equal(*models)


@pytest.mark.parametrize("tokenizer", ["character", "byte"])
def test_sample_and_eval_of_a_run(capsys, tmp_path, story, tokenizer):
    out = tmp_path / "run"
    assert (
        run(capsys, "train", "--data", story, "--tokenizer", tokenizer, "--out", out, *SMALL)[0]
        == 0
    )
    sample = ["sample", out, "--prompt", "the ", "--tokens", 30, "--device", "cpu"]
    to_file = ["--out", tmp_path / "samples.jsonl"]
    status, printed, _ = run(capsys, *sample, "--count", 2, *to_file)
    assert run(capsys, *sample, *to_file)[0] == 2  # never overwritten unasked
    assert status == 0
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert (
        printed == "\n".join(f"the {r['text']}\n" for r in records)
        or "\N{REPLACEMENT CHARACTER}" in printed
    )
    assert len(records) == 2
    greedy = run(capsys, *sample, "--temperature", 0)[1]
    assert greedy == run(capsys, *sample, "--top-k", 1, "--seed", 5)[1]
    if tokenizer == "byte":
        assert run(capsys, *sample, "--prompt", "Ω")[0] == 0

    status, printed, _ = run(
        capsys,
        "eval",
        out,
        "--device",
        "cpu",
        "--samples",
        3,
        "--tokens",
        40,
        "--out",
        tmp_path / "eval.json",
    )
    assert status == 0
    found = json.loads((tmp_path / "eval.json").read_text())
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["mle"] == pytest.approx(last["validation_mle"], rel=1e-5)
    assert found["model"]["perplexity"] == pytest.approx(np.exp(found["mle"]), rel=1e-5)
    assert found["text"]["word_validity"] == 1.0
    assert run(capsys, "eval", out, "--device", "cpu", "--data", story, "--samples", 0)[0] == 0


def test_compare_writes_table_and_figure(capsys, tmp_path, story):
    pytest.importorskip("matplotlib")
    small = [*SMALL, "--seeds", "0,1", "--samples", 4, "--tokens", 40, "--quiet"]
    status, printed, _ = run(
        capsys,
        "compare",
        "--data",
        story,
        "--out",
        tmp_path / "c",
        "--objectives",
        "mle,mixce:0.2",
        *small,
    )
    assert status == 0
    result = json.loads((tmp_path / "c" / "table.json").read_text())
    assert set(result["rows"]) == {"mle", "mixce η=0.2"}
    matched = result["controls"]["mle, entropy of mixce η=0.2"]
    for row, control in zip(result["rows"]["mixce η=0.2"], matched):
        assert control["temperature"] == 1.0 or control["entropy"] == pytest.approx(
            row["entropy"], abs=2e-3
        )
    assert (tmp_path / "c" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (
        (tmp_path / "c" / "table.csv").read_text().startswith("model,seed,temperature,perplexity")
    )
    assert "held-out text" in printed
    assert mm.GPT.load(tmp_path / "c" / "mle_seed1", device="cpu").config.n_embd == 16


def test_a_comparison_has_no_models_waiting_and_trains_each_as_train_does(capsys, tmp_path, story):
    """EMO's costs are of the weights that are trained, which are made when their turn comes."""
    pytest.importorskip("matplotlib")

    def models():
        gc.collect()
        return sum(isinstance(each, mm.GPT) for each in gc.get_objects())

    before, during = models(), []
    options = ComparisonOptions(
        data=[str(story)],
        objectives="mle,emo",
        seeds="0,1",
        samples=2,
        tokens=10,
        n_layer=1,
        n_embd=16,
        n_head=2,
        block_size=16,
        batch_size=4,
        steps=6,
        eval_every=3,
        warmup=2,
    )
    compare(options, tmp_path / "c", say=lambda line: during.append(models()))
    assert during == [before] * 4  # before each run
    alone = [*SMALL, "--steps", 6, "--eval-every", 3, "--seed", 1, "--quiet"]
    run(capsys, "train", "--data", story, "--objective", "emo", "--out", tmp_path / "t", *alone)
    one, other = (mm.GPT.load(tmp_path / name, "cpu") for name in ("t", "c/emo_seed1"))
    for name, values in one.params.items():
        np.testing.assert_array_equal(values, other.params[name])


def test_quiet_prints_nothing_and_eval_of_a_comparisons_run_uses_the_held_out_text(
    capsys, tmp_path, story
):
    pytest.importorskip("matplotlib")
    status, printed, _ = run(
        capsys, "train", "--data", story, "--out", tmp_path / "run", "--quiet", *SMALL
    )
    assert (status, printed) == (0, "")
    options = [*SMALL, "--seeds", "3", "--samples", 3, "--tokens", 40, "--quiet"]
    compare = [
        "compare",
        "--data",
        story,
        "--out",
        tmp_path / "c",
        "--objectives",
        "tailr:0.2",
        *options,
    ]
    assert run(capsys, *compare)[0] == 0
    assert (
        run(
            capsys,
            "eval",
            tmp_path / "c" / "tailr_gamma0.2_seed3",
            "--samples",
            0,
            "--out",
            tmp_path / "e.json",
        )[0]
        == 0
    )
    row = json.loads((tmp_path / "c" / "table.json").read_text())["rows"]["tailr γ=0.2"][0]
    assert json.loads((tmp_path / "e.json").read_text())["mle"] == pytest.approx(
        np.log(row["perplexity"]), rel=1e-5
    )
    before = (tmp_path / "c" / "tailr_gamma0.2_seed3" / "model.safetensors").stat().st_mtime_ns
    assert run(capsys, *compare)[0] == 2
    assert run(capsys, *compare, "--resume")[0] == 0
    assert (
        tmp_path / "c" / "tailr_gamma0.2_seed3" / "model.safetensors"
    ).stat().st_mtime_ns == before
    status, _, error = run(capsys, *compare, "--resume", "--lr", 0.5)
    assert (status, "--lr" in error) == (2, True)


def test_eval_and_resume_from_another_folder(capsys, tmp_path, story, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "train", "--data", "story.txt", "--lines", "--out", "run", *SMALL)[0] == 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, printed, _ = run(capsys, "eval", "../run", "--samples", 0)
    assert status == 0
    assert f"{last['validation_mle']:.4f}" in printed
    assert run(capsys, "train", "--out", "../run", "--resume", "--steps", 25, "--change")[0] == 0
    for option in (["--n-embd", 8], ["--steps", 5]):
        status, _, error = run(capsys, "train", "--out", "../run", "--resume", "--change", *option)
        assert status == 2
        assert option[0].strip("-") in error
    assert run(capsys, "train", "--out", "../run", "--resume")[0] == 0
    (tmp_path / "story.txt").write_text(
        "a different text altogether, of the same length or so\n" * 40
    )
    assert run(capsys, "eval", "../run", "--samples", 0)[0] == 2


def test_a_new_objective_starts_a_new_count_of_the_best(tmp_path):
    from minimixce.training import loop

    tokens = np.tile(np.arange(5), 40)
    options = {
        "validation": text.consecutive_batches(tokens, 8, 8),
        "eval_every": 5,
        "progress": False,
        "folder": tmp_path,
    }

    def fit(objective, steps, resume):
        model = mm.GPT(mm.GPTConfig(5, 8, 1, 2, 8), device="cpu")
        loop.fit(
            model,
            text.random_batches(tokens, 4, 8),
            objective,
            steps=steps,
            resume=resume,
            lr=1e-2,
            **options,
        )
        return model

    # losses below zero
    fit(lambda logits, targets: mm.objectives.mixce(logits, targets, eta=0), 10, False)
    model = fit(mm.objectives.mle, 30, True)
    assert np.array_equal(
        mm.GPT.load(tmp_path, device="cpu").params["wte.weight"], model.params["wte.weight"]
    )
    with pytest.raises(FileExistsError):
        fit(mm.objectives.mle, 5, False)


@pytest.mark.slow
def test_a_comparison_grows_by_seeds_objectives_and_samples(capsys, tmp_path, story):
    pytest.importorskip("matplotlib")
    compare = [
        "compare",
        "--data",
        story,
        "--out",
        tmp_path / "c",
        *SMALL,
        "--tokens",
        40,
        "--quiet",
    ]
    assert run(capsys, *compare, "--objectives", "mle", "--seeds", "0", "--samples", 2)[0] == 0
    model = tmp_path / "c" / "mle_seed0" / "model.safetensors"
    before = model.stat().st_mtime_ns
    assert (
        run(
            capsys,
            *compare,
            "--resume",
            "--objectives",
            "mle,mixce:0.1",
            "--seeds",
            "0,1",
            "--samples",
            3,
        )[0]
        == 0
    )
    assert model.stat().st_mtime_ns == before
    assert set(json.loads((tmp_path / "c" / "table.json").read_text())["rows"]) == {
        "mle",
        "mixce η=0.1",
    }


def test_a_run_on_mapped_files_is_the_run_on_the_text_and_measures_other_text_by_lines_too(
    capsys, tmp_path, story
):
    assert (
        run(capsys, "prepare", "--data", story, "--lines", "--out", tmp_path / "prepared")[0] == 0
    )
    for name, data in (("mapped", [tmp_path / "prepared"]), ("read", [story, "--lines"])):
        assert run(capsys, "train", "--data", *data, "--out", tmp_path / name, *SMALL)[0] == 0
    models = [
        mm.GPT.load(tmp_path / name, device="cpu").params["wte.weight"]
        for name in ("mapped", "read")
    ]
    assert np.array_equal(*models)
    found = []
    for name in ("mapped", "read"):
        out = tmp_path / f"{name}.json"
        assert (
            run(
                capsys,
                "eval",
                tmp_path / name,
                "--data",
                story,
                "--samples",
                0,
                "--eval-tokens",
                90,
                "--out",
                out,
            )[0]
            == 0
        )
        found.append(json.loads(out.read_text()))
    assert found[0] == found[1]
    assert found[0]["targets"] == 50  # one whole line of 49 characters and its boundary


def test_an_objective_may_return_a_float(capsys, tmp_path, story):
    module = tmp_path / "mine.py"
    module.write_text(
        "import minimixce as mm\n"
        "def objective(logits, targets):\n"
        "    loss, dlogits = mm.objectives.mle(logits, targets)\n"
        "    return float(loss), dlogits\n"
    )
    assert (
        run(
            capsys,
            "train",
            "--data",
            story,
            "--out",
            tmp_path / "a",
            "--objective",
            f"{module}:objective",
            *SMALL,
        )[0]
        == 0
    )


def test_a_file_that_a_folder_names_is_run_only_where_the_call_names_it(capsys, tmp_path, story):
    """run.json may come from somebody else, and name any file."""
    mark, file = tmp_path / "mark", tmp_path / "mine.py"
    file.write_text(
        f"open({str(mark)!r}, 'a').write('x')\nfrom minimixce.objectives import mle as mine\n"
    )
    small = ["--n-embd", 8, "--n-layer", 1, "--block-size", 8, "--batch-size", 2, "--warmup", 1]
    train = ["train", "--out", tmp_path / "r", "--quiet"]
    objective = ["--objective", f"{file}:mine"]
    started = [*train, "--data", story, "--steps", 2, "--eval-every", 2, *small, *objective]
    assert run(capsys, *started)[0] == 0
    times = len(mark.read_text())
    assert times > 0
    for how in (["--steps", 4], ["--steps", 4, "--change", "--lr", 0.1]):
        status, _, error = run(capsys, *train, "--resume", *how)
        assert status == 2
        assert f"add --objective {file}:mine" in error
    assert len(mark.read_text()) == times
    how = ["--resume", "--steps", 4, "--change", *objective]
    assert run(capsys, *train, *how)[0] == 0
    assert len(mark.read_text()) > times


def test_closed_output_is_no_error(tmp_path):
    command = f"{sys.executable} -m minimixce gradcheck --device cpu --help >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        f"{sys.executable} -m minimixce sample {tmp_path} >&-",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("minimixce sample: ")
    assert done.stderr.count("\n") == 1
