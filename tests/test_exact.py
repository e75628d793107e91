"""Exact values and gradients, against sums over sequences that itertools lists, a naive model's log
Q and HIPS autograd.
"""

import itertools
import math
import sys

import autograd.numpy as anp
import numpy as np
import pytest
import strict_device as sd
from autograd import elementwise_grad, make_vjp
from helpers import assert_close, naive_gpt, random_gpt, twenty_five_examples
from hypothesis import example, given
from hypothesis import strategies as st

import minimixce as mm
from minimixce import exact, exact_list, exact_tree, objectives, worlds

OBJECTIVES = objectives.exact_names()
MEASURED = [*objectives.names("sequences"), "mixce"]
WITHOUT_JS = tuple(name for name in OBJECTIVES if name != "js")
# what a relative error is relative to at least: some gradients are sums of large terms that cancel
# to zero
FLOOR = 1e-3


# ---- worlds and models ---------------------------------------------------------------------------


def random_world(seed, V, S=None, zeros=0.4, log_p_floor=worlds.LOG_P_FLOOR):
    """S states with random moves, so with memory; S = None is a Markov chain. Zeros are also where
    the boundary would be.
    """
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(V), S or V)
    keep = rng.random(probs.shape) >= zeros
    keep[np.arange(len(probs)), rng.integers(0, V, len(probs))] = True
    next_state = np.tile(np.arange(V), (V, 1)) if S is None else rng.integers(0, S, probs.shape)
    for boundary in (0.0, 0.2):  # the second time, every state can end
        p = probs * keep
        p[:, 0] += boundary
        try:
            return worlds.World(
                p / p.sum(axis=1, keepdims=True), next_state, log_p_floor=log_p_floor
            )
        except ValueError:
            assert boundary == 0


def random_model(kind, seed, V, max_len, dtype="float64", n_layer=2, n_head=2):
    if kind == "gpt":
        return random_gpt(seed, V, max(1, max_len - 1), n_layer, n_head, 2 * n_head, dtype=dtype)
    if kind == "bigram":
        model = mm.Bigram(mm.BigramConfig(V, 3, 4, dtype=dtype), device="cpu")
    else:
        model = mm.TableBigram(V, device="cpu", dtype=dtype)
    rng = np.random.default_rng(seed)
    model.params = {
        name: rng.standard_normal(p.shape).astype(dtype) for name, p in model.params.items()
    }
    return model


def table(logits):
    model = mm.TableBigram(len(logits), device="cpu")
    model.params = {"logits": logits}
    return model


def on_device(model):
    """The same model on the strict device."""
    copy = object.__new__(type(model))
    copy.config, copy.params = (
        model.config,
        {name: sd.asarray(p) for name, p in model.params.items()},
    )
    return copy


KINDS = ("gpt", "bigram", "table")


# ---- the oracle ----------------------------------------------------------------------------------


class Listed:
    """Every sequence of at most T tokens: what is drawn (n,T−1), −1 where nothing is, and its
    probability step by step.
    """

    def __init__(self, world, max_len):
        V, steps = world.vocab_size, max(1, max_len - 1)
        sequences = [
            (*words, 0)
            for k in range(max_len)
            for words in itertools.product(range(1, V), repeat=k)
        ]
        n = len(sequences)
        self.drawn, self.inputs = np.full((n, steps), -1), np.zeros((n, steps), int)
        self.log_p_floor = world.log_p_floor
        self.p, self.log_p_floored, self.impossible = np.ones(n), np.zeros(n), np.zeros(n)
        for i, tokens in enumerate(sequences):
            state = 0
            for t, token in enumerate(tokens[: max_len - 1]):  # a boundary in place T is forced
                self.drawn[i, t] = token
                if t + 1 < steps:
                    self.inputs[i, t + 1] = token
                p = world.probs[state, token]
                self.p[i] *= p
                self.log_p_floored[i] += (
                    max(math.log(p), world.log_p_floor) if p > 0 else world.log_p_floor
                )
                self.impossible[i] += p == 0
                state = world.next_state[state, token]
        self.is_drawn = self.drawn >= 0
        self.onehot = np.eye(V)[self.drawn] * self.is_drawn[:, :, None]
        self.possible = self.p > 0

    def log_q(self, kind, params, config):
        """log q_t (n,T−1) by a naive model, 0 where nothing is drawn."""
        if kind == "gpt":
            logits = naive_gpt(params, self.inputs, config, None)
        elif kind == "bigram":
            x = np.eye(config.vocab_size)[self.inputs] @ params["embedding.weight"]
            x = anp.maximum(x @ params["hidden.weight"] + params["hidden.bias"], 0)
            logits = x @ params["output.weight"] + params["output.bias"]
        else:
            logits = np.eye(config.vocab_size)[self.inputs] @ params["logits"]
        log_softmax = logits - anp.log(anp.sum(anp.exp(logits), axis=-1, keepdims=True))
        return anp.sum(self.onehot * log_softmax, axis=-1)

    def value(self, objective, eta, log_q_t):
        """The definitions of math.md, "The quantities"."""
        p, some, log_q = self.p, self.possible, anp.sum(log_q_t, axis=1)
        q = anp.exp(log_q)
        m = eta * p + (1 - eta) * q
        forward_ce = -anp.sum(p * log_q)
        reverse_ce = -anp.sum(q * self.log_p_floored)
        entropy_p = -np.sum(p[some] * np.log(p[some]))
        entropy_q = -anp.sum(q * log_q)
        forward_kl = anp.sum(p[some] * (np.log(p[some]) - log_q[some]))
        reverse_kl = anp.sum(q * (log_q - self.log_p_floored))
        q_t = anp.exp(log_q_t)
        token = eta * log_q_t + (1 - eta) * q_t
        tailr = 1 - q_t if eta == 1 else -anp.log(eta + (1 - eta) * q_t) / (1 - eta)  # γ is `eta`
        return {
            "forward_ce": forward_ce,
            "reverse_ce": reverse_ce,
            "mixce_star": eta * forward_ce + (1 - eta) * reverse_ce,
            "forward_kl": forward_kl,
            "reverse_kl": reverse_kl,
            "two_kls": eta * forward_kl + (1 - eta) * reverse_kl,
            "js": (
                eta * anp.sum(p[some] * anp.log(p[some] / m[some]))
                + (1 - eta) * anp.sum(q * anp.log(q / m))
            ),
            "overlap": -anp.sum(p * q),
            "mixce": -anp.sum(p[:, None] * self.is_drawn * token),
            "mle": forward_ce,
            "tailr": anp.sum(p[:, None] * self.is_drawn * tailr),
            "entropy_p": entropy_p,
            "entropy_q": entropy_q,
            "validity": anp.sum(q[some]),
            "impossible_tokens": anp.sum(q * self.impossible),
            "reverse_ce_finite": -anp.sum(
                q * (self.log_p_floored - self.impossible * self.log_p_floor)
            ),
        }[objective]


