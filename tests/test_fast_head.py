"""The loss of a large vocabulary in chunks: the numbers of the plain form, in less memory; and that
forward passes which no backward follows keep nothing for one.

Chunks are made as small as one wishes by head.ELEMENTS, so that small models have many.
"""

import contextlib
import functools
import tracemalloc

import numpy as np
import pytest
import strict_device as sd
from helpers import assert_close, assert_same_grads, random_gpt
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce import backend, exact, text
from minimixce.experiments import jobs, matrices, measures
from minimixce.experiments.options import TrainingOptions
from minimixce.fast import head
from minimixce.layers import unembedding_backward, unembedding_forward
from minimixce.model import LanguageModel
from minimixce.training import steps
from minimixce.training.evaluation import evaluate, mean_loss

thirty_examples = settings(derandomize=True, deadline=None, max_examples=30)
TOKEN_OBJECTIVES = mm.objectives.names("tokens")
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}


@contextlib.contextmanager
def chunks_of(sequences, T, V):
    """Inside, a chunk of logits holds so many sequences."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "ELEMENTS", sequences * T * V)
        patch.setattr(head, "ELEMENTS_ON_GPU", sequences * T * V)
        patch.setattr(head, "TOKENS", 3)
        yield


def objective_of(name, model, **options):
    embedding = model.params["wte.weight"]
    return functools.partial(mm.objectives.token_loss(name, cost_embedding=embedding), **options)


def batch_of(rng, B, T, V, ignored=0.3):
    tokens, targets = rng.integers(0, V, (B, T)), rng.integers(0, V, (B, T))
    targets[rng.random((B, T)) < ignored] = -1
    return tokens, targets


# ---- the head ------------------------------------------------------------------------------------


@thirty_examples
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 50), st.integers(1, 5000))
def test_chunks_cover_the_batch_in_whole_sequences(B, T, V, elements):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "ELEMENTS", elements)
        found = head.chunks(B, T, np.zeros((V, 1)))
    assert [row for rows in found for row in range(B)[rows]] == [*range(B)]
    for rows in found:
        size = rows.stop - rows.start
        assert size == 1 or size * T * V <= elements
    assert len(found) == -(-B // max(1, elements // (T * V)))  # no more than there have to be


def test_what_is_split_by_default():
    """GPT-2's vocabulary, at two sequences of 128 positions, and no batch of a small one."""

    def number(B, T, V):
        weight = np.zeros((V, 1), np.float32)
        return len(head.chunks(B, T, weight)), head.suits(B, T, weight)

    assert number(8, 128, 50_257) == (4, True)
    # not to be split, but then logits are gone before the backward of the blocks
    assert number(1, 1024, 50_257) == (1, True)
    for B, T, V in ((12, 64, 65), (32, 32, 65), (16, 128, 512), (8, 256, 65)):
        assert number(B, T, V) == (1, False)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", TOKEN_OBJECTIVES)
@thirty_examples
@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(2, 8), st.integers(1, 3), st.integers(0, 99)
)
def test_chunks_add_up_to_the_plain_form(name, dtype, B, T, V, sequences, seed):
    rng = np.random.default_rng(seed)
    _, targets = batch_of(rng, B, T, V)
    x, weight = (rng.standard_normal(shape).astype(dtype) for shape in ((B, T, 3), (V, 3)))
    loss_of = mm.objectives.token_loss(name, cost_embedding=weight)
    objective = functools.partial(loss_of, normalizer=max(1, int((targets >= 0).sum())))
    logits, cache = unembedding_forward(x, weight)
    loss, dlogits = objective(logits, targets)
    want = loss, *unembedding_backward(dlogits, cache)
    with chunks_of(sequences, T, V):
        got = head.loss_and_grads(x, weight, targets, objective)
    for found, expected in zip(got, want, strict=True):
        assert found.dtype == dtype
        assert_close(found, expected, TOLERANCE[dtype], floor=1e-2)


def test_an_objective_sees_all_positions_of_a_sequence():
    seen = []

    def objective(logits, targets):
        seen.append((logits.shape, targets.tolist()))
        return logits.sum(), np.ones_like(logits)

    targets = np.arange(15).reshape(5, 3)
    with chunks_of(2, 3, 4):
        head.loss_and_grads(np.ones((5, 3, 2)), np.ones((4, 2)), targets, objective)
    assert [shape for shape, _ in seen] == [(2, 3, 4), (2, 3, 4), (1, 3, 4)]
    assert [row for _, rows in seen for row in rows] == targets.tolist()


