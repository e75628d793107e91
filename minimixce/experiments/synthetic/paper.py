"""The paper's protocol: its neural bigram, Adam with L2 and dropout, early stopping, and what needs
samples of Q by Gumbel-softmax.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from ... import backend, logprob, optim
from ...bigram import Bigram, BigramCache, BigramConfig
from ...objectives import OBJECTIVES
from ...storage.shapes import Array, Float, Grads, Int, Scalar
from ...worlds import World
from .. import matrices
from .curves import Curve, Fitted, curve_point
from .data import LONGEST, CodesAndLengths, Counts, Data, counts_of
from .job import Job, forward_part, information_used

Batch: TypeAlias = Counts | CodesAndLengths  # the latter for js
Exponentials: TypeAlias = Callable[[int, Array], Array]  # (t, rows) -> E
ToInput: TypeAlias = Callable[[Array, Array], Array]  # (dlogits, tokens) -> derivative in one-hots


def fit_paper(
    job: Job,
    data: Data,
    epochs: int = 50,
    batch_size: int = 1000,
    patience: int = 5,
    rate: float = 1e-3,
    l2: float = 1e-4,
    dropout: float = 0.1,
    masks: int = 8,
) -> Fitted:
    """The paper's protocol for a job and its data -> learned (V,V), loss on development data (nats
    per sequence), steps, curve: one point an epoch.

    At most `epochs`, or until `patience` epochs bring no better loss; Adam with `rate` and `l2`.
    Losses are sums over tokens, means over sequences. A batch is seen through its bigram counts, so
    a step costs one pass over few rows; js, whose part under P does not add up over tokens, weights
    the counts of each sequence by itself. What needs samples of Q is Gumbel-softmax at τ = 1 with
    as many sequences as the batch; the best epoch by development loss is kept. The reference draws
    a dropout mask for each token, those of Q's samples included. Here each row has `masks` of them,
    of rate `dropout`, in a batch, and the gradient is their mean, as if each had an equal share of
    the row's tokens (benchmarks/synthetic.py --dropout compares the two); samples of Q have none.
    Data come in whole batches: `batch_size` divides the number of sequences.
    """
    model = Bigram(BigramConfig(job.vocab_size, dropout=dropout), job.seed, "cpu")
    optimizer = optim.Adam(model.params, rate, l2=l2)
    rng = np.random.default_rng([job.seed, 1])
    development = _development(data, job)
    best = math.inf
    best_params: Any = None  # until an epoch ends
    since = 0  # epochs since the best one
    steps = 0
    curve: Curve = []
    for epoch in range(epochs):
        for batch in _batches(data, job, batch_size, rng):
            optimizer.step(_gradients(model, batch, job, data.world, batch_size, masks, rng))
            steps += 1
        loss = _development_loss(model, development, job, data, rng)
        learned = matrices.transition_matrix(model)
        curve.append(curve_point(epoch, loss, learned, job, data.world, development))
        if loss < best:
            best = loss
            since = 0
            best_params = {name: p.copy() for name, p in model.params.items()}
            continue
        since += 1
        if since >= patience:
            break
    model.params = best_params
    return matrices.transition_matrix(model), best, steps, curve


def _gradients(
    model: Bigram,
    batch: Batch,
    job: Job,
    world: World,
    batch_size: int,
    masks: int,
    rng: np.random.Generator,
) -> Grads:
    """One step's gradient in every parameter: the part under P, and the one under Q if there is."""
    all_tokens = np.arange(job.vocab_size)[:, None]
    logits, cache = model.forward(np.repeat(all_tokens, masks, axis=1), training=True, rng=rng)
    _, dlogits = loss_under_p(logits, batch, job, world)
    grads = model.backward(dlogits, cache)
    if information_used(job) == "samples":
        return grads
    logits, cache = model.forward(all_tokens)
    noise = _exponentials(model, rng)
    to_input = into_input(model, cache)
    _, dlogits_q = loss_under_q(logits[:, 0], world, job, batch_size, noise, to_input)
    assert dlogits_q is not None  # as to_input is not
    return model.backward(dlogits_q[:, None], cache, grads)


def _development_loss(
    model: Bigram, development: Batch, job: Job, data: Data, rng: np.random.Generator
) -> float:
    """The loss on development data, without dropout -> float."""
    logits, _ = model.forward(np.arange(job.vocab_size)[:, None])
    loss = float(loss_under_p(logits, development, job, data.world)[0])
    if information_used(job) != "samples":
        n, noise = len(data.development_lengths), _exponentials(model, rng)
        loss += float(loss_under_q(logits[:, 0], data.world, job, n, noise)[0])
    return loss


