"""The exact protocol: objectives with exact gradients, brought to their optimum.

Each fit_… takes a Job and its Data and returns the learned transition matrix (V,V), the loss that
was minimised (nats per sequence), the number of steps, and the curve: a list of dicts. js has no
closed form, and its gradient is sampled.
"""

import functools
from typing import Any

import numpy as np

from ... import exact, logprob, objectives, optim, worlds
from ...bigram import Bigram, BigramConfig
from ...gpt import GPT, GPTConfig
from ...storage.shapes import Array, Float, Rows, Scalar
from ...training.loop import fit
from ...worlds import World
from .. import matrices, on_worlds
from .curves import Curve, Fitted, curve_point
from .data import LONGEST, Counts, Data, forward_counts
from .job import Job, forward_part, information_used

# ---- a table -------------------------------------------------------------------------------------


def fit_exact(job: Job, data: Data, tolerance: float = 1e-10, max_steps: int = 1000) -> Fitted:
    """The optimum of a job's objective with exact gradients, over all tables Q -> learned (V,V),
    loss in nats per sequence, steps, curve.

    Q starts at the counts of `data` and goes down along descent_direction, with steps halved while
    the loss would rise, until no entry of the gradient is above `tolerance`, no step gets lower
    than rounding lets see, or after `max_steps` steps.
    """
    world = data.world
    counts = forward_counts(job, data)
    share, _ = forward_part(job)
    # What was never seen starts low, but where P can call for it not so low that its gradient is
    # lost.
    least = 1e-6 if share < 1 else 1e-12
    z = np.log(np.maximum(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), least))
    loss, gradient = exact_loss(z, job, world, counts)
    rate = 1.0
    curve = []
    for step in range(max_steps + 1):
        q = np.exp(logprob.log_softmax(z))
        curve.append(curve_point(step, loss, q, job, world, counts))
        if step == max_steps or rate < 1e-4 or np.abs(gradient).max() <= tolerance:
            break
        direction = descent_direction(z, q, gradient, counts, job)
        while rate >= 1e-4:
            new = z - rate * direction
            new_loss, new_gradient = exact_loss(new, job, world, counts)
            # where the loss can no longer tell, the gradient has to fall
            rounding = 1e-14 * abs(loss)
            gradient_falls = np.abs(new_gradient).max() < np.abs(gradient).max()
            if new_loss < loss - rounding or (new_loss <= loss + rounding and gradient_falls):
                z, loss, gradient = new, new_loss, new_gradient
                rate = min(1.0, 1.2 * rate)
                break
            rate /= 2
    return q, float(loss), step, curve


def exact_loss(
    z: Float[Array, "V V"], job: Job, world: World, counts: Counts
) -> tuple[Scalar, Float[Array, "V V"]]:
    """Loss in nats per sequence, and its gradient (V,V), of any objective except js, a job's, at
    logits z (V,V), in a Markov world; counts (V,V) of its bigrams.
    """
    objective = "forward_ce" if job.objective == "mle" else job.objective
    return exact.bigram_loss_and_grads(z, world, objective=objective, eta=job.eta, counts=counts)


def descent_direction(
    z: Float[Array, "V V"],
    q: Float[Array, "V V"],
    gradient: Float[Array, "V V"],
    counts: Counts,
    job: Job,
) -> Float[Array, "V V"]:
    """A direction (V,V) in logits against which the loss of fit_exact falls, of about the right
    length.

    z, q, gradient, counts: logits, probabilities, gradient and bigram counts, each (V,V), of a job.
    The natural gradient: over (how often a row is seen) · Q(v|row), which undoes the softmax's own
    scale, at most 1 in any logit. For mixce_star the way to each row's optimum at the present costs
    A_v of its tokens under R, which it is slow to reach otherwise: minimising −Σ w_v log q_v + Σ
    A_v q_v gives q_v = w_v / (λ + A_v).
    """
    n = counts[0].sum()
    share, _ = forward_part(job)
    seen = share * counts.sum(axis=1) / n
    if job.objective == "mixce_star" and 0 < share < 1 and (seen > 0).all():
        weights = share * counts / n
        costs = (gradient + weights) / np.maximum(q, 1e-300) - seen[:, None]
        return logprob.log_softmax(z) - np.log(np.maximum(_rows_at_optimum(weights, costs), 1e-30))
    if job.objective == "mixce":  # a row moves as much as its tokens weigh
        seen = (counts * (job.eta + (1 - job.eta) * q)).sum(axis=1) / n
    if share < 1:
        inside = q.copy()
        inside[:, 0] = 0
        seen = seen + (1 - share) * np.linalg.solve((np.eye(len(q)) - inside).T, np.eye(len(q))[0])
    return np.clip(gradient / np.maximum(seen[:, None] * q, 1e-300), -1, 1)