def peak_of(function):
    """Bytes that a call has allocated at most at a time."""
    function()  # what is made once
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_array_holds_all_logits():
    B, T, V, C = 16, 8, 1000, 4
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in ((B, T, C), (V, C)))
    _, targets = batch_of(rng, B, T, V)
    objective = functools.partial(mm.objectives.mixce, normalizer=B * T)
    with chunks_of(1, T, V):
        peak = peak_of(lambda: head.loss_and_grads(x, weight, targets, objective))
    assert peak < 4 * B * T * V / 2


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKEN_OBJECTIVES)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_group_of_batches_in_chunks_is_the_plain_step(name, dropout, monkeypatch):
    """With ignored targets, of which one batch has nothing else, dropout and accumulation."""
    B, T, V = 5, 4, 7
    model = random_gpt(0, V, T, dropout=dropout)
    rng = np.random.default_rng(1)
    group = [batch_of(rng, B, T, V, ignored) for ignored in (0.3, 1.0, 0.0)]
    step = steps.GroupedObjective(objective_of(name, model), seed=3)
    calls = []
    in_chunks = mm.gpt.head_in_chunks
    monkeypatch.setattr(
        mm.gpt, "head_in_chunks", lambda *args: calls.append(args) or in_chunks(*args)
    )
    loss, grads = step(model, group, 2)
    assert not calls
    with chunks_of(2, T, V):
        loss_in_chunks, grads_in_chunks = step(model, group, 2)
    assert len(calls) == len(group)
    assert_close(loss_in_chunks, loss, 1e-13)
    assert_same_grads(grads_in_chunks, grads, 1e-13)


@pytest.mark.parametrize("name", TOKEN_OBJECTIVES)
def test_chunks_on_a_device_are_those_of_the_cpu(name):
    rng = np.random.default_rng(0)
    tokens, targets = batch_of(rng, 5, 4, 7)
    found = []
    for xp in (np, sd):
        model = random_gpt(0, 7, 4)
        model.params = {name: xp.asarray(p) for name, p in model.params.items()}
        objective = objective_of(name, model, normalizer=11)
        with chunks_of(2, 4, 7):
            assert len(list(model.logits_in_chunks(xp.asarray(tokens)))) == 3
            loss, grads = model.loss_and_grads(xp.asarray(tokens), xp.asarray(targets), objective)
        found.append((backend.to_numpy(loss), {k: backend.to_numpy(g) for k, g in grads.items()}))
    (want, want_grads), (got, got_grads) = found
    assert_close(got, want, 1e-12)
    assert_same_grads(got_grads, want_grads, 1e-12)


def test_soft_inputs_and_gradients_that_are_there_already():
    model = random_gpt(2, vocab_size=6)
    tokens, targets = batch_of(np.random.default_rng(0), 4, 5, 6)
    objective = functools.partial(mm.objectives.mle, normalizer=9)
    grads = {name: np.ones_like(p) for name, p in model.params.items()}
    kept = {name: g.copy() for name, g in grads.items()}
    inputs = np.eye(6)[tokens]
    want_loss, want = LanguageModel.loss_and_grads(model, inputs, targets, objective, None, kept)
    with chunks_of(1, 5, 6):
        loss, found = model.loss_and_grads(inputs, targets, objective, None, grads)
    assert_close(loss, want_loss, 1e-13)
    assert_same_grads(found, want, 1e-13)
    assert all(found[name] is grads[name] for name in found)


def test_an_objective_that_takes_no_normalizer_sees_the_whole_batch():
    model, shapes = random_gpt(0, 7, 4), []

    def objective(logits, targets):
        shapes.append(logits.shape)
        return mm.objectives.mle(logits, targets)

    batch = batch_of(np.random.default_rng(0), 5, 4, 7)
    with chunks_of(1, 4, 7):
        steps.GroupedObjective(objective)(model, [batch], 0)
        found = evaluate(model, [batch], objective)
        assert mean_loss(model, batch, objective) == found["validation_loss"]
    assert shapes == [(5, 4, 7)] * 3
    assert found["validation_loss"] == pytest.approx(found["validation_mle"], rel=1e-12)