def _exponentials(model: Bigram, rng: np.random.Generator) -> Exponentials:
    """`exponentials` of loss_under_q, drawn from rng."""
    V, dtype = model.config.vocab_size, model.config.dtype
    return lambda t, rows: rng.standard_exponential((len(rows), V), dtype=dtype)


# ---- batches -------------------------------------------------------------------------------------


def _batches(data: Data, job: Job, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """The batches of an epoch, sequences in random order, each as loss_under_p takes it."""
    lengths = np.diff(data.starts)
    order = rng.permutation(len(lengths))
    if job.objective == "js":
        return sequences_by_batch(data.train, lengths, order.reshape(-1, batch_size))
    batch_of_code = np.repeat(order // batch_size, lengths)
    return counts_by_batch(data.train, batch_of_code, len(lengths) // batch_size, job.vocab_size)


def counts_by_batch(
    codes: Int[Array, " N"], batch_of_code: Int[Array, " N"], batches: int, V: int
) -> Iterator[Int[Array, "V V"]]:
    """Bigram counts (V,V) of each batch in turn; several batches are counted at once, as memory
    allows. codes, batch_of_code (N,): Data.train and the batch that each code is in.
    """
    together = max(1, 5_000_000 // V**2)
    for first in range(0, batches, together):
        if together >= batches:
            inside, number = codes, batch_of_code
        else:
            chosen = (batch_of_code >= first) & (batch_of_code < first + together)
            inside, number = codes[chosen], batch_of_code[chosen] - first
        size = min(together, batches - first)
        yield from np.bincount(number * V**2 + inside, minlength=size * V**2).reshape(size, V, V)


def sequences_by_batch(
    codes: Int[Array, " N"], lengths: Int[Array, " S"], batches: Int[Array, "K n"]
) -> Iterator[CodesAndLengths]:
    """(codes, lengths) of each batch in turn; batches: rows of sequence numbers (batches, n)."""
    starts = np.cumsum(lengths) - lengths
    for chosen in batches:
        of_chosen = lengths[chosen]
        offsets = np.arange(of_chosen.sum()) - np.repeat(
            np.cumsum(of_chosen) - of_chosen, of_chosen
        )
        yield codes[np.repeat(starts[chosen], of_chosen) + offsets], of_chosen


def _development(data: Data, job: Job) -> Batch:
    """The development sequences as a batch."""
    if job.objective == "js":
        return data.development, data.development_lengths
    return counts_of(data.development, job.vocab_size)


# ---- the part under P ----------------------------------------------------------------------------


def loss_under_p(
    logits: Float[Array, "V K V"], batch: Batch, job: Job, world: World
) -> tuple[Scalar, Float[Array, "V K V"]]:
    """The part of a job's objective that samples of P, a Markov world, give, in nats per sequence
    -> loss, dlogits (V,K,V).

    logits (V,K,V), K copies of every row under different dropout masks: a token counts 1/K in each
    copy; in js, which weights whole sequences, every K-th sequence has the same copy. batch: bigram
    counts (V,V), for js (codes, lengths) as sequences_by_batch yields.
    """
    log_q = logprob.log_softmax(logits)
    part = _js_under_p if job.objective == "js" else _tokens_under_p
    loss, weighted = part(log_q, batch, job, world)
    dlogits = weighted.sum(axis=-1, keepdims=True) * np.exp(log_q) - weighted
    return loss, dlogits.astype(logits.dtype)


def _tokens_under_p(log_q, counts, job, world):
    """loss, and the weight of each bigram in its gradient (V,K,V), of what adds up over tokens."""
    counts = (counts / (log_q.shape[1] * counts[0].sum()))[:, None]
    share, name = forward_part(job)
    f, w = OBJECTIVES[name].f_and_w(log_q, job.eta, np)
    return (counts * (share * f)).sum(), counts * (share * w)


def _js_under_p(log_q, batch, job, world):
    """The same of js: η E_P[log P − log M], whose derivative in log Q(x) is −η (1−η) Q(x)/M(x)."""
    (codes, lengths), eta, (V, K, _) = batch, job.eta, log_q.shape
    n = len(lengths)
    starts = np.cumsum(lengths) - lengths
    last, token = np.divmod(codes, V)
    copies = (last * K + np.repeat(np.arange(n) % K, lengths)) * V + token
    with np.errstate(divide="ignore"):
        log_p = np.log(world.probs).reshape(-1)
    log_p_of_x = np.add.reduceat(log_p[codes], starts)
    log_q_of_x = np.add.reduceat(log_q.reshape(-1)[copies], starts)
    log_m = logprob.log_mixture(log_p_of_x, log_q_of_x, eta, np)
    loss = eta * (log_p_of_x - log_m).mean()
    weights = np.repeat(eta * np.exp(math.log(1 - eta) + log_q_of_x - log_m), lengths)
    weighted = np.bincount(copies, weights, minlength=log_q.size).reshape(log_q.shape) / n
    return loss, weighted


# ---- the part under Q ----------------------------------------------------------------------------


def loss_under_q(
    logits: Float[Array, "V V"],
    world: World,
    job: Job,
    n: int,
    exponentials: Exponentials,
    to_input: ToInput | None = None,
) -> tuple[Scalar, Float[Array, "V V"] | None]:
    """The other part of a job's objective, from n sequences of Q by Gumbel-softmax at τ = 1 ->
    loss, dlogits (V,V), or None without to_input.

    estimators.gumbel for a bigram Q with logits (V,V) and a Markov world, written a second time for
    speed: each row of logits is computed once, what a token adds to dlogits goes to the row of the
    token before it, and sequences that have ended are left alone. A test holds it equal to the
    estimator. If E is standard exponential, −log E is Gumbel noise g, so softmax(log q + g) is q/E
    over its sum, and its largest entry the choice.

    exponentials(t, rows): E (len(rows),V) of step t for those of the n sequences that go on;
    to_input(dlogits, tokens): the derivative (N,V) in one-hot inputs, of dlogits (N,V) after
    `tokens` (N,).
    """
    log_q = logprob.log_softmax(logits)
    q, log_p = np.exp(log_q), world.tables(np).log_p_floored.astype(logits.dtype)
    sum_q, sum_p, steps = _draw(q, log_q, log_p, n, exponentials)
    cost, by_q, by_p = _costs(job, sum_q, sum_p)
    loss = (1 - job.eta) * cost.mean()
    if to_input is None:
        return loss, None
    by_q, by_p = ((1 - job.eta) / n * slope[:, None] for slope in (by_q, by_p))
    dlogits, dchoice = np.zeros_like(logits), np.zeros((n, q.shape[1]), q.dtype)
    for rows, last, choice, soft in reversed(steps):
        soft /= soft.sum(axis=1, keepdims=True)
        down = dchoice[rows] + by_q[rows] * log_q[last] + by_p[rows] * log_p[last]
        down = soft * (down - (soft * down).sum(axis=1, keepdims=True)) - by_q[rows] * q[last]
        down[np.arange(len(rows)), choice] += by_q[rows, 0]
        backend.add_rows(dlogits, last, down)
        dchoice[rows] = to_input(down, last)
    return loss, dlogits


def _draw(q, log_q, log_p, n, exponentials):
    """n sequences of Q -> log Q and log P of each (n,), and what the way back needs of each step:
    the sequences that go on, their last tokens, what they choose, and q/E.
    """
    sum_q, sum_p = np.zeros(n, q.dtype), np.zeros(n, q.dtype)
    rows = np.arange(n)
    last = np.zeros(n, int)
    steps = []
    for t in range(LONGEST - 1):
        soft = q[last] / np.maximum(exponentials(t, rows), 1e-30)
        choice = soft.argmax(axis=1)
        sum_q[rows] += log_q[last, choice]
        sum_p[rows] += log_p[last, choice]
        steps.append((rows, last, choice, soft))
        rows, last = rows[choice > 0], choice[choice > 0]
        if not len(rows):
            break
    return sum_q, sum_p, steps


def _costs(
    job: Job, log_q: Float[Array, " n"], log_p: Float[Array, " n"]
) -> tuple[Array, Array, Array]:
    """What sequences with log Q and log P (n,) cost, and the derivatives in both, each (n,)."""
    if job.objective == "js":
        log_m = logprob.log_mixture(log_p, log_q, job.eta, np)
        share_of_p = np.exp(math.log(job.eta) + log_p - log_m)  # in M
        return log_q - log_m, share_of_p, -share_of_p
    by_q = np.full(len(log_q), job.objective == "two_kls", log_q.dtype)
    by_p = np.full(len(log_q), -1, log_q.dtype)
    return by_q * log_q - log_p, by_q, by_p


def into_input(model: Bigram, cache: BigramCache) -> ToInput:
    """`to_input` of loss_under_q for a model, a Bigram, whose forward pass over all V tokens,
    without dropout, left this cache.
    """
    (_, _, relu, _, _), params = cache, model.params
    active = (relu.y > 0)[:, 0].astype(relu.y.dtype)  # (V,H)
    inputs = params["embedding.weight"] @ params["hidden.weight"]  # (V,H)
    return lambda dlogits, tokens: (dlogits @ params["output.weight"].T * active[tokens]) @ inputs.T
