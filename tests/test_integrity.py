"""A run's folder notices what has changed in it, says so in one sentence, and stays small."""

import json
import math
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import forget_checksums
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce import text
from minimixce.cli import main
from minimixce.storage import checkpoint, tensors
from minimixce.storage.journal import Journal
from minimixce.training import run

SMALL = "--n-embd 8 --n-layer 1 --n-head 1 --block-size 8 --batch-size 2 --warmup 1 --quiet"
BESIDE = (checkpoint.CONFIG_FILE, checkpoint.GENERATION_FILE, *checkpoint.TOKENIZER_FILES)
WEIGHTS = checkpoint.WEIGHTS_FILE
LAST = [f"last/{name}" for name in (WEIGHTS, *BESIDE[:2])]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs whose models have the same sizes and other tokenizers."""
    folder = tmp_path_factory.mktemp("runs")
    for name, letters in (("one", "abcd"), ("other", "wxyz")):
        (folder / f"{name}.txt").write_text(f"{letters} {letters[::-1]}\n" * 60)
        words = f"train --data {folder}/{name}.txt --out {folder}/{name} --steps 2 {SMALL}"
        assert main(f"{words} --dropout {0.1 if name == 'one' else 0.2} --device cpu".split()) == 0
    return folder


@pytest.fixture
def folder(runs, tmp_path):
    return shutil.copytree(runs / "one", tmp_path / "run")


def open_all(folder):
    """Open everything of a run that has a checksum."""
    run.open_folder(folder, device="cpu")
    mm.GPT.load(folder / "last", device="cpu")


def assert_refused(folder, path, error=ValueError):
    """Opening says in one sentence which file has changed."""
    with pytest.raises(error) as found:
        open_all(folder)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


def flip(path, place, mask):
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(data)


# ---- changed bytes -------------------------------------------------------------------------------


def test_the_names_of_a_tokenizers_files_are_the_same_everywhere(tmp_path):
    text.save_tokenizer(text.CharTokenizer("ab"), tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(checkpoint.TOKENIZER_FILES)


def test_a_byte_flipped_anywhere_is_refused_by_the_files_name(runs, tmp_path):
    folder = shutil.copytree(runs / "one", tmp_path / "run")
    open_all(folder)

    @settings(derandomize=True, deadline=None, database=None, max_examples=40)
    @given(
        st.sampled_from([WEIGHTS, *BESIDE, *LAST]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 255),
    )
    def check(name, share, mask):
        path = folder / name
        whole = path.read_bytes()
        flip(path, int(share * len(whole)), mask)
        assert_refused(folder, path)
        path.write_bytes(whole)

    check()
    open_all(folder)


@pytest.mark.slow
def test_every_byte_of_every_header_and_small_file_is_looked_at(folder):
    for name in (WEIGHTS, *BESIDE):
        path = folder / name
        whole = path.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little") + 4
        for place in range(min(len(whole), header if name == WEIGHTS else len(whole))):
            flip(path, place, 1 << place % 8)
            with pytest.raises(ValueError, match=name):
                checkpoint.check_model(folder)
            path.write_bytes(whole)
    open_all(folder)


@pytest.mark.parametrize("name", [WEIGHTS, *BESIDE])
def test_a_file_of_another_run_is_noticed(runs, folder, name):
    before, other = (folder / name).read_bytes(), (runs / "other" / name).read_bytes()
    (folder / name).write_bytes(other)
    if before == other:  # of the same sizes
        open_all(folder)
    elif name == WEIGHTS:
        assert_refused(folder, folder / "config.json")
    else:
        assert_refused(folder, folder / name)


def test_weights_of_another_run_with_the_same_config_are_noticed_by_the_tokenizer(runs, folder):
    for name in (WEIGHTS, "config.json"):
        shutil.copy(runs / "other" / name, folder / name)
    mm.GPT.load(folder, device="cpu")  # they are a whole model
    assert_refused(folder, folder / "tokenizer.json")


@pytest.mark.parametrize("name", [*BESIDE[:2], *LAST, "minimixce_tokenizer.json", WEIGHTS])
def test_a_run_with_a_changed_file_does_not_go_on(folder, name, capsys):
    flip(folder / name, -3, 4)
    assert main(["train", "--out", str(folder), "--resume", "--steps", "4", "--change"]) == 2
    error = capsys.readouterr().err
    assert str(folder / name) in error
    assert error.count("\n") == 1


def test_folders_without_checksums_open(folder):
    forget_checksums(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"of": "somebody"}))
    (folder / "tokenizer.json").unlink()
    run.open_folder(folder, device="cpu")
    mm.GPT.load(folder, device="cpu").save(folder, overwrite=True)  # has them again
    flip(folder / WEIGHTS, -1, 1)
    assert_refused(folder, folder / WEIGHTS)


@pytest.mark.parity
def test_a_run_that_transformers_saved_again_opens(folder):
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    model.config.resid_pdrop = model.config.attn_pdrop = model.config.embd_pdrop = 0.0
    model.save_pretrained(folder)
    loaded, _ = run.open_folder(folder, device="cpu")
    assert loaded.config.dropout == 0.0


def test_equal_models_are_equal_files(tmp_path):
    """The library's own writer puts metadata in an order of chance."""
    for k in range(5):
        mm.GPT(mm.GPTConfig(5, 4, 1, 1, 4), device="cpu").save(tmp_path / str(k))
    assert len({(tmp_path / str(k) / WEIGHTS).read_bytes() for k in range(5)}) == 1


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.lists(st.integers(0, 3), max_size=3),
            st.sampled_from(["f8", "f4", "f2", "i8", "i4", "u1", "?", ">f4"]),
        ),
        max_size=5,
    )
)
def test_tensors_are_what_the_library_reads(tmp_path_factory, made):
    from safetensors.numpy import load

    path = tmp_path_factory.getbasetemp() / "tensors"
    rng = np.random.default_rng(0)
    made = {name: rng.integers(0, 2, shape).astype(dtype) for name, (shape, dtype) in made.items()}
    tensors.write(path, made, {tensors.key("files"): "{}"})
    for found in (load(path.read_bytes()), tensors.read(path)[0]):
        assert found.keys() == made.keys()
        for name, array in made.items():
            assert found[name].dtype == array.dtype.newbyteorder("<")
            np.testing.assert_array_equal(found[name], array)