def test_a_gpt_with_a_forward_of_its_own_is_trained_and_measured_by_it():
    class Doubled(mm.GPT):
        def extend_forward(self, x, past=None, training=False, rng=None):
            logits, present, cache = super().extend_forward(x, past, training, rng)
            return 2 * logits, present, cache

        def extend_backward(self, dlogits, dpresent, cache, grads=None):
            return super().extend_backward(2 * dlogits, dpresent, cache, grads)

    plain = random_gpt(0, 7, 4)
    model = Doubled(plain.config, device="cpu")
    model.params = plain.params
    tokens, targets = batch_of(np.random.default_rng(0), 5, 4, 7)
    want, _ = mm.objectives.mle(2 * plain.forward(tokens)[0], targets)
    count = int((targets >= 0).sum())
    with chunks_of(1, 4, 7):
        objective = functools.partial(mm.objectives.mle, normalizer=count)
        assert_close(model.loss_and_grads(tokens, targets, objective)[0], want, 1e-13)
        found = evaluate(model, [(tokens, targets)])
    assert found["validation_mle"] == pytest.approx(float(want), rel=1e-12)


# ---- without a backward --------------------------------------------------------------------------


@thirty_examples
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_chunks_are_the_logits_of_forward(B, T, sequences, soft, seed):
    model = random_gpt(seed, block_size=T + 1, dropout=0.5)
    tokens = np.random.default_rng(seed).integers(0, 5, (B, T))
    inputs = np.eye(5)[tokens] if soft else tokens
    want, _ = model.forward(inputs)
    with chunks_of(sequences, T, 5):
        chunks = list(model.logits_in_chunks(inputs))
    assert len(chunks) == -(-B // sequences)
    assert_close(np.concatenate([want[rows] for rows, _ in chunks]), want, 0)
    assert_close(np.concatenate([logits for _, logits in chunks]), want, 1e-13)


def test_input_that_does_not_fit_is_named_here_too():
    with pytest.raises(ValueError, match="0 … 4, got 0 … 5"):
        next(random_gpt().logits_in_chunks(np.array([[0, 5]])))


@pytest.mark.parametrize("name", TOKEN_OBJECTIVES)
def test_measures_in_chunks_are_those_of_the_whole(name):
    world = mm.worlds.agreement()
    model = random_gpt(3, vocab_size=world.vocab_size, block_size=8)
    ids = np.random.default_rng(0).integers(0, world.vocab_size, 90)
    batches = text.consecutive_batches(ids, 5, 8)  # whose last row is padded
    objective = objective_of(name, model)
    rows = world.sample(7, 6, 0)

    def measure():
        return (
            *evaluate(model, batches, objective, eta=0.3).values(),
            mean_loss(model, batches[0], objective),
            *measures.fit_to_text(model, batches, 0.8),
            *exact.log_prob(model, rows),
            *matrices.transition_matrix(model, world, 9, 6).ravel(),
        )

    want = measure()
    with chunks_of(1, 4, world.vocab_size):
        assert_close(measure(), want, 1e-12)


@pytest.mark.parametrize("what", ["evaluate", "fit_to_text", "log_prob"])
def test_the_peak_without_a_backward_does_not_grow_with_the_layers(what):
    world = mm.worlds.agreement()
    V, T = world.vocab_size, 32
    rng = np.random.default_rng(0)
    batch = batch_of(rng, 8, T, V)
    rows = world.sample(16, T, 0)
    run = {
        "evaluate": lambda model: evaluate(model, [batch]),
        "fit_to_text": lambda model: measures.fit_to_text(model, [batch]),
        "log_prob": lambda model: exact.log_prob(model, rows),
    }[what]
    models = [
        mm.GPT(mm.GPTConfig(V, T, n_layer, n_head=2, n_embd=16), device="cpu") for n_layer in (1, 8)
    ]
    few, many = (peak_of(lambda model=model: run(model)) for model in models)
    assert many < 1.1 * few


def test_validation_batches_are_no_larger_than_those_of_training(tmp_path):
    (tmp_path / "text.txt").write_text("The cat sat on the mat.\n" * 40)
    corpus = text.load_corpus([str(tmp_path / "text.txt")])
    for most, rows in ((3, 3), (100, 32)):
        inputs, _ = jobs.held_out_batches(corpus, corpus.train, 8, most=most)[0]
        assert inputs.shape == (rows, 8)
    options = TrainingOptions(data=[str(tmp_path / "text.txt")], batch_size=3, block_size=8)
    inputs, _ = jobs.Job(options).validation[0]
    assert len(inputs) <= 3
