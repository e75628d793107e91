"""Estimators: their expectations summed exactly, Gumbel-softmax against autograd, and the study's
statistics.
"""

import itertools
import math

import autograd.numpy as anp
import numpy as np
import pytest
import strict_device as sd
from autograd import make_vjp
from autograd.tracer import getval
from helpers import assert_close, naive_attention, naive_gelu, naive_layer_norm, random_gpt

import minimixce as mm
from minimixce import estimators, exact, logprob, worlds

OBJECTIVES = ("reverse_ce", "reverse_kl")
# V, S, max_len, share of zeros
CASES = [(2, 1, 2, 0.0), (3, 3, 3, 0.4), (3, 2, 4, 0.0), (2, 3, 5, 0.3)]


def random_world(V, S, zeros=0.0, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(V), S)
    probs[:, 1:] *= rng.random((S, V - 1)) >= zeros
    return worlds.World(probs / probs.sum(axis=1, keepdims=True), rng.integers(0, S, (S, V)))


def flat(grads):
    return np.concatenate([g.reshape(-1) for g in grads.values()])


@pytest.fixture(params=CASES, ids=str)
def case(request):
    V, S, max_len, zeros = request.param
    world, model = random_world(V, S, zeros), random_gpt(1, V, max(1, max_len - 1), n_layer=1)
    rows = exact.sequences(V, max_len)
    return (
        world,
        model,
        max_len,
        rows,
        np.exp(exact.log_prob(model, rows)),
        np.exp(world.log_prob(rows)),
    )


def expectation(estimate, rows, probs):
    """Σ_x prob(x) · estimate from x alone -> value, flat gradient."""
    parts = [(p, *estimate(row[None])) for row, p in zip(rows, probs) if p > 0]
    return sum(p * float(loss) for p, loss, _ in parts), sum(
        p * flat(grads) for p, _, grads in parts
    )


def the_exact(case, objective):
    world, model, max_len, *_ = case
    loss, grads = exact.loss_and_grads(model, world, max_len, objective=objective)
    return float(loss), flat(grads)


def relative(got, want):
    return np.abs(got - want).max() / np.abs(want).max()


# ---- expectations --------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", ["reinforce", "reward_to_go"])
def test_unbiased_ones_are(case, name, objective):
    world, model, _, rows, q, _ = case
    estimator = getattr(estimators, name)
    loss, gradient = expectation(lambda x: estimator(model, world, x, objective=objective), rows, q)
    expected_loss, expected = the_exact(case, objective)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert relative(gradient, expected) <= 1e-12


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rloo_is_unbiased_over_all_pairs_and_leave_one_in_is_short_by_half(case, objective):
    world, model, _, rows, q, _ = case
    if len(rows) > 15:
        pytest.skip("too many pairs")
    total = leave_one_in = 0.0
    for i, j in itertools.product(range(len(rows)), repeat=2):
        pair = rows[[i, j]]
        loss, grads = estimators.rloo(model, world, pair, objective=objective)
        total = total + q[i] * q[j] * flat(grads)
        mean_cost = [
            estimators.reinforce(model, world, row[None], objective=objective) for row in pair
        ]
        # REINFORCE with the mean of both as the baseline: what REINFORCE gives, less mean · ∇ log Q
        # averaged.
        score = np.mean([flat(estimators.k1(model, world, row[None])[1]) for row in pair], axis=0)
        both = (
            np.mean([flat(g) for _, g in mean_cost], axis=0)
            - np.mean([loss for loss, _ in mean_cost]) * score
        )
        leave_one_in = leave_one_in + q[i] * q[j] * both
        assert loss == pytest.approx(np.mean([loss for loss, _ in mean_cost]), rel=1e-12)
    expected = the_exact(case, objective)[1]
    assert relative(total, expected) <= 1e-12
    assert relative(2 * leave_one_in, expected) <= 1e-12  # (n−1)/n with n = 2


def test_rloo_for_js_has_all_of_its_gradient(case):
    world, model, max_len, rows, q, _ = case
    if len(rows) > 15:
        pytest.skip("too many pairs")
    total = 0.0
    for i, j in itertools.product(range(len(rows)), repeat=2):
        total = total + q[i] * q[j] * flat(
            estimators.rloo(model, world, rows[[i, j]], objective="js", eta=0.3)[1]
        )
    _, grads = exact.loss_and_grads(model, world, max_len, objective="js", eta=0.3)
    assert relative(total, flat(grads)) <= 1e-12