# ---- a state with a right checksum ---------------------------------------------------------------

BATCH = (np.array([[1, 2, 3]]), np.array([[2, 3, 4]]))


def fit(folder, steps, resume=False, objective=None):
    model = mm.GPT(mm.GPTConfig(5, 4, 1, 1, 4), device="cpu")
    options = {"folder": folder, "resume": resume, "eval_every": 1, "progress": False}
    return mm.fit(model, [BATCH] * steps, objective, **options)


def load(folder):
    """What fit does first where it goes on."""
    model = mm.GPT(mm.GPTConfig(5, 4, 1, 1, 4), device="cpu")
    run.Run(model, mm.AdamW(model.params, 1e-3), "mixce", folder, None).load()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "run"
    fit(folder, 2)
    return folder


HUGE = 10**299
ODD = {
    "step": [-1, HUGE, 1.0, None, "2", True, [], math.nan],
    "best": [math.nan, -math.inf, "x", None, [1], HUGE * HUGE],
    "worse": [-1, 0.5, None, HUGE],
    "grad_norm": [math.nan, math.inf, "x", [], False],
    "lr": [math.nan, math.inf, "x", {}],
    "objective": [None, 3, ["mixce"]],
    "metrics": [None, [], {}, {"size": 1}, {"size": -1, "lines": 1, "crc": 1}, "x"],
}


@pytest.mark.parametrize("name", ODD)
def test_a_state_of_other_content_is_one_sentence(saved, tmp_path, name):
    folder = shutil.copytree(saved, tmp_path / "run")
    arrays, whole = checkpoint.load_state(folder / run.STATE_FILE)
    without = {key: value for key, value in whole.items() if key != name}
    for info in (without, *(whole | {name: value} for value in ODD[name])):
        checkpoint.save_state(folder / run.STATE_FILE, arrays, info)
        with pytest.raises(ValueError, match=f"resume.safetensors is damaged: .*{name}") as error:
            load(folder)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 200 + len(str(folder))


