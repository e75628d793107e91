"""The paper's protocol here and in plain PyTorch, on the same data: python benchmarks/synthetic.py

The peer does what the protocol says: sequences padded to the longest of their batch, every token
through embedding, hidden layer, ReLU, dropout with a mask of its own and output; Adam with L2;
straight-through Gumbel-softmax samples of Q, as many and as long as ours, rolled out token by
token, and with dropout, which ours are without. Both start from the same parameters, in float32,
with the data at hand as each takes them. Seconds of CPU time, one thread each, rounds alternate;
the ratio is the median over rounds; for mle and mixce also against the peer without its padding.
For these a round is one epoch with its development pass; for the objectives that sample Q it is
five batches with a pass over 1,000 development sequences.

--dropout trains both to the end instead, over seeds, and compares avg. JS: eight dropout masks for
each last token and batch (ours) against one for each token (the peer, which then leaves out the
padding, since nothing depends on it). Writes CSV.
"""

import argparse
import functools
import math
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch.nn import functional as F

import report
from minimixce import backend, bigram
from minimixce.experiments import matrices
from minimixce.experiments.synthetic.data import LONGEST, data_of
from minimixce.experiments.synthetic.grid import SEEDS
from minimixce.experiments.synthetic.job import Job, information_used
from minimixce.experiments.synthetic.paper import fit_paper

torch.set_num_threads(1)
OBJECTIVES = (("mle", 1.0), ("mixce", 0.5), ("mixce_star", 0.5), ("two_kls", 0.5), ("js", 0.5))
BATCH, DROPOUT = 1000, 0.1


class Peer(torch.nn.Module):
    """The protocol's bigram, from the parameters that Bigram starts from."""

    def __init__(self, vocab_size, seed):
        super().__init__()
        start = bigram.initial_bigram(bigram.BigramConfig(vocab_size), seed)
        for name, value in start.items():
            self.register_parameter(
                name.replace(".", "_"), torch.nn.Parameter(torch.from_numpy(value.copy()))
            )

    def logits(self, embedded):
        hidden = F.relu(embedded @ self.hidden_weight + self.hidden_bias)
        return F.dropout(hidden, DROPOUT, self.training) @ self.output_weight + self.output_bias

    def forward(self, tokens):
        return self.logits(F.embedding(tokens, self.embedding_weight))


def padded(codes, lengths, V):
    """Inputs and targets (N, longest) of sequences given as bigram codes; targets are −1 after the
    end.
    """
    inputs, targets = (torch.full((len(lengths), int(lengths.max())), fill) for fill in (0, -1))
    there = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])
    inputs[there], targets[there] = torch.from_numpy(codes // V), torch.from_numpy(codes % V)
    return inputs, targets


def under_p(model, inputs, targets, job, log_p, pack):
    """The loss that samples of P give, nats per sequence."""
    n, there = len(inputs), targets >= 0
    if pack:  # tokens in one row; js needs to know its sequences
        inputs, targets, there = inputs[there], targets[there], there[there]
    chosen = targets.clamp(min=0)
    step = F.log_softmax(model(inputs), dim=-1).gather(-1, chosen[..., None])[..., 0] * there
    if job.objective == "js":
        p, q = (log_p[inputs, chosen] * there).sum(1), step.sum(1)
        mixed = torch.logaddexp(math.log(job.eta) + p, math.log(1 - job.eta) + q)
        return job.eta * (p - mixed).mean()
    if job.objective == "mixce":
        step = (job.eta + (1 - job.eta) * step.exp().detach()) * step
    share = job.eta if job.objective in ("mixce_star", "two_kls") else 1.0
    return -share * step.sum() / n


def under_q(model, job, log_p_floored, n):
    """The loss that n straight-through Gumbel-softmax samples of Q give, nats per sequence."""
    V = len(log_p_floored)
    x, state, alive = (
        F.one_hot(torch.zeros(n, dtype=int), V).float(),
        torch.zeros(n, dtype=int),
        torch.ones(n),
    )
    log_q, log_p = torch.zeros(n), torch.zeros(n)
    for _ in range(LONGEST - 1):
        logits = model.logits(x @ model.embedding_weight)
        step = F.log_softmax(logits, dim=-1)
        x = F.gumbel_softmax(logits, tau=1.0, hard=True)
        log_q = log_q + alive * (x * step).sum(1)
        log_p = log_p + alive * (x * log_p_floored[state]).sum(1)
        state = x.argmax(1)
        alive = alive * (state > 0)
        if not alive.any():
            break
    if job.objective == "mixce_star":
        cost = -log_p
    elif job.objective == "two_kls":
        cost = log_q - log_p
    else:
        cost = log_q - torch.logaddexp(math.log(job.eta) + log_p, math.log(1 - job.eta) + log_q)
    return (1 - job.eta) * cost.mean()


def fit_peer(job, data, train, development, epochs=50, patience=5, pack=False):
    """fit_paper's training in PyTorch -> learned transition matrix (V,V) of the best epoch by
    development loss.

    train, development: the inputs and targets that padded() makes.
    """
    V, sampled = job.vocab_size, information_used(job) != "samples"
    torch.manual_seed(job.seed)
    model, rng = Peer(V, job.seed), np.random.default_rng([job.seed, 1])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-4)
    tables = data.world.tables(np)
    log_p, log_p_floored = (
        torch.from_numpy(table.astype("float32")) for table in (tables.log_p, tables.log_p_floored)
    )
    lengths, (inputs, targets) = np.diff(data.starts), train
    best, learned, since = math.inf, None, 0
    for _ in range(epochs):
        model.train()
        for chosen in rng.permutation(len(lengths)).reshape(-1, BATCH):
            longest = lengths[chosen].max()
            loss = under_p(
                model, inputs[chosen, :longest], targets[chosen, :longest], job, log_p, pack
            )
            if sampled:
                loss = loss + under_q(model, job, log_p_floored, BATCH)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            loss = float(under_p(model, *development, job, log_p, pack))
            if sampled:
                loss += float(under_q(model, job, log_p_floored, len(development[0])))
            q = F.softmax(model(torch.arange(V)).double(), dim=-1).numpy()
        if loss < best:
            best, learned, since = loss, q, 0
        else:
            since += 1
            if since >= patience:
                break
    return learned