def test_rloo_of_many_samples_leaves_each_out_of_its_own_baseline(case):
    world, model, max_len, *_ = case
    rows = world.sample(5, max_len, seed=1)
    alone = [estimators.reinforce(model, world, row[None]) for row in rows]
    scores = [
        flat(estimators.k1(model, world, row[None], objective="reverse_kl")[1]) for row in rows
    ]
    costs = np.array([float(loss) for loss, _ in alone])
    expected = np.mean(
        [(c - np.delete(costs, i).mean()) * s for i, (c, s) in enumerate(zip(costs, scores))],
        axis=0,
    )
    assert_close(flat(estimators.rloo(model, world, rows)[1]), expected, 1e-12)
    with pytest.raises(ValueError, match="at least 2 samples"):
        estimators.rloo(model, world, rows[:1])


def test_k1_has_an_exact_value_and_no_gradient(case):
    world, model, _, rows, q, _ = case
    for objective in OBJECTIVES:
        loss, gradient = expectation(
            lambda x, o=objective: estimators.k1(model, world, x, objective=o), rows, q
        )
        assert loss == pytest.approx(the_exact(case, objective)[0], rel=1e-12)
        assert np.abs(gradient).max() <= 1e-13
    # one sample's is not zero
    assert np.abs(flat(estimators.k1(model, world, rows[:1])[1])).max() > 1e-3


def test_k2_has_the_gradient_of_reverse_kl(case):
    world, model, _, rows, q, _ = case
    _, gradient = expectation(lambda x: estimators.k2(model, world, x), rows, q)
    assert relative(gradient, the_exact(case, "reverse_kl")[1]) <= 1e-12


def test_k3_has_the_gradient_of_forward_kl_and_the_value_of_reverse_kl(case):
    world, model, _, rows, q, _ = case
    loss, gradient = expectation(lambda x: estimators.k3(model, world, x), rows, q)
    assert relative(gradient, the_exact(case, "forward_kl")[1]) <= 1e-12
    # E_Q[P/Q] = 1: Q leaves nothing out
    assert loss == pytest.approx(the_exact(case, "reverse_kl")[0], rel=1e-12)


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_per_token_they_are_biased(name):
    world, model, rows = random_world(3, 3), random_gpt(1, 3, 3), exact.sequences(3, 4)
    q = np.exp(exact.log_prob(model, rows))
    _, gradient = expectation(
        lambda x: getattr(estimators, name)(model, world, x, per="token"), rows, q
    )
    for objective in ("forward_kl", "reverse_kl"):
        _, grads = exact.loss_and_grads(model, world, 4, objective=objective)
        assert relative(gradient, flat(grads)) > 0.05
    with pytest.raises(ValueError, match='per must be "sequence" or "token"'):
        getattr(estimators, name)(model, world, rows, per="word")


