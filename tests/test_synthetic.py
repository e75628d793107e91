"""The synthetic experiments: data, optima against counting and fixed points, the paper's
protocol.
"""

import functools
import inspect
import itertools

import numpy as np
import pytest

import minimixce as mm
from minimixce import estimators, exact, logprob, objectives, optim, worlds
from minimixce.experiments import matrices
from minimixce.experiments.fixed_points import fixed_point
from minimixce.experiments.synthetic import curves, grid, optima, paper
from minimixce.experiments.synthetic import data as data_module
from minimixce.experiments.synthetic.job import Job, information_used

CORPUS = "the cat sat.\nthe dog sat.\na cat ran.\n" * 20


@pytest.fixture
def five_thousand_sequences(monkeypatch):
    """Five thousand training sequences instead of fifty thousand."""
    data_of = functools.partial(data_module.data_of, train=5_000)
    monkeypatch.setattr(data_module, "data_of", data_of)


@pytest.fixture
def a_thousand_sequences(monkeypatch):
    """A thousand training sequences and a hundred held out."""
    data_of = functools.partial(data_module.data_of, train=1_000, development=100)
    monkeypatch.setattr(data_module, "data_of", data_of)


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


def test_what_a_run_does_not_use_does_not_move_it(five_thousand_sequences):
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


def test_mixce_star_collapses_and_two_kls_do_not(five_thousand_sequences):
    job = Job("", 6, 0.3, 1, "mixce_star", 0.0, forward="population")
    world = data_module.data_of("", 6, 0.3, 1).world
    q = {name: grid.run(job._replace(objective=name))[1] for name in ("mixce_star", "two_kls")}
    assert q["mixce_star"][0].max() > 0.999  # one sequence
    assert matrices.average_js(world.probs, q["two_kls"]) < 1e-12


def test_the_optimum_has_no_gradient_and_the_network_finds_it_too(five_thousand_sequences):
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


def test_js_by_rloo_comes_closer(five_thousand_sequences):
    result, _, curve = grid.run(Job("", 6, 0.5, 3, "js", 0.5))
    assert result["gradient"] == "RLOO (sampled)"
    assert result["avg_js"] < curve[0]["avg_js"]


def test_the_network_s_js_is_sampled_and_its_own(five_thousand_sequences, monkeypatch):
    monkeypatch.setattr(
        optima, "fit_neural", functools.partial(optima.fit_neural, warmup=200, steps=400)
    )
    result, learned, curve = grid.run(Job("", 6, 0.5, 3, "js", 0.5, model="neural"))
    assert (result["gradient"], result["steps"]) == ("RLOO (sampled)", 400)
    assert 0 < result["avg_js"] < curve[4]["avg_js"]  # of maximum likelihood, at step 200
    # not the table's
    assert np.abs(learned - grid.run(Job("", 6, 0.5, 3, "js", 0.5))[1]).max() > 1e-6


@pytest.mark.parametrize(
    ("objective", "eta"),
    [
        ("mle", 1.0),
        pytest.param("two_kls", 0.5, marks=pytest.mark.slow),
        pytest.param("js", 0.5, marks=pytest.mark.slow),
    ],
)
def test_a_gpt_learns_a_small_world(five_thousand_sequences, monkeypatch, objective, eta):
    monkeypatch.setattr(optima, "fit_gpt", functools.partial(optima.fit_gpt, steps=150, longest=6))
    result, learned, _ = grid.run(Job("", 4, 0.3, 1, objective, eta, "exact", "gpt"))
    assert result["gradient"] == ("of batches" if objective == "mle" else "of batches; exact")
    np.testing.assert_allclose(learned.sum(axis=1), 1, rtol=1e-6)
    assert result["avg_js"] < 0.02


def test_a_gpt_s_ratio_counts(five_thousand_sequences):
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
    five_thousand_sequences, monkeypatch, longest, way
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


def test_batches_are_counted_as_if_one_by_one(five_thousand_sequences):
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


def test_js_under_p_is_a_derivative(five_thousand_sequences):
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
    is_target = rows[:, 1:] >= 0
    codes = (rows[:, :-1] * 6 + rows[:, 1:])[is_target]
    model = mm.TableBigram(6)
    model.params["logits"] = np.random.default_rng(1).standard_normal((6, 6))
    markov = worlds.markov(
        matrices.transition_matrix(model)
    )  # P(x) of this world is a product over bigrams, as _under_p takes it
    loss, _ = paper.loss_under_p(
        model.params["logits"][:, None],
        (codes, is_target.sum(axis=1)),
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
def test_the_protocol_learns_and_repeats_itself(a_thousand_sequences, monkeypatch, objective, eta):
    monkeypatch.setattr(
        paper,
        "fit_paper",
        functools.partial(paper.fit_paper, epochs=10, batch_size=100, rate=2e-2),
    )
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


def test_the_surrogate_is_what_the_tokens_print(five_thousand_sequences):
    data, z = data_module.data_of("", 6, 0.5, 3), np.random.default_rng(0).standard_normal((6, 6))
    codes, counts = data.train, data_module.counts_of(data.train, 6)
    expected, _ = objectives.mixce_surrogate(z[codes // 6], codes % 6, eta=0.3, normalizer=5_000)
    assert curves.surrogate(np.exp(logprob.log_softmax(z)), counts, 0.3) == pytest.approx(
        float(expected), rel=1e-12
    )
