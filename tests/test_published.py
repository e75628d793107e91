"""What other authors' code computes: against definitions written out, and numbers known of it."""

import math
from functools import partial

import numpy as np
import pytest
import strict_device as sd
from helpers import random_gpt
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce.experiments import measures, published

# ---- js ------------------------------------------------------------------------------------------

with_zeros = mm.worlds.agreement()
without = mm.worlds.markov(np.random.default_rng(0).dirichlet(np.ones(4), 4))


def js_by_hand(model, world, max_len, eta, cap):
    """Every sequence by itself, in the authors' words: log M = log P + log(η + (1−η) e^r)."""
    rows = mm.exact.sequences(world.vocab_size, max_len)
    log_q, log_p = mm.exact.log_prob(model, rows), world.log_prob(rows, floored=True)
    total = 0.0
    for a, b, p in zip(log_q, log_p, np.exp(world.log_prob(rows))):
        log_m = b + math.log(eta + (1 - eta) * math.exp(min(max(a - b, -cap), cap)))
        total += eta * p * (b - log_m) if p else 0.0
        total += (1 - eta) * math.exp(a) * (a - log_m)
    return total


@pytest.mark.parametrize("world", [with_zeros, without], ids=["zeros", "none"])
@pytest.mark.parametrize("eta", [0.1, 0.5, 0.9])
def test_js_capped_is_its_definition(world, eta):
    model = random_gpt(vocab_size=world.vocab_size)
    loss, grads = published.js_capped(model, world, 4, eta=eta)
    assert float(loss) == pytest.approx(js_by_hand(model, world, 4, eta, 30.0), rel=1e-12)
    ours, our_grads = mm.exact.loss_and_grads(model, world, 4, objective="js", eta=eta)
    if world is without:  # nothing is cut off
        assert float(loss) == pytest.approx(float(ours), rel=1e-12)
        for name in grads:
            np.testing.assert_allclose(grads[name], our_grads[name], atol=1e-12)
    else:
        assert float(ours) <= math.log(2)
        assert float(loss) > 5 * math.log(2)  # no bound


@pytest.mark.parametrize("cap", [30.0, 1.0])
def test_the_gradient_of_js_capped_is_the_derivative_of_its_value(cap):
    model = random_gpt(vocab_size=6, block_size=2, n_layer=1, n_head=1, n_embd=3)
    names = ["ln_f.bias", "h.0.attn.c_proj.weight"]

    def forward(*values):
        model.params.update(zip(names, values))
        loss, grads = published.js_capped(model, with_zeros, 3, eta=0.3, cap=cap)
        return loss, grads

    def backward(dy, grads):
        return tuple(dy * grads[name] for name in names)

    report = mm.gradcheck(forward, backward, [model.params[n] for n in names], names=names)
    assert report.ok, report


def test_js_capped_is_mostly_reverse_kl():
    model = random_gpt(vocab_size=6)
    _, grads = published.js_capped(model, with_zeros, 4, eta=0.5)
    _, of_kl = mm.exact.loss_and_grads(model, with_zeros, 4, objective="reverse_kl")
    _, of_js = mm.exact.loss_and_grads(model, with_zeros, 4, objective="js")

    def cosine(a, b):
        a, b = (np.concatenate([g.reshape(-1) for g in x.values()]) for x in (a, b))
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    assert cosine(grads, of_kl) > 0.99
    assert cosine(grads, of_js) < 0.9


def test_js_capped_names_what_is_wrong():
    model = random_gpt(vocab_size=6)
    with pytest.raises(ValueError, match="eta must be above 0 and below 1"):
        published.js_capped(model, with_zeros, 4, eta=0)
    with pytest.raises(ValueError, match="max_len must be an integer"):
        published.js_capped(model, with_zeros, 0)


# ---- TaiLr ---------------------------------------------------------------------------------------