def test_per_token_losses_are_sums_over_tokens():
    world, model = random_world(4, 3, 0.3), random_gpt(1, 4, 3)
    rows = world.sample(6, 4, seed=2)
    inputs, targets = world.batch(rows)
    log_q = -mm.objectives.mle(model.forward(inputs)[0], targets, reduction="none")[0]
    d = log_q - world.token_log_probs(rows, floored=True)
    assert float(estimators.k2(model, world, rows, per="token")[0]) == pytest.approx(
        (d**2).sum() / 2 / 6, rel=1e-12
    )
    there = targets >= 0
    k3 = (np.exp(-d[there]) - 1 + d[there]).sum() / 6
    assert float(estimators.k3(model, world, rows, per="token")[0]) == pytest.approx(k3, rel=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_importance_is_unbiased_just_where_p_has_no_zeros(objective):
    model, rows = random_gpt(1, 3, 2), exact.sequences(3, 3)
    for zeros, seed in ((0.0, 0), (0.5, 1)):
        world = random_world(3, 3, zeros, seed)
        p = np.exp(world.log_prob(rows))
        loss, gradient = expectation(
            lambda x, w=world: estimators.importance(model, w, x, objective=objective), rows, p
        )
        expected_loss, grads = exact.loss_and_grads(model, world, 3, objective=objective)
        if zeros:
            assert (p == 0).any()
            assert relative(gradient, flat(grads)) > 0.5
        else:
            assert loss == pytest.approx(float(expected_loss), rel=1e-12)
            assert relative(gradient, flat(grads)) <= 1e-12


@pytest.mark.parametrize(
    "name", ["reinforce", "reward_to_go", "rloo", "k1", "k2", "k3", "importance"]
)
def test_with_a_horizon_of_one_there_is_nothing_to_learn(name):
    model = random_gpt(0, 3, 1)
    loss, grads = getattr(estimators, name)(model, random_world(3, 1), np.zeros((2, 2), int))
    assert float(loss) == 0
    assert list(grads) == list(model.params)
    assert not flat(grads).any()


# ---- samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [random_gpt(1, 3, 3), mm.TableBigram(3)], ids=["gpt", "table"])
def test_samples_are_q_s(model):
    rows = estimators.sample(model, 20_000, 4, seed=3)
    space = exact.sequences(3, 4)
    q = np.exp(exact.log_prob(model, space))
    seen = np.array([(rows == row).all(axis=1).mean() for row in space])
    assert seen.sum() == pytest.approx(1)  # nothing but rows as worlds write them
    z = (seen - q) / np.sqrt(q * (1 - q) / len(rows))
    assert np.abs(z).max() < 4.5  # 15 sequences: by chance once in 10,000
    assert (estimators.sample(model, 4, 1) == [[0, 0]] * 4).all()


def test_gumbel_noise_chooses_from_the_softmax():
    noise = estimators.gumbel_noise(40_000, 2, 3, seed=1)
    q = np.exp(logprob.log_softmax(np.array([0.3, -1.0, 0.5])))
    chosen = np.bincount((np.log(q) + noise[0]).argmax(axis=1), minlength=3) / 40_000
    assert np.abs((chosen - q) / np.sqrt(q * (1 - q) / 40_000)).max() < 4.5


# ---- Gumbel-softmax ------------------------------------------------------------------------------


def naive_logits(model, params, x):
    """Logits of soft one-hots x (B,T,V), in autograd.numpy, for a GPT, a table or the paper's
    network.
    """
    if "logits" in params:
        return anp.dot(x, params["logits"])
    if "embedding.weight" in params:
        hidden = (
            anp.dot(anp.dot(x, params["embedding.weight"]), params["hidden.weight"])
            + params["hidden.bias"]
        )
        return anp.dot(anp.maximum(hidden, 0), params["output.weight"]) + params["output.bias"]
    c, y = model.config, anp.dot(x, params["wte.weight"]) + params["wpe.weight"][: x.shape[1]]
    for i in range(c.n_layer):

        def of(layer, i=i):
            return params[f"h.{i}.{layer}.weight"], params[f"h.{i}.{layer}.bias"]

        def linear(x, layer, of=of):
            return anp.dot(x, of(layer)[0]) + of(layer)[1]

        attended, _, _ = naive_attention(
            linear(naive_layer_norm(y, *of("ln_1")), "attn.c_attn"), c.n_head
        )
        y = y + linear(attended, "attn.c_proj")
        y = y + linear(
            naive_gelu(linear(naive_layer_norm(y, *of("ln_2")), "mlp.c_fc")), "mlp.c_proj"
        )
    return anp.dot(
        naive_layer_norm(y, params["ln_f.weight"], params["ln_f.bias"]), params["wte.weight"].T
    )


def naive_gumbel(model, world, noise, objective, tau, params):
    """The definition with autograd's tape: hard values on soft derivatives, whole prefixes
    recomputed at every step.
    """
    positions, n, V = noise.shape
    floored = np.maximum(np.log(np.maximum(world.probs, 1e-300)), world.log_p_floor)
    prefix, state, alive = [np.eye(V)[np.zeros(n, int)]], np.zeros(n, int), np.ones(n)
    log_q_of_all = log_p_of_all = 0.0
    for t in range(positions):
        logits = naive_logits(model, params, anp.stack(prefix, axis=1))[:, -1]
        log_q = logits - anp.log(anp.sum(anp.exp(logits), axis=1, keepdims=True))
        scaled = (log_q + noise[t]) / tau
        soft = anp.exp(scaled) / anp.sum(anp.exp(scaled), axis=1, keepdims=True)
        tokens = getval(scaled).argmax(axis=1)
        choice = np.eye(V)[tokens] - getval(soft) + soft
        log_q_of_all = log_q_of_all + anp.sum(alive[:, None] * choice * log_q, axis=1)
        log_p_of_all = log_p_of_all + anp.sum(alive[:, None] * choice * floored[state], axis=1)
        prefix.append(choice)
        alive, state = alive * (tokens > 0), world.next_state[state, tokens]
    if objective == "reverse_ce":
        return -anp.mean(log_p_of_all)
    if objective == "js":
        return anp.mean(
            log_q_of_all - anp.log(0.3 * anp.exp(log_p_of_all) + 0.7 * anp.exp(log_q_of_all))
        )
    return anp.mean(log_q_of_all - log_p_of_all)


@pytest.mark.parametrize("tau", [2.0, 0.5])
@pytest.mark.parametrize("objective", [*OBJECTIVES, "js"])
@pytest.mark.parametrize("kind", ["gpt", "table", "bigram"])
def test_gumbel_is_the_straight_through_derivative(kind, objective, tau):
    world, model = (
        random_world(4, 3, 0.3),
        random_gpt(2, 4, 4, n_layer=2) if kind == "gpt" else mm.TableBigram(4),
    )
    if kind == "bigram":
        model = mm.Bigram(mm.BigramConfig(4, 3, 5, dtype="float64"), seed=1, device="cpu")
    if kind == "table":
        model.params["logits"] = np.random.default_rng(5).standard_normal((4, 4))
    noise, names = estimators.gumbel_noise(6, 5, 4, seed=1), list(model.params)

    def naive(values):
        return naive_gumbel(model, world, noise, objective, tau, dict(zip(names, values)))

    pull_back, value = make_vjp(naive)(tuple(model.params.values()))
    loss, grads = estimators.gumbel(model, world, noise, objective=objective, eta=0.3, tau=tau)
    assert float(loss) == pytest.approx(float(value), rel=1e-12)
    for name, expected in zip(names, pull_back(1.0)):
        assert_close(grads[name], expected, 1e-9, name)


def test_gumbel_s_value_is_that_of_the_samples_it_makes():
    world, model = random_world(4, 3, 0.3), random_gpt(2, 4, 4)
    noise = estimators.gumbel_noise(50, 5, 4, seed=1)
    rows = np.full((50, 6), -1)
    rows[:, 0] = 0
    for i in range(50):
        tokens = [0]
        while len(tokens) == 1 or tokens[-1]:
            if len(tokens) == 5:
                tokens.append(0)
                break
            logits, _ = model.forward(np.array([tokens]))
            tokens.append(int((logits[0, -1] + noise[len(tokens) - 1, i]).argmax()))
        rows[i, : len(tokens)] = tokens
    loss, _ = estimators.gumbel(model, world, noise)
    assert float(loss) == pytest.approx(
        -world.token_log_probs(rows, floored=True).sum() / 50, rel=1e-12
    )


def test_gumbel_is_biased_and_a_z_test_sees_it():
    """Power: the study puts gumbel's bias here at three quarters of the gradient and its standard
    deviation at n = 2,000 at 2.4 %, so z comes out around 90, and below 8 with a probability under
    1e-12.
    """
    world, model = worlds.agreement(), mm.TableBigram(6)
    _, grads = exact.loss_and_grads(model, world, 4, objective="reverse_kl")
    g = flat(grads)
    z = {}
    for name in ("gumbel", "reinforce"):
        along = []
        for k in range(40):
            noise, rows = (
                estimators.gumbel_noise(50, 4, 6, seed=k),
                estimators.sample(model, 50, 4, seed=k),
            )
            if name == "gumbel":
                _, estimate = estimators.gumbel(
                    model, world, noise, objective="reverse_kl", tau=1.0
                )
            else:
                _, estimate = estimators.reinforce(model, world, rows, objective="reverse_kl")
            along.append((flat(estimate) - g) @ g)
        z[name] = np.mean(along) / (np.std(along, ddof=1) / math.sqrt(40))
    assert abs(z["reinforce"]) < 4
    assert abs(z["gumbel"]) > 8


def test_gumbel_refuses_what_it_cannot_use():
    world, model, noise = random_world(3, 2), random_gpt(1, 3, 2), estimators.gumbel_noise(2, 3, 3)
    with pytest.raises(ValueError, match="tau must be a positive number, got 0"):
        estimators.gumbel(model, world, noise, tau=0)
    with pytest.raises(ValueError, match="objective must be"):
        estimators.gumbel(model, world, noise, objective="forward_ce")


# ---- the study -----------------------------------------------------------------------------------


def test_the_errors_are_what_they_say():
    rng, R = np.random.default_rng(0), 4000
    g, bias, spread = (
        np.array([3.0, 0.0, 4.0]),
        np.array([0.5, 0.0, 0.0]),
        np.array([1.0, 2.0, 0.5]),
    )
    found = estimators._errors(g + bias + spread * rng.standard_normal((R, 3)), g, 0)
    for name, expected in (("bias2", 0.25 / 25), ("variance", 5.25 / 25), ("mse", 5.5 / 25)):
        assert abs(found[name] - expected) < 4 * found[f"{name}_se"] < 0.1 * 5.5 / 25, name
    assert found["std"] == pytest.approx(math.sqrt(found["variance"]))
    assert found["z"] > 10
    assert estimators._errors(g + spread * rng.standard_normal((R, 3)), g, 0)["z"] < 4


@pytest.mark.parametrize("kind", ["bias2", "variance", "mse"])
def test_standard_errors_cover(kind):
    """Over 300 studies of 50 repeats, the error in units of its standard error has a standard
    deviation near one.
    """
    rng, g, bias = np.random.default_rng(1), np.array([1.0, 2.0]), np.array([0.3, -0.1])
    true = {"bias2": 0.1 / 5, "variance": 1.25 / 5, "mse": 1.35 / 5}[kind]
    errors, z = [], []
    for _ in range(300):
        found = estimators._errors(
            g + bias + np.array([1.0, 0.5]) * rng.standard_normal((50, 2)), g, 0
        )
        errors.append(found[kind] - true)
        z.append(errors[-1] / found[f"{kind}_se"])
    assert 0.75 < np.std(z) < 1.35
    assert abs(np.mean(errors)) < 4 * np.std(errors) / math.sqrt(300)  # unbiased


def test_study_tells_biased_from_unbiased():
    world, model = worlds.agreement(), mm.TableBigram(6)
    found = estimators.study(
        model, world, 4, objective="reverse_kl", sizes=(8, 32), repeats=60, seed=1
    )
    by = {(row["estimator"], row["n"]): row for row in found}
    for n in (8, 32):
        for name in ("reinforce", "reward_to_go", "rloo", "k2"):
            assert abs(by[name, n]["bias2"]) < 5 * by[name, n]["bias2_se"], name
        for name in ("importance", "k1", "k3", "gumbel τ=1"):
            assert by[name, n]["bias2"] > 5 * by[name, n]["bias2_se"], name
    assert by["rloo", 32]["variance"] < by["rloo", 8]["variance"] / 2
    assert by["k2", 8] == by["reinforce", 8] | {"estimator": "k2"}  # one and the same gradient
    assert found == estimators.study(
        model, world, 4, objective="reverse_kl", sizes=(8, 32), repeats=60, seed=1
    )


def test_study_refuses_a_zero_gradient_and_too_few_repeats():
    world = worlds.markov(np.full((3, 3), 1 / 3))
    with pytest.raises(ValueError, match="exact gradient is zero"):
        estimators.study(mm.TableBigram(3), world, 3, objective="reverse_kl")
    with pytest.raises(ValueError, match="repeats and sizes must be at least 2"):
        estimators.study(mm.TableBigram(3), world, 3, repeats=1)


# ---- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "name", ["reinforce", "reward_to_go", "rloo", "k1", "k2", "k3", "importance", "gumbel"]
)
def test_on_a_device_as_on_numpy(name, objective):
    world, model = random_world(4, 3, 0.3), random_gpt(2, 4, 4)
    drawn = (
        estimators.gumbel_noise(6, 5, 4, seed=1) if name == "gumbel" else world.sample(6, 5, seed=1)
    )
    options = {} if name in ("k2", "k3") else {"objective": objective}
    expected = getattr(estimators, name)(model, world, drawn, **options)
    model.params = {key: sd.asarray(p) for key, p in model.params.items()}
    with sd.no_host_reads():
        loss, grads = getattr(estimators, name)(model, world, sd.asarray(drawn), **options)
    assert_close(loss.get(), expected[0], 1e-12)
    for key, g in expected[1].items():
        assert_close(grads[key].get(), g, 1e-12, key)


def test_sampling_on_a_device_gives_rows():
    model = random_gpt(2, 4, 4)
    model.params = {key: sd.asarray(p) for key, p in model.params.items()}
    rows = estimators.sample(model, 5, 5, seed=1)
    assert type(rows) is sd.ndarray
    assert np.isfinite(random_world(4, 3).log_prob(rows.get())).all()
