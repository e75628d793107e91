"""The synthetic experiments of the MixCE paper (Zhang et al. 2023, section 4): how well does each
objective recover a known bigram world from 50,000 of its sequences?

Two protocols. "paper": the paper's neural bigram, Adam with L2 and dropout, sampled Gumbel-softmax
gradients for what needs P. "exact": the same objectives with exact gradients
(exact.bigram_loss_and_grads), brought to their optimum. A grid of jobs runs in any number of
processes; each job depends on its own fields alone.
"""

import functools
import json
import math
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import backend, exact, logprob, objectives, optim, worlds
from ..bigram import Bigram, BigramConfig
from ..gpt import GPT, GPTConfig
from ..storage import files
from ..training.loop import fit
from . import matrices, on_worlds

OBJECTIVES = ("mle", "mixce", "mixce_star", "two_kls", "js")


ETAS = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)


SEEDS = (7, 42, 777, 4222, 99999)


TRAIN, DEVELOPMENT, LONGEST = 50_000, 5_000, 500  # sequences, sequences, tokens in each


RUNS_FILE, RUNS_TABLE, SUMMARY_TABLE = "runs.jsonl", "runs.csv", "table.csv"


class Job(NamedTuple):
    """One run: everything that decides its result, but for what the corpus's file holds."""

    corpus: str  # a text file whose bigram world it is, or "" for a random one
    vocab_size: int
    zeros: float  # share of impossible transitions of a random world
    seed: int
    objective: str
    eta: float
    protocol: str = "exact"
    model: str = "table"
    forward: str = "samples"  # or "population": the forward part from P itself

    @property
    def name(self):
        """A file name that no other job has."""
        crc = f"{zlib.crc32(self.corpus.encode()):08x}"
        world = f"{Path(self.corpus).stem}-{crc}" if self.corpus else f"random-{self.zeros!r}"
        way = f"{self.protocol}-{self.model}-{self.forward}"
        return f"{world}_V{self.vocab_size}_seed{self.seed}_{self.objective}_eta{self.eta!r}_{way}"


RESULT = (*Job._fields, "uses", "gradient", "avg_js", "avg_zeros", "loss", "steps", "seconds")


def grid(
    vocab_sizes=(20, 50, 100),
    zeros=(0.5,),
    seeds=SEEDS,
    objectives=OBJECTIVES,
    etas=ETAS,
    corpora=(),
    **fields,
):
    """All jobs: worlds × vocabularies × seeds × objectives × η; mle has no η, js none of 0 and 1.
    Raises ValueError.

    corpora: paths of text files; `fields`: those of Job that all jobs share.
    """
    if unknown := [name for name in objectives if name not in OBJECTIVES]:
        raise ValueError(f"objectives must be among {', '.join(OBJECTIVES)}, got {unknown[0]!r}")
    for name, values, low, high in (
        ("etas", etas, 0, 1),
        ("zeros", zeros, 0, 0.99),
        ("vocab_sizes", vocab_sizes, 2, 5000),
        ("seeds", seeds, 0, 2**32 - 1),
    ):
        if wrong := [value for value in values if not low <= value <= high]:
            raise ValueError(f"{name} must be between {low} and {high}, got {wrong[0]}")
    for name, values in (
        ("objectives", objectives),
        ("names of corpora", [Path(path).stem for path in corpora]),
    ):
        if len(set(values)) < len(values):
            raise ValueError(f"{name} must be different, got {', '.join(values)}")
    of_worlds = [("", share) for share in zeros] + [(corpus, 0.0) for corpus in corpora]
    jobs = []
    for corpus, share in of_worlds:
        for vocab_size in vocab_sizes:
            for seed in seeds:
                for objective in objectives:
                    ratios = (
                        (1.0,)
                        if objective == "mle"
                        else [e for e in etas if objective != "js" or 0 < e < 1]
                    )
                    jobs += [
                        Job(corpus, vocab_size, share, seed, objective, float(eta), **fields)
                        for eta in ratios
                    ]
    if not jobs:
        raise ValueError("there is nothing to run: js needs an eta above 0 and below 1")
    return jobs


class Data(NamedTuple):
    """A world and samples of it: codes x_{t−1}·V + x_t of all bigrams (N,), sequence after
    sequence, and where each of the n sequences starts (n+1,). An end that is forced at LONGEST
    tokens is none of them (the reference counts it).
    """

    world: worlds.World
    train: np.ndarray
    starts: np.ndarray
    development: np.ndarray
    development_lengths: np.ndarray


