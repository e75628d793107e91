"""The synthetic experiments: data, optima against counting and fixed points, the paper's protocol,
and grids of runs.
"""

import csv
import functools
import importlib.util
import inspect
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import minimixce as mm
from minimixce import cli, estimators, exact, logprob, objectives, optim, worlds
from minimixce.experiments import matrices, plots, pool
from minimixce.experiments.fixed_points import fixed_point
from minimixce.experiments.synthetic import curves, grid, optima, paper, study
from minimixce.experiments.synthetic import data as data_module
from minimixce.experiments.synthetic.job import Job, information_used

SMALL = ("--vocab", "5,6", "--seeds", "1,2", "--etas", "0.1,0.5,1", "--quiet")


@pytest.fixture
def few_sequences(monkeypatch):
    """Five thousand training sequences instead of fifty thousand."""
    monkeypatch.setattr(data_module, "data_of", functools.partial(data_module.data_of, train=5_000))


def a_thousand_sequences(monkeypatch):
    """A thousand training sequences and a hundred held out."""
    monkeypatch.setattr(
        data_module, "data_of", functools.partial(data_module.data_of, train=1_000, development=100)
    )


# ---- the measure and the optimizer ---------------------------------------------------------------


def test_rows_that_no_sequence_comes_to_do_not_count():
    """As a corpus's world may have them: there are no data to learn them from."""
    probs = np.array([[0.2, 0.8, 0.0], [0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    world, learned = (
        mm.worlds.markov(probs),
        np.array([[0.3, 0.7, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]),
    )
    assert world.reachable.tolist() == [True, True, False]
    assert (
        curves.average_js(world, learned)
        == matrices.average_js(probs[:2], learned[:2])
        < matrices.average_js(probs, learned)
    )


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_adam_has_the_decay_inside_the_gradient(l2):
    rng = np.random.default_rng(0)
    params = {"matrix": rng.standard_normal((2, 3)), "vector": rng.standard_normal(3)}
    expected, m, v = ({name: p.copy() for name, p in params.items()} for _ in range(3))
    m, v = ({name: 0.0 for name in params} for _ in range(2))
    optimizer = optim.Adam(params, 0.1, l2=l2)
    for t in range(1, 5):
        grads = {name: rng.standard_normal(p.shape) for name, p in params.items()}
        for name, p in expected.items():
            g = grads[name] + l2 * p
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.999 * v[name] + 0.001 * g * g
            expected[name] = p - 0.1 * (m[name] / (1 - 0.9**t)) / (
                np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8
            )
        optimizer.step(grads)
    for name, p in params.items():
        np.testing.assert_allclose(p, expected[name], rtol=1e-12)
    with pytest.raises(ValueError, match="l2 must be"):
        optim.Adam(params, 0.1, l2=-1)


@pytest.mark.parity
def test_adam_is_pytorchs():
    torch = pytest.importorskip("torch")
    params = {"p": np.random.default_rng(0).standard_normal((2, 3))}
    tensor = torch.tensor(params["p"].copy(), requires_grad=True)
    ours, theirs = (
        optim.Adam(params, 0.1, l2=0.2),
        torch.optim.Adam([tensor], 0.1, weight_decay=0.2),
    )
    for k in range(5):
        g = np.random.default_rng(k).standard_normal((2, 3))
        tensor.grad = torch.tensor(g)
        theirs.step()
        ours.step({"p": g})
    np.testing.assert_allclose(params["p"], tensor.detach().numpy(), rtol=1e-12)


# ---- data ----------------------------------------------------------------------------------------


def test_an_end_that_is_forced_is_no_token_of_the_data(monkeypatch):
    """Where many sequences are cut off, each row of the counts still is a sample of the world's
    row, the end's column too.
    """
    monkeypatch.setattr(data_module, "LONGEST", 4)
    data = data_module.data_of.__wrapped__("", 6, 0.5, 3, train=20_000, development=1_000)
    lengths = np.diff(data.starts)
    # the fourth token is the forced end
    assert lengths.max() == data.development_lengths.max() == 3
    assert (len(lengths), len(data.development_lengths)) == (20_000, 1_000)
    assert data.development_lengths.sum() == len(data.development)
    counts, p = data_module.counts_of(data.train, 6), data.world.probs
    n = counts.sum(axis=1, keepdims=True)
    assert n[0] == 20_000
    assert (np.abs(counts - n * p) <= 4 * np.sqrt(n * p * (1 - p))).all()


def test_data_are_shared_and_cannot_be_changed(tmp_path):
    data = data_module.data_of("", 4, 0.0, 1, train=100, development=10)
    assert data_module.data_of("", 4, 0.0, 1, train=100, development=10) is data
    for array in data[1:]:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    other = data_module.data_of("", 4, 0.0, 2, train=100, development=10)
    assert not np.array_equal(data.world.probs, other.world.probs)
    (tmp_path / "text.txt").write_text(CORPUS)
    one, two = (
        data_module.data_of(str(tmp_path / "text.txt"), 6, 0.0, seed, train=100, development=10)
        for seed in (1, 2)
    )
    np.testing.assert_array_equal(one.world.probs, two.world.probs)
    assert not np.array_equal(one.train, two.train)


# ---- exact optima --------------------------------------------------------------------------------


def test_at_20_tokens_and_seed_7():
    """The paper's first world: MLE is counting, MixCE its fixed point, two KLs nearly recover P."""
    data = data_module.data_of("", 20, 0.5, 7)
    np.testing.assert_array_equal(data.world.probs, worlds.random_markov(20, 0.5, 7).probs)
    counts = data_module.counts_of(data.train, 20)
    assert counts[0].sum() == counts[:, 0].sum() == 50_000  # every sequence starts, and ends
    counting = counts / counts.sum(axis=1, keepdims=True)
    mle, learned, _ = grid.run(Job("", 20, 0.5, 7, "mle", 1.0))
    assert np.abs(learned - counting).max() < 1e-9
    assert 3e-5 < mle["avg_js"] < 2e-4
    for eta in (0.1, 0.5, 0.9):
        _, learned, _ = grid.run(Job("", 20, 0.5, 7, "mixce", eta))
        assert np.abs(learned - fixed_point("mixce", counting, eta)[0]).max() < 1e-7, eta
    result, _, curve = grid.run(Job("", 20, 0.5, 7, "two_kls", 0.01))
    assert result["avg_js"] <= 2e-7
    assert result["steps"] <= 50  # of a fraction of a millisecond each
    assert curve[0]["avg_js"] > 1e-5
    with_p, _, _ = grid.run(Job("", 20, 0.5, 7, "two_kls", 0.5, forward="population"))
    assert with_p["avg_js"] < 1e-9
    assert (mle["uses"], result["uses"], with_p["uses"]) == ("samples", "samples and P", "P")


@pytest.mark.parametrize(
    ("objective", "eta", "options", "expected"),
    [
        ("mle", 1.0, {}, "samples"),
        ("mixce", 0.0, {}, "samples"),
        ("two_kls", 0.0, {}, "P"),
        ("mixce_star", 0.0, {"protocol": "paper", "model": "neural"}, "P"),
        ("two_kls", 0.5, {}, "samples and P"),
        ("mixce_star", 1.0, {}, "samples"),
        ("two_kls", 1.0, {"protocol": "paper", "model": "neural"}, "samples"),
        ("js", 0.5, {}, "samples and P"),
        ("js", 0.5, {"model": "gpt"}, "P"),
        ("mle", 1.0, {"forward": "population"}, "P"),
    ],
)
def test_what_a_run_was_allowed_to_use(objective, eta, options, expected):
    assert information_used(Job("", 5, 0.3, 1, objective, eta, **options)) == expected


def test_what_a_run_does_not_use_does_not_move_it(few_sequences):
    """The column `uses` is a claim: other samples leave a run that uses P where it ends; another P
    one that uses samples.
    """
    data, V = data_module.data_of("", 6, 0.5, 3), 6
    more, other = data_module.data_of("", 6, 0.5, 4), worlds.random_markov(6, 0.0, 9)
    for objective, eta in (
        ("two_kls", 0.0),
        ("two_kls", 0.5),
        ("two_kls", 1.0),
        ("mixce_star", 1.0),
        ("mixce", 0.5),
    ):
        job = Job("", V, 0.5, 3, objective, eta)
        learned, of_samples, of_p = (
            optima.fit_exact(job, changed)[0]
            for changed in (data, data._replace(train=more.train), data._replace(world=other))
        )
        moved = [np.abs(learned - x).max() > 1e-5 for x in (of_samples, of_p)]
        assert information_used(job) == " and ".join(
            w for w, m in zip(("samples", "P"), moved) if m
        ), (objective, eta)
    # with the forward part from P itself, samples do not matter at all
    for objective in grid.OBJECTIVES:
        job = Job("", V, 0.5, 3, objective, 0.5, forward="population")
        fit = optima.fit_js if objective == "js" else optima.fit_exact
        np.testing.assert_array_equal(
            fit(job, data)[0], fit(job, data._replace(train=more.train, starts=data.starts))[0]
        )


def test_mixce_star_collapses_and_two_kls_do_not(few_sequences):
    job = Job("", 6, 0.3, 1, "mixce_star", 0.0, forward="population")
    world = data_module.data_of("", 6, 0.3, 1).world
    q = {name: grid.run(job._replace(objective=name))[1] for name in ("mixce_star", "two_kls")}
    assert q["mixce_star"][0].max() > 0.999  # one sequence
    assert matrices.average_js(world.probs, q["two_kls"]) < 1e-12


def test_the_optimum_has_no_gradient_and_the_network_finds_it_too(few_sequences):
    data, job = data_module.data_of("", 6, 0.5, 3), Job("", 6, 0.5, 3, "two_kls", 0.3)
    counts = data_module.counts_of(data.train, 6)
    _, learned, _ = grid.run(job)
    z = np.log(np.maximum(learned, 1e-300))
    options = {"objective": "two_kls", "eta": 0.3, "counts": counts}
    best, gradient = exact.bigram_loss_and_grads(z, data.world, **options)
    assert np.abs(gradient).max() <= 1e-9
    _, network, _ = grid.run(job._replace(model="neural"))
    loss, _ = exact.bigram_loss_and_grads(np.log(network), data.world, **options)
    assert float(best) - 1e-12 <= float(loss) < float(best) + 1e-4


def test_rloo_from_bigrams_is_the_estimator():
    world, model = worlds.random_markov(5, 0.3, 2), mm.TableBigram(5)
    model.params["logits"] = np.random.default_rng(0).standard_normal((5, 5))
    rows = estimators.sample(model, 40, 6, seed=1)  # some are cut off
    assert (rows[:, 6] == 0).any()
    loss, gradient = optima.rloo_js(matrices.transition_matrix(model), world, rows, 0.3)
    expected, grads = estimators.rloo(model, world, rows, objective="js", eta=0.3)
    assert loss == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(gradient, grads["logits"], atol=1e-12)


def test_js_draws_anew_for_every_step_and_seed():
    world, z, job = worlds.random_markov(5, 0.3, 2), np.zeros((5, 5)), Job("", 5, 0.3, 2, "js", 0.3)
    gradients = [
        optima.sampled_js(z, job._replace(seed=s), world, t)[1]
        for s, t in ((1, 0), (1, 1), (2, 0), (1, 0))
    ]
    np.testing.assert_array_equal(gradients[0], gradients[3])
    assert not np.array_equal(gradients[0], gradients[1])
    assert not np.array_equal(gradients[0], gradients[2])


def test_js_by_rloo_comes_closer(few_sequences):
    result, _, curve = grid.run(Job("", 6, 0.5, 3, "js", 0.5))
    assert result["gradient"] == "RLOO (sampled)"
    assert result["avg_js"] < curve[0]["avg_js"]


def test_the_network_s_js_is_sampled_and_its_own(few_sequences, monkeypatch):
    monkeypatch.setattr(
        optima, "fit_neural", functools.partial(optima.fit_neural, warmup=200, steps=400)
    )
    result, learned, curve = grid.run(Job("", 6, 0.5, 3, "js", 0.5, model="neural"))
    assert (result["gradient"], result["steps"]) == ("RLOO (sampled)", 400)
    assert 0 < result["avg_js"] < curve[4]["avg_js"]  # of maximum likelihood, at step 200
    # not the table's
    assert np.abs(learned - grid.run(Job("", 6, 0.5, 3, "js", 0.5))[1]).max() > 1e-6


@pytest.mark.parametrize(("objective", "eta"), [("mle", 1.0), ("two_kls", 0.5), ("js", 0.5)])
def test_a_gpt_learns_a_small_world(few_sequences, monkeypatch, objective, eta):
    monkeypatch.setattr(optima, "fit_gpt", functools.partial(optima.fit_gpt, steps=150, longest=6))
    result, learned, _ = grid.run(Job("", 4, 0.3, 1, objective, eta, "exact", "gpt"))
    assert result["gradient"] == ("of batches" if objective == "mle" else "of batches; exact")
    np.testing.assert_allclose(learned.sum(axis=1), 1, rtol=1e-6)
    assert result["avg_js"] < 0.02


def test_a_gpt_s_ratio_counts(few_sequences):
    data = data_module.data_of("", 4, 0.3, 1)

    def learned(objective, eta):
        return optima.fit_gpt(
            Job("", 4, 0.3, 1, objective, eta, "exact", "gpt"), data, steps=3, longest=5
        )[0]

    mle = learned("mle", 1.0)
    np.testing.assert_array_equal(learned("mixce", 1.0), mle)
    assert np.abs(learned("mixce", 0.1) - mle).max() > 1e-4
    assert np.abs(learned("two_kls", 0.1) - learned("two_kls", 0.9)).max() > 1e-4


@pytest.mark.parametrize(("longest", "way"), [(6, "tree"), (30, "rloo")])
def test_a_gpt_s_reverse_part_is_the_tree_where_the_space_allows(
    few_sequences, monkeypatch, longest, way
):
    calls = {"tree": 0, "rloo": 0}

    def count(module, name, key):
        original = getattr(module, name)

        def counted(*args, **options):
            calls[key] += 1
            return original(*args, **options)

        monkeypatch.setattr(module, name, counted)

    count(exact, "sum_over_tree", "tree")
    count(estimators, "rloo", "rloo")
    monkeypatch.setattr(
        optima, "fit_gpt", functools.partial(optima.fit_gpt, steps=3, longest=longest)
    )
    result, _, _ = grid.run(Job("", 6, 0.3, 1, "two_kls", 0.5, "exact", "gpt"))
    assert calls == {"tree": 0, "rloo": 0} | {way: 3}
    assert (
        result["gradient"]
        == {"tree": "of batches; exact", "rloo": "of batches; RLOO (sampled)"}[way]
    )


# ---- the paper's protocol ------------------------------------------------------------------------


def test_batches_are_counted_as_if_one_by_one(few_sequences):
    data = data_module.data_of("", 6, 0.5, 3)
    lengths, batch = np.diff(data.starts), np.random.default_rng(0).integers(0, 7, 5_000)
    by_batch = list(paper.counts_by_batch(data.train, np.repeat(batch, lengths), 7, 6))
    sequences = np.split(data.train, data.starts[1:-1])
    for k, counts in enumerate(by_batch):
        own = np.concatenate([s for s, b in zip(sequences, batch) if b == k])
        np.testing.assert_array_equal(counts, data_module.counts_of(own, 6))
    some = np.array([[3, 0, 7], [1, 4, 2]])
    for chosen, (codes, own) in zip(some, paper.sequences_by_batch(data.train, lengths, some)):
        np.testing.assert_array_equal(codes, np.concatenate([sequences[i] for i in chosen]))
        np.testing.assert_array_equal(own, lengths[chosen])


@pytest.mark.parametrize(("objective", "eta"), [("mle", 1.0), ("mixce", 0.3), ("two_kls", 0.3)])
def test_counts_give_the_loss_of_the_tokens(monkeypatch, objective, eta):
    monkeypatch.setattr(data_module, "LONGEST", 6)
    data = data_module.data_of.__wrapped__("", 6, 0.5, 3, train=100, development=10)
    codes, n = data.train, 100
    # some sequences are cut off: they have a start, but no end
    assert (codes[data.starts[1:] - 1] % 6 > 0).any()
    z = np.random.default_rng(0).standard_normal((6, 6))
    job, copies = Job("", 6, 0.5, 3, objective, eta), np.repeat(z[:, None], 3, axis=1)
    loss, dlogits = paper.loss_under_p(copies, data_module.counts_of(codes, 6), job, data.world)
    token = functools.partial(objectives.mixce, eta=eta) if objective == "mixce" else objectives.mle
    share = eta if objective == "two_kls" else 1.0
    expected, per_token = token(z[codes // 6], codes % 6, normalizer=n)
    assert loss == pytest.approx(share * float(expected), rel=1e-12)
    summed = np.zeros((6, 6))
    np.add.at(summed, codes // 6, share * per_token)
    # a third in each copy
    np.testing.assert_allclose(dlogits, np.repeat(summed[:, None] / 3, 3, axis=1), atol=1e-12)


def test_js_under_p_is_a_derivative(few_sequences):
    data, job = data_module.data_of("", 5, 0.3, 3), Job("", 5, 0.3, 3, "js", 0.3)
    batch = data.train[: data.starts[50]], np.diff(data.starts)[:50]

    def forward_of(z, batch=batch):
        return paper.loss_under_p(z, batch, job, data.world)

    report = mm.gradcheck(
        forward_of, lambda dy, dz: (dy * dz,), [np.random.default_rng(0).standard_normal((5, 3, 5))]
    )
    assert report.ok, report
    # Each sequence goes by one copy of the rows, every third by the same.
    z, sequences = (
        np.random.default_rng(0).standard_normal((5, 3, 5)),
        np.split(batch[0], np.cumsum(batch[1])[:-1]),
    )
    losses = [
        forward_of(z[:, [i % 3]], (s, np.array([len(s)])))[0] for i, s in enumerate(sequences)
    ]
    assert forward_of(z, batch)[0] == pytest.approx(np.mean(losses), rel=1e-12)
    # Over all sequences in proportion it is exact's js less the part under Q.
    world = worlds.agreement()
    space = exact.sequences(6, 4)
    rows = np.repeat(space, np.rint(10 * np.exp(world.log_prob(space))).astype(int), axis=0)
    there = rows[:, 1:] >= 0
    codes = (rows[:, :-1] * 6 + rows[:, 1:])[there]
    model = mm.TableBigram(6)
    model.params["logits"] = np.random.default_rng(1).standard_normal((6, 6))
    markov = worlds.markov(
        matrices.transition_matrix(model)
    )  # P(x) of this world is a product over bigrams, as _under_p takes it
    loss, _ = paper.loss_under_p(
        model.params["logits"][:, None],
        (codes, there.sum(axis=1)),
        job._replace(vocab_size=6),
        markov,
    )
    assert loss == pytest.approx(0, abs=1e-12)  # P = Q = M


@pytest.mark.parametrize(("objective", "eta"), [("mixce_star", 0.3), ("two_kls", 0.3), ("js", 0.3)])
def test_gumbel_softmax_from_a_table_of_logits_is_the_estimator(monkeypatch, objective, eta):
    """Value and every parameter's gradient, with ended sequences left out and each row of logits
    computed once.
    """
    n, V, longest = 40, 5, 12
    monkeypatch.setattr(paper, "LONGEST", longest)
    world, model = (
        worlds.random_markov(V, 0.3, 2),
        mm.Bigram(mm.BigramConfig(V, 6, 7, dtype="float64"), 1, "cpu"),
    )
    noise = estimators.gumbel_noise(n, longest, V, seed=3)
    # some sequences are cut off, most are not
    assert (estimators.sample(model, n, longest)[:, longest] == 0).any()
    of_q = {"mixce_star": "reverse_ce", "two_kls": "reverse_kl", "js": "js"}[objective]
    expected, grads = estimators.gumbel(model, world, noise, objective=of_q, eta=eta)
    logits, cache = model.forward(np.arange(V)[:, None])
    loss, dlogits = paper.loss_under_q(
        logits[:, 0],
        world,
        Job("", V, 0.3, 2, objective, eta),
        n,
        lambda t, rows: np.exp(-noise[t, rows]),
        paper.into_input(model, cache),
    )
    assert loss == pytest.approx((1 - eta) * float(expected), rel=1e-10)
    for name, g in model.backward(dlogits[:, None], cache).items():
        np.testing.assert_allclose(g, (1 - eta) * grads[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("objective", "eta"),
    [
        ("mle", 1.0),
        ("mixce", 0.9),
        ("two_kls", 0.5),
        pytest.param("js", 0.5, marks=pytest.mark.slow),
    ],
)
def test_the_protocol_learns_and_repeats_itself(monkeypatch, objective, eta):
    monkeypatch.setattr(
        paper,
        "fit_paper",
        functools.partial(paper.fit_paper, epochs=10, batch_size=100, rate=2e-2),
    )
    a_thousand_sequences(monkeypatch)
    job = Job("", 5, 0.3, 1, objective, eta, "paper", "neural")
    result, learned, curve = grid.run(job)
    assert result["gradient"] == (
        "counts" if objective in ("mle", "mixce") else "Gumbel-softmax (sampled)"
    )
    assert result["avg_js"] < 0.5 * curve[0]["avg_js"]
    np.testing.assert_array_equal(grid.run(job)[1], learned)


def test_the_protocol_is_the_paper_s():
    names = "epochs", "batch_size", "patience", "rate", "l2", "dropout", "masks"
    parameters = inspect.signature(paper.fit_paper).parameters
    assert [parameters[name].default for name in names] == [50, 1000, 5, 1e-3, 1e-4, 0.1, 8]
    assert (data_module.TRAIN, data_module.DEVELOPMENT, data_module.LONGEST) == (50_000, 5_000, 500)
    assert grid.SEEDS == (7, 42, 777, 4222, 99999)
    config = mm.BigramConfig(20)
    assert (config.n_embd, config.n_hidden) == (50, 50)


def test_a_step_of_the_protocol_is_adam_on_the_tokens_of_a_batch(monkeypatch):
    V, data = 5, data_module.data_of("", 5, 0.3, 1, train=100, development=100)
    job = Job("", V, 0.3, 1, "mle", 1.0, "paper", "neural")

    def learned(**options):
        return paper.fit_paper(
            job, data, **{"epochs": 1, "batch_size": 100, "dropout": 0.0} | options
        )[0]

    model = mm.Bigram(mm.BigramConfig(V), job.seed, "cpu")
    logits, cache = model.forward(data.train[:, None] // V)
    _, dlogits = objectives.mle(logits, data.train[:, None] % V, normalizer=100)
    optim.Adam(model.params, 1e-3, l2=0.5).step(model.backward(dlogits, cache))
    np.testing.assert_allclose(learned(l2=0.5), matrices.transition_matrix(model), rtol=1e-5)
    assert np.abs(learned(l2=0.5) - learned(l2=0.0)).max() > 1e-4
    dropped = [learned(dropout=0.5, masks=masks) for masks in (1, 8)]
    for one, other in itertools.combinations([learned(), *dropped], 2):
        assert np.abs(one - other).max() > 1e-5
    seen, counts_by_batch = [], paper.counts_by_batch
    monkeypatch.setattr(
        paper, "counts_by_batch", lambda *args: seen.append(args[1]) or counts_by_batch(*args)
    )
    learned(epochs=2, batch_size=25)
    for batch_of_code in seen:
        np.testing.assert_array_equal(np.bincount(batch_of_code[data.starts[:-1]]), [25] * 4)
    assert not np.array_equal(*seen)  # drawn anew in every epoch
    paper.fit_paper(job._replace(seed=2), data, epochs=1, batch_size=25)
    assert not np.array_equal(seen[0], seen[2])  # and for every seed


def test_the_protocol_keeps_the_best_epoch_and_stops_after_its_patience():
    data, job = (
        data_module.data_of("", 5, 0.3, 1, train=1_000, development=100),
        Job("", 5, 0.3, 1, "mle", 1.0, "paper", "neural"),
    )
    learned, loss, steps, curve = paper.fit_paper(
        job, data, epochs=100, batch_size=100, patience=3, rate=0.1
    )
    losses = [point["loss"] for point in curve]
    best = int(np.argmin(losses))
    assert len(curve) == best + 1 + 3 < 100
    assert steps == 10 * len(curve)
    assert loss == losses[best]
    assert (
        matrices.average_js(data.world.probs, learned)
        == curve[best]["avg_js"]
        != curve[-1]["avg_js"]
    )


def test_the_surrogate_is_what_the_tokens_print(few_sequences):
    data, z = data_module.data_of("", 6, 0.5, 3), np.random.default_rng(0).standard_normal((6, 6))
    codes, counts = data.train, data_module.counts_of(data.train, 6)
    expected, _ = objectives.mixce_surrogate(z[codes // 6], codes % 6, eta=0.3, normalizer=5_000)
    assert curves.surrogate(np.exp(logprob.log_softmax(z)), counts, 0.3) == pytest.approx(
        float(expected), rel=1e-12
    )


# ---- grids ---------------------------------------------------------------------------------------


def test_a_grid_has_every_ratio_where_it_makes_sense():
    jobs = grid.jobs_of_grid()
    assert len(jobs) == len(set(jobs)) == 3 * 5 * (1 + 7 + 7 + 7 + 5)
    assert {job.eta for job in jobs if job.objective == "js"} == {0.01, 0.1, 0.5, 0.9, 0.99}
    others = [
        jobs[0]._replace(**{name: value})
        for name, value in (("corpus", "a/text.txt"), ("corpus", "b/text.txt"))
    ]
    others += [
        jobs[0]._replace(protocol="paper"),
        jobs[0]._replace(model="gpt"),
        jobs[0]._replace(forward="population"),
    ]
    others += [jobs[0]._replace(zeros=0.50000001), jobs[0]._replace(eta=0.50000001)]
    assert len({job.name for job in [*jobs, *others]}) == len(jobs) + len(others)
    for options, message in (
        ({"objectives": ("mle", "emo")}, "objectives must be among .*, got 'emo'"),
        ({"etas": (0.5, 2)}, "etas must be between 0 and 1, got 2"),
        ({"vocab_sizes": (1,)}, "vocab_sizes must be between 2"),
        (
            {"corpora": ("a/text.txt", "b/text.md")},
            "names of corpora must be different, got text, text",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            grid.jobs_of_grid(**options)


def test_the_summary_takes_the_best_mean_over_seeds():
    base = {
        "corpus": "",
        "zeros": 0.5,
        "vocab_size": 20,
        "uses": "samples",
        "gradient": "exact",
        "objective": "mixce",
    }
    results = [
        base | {"eta": eta, "avg_js": js, "avg_zeros": 0.0}
        for eta, js in ((0.1, 1.0), (0.1, 5.0), (0.5, 2.0), (0.5, 3.0))
    ]
    (row,) = study.summarize(results)
    assert (row["best_eta"], row["avg_js"], row["seeds"]) == (0.5, 2.5, 2)
    assert row["avg_js_se"] == pytest.approx(0.5)
    assert "random 50% zeros" in study.format_summary([row])
    assert "2.50e+00 ± 5e-01" in study.format_summary([row])
    (row,) = study.summarize(results[:1])
    assert math.isnan(row["avg_js_se"])  # a single run has no error to tell
    assert "±" not in study.format_summary([row])
    near = [
        results[0] | {"zeros": 0.501},
        results[0] | {"zeros": 0.502},
        results[0] | {"corpus": "a/text.txt", "zeros": 0.0},
    ]
    assert [row["world"] for row in study.summarize(near)] == [
        "random 50.1% zeros",
        "random 50.2% zeros",
        "text",
    ]


def test_results_come_in_the_order_of_jobs(tmp_path, monkeypatch):
    jobs = grid.jobs_of_grid((5,), (0.5,), (1, 2, 3), ("mle",))

    def last_first(job):
        time.sleep(0.1 * (3 - job.seed))
        return {name: getattr(job, name, 0) for name in grid.RESULT}, np.zeros((5, 5)), []

    monkeypatch.setattr(grid, "run", last_first)
    with ThreadPoolExecutor(3) as executor:
        results = grid.run_grid(jobs, tmp_path, executor, progress=False)
    assert [r["seed"] for r in results] == [1, 2, 3]
    assert [job.seed for job in grid.read_runs(tmp_path)] == [3, 2, 1]


def test_what_is_not_a_run_is_refused_and_a_line_cut_short_dropped(few_sequences, tmp_path):
    jobs = grid.jobs_of_grid((5,), (0.5,), (1, 2), ("mle",))
    grid.run_grid(jobs, tmp_path, progress=False)
    path = tmp_path / "runs.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:-1])  # whole, but for its end
    assert list(grid.read_runs(tmp_path)) == jobs[:1]
    for damaged in (
        b"{}\n",
        b"[1]\n",
        b"\xff\xfe\n",
        b"\n",
        first.replace(b'"avg_js"', b'"js"'),
        first.replace(b"1.0", b"[1]"),
    ):
        path.write_bytes(second + damaged + first)
        with pytest.raises(ValueError, match=r"runs\.jsonl: line 2 is not a run"):
            grid.run_grid(jobs, tmp_path, progress=False)
        assert path.read_bytes() == second + damaged + first


@pytest.mark.slow
def test_starting_anew_leaves_nothing_of_the_old_grid(few_sequences, tmp_path, capsys, monkeypatch):
    words = [
        "synthetic",
        "--vocab",
        "5",
        "--objectives",
        "mle",
        "--jobs",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert cli.main([*words, "--quiet", "--seeds", "1,2"]) == 0
    assert cli.main([*words, "--resume", "--seeds", "1,2,3"]) == 0
    assert "1 runs in 1 at a time" in capsys.readouterr().out
    monkeypatch.setattr(grid, "run_grid", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main([*words, "--overwrite", "--seeds", "4"])
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".csv", ".json", ".jsonl")]


def test_without_options_the_command_runs_the_default_grid(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(grid, "run_grid", lambda jobs, *_: seen.append(jobs) or 1 / 0)
    for options in ([], ["--full"]):
        with pytest.raises(ZeroDivisionError):
            cli.main(
                ["synthetic", *options, "--quiet", "--jobs", "1", "--out", str(tmp_path / "out")]
            )
    assert seen == [
        grid.jobs_of_grid(),
        grid.jobs_of_grid((20, 50, 100, 500, 1000), (0.1, 0.5, 0.9)),
    ]


def test_one_worker_is_a_process_unless_the_threads_are_told(monkeypatch):
    """Linear algebra with several threads differs in its last digits from the one thread of a
    worker.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pool.worker_pool(1, 3) as (executor, workers):
        assert (executor, workers) == (None, 1)
    monkeypatch.delenv("OMP_NUM_THREADS")
    with pool.worker_pool(1, 3) as (executor, workers):
        assert workers == 1
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
        # Ctrl-C is for the parent
        assert executor.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
    assert "OMP_NUM_THREADS" not in os.environ
    with pool.worker_pool(4, 0) as (executor, _):
        assert executor is None


@pytest.mark.slow
def test_a_table_depends_on_no_threads_of_linear_algebra(tmp_path):
    """With more than one core, the solves of 100 tokens would."""
    words = [
        "synthetic",
        "--vocab",
        "100",
        "--seeds",
        "7",
        "--etas",
        "0.5",
        "--objectives",
        "mixce_star,two_kls",
        "--quiet",
    ]
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for jobs in ("1", "2"):
        argv = [
            sys.executable,
            "-m",
            "minimixce",
            *words,
            "--jobs",
            jobs,
            "--out",
            str(tmp_path / jobs),
        ]
        subprocess.run(argv, check=True, env=env, capture_output=True)
    assert (tmp_path / "1" / "runs.csv").read_text() == (tmp_path / "2" / "runs.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("when", [0.8, 6])  # while workers start, and in the middle of long runs
def test_ctrl_c_ends_a_pool_at_once_with_one_sentence(tmp_path, when):
    words = [
        "synthetic",
        "--protocol",
        "paper",
        "--vocab",
        "20",
        "--objectives",
        "js",
        "--quiet",
        "--jobs",
        "2",
        "--out",
    ]
    argv = [sys.executable, "-m", "minimixce", *words, str(tmp_path / "out")]
    # also where the tests themselves run unheeding
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        argv, start_new_session=True, preexec_fn=heed, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "out").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(when)
    os.killpg(process.pid, signal.SIGINT)
    _, printed = process.communicate(timeout=20)
    assert process.returncode == 130
    assert printed == "minimixce synthetic: interrupted\n"
    assert ends(process.pid)


@pytest.mark.slow
def test_the_command_s_table_depends_on_neither_workers_nor_interruption(tmp_path, capsys):
    words = ["synthetic", *SMALL, "--objectives", "mle,mixce,two_kls", "--out"]
    assert cli.main([*words, str(tmp_path / "one"), "--jobs", "1"]) == 0
    assert cli.main([*words, str(tmp_path / "four"), "--jobs", "4"]) == 0
    shutil.copytree(tmp_path / "one", tmp_path / "killed")
    runs = tmp_path / "killed" / "runs.jsonl"
    lines = runs.read_text().splitlines(keepends=True)
    assert len(lines) == 2 * 2 * (1 + 3 + 3)
    runs.write_text("".join(lines[:5]) + lines[5][:40])  # cut short in the middle of a line
    for name in ("runs.csv", "table.csv"):
        (tmp_path / "killed" / name).unlink()
    assert cli.main([*words, str(tmp_path / "killed"), "--jobs", "1"]) == 2
    assert "already holds a grid" in capsys.readouterr().err
    assert cli.main([*words, str(tmp_path / "killed"), "--jobs", "2", "--resume"]) == 0
    for name in ("runs.csv", "table.csv"):
        one = (tmp_path / "one" / name).read_text()
        assert (
            one
            == (tmp_path / "four" / name).read_text()
            == (tmp_path / "killed" / name).read_text()
        )
    with open(tmp_path / "one" / "table.csv") as file:
        table = list(csv.DictReader(file))
    assert [(row["vocab_size"], row["objective"]) for row in table[:3]] == [
        ("5", "mle"),
        ("5", "mixce"),
        ("5", "two_kls"),
    ]
    for figure in ("matrices.png", "ratios.png", "curves.png"):
        assert (tmp_path / "one" / figure).stat().st_size > 5_000


def ends(group):
    """Whether all processes of a group end: within some seconds, for the system takes a moment to
    put them away.
    """
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_grid_that_is_killed_goes_on(tmp_path):
    words = ["synthetic", *SMALL, "--objectives", "mle,mixce,two_kls", "--jobs", "2", "--out"]
    assert cli.main([*words, str(tmp_path / "whole")]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "minimixce", *words, str(tmp_path / "killed")],
        start_new_session=True,
    )
    runs, deadline = tmp_path / "killed" / "runs.jsonl", time.monotonic() + 120
    while (
        time.monotonic() < deadline
        and process.poll() is None
        and not (runs.exists() and runs.read_text().count("\n") > 2)
    ):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert ends(process.pid)  # its workers too
    assert runs.read_text().count("\n") > 2
    assert not (tmp_path / "killed" / "table.csv").exists()
    assert cli.main([*words, str(tmp_path / "killed"), "--resume"]) == 0
    for name in ("runs.csv", "table.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()


def test_going_on_with_a_larger_grid_runs_what_is_new(few_sequences, tmp_path, monkeypatch):
    """A job that differs from a finished one in a single field is another job."""
    first = Job("", 5, 0.5, 1, "mixce", 0.5)
    changes = {
        "corpus": "x",
        "vocab_size": 6,
        "zeros": 0.1,
        "seed": 2,
        "objective": "mle",
        "eta": 0.9,
    }
    changes |= {"protocol": "paper", "model": "neural", "forward": "population"}
    assert changes.keys() == set(Job._fields)
    ran = []

    def run(job):  # what ran before is in the file by now
        assert (tmp_path / "runs.jsonl").read_text().count("\n") == len(ran)
        ran.append(job)
        return {name: getattr(job, name, 0) for name in grid.RESULT}, np.eye(5), []

    monkeypatch.setattr(grid, "run", run)
    jobs = [first, *(first._replace(**{name: value}) for name, value in changes.items())]
    grid.run_grid(jobs[:1], tmp_path, progress=False)
    results = grid.run_grid(jobs, tmp_path, progress=False)
    assert ran == jobs
    assert [Job(*(r[name] for name in Job._fields)) for r in results] == jobs
    assert len(list((tmp_path / "matrices").iterdir())) == len(jobs)


def test_going_on_with_a_smaller_grid_keeps_what_was_done(few_sequences, tmp_path):
    jobs = grid.jobs_of_grid((5,), (0.5,), (1, 2), ("mle",))
    grid.run_grid(jobs, tmp_path, progress=False)
    assert len(grid.run_grid(jobs[:1], tmp_path, progress=False)) == 1
    assert list(grid.read_runs(tmp_path)) == jobs


def test_the_estimate_comes_first_and_grows_with_the_grid(
    few_sequences, tmp_path, capsys, monkeypatch
):
    def stop(*_, **__):
        raise ValueError("stopped before any run")

    monkeypatch.setattr(grid, "run_grid", stop)
    assert (
        cli.main(
            [
                "synthetic",
                "--full",
                "--vocab",
                "5,200",
                "--jobs",
                "1",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    # zeros 10, 50 and 90 %
    assert f"{2 * 3 * 5 * 27} runs in 1 at a time, about " in capsys.readouterr().out
    small, large = (grid.estimate(grid.jobs_of_grid((V,), seeds=(1,))) for V in (20, 300))
    assert large > 2 * small > 0


CORPUS = "the cat sat.\nthe dog sat.\na cat ran.\n" * 20


@pytest.mark.parametrize("objective", ["mle", "two_kls"])
def test_the_protocol_takes_a_corpus(tmp_path, monkeypatch, objective):
    a_thousand_sequences(monkeypatch)
    monkeypatch.setattr(
        paper,
        "fit_paper",
        functools.partial(paper.fit_paper, epochs=20, batch_size=100, rate=2e-2),
    )
    (tmp_path / "text.txt").write_text(CORPUS)
    words = [
        "synthetic",
        "--protocol",
        "paper",
        "--corpus",
        str(tmp_path / "text.txt"),
        "--vocab",
        "6",
        "--seeds",
        "1",
    ]
    words += [
        "--etas",
        "0.5",
        "--objectives",
        objective,
        "--quiet",
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(words) == 0
    (line,) = (tmp_path / "out" / "runs.jsonl").read_text().splitlines()
    assert json.loads(line)["avg_js"] < 0.1


@pytest.mark.slow
def test_figures_show_the_runs_they_name(few_sequences, tmp_path, monkeypatch):
    """The best run of each objective, of the first world and seed, by P; means over seeds; MixCE at
    η nearest 0.1.
    """
    pytest.importorskip("matplotlib")
    jobs = grid.jobs_of_grid(
        (5, 6), (0.5, 0.2), (1, 2), ("mle", "mixce", "two_kls"), (0.0, 0.1, 0.5, 0.9)
    )
    results = grid.run_grid(jobs, tmp_path, progress=False)
    table = study.summarize(results)
    best, gold, at_a_ratio = study.examples(results, table, tmp_path)
    np.testing.assert_array_equal(gold, worlds.random_markov(5, 0.5, 1).probs)
    assert list(at_a_ratio) == ["mixce, η = 0.1"]
    of_table = {
        row["objective"]: row["best_eta"]
        for row in table
        if (row["world"], row["vocab_size"]) == ("random 50% zeros", 5)
    }
    for (label, shown), objective in zip(best.items(), ("mle", "mixce", "two_kls"), strict=True):
        job = Job("", 5, 0.5, 1, objective, of_table[objective])
        assert label == (objective if objective == "mle" else f"{objective}, η = {job.eta:g}")
        np.testing.assert_array_equal(shown["learned"], grid.run(job)[1])
    figures, new_figure = [], plots.new_figure
    monkeypatch.setattr(
        plots, "new_figure", lambda **options: figures.append(new_figure(**options)) or figures[-1]
    )
    drawn = [r | {"world": study.world_name(r["corpus"], r["zeros"])} for r in results]
    plots.synthetic(drawn, best, gold, at_a_ratio, tmp_path)
    matrices, ratios, curves = (
        [ax for ax in figure.axes if ax.get_label() != "<colorbar>"] for figure in figures
    )
    for ax, (label, matrix) in zip(
        matrices,
        [("P", gold), *((label, run["learned"]) for label, run in best.items())],
        strict=True,
    ):
        assert ax.get_title() == label
        np.testing.assert_allclose(ax.images[0].get_array(), np.maximum(matrix, 1e-9))
        assert ax.images[0].get_clim() == (1e-6, 1)
    titles = [
        f"{m}, random {z}% zeros, {V} tokens"
        for z in (50, 20)
        for m in ("avg. JS", "avg. 0s")
        for V in (5, 6)
    ]
    assert [ax.get_title() for ax in ratios] == titles
    for ax, (zeros, measure, V) in zip(
        ratios, itertools.product((0.5, 0.2), ("avg_js", "avg_zeros"), (5, 6))
    ):
        for line in ax.lines:
            own = [
                r
                for r in results
                if (r["zeros"], r["vocab_size"], r["objective"]) == (zeros, V, line.get_label())
            ]
            by_eta = {
                e: np.mean([max(r[measure], 1e-12) for r in own if r["eta"] == e])
                for e in sorted({r["eta"] for r in own})
            }
            found = line.get_ydata() if len(by_eta) > 1 else line.get_ydata()[:1]  # mle is a level
            np.testing.assert_allclose(found, list(by_eta.values()))
        assert [line.get_label() for line in ax.lines] == ["mle", "mixce", "two_kls"]
    fit, *losses = curves
    for line, (label, run) in zip(fit.lines, best.items(), strict=True):
        assert line.get_label() == label
        np.testing.assert_allclose(
            line.get_ydata(), [max(point["avg_js"], 1e-12) for point in run["curve"]]
        )
    for ax, key in zip(losses, ("loss", "surrogate"), strict=True):
        np.testing.assert_allclose(
            ax.lines[0].get_ydata(), [point[key] for point in at_a_ratio["mixce, η = 0.1"]["curve"]]
        )


def test_full_has_corpora_and_random_worlds(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(CORPUS)
    seen = []
    monkeypatch.setattr(
        grid,
        "run_grid",
        lambda jobs, *_: seen.append({(bool(j.corpus), j.zeros) for j in jobs}) or 1 / 0,
    )
    for options in (["--full"], []):
        with pytest.raises(ZeroDivisionError):
            cli.main(
                [
                    "synthetic",
                    *options,
                    "--corpus",
                    str(tmp_path / "text.txt"),
                    "--vocab",
                    "6",
                    "--quiet",
                    "--jobs",
                    "1",
                ]
            )
    assert seen == [{(False, 0.1), (False, 0.5), (False, 0.9), (True, 0.0)}, {(True, 0.0)}]


def test_a_corpus_makes_a_world(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(CORPUS)
    words = [
        "synthetic",
        "--corpus",
        str(text),
        "--vocab",
        "6",
        "--seeds",
        "1",
        "--etas",
        "0.5",
        "--objectives",
        "mle,mixce",
    ]
    assert cli.main([*words, "--quiet", "--jobs", "1", "--out", str(tmp_path / "out")]) == 0
    line = json.loads((tmp_path / "out" / "runs.jsonl").read_text().splitlines()[0])
    assert line["corpus"] == str(text)
    assert line["avg_js"] < 1e-2


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "got 0"), (b"one two three", "got 3"), (b"\xff\xfe", "decode")]
)
def test_a_poor_corpus_is_named_before_anything_runs(tmp_path, capsys, content, message):
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    assert (
        cli.main(
            [
                "synthetic",
                "--full",
                "--corpus",
                str(text),
                "--vocab",
                "3,5",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    printed = capsys.readouterr().err
    assert f"{text} does not make a world of " in printed
    assert message in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--protocol their", "--protocol must be exact or paper"),
        ("--model gpt2", "--model must be table, neural or gpt"),
        ("--forward p", "--forward must be samples or population"),
        ("--protocol paper --model table", "leave out --model"),
        ("--vocab 20,x", "--vocab must be numbers"),
        ("--vocab 20,20", "names a number twice"),
        ("--etas 2", "etas must be between 0 and 1"),
        ("--seeds 1,1", "--seeds must be different"),
        ("--seeds 4294967296", "seeds must be between 0 and 4294967295"),
        ("--seed 3", "synthetic takes no --seed: --seeds"),
        ("--threads 1", "synthetic takes no --threads"),
        ("--device cuda", "--device must be cpu"),
        ("--objectives mle,mle", "objectives must be different, got mle, mle"),
        ("--objectives js --etas 0,1", "nothing to run: js needs an eta above 0 and below 1"),
        ("--zeros 0.5,1", "zeros must be between 0 and 0.99"),
        ("--model gpt --forward samples", "leave out --forward"),
        ("--objectives mle,x", "objectives must be among"),
        ("--corpus nowhere.txt", "nowhere.txt is not a file"),
        ("--jobs -1", "--jobs must be at least 0"),
        ("--resume --overwrite", "exclude each other"),
    ],
)
def test_bad_options_are_one_sentence(options, message, tmp_path, capsys):
    assert cli.main(["synthetic", "--out", str(tmp_path / "out"), *options.split()]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out" / "runs.jsonl").exists()


@pytest.mark.mpi
@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py")
def test_four_ranks_of_mpi_give_the_same_table(tmp_path):
    words = ["synthetic", *SMALL, "--objectives", "mle,two_kls", "--out"]
    assert cli.main([*words, str(tmp_path / "one"), "--jobs", "1"]) == 0
    mpiexec = shutil.which("mpiexec", path=f"{sys.prefix}/bin") or shutil.which("mpiexec")
    argv = [
        mpiexec,
        "-n",
        "4",
        sys.executable,
        "-m",
        "mpi4py.futures",
        "-m",
        "minimixce",
        *words,
        str(tmp_path / "four"),
    ]
    subprocess.run(argv, check=True, timeout=300, capture_output=True)
    for name in ("runs.csv", "table.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "four" / name).read_text()


# ---- the results page ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    """tutorials/results/synthetic_page.py as a module."""
    path = Path(__file__).parents[1] / "tutorials" / "results" / "synthetic_page.py"
    spec = importlib.util.spec_from_file_location("synthetic_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_s_tables_are_those_of_the_files(page):
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.rendered(text) == text
    assert page.rendered(text.replace("| `mle` |", "| `mle`, better |")) == text


def test_the_files_of_the_page_are_what_the_code_gives(page):
    """Seed 7 again: fixed points to rounding, and the exact runs of the default grid where they
    take no time.
    """
    rows = [row for row in page.read("fixed_points") if row["seed"] == 7]
    for row, again in zip(rows, page.fixed_points(7), strict=True):
        assert row == pytest.approx(again, rel=1e-9)
    for found, again in zip(page.read("collapse"), page.collapse(), strict=True):
        assert found["objective"] == again["objective"]
        assert [found[k] for k in ("empty", "entropy", "length")] == pytest.approx(
            [again[k] for k in ("empty", "entropy", "length")], rel=1e-5, abs=1e-5
        )
    for objective, eta in (("mle", 1.0), ("two_kls", 0.5), ("mixce", 0.5), ("mixce_star", 0.99)):
        result, _, _ = grid.run(Job("", 20, 0.5, 7, objective, eta))
        (value,) = page.of(page.read("runs"), vocab_size=20, seed=7, objective=objective, eta=eta)
        assert result["avg_js"] == pytest.approx(value, rel=1e-6)
        (used,) = page.of(
            page.read("runs"), "uses", vocab_size=20, seed=7, objective=objective, eta=eta
        )
        assert used == result["uses"]
