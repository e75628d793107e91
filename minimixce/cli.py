"""The command line: minimixce train, gradcheck."""

import argparse
import functools
import json
import sys
from pathlib import Path

from . import __version__


def main(argv=None):
    """Run one command -> exit status: 0 done, 1 a check failed, 2 bad input (one sentence on stderr), 130 interrupted."""
    args = _parser().parse_args(argv)
    try:
        with _threads(args.threads):
            return args.run(args)
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        print(f"minimixce {args.command}: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"minimixce {args.command}: interrupted", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="minimixce",
        description="Train language models by mixing forward and reverse cross-entropies, and check the maths.",
    )
    parser.add_argument("--version", action="version", version=f"minimixce {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, help):
        p = commands.add_parser(name, help=help, description=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        p.set_defaults(run=run)
        p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        p.add_argument("--seed", type=int, default=0, help="seed of every random number")
        p.add_argument("--threads", type=int, help="threads of the linear algebra library (needs the extra 'threads')")
        return p

    p = command("train", _train, "train a GPT on text")
    p.add_argument("--data", metavar="PATH", help="a UTF-8 text file; without it, the documentation inside every CPython")
    p.add_argument("--out", default="run", metavar="FOLDER", help="where the model, its tokenizer and metrics.jsonl go")
    p.add_argument("--overwrite", action="store_true", help="replace the model in FOLDER")
    p.add_argument("--objective", default="mixce", help="mle, mixce, mixce_surrogate, tailr or emo")
    p.add_argument("--eta", type=float, default=0.5, help="MixCE's ratio η in [0,1] (η = 1 is MLE)")
    p.add_argument("--gamma", type=float, default=0.1, help="TaiLr's γ in [0,1] (γ = 0 is MLE)")
    p.add_argument("--steps", type=int, default=2200, help="optimizer steps")
    p.add_argument("--batch-size", type=int, default=12, help="blocks in a batch")
    p.add_argument("--block-size", type=int, default=64, help="positions the model sees")
    p.add_argument("--n-layer", type=int, default=2, help="transformer blocks")
    p.add_argument("--n-head", type=int, default=4, help="attention heads")
    p.add_argument("--n-embd", type=int, default=128, help="channels")
    p.add_argument("--dropout", type=float, default=0.0, help="dropout rate while training")
    p.add_argument("--lr", type=float, default=4e-3, help="peak learning rate")
    p.add_argument("--warmup", type=int, default=100, help="steps of linear rise to it; a cosine to a tenth follows")
    p.add_argument("--weight-decay", type=float, default=0.1, help="AdamW's, on matrices only")
    p.add_argument("--max-grad-norm", type=float, default=1.0, help="gradients are scaled down to this joint norm")
    p.add_argument("--eval-every", type=int, default=200, help="steps between validations")

    p = command("gradcheck", _gradcheck, "check every gradient against numerical derivatives, tensor by tensor")
    p.add_argument("--out", metavar="FILE", help="also write the table as JSON lines")
    return parser


def _threads(count):
    """A context that limits the linear algebra library to `count` threads; None leaves it as it is."""
    import contextlib

    if count is None:
        return contextlib.nullcontext()
    if count < 1:
        raise ValueError(f"--threads must be at least 1, got {count}")
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise ValueError('--threads needs threadpoolctl: pip install "minimixce[threads]"') from None
    return threadpool_limits(count)


def _sentence(error):
    """What to print of an error: its message in one line, with its kind where the message alone says too little."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, TypeError)) and text else f"{type(error).__name__}: {text}"


def _objective(args, model):
    from . import objectives

    options = {
        "mle": {},
        "mixce": {"eta": args.eta},
        "mixce_surrogate": {"eta": args.eta},
        "tailr": {"gamma": args.gamma},
        # EMO holds the embeddings of its costs fixed within a step; trained from scratch, they are the model's of that step.
        "emo": {"cost_embedding": model.params["wte.weight"]},
    }
    if args.objective not in options:
        raise ValueError(f"--objective must be one of {', '.join(options)}, got {args.objective!r}")
    return functools.partial(getattr(objectives, args.objective), **options[args.objective])


def _train(args):
    from . import backend, metrics, text, training
    from .gpt import GPT, GPTConfig

    out = Path(args.out)
    if (out / "config.json").exists() and not args.overwrite:
        raise FileExistsError(f"{out} already holds a model; choose another --out or add --overwrite")
    options = {name: getattr(args, name) for name in ("steps", "lr", "warmup", "weight_decay", "max_grad_norm", "eval_every")}
    training.check_options(**options)
    xp = backend.select_device(args.device)
    backend.reuse_freed_memory()
    corpus = text.load_corpus(args.data, seed=args.seed)
    tokenizer = corpus.tokenizer
    config = GPTConfig(tokenizer.vocab_size, args.block_size, args.n_layer, args.n_head, args.n_embd, args.dropout)
    model = GPT(config, args.seed, args.device)
    objective = _objective(args, model)
    batches = text.RandomBlocks(corpus.train, args.batch_size, args.block_size, args.seed)
    validation = text.consecutive_blocks(corpus.validation, 32, args.block_size)
    inputs, targets = map(xp.asarray, batches[0])
    initial, expected = float(objective(model.forward(inputs)[0], targets)[0]), None
    if args.objective != "emo":
        expected = training.loss_of_uniform(objective, tokenizer.vocab_size)
    out.mkdir(parents=True, exist_ok=True)

    print(f"data     {args.data or 'the documentation of this Python'}: ", end="")
    print(f"{len(corpus.train):,} training and {len(corpus.validation):,} validation tokens, {tokenizer.vocab_size} different")
    print(f"model    {config.n_layer} layers, {config.n_head} heads, {config.n_embd} channels: ", end="")
    print(f"{model.num_params:,} parameters on {backend.device_name(xp)}")
    print(f"start    {args.objective} loss {initial:.3f}", end="")
    print("" if expected is None else f"; a model that finds every token equally likely has {expected:.3f}")

    measurements = training.fit(model, batches, objective, **options, validation=validation, seed=args.seed)
    model.save(out, overwrite=args.overwrite, boundary=tokenizer.boundary)
    tokenizer.save(out)
    lines = "".join(json.dumps(m) + "\n" for m in measurements)
    (out / "metrics.jsonl").write_text(lines, encoding="utf-8")

    import numpy as np

    final = measurements[-1]
    ngram = metrics.ngram_cross_entropy(corpus.train, corpus.validation, 4, tokenizer.vocab_size)
    print(f"result   validation {final['validation_mle']:.3f} nats per character, perplexity ", end="")
    print(f"{np.exp(final['validation_mle']):.2f} (a 4-gram model: {ngram:.3f}, {np.exp(ngram):.2f})")
    prompt = xp.full((1, 1), tokenizer.boundary)
    sample = backend.to_numpy(model.generate(prompt, 300, stop=tokenizer.boundary, seed=args.seed))
    print(f"sample   {tokenizer.decode(sample[0])}")
    print(f"files    {out}/: config.json, model.safetensors, {text.TOKENIZER_FILE}, metrics.jsonl")
    return 0


def _gradcheck(args):
    from . import backend, checks

    xp = backend.select_device(args.device)
    print(f"Numerical derivatives against the backward functions, float64, on {backend.device_name(xp)}\n")
    rows = []
    for title, report in checks.check_everything(args.device, args.seed):
        print(f"{title}\n{report}\n", flush=True)
        rows += [{"check": title, **vars(row)} for row in report.rows]
    if args.out:
        Path(args.out).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    wrong = sum(not row["ok"] for row in rows)
    worst = max(row["relative_error"] for row in rows)
    verdict = f"{wrong} of {len(rows)} tensors WRONG" if wrong else f"all {len(rows)} tensors OK"
    print(f"{verdict}; largest relative error {worst:.1e}, allowed {1e-6:.0e}")
    return 1 if wrong else 0