def world_of(corpus, vocab_size, zeros, seed):
    """The world of a job; a corpus's does not depend on the seed. Raises ValueError, naming the
    file, for a poor corpus.
    """
    if not corpus:
        return worlds.random_markov(vocab_size, zeros, seed)
    try:
        return worlds.from_text(Path(corpus).read_text(encoding="utf-8"), vocab_size)
    except ValueError as error:
        raise ValueError(
            f"{corpus} does not make a world of {vocab_size} tokens: {error}"
        ) from None


@functools.lru_cache(maxsize=2)
def data_of(corpus, vocab_size, zeros, seed, train=TRAIN, development=DEVELOPMENT):
    """The data of a job, `train` and `development` sequences, in arrays that cannot be written to."""
    world = world_of(corpus, vocab_size, zeros, seed)
    codes, lengths, rng = [], [], np.random.default_rng([seed, vocab_size])
    # in parts: rows of 500 columns are mostly padding
    for first in range(0, train + development, 5_000):
        rows = world.sample(min(5_000, train + development - first), LONGEST, rng)
        inputs, targets = rows[:, :-2], rows[:, 1:-1]
        there = targets >= 0
        codes.append((inputs * vocab_size + targets)[there])
        lengths.append(there.sum(axis=1))
    codes, lengths = np.concatenate(codes), np.concatenate(lengths)
    starts = np.append(0, np.cumsum(lengths))
    for array in (codes, lengths, starts):
        array.setflags(write=False)
    return Data(
        world, codes[: starts[train]], starts[: train + 1], codes[starts[train] :], lengths[train:]
    )


def counts_of(codes, vocab_size):
    """Bigram counts (V,V) of codes (N,)."""
    return np.bincount(codes, minlength=vocab_size**2).reshape(vocab_size, vocab_size).astype(float)


def forward_counts(job, data):
    """What the forward part of the exact protocol sees of P: bigram counts (V,V) of the sample, or
    those expected of as many sequences.
    """
    if job.forward == "population":
        return exact.bigram_counts(data.world) * (len(data.starts) - 1)
    return counts_of(data.train, job.vocab_size)


def average_js(world, learned):
    """avg. JS of learned (V,V) over the rows that sequences of P come to: a corpus's world may have
    rows without data.
    """
    return matrices.average_js(world.probs[world.reachable], learned[world.reachable])


def run(job):
    """Carry out one job -> (result dict, learned transition matrix (V,V), curve: a list of dicts).

    The result's loss is what was minimised, in nats: per sequence (of a token objective of a GPT:
    per token), that of js by RLOO without its part under P; steps are optimizer steps, seconds are
    of wall time.
    """
    start, data = time.perf_counter(), data_of(job.corpus, job.vocab_size, job.zeros, job.seed)
    gold = data.world.probs
    if job.protocol == "paper":
        learned, loss, steps, curve = fit_paper(job, data)
        gradient = "counts" if uses(job) == "samples" else "Gumbel-softmax (sampled)"
    elif job.model == "gpt":
        learned, loss, steps, curve, gradient = fit_gpt(job, data)
    else:
        fit_job = (
            fit_neural if job.model == "neural" else fit_js if job.objective == "js" else fit_exact
        )
        learned, loss, steps, curve = fit_job(job, data)
        gradient = "RLOO (sampled)" if job.objective == "js" else "exact"
    result = {**job._asdict(), "uses": uses(job), "gradient": gradient}
    seen = data.world.reachable
    result |= {
        "avg_js": average_js(data.world, learned),
        "avg_zeros": matrices.average_zeros(gold[seen], learned[seen]),
    }
    return (
        {**result, "loss": loss, "steps": steps, "seconds": time.perf_counter() - start},
        learned,
        curve,
    )


def uses(job):
    """What decides where a run ends, by objective and η -> "samples" (of P), "P" (its
    probabilities), or "samples and P".

    What only gives the start is not counted, but for the sampled js of tables and networks, which
    ends before it is forgotten. Choosing η by avg. JS uses P, whatever the objective.
    """
    if job.forward == "population":
        return "P"
    if job.objective in ("mle", "mixce"):
        return "samples"
    # the part under P is an average over samples in the paper's protocol alone
    if job.objective == "js":
        return "P" if job.model == "gpt" else "samples and P"
    return {0.0: "P", 1.0: "samples"}.get(job.eta, "samples and P")