def _rows_at_optimum(
    weights: Float[Array, "S V"], costs: Float[Array, "S V"]
) -> Float[Array, "S V"]:
    """Rows q_v = w_v / (λ + A_v) that sum to one, λ by Newton's method; weights ≥ 0, not all 0 in a
    row, and costs (S,V).

    The sum falls and is convex in λ above every −A_v with a weight, so from where one term alone is
    one the steps never pass the root.
    """
    has_weight = weights > 0
    level = np.where(has_weight, weights - costs, -np.inf).max(axis=1, keepdims=True)
    for _ in range(100):
        distance = np.where(has_weight, level + costs, 1)
        q = weights / distance
        step = (q.sum(axis=1, keepdims=True) - 1) / (q / distance).sum(axis=1, keepdims=True)
        level += step
        if (np.abs(step) <= 1e-14 * np.abs(level)).all():
            break
    return q / q.sum(axis=1, keepdims=True)


# ---- js, by samples ------------------------------------------------------------------------------


def fit_js(job: Job, data: Data, steps: int = 50) -> Fitted:
    """js of a table Q, from the counts of `data` on, in `steps` steps of Adam -> as fit_exact; the
    loss is its part under Q. It has no closed form, so its gradient is sampled, by the job's seed.
    """
    counts = forward_counts(job, data) + 0.01
    params = {"logits": np.log(counts / counts.sum(axis=1, keepdims=True))}
    optimizer = optim.Adam(params, 0.01)
    curve = []
    for step in range(steps + 1):
        loss, gradient = sampled_js(params["logits"], job, data.world, step)
        q = np.exp(logprob.log_softmax(params["logits"]))
        curve.append(curve_point(step, loss, q, job, data.world, counts))
        if step < steps:
            optimizer.step({"logits": gradient}, optim.warmup_cosine(step, 0.01, 0, steps, 0.01))
    return q, loss, steps, curve


def sampled_js(
    z: Float[Array, "V V"], job: Job, world: World, step: int, samples: int = 500
) -> tuple[float, Float[Array, "V V"]]:
    """js's part under Q (nats per sequence), and the gradient (V,V) of js, at logits z (V,V), by
    RLOO from `samples` sequences drawn anew, by the job's seed and the number of the step. world:
    P, a Markov one.
    """
    q = np.exp(logprob.log_softmax(z))
    rows = worlds.markov(q).sample(samples, LONGEST, np.random.default_rng([job.seed, step]))
    return rloo_js(q, world, rows, job.eta)


def rloo_js(
    q: Float[Array, "V V"], world: World, rows: Rows, eta: float
) -> tuple[float, Float[Array, "V V"]]:
    """estimators.rloo for js at η = eta, of a table q (V,V) and a Markov world, from bigrams ->
    loss, gradient in logits (V,V). rows (n, max_len+1): samples of q.

    It is written a second time for speed: the weight of a sample goes to all its bigrams, so the
    gradient is one weighted count, and no logits are computed for every token of sequences of up to
    500. A test holds it equal to the estimator.
    """
    V = world.vocab_size
    n = len(rows)
    inputs, targets = rows[:, :-2], rows[:, 1:-1]
    is_target = targets >= 0
    codes = (inputs * V + targets)[is_target]
    lengths = is_target.sum(axis=1)
    starts = np.cumsum(lengths) - lengths
    tables = np.log(np.maximum(q, 1e-300)), world.tables(np).log_p
    log_q, log_p = (np.add.reduceat(table.reshape(-1)[codes], starts) for table in tables)
    cost = (1 - eta) * (log_q - logprob.log_mixture(log_p, log_q, eta, np))
    advantage = (cost - (cost.sum() - cost) / (n - 1)) / n
    weighted = np.bincount(codes, np.repeat(advantage, lengths), minlength=V * V).reshape(V, V)
    return float(cost.mean()), weighted - weighted.sum(axis=1, keepdims=True) * q