rng = np.random.default_rng(1)
logits, targets = 2 * rng.standard_normal((40, 5)), rng.integers(-1, 5, 40)
SETTINGS = [(0.8, 0.2), (0.1, 0.3), (1e-7, 0.2), (0.0, 0.2), (0.5, 0.0), (0.3, 1.0), (1.0, 0.2)]


@pytest.mark.parametrize(("gamma", "least"), SETTINGS)
def test_tailr_clamped_has_the_clamped_weight_and_its_own_derivative(gamma, least):
    objective = partial(published.tailr_clamped, gamma=gamma, least=least)
    f, w = objective(logits, targets, reduction="none")
    q = np.exp(-mm.objectives.mle(logits, targets, reduction="none")[0])
    want = np.maximum(q / (gamma + (1 - gamma) * q), least) * (targets >= 0)
    np.testing.assert_allclose(w, want, rtol=1e-12)
    report = mm.gradcheck(
        lambda z: objective(z, targets), lambda dy, dlogits: (dy * dlogits,), [logits]
    )
    assert report.ok, report
    free, _ = mm.objectives.tailr(logits, targets, gamma=gamma, reduction="none")
    above = (want > least) & (targets >= 0)
    np.testing.assert_allclose(f[above], free[above], rtol=1e-12)
    if 0 < least < 1 and gamma in (0.8, 0.1):
        assert above.any()
        assert (~above & (targets >= 0)).any()


@pytest.mark.parametrize(("gamma", "least"), SETTINGS)
def test_tailr_surrogate_is_the_weight_times_the_loss(gamma, least):
    loss, dlogits = published.tailr_surrogate(logits, targets, gamma=gamma, least=least)
    _, of_clamped = published.tailr_clamped(logits, targets, gamma=gamma, least=least)
    np.testing.assert_array_equal(dlogits, of_clamped)
    _, w = published.tailr_clamped(logits, targets, gamma=gamma, least=least, reduction="none")
    nll, _ = mm.objectives.mle(logits, targets, reduction="none")
    assert loss == pytest.approx((w * nll).sum() / (targets >= 0).sum(), rel=1e-12)


def test_the_clamp_decides_at_the_start():
    uniform = np.zeros((1, 100))
    _, free = mm.objectives.tailr(uniform, np.array([3]), gamma=0.8, reduction="none")
    _, clamped = published.tailr_clamped(
        uniform, np.array([3]), gamma=0.8, least=0.2, reduction="none"
    )
    assert free[0] == pytest.approx(0.0125, abs=5e-5)
    assert clamped[0] == 0.2
    with pytest.raises(ValueError, match=r"least must be between 0 and 1, got 1\.5"):
        published.tailr_clamped(uniform, np.array([3]), gamma=0.8, least=1.5)


# ---- EMO -----------------------------------------------------------------------------------------


def test_emo_patched_at_the_known_numbers():
    """q = .9 and d = .065: the other token, of probability .1, costs .65."""
    z = np.log([[0.9, 0.1]])
    embedding = np.array([[1.0, 0.0], [0.35, math.sqrt(1 - 0.35**2)]])
    y = np.array([0])
    _, plain = mm.objectives.emo(z, y, embedding)
    _, patched = published.emo_patched(z, y, embedding)
    assert plain[0, 0] == pytest.approx(-0.0974, abs=5e-5)
    assert patched[0, 0] == pytest.approx(-0.0532, abs=5e-5)