def fit_exact(job, data, tolerance=1e-10, most=1000):
    """The optimum of an objective with exact gradients -> learned (V,V), loss, steps, curve.

    A table Q starts at the counts and goes downhill by _down, with steps halved while the loss
    would rise, until no entry of the gradient is above `tolerance`, no step gets lower than
    rounding lets see, or after `most` steps.
    """
    world, counts = data.world, forward_counts(job, data)
    share = 1.0 if job.objective in ("mle", "mixce") else job.eta  # of the forward part
    # What was never seen starts low, but where P can call for it not so low that its gradient is
    # lost.
    least = 1e-6 if share < 1 else 1e-12
    z = np.log(np.maximum(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), least))
    (loss, gradient), rate, curve = exact_loss(z, job, world, counts), 1.0, []
    for step in range(most + 1):
        q = np.exp(logprob.log_softmax(z))
        curve.append({"step": step, "loss": float(loss), "avg_js": average_js(world, q)})
        if job.objective == "mixce":
            curve[-1]["surrogate"] = surrogate(q, counts, job.eta)
        if step == most or rate < 1e-4 or np.abs(gradient).max() <= tolerance:
            break
        direction = _down(z, q, gradient, counts, job)
        while rate >= 1e-4:
            new = exact_loss(z - rate * direction, job, world, counts)
            # where the loss can no longer tell, the gradient has to fall
            rounding = 1e-14 * abs(loss)
            if new[0] < loss - rounding or (
                new[0] <= loss + rounding and np.abs(new[1]).max() < np.abs(gradient).max()
            ):
                z, (loss, gradient), rate = z - rate * direction, new, min(1.0, 1.2 * rate)
                break
            rate /= 2
    return q, float(loss), step, curve


def exact_loss(z, job, world, counts):
    """Loss in nats per sequence, and its gradient (V,V), of any objective but js at logits z (V,V);
    counts (V,V).
    """
    objective = "forward_ce" if job.objective == "mle" else job.objective
    return exact.bigram_loss_and_grads(z, world, objective=objective, eta=job.eta, counts=counts)


def _down(z, q, gradient, counts, job):
    """A direction (V,V) in logits against which the loss of fit_exact falls, of about the right
    length.

    The natural gradient: over (how often a row is seen) · Q(v|row), which undoes the softmax's own
    scale, at most 1 in any logit. For mixce_star the way to each row's optimum at the present costs
    A_v of its tokens under R, which it is slow to reach otherwise: minimising −Σ w_v log q_v + Σ
    A_v q_v gives q_v = w_v / (λ + A_v).
    """
    n, share = counts[0].sum(), 1.0 if job.objective in ("mle", "mixce") else job.eta
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


def _rows_at_optimum(weights, costs):
    """Rows q_v = w_v / (λ + A_v) that sum to one, λ by Newton's method; weights ≥ 0, not all 0 in a
    row, and costs (S,V).

    The sum falls and is convex in λ above every −A_v with a weight, so from where one term alone is
    one the steps never pass the root.
    """
    there = weights > 0
    level = np.where(there, weights - costs, -np.inf).max(axis=1, keepdims=True)
    for _ in range(100):
        distance = np.where(there, level + costs, 1)
        q = weights / distance
        step = (q.sum(axis=1, keepdims=True) - 1) / (q / distance).sum(axis=1, keepdims=True)
        level += step
        if (np.abs(step) <= 1e-14 * np.abs(level)).all():
            break
    return q / q.sum(axis=1, keepdims=True)


def surrogate(q, counts, eta):
    """What MixCE's surrogate prints, −(η + (1−η) q) log q, where the true loss is −η log q − (1−η)
    q: the same gradient. Nats per sequence, q and counts (V,V).
    """
    return float(
        -(counts * (eta + (1 - eta) * q) * np.log(np.maximum(q, 1e-300))).sum() / counts[0].sum()
    )