@pytest.mark.parametrize("info", [[], 5, None, "x", [[[]]]])
def test_a_state_that_describes_nothing_is_one_sentence(saved, tmp_path, info):
    folder = shutil.copytree(saved, tmp_path / "run")
    arrays, _ = checkpoint.load_state(folder / run.STATE_FILE)
    checkpoint.save_state(folder / run.STATE_FILE, arrays, info)
    with pytest.raises(ValueError, match=r"resume\.safetensors is damaged: its description"):
        load(folder)


def as_dtype(dtype):
    return lambda array: array.astype(dtype)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("params.wte.weight", as_dtype("float64"), "is float64, but the run has float32"),
        ("mean.wte.weight", as_dtype("int32"), "is int32, but the run has float32"),
        ("square.wte.weight", as_dtype(bool), "is bool, but the run has float32"),
        ("params.wte.weight", lambda array: array[:2], "has shape"),
        ("losses", lambda array: np.array([math.nan]), "must be a row of finite numbers"),
        ("losses", lambda array: np.ones((2, 2)), "must be a row of finite numbers"),
        ("losses", lambda array: np.ones(2, "float32"), "is float32, but the run has float64"),
        ("losses", None, "lacks the weights losses"),
        ("mean.wte.weight", None, "lacks the weights mean.wte.weight"),
    ],
)
def test_a_state_of_other_arrays_is_one_sentence(saved, tmp_path, name, change, words):
    folder = shutil.copytree(saved, tmp_path / "run")
    arrays, info = checkpoint.load_state(folder / run.STATE_FILE)
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    checkpoint.save_state(folder / run.STATE_FILE, arrays, info)
    with pytest.raises(ValueError, match=words) as error:
        load(folder)
    assert run.STATE_FILE in str(error.value)
    assert "\n" not in str(error.value)


def test_a_state_of_an_earlier_version_says_so(saved, tmp_path):
    from safetensors.numpy import save_file

    folder = shutil.copytree(saved, tmp_path / "run")
    metadata = {"info": '{"step": 1}', "checksum": "01234567"}
    save_file({"params.x": np.zeros(1)}, folder / run.STATE_FILE, metadata=metadata)
    with pytest.raises(ValueError, match="is of an earlier version"):
        load(folder)


# ---- measurements --------------------------------------------------------------------------------


def without_speed(measurements):
    return [{k: v for k, v in m.items() if k != "tokens_per_second"} for m in measurements]


def lines_of(folder):
    return [json.loads(line) for line in (folder / run.METRICS_FILE).read_text().splitlines()]


def test_a_measurement_is_one_line_more_in_the_same_file(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "run")
    metrics = folder / run.METRICS_FILE
    before, place = metrics.read_bytes(), os.stat(metrics).st_ino
    found = fit(folder, 4, resume=True)
    assert os.stat(metrics).st_ino == place
    assert metrics.read_bytes().startswith(before)
    assert lines_of(folder) == found
    assert without_speed(found) == without_speed(fit(tmp_path / "whole", 4))


def test_the_state_does_not_grow_with_the_measurements(tmp_path):
    model = mm.GPT(mm.GPTConfig(5, 4, 1, 1, 4), device="cpu")
    of_model = run.Run(model, mm.AdamW(model.params, 1e-3), "mle", tmp_path / "run", None)
    of_model.start(None)
    sizes = []
    for count in (10, 5_000):
        of_model.measurements = [{"step": k, "loss": 0.5} for k in range(1, count + 1)]
        of_model.step = count
        of_model.save()
        sizes.append((tmp_path / "run" / run.STATE_FILE).stat().st_size)
    assert sizes[1] < sizes[0] + 100


