"""Blocks computed again in backward: the same gradients to the bit, from less memory; and how much
memory a step takes, by arithmetic and measured.
"""

import contextlib
import functools
import json
import math
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import strict_device as sd
from helpers import assert_same_grads, random_gpt
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce import backend, cli, text
from minimixce.fast import head
from minimixce.training import footprint, recomputing, steps

MIXCE = functools.partial(mm.objectives.mixce, eta=0.3)
SIZE = st.integers(1, 4)


def without_normalizer(logits, targets):
    """An objective of a user's own."""
    return mm.objectives.mle(logits, targets)


def group_of(batches, B, T, V, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, V, (B, T)), rng.integers(-1, V, (B, T))) for _ in range(batches)]


def step_of(model, group, objective=MIXCE, **options):
    """(loss, grads) of step 4."""
    step = steps.GroupedObjective(objective, seed=3, **options)
    with steps.ending(step):
        return step(model, group, 4)


def are_equal(found, expected):
    """Whether loss and gradients are the same, bit for bit."""
    (loss, grads), (expected_loss, expected_grads) = found, expected
    return (
        loss == expected_loss
        and list(grads) == list(expected_grads)
        and all(np.array_equal(grads[name], g) for name, g in expected_grads.items())
    )


# ---- gradients -----------------------------------------------------------------------------------


@given(
    sizes=st.tuples(SIZE, SIZE, st.integers(2, 6), SIZE, SIZE, SIZE),
    batches=st.integers(1, 2),
    dropout=st.sampled_from([0.0, 0.4]),
    dtype=st.sampled_from(["float32", "float64"]),
    objective=st.sampled_from([*mm.objectives.names("tokens"), without_normalizer]),
    in_chunks=st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_gradients_are_the_same_bit_for_bit(sizes, batches, dropout, dtype, objective, in_chunks):
    B, T, V, layers, heads, width = sizes
    model = random_gpt(0, V, T + 1, layers, heads, heads * width, dropout, dtype)
    if isinstance(objective, str):
        cost = model.params["wte.weight"]
        objective = mm.objectives.token_loss(objective, cost_embedding=cost)
    group = group_of(batches, B, T, V)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "ELEMENTS", T * V if in_chunks else head.ELEMENTS)
        plain = step_of(model, group, objective)
        again = step_of(model, group, objective, recompute=True)
    assert are_equal(again, plain)


def test_blocks_of_queries_and_shards_are_computed_again_as_they_were():
    """At sizes where the CPU takes faster forms, and in processes."""
    model = random_gpt(0, 9, 128, n_layer=1, n_head=4, n_embd=8, dtype="float32")
    group = group_of(1, 4, 128, 9)
    for shards in (1, 2):
        plain = step_of(model, group, shards=shards)
        assert are_equal(step_of(model, group, shards=shards, recompute=True), plain)