def fit_neural(job, data, warmup=500, steps=3500):
    """The paper's network on the gradients of a table, without dropout or decay -> as fit_exact.

    Adam with a rate that falls to a thousandth, after `warmup` steps of maximum likelihood: from a
    random start, reverse objectives end in a wrong corner.
    """
    world, counts, everyone = (
        data.world,
        forward_counts(job, data),
        np.arange(job.vocab_size)[:, None],
    )
    model = Bigram(BigramConfig(job.vocab_size, dtype="float64"), job.seed, "cpu")
    optimizer, curve = optim.Adam(model.params, 5e-3), []
    for step in range(steps + 1):
        logits, cache = model.forward(everyone)
        z = logits[:, 0]
        if step < warmup:
            loss, dlogits = exact_loss(z, job._replace(objective="mle"), world, counts)
        elif job.objective == "js":
            loss, dlogits = sampled_js(z, job, world, step)
        else:
            loss, dlogits = exact_loss(z, job, world, counts)
        if step % 50 == 0:
            q = np.exp(logprob.log_softmax(z))
            curve.append({"step": step, "loss": float(loss), "avg_js": average_js(world, q)})
            if job.objective == "mixce":
                curve[-1]["surrogate"] = surrogate(q, counts, job.eta)
        if step < steps:
            optimizer.step(
                model.backward(dlogits[:, None], cache),
                optim.warmup_cosine(step, 5e-3, 0, steps, 0.001),
            )
    return matrices.transition_matrix(model), float(loss), steps, curve


def fit_js(job, data, steps=50):
    """js of a table Q from the counts on -> as fit_exact. It has no closed form, so its gradient is
    sampled.
    """
    counts = forward_counts(job, data) + 0.01
    params = {"logits": np.log(counts / counts.sum(axis=1, keepdims=True))}
    optimizer, curve = optim.Adam(params, 0.01), []
    for step in range(steps + 1):
        loss, gradient = sampled_js(params["logits"], job, data.world, step)
        q = np.exp(logprob.log_softmax(params["logits"]))
        curve.append({"step": step, "loss": loss, "avg_js": average_js(data.world, q)})
        if step < steps:
            optimizer.step({"logits": gradient}, optim.warmup_cosine(step, 0.01, 0, steps, 0.01))
    return q, loss, steps, curve


def sampled_js(z, job, world, step, samples=500):
    """js's part under Q, and the gradient (V,V) of js, at logits z (V,V), by RLOO from `samples`
    sequences drawn anew.
    """
    q = np.exp(logprob.log_softmax(z))
    rows = worlds.markov(q).sample(samples, LONGEST, np.random.default_rng([job.seed, step]))
    return rloo_js(q, world, rows, job.eta)


def rloo_js(q, world, rows, eta):
    """estimators.rloo for js, of a table q (V,V) and a Markov world, from bigrams -> loss, gradient
    in logits (V,V).

    The weight of a sample goes to all its bigrams, so the gradient is one weighted count: no logits
    for every token.
    """
    V, n = world.vocab_size, len(rows)
    inputs, targets = rows[:, :-2], rows[:, 1:-1]
    there = targets >= 0
    codes, lengths = (inputs * V + targets)[there], there.sum(axis=1)
    starts = np.cumsum(lengths) - lengths
    tables = np.log(np.maximum(q, 1e-300)), world.tables(np).log_p
    log_q, log_p = (np.add.reduceat(table.reshape(-1)[codes], starts) for table in tables)
    cost = (1 - eta) * (log_q - np.logaddexp(math.log(eta) + log_p, math.log(1 - eta) + log_q))
    advantage = (cost - (cost.sum() - cost) / (n - 1)) / n
    weighted = np.bincount(codes, np.repeat(advantage, lengths), minlength=V * V).reshape(V, V)
    return float(cost.mean()), weighted - weighted.sum(axis=1, keepdims=True) * q


def fit_gpt(job, data, steps=1000, batch_size=64, longest=65):
    """Q is a small GPT, trained on batches of samples: token objectives as on text, those over
    sequences with a reverse part that is exact where the space can be listed and RLOO elsewhere ->
    as the others, and which gradient that was.

    Its transition matrix averages over the prefixes of sequences of P (matrices.transition_matrix).
    """
    world = data.world
    max_len = on_worlds.horizon(world, longest)
    rows = world.sample(
        len(data.starts) - 1, max_len, np.random.default_rng([job.seed, job.vocab_size, 1])
    )
    model = GPT(GPTConfig(job.vocab_size, max_len - 1, 2, 2, 32), job.seed, "cpu")
    if job.objective in ("mle", "mixce"):
        objective, gradient = functools.partial(objectives.mixce, eta=job.eta), "of batches"
    else:
        objective = on_worlds.sequence_step(
            job.objective, world, max_len, eta=job.eta, seed=job.seed
        )
        reverse = "; exact" if on_worlds.is_listed(world, max_len) else "; RLOO (sampled)"
        gradient = "of batches" + (reverse if uses(job) != "samples" else "")
    batches = on_worlds.RowBatches(world, rows, batch_size, job.seed)
    measurements = fit(
        model, batches, objective, steps=steps, lr=3e-3, warmup=50, eval_every=50, progress=False
    )
    learned = matrices.transition_matrix(model, world, 2000, max_len, job.seed)
    curve = [{"step": m["step"], "loss": m["loss"]} for m in measurements]
    return learned, measurements[-1]["loss"], steps, curve, gradient