def oracle(kind, model, world, max_len):
    """-> value(name, η), grads(name, η) by enumeration and autograd."""
    listed, names = Listed(world, max_len), list(model.params)

    def naive(values):
        return listed.log_q(kind, dict(zip(names, values)), model.config)

    pull_back, log_q = make_vjp(naive)(tuple(model.params.values()))

    def value(name, eta):
        return listed.value(name, eta, log_q)

    def grads(name, eta):
        slope = elementwise_grad(lambda log_q: listed.value(name, eta, log_q))(log_q)
        return dict(zip(names, pull_back(slope)))

    return value, grads


def assert_equal(got, loss, grads, tolerance=1e-9, name=""):
    assert_close(float(got[0]), loss, tolerance, f"{name}: loss", FLOOR)
    assert got[1].keys() == grads.keys()
    for key in grads:
        assert_close(got[1][key], grads[key], tolerance, f"{name}: {key}", FLOOR)


spaces = st.sampled_from(
    [(V, T) for V in range(2, 7) for T in range(1, 8) if exact.num_sequences(V, T) <= 400]
)
# −1 is above many a possible token's log P
floors = st.sampled_from([worlds.LOG_P_FLOOR, worlds.LOG_P_FLOOR, -1.0])
etas = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
memories = st.sampled_from([None, 1, 2, 3, 4, 5])
seeds = st.integers(0, 99)