def both_padded(data, V):
    """The training and the development sequences as fit_peer takes them."""
    return padded(data.train, np.diff(data.starts), V), padded(
        data.development, data.development_lengths, V
    )


def cpu_seconds(function, *args, **options):
    start = time.process_time()
    function(*args, **options)
    return time.process_time() - start


def speed(args):
    rows = []
    print(
        f"{'objective':<12}{'η':>5}{'batches':>9}{'here, s':>10}{'PyTorch, s':>12}"
        f"{'ratio':>8}{'unpadded':>10}"
        "  range"
    )
    for objective, eta in OBJECTIVES:
        job = Job("", args.vocab, 0.5, args.seed, objective, eta, "paper", "neural")
        sampled = information_used(job) != "samples"
        batches = 5 if sampled or args.quick else 50
        development = 1000 if sampled or args.quick else 5000
        data = data_of(
            "", args.vocab, 0.5, args.seed, train=batches * BATCH, development=development
        )
        peer = functools.partial(fit_peer, job, data, *both_padded(data, args.vocab))
        fits = [functools.partial(fit_paper, job, data), peer]
        fits += [] if sampled else [functools.partial(peer, pack=True)]
        # one to warm up
        rounds = [[cpu_seconds(fit, epochs=1) for fit in fits] for _ in range(args.rounds + 1)][1:]
        ratios = [theirs / ours for ours, theirs, *_ in rounds]
        row = {
            "objective": objective,
            "eta": eta,
            "vocab_size": args.vocab,
            "batches": batches,
            "rounds": args.rounds,
        }
        row |= {
            "here_s": statistics.median(r[0] for r in rounds),
            "pytorch_s": statistics.median(r[1] for r in rounds),
        }
        row |= {"ratio": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)}
        row["unpadded_ratio"] = "" if sampled else statistics.median(r[2] / r[0] for r in rounds)
        rows.append(row)
        unpadded = "" if sampled else f"{row['unpadded_ratio']:.1f}"
        print(
            f"{objective:<12}{eta:>5g}{batches:>9}{row['here_s']:>10.3f}{row['pytorch_s']:>12.3f}{row['ratio']:>8.1f}{unpadded:>10}"
            f"  {row['smallest']:.1f}, {row['largest']:.1f}",
            flush=True,
        )
    return rows


def dropout(args):
    rows, epochs = [], 2 if args.quick else 50
    print(f"{'seed':>6}{'8 masks a row':>15}{'a mask a token':>17}   avg. JS of mle")
    for seed in SEEDS[: 2 if args.quick else None]:
        job = Job("", args.vocab, 0.5, seed, "mle", 1.0, "paper", "neural")
        data = data_of("", args.vocab, 0.5, seed)
        here = fit_paper(job, data, epochs=epochs)[0]
        learned = (
            here,
            fit_peer(job, data, *both_padded(data, args.vocab), epochs=epochs, pack=True),
        )
        by_row, by_token = (matrices.average_js(data.world.probs, q) for q in learned)
        rows.append(
            {"vocab_size": args.vocab, "seed": seed, "by_row": by_row, "by_token": by_token}
        )
        print(f"{seed:>6}{by_row:>15.3e}{by_token:>17.3e}", flush=True)
    differences = [row["by_row"] - row["by_token"] for row in rows]
    error = statistics.stdev(differences) / math.sqrt(len(rows))
    print(
        f"by row less by token: {statistics.mean(differences):.1e} ± {error:.0e}, standard error"
        f" over {len(rows)} seeds"
    )
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="five batches a round, two epochs with --dropout"
    )
    parser.add_argument(
        "--dropout", action="store_true", help="compare the dropout masks instead of the speed"
    )
    parser.add_argument("--vocab", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7, help="of the speed's world")
    parser.add_argument("--out", default="synthetic.csv")
    args = parser.parse_args()
    backend.reuse_freed_memory()
    report.print_machine(np, torch)
    rows = dropout(args) if args.dropout else speed(args)
    report.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
