"""The numbers and claims of tutorials/estimating_kl.md, summed over every sequence."""

import re
from pathlib import Path

import numpy as np
import pytest

import minimixce as mm
from minimixce import estimators

PAGE = Path(__file__).parent.parent / "tutorials" / "estimating_kl.md"
LOSSES = {
    "`k1`": lambda *args: estimators.k1(*args),
    "`k2`": lambda *args: estimators.k2(*args),
    "`k3`": lambda *args: estimators.k3(*args),
    "`k2` per token": lambda *args: estimators.k2(*args, per="token"),
    "`k3` per token": lambda *args: estimators.k3(*args, per="token"),
}


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lesson():
    """Model and world of lesson 5, the horizon, and {objective: (value, gradient)}."""
    world, horizon = mm.worlds.agreement(), 4
    V = world.vocab_size
    counts = mm.exact.bigram_counts(world, horizon)
    model = mm.TableBigram(V)
    model.params["logits"][:] = np.log(0.94 * counts / counts.sum(axis=1, keepdims=True) + 0.06 / V)
    exact = {}
    for objective in ("reverse_kl", "forward_kl"):
        value, grads = mm.exact.loss_and_grads(model, world, horizon, objective=objective)
        exact[objective] = float(value), grads["logits"]
    return model, world, horizon, exact


def mean(loss, lesson):
    """Over all sequences -> value, gradient (V,V)."""
    model, world, horizon, _ = lesson
    rows = mm.exact.sequences(world.vocab_size, horizon)
    q = np.exp(mm.exact.log_prob(model, rows))
    found = [loss(model, world, row[None]) for row in rows]
    gradient = sum(p * grads["logits"] for p, (_, grads) in zip(q, found))
    return sum(p * float(value) for p, (value, _) in zip(q, found)), gradient


@pytest.mark.parametrize("name", LOSSES)
def test_the_row_of_the_table_is_what_the_sums_give(name, page, lesson):
    value, gradient = mean(LOSSES[name], lesson)
    to_q_p, to_p_q = (
        np.linalg.norm(gradient - target) / np.linalg.norm(target)
        for _, target in lesson[-1].values()
    )
    row = f"{value:.2f} | {np.linalg.norm(gradient):.3f} | {to_q_p:.2f} | {to_p_q:.2f}"
    assert f"\n| {name} | {row} |\n" in page


def test_the_numbers_below_the_table(page, lesson):
    _, world, horizon, exact = lesson
    (kl, of_q_p), (_, of_p_q) = exact.values()
    said = (
        f"is {kl:.2f} nats; its gradient has length {np.linalg.norm(of_q_p):.3f}, that of"
        f" $\\mathrm{{KL}}(P \\Vert Q)$ {np.linalg.norm(of_p_q):.3f}."
    )
    words = re.sub(r"\s+", " ", page)
    assert said in words
    assert f"all {len(mm.exact.sequences(world.vocab_size, horizon))} sequences" in words
    assert f"−{-world.log_p_floor:.2f} nats" in words


def test_k3_per_token_is_the_other_divergence_token_by_token(lesson):
    """Σ_h Q(h) ∇ KL(P(·|h)‖Q(·|h)), prefixes h held fixed."""
    model, world, horizon, _ = lesson
    rows = mm.exact.sequences(world.vocab_size, horizon)
    Q = np.exp(mm.exact.log_prob(model, rows))
    q = np.exp(mm.logprob.log_softmax(model.params["logits"]))
    tables, expected = world.tables(np), np.zeros_like(q)
    reached = {}
    for row, probability in zip(rows, Q):
        for t in range(1, horizon):
            prefix = tuple(int(v) for v in row[1:t])
            if all(v > 0 for v in prefix):
                reached[prefix] = reached.get(prefix, 0.0) + probability
    for prefix, probability in reached.items():
        state = 0
        for token in prefix:
            state = tables.next_state[state, token]
        last = prefix[-1] if prefix else 0
        expected[last] += probability * (q[last] - np.exp(tables.log_p[state]))
    np.testing.assert_allclose(mean(LOSSES["`k3` per token"], lesson)[1], expected, atol=1e-12)