# ---- networks ------------------------------------------------------------------------------------


def fit_neural(job: Job, data: Data, warmup: int = 500, steps: int = 3500) -> Fitted:
    """The paper's network on the gradients of a table, for a job and its data, without dropout or
    decay -> as fit_exact.

    Adam with a rate that falls to a thousandth over `steps` steps, after `warmup` of maximum
    likelihood: from a random start, reverse objectives end in a wrong corner.
    """
    world = data.world
    counts = forward_counts(job, data)
    all_tokens = np.arange(job.vocab_size)[:, None]
    model = Bigram(BigramConfig(job.vocab_size, dtype="float64"), job.seed, "cpu")
    optimizer = optim.Adam(model.params, 5e-3)
    curve = []
    loss: float | Scalar
    for step in range(steps + 1):
        logits, cache = model.forward(all_tokens)
        z = logits[:, 0]
        if step < warmup:
            loss, dlogits = exact_loss(z, job._replace(objective="mle"), world, counts)
        elif job.objective == "js":
            loss, dlogits = sampled_js(z, job, world, step)
        else:
            loss, dlogits = exact_loss(z, job, world, counts)
        if step % 50 == 0:
            q = np.exp(logprob.log_softmax(z))
            curve.append(curve_point(step, loss, q, job, world, counts))
        if step < steps:
            grads = model.backward(dlogits[:, None], cache)
            optimizer.step(grads, optim.warmup_cosine(step, 5e-3, 0, steps, 0.001))
    return matrices.transition_matrix(model), float(loss), steps, curve


def fit_gpt(
    job: Job, data: Data, steps: int = 1000, batch_size: int = 64, longest: int = 65
) -> tuple[Float[Array, "V V"], float, int, Curve, str]:
    """Q is a small GPT, trained on batches of samples: token objectives as on text, those over
    sequences with a reverse part that is exact where the space can be listed and RLOO elsewhere ->
    as fit_exact, and which gradient that was, in words.

    job, data: whose world and number of sequences are taken; `steps` steps of batch_size sequences
    of at most `longest` tokens. Its transition matrix averages over the prefixes of sequences of P
    (matrices.transition_matrix).
    """
    world = data.world
    max_len = on_worlds.horizon(world, longest)
    rows = world.sample(
        len(data.starts) - 1, max_len, np.random.default_rng([job.seed, job.vocab_size, 1])
    )
    model = GPT(GPTConfig(job.vocab_size, max_len - 1, 2, 2, 32), job.seed, "cpu")
    train, gradient = _gpt_training(job, world, max_len)
    batches = on_worlds.RowBatches(world, rows, batch_size, job.seed)
    train |= {"steps": steps, "lr": 3e-3, "warmup": 50, "eval_every": 50, "progress": False}
    measurements = fit(model, batches, **train)
    learned = matrices.transition_matrix(model, world, 2000, max_len, job.seed)
    curve = [{"step": m["step"], "loss": m["loss"]} for m in measurements]
    return learned, measurements[-1]["loss"], steps, curve, gradient


def _gpt_training(job: Job, world: World, max_len: int) -> tuple[dict[str, Any], str]:
    """What `fit` takes for a job's objective, a dict, and in words which gradient that is."""
    if objectives.OBJECTIVES[job.objective].over == "tokens":
        return {"objective": functools.partial(objectives.mixce, eta=job.eta)}, "of batches"
    step = on_worlds.sequence_step(job.objective, world, max_len, eta=job.eta, seed=job.seed)
    reverse = "; exact" if on_worlds.is_listed(world, max_len) else "; RLOO (sampled)"
    return {"step": step}, "of batches" + (reverse if information_used(job) != "samples" else "")
