"""The command line, as a user runs it: what it prints, what it writes, and one sentence for bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest

import minimixce as mm
from minimixce import cli, layers, text

SMALL = "--n-layer 1 --n-embd 16 --n-head 2 --block-size 16 --batch-size 4 --steps 20 --eval-every 10 --warmup 2 --device cpu".split()


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("the cat sat on the mat and the dog sat on the log\n" * 40)
    return str(path)


def run(capsys, *argv):
    status = cli.main(list(map(str, argv)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("objective", ["mle", "mixce", "mixce_surrogate", "tailr", "emo"])
def test_train_writes_a_model_that_loads_and_prints_what_it_found(capsys, tmp_path, story, objective):
    out = tmp_path / "run"
    status, printed, _ = run(capsys, "train", "--data", story, "--out", out, "--objective", objective, *SMALL)
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
    assert "already holds a model" in error
    assert (out / "model.safetensors").read_bytes() == before
    assert run(capsys, "train", "--data", story, "--out", out, "--seed", 1, "--overwrite", *SMALL)[0] == 0
    assert (out / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--data", "no/such/file"], "no/such/file does not exist"),
        (["--eta", "1.5"], "eta must be between 0 and 1, got 1.5"),
        (["--eta", "nan"], "eta must be between 0 and 1, got nan"),
        (["--objective", "gan"], "--objective must be one of"),
        (["--n-embd", "15"], "n_embd must be a multiple of n_head"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--lr", "nan"], "lr must be a positive number"),
        (["--device", "gpu"], "device must be"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--block-size", "5000"], "too few"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(capsys, tmp_path, story, argv, words):
    status, _, error = run(capsys, "train", "--data", story, "--out", tmp_path / "run", *SMALL, *argv)
    assert status == 2
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_gradcheck_passes_and_writes_its_table(capsys, tmp_path):
    status, printed, _ = run(capsys, "gradcheck", "--device", "cpu", "--out", tmp_path / "table.jsonl")
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
    assert "1 of 53 tensors WRONG" in printed


def test_module_and_help():
    def python(*argv):
        return subprocess.run([sys.executable, "-m", "minimixce", *argv], capture_output=True, text=True)

    assert python("--version").stdout.strip() == f"minimixce {mm.__version__}"
    for command in ("train", "gradcheck"):
        done = python(command, "--help")
        assert done.returncode == 0
        assert "default:" in done.stdout
    assert python("nonsense").returncode == 2