def test_losses_since_the_last_measurement_are_not_in_the_header(tmp_path):
    model = mm.GPT(mm.GPTConfig(5, 4, 1, 1, 4), device="cpu")
    stopped = run.Run(model, mm.AdamW(model.params, 1e-3), "mle", tmp_path / "run", None)
    stopped.start(None)
    stopped.step = 100_000
    stopped.losses = [float(x) for x in np.random.default_rng(0).random(100_000)]
    stopped.save()
    with open(tmp_path / "run" / run.STATE_FILE, "rb") as file:
        assert int.from_bytes(file.read(8), "little") < 10_000
    again = run.Run(model, mm.AdamW(model.params, 1e-3), "mle", tmp_path / "run", None)
    again.load()
    assert again.losses == stopped.losses


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda data: None, FileNotFoundError, "does not exist"),
        (lambda data: data[:-1], ValueError, "is cut short: it held 2 lines"),
        (lambda data: b"", ValueError, "is cut short"),
        (lambda data: data.replace(b'"step": 1', b'"step": 2'), ValueError, "is damaged"),
        (lambda data: b"\xff" + data[1:], ValueError, "is damaged"),
    ],
)
def test_measurements_that_are_not_the_states_are_one_sentence(
    saved, tmp_path, change, error, words
):
    folder = shutil.copytree(saved, tmp_path / "run")
    metrics = folder / run.METRICS_FILE
    content = change(metrics.read_bytes())
    metrics.unlink() if content is None else metrics.write_bytes(content)
    with pytest.raises(error, match=rf"metrics\.jsonl {words}"):
        load(folder)


@pytest.mark.parametrize(
    "record",
    [[], 5, None, {}, {"step": 0}, {"step": 9}, {"step": 1.0}, {"step": 1, "loss": "x"}, "{"],
)
def test_lines_with_a_right_checksum_that_measure_nothing_are_one_sentence(saved, tmp_path, record):
    folder = shutil.copytree(saved, tmp_path / "run")
    metrics = folder / run.METRICS_FILE
    line = "{" if record == "{" else json.dumps(record)
    metrics.write_text(f"{line}\n")
    arrays, info = checkpoint.load_state(folder / run.STATE_FILE)
    content = f"{line}\n".encode()
    info["metrics"] = vars(Journal(len(content), 1, zlib.crc32(content)))
    checkpoint.save_state(folder / run.STATE_FILE, arrays, info)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1, is ") as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rest", ['{"step": 3, "loss": 1.0}\n', '{"step": 3, "lo'])
def test_what_a_killed_process_had_measured_past_its_state_is_taken_back(saved, tmp_path, rest):
    folder = shutil.copytree(saved, tmp_path / "run")
    with open(folder / run.METRICS_FILE, "a") as file:
        file.write(rest)
    for steps in (3, 4):
        found = fit(folder, steps, resume=True)
        assert lines_of(folder) == found
        assert [m["step"] for m in found] == list(range(1, steps + 1))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_nothing_is_appended_through_a_link(saved, tmp_path, link):
    folder = shutil.copytree(saved, tmp_path / "run")
    theirs = tmp_path / "theirs"
    os.replace(folder / run.METRICS_FILE, theirs)
    link(theirs, folder / run.METRICS_FILE)
    before = theirs.read_bytes()
    found = fit(folder, 4, resume=True)
    assert theirs.read_bytes() == before
    assert lines_of(folder) == found


def test_measurements_that_vanish_in_the_middle_are_written_again(tmp_path):
    seen = []

    def objective(logits, targets):
        seen.append(0)
        if len(seen) == 3:
            (tmp_path / "run" / run.METRICS_FILE).unlink()
        return mm.objectives.mle(logits, targets)

    found = fit(tmp_path / "run", 4, objective=objective)
    assert lines_of(tmp_path / "run") == found
    assert len(found) == 4