@pytest.mark.parametrize("normalizer", [None, 7])
def test_emo_patched_is_the_derivative_with_its_ratio_frozen(normalizer):
    embedding = rng.standard_normal((5, 3))
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    kept = targets >= 0
    cost = 1 - unit[np.maximum(targets, 0)] @ unit.T

    def parts(z):
        nll, _ = mm.objectives.mle(z, targets, reduction="none")
        return nll, (mm.layers.softmax_forward(z)[0] * cost).sum(axis=1)

    nll, d = parts(logits)
    frozen = nll / (d + np.exp(-nll))
    count = normalizer or kept.sum()

    def forward(z):
        nll, d = parts(z)
        loss, dlogits = published.emo_patched(z, targets, embedding, normalizer=normalizer)
        assert loss == pytest.approx((nll + nll / (d + np.exp(-nll)) * d)[kept].sum() / 2 / count)
        return (nll + frozen * d)[kept].sum() / 2 / count, dlogits

    report = mm.gradcheck(forward, lambda dy, dlogits: (dy * dlogits,), [logits])
    assert report.ok, report
    f, w = published.emo_patched(logits, targets, embedding, reduction="none")
    loss, dlogits = published.emo_patched(logits, targets, embedding)
    assert f.sum() / kept.sum() == pytest.approx(loss)
    q = np.exp(-nll)[kept]
    of_target = dlogits[np.arange(40), np.maximum(targets, 0)][kept] * kept.sum()
    np.testing.assert_allclose(w[kept], -of_target / (1 - q), rtol=1e-9)
    assert (w[~kept] == 0).all()


def test_a_frozen_embedding_stays():
    model = random_gpt()
    frozen = published.frozen_embedding(model)
    before = model.params["wte.weight"].copy()
    objective = partial(mm.objectives.emo, cost_embedding=frozen)
    tokens = np.random.default_rng(0).integers(0, 5, (3, 2, 4))
    batches = [(t[:, :-1], t[:, 1:]) for t in tokens]
    mm.fit(model, batches, objective, progress=False)
    np.testing.assert_array_equal(frozen, before)
    assert (model.params["wte.weight"] != before).any()


def test_published_objectives_never_wait_for_a_device():
    z, y, E = sd.asarray(logits), sd.asarray(targets), sd.asarray(rng.standard_normal((5, 3)))
    with sd.no_host_reads():
        published.tailr_clamped(z, y, gamma=0.1, least=0.3)
        published.tailr_surrogate(z, y, gamma=0.1, least=0.3)
        published.emo_patched(z, y, E)


# ---- repetition ----------------------------------------------------------------------------------

A, B, C, D = range(4)
AUTHORS = {  # by their definition, by hand
    "a phrase followed by something of its own": ([A, B] * 3 + [C, A], (6 / 8, 2)),
    "the last run lacks its last repetition": ([A, B] * 3, (0.0, 0)),
    "so four are counted as three": ([A, B] * 4, (6 / 8, 2)),
    "twice is not three times": ([A, B, A, B, C, A], (0.0, 0)),
    "one token": ([A] * 4 + [B], (3 / 5, 1)),
    "of one set of tokens, one phrase": ([A, B] * 5 + [C, A], (10 / 12, 2)),
    "in two places, the first": ([A] * 4 + [B] + [A] * 6 + [C, A], (4 / 13, 1)),
    "a phrase of repetitions is not found": ([A, A, A, B, B, B] * 3, (6 / 18, 1)),
    "nothing": ([A, B, C], (0.0, 0)),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_authors_repetition_by_hand(name):
    ids, (rate, longest) = AUTHORS[name]
    got = published.authors_repetition(np.array(ids))
    assert got == (pytest.approx(rate, abs=1e-15), longest)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_authors_repetition_finds_nothing_that_is_none(ids):
    rate, longest = published.authors_repetition(ids)
    share, _ = measures.repetition(ids)
    assert (rate > 0) == (longest > 0)
    assert not rate or share > 0


def test_the_two_repetitions_are_two_measures():
    texts = np.random.default_rng(3).integers(0, 3, (200, 40))
    both = [(measures.repetition(ids)[0], published.authors_repetition(ids)[0]) for ids in texts]
    differ = sum(abs(ours - theirs) > 1e-9 for ours, theirs in both)
    assert 0.5 < differ / len(both) <= 1
    assert math.isnan(published.authors_repetition([])[0])