def fit_paper(
    job, data, epochs=50, batch_size=1000, patience=5, rate=1e-3, l2=1e-4, dropout=0.1, masks=8
):
    """The paper's protocol -> learned, loss on development data, steps, curve: one point an epoch.

    Losses are sums over tokens, means over sequences. A batch is seen through its bigram counts, so
    a step costs one pass over few rows; js, whose part under P does not add up over tokens, weights
    the counts of each sequence by itself. What needs samples of Q is Gumbel-softmax at τ = 1 with
    as many sequences as the batch; the best epoch by development loss is kept. The reference draws
    a dropout mask for each token, those of Q's samples included. Here each row has `masks` of them
    in a batch, and the gradient is their mean, as if each had an equal share of the row's tokens
    (benchmarks/synthetic.py --dropout compares the two); samples of Q have none. Data come in whole
    batches: `batch_size` divides the number of sequences.
    """
    V, world = job.vocab_size, data.world
    model = Bigram(BigramConfig(V, dropout=dropout), job.seed, "cpu")
    optimizer, everyone = optim.Adam(model.params, rate, l2=l2), np.arange(V)[:, None]
    rng, sampled = np.random.default_rng([job.seed, 1]), uses(job) != "samples"
    lengths, curve, best, best_params, since, steps = np.diff(data.starts), [], math.inf, None, 0, 0
    n, held_out = len(lengths), len(data.development_lengths)

    def exponentials(t, rows):
        return rng.standard_exponential((len(rows), V), dtype=model.config.dtype)

    for epoch in range(epochs):
        if job.objective == "js":
            batches = _sequences_by_batch(
                data.train, lengths, rng.permutation(n).reshape(-1, batch_size)
            )
        else:
            batch_of_sequence = rng.permutation(n) // batch_size
            batches = _counts_by_batch(
                data.train, np.repeat(batch_of_sequence, lengths), n // batch_size, V
            )
        for batch in batches:
            logits, cache = model.forward(
                np.repeat(everyone, masks, axis=1), training=True, rng=rng
            )
            _, dlogits = _under_p(logits, batch, job, world)
            grads = model.backward(dlogits, cache)
            if sampled:
                logits, cache = model.forward(everyone)
                _, dlogits = _under_q(
                    logits[:, 0], world, job, batch_size, exponentials, _into_input(model, cache)
                )
                grads = model.backward(dlogits[:, None], cache, grads)
            optimizer.step(grads)
            steps += 1
        logits, development = model.forward(everyone)[0], _development(data, job)
        loss = float(_under_p(logits, development, job, world)[0])
        if sampled:
            loss += float(_under_q(logits[:, 0], world, job, held_out, exponentials)[0])
        learned = matrices.transition_matrix(model)
        curve.append({"step": epoch, "loss": loss, "avg_js": average_js(world, learned)})
        if job.objective == "mixce":
            curve[-1]["surrogate"] = surrogate(learned, development, job.eta)
        if loss < best:
            best, best_params, since = loss, {name: p.copy() for name, p in model.params.items()}, 0
        else:
            since += 1
            if since >= patience:
                break
    model.params = best_params
    return matrices.transition_matrix(model), best, steps, curve


