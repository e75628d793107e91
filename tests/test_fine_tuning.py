"""Fine-tuning a GPT-2 of transformers here and in PyTorch: the same loss at every step."""

import functools
import json
import math

import numpy as np
import pytest

from minimixce import cli, text
from minimixce.experiments import jobs
from minimixce.experiments.options import read_run

pytestmark = pytest.mark.parity

STEPS, WARMUP, LR, FINAL, DECAY, CLIP, ETA = 50, 5, 3e-3, 0.1, 0.1, 0.5, 0.5


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT-2 folder with random weights, as transformers writes it, and a file of lines."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("tokenizers", reason="needs the extra text")
    folder = tmp_path_factory.mktemp("fine-tuning")
    rng = np.random.default_rng(0)
    words = "the a cat dog mat log sat ran on under and with crème 漢字 😀".split()
    lines = [" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(300)]
    (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = text.learn_bpe(lines, 290)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=64, n_layer=2, n_head=2, n_embd=32
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    text.save_tokenizer(tokenizer, folder / "gpt2")
    (folder / "gpt2" / text.TOKENIZER_FILE).unlink()
    return folder


def losses_here(gpt2, out, objective, average):
    """The loss of each step of `minimixce train`."""
    options = {
        "init": gpt2 / "gpt2",
        "data": gpt2 / "lines.txt",
        "batches": "texts",
        "out": out,
        "objective": objective,
        "average": average,
        "accumulate": 2,
        "eta": ETA,
        "batch-size": 4,
        "block-size": 48,
        "dropout": 0,
        "steps": STEPS,
        "warmup": WARMUP,
        "lr": LR,
        "final-lr": FINAL,
        "weight-decay": DECAY,
        "max-grad-norm": CLIP,
        "eval-every": 1,
        "device": "cpu",
    }
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert cli.main(["train", "--lines", "--quiet", *given]) == 0
    records = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in records]


def mle(log_q):
    return -log_q


def mixce(log_q):
    return -ETA * log_q - (1 - ETA) * log_q.exp()


def as_the_authors(log_q):
    """Their loss of a token: the weight is taken from q without a gradient."""
    return -ETA * log_q - (1 - ETA) * log_q.exp().detach() * log_q


def losses_in_torch(gpt2, out, loss_of_token, average):
    """The loss of each step of a loop in PyTorch, over the batches of the run in `out`."""
    import torch
    import transformers

    model = transformers.GPT2LMHeadModel.from_pretrained(gpt2 / "gpt2", dtype=torch.float32)
    model.eval()  # that is, without dropout
    groups = [[p for p in model.parameters() if (p.ndim > 1) == decays] for decays in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": p, "weight_decay": decay} for p, decay in zip(groups, (DECAY, 0.0))],
        lr=LR,
        betas=(0.9, 0.95),
        eps=1e-8,
    )

    def rate(step):
        if step < WARMUP:
            return (step + 1) / WARMUP
        done = (step - WARMUP) / (STEPS - WARMUP)
        return FINAL + (1 - FINAL) * (1 + math.cos(math.pi * done)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    batches = jobs.Job(read_run(out), out=out, resume=True).batches
    losses = []
    for step in range(STEPS):
        group = [tuple(map(torch.from_numpy, batches[2 * step + k])) for k in (0, 1)]
        counts = [int((targets >= 0).sum()) for _, targets in group]
        total = 0.0
        for (inputs, targets), count in zip(group, counts):
            mask = targets >= 0
            logits = model(input_ids=inputs.long(), attention_mask=mask.long()).logits
            log_q = logits.log_softmax(-1).gather(-1, targets.clamp(min=0).long()[..., None])
            summed = (loss_of_token(log_q[..., 0]) * mask).sum()
            loss = summed / (sum(counts) if average == "targets" else 2 * count)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


RUNS = {
    "mle": (mle, "targets"),
    "mixce": (mixce, "targets"),
    "mixce_surrogate": (as_the_authors, "batches"),
}


@pytest.mark.parametrize("objective", RUNS)
def test_the_loss_curve_is_torchs(gpt2, tmp_path, objective):
    """50 steps of two batches of padded texts each, with warm-up, decay and clipping."""
    loss_of_token, average = RUNS[objective]
    ours = losses_here(gpt2, tmp_path / "run", objective, average)
    in_torch = functools.partial(losses_in_torch, gpt2, tmp_path / "run", loss_of_token)
    theirs = in_torch(average)
    assert len(ours) == STEPS
    assert ours[-1] < ours[0] - 0.3
    assert np.abs(np.subtract(ours, theirs)).max() <= 1e-4
    other = in_torch({"targets": "batches", "batches": "targets"}[average])
    assert np.abs(np.subtract(ours, other)).max() > 1e-3  # so the padding does matter