@given(
    st.sampled_from(KINDS), spaces, memories, etas, floors, st.sampled_from([0.0, 0.4, 0.7]), seeds
)
@example("gpt", (4, 5), 3, 0.3, worlds.LOG_P_FLOOR, 0.4, 0)
@example("gpt", (3, 4), None, 0.5, worlds.LOG_P_FLOOR, 0.4, 1)
@example("gpt", (5, 1), 2, 0.5, worlds.LOG_P_FLOOR, 0.4, 2)
@example("gpt", (5, 2), 2, 0.5, worlds.LOG_P_FLOOR, 0.4, 3)
@example("bigram", (4, 5), 2, 0.0, worlds.LOG_P_FLOOR, 0.4, 4)
@example("table", (2, 7), 5, 1.0, -1.0, 0.4, 5)
@twenty_five_examples
def test_values_and_gradients_equal_brute_force(kind, space, S, eta, floor, zeros, seed):
    V, T = space
    world = random_world(seed, V, S, zeros, floor)
    model = random_model(kind, seed, V, T, n_layer=1 + seed % 2, n_head=1 + seed // 2 % 2)
    value, grads = oracle(kind, model, world, T)
    for name in OBJECTIVES:
        if name == "js" and eta in (0, 1):
            continue
        loss, expected = value(name, eta), grads(name, eta)
        for method in ("tree", "list"):
            found = exact.loss_and_grads(model, world, T, objective=name, eta=eta, method=method)
            assert_equal(found, loss, expected, name=f"{name} by {method}")
        if name in ("reverse_ce", "reverse_kl"):
            found = exact.policy_gradient(model, world, T, objective=name)
            assert_equal(found, loss, expected, name=f"{name} by costs to go")
        if kind == "table" and name != "js":
            logits = model.params["logits"]
            loss, dlogits = exact.bigram_loss_and_grads(
                logits, world, objective=name, eta=eta, max_len=T
            )
            assert_equal(
                (loss, {"logits": dlogits}),
                value(name, eta),
                expected,
                name=f"{name} by dynamic programming",
            )
    for method in ("tree", "list"):
        found = exact.measure(model, world, T, eta=eta, method=method)
        assert set(found) == {
            *MEASURED,
            "entropy_p",
            "entropy_q",
            "validity",
            "impossible_tokens",
            "reverse_ce_finite",
        }
        for name in found:
            expected = value(name, 0.5 if name == "js" and eta in (0, 1) else eta)
            assert_close(float(found[name]), expected, 1e-9, f"{name} by {method}", FLOOR)
        four = exact.cross_entropies(model, world, T, method=method)
        assert four._fields == ("forward", "reverse", "entropy_p", "entropy_q")
        assert [float(x) for x in four] == [
            float(found[k]) for k in ("forward_ce", "reverse_ce", "entropy_p", "entropy_q")
        ]


@pytest.mark.parametrize("positions", [1, 4, 10, 1000])
def test_log_prob_is_the_same_in_any_number_of_pieces(monkeypatch, positions):
    monkeypatch.setattr(exact, "_POSITIONS", positions)  # 1: a row at a time; 10: two rows
    model = random_model("gpt", 0, 4, 5)
    rows = worlds.random_markov(4, 0.3, 0).sample(7, 5, seed=1)
    logits, _ = model.forward(np.maximum(rows[:, :4], 0))
    log_q = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = [
        sum(log_q[i, t, rows[i, t + 1]] for t in range(4) if rows[i, t + 1] >= 0)
        for i in range(len(rows))
    ]
    assert_close(exact.log_prob(model, rows), expected, 1e-12)


def test_losses_are_0_d_float64_and_gradients_are_complete():
    world = random_world(0, 4)
    for kind, dtype, T in itertools.product(KINDS, ("float32", "float64"), (1, 3)):
        model = random_model(kind, 0, 4, T, dtype)
        calls = [
            exact.loss_and_grads(model, world, T, objective=o, method=m)
            for o in OBJECTIVES
            for m in ("tree", "list")
        ]
        calls += [exact.policy_gradient(model, world, T)]
        for loss, grads in calls:
            assert type(loss) is np.ndarray
            assert (loss.shape, loss.dtype) == ((), np.float64)
            assert {name: (g.shape, g.dtype) for name, g in grads.items()} == {
                name: (p.shape, p.dtype) for name, p in model.params.items()
            }
        for value in (
            *exact.measure(model, world, T).values(),
            *exact.cross_entropies(model, world, T),
        ):
            assert type(value) is np.ndarray
            assert (value.shape, value.dtype) == ((), np.float64)
    for max_len, dtype in itertools.product((None, 1, 3), ("float32", "float64")):
        logits = np.ones((4, 4), dtype)
        for objective in WITHOUT_JS:
            loss, dlogits = exact.bigram_loss_and_grads(
                logits, world, objective=objective, max_len=max_len
            )
            assert type(loss) is np.ndarray
            assert (loss.shape, loss.dtype, dlogits.shape, dlogits.dtype) == (
                (),
                np.float64,
                (4, 4),
                logits.dtype,
            )


# ---- the list of sequences -----------------------------------------------------------------------


@given(spaces, st.integers(1, 50))
@twenty_five_examples
def test_sequences_are_all_there_are_shortest_first(space, group):
    V, T = space
    rows = exact.sequences(V, T)
    expected = [(*words, 0) for k in range(T) for words in itertools.product(range(1, V), repeat=k)]
    assert len(rows) == exact.num_sequences(V, T) == len(expected)
    assert [tuple(row[1 : 1 + len(x)]) for row, x in zip(rows.tolist(), expected)] == expected
    assert all(row == [0, *x] + [-1] * (T - len(x)) for row, x in zip(rows.tolist(), expected))
    first = len(rows) // 2
    np.testing.assert_array_equal(
        exact.sequences(V, T, first, first + group), rows[first : first + group]
    )


def test_a_few_sequences_cost_the_same_at_any_horizon():
    """The list asks for them piece by piece: work that grows with the horizon would grow with its
    square.
    """

    def calls(max_len):
        seen = []
        sys.setprofile(lambda frame, event, what: seen.append(event))
        try:
            exact.sequences(2, max_len, 3, 5)
        finally:
            sys.setprofile(None)
        return len(seen)

    assert calls(50) == calls(2000) > 0
    rows = exact.sequences(2, 2000, 3, 5)
    assert rows.shape == (2, 2001)
    assert rows[:, :6].tolist() == [[0, 1, 1, 1, 0, -1], [0, 1, 1, 1, 1, 0]]
    assert (rows[:, 6:] == -1).all()


@given(st.sampled_from(KINDS), spaces, memories, seeds)
@example("gpt", (5, 1), None, 0)
@twenty_five_examples
def test_all_probabilities_sum_to_one(kind, space, S, seed):
    V, T = space
    world, model, rows = (
        random_world(seed, V, S),
        random_model(kind, seed, V, T),
        exact.sequences(V, T),
    )
    for log_prob in (world.log_prob(rows), exact.log_prob(model, rows)):
        assert (log_prob.shape, log_prob.dtype) == ((len(rows),), np.float64)
        assert abs(np.exp(log_prob).sum() - 1) <= 1e-12


def test_entropy_of_the_world_is_the_worlds_own():
    for seed, S, T in itertools.product(range(3), (None, 3), (1, 2, 5)):
        world, model = random_world(seed, 4, S), random_model("table", 0, 4, T)
        assert_close(
            float(exact.cross_entropies(model, world, T).entropy_p), world.entropy(T), 1e-12
        )


# ---- identities ----------------------------------------------------------------------------------


def positive_markov(seed, V=5):
    rng = np.random.default_rng(seed)
    return worlds.markov(rng.dirichlet(np.ones(V), V))


@pytest.mark.parametrize("max_len", [1, 2, 5, None])
def test_divergences_and_their_gradients_vanish_where_q_is_p(max_len):
    world = positive_markov(0)
    # a constant per row changes nothing, and exp(800) is infinite
    logits = np.log(world.probs) + 200 * np.arange(5)[:, None]
    for name in ("forward_kl", "reverse_kl", "two_kls"):
        loss, grads = exact.bigram_loss_and_grads(
            logits, world, objective=name, eta=0.3, max_len=max_len
        )
        assert abs(loss) <= 1e-12
        assert np.abs(grads).max() <= 1e-12
    if max_len is None:
        return
    for name in ("forward_kl", "reverse_kl", "two_kls", "js"):
        for method in ("tree", "list"):
            loss, grads = exact.loss_and_grads(
                table(logits), world, max_len, objective=name, eta=0.3, method=method
            )
            assert abs(loss) <= 1e-12
            assert np.abs(grads["logits"]).max() <= 1e-12
    loss, grads = exact.policy_gradient(table(logits), world, max_len, objective="reverse_kl")
    assert abs(loss) <= 1e-12
    assert np.abs(grads["logits"]).max() <= 1e-12


def test_reverse_cross_entropy_of_p_itself_is_not_stationary():
    world = positive_markov(0)
    for name in ("reverse_ce", "mixce_star", "overlap", "mixce"):
        _, grads = exact.bigram_loss_and_grads(
            np.log(world.probs), world, objective=name, max_len=4
        )
        assert np.abs(grads).max() > 1e-3, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_mixce_star_is_two_kls_and_both_entropies(kind, eta):
    for seed in range(3):
        world, model = random_world(seed, 4, S=3), random_model(kind, seed, 4, 5)
        star, kls = (
            float(exact.loss_and_grads(model, world, 5, objective=o, eta=eta)[0])
            for o in ("mixce_star", "two_kls")
        )
        four = exact.cross_entropies(model, world, 5)
        assert_close(star, float(kls + (1 - eta) * four.entropy_q + eta * four.entropy_p), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", ["reverse_ce", "reverse_kl"])
def test_policy_gradient_theorem(kind, objective):
    for seed, T in itertools.product(range(3), (1, 2, 6)):
        world, model = random_world(seed, 5, S=4), random_model(kind, seed, 5, T)
        expected = exact.loss_and_grads(model, world, T, objective=objective)
        assert_equal(exact.policy_gradient(model, world, T, objective=objective), *expected, 1e-12)


@given(spaces.filter(lambda space: space[1] > 1), st.sampled_from(KINDS), seeds)
@twenty_five_examples
def test_exact_forward_ce_is_mle_times_targets_per_sequence(space, kind, seed):
    """On the sequences of a corpus, whose distribution is an n-gram world with n beyond every
    context; token MixCE alike.
    """
    V, T = space
    rows = random_world(seed, V, S=3).sample(20, T, seed)
    world, model = worlds.ngram(rows, T + 1, V), random_model(kind, seed, V, T)
    inputs, targets = world.batch(rows)
    factor = (targets >= 0).sum() / len(rows)
    for name, objective, options in (
        ("forward_ce", objectives.mle, {}),
        ("mixce", objectives.mixce, {"eta": 0.3}),
    ):
        logits, cache = model.forward(inputs)
        loss, dlogits = objective(logits, targets, **options)
        grads = model.backward(factor * dlogits, cache)
        found = exact.loss_and_grads(model, world, T, objective=name, eta=0.3)
        assert_equal(found, float(factor * loss), grads, 1e-10, name)


# ---- dynamic programming and closed form ---------------------------------------------------------


@pytest.mark.parametrize("objective", WITHOUT_JS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_dynamic_programming_approaches_the_closed_form(objective, eta):
    for seed in range(2):
        # zeros, and soon over
        world = worlds.markov(0.9 * worlds.random_markov(5, 0.5, seed).probs + 0.1 * np.eye(5)[:1])
        logits = np.random.default_rng(seed).standard_normal((5, 5))
        loss, grads = exact.bigram_loss_and_grads(logits, world, objective=objective, eta=eta)
        errors = []
        for max_len in (3, 6, 12, 24, 48, 1000):
            found = exact.bigram_loss_and_grads(
                logits, world, objective=objective, eta=eta, max_len=max_len
            )
            errors.append(
                max(
                    abs(found[0] - loss) / abs(loss),
                    np.abs(found[1] - grads).max() / np.abs(grads).max(),
                )
            )
        assert errors[0] > 1e-4
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] <= 1e-12


@pytest.mark.parametrize("objective", WITHOUT_JS)
def test_the_closed_form_has_the_gradient_of_its_value(objective):
    world = worlds.random_markov(4, 0.5, 3)

    def forward(logits):
        loss, dlogits = exact.bigram_loss_and_grads(logits, world, objective=objective, eta=0.3)
        return loss, dlogits

    report = mm.gradcheck(
        forward,
        lambda dy, dlogits: (dy * dlogits,),
        [np.random.default_rng(0).standard_normal((4, 4))],
    )
    assert report.ok, f"\n{report}"


@pytest.mark.parametrize("objective", WITHOUT_JS)
def test_dynamic_programming_equals_list_and_tree_for_any_bigram(objective):
    """A table's own logits, and a neural bigram through the table that it computes."""
    for S, T in itertools.product((None, 4), (1, 2, 3, 6)):
        world = random_world(S or 0, 4, S)
        for kind in ("table", "bigram"):
            model = random_model(kind, T, 4, T)
            logits, cache = model.forward(np.arange(4)[:, None])
            loss, dlogits = exact.bigram_loss_and_grads(
                logits[:, 0], world, objective=objective, eta=0.3, max_len=T
            )
            expected = model.backward(dlogits[:, None], cache)
            for method in ("tree", "list"):
                found = exact.loss_and_grads(
                    model, world, T, objective=objective, eta=0.3, method=method
                )
                assert_equal(found, float(loss), expected, 1e-11, f"{kind} {method}")


@pytest.mark.parametrize("max_len", [1, 2, 4, None])
def test_counts_replace_p_in_the_forward_term(max_len):
    world, rng = random_world(1, 4), np.random.default_rng(0)
    logits, counts = rng.standard_normal((4, 4)), rng.integers(0, 9, (4, 4))
    shares = counts / counts[0].sum()
    entropy = world.entropy(max_len)

    def naive(objective, logits):
        log_q = logits - anp.log(anp.sum(anp.exp(logits), axis=1, keepdims=True))
        return {
            "forward_ce": -anp.sum(shares * log_q),
            "forward_kl": -anp.sum(shares * log_q) - entropy,
            "mixce": -anp.sum(shares * (0.3 * log_q + 0.7 * anp.exp(log_q))),
        }[objective]

    def find(objective, counts=counts, eta=0.3):
        return exact.bigram_loss_and_grads(
            logits, world, objective=objective, eta=eta, max_len=max_len, counts=counts
        )

    for name in ("forward_ce", "forward_kl", "mixce"):
        pull_back, value = make_vjp(lambda x, name=name: naive(name, x))(logits)
        assert_equal((find(name)[0], {"": find(name)[1]}), value, {"": pull_back(1.0)}, 1e-12, name)
        np.testing.assert_array_equal(find(name, 1.0 * counts)[1], find(name)[1])
    for mixture, parts in {
        "mixce_star": ("forward_ce", "reverse_ce"),
        "two_kls": ("forward_kl", "reverse_kl"),
    }.items():
        (f, df), (r, dr) = (find(part) for part in parts)
        assert_equal(
            (find(mixture)[0], {"": find(mixture)[1]}),
            0.3 * f + 0.7 * r,
            {"": 0.3 * df + 0.7 * dr},
            1e-12,
            mixture,
        )
    for name in ("reverse_ce", "reverse_kl", "overlap"):
        np.testing.assert_array_equal(find(name)[1], find(name, None)[1])
    # the counts of a large sample are the world's own
    own = exact.bigram_counts(world, max_len)
    if max_len != 1:
        assert_equal(
            (find("mixce_star", 7 * own)[0], {"": find("mixce_star", 7 * own)[1]}),
            *_keyed(find("mixce_star", None)),
            1e-12,
        )


def _keyed(found):
    return float(found[0]), {"": found[1]}


@pytest.mark.parametrize("S", [None, 3])
def test_bigram_counts_are_expected_numbers_of_pairs(S):
    for max_len in (1, 2, 4, 5):
        world, expected = random_world(2, 4, S), np.zeros((4, 4))
        listed = Listed(world, max_len)
        for p, before, after in zip(listed.p, listed.inputs, listed.drawn):
            for s, v in zip(before, after):
                expected[s, v] += p * (v >= 0)
        assert_close(exact.bigram_counts(world, max_len), expected, 1e-12)
        exact.bigram_counts(world, max_len)[:] = 0  # the caller's own
        assert_close(exact.bigram_counts(world, max_len), expected, 1e-12)
    if S is None:
        assert_close(exact.bigram_counts(world), exact.bigram_counts(world, 3000), 1e-12)


def test_states_that_cannot_be_reached_do_no_harm():
    """Token 2 never comes and, if it did, would never end: the closed form of P is that of the two
    other tokens.
    """
    probs = np.array([[0.5, 0.5, 0], [0.3, 0.7, 0], [0, 0, 1]])
    world, logits = worlds.markov(probs), np.zeros((3, 3))
    for objective in WITHOUT_JS:
        loss, grads = exact.bigram_loss_and_grads(logits, world, objective=objective)
        limit, dlimit = exact.bigram_loss_and_grads(
            logits, world, objective=objective, max_len=3000
        )
        assert_equal((loss, {"": grads}), float(limit), {"": dlimit}, 1e-12, objective)


# ---- measures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tree", "list"])
def test_what_measures_are_to_each_other(method):
    world, model = random_world(3, 4, S=3, zeros=0.5), random_model("gpt", 0, 4, 6)
    found = {
        name: float(value)
        for name, value in exact.measure(model, world, 6, eta=0.3, method=method).items()
    }
    for name in MEASURED:
        assert_close(
            found[name],
            float(exact.loss_and_grads(model, world, 6, objective=name, eta=0.3)[0]),
            1e-12,
            name,
        )
    assert 0 < found["validity"] < 1
    assert found["impossible_tokens"] > 0
    assert_close(
        found["reverse_ce"],
        found["reverse_ce_finite"] - world.log_p_floor * found["impossible_tokens"],
        1e-12,
    )
    lower = worlds.World(world.probs, world.next_state, log_p_floor=-500.0)
    other = exact.measure(model, lower, 6, eta=0.3, method=method)
    for name in (
        "reverse_ce_finite",
        "impossible_tokens",
        "validity",
        "js",
        "overlap",
        "forward_ce",
    ):
        assert_close(float(other[name]), found[name], 1e-12, name)  # none of these knows the floor
    assert_close(
        float(other["reverse_ce"]),
        found["reverse_ce_finite"] + 500 * found["impossible_tokens"],
        1e-12,
    )


def test_an_unlikely_sequence_is_not_an_impossible_one():
    # three tokens 1 underflow: P(x) = 0 in float64, but not impossible
    probs = np.array([[1, 1e-200], [1, 1e-200]])
    for method in ("tree", "list"):
        found = exact.measure(table(np.zeros((2, 2))), worlds.markov(probs), 5, method=method)
        assert float(found["validity"]) == 1
        assert float(found["impossible_tokens"]) == 0


def test_validity_is_the_share_of_possible_samples():
    world, model = worlds.agreement(), random_model("table", 0, 6, 4)
    tokens = model.generate(np.zeros((20000, 1), int), 3, stop=0, seed=1)
    rows = np.concatenate([tokens, np.zeros((20000, 1), int)], axis=1)
    rows[:, 1:][np.cumsum(rows[:, 1:] == 0, axis=1) - (rows[:, 1:] == 0) > 0] = -1
    share, validity = world.validity(rows), float(exact.measure(model, world, 4)["validity"])
    assert 0.001 < validity < 0.2
    assert abs(share - validity) < 4 * math.sqrt(validity / 20000)


# ---- groups of rows, and precision ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_rows_change_nothing(monkeypatch, kind):
    world, model = random_world(0, 4, S=3), random_model(kind, 0, 4, 5)

    def results(rows):
        monkeypatch.setattr(exact_list, "rows_at_once", lambda xp: rows)
        monkeypatch.setattr(exact_tree, "rows_at_once", lambda xp: rows)
        calls = {o: exact.loss_and_grads(model, world, 5, objective=o, eta=0.3) for o in OBJECTIVES}
        for o in ("js", "mixce"):
            calls[f"{o} by list"] = exact.loss_and_grads(
                model, world, 5, objective=o, method="list"
            )
        calls["costs to go"] = exact.policy_gradient(model, world, 5)
        measures = [
            {k: float(v) for k, v in exact.measure(model, world, 5, method=m).items()}
            for m in ("tree", "list")
        ]
        return calls, measures

    whole_calls, whole_measures = results(10**6)
    for rows in (1, 3, 7, 40):
        calls, measures = results(rows)
        for name, (loss, grads) in whole_calls.items():
            assert_equal(calls[name], float(loss), grads, 1e-12, f"{name}, {rows} rows")
        for expected, found in zip(whole_measures, measures):
            for name in expected:
                assert_close(found[name], expected[name], 1e-12, f"{name}, {rows} rows")


def test_memory_does_not_grow_with_the_space(monkeypatch):
    """The model sees rows_at_once rows, however many sequences there are."""
    seen = []
    original = mm.GPT.extend_forward
    monkeypatch.setattr(
        mm.GPT,
        "extend_forward",
        lambda self, x, past=None, *a: (seen.append(x.size), original(self, x, past, *a))[1],
    )
    monkeypatch.setattr(exact_list, "rows_at_once", lambda xp: 50)
    monkeypatch.setattr(exact_tree, "rows_at_once", lambda xp: 50)
    world, model = random_world(0, 4), random_model("gpt", 0, 4, 7, n_layer=1)
    exact.loss_and_grads(model, world, 7)
    assert sum(seen) == sum(3**k for k in range(6))  # every prefix once
    assert max(seen) <= 50
    seen.clear()
    exact.loss_and_grads(model, world, 7, method="list")
    assert max(seen) <= 50


def test_sums_are_in_float64_whatever_the_model_computes_in():
    world, single = random_world(0, 4, S=3), random_model("table", 0, 4, 6, "float32")
    logits = single.params["logits"]
    double = table(logits.astype("float64"))  # the same logits exactly
    for method in ("tree", "list"):
        found, expected = (
            exact.measure(model, world, 6, method=method) for model in (single, double)
        )
        for name in expected:
            assert_close(float(found[name]), float(expected[name]), 1e-14, name)
    found, expected = (
        exact.bigram_loss_and_grads(x, world, max_len=6)[0]
        for x in (logits, double.params["logits"])
    )
    assert_close(float(found), float(expected), 1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_models_are_close_to_float64(kind):
    world = random_world(0, 4, S=3)
    single, double = (random_model(kind, 0, 4, 6, dtype) for dtype in ("float32", "float64"))
    for name, method in itertools.product(OBJECTIVES, ("tree", "list")):
        loss, grads = exact.loss_and_grads(double, world, 6, objective=name)
        found = exact.loss_and_grads(single, world, 6, objective=name, method=method)
        assert_close(float(found[0]), float(loss), 1e-5, name)
        whole, error = (
            math.sqrt(sum(np.square(x).sum() for x in xs))
            for xs in (
                grads.values(),
                [found[1][key] - grads[key] for key in grads],
            )
        )
        assert error <= 1e-4 * whole, name


# ---- complaints ----------------------------------------------------------------------------------


class Untouched:
    """A model that may be asked for its config and nothing else."""

    def __init__(self, vocab_size=4, block_size=10**9):
        self.params = {"any": np.zeros(1)}
        self.config = mm.GPTConfig(vocab_size, block_size, 1, 1, 1)

    def extend_forward(self, *args, **options):
        raise AssertionError("the model was called")

    forward = extend_forward


CALLS = {
    "tree": lambda model, world, max_len, **o: exact.loss_and_grads(model, world, max_len, **o),
    "list": lambda model, world, max_len, **o: exact.loss_and_grads(
        model, world, max_len, method="list", **o
    ),
    "policy_gradient": exact.policy_gradient,
    "measure": exact.measure,
    "cross_entropies": exact.cross_entropies,
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@every_call
def test_bad_horizons_models_and_spaces_are_refused_before_the_model_is_called(call):
    world = random_world(0, 4)
    for max_len in (0, -1, 2.0, True, None, "3"):
        with pytest.raises(
            ValueError, match=f"max_len must be an integer, at least 1, got {max_len!r}"
        ):
            call(Untouched(), world, max_len)
    with pytest.raises(
        ValueError, match="model and world must share a vocabulary, got 5 and 4 tokens"
    ):
        call(Untouched(5), world, 3)
    with pytest.raises(ValueError, match="max_len 6 needs a block_size of at least 5, got 4"):
        call(Untouched(4, 4), world, 6)
    with pytest.raises(AssertionError, match="the model was called"):
        call(Untouched(4, 5), world, 6)
    message = (
        "4 tokens and max_len 9 make 9,841 sequences, more than max_sequences = 9,840; choose a"
        " smaller max_len, or sample"
    )
    with pytest.raises(ValueError, match=message):
        call(Untouched(), world, 9, max_sequences=9840)
    with pytest.raises(AssertionError, match="the model was called"):
        call(Untouched(), world, 9, max_sequences=9841)
    with pytest.raises(
        ValueError, match="make 21,523,360 sequences, more than max_sequences = 20,000,000"
    ):
        call(Untouched(), world, 16)


def test_bad_options_are_refused():
    world, model = random_world(0, 4), Untouched()
    for eta in (-0.1, 1.1, math.nan):
        for find in (exact.loss_and_grads, exact.measure):
            with pytest.raises(ValueError, match=f"eta must be between 0 and 1, got {eta}"):
                find(model, world, 3, eta=eta)
        with pytest.raises(ValueError, match=f"eta must be between 0 and 1, got {eta}"):
            exact.bigram_loss_and_grads(np.zeros((4, 4)), world, eta=eta)
    for eta in (0, 1):
        with pytest.raises(
            ValueError,
            match=f"eta must be above 0 and below 1 for js, which is zero there, got {eta}",
        ):
            exact.loss_and_grads(model, world, 3, objective="js", eta=eta)
    for objective in ("emo", "mixce_surrogate", "gan"):  # two that stop a gradient, and none
        allowed = r"objective must be one of mle, mixce, tailr, forward_ce, .*, two_kls,"
        with pytest.raises(ValueError, match=f"{allowed} js, overlap, got '{objective}'"):
            exact.loss_and_grads(model, world, 3, objective=objective)
        with pytest.raises(ValueError, match=f"{allowed} overlap, got '{objective}'"):
            exact.bigram_loss_and_grads(np.zeros((4, 4)), world, objective=objective)
    for objective in ("forward_ce", "mixce_star", "js", "mle"):
        with pytest.raises(
            ValueError,
            match=f'objective must be "reverse_ce" or "reverse_kl" .* got \'{objective}\'',
        ):
            exact.policy_gradient(model, world, 3, objective=objective)
    for find in (exact.loss_and_grads, exact.measure, exact.cross_entropies):
        with pytest.raises(ValueError, match='method must be "tree" or "list", got \'dp\''):
            find(model, world, 3, method="dp")


def test_bad_tables_are_refused():
    markov, memory, logits = random_world(0, 4), random_world(0, 4, S=3), np.zeros((4, 4))
    with pytest.raises(ValueError, match="js has no dynamic programme: use loss_and_grads"):
        exact.bigram_loss_and_grads(logits, markov, objective="js")
    for shape in ((4,), (4, 5), (5, 5)):
        with pytest.raises(ValueError, match=r"q_logits must have shape \(4,4\), got "):
            exact.bigram_loss_and_grads(np.zeros(shape), markov)
    with pytest.raises(TypeError, match="expected a NumPy or CuPy array, got list"):
        exact.bigram_loss_and_grads(logits.tolist(), markov)
    with pytest.raises(ValueError, match="max_len=None needs a Markov world"):
        exact.bigram_loss_and_grads(logits, memory)
    for max_len in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="max_len must be an integer, at least 1"):
            exact.bigram_loss_and_grads(logits, memory, max_len=max_len)
    starts_nowhere = np.ones((4, 4)) * (np.arange(4) > 0)[:, None]
    for counts in (
        np.ones((3, 4)),
        np.ones(4),
        -np.ones((4, 4)),
        starts_nowhere,
        np.full((4, 4), np.nan),
        np.zeros((4, 4)),
    ):
        with pytest.raises(
            ValueError, match=r"counts must be \(4, 4\), not negative, with sequences that start"
        ):
            exact.bigram_loss_and_grads(logits, markov, counts=counts)


def test_without_a_horizon_q_must_end():
    world, logits = random_world(0, 4), np.zeros((4, 4))
    for low in (-25, -40, -800):
        logits[:, 0] = low
        for objective in ("reverse_ce", "reverse_kl", "two_kls", "mixce_star"):
            with pytest.raises(
                FloatingPointError, match=r"Q hardly ever ends a sequence.*give a max_len"
            ):
                exact.bigram_loss_and_grads(logits, world, objective=objective)
            loss, grads = exact.bigram_loss_and_grads(
                logits, world, objective=objective, max_len=20
            )
            assert np.isfinite(loss)
            assert np.isfinite(grads).all()
    assert np.isfinite(exact.bigram_loss_and_grads(logits, world, objective="overlap")[0])


# ---- devices -------------------------------------------------------------------------------------


def assert_on_device(found, expected, tolerance=1e-12):
    """found: arrays of the device, in a dict, a tuple or alone."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_on_device(found[key], expected[key])
    elif isinstance(expected, tuple):
        for pair in zip(found, expected):
            assert_on_device(*pair)
    else:
        assert type(found) is sd.ndarray
        assert found.dtype == np.asarray(expected).dtype
        assert_close(found.get(), expected, tolerance, floor=FLOOR)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_len", [1, 2, 4])
def test_everything_stays_on_the_device(kind, max_len):
    for S in (None, 3):
        world, model = random_world(0, 4, S), random_model(kind, 0, 4, max_len)
        calls = [
            lambda m, o=o, method=method, world=world: exact.loss_and_grads(
                m, world, max_len, objective=o, method=method
            )
            for o, method in itertools.product(OBJECTIVES, ("tree", "list"))
        ]
        calls += [
            lambda m, o=o, w=world: exact.policy_gradient(m, w, max_len, objective=o)
            for o in ("reverse_ce", "reverse_kl")
        ]
        calls += [
            lambda m, method=method, w=world: exact.measure(m, w, max_len, method=method)
            for method in ("tree", "list")
        ]
        calls += [lambda m, w=world: tuple(exact.cross_entropies(m, w, max_len))]
        calls += [lambda m: exact.log_prob(m, m.xp.asarray(exact.sequences(4, max_len)))]
        copy = on_device(model)
        for call in calls:
            with sd.no_host_reads():
                found = call(copy)
            assert_on_device(found, call(model))


@pytest.mark.parametrize("objective", WITHOUT_JS)
@pytest.mark.parametrize("max_len", [1, 2, 5, None])
def test_tables_stay_on_the_device(objective, max_len):
    world, logits = random_world(0, 4), random_model("table", 0, 4, 5).params["logits"]
    for counts in (None, np.arange(16).reshape(4, 4)):
        options = {"objective": objective, "eta": 0.3, "max_len": max_len}
        with sd.no_host_reads():
            on_device_counts = None if counts is None else sd.asarray(counts)
            found = exact.bigram_loss_and_grads(
                sd.asarray(logits), world, counts=on_device_counts, **options
            )
        assert_on_device(
            found, exact.bigram_loss_and_grads(logits, world, counts=counts, **options)
        )


# ---- what each objective learns where a bigram cannot fit ----------------------------------------


# objective, η: probability under the best table of each possible sentence, "cat sleeps" being the
# first
AGREEMENT = {
    ("forward_ce", 0.5): (0.3000, 0.2000, 0.1800, 0.0800),
    ("mixce", 0.5): (0.3229, 0.1771, 0.2085, 0.0627),
    ("mixce", 0.1): (0.4204, 0.0796, 0.3535, 0.0127),
    ("mixce", 0.01): (0.4902, 0.0098, 0.4806, 0.0002),
    ("two_kls", 0.5): (0.4215, 0.2810, 0.2913, 0.0000),
    ("mixce_star", 0.5): (0.5826, 0.2173, 0.1943, 0.0000),
    ("reverse_kl", 0.5): (3 / 8, 1 / 4, 3 / 8, 0),  # P without its last sentence
    ("reverse_ce", 0.5): (1, 0, 0, 0),
    ("overlap", 0.5): (1, 0, 0, 0),
}
LEAST_LOSS = {"reverse_kl": -math.log(0.8), "reverse_ce": -math.log(0.3), "overlap": -0.3}


def best_table(world, max_len, objective, eta, steps=1500):
    """The table of the least loss that Adam finds from three random starts and one near maximum
    likelihood -> loss, logits.
    """
    counts, found = exact.bigram_counts(world, max_len), []
    frequent = np.log(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9) + 0.01)
    for seed, (start, spread) in enumerate([(0, 1.0)] * 3 + [(frequent, 0.1)]):
        logits, m, v = (
            start + spread * np.random.default_rng(seed).standard_normal(counts.shape),
            0,
            0,
        )
        for k in range(1, steps + 1):
            loss, g = exact.bigram_loss_and_grads(
                logits, world, objective=objective, eta=eta, max_len=max_len
            )
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            step = 0.3 * 0.01 ** (k / steps)
            logits = logits - step * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.99**k)) + 1e-12)
        found.append((float(loss), seed, logits))
    loss, _, logits = min(found)
    return loss, logits


@pytest.mark.parametrize(
    ("objective", "eta"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if 0 < k < len(AGREEMENT) - 1 else [])
        for k, case in enumerate(AGREEMENT)
    ],
)
def test_the_best_bigrams_of_a_world_no_bigram_can_learn(objective, eta):
    """Maximum likelihood spends 24 % on the impossible; the more reverse the objective, the less,
    and the fewer sentences.
    """
    world = worlds.agreement()
    loss, logits = best_table(world, 4, objective, eta)
    rows = exact.sequences(6, 4)
    possible = rows[world.log_prob(rows) > -math.inf]
    np.testing.assert_allclose(
        np.exp(exact.log_prob(table(logits), possible)), AGREEMENT[objective, eta], atol=2e-3
    )
    validity = float(exact.measure(table(logits), world, 4)["validity"])
    assert abs(validity - sum(AGREEMENT[objective, eta])) <= 2e-3
    if objective in LEAST_LOSS:
        assert -1e-12 <= loss - LEAST_LOSS[objective] <= 2e-3


def test_maximum_likelihood_counts_pairs():
    world = worlds.agreement()
    counts = exact.bigram_counts(world, 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = np.log(counts / counts.sum(axis=1, keepdims=True))
    logits = np.where(np.isfinite(logits), logits, -800.0)  # a softmax of zeros and ones exactly
    loss, grads = exact.bigram_loss_and_grads(logits, world, objective="forward_ce", max_len=4)
    assert np.abs(grads).max() <= 1e-12
    assert abs(float(exact.measure(table(logits), world, 4)["validity"]) - 0.76) <= 1e-12
    entropies = -(counts * np.where(counts > 0, logits, 0)).sum()
    assert_close(float(loss), entropies, 1e-12)


def test_what_the_closed_form_and_the_tree_cannot_do_is_said():
    world = worlds.markov(np.full((4, 4), 0.25))
    stuck = np.zeros((4, 4))
    stuck[2] = [-800, -800, 0, -800]
    with pytest.raises(FloatingPointError, match="hardly ever ends"):
        exact.bigram_loss_and_grads(stuck, world)
    with pytest.raises(TypeError, match="q_logits must be float32 or float64, got int64"):
        exact.bigram_loss_and_grads(np.zeros((4, 4), int), world)
    with pytest.raises(TypeError, match="expected a NumPy or CuPy array, got list"):
        exact.bigram_loss_and_grads(stuck, world, counts=[[1.0] * 4] * 4)
    with pytest.raises(ValueError, match=r"make about 10\^4771 sequences"):
        exact.loss_and_grads(mm.TableBigram(4), world, 10_001, method="list")
    two = worlds.markov(np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="max_len must be at most 400 for the tree"):
        exact.loss_and_grads(mm.TableBigram(2), two, 1200)
    loss, _ = exact.loss_and_grads(
        mm.TableBigram(2), two, 1200, method="list", objective="reverse_ce"
    )
    assert float(loss) == pytest.approx(2 * np.log(2), rel=1e-9)