BROKEN = {
    "other masks": (recomputing.SameMasks, "random", lambda self, shape, dtype: np.ones(shape)),
    "the wrong block": (
        recomputing.RecomputingGPT,
        "_block",
        lambda self, block, i, rng, right=recomputing.RecomputingGPT._block: right(
            self, block, 0, rng
        ),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_form_is_seen(name, monkeypatch):
    model, group = random_gpt(dropout=0.4), group_of(1, 3, 5, 5)
    plain = step_of(model, group)
    assert are_equal(step_of(model, group, recompute=True), plain)
    monkeypatch.setattr(*BROKEN[name])
    assert not are_equal(step_of(model, group, recompute=True), plain)


def test_soft_inputs_their_gradient_and_what_is_there_already():
    model = random_gpt(2, dropout=0.3)
    inputs = np.eye(5)[group_of(1, 3, 4, 5)[0][0]]
    found = []
    for each in (model, recomputing.RecomputingGPT(model)):
        logits, present, cache = each.extend_forward(inputs, None, True, backend.rng(7, np))
        grads = {name: np.ones_like(p) for name, p in model.params.items()}
        dx, _, grads = each.extend_backward(np.cos(logits), None, cache, grads)
        found.append((dx, grads))
        assert bool(present) == (each is model)
        with pytest.raises(ValueError, match="has served"):
            each.extend_backward(np.cos(logits), None, cache)
    (expected, expected_grads), (dx, grads) = found
    assert np.array_equal(dx, expected)
    assert_same_grads(grads, expected_grads, 0)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_it_stays_on_the_device(dropout):
    group = group_of(1, 3, 5, 5)
    found = []
    for xp in (np, sd):
        model = random_gpt(dropout=dropout)
        model.params = {name: xp.asarray(p) for name, p in model.params.items()}
        with sd.no_host_reads() if xp is sd else contextlib.nullcontext():
            pairs = [step_of(model, group, recompute=again) for again in (False, True)]
        pairs = [
            (float(loss), {name: backend.to_numpy(g) for name, g in grads.items()})
            for loss, grads in pairs
        ]
        assert are_equal(*pairs)
        found.append(pairs[1][1])
    if not dropout:  # a device draws masks of its own
        assert_same_grads(found[1], found[0], 1e-12)


def test_it_takes_no_past():
    model = random_gpt()
    _, present, _ = model.extend_forward(np.array([[1]]))
    with pytest.raises(ValueError, match="whole sequences: past must be None"):
        recomputing.RecomputingGPT(model).extend_forward(np.array([[1]]), present)


# ---- memory --------------------------------------------------------------------------------------


def kept_bytes(cache, params):
    """Bytes of the arrays that a cache holds, each buffer once, without the parameters."""
    buffers = {}

    def visit(value):
        if isinstance(value, np.ndarray):
            while value.base is not None and isinstance(value.base, np.ndarray):
                value = value.base
            buffers[id(value)] = value.nbytes
        elif isinstance(value, (tuple, list)):
            for item in value:
                visit(item)

    visit(cache)
    return sum(size for key, size in buffers.items() if key not in set(map(id, params.values())))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_of_a_block_its_input_is_kept_and_the_bits_of_its_masks(dropout):
    B, T, H, C = 2, 16, 2, 8
    kept = {}
    for layers in (1, 5):
        model = random_gpt(0, 5, T, layers, H, C, dropout, "float32")
        for each in (model, recomputing.RecomputingGPT(model)):
            tokens = group_of(1, B, T, 5)[0][0]
            _, cache = each.forward(tokens, training=True, rng=backend.rng(0, np))
            kept[layers, type(each)] = kept_bytes(cache, model.params)

    def of_a_block(kind):
        return (kept[5, kind] - kept[1, kind]) / 4

    masks = (2 * B * T * C + B * H * T * T) / 8 if dropout else 0
    assert of_a_block(recomputing.RecomputingGPT) == 4 * B * T * C + masks
    scores = B * H * T * T * (3 if dropout else 1)
    width = 22 if dropout else 20
    assert of_a_block(mm.GPT) == 4 * (B * T * (width * C + 2) + scores)


def peak_of_training(config, batch_size, accumulate=1, recompute=False):
    """Bytes of arrays that two steps of training hold at most at a time."""
    group = group_of(accumulate, batch_size, config.block_size, config.vocab_size)
    tracemalloc.start()
    try:
        model = mm.GPT(config, device="cpu")
        optimizer = mm.AdamW(model.params, 1e-3)
        tracemalloc.reset_peak()
        for _ in range(2):
            grads = step_of(model, group, recompute=recompute)[1]
            mm.optim.clip_grads(grads, 1.0)
            optimizer.step(grads)
            del grads
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_peak_hardly_grows_with_the_layers():
    """Some of it does: the weights, and the inputs of blocks."""

    def growth(recompute):
        configs = [mm.GPTConfig(9, 128, layers, 2, 16) for layers in (1, 5)]
        few, many = (peak_of_training(config, 4, recompute=recompute) for config in configs)
        return many - few

    assert growth(True) < growth(False) / 5


SHAPES = {  # V, T, layers, heads, channels, dropout; sequences, batches
    "one batch": ((65, 128, 3, 4, 32), 4, 1),
    "dropout": ((65, 32, 3, 4, 64, 0.1), 4, 2),
    "parts of a batch": ((65, 128, 3, 4, 64), 12, 1),
    "a large vocabulary": ((20_000, 128, 1, 4, 32), 8, 1),
    "large weights": ((65, 16, 2, 4, 192), 2, 1),
}
QUICK = ("one batch", "dropout")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in SHAPES],
)
def test_arithmetic_says_what_a_step_takes(name, recompute):
    shape, batch_size, accumulate = SHAPES[name]
    config = mm.GPTConfig(*shape)
    measured = peak_of_training(config, batch_size, accumulate, recompute)
    predicted = footprint.of_training(config, batch_size, accumulate, recompute)
    assert predicted.weights == 4 * sum(map(math.prod, mm.gpt.param_shapes(config).values()))
    assert 0.9 < measured / predicted.peak < 1.1


def test_gpt_2_large_on_one_card():
    """774 million parameters by transformers' count; four numbers for each of them in float32."""
    config = mm.GPTConfig(50_257, 1024, 36, 20, 1280)
    step = footprint.of_training(config, 8, accumulate=2, on_gpu=True)
    assert step.weights == 4 * 774_030_080
    assert step.weights == step.gradients == step.moments / 2
    again = footprint.of_training(config, 8, accumulate=2, recompute=True, on_gpu=True)
    assert again.activations == 36 * 8 * 1024 * 1280 * 4
    assert again.peak < 80e9 < footprint.of_training(config, 16, on_gpu=True).peak