def _counts_by_batch(codes, batch_of_code, batches, V):
    """Bigram counts of each batch in turn; several batches are counted at once, as memory allows."""
    together = max(1, 5_000_000 // V**2)
    for first in range(0, batches, together):
        if together >= batches:
            inside, number = codes, batch_of_code
        else:
            chosen = (batch_of_code >= first) & (batch_of_code < first + together)
            inside, number = codes[chosen], batch_of_code[chosen] - first
        size = min(together, batches - first)
        yield from np.bincount(number * V**2 + inside, minlength=size * V**2).reshape(size, V, V)


def _sequences_by_batch(codes, lengths, batches):
    """(codes, lengths) of each batch, rows of sequence numbers (batches, n), in turn."""
    starts = np.cumsum(lengths) - lengths
    for chosen in batches:
        of_chosen = lengths[chosen]
        offsets = np.arange(of_chosen.sum()) - np.repeat(
            np.cumsum(of_chosen) - of_chosen, of_chosen
        )
        yield codes[np.repeat(starts[chosen], of_chosen) + offsets], of_chosen


def _development(data, job):
    """The development sequences as a batch."""
    return (
        (data.development, data.development_lengths)
        if job.objective == "js"
        else counts_of(data.development, job.vocab_size)
    )


def _under_p(logits, batch, job, world):
    """The part of an objective that samples of P give, in nats per sequence -> loss, dlogits
    (V,K,V).

    logits (V,K,V), K copies of every row under different dropout masks: a token counts 1/K in each
    copy; in js, which weights whole sequences, every K-th sequence has the same copy.
    """
    step, eta, (V, K, _) = logprob.log_softmax(logits), job.eta, logits.shape
    q = np.exp(step)
    # η E_P[log P − log M], whose derivative in log Q(x) is −η (1−η) Q(x)/M(x)
    if job.objective == "js":
        (codes, lengths), starts = batch, np.cumsum(batch[1]) - batch[1]
        n, (last, token) = len(lengths), np.divmod(codes, V)
        copies = (last * K + np.repeat(np.arange(n) % K, lengths)) * V + token
        with np.errstate(divide="ignore"):
            log_p = np.log(world.probs).reshape(-1)
        log_p, log_q = (
            np.add.reduceat(log_p[codes], starts),
            np.add.reduceat(step.reshape(-1)[copies], starts),
        )
        log_m = np.logaddexp(math.log(eta) + log_p, math.log(1 - eta) + log_q)
        loss = eta * (log_p - log_m).mean()
        weights = np.repeat(eta * np.exp(math.log(1 - eta) + log_q - log_m), lengths)
        weighted = np.bincount(copies, weights, minlength=q.size).reshape(q.shape) / n
    else:
        counts = (batch / (K * batch[0].sum()))[:, None]
        if job.objective == "mixce":
            value, weight = eta * step + (1 - eta) * q, eta + (1 - eta) * q
        else:
            share = 1.0 if job.objective == "mle" else eta
            value, weight = share * step, share
        loss = -(counts * value).sum()
        weighted = np.broadcast_to(counts * weight, q.shape)
    return loss, (weighted.sum(axis=-1, keepdims=True) * q - weighted).astype(logits.dtype)


def _under_q(logits, world, job, n, exponentials, into_input=None):
    """The other part, from n sequences of Q by Gumbel-softmax at τ = 1 -> loss, dlogits (V,V), or
    None without into_input.

    estimators.gumbel for a bigram Q with logits (V,V) and a Markov world, each row of logits
    computed once: what a token adds to dlogits goes to the row of the token before it, and
    sequences that have ended are left alone. If E is standard exponential, −log E is Gumbel noise
    g, so softmax(log q + g) is q/E over its sum, and its largest entry the choice. exponentials(t,
    rows): E (len(rows),V) of step t for those of the n sequences that go on; into_input(dlogits,
    tokens): the derivative (N,V) in one-hot inputs, of dlogits (N,V) after `tokens` (N,).
    """
    log_q = logprob.log_softmax(logits)
    q, log_p = np.exp(log_q), world.tables(np).log_p_floored.astype(logits.dtype)
    sum_q, sum_p, rows, last, steps = (
        np.zeros(n, q.dtype),
        np.zeros(n, q.dtype),
        np.arange(n),
        np.zeros(n, int),
        [],
    )
    for t in range(LONGEST - 1):
        soft = q[last] / np.maximum(exponentials(t, rows), 1e-30)
        choice = soft.argmax(axis=1)
        sum_q[rows] += log_q[last, choice]
        sum_p[rows] += log_p[last, choice]
        steps.append((rows, last, choice, soft))
        rows, last = rows[choice > 0], choice[choice > 0]
        if not len(rows):
            break
    if job.objective == "js":
        log_m = np.logaddexp(math.log(job.eta) + sum_p, math.log(1 - job.eta) + sum_q)
        cost, by_q = sum_q - log_m, np.exp(math.log(job.eta) + sum_p - log_m)  # the share of P in M
        by_p = -by_q
    else:
        by_q, by_p = np.full(n, job.objective == "two_kls", q.dtype), np.full(n, -1, q.dtype)
        cost = by_q * sum_q - sum_p
    loss = (1 - job.eta) * cost.mean()
    if into_input is None:
        return loss, None
    by_q, by_p = ((1 - job.eta) / n * slope[:, None] for slope in (by_q, by_p))
    dlogits, dchoice = np.zeros_like(logits), np.zeros((n, q.shape[1]), q.dtype)
    for rows, last, choice, soft in reversed(steps):
        soft /= soft.sum(axis=1, keepdims=True)
        down = dchoice[rows] + by_q[rows] * log_q[last] + by_p[rows] * log_p[last]
        down = soft * (down - (soft * down).sum(axis=1, keepdims=True)) - by_q[rows] * q[last]
        down[np.arange(len(rows)), choice] += by_q[rows, 0]
        backend.add_rows(dlogits, last, down)
        dchoice[rows] = into_input(down, last)
    return loss, dlogits


def _into_input(model, cache):
    """`into_input` of _under_q for a Bigram whose forward pass over all V tokens, without dropout,
    left this cache.
    """
    (_, _, relu, _, _), params = cache, model.params
    active = (relu.y > 0)[:, 0].astype(relu.y.dtype)  # (V,H)
    inputs = params["embedding.weight"] @ params["hidden.weight"]  # (V,H)
    return lambda dlogits, tokens: (dlogits @ params["output.weight"].T * active[tokens]) @ inputs.T


def run_grid(jobs, folder, executor=None, progress=True):
    """Run jobs, on `executor` (concurrent.futures) or one after another -> results in the order of
    jobs.

    Each finished job is a line of folder/runs.jsonl at once, so a killed grid goes on where it
    stopped; learned matrices and curves are kept beside it. Results depend on neither the executor
    nor on what was done before.
    """
    from concurrent.futures import as_completed

    from tqdm import tqdm

    folder = Path(folder)
    done = read_runs(folder)
    waiting = [job for job in jobs if job not in done]
    (folder / "matrices").mkdir(parents=True, exist_ok=True)
    files.write_atomically(
        folder / RUNS_FILE, "".join(json.dumps(r) + "\n" for r in done.values()).encode()
    )
    with (
        open(folder / RUNS_FILE, "a") as lines,
        tqdm(
            total=len(jobs), initial=len(jobs) - len(waiting), disable=None if progress else True
        ) as bar,
    ):
        futures = {executor.submit(run, job): job for job in waiting} if executor else {}
        for item in as_completed(futures) if executor else waiting:
            job, (result, learned, curve) = (
                (futures[item], item.result()) if executor else (item, run(item))
            )
            files.write_atomically(
                folder / "matrices" / f"{job.name}.json",
                json.dumps({"learned": learned.tolist(), "curve": curve}).encode(),
            )
            lines.write(json.dumps(result) + "\n")
            lines.flush()
            done[job] = result
            bar.update()
    return [done[job] for job in jobs]


def read_runs(folder):
    """{job: result} of the runs that are finished in a folder; a last line cut short by a kill is
    dropped.

    Raises ValueError, naming the line, where the file holds something else.
    """
    path, done = Path(folder) / RUNS_FILE, {}
    whole, _, _ = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            result = json.loads(line)
            job = Job(*(result[name] for name in Job._fields))
            done[job] = {name: result[name] for name in RESULT}
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}: line {number} is not a run of this version; choose another folder"
            ) from None
    return done