# ---- the folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [shutil.rmtree, lambda folder: folder.rename(f"{folder}-moved")])
def test_a_folder_that_vanishes_ends_the_run_in_one_sentence(tmp_path, how):
    seen = []

    def objective(logits, targets):
        seen.append(0)
        if len(seen) == 3:
            how(tmp_path / "run")
        return mm.objectives.mle(logits, targets)

    with pytest.raises(FileNotFoundError, match="no longer holds the run; it was removed") as error:
        fit(tmp_path / "run", 4, objective=objective)
    assert str(tmp_path / "run") in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_that_the_folder_vanished(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("the cat sat on the mat\n" * 40)
    Path("mine.py").write_text(
        "import shutil\nimport minimixce as mm\nseen = []\ndef f(logits, targets):\n"
        "    seen.append(0)\n    if len(seen) > 4: shutil.rmtree('run', ignore_errors=True)\n"
        "    return mm.objectives.mle(logits, targets)\n"
    )
    words = f"train --data story.txt --objective mine.py:f --unchecked --steps 6 {SMALL}"
    assert main(f"{words} --eval-every 2 --device cpu --out run".split()) == 2
    error = capsys.readouterr().err
    assert "run no longer holds the run" in error
    assert error.count("\n") == 1
    assert not Path("run").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_that_cannot_be_written_to_is_read_but_does_not_go_on(runs, tmp_path):
    # root may write anywhere unless it gives that up
    plain = []
    if os.getuid() == 0:
        plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if not shutil.which("setpriv"):
            pytest.skip("root may write anywhere")
    folder = shutil.copytree(runs / "one", tmp_path / "run")
    places = [folder, *folder.rglob("*")]
    before = {path: path.stat().st_mode for path in places}

    def command(words):
        line = [*plain, sys.executable, "-m", "minimixce", *words.split(), "--device", "cpu"]
        return subprocess.run(line, capture_output=True, text=True)

    try:
        for path in places:
            path.chmod(0o555 if path.is_dir() else 0o444)
        for words in (f"sample {folder} --tokens 5", f"eval {folder} --samples 1 --tokens 5"):
            done = command(words)
            assert done.returncode == 0, done.stderr
        done = command(f"train --out {folder} --resume --steps 4 --change")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"{folder} is read-only, so that its run cannot go on there" in done.stderr
    finally:
        for path, mode in before.items():
            path.chmod(mode)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no names of open files")
def test_what_is_put_into_a_folder_is_synced_before_and_the_folder_after(tmp_path, monkeypatch):
    events = []

    def told(function, *kinds):
        def call(*args, **options):
            done = function(*args, **options)
            if kinds == ("sync",):
                events.append(("sync", os.readlink(f"/proc/self/fd/{args[0]}")))
            else:
                events.append((*kinds, *map(str, args[:2])))
            return done

        return call

    monkeypatch.setattr(os, "fsync", told(os.fsync, "sync"))
    monkeypatch.setattr(os, "replace", told(os.replace, "replace"))
    monkeypatch.setattr(os, "mkdir", told(os.mkdir, "make"))
    fit(tmp_path / "new" / "run", 2)
    puts = [(k, event) for k, event in enumerate(events) if event[0] != "sync"]
    for k, (kind, *paths) in puts:
        parent = str(Path(paths[-1] if kind == "replace" else paths[0]).parent)
        assert ("sync", parent) in events[k:], paths
        if kind == "replace":
            place = paths[0]
            renamed = [event for event in events[:k] if event[0] == "replace"]
            # written under another name first
            names = {place} | {source for _, source, target in renamed if target == place}
            assert any(("sync", name) in events[:k] for name in names), paths
    listed = next(k for k, event in puts if event[-1].endswith("/.pending.json"))
    made = next(k for k, event in puts if Path(event[1]).name.startswith(".new-"))
    assert ("sync", str(tmp_path / "new" / "run")) in events[made:listed]
    assert sum(kind == "make" for _, (kind, *_) in puts) >= 4
    assert sum(kind == "replace" for _, (kind, *_) in puts) > 15


SAVE = """
import minimixce as mm
model = mm.GPT(mm.GPTConfig(5, 4, 1, 1, 4, dropout=0.5), seed=1, device="cpu")
model.save(sys.argv[2], overwrite=True, boundary=1)
"""


@pytest.mark.slow
def test_a_model_saved_over_another_and_killed_at_any_operation_opens(tmp_path):
    from test_install import killed_at

    old = mm.GPT(mm.GPTConfig(5, 4, 1, 1, 4), device="cpu")
    number, reached, dropouts = 1, True, []
    while reached:
        folder = tmp_path / str(number)
        old.save(folder)
        reached = killed_at(number, SAVE, folder)
        dropouts.append(mm.GPT.load(folder, device="cpu").config.dropout)
        number += 1
    assert dropouts == sorted(dropouts)
    assert (dropouts[0], dropouts[-1]) == (0.0, 0.5)
    assert number > 9