def test_the_page_says_what_the_arithmetic_says():
    page = (Path(__file__).parents[1] / "tutorials" / "speed.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (1,024|512) \| (\d+) \| (yes|no) \| (.+) \|$", page, re.MULTILINE)
    assert len(rows) == 8
    for T, batch_size, recompute, shown in rows:
        config = mm.GPTConfig(50_257, int(T.replace(",", "")), 36, 20, 1280, 0.1)
        step = footprint.of_training(config, int(batch_size), 2, recompute == "yes", on_gpu=True)
        settled = step.weights + step.gradients + step.moments
        parts = (settled, step.activations, step.work, step.head, step.peak)
        assert shown == " | ".join(f"{part / 1e9:.1f}" for part in parts)
    found = re.search(r"at most (\d+) sequences of 1,024 at once, or (\d+) with", page)
    for recompute, most in zip((False, True), map(int, found.groups()), strict=True):
        config = mm.GPTConfig(50_257, 1024, 36, 20, 1280, 0.1)
        fits = [footprint.of_training(config, most + k, 2, recompute, True).peak for k in (0, 1)]
        assert fits[0] <= 80e9 < fits[1]


# ---- the mean of batches -------------------------------------------------------------------------


def test_a_step_can_be_the_mean_of_its_batches():
    """Of batches with 1, 7 and no targets, with the rows shared out too."""
    model, group = random_gpt(), group_of(3, 4, 5, 5)
    for (_, targets), wanted in zip(group, (1, 7, 0), strict=True):
        targets[...] = 2
        targets.reshape(-1)[wanted:] = -1
    alone = [step_of(model, [batch]) for batch in group]
    loss = sum(loss for loss, _ in alone) / 3
    grads = {name: sum(each[name] for _, each in alone) / 3 for name in model.params}
    for shards in (1, 2):
        found = step_of(model, group, average="batches", shards=shards)
        assert found[0] == pytest.approx(loss, rel=1e-12)
        assert_same_grads(found[1], grads, 1e-12)
    by_targets = step_of(model, group)
    weights = (1 / 8, 7 / 8, 0)
    expected = sum(w * loss for w, (loss, _) in zip(weights, alone, strict=True))
    assert by_targets[0] == pytest.approx(expected, rel=1e-12)
    assert abs(by_targets[0] - loss) > 0.01


# ---- fit and the command line --------------------------------------------------------------------


@pytest.mark.parametrize(("stopped", "resumed"), [(True, False), (False, True)])
def test_a_run_goes_on_either_way_bit_for_bit(tmp_path, stopped, resumed):
    batches = text.random_batches(np.arange(300) % 7, 4, 6, seed=1)

    def train(folder, steps, recompute, resume=False):
        model = random_gpt(0, 7, 6, dropout=0.3, dtype="float32")
        options = {"seed": 2, "lr": 1e-2, "eval_every": 2, "progress": False}
        mm.fit(
            model,
            [batches[k] for k in range(steps)],
            folder=folder,
            recompute=recompute,
            resume=resume,
            **options,
        )
        return model.params

    whole = train(tmp_path / "whole", 6, False)
    train(tmp_path / "run", 4, stopped)
    found = train(tmp_path / "run", 6, resumed, resume=True)
    assert all(np.array_equal(found[name], whole[name]) for name in whole)


class Other(mm.GPT):
    """A GPT that may have another forward."""


REFUSED = {
    "a bigram": (lambda: mm.TableBigram(5, device="cpu"), {}, "got TableBigram"),
    "a model of one's own": (lambda: Other(random_gpt().config, device="cpu"), {}, "got Other"),
    "a step": (random_gpt, {"step": lambda model, batch: None}, "must be False for a step"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_blocks_is_refused(name):
    make, options, words = REFUSED[name]
    with pytest.raises(ValueError, match=f"^recompute must be False .*{words}$|{words},"):
        mm.fit(make(), [], recompute=True, progress=False, **options)


SMALL = (
    "--n-layer 2 --n-embd 8 --n-head 2 --block-size 16 --batch-size 3 --accumulate 2 --steps 4"
    " --eval-every 2 --warmup 1 --dropout 0.2 --quiet --batches texts --lines".split()
)


def test_a_command_recomputes_averages_and_goes_on(tmp_path, capsys):
    story = tmp_path / "story.txt"
    story.write_text("a cat\nthe dog sat on the log\nthe cat sat\n" * 20)
    weights = {}
    for name, options in {
        "plain": [],
        "again": ["--recompute"],
        "batches": ["--average", "batches", "--recompute"],
    }.items():
        out = tmp_path / name
        command = ["train", "--data", str(story), "--out", str(out), *SMALL, *options]
        assert cli.main(command) == 0
        kept = json.loads((out / "run.json").read_text())
        assert kept["recompute"] == ("--recompute" in options)
        assert kept["average"] == ("batches" if "--average" in options else "targets")
        weights[name] = (out / "last" / "model.safetensors").read_bytes()
    assert weights["again"] == weights["plain"] != weights["batches"]
    more = ["train", "--out", str(tmp_path / "again"), "--resume", "--steps", "6", "--change"]
    assert cli.main(more) == 0
    assert cli.main([*more[:2], str(tmp_path / "batches"), "--resume", "--average", "targets"]) == 2
    assert "has --average batches, not targets; add --change" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--average rows", "average must be targets or batches, got 'rows'"),
        ("--world agreement --objective two_kls --recompute", "--recompute is for objectives over"),
        ("--world agreement --objective two_kls --average batches", "--average is for objectives"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, capsys, options, words):
    assert cli.main(["train", "--out", str(tmp_path / "run"), *options.split()]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()