def world_name(corpus, zeros):
    """A world in tables and figures."""
    return Path(corpus).stem if corpus else f"random {100 * zeros:.6g}% zeros"


def summarize(results):
    """The paper's table: for each world, vocabulary and objective the η with the least mean avg. JS
    over seeds -> list of dicts, with mean and standard error over seeds (NaN for a single one).
    """
    groups = {}
    for r in results:
        groups.setdefault(
            (world_name(r["corpus"], r["zeros"]), r["vocab_size"], r["objective"]), {}
        ).setdefault(r["eta"], []).append(r)
    table = []
    for (world, vocab_size, objective), by_eta in groups.items():
        rows = min(by_eta.values(), key=lambda rows: np.mean([r["avg_js"] for r in rows]))
        row = {
            "world": world,
            "vocab_size": vocab_size,
            "objective": objective,
            "best_eta": rows[0]["eta"],
        }
        for name in ("avg_js", "avg_zeros"):
            values = np.array([r[name] for r in rows])
            row[name] = float(values.mean())
            row[f"{name}_se"] = (
                float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
            )
        table.append(
            row | {"seeds": len(rows), "uses": rows[0]["uses"], "gradient": rows[0]["gradient"]}
        )
    return table


def examples(results, table, folder):
    """What there is to draw of the first world and seed -> {label: learned matrix and curve at the
    best η of each objective}, the world (V,V), and such a dict of the one run of mixce whose loss
    is worth a look: η nearest to 0.1, between 0 and 1.
    """
    first = Job(*(results[0][name] for name in Job._fields))

    def kept(objective, eta):
        job = first._replace(objective=objective, eta=eta)
        label = objective if objective == "mle" else f"{objective}, η = {eta:g}"
        return {label: files.read_json(Path(folder) / "matrices" / f"{job.name}.json")}

    best, at_a_ratio = {}, {}
    for row in table:
        if (row["world"], row["vocab_size"]) == (table[0]["world"], first.vocab_size):
            best |= kept(row["objective"], row["best_eta"])
    if between := [r["eta"] for r in results if r["objective"] == "mixce" and 0 < r["eta"] < 1]:
        at_a_ratio = kept("mixce", min(between, key=lambda eta: abs(math.log(eta / 0.1))))
    if at_a_ratio and not all("surrogate" in run["curve"][0] for run in at_a_ratio.values()):
        at_a_ratio = {}  # a GPT's is printed on batches, where it is noise
    return (
        best,
        world_of(first.corpus, first.vocab_size, first.zeros, first.seed).probs.tolist(),
        at_a_ratio,
    )


def format_table(table):
    """Lines to print of summarize's table."""
    lines = [
        f"{'world':<22}{'V':>5}  {'objective':<11}{'best η':>7}{'avg. JS':>22}{'avg. 0s':>22} "
        " gradient, from"
    ]
    for row in table:
        cells = (
            f"{row[name]:.2e}" + (f" ± {row[name + '_se']:.0e}" if row["seeds"] > 1 else "")
            for name in ("avg_js", "avg_zeros")
        )
        eta = "" if row["objective"] == "mle" else f"{row['best_eta']:g}"
        lines.append(
            f"{row['world']:<22}{row['vocab_size']:>5}  {row['objective']:<11}{eta:>7}"
            + "".join(f"{cell:>22}" for cell in cells)
            + f"  {row['gradient']}, {row['uses']}"
        )
    return "\n".join(lines)


def estimate(jobs):
    """Seconds that jobs should take one after another, from the time of one exact gradient at each
    vocabulary.

    How many gradients a run needs, and what sampling costs, were measured at 20 to 1000 tokens: an
    order of magnitude.
    """
    gradient = {}
    for V in {job.vocab_size for job in jobs}:
        world, z, times = worlds.random_markov(V, 0.5, 0), np.zeros((V, V)), []
        z[:, 0] = 2  # so that sequences end
        for _ in range(2):
            start = time.perf_counter()
            exact.bigram_loss_and_grads(z, world, objective="two_kls", eta=0.5)
            times.append(time.perf_counter() - start)
        gradient[V] = min(times)
    gradients = {"mle": 2, "mixce": 100, "mixce_star": 100, "two_kls": 40, "js": 0}
    data = {(job.corpus, job.vocab_size, job.zeros, job.seed) for job in jobs}
    total = sum(0.3 + V / 140 for _, V, _, _ in data)
    for job in jobs:
        V = job.vocab_size
        if job.protocol == "paper":
            total += 0.5 + V / 50 + (V**2 / 16 if uses(job) != "samples" else 0)
        elif job.model == "gpt":
            total += 60
        elif job.model == "neural":
            total += 3500 * (gradient[V] if job.objective != "js" else 0.0025 + V / 20_000)
        else:
            total += (
                0.1
                + gradients[job.objective] * gradient[V]
                + (0.3 + V / 200) * (job.objective == "js")
            )
    return total


def fixed_point(p, eta):
    """The table that mixce is minimised at, q = η p / (λ − (1−η) p) with λ so that each row sums to
    one: p (S,V) -> (S,V).

    λ lies above (1−η) max p, where the sum falls from infinity, and not above η + (1−η) max p,
    where q ≤ p; bisection. η > 0.
    """
    low = (1 - eta) * p.max(axis=1, keepdims=True)
    high = low + eta
    for _ in range(200):
        middle = (low + high) / 2
        above = (eta * p / np.maximum(middle - (1 - eta) * p, 1e-300)).sum(
            axis=1, keepdims=True
        ) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return eta * p / (high - (1 - eta) * p)
