"""The command line: minimixce train, sample, eval, compare, synthetic, prepare, gradcheck."""

import argparse
import contextlib
import functools
import json
import math
import os
import sys
from pathlib import Path

from . import __version__

RUN_FILE = "run.json"  # the options a run was started with
_MAY_CHANGE = ("device", "threads", "eval_every", "quiet")  # on --resume, without saying so


def main(argv=None):
    """Run one command -> exit status: 0 done, 1 a check failed, 2 bad input (one sentence on
    stderr), 130 interrupted, 141 nobody reads the output any more.
    """
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without η prints a question mark
    args = _parser().parse_args(argv)
    try:
        with _threads(args.threads):
            status = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of a pipe has seen enough; 141 is what a shell calls that
        _drop_output()
        return 141
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError, RuntimeError) as error:
        print(f"minimixce {args.command}: {_sentence(error)}", file=sys.stderr)
        _drop_output()
        return 2
    except KeyboardInterrupt:
        print(f"minimixce {args.command}: interrupted", file=sys.stderr)
        return 130


def _drop_output():
    """Give up what standard output does not take (a closed pipe, a full disk), or Python complains
    about it at exit.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---- options -------------------------------------------------------------------------------------


# of all options, by name: the type of its value and whether it may be None, to check what a file
# says
_KINDS = {}


class _Command:
    """A subcommand whose options know their defaults, and which of them the user gave (args.given)."""

    def __init__(self, commands, name, run, help, **meanings):
        self.parser = commands.add_parser(name, help=help, description=help)
        self.defaults = {}
        self.parser.set_defaults(run=lambda args: run(self._complete(args)))
        meanings = {
            "device": "auto, cpu, cuda or cuda:N",
            "seed": "seed of every random number",
            "threads": "threads of the linear algebra library (needs the extra 'threads')",
        } | meanings
        self.add("--device", "auto", meanings["device"])
        self.add("--seed", 0, meanings["seed"])
        self.add("--threads", None, meanings["threads"], type=int)

    def add(self, flag, default, help, **options):
        """An option whose type is its default's, unless given; flags default to False."""
        name = flag.lstrip("-").replace("-", "_")
        self.defaults[name] = default
        if default is False:
            options |= {"action": "store_true"}
        elif default is not None:
            options = {"type": type(default)} | options
            help += f" (default: {default})"
        _KINDS[name] = (
            list if "nargs" in options else bool if default is False else options.get("type", str),
            default is None,
        )
        self.parser.add_argument(flag, default=None, help=help.replace("%", "%%"), **options)

    def _complete(self, args):
        args.given = {
            name: value for name in self.defaults if (value := getattr(args, name)) is not None
        }
        for name, default in self.defaults.items():
            if name not in args.given:
                setattr(args, name, default)
        if args.seed < 0:
            raise ValueError(f"--seed must be at least 0, got {args.seed}")
        world = getattr(args, "world", None) or ""
        if world.endswith(".json"):
            args.world = args.given["world"] = os.path.abspath(world)
        if getattr(args, "data", None):
            # for run.json
            args.data = args.given["data"] = [
                os.path.abspath(path) if path else path for path in args.data
            ]
        path, colon, name = (getattr(args, "objective", None) or "").rpartition(":")
        if path.endswith(".py"):
            args.objective = args.given["objective"] = os.path.abspath(path) + colon + name
        if args.out == "" or "" in (getattr(args, "data", None) or []):
            raise ValueError(
                f"--{'out' if args.out == '' else 'data'} must name a place, got an empty text"
            )
        return args


def _parser():
    parser = argparse.ArgumentParser(
        prog="minimixce",
        description=(
            "Train language models by mixing forward and reverse cross-entropies, and check the"
            " maths."
        ),
    )
    parser.add_argument("--version", action="version", version=f"minimixce {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    c = _Command(commands, "train", _train, "train a GPT on text")
    _add_text(c)
    c.add(
        "--out",
        "run",
        "folder for the model, its tokenizer, metrics and the state to resume from",
        metavar="FOLDER",
    )
    c.add("--overwrite", False, "replace the run in FOLDER")
    c.add(
        "--resume",
        False,
        f"go on with the run in FOLDER, with its options; {', '.join(_MAY_CHANGE)} may differ",
    )
    c.add(
        "--change",
        False,
        "with --resume: options of the objective and the optimizer given here replace the run's",
    )
    c.add(
        "--unchecked",
        False,
        "do not gradient-check an objective from a file (for surrogates with stopped gradients)",
    )
    c.add("--quiet", False, "print no progress")
    c.add(
        "--objective",
        "mixce",
        "mle, mixce, mixce_surrogate, tailr, emo, or FILE.py:NAME for a function of your own; with"
        " --world also forward_ce, reverse_ce, mixce_star, forward_kl, reverse_kl, two_kls, js,"
        " overlap",
    )
    _add_training(c)

    c = _Command(commands, "sample", _sample, "let a trained model write")
    c.parser.add_argument("folder", help="a run or Hugging Face folder with a minimixce tokenizer")
    c.add("--prompt", "", "text to go on from; without one, the start of a document")
    c.add("--tokens", 500, "most tokens to write")
    c.add("--count", 1, "samples to write, one after another")
    c.add("--temperature", 1.0, "below 1 sharpens, 0 takes the likeliest token")
    c.add("--top-k", None, "keep the k likeliest tokens", type=int)
    c.add("--top-p", None, "keep the likeliest tokens that hold this probability", type=float)
    c.add("--out", None, "also write the samples to FILE as JSON lines", metavar="FILE")
    c.add("--overwrite", False, "replace FILE")

    c = _Command(commands, "eval", _eval, "measure a trained model on text")
    c.parser.add_argument("folder", help="a run folder")
    c.add(
        "--data",
        None,
        "files or folders to measure on, and to count words as valid by; without it, the run's own"
        " validation text",
        nargs="+",
    )
    c.add("--eta", 0.5, "η of the MixCE loss that is printed")
    c.add(
        "--samples", 40, "texts to sample for diversity, repetition and word validity; 0 for none"
    )
    c.add("--tokens", 500, "most tokens in each")
    c.add("--temperature", 1.0, "of those samples")
    c.add("--eval-tokens", 50_000, "most tokens of the text to measure on")
    c.add("--out", None, "also write the measures to FILE as JSON", metavar="FILE")
    c.add("--overwrite", False, "replace FILE")

    c = _Command(
        commands,
        "compare",
        _compare,
        "train with several objectives on the same data, seeds and budget, and measure",
    )
    _add_text(c)
    c.add(
        "--out",
        "comparison",
        "folder for the runs, table.csv, table.json and comparison.png",
        metavar="FOLDER",
    )
    c.add("--overwrite", False, "replace the comparison in FOLDER")
    c.add(
        "--resume",
        False,
        "go on with the comparison in FOLDER: runs that are finished are not trained again",
    )
    c.add("--unchecked", False, "do not gradient-check objectives from a file")
    c.add("--quiet", False, "print no progress of the runs")
    c.add(
        "--objectives",
        "mle,mixce:0.5,mixce:0.1",
        "objectives, each with its η or γ after a colon, or FILE.py:NAME",
    )
    c.add("--seeds", "0,1,2", "seeds of the runs; all see the same split of the text")
    c.add("--samples", 40, "texts to sample from each model")
    c.add("--tokens", 500, "most tokens in each")
    _add_training(c)

    c = _Command(
        commands,
        "synthetic",
        _synthetic,
        "how well each objective recovers a known bigram world: the paper's table",
        device="cpu, where all runs are",
        seed="none here: --seeds names one for each run",
        threads="none here: each run has one, and --jobs says how many run at a time",
    )
    c.add(
        "--out",
        "synthetic",
        "folder for runs.jsonl, runs.csv, table.csv, the learned matrices and the figures",
        metavar="FOLDER",
    )
    c.add("--overwrite", False, "start anew in FOLDER")
    c.add(
        "--resume",
        False,
        "go on with the grid in FOLDER: jobs that are finished are not run again (corpora must not"
        " have changed)",
    )
    c.add(
        "--protocol",
        "exact",
        "exact gradients brought to the optimum, or paper: its network, Adam, dropout,"
        " Gumbel-softmax",
    )
    c.add(
        "--model",
        "table",
        "table, neural (the paper's network) or gpt (trained on batches); the paper protocol has"
        " its own",
    )
    c.add(
        "--forward",
        "samples",
        "what the forward part is taken from: samples or, with exact gradients, population",
    )
    c.add("--vocab", "20,50,100", "vocabularies, boundary included")
    c.add("--zeros", "0.5", "shares of impossible transitions of the random worlds")
    c.add(
        "--corpus",
        None,
        "bigram worlds of these text files; random ones too only with --zeros or --full",
        nargs="+",
    )
    c.add("--objectives", "mle,mixce,mixce_star,two_kls,js", "objectives")
    c.add("--etas", "0,0.01,0.1,0.5,0.9,0.99,1", "ratios η of all but mle (js: those between)")
    c.add("--seeds", "7,42,777,4222,99999", "seeds of worlds and samples")
    c.add(
        "--full",
        False,
        "vocabularies 20,50,100,500,1000, zeros 0.1,0.5,0.9 and the corpora, if any; hours",
    )
    c.add("--jobs", 0, "processes; 0 for one a core; under MPI its ranks, whatever this says")
    c.add("--quiet", False, "print no progress")

    c = _Command(
        commands,
        "prepare",
        _prepare,
        "encode a large text once, into files that training maps into memory",
    )
    _add_text(c)
    c.add("--out", "prepared", "folder for the token files: give it to --data", metavar="FOLDER")

    c = _Command(
        commands,
        "gradcheck",
        _gradcheck,
        "check every gradient against numerical derivatives, tensor by tensor",
    )
    c.add("--out", None, "also write the table to FILE as JSON lines", metavar="FILE")
    c.add("--overwrite", False, "replace FILE")
    return parser


def _add_text(c):
    c.add(
        "--data",
        None,
        "UTF-8 files, folders, or a prepared folder; without it, the documentation in every"
        " CPython",
        nargs="+",
    )
    c.add("--lines", False, "each line is a sequence of its own, instead of each file")
    c.add("--tokenizer", "character", "character or byte")
    c.add("--held-out", 0.1, "share of the text kept for validation")


def _add_training(c):
    c.add(
        "--world",
        None,
        "train on samples of a world: agreement, stories, random:V:ZEROS:SEED or a .json file",
    )
    c.add("--sequences", 50_000, "samples of the world to train on; a tenth more is held out")
    c.add(
        "--max-len",
        None,
        "horizon of the world, where the end is forced; without it, one past the longest of 10,000",
        type=int,
    )
    c.add(
        "--rloo-samples",
        64,
        "samples of the model a step, where an objective's reverse part is not exact",
    )
    c.add("--eta", 0.5, "MixCE's ratio η in [0,1] (η = 1 is MLE)")
    c.add("--gamma", 0.1, "TaiLr's γ in [0,1] (γ = 0 is MLE)")
    c.add("--steps", 2200, "optimizer steps")
    c.add("--batch-size", 12, "sequences in a batch")
    c.add("--accumulate", 1, "batches in a step")
    c.add(
        "--shards",
        1,
        "threads that share each batch; larger models gain (needs the extra 'threads')",
    )
    c.add("--block-size", 64, "positions the model sees")
    c.add("--n-layer", 2, "transformer blocks")
    c.add("--n-head", 4, "attention heads")
    c.add("--n-embd", 128, "channels")
    c.add("--dropout", 0.0, "dropout rate while training")
    c.add("--lr", 4e-3, "peak learning rate")
    c.add("--warmup", 100, "steps of linear rise to it")
    c.add("--final-lr", 0.1, "share of the peak that half a cosine leads down to")
    c.add("--weight-decay", 0.1, "AdamW's, on matrices only")
    c.add("--max-grad-norm", 1.0, "gradients are scaled down to this joint norm")
    c.add("--eval-every", 200, "steps between validations, each of which saves the run")
    c.add("--eval-tokens", 50_000, "most tokens of the validation text to use in training")
    c.add("--patience", None, "stop after this many validations without a better one", type=int)


def _threads(count):
    """A context that limits the linear algebra library to `count` threads; None leaves it as it is."""
    if count is None:
        return contextlib.nullcontext()
    if not 1 <= count <= 1024:
        raise ValueError(f"--threads must be at least 1 and at most 1024, got {count}")
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise ValueError(
            '--threads and --shards need threadpoolctl: pip install "minimixce[threads]"'
        ) from None
    return threadpool_limits(count)


def _linear_algebra_threads():
    """How many the linear algebra library would use now: after --threads and OMP_NUM_THREADS."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return 1  # _threads says what is missing
    return max((library["num_threads"] for library in threadpool_info()), default=1)


def _sentence(error):
    """What to print of an error: its message; a table, as a refused gradient check's, keeps its
    lines.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


# ---- train ---------------------------------------------------------------------------------------


def _train(args):
    out = Path(args.out)
    if args.change and not args.resume:
        raise ValueError("--change goes with --resume")
    if args.resume and args.overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if args.resume:
        _take_options_of_run(args, out)
        if "threads" not in args.given:  # results depend on the number of threads
            with _threads(args.threads):
                return _run_training(args, out)
    elif not args.overwrite and (found := _found_in(out)):
        raise FileExistsError(
            f"{out} already holds a run ({found}); choose another --out, or add --resume or"
            " --overwrite"
        )
    return _run_training(args, out)


def _run_training(args, out):
    from .gpt import GPT
    from .training import run
    from .training.evaluation import evaluate

    say = (lambda *words, **options: None) if args.quiet else print
    job = _Job(args)
    say(
        f"data     {job.data_name}: {len(job.corpus.train):,} training and"
        f" {len(job.corpus.validation):,} validation tokens, ",
        end="",
    )
    say(f"{job.corpus.tokenizer.vocab_size} different")
    say(f"model    {args.n_layer} layers, {args.n_head} heads, {args.n_embd} channels: ", end="")
    say(f"{job.model.num_params:,} parameters on {job.device_name}")
    if args.resume:
        _check_data(out, job.corpus)
    else:
        say(job.check_start())
        _start_folder(out, job.corpus)
    try:
        job.fit(out, args.resume, not args.quiet)
    except KeyboardInterrupt:
        if not (out / RUN_FILE).exists():
            raise
        print(f"stopped; go on with: minimixce train --out {out} --resume", file=sys.stderr)
        return 130
    best = GPT.load(out, args.device)
    say(job.result(best, evaluate(best, job.validation)))
    say(f"sample   {job.sample(best, args.seed)}")
    say(
        f"files    {out}/: config.json and model.safetensors (the best model), {run.LAST}/,"
        f" {run.METRICS_FILE}"
    )
    return 0


def _found_in(out):
    """The name of something in `out` that a run would overwrite, or None."""
    from . import text
    from .training import run

    names = (
        RUN_FILE,
        "config.json",
        "model.safetensors",
        run.STATE_FILE,
        run.METRICS_FILE,
        run.LAST,
    )
    return next((name for name in (*names, text.TOKENIZER_FILE) if (out / name).exists()), None)


def _start_folder(out, corpus):
    """Make the run's folder and save its tokenizer; files that tell of a run that is replaced go
    first.
    """
    from . import text
    from .training import run

    out.mkdir(parents=True, exist_ok=True)
    for name in (RUN_FILE, run.STATE_FILE, "config.json"):
        (out / name).unlink(missing_ok=True)
    text.save_tokenizer(corpus.tokenizer, out)


def _write_options(out, args, corpus):
    from .storage import files

    options = {k: v for k, v in vars(args).items() if k not in _NOT_OPTIONS}
    options |= {
        "data_fingerprint": corpus.fingerprint(),
        "lines": corpus.lines,
        "tokenizer": corpus.tokenizer.kind,
    }
    files.write_atomically(out / RUN_FILE, json.dumps(options, indent=2).encode() + b"\n")


_NOT_OPTIONS = ("run", "command", "given", "out", "overwrite", "resume", "change")
_OF_COMPARISON = ("objectives", "seeds", "samples", "tokens")  # not of its runs
_NEVER_CHANGE = (
    "world",
    "sequences",
    "max_len",
    "data",
    "lines",
    "tokenizer",
    "held_out",
    "seed",
    "block_size",
    "n_layer",
    "n_head",
    "n_embd",
)


def _take_options_of_run(args, out):
    """Fill args with the options of the run in `out`; refuse given ones that differ, unless they
    may or --change is there.
    """
    for name, value in _read_options(out).items():
        if name not in args.given:
            setattr(args, name, value)
        elif (
            args.given[name] != value
            and name not in _MAY_CHANGE
            and (name in _NEVER_CHANGE or not args.change)
        ):
            way_out = (
                "a run cannot change it" if name in _NEVER_CHANGE else "add --change to change it"
            )
            raise ValueError(
                f"the run in {out} has --{name.replace('_', '-')} {value}, not {args.given[name]};"
                f" {way_out}"
            )


def _read_options(folder):
    """What run.json in `folder` says, after a look at names and types."""
    from .storage import files

    path = folder / RUN_FILE
    options = files.read_json(path)
    for name, value in options.items():
        kind, optional = (
            (int, False) if name == "data_fingerprint" else _KINDS.get(name, (None, False))
        )
        if kind is list and isinstance(value, list):
            fits = len(value) > 0 and all(isinstance(item, str) for item in value)
        else:
            fits = (
                type(value) is kind
                or (kind is float and type(value) is int)
                or (value is None and optional)
            )
        if not fits:
            raise ValueError(f"{path} is damaged: {name} cannot be {value!r}")
    return options


def _check_data(out, corpus):
    if _read_options(out).get("data_fingerprint") != corpus.fingerprint():
        raise ValueError(f"the training text is not the one the run in {out} was started with")


class _Job:
    """One training run: corpus, model, objective and batches made from the options."""

    def __init__(self, args, corpus=None):
        from . import backend, text
        from .gpt import GPT, GPTConfig
        from .training import loop

        names = (
            "steps",
            "lr",
            "warmup",
            "final_lr",
            "weight_decay",
            "max_grad_norm",
            "accumulate",
            "shards",
        )
        names += ("eval_every", "patience")
        self.options = {name: getattr(args, name) for name in names}
        loop.check_options(**self.options)
        _check_ratios(args, "eta", "gamma")
        if args.eval_tokens < 2:
            raise ValueError(f"--eval-tokens must be at least 2, got {args.eval_tokens}")
        xp = backend.select_device(args.device)
        backend.reuse_freed_memory()
        self.args, self.corpus = args, corpus or _load_corpus(args)
        self.world = getattr(self.corpus, "world", None)
        self.data_name = ", ".join(args.data) if args.data else "the documentation of this Python"
        config = GPTConfig(
            self.corpus.tokenizer.vocab_size,
            args.block_size,
            args.n_layer,
            args.n_head,
            args.n_embd,
            args.dropout,
        )
        _check_memory(config, args.batch_size, args.accumulate, on_cpu=xp.__name__ == "numpy")
        self.model = GPT(config, args.seed, args.device)
        self.device_name = backend.device_name(self.model.xp)
        self.objective = _objective(args, self.model, self.corpus)
        if self.world:
            self._take_rows()
            return
        lines = self.corpus.lines
        self.batches = text.random_batches(
            self.corpus.train, args.batch_size, args.block_size, args.seed, lines
        )
        held_out = self.corpus.validation[: args.eval_tokens]
        self.validation = text.consecutive_batches(held_out, 32, args.block_size, lines)

    def _take_rows(self):
        from .experiments import on_worlds

        corpus, tokens = self.corpus, self.args.eval_tokens
        self.data_name = f"{corpus.world.name}, horizon {corpus.max_len}"
        if cut := float((corpus.rows[:, corpus.max_len] == 0).mean()):
            self.data_name += f" (which ends {cut:.1%} of the sequences)"
        self.batches = on_worlds.RowBatches(
            corpus.world, corpus.rows, self.args.batch_size, self.args.seed
        )
        held_out = corpus.held_out[: max(1, tokens // corpus.max_len)]
        self.validation = on_worlds.RowBatches(corpus.world, held_out, 256)

    def measure_world(self, model):
        from .experiments import world_measures

        return world_measures.measure_on_world(
            model, self.world, self.corpus.max_len, seed=self.args.seed
        )

    def check_start(self):
        """The line that compares the untrained model's loss with that of a uniform one."""
        from .training import steps
        from .training.evaluation import loss_of_uniform

        inputs, targets = map(self.model.xp.asarray, self.batches[0])
        if steps.is_step(self.objective):
            initial = float(self.objective(self.model, (inputs, targets))[0])
            line = f"start    {self.args.objective} loss {initial:.3f} nats per sequence"
            if self.world:
                from .experiments import on_worlds

                known = (
                    self.args.objective,
                    self.world,
                    self.corpus.max_len,
                    self.args.rloo_samples,
                )
                line += f"; {on_worlds.how(*known)}"
            return line
        initial = float(self.objective(self.model.forward(inputs)[0], targets)[0])
        try:
            uniform = loss_of_uniform(self.objective, self.model.config.vocab_size)
        # an objective that needs the real batch, as EMO's embeddings on a GPU
        except (TypeError, ValueError):
            return f"start    {self.args.objective} loss {initial:.3f}"
        line = f"start    {self.args.objective} loss {initial:.3f}"
        line += f"; a model that finds every token equally likely has {uniform:.3f}"
        if abs(initial - uniform) > 0.1 * abs(uniform) + 0.05:
            line += (
                "\n         WARNING: they should be close; check the objective before trusting"
                " this run"
            )
        return line

    def fit(self, folder, resume, progress):
        from .training import loop, steps

        with _threads(
            max(1, _linear_algebra_threads() // self.args.shards) if self.args.shards > 1 else None
        ):
            return loop.fit(
                self.model,
                self.batches,
                self.objective,
                **self.options,
                # The best model by likelihood is not the best by another objective: such a run
                # keeps its last.
                validation=None if steps.is_step(self.objective) else self.validation,
                seed=self.args.seed,
                folder=folder,
                boundary=self.corpus.tokenizer.boundary,
                resume=resume,
                on_start=lambda: _write_options(folder, self.args, self.corpus),
                progress=progress,
            )

    def result(self, model, measurement):
        from .experiments import measures

        nats, kind = measurement["validation_mle"], self.corpus.tokenizer.kind
        if self.world:
            from .experiments import world_measures

            row = self.measure_world(model)
            how = "exact" if row["exact"] else "mean ± standard error of 10,000 samples"
            lines = [
                f"result   validation {nats:.3f} nats per {kind}; in nats per sequence ({how}):"
            ]
            return "\n".join(
                [
                    *lines,
                    *(
                        f"         {line}"
                        for line in world_measures.describe_world_measures(row, self.world)
                    ),
                ]
            )
        line = (
            f"result   validation {nats:.3f} nats per {kind}, perplexity"
            f" {measures.perplexity(nats):.2f}"
        )
        if len(self.corpus.train) > 5_000_000:
            return line
        ngram = measures.ngram_cross_entropy(
            self.corpus.train,
            self.corpus.validation[: self.args.eval_tokens],
            4,
            self.corpus.tokenizer.vocab_size,
        )
        return f"{line} (a 4-gram model: {ngram:.3f}, {measures.perplexity(ngram):.2f})"

    def sample(self, model, seed):
        from . import backend

        tokenizer = self.corpus.tokenizer
        prompt = model.xp.full((1, 1), tokenizer.boundary)
        tokens = model.generate(prompt, 300, stop=tokenizer.boundary, seed=seed)
        return tokenizer.decode(backend.to_numpy(tokens)[0])


def _check_memory(config, batch_size, accumulate, on_cpu):
    """Raise MemoryError where training is sure to need more memory than the machine has, before it
    is used up.
    """
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return
    C, T, L = config.n_embd, config.block_size, config.n_layer
    params = L * (12 * C * C + 13 * C) + (config.vocab_size + T + 2) * C
    positions = batch_size * T
    activations = (
        positions * (config.vocab_size + L * (16 * C + config.n_head * T))
        + 2 * positions * accumulate
    )
    # bytes; the 4: weights, gradients, AdamW's two means
    needed = 4 * (4 * params + activations if on_cpu else params)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise MemoryError(
            f"training this model needs more than {needed >> 30:,} GiB of memory, this machine has"
            f" {there >> 30:,}; choose a smaller --n-embd, --n-layer, --block-size, --batch-size or"
            " --accumulate"
        )


def _check_ratios(args, *names):
    for name in names:
        if not 0 <= getattr(args, name) <= 1:
            raise ValueError(f"--{name} must be between 0 and 1, got {getattr(args, name)}")


def _load_corpus(args, folder=None):
    from . import text

    given = getattr(args, "given", {}).keys()
    if not getattr(args, "world", None) and (
        ignored := {"max_len", "sequences", "rloo_samples"} & given
    ):
        raise ValueError(
            f"--{min(ignored).replace('_', '-')} is for worlds: add --world, or leave it out"
        )
    if getattr(args, "world", None):
        from .experiments import on_worlds

        if ignored := {"data", "tokenizer", "lines", "held_out", "samples", "tokens"} & given:
            raise ValueError(
                "--world brings its own text and measures and goes without"
                f" --{min(ignored).replace('_', '-')}"
            )
        return on_worlds.load_corpus(args.world, args.sequences, args.max_len, args.block_size + 1)
    prepared = args.data and len(args.data) == 1 and text.is_prepared(args.data[0])
    if prepared and (
        ignored := {"tokenizer", "lines", "held_out"} & getattr(args, "given", {}).keys()
    ):
        flag = "--" + min(ignored).replace("_", "-")
        raise ValueError(
            f"{flag} was settled when {args.data[0]} was prepared and cannot be given again"
        )
    # The split does not depend on --seed: runs with different seeds are measured on the same
    # held-out text.
    return text.load_corpus(
        args.data, tokenizer=args.tokenizer, lines=args.lines, held_out=args.held_out, folder=folder
    )


def _objective(args, model, corpus):
    """The objective that --objective names, with η or γ bound; one from a file is gradient-checked
    first.
    """
    from . import objectives
    from .experiments import on_worlds

    options = {
        "mle": {},
        "mixce": {"eta": args.eta},
        "mixce_surrogate": {"eta": args.eta},
        "tailr": {"gamma": args.gamma},
        # EMO holds the embeddings of its costs fixed within a step; trained from scratch, they are
        # the model's of that step.
        "emo": {"cost_embedding": model.params["wte.weight"]},
    }
    if args.objective in options:
        return functools.partial(getattr(objectives, args.objective), **options[args.objective])
    if args.objective in on_worlds.SEQUENCE_OBJECTIVES:
        if not args.world:
            raise ValueError(f"objective {args.objective} needs P itself: give --world")
        if args.dropout or args.patience is not None:
            option = "--dropout" if args.dropout else "--patience"
            raise ValueError(
                f"{option} is for objectives over tokens; {args.objective} goes without it"
            )
        known = {"eta": args.eta, "samples": args.rloo_samples, "seed": args.seed}
        return on_worlds.sequence_step(args.objective, corpus.world, corpus.max_len, **known)
    path, _, name = args.objective.rpartition(":")
    if not path.endswith(".py"):
        names = ", ".join([*options, *(on_worlds.SEQUENCE_OBJECTIVES if args.world else ())])
        raise ValueError(
            f"--objective must be one of {names} or FILE.py:NAME, got {args.objective!r}"
        )
    return _objective_of_file(Path(path), name, args.unchecked)


def _objective_of_file(path, name, unchecked):
    import runpy

    from . import checks

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        objective = runpy.run_path(str(path)).get(name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} fails to run: {type(error).__name__}: {error}") from error
    if not callable(objective):
        raise ValueError(f"{path} defines no function {name!r}")
    objective = _watched(objective, f"{name} in {path}")
    if not unchecked:
        report = checks.check_objective(objective)
        if not report.ok:
            raise ValueError(
                f"the dlogits of {name} are not the derivative of its loss; if it stops a gradient"
                f" on purpose, add --unchecked\n{report}"
            )
    return objective


def _watched(objective, name):
    """`objective`, with a ValueError that names it where it fails or returns something else than an
    objective does.
    """

    @functools.wraps(objective)
    def watched(logits, targets, **options):
        try:
            result = objective(logits, targets, **options)
        except Exception as error:
            raise ValueError(f"{name} fails: {type(error).__name__}: {error}") from error
        shapes = (
            [
                () if isinstance(part, (int, float)) else getattr(part, "shape", None)
                for part in result
            ]
            if isinstance(result, tuple)
            else None
        )
        if shapes != [(), logits.shape]:
            raise ValueError(
                f"{name} must return (loss, dlogits), arrays of shape () and of logits' shape"
            )
        return result

    return watched


# ---- sample, eval --------------------------------------------------------------------------------


def _open(folder, device):
    """(model, tokenizer) of a run folder."""
    from . import text
    from .gpt import GPT

    model, tokenizer = GPT.load(folder, device), text.load_tokenizer(folder)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model"
            f" {model.config.vocab_size}"
        )
    return model, tokenizer


def _sample(args):
    from . import backend

    _check_out_file(args)
    if args.count < 1:
        raise ValueError(f"--count must be at least 1, got {args.count}")
    model, tokenizer = _open(args.folder, args.device)
    ids = [tokenizer.boundary, *tokenizer.encode(args.prompt).tolist()]
    rng, records, prompt = backend.rng(args.seed, model.xp), [], model.xp.asarray([ids])
    sampling = (args.tokens, args.temperature, args.top_k, args.top_p, tokenizer.boundary, rng)
    streams = [model.stream(prompt, *sampling) for _ in range(args.count)]
    for k in range(args.count):
        if k:
            print()
        print(args.prompt, end="", flush=True)
        written, pending = [], []
        for token in streams[k]:
            if int(token[0]) == tokenizer.boundary:
                break
            if tokenizer.joiner and (written or args.prompt):
                print(end=tokenizer.joiner)
            written.append(int(token[0]))
            pending.append(int(token[0]))
            # A character of UTF-8 may take up to four byte tokens: print whole ones.
            if (
                not tokenizer.decode(pending).endswith("\N{REPLACEMENT CHARACTER}")
                or len(pending) >= 4
            ):
                print(tokenizer.decode(pending), end="", flush=True)
                pending = []
        print(tokenizer.decode(pending), flush=True)
        records.append(
            {"prompt": args.prompt, "text": tokenizer.decode(written), "tokens": written}
        )
    if args.out:
        _write_lines(args.out, records)
    return 0


def _check_out_file(args):
    if args.out and Path(args.out).exists() and not args.overwrite:
        raise FileExistsError(f"{args.out} exists already; choose another --out or add --overwrite")


def _eval(args):
    from . import text
    from .experiments import measures, tables
    from .storage import files
    from .training.evaluation import evaluate

    _check_out_file(args)
    measures.check_sampling_options(args.samples, args.tokens, args.temperature)
    _check_ratios(args, "eta")
    folder, run_corpus = Path(args.folder), None
    model, tokenizer = _open(folder, args.device)
    options = {"data": None, "tokenizer": "character", "lines": False, "held_out": 0.1}
    if (folder / RUN_FILE).exists():
        options |= _read_options(folder)
    if options.get("world"):
        return _eval_on_world(args, folder, model, argparse.Namespace(**options))
    if args.data is None and (folder / RUN_FILE).exists():
        run_corpus = _load_corpus(argparse.Namespace(**options))
        _check_data(folder, run_corpus)
    elif args.data is None:
        raise ValueError(
            f"{folder} has no {RUN_FILE} that says what its validation text is; give --data"
        )
    lines = options["lines"] if run_corpus is None else run_corpus.lines
    if args.eval_tokens < 2:
        raise ValueError(f"--eval-tokens must be at least 2, got {args.eval_tokens}")
    ids = (
        run_corpus.validation
        if args.data is None
        else text.encode_files(args.data, tokenizer, lines)
    )
    ids = ids[: args.eval_tokens]
    batches = text.consecutive_batches(ids, 32, model.config.block_size, lines)
    found = evaluate(model, batches)
    eta, nats = args.eta, found["validation_mle"]
    targets = sum(int((wanted >= 0).sum()) for _, wanted in batches)
    found = {
        "targets": targets,
        "mle": nats,
        "mixce": eta * nats - (1 - eta) * found["mean_q"],
        "mean_q": found["mean_q"],
    }
    print(f"text     {targets:,} targets")
    print(f"loss     {nats:.4f} nats per {tokenizer.kind} (MLE), ", end="")
    print(f"{found['mixce']:.4f} (MixCE, η = {eta}); mean q {found['mean_q']:.4f}")

    corpus = run_corpus or text.Corpus(ids, ids, tokenizer, lines)
    vocabulary = measures.vocabulary_of(corpus)
    model_row = measures.measure_on_text(
        model, batches, corpus, vocabulary, args.samples, args.tokens, args.temperature, args.seed
    )
    text_row = measures.measure_texts(
        measures.held_out_texts(ids, args.samples, args.tokens), tokenizer, vocabulary
    )
    print(
        tables.format_measures(
            {"model": [model_row]} | ({"this text": [text_row]} if text_row else {})
        )
    )
    if args.out:
        record = found | {"model": model_row, "text": text_row}
        files.write_atomically(args.out, _json(record).encode() + b"\n")
    return 0


def _eval_on_world(args, folder, model, options):
    from .experiments import world_measures
    from .storage import files

    if (
        ignored := {"data", "eta", "samples", "tokens", "temperature", "eval_tokens"}
        & args.given.keys()
    ):
        option = "--" + min(ignored).replace("_", "-")
        raise ValueError(
            f"the run in {folder} was trained on a world and is measured on it: leave out {option}"
        )
    corpus = _load_corpus(options)
    _check_data(folder, corpus)
    row = world_measures.measure_on_world(model, corpus.world, corpus.max_len, seed=args.seed)
    print("\n".join(world_measures.describe_world_measures(row, corpus.world)))
    if args.out:
        files.write_atomically(args.out, _json(row).encode() + b"\n")
    return 0


def _json(value):
    """JSON, with null for the numbers it cannot hold (a measure of no text is NaN)."""

    def clean(v):
        if isinstance(v, dict):
            return {str(k): clean(x) for k, x in v.items()}
        if isinstance(v, list):
            return [clean(x) for x in v]
        return None if isinstance(v, float) and not math.isfinite(v) else v

    return json.dumps(clean(value), indent=1)


def _write_lines(path, records):
    from .storage import files

    data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    files.write_atomically(path, data.encode())


# ---- compare -------------------------------------------------------------------------------------


def _compare(args):
    from .experiments import measures, plots, tables
    from .storage import files

    if args.resume and args.overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    plots.new_figure()  # a missing matplotlib is better found before the training
    out, runs = Path(args.out), _parse_objectives(args)
    seeds = _parse_seeds(args.seeds)
    measures.check_sampling_options(args.samples, args.tokens)
    if args.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {args.samples}")
    folders = {
        (label, seed): out / f"{_plain(label)}_seed{seed}" for label in runs for seed in seeds
    }
    present = [
        name for name in ("table.json", "table.csv", "comparison.png") if (out / name).exists()
    ]
    found = [*present, *(folder.name for folder in folders.values() if _found_in(folder))]
    if found and not (args.overwrite or args.resume):
        way_out = "choose another --out, or add --resume or --overwrite"
        raise FileExistsError(f"{out} already holds a comparison ({found[0]}); {way_out}")
    corpus = _load_corpus(args)
    if args.world:
        return _compare_on_world(args, runs, seeds, folders, corpus)
    if len(corpus.validation) < args.tokens:
        raise ValueError(
            f"--tokens must be at most the {len(corpus.validation)} tokens held out, got"
            f" {args.tokens}"
        )
    vocabulary, jobs = measures.vocabulary_of(corpus), _jobs(args, runs, seeds, corpus)
    rows, curves, best = {}, {}, {}
    for (label, seed), job in jobs.items():
        model, measurements = _run_of_comparison(args, label, job, folders[label, seed])
        best[label, seed] = model
        rows.setdefault(label, []).append(
            {"seed": seed}
            | measures.measure_on_text(
                model, job.validation, corpus, vocabulary, args.samples, args.tokens, 1.0, seed
            )
        )
        curve = {
            "step": [m["step"] for m in measurements],
            "perplexity": [measures.perplexity(m["validation_mle"]) for m in measurements],
        }
        curves.setdefault(label, []).append(curve)

    def tempered(seed, temperature):
        model, batches = best["mle", seed], jobs["mle", seed].validation
        found = measures.measure_on_text(
            model, batches, corpus, vocabulary, args.samples, args.tokens, temperature, seed
        )
        return {"seed": seed, "temperature": temperature} | found

    controls, temperatures = {}, {}
    if "mle" in runs:
        for label in runs:
            matched = [
                measures.matching_temperature(
                    best["mle", row["seed"]], jobs["mle", row["seed"]].validation, row["entropy"]
                )
                for row in rows[label]
            ]
            if label != "mle":
                controls[f"mle, entropy of {label}"] = [
                    tempered(seed, t) for seed, t in zip(seeds, matched)
                ]
        temperatures = {t: [tempered(seed, t) for seed in seeds] for t in (1.0, 0.9, 0.8, 0.7, 0.6)}
    texts = measures.held_out_texts(corpus.validation, args.samples, args.tokens)
    held_out = measures.measure_texts(texts, corpus.tokenizer, vocabulary)
    result = {
        "objectives": runs,
        "rows": rows,
        "controls": controls,
        "temperatures": temperatures,
        "held_out": held_out,
        "curves": curves,
        "options": {k: v for k, v in vars(args).items() if k not in _NOT_OPTIONS},
    }
    files.write_atomically(out / "table.json", _json(result).encode())
    groups = (
        rows
        | controls
        | {f"mle, temperature {t}": r for t, r in temperatures.items() if t != 1.0}
        | {"held-out text": [held_out]}
    )
    _write_csv(out / "table.csv", groups, ["model", "seed", "temperature", *measures.TEXT_MEASURES])
    print(f"\n{tables.format_measures(groups)}")
    plots.comparison(result, out / "comparison.png")
    spread = f"mean ± standard deviation over {len(seeds)} seeds; " if len(seeds) > 1 else ""
    print(f"{spread}entropy in nats per token at held-out contexts")
    print(
        f"files    {out}/: table.csv, table.json, comparison.png, and a run folder for each"
        " objective and seed"
    )
    return 0


def _jobs(args, runs, seeds, corpus):
    """All runs of a comparison; they are made before the first is trained, so that bad options fail
    at once.
    """
    jobs = {}
    for label, changes in runs.items():
        for seed in seeds:
            jobs[label, seed] = _Job(
                argparse.Namespace(**(vars(args) | changes | {"seed": seed})), corpus
            )
    return jobs


def _run_of_comparison(args, label, job, folder):
    """Train one run, or go on with it -> (model, measurements)."""
    from .gpt import GPT

    if not args.quiet:
        print(f"\n{label}, seed {job.args.seed}")
    resume = args.resume and (folder / RUN_FILE).exists()
    if resume:
        _check_same_options(folder, job)
    else:
        _start_folder(folder, job.corpus)
    measurements = job.fit(folder, resume, not args.quiet)
    return GPT.load(folder, args.device), measurements


def _compare_on_world(args, runs, seeds, folders, corpus):
    """compare with a world in the text's place: every measure against P itself."""
    from .experiments import plots, tables, world_measures
    from .storage import files

    out, rows = Path(args.out), {}
    for (label, seed), job in _jobs(args, runs, seeds, corpus).items():
        model, _ = _run_of_comparison(args, label, job, folders[label, seed])
        rows.setdefault(label, []).append({"seed": seed} | job.measure_world(model))
    options = {k: v for k, v in vars(args).items() if k not in _NOT_OPTIONS}
    result = {
        "world": corpus.world.name,
        "max_len": corpus.max_len,
        "objectives": runs,
        "rows": rows,
        "options": options,
    }
    result["entropy_p"] = corpus.world.entropy(corpus.max_len)
    files.write_atomically(out / "table.json", _json(result).encode())
    columns = next(iter(rows.values()))[0].keys()
    _write_csv(out / "table.csv", rows, ["model", *columns])
    print(f"\n{tables.format_measures(rows, world_measures.WORLD_MEASURES)}")
    plots.world_comparison(result, out / "comparison.png")
    spread = f"mean ± standard deviation over {len(seeds)} seeds; " if len(seeds) > 1 else ""
    exact = all(row["exact"] for group in rows.values() for row in group)
    print(
        f"{spread}nats per sequence,"
        f" {'exact' if exact else 'from 10,000 samples each, standard errors in table.csv'}; ",
        end="",
    )
    print(f"{corpus.world.name}, horizon {corpus.max_len}, H(P) = {result['entropy_p']:.4f}")
    print(
        f"files    {out}/: table.csv, table.json, comparison.png, and a run folder for each"
        " objective and seed"
    )
    return 0


def _plain(label):
    """A label as a folder's name: "mixce η=0.5" -> "mixce_eta0.5"."""
    return label.replace("η", "eta").replace("γ", "gamma").replace(" ", "_").replace("=", "")


def _check_same_options(folder, job):
    """A run of a comparison goes on only under the options it was started with."""
    _check_data(folder, job.corpus)
    for name, value in _read_options(folder).items():
        ours = getattr(job.args, name, value)
        if name not in (*_MAY_CHANGE, *_OF_COMPARISON, "lines", "tokenizer") and ours != value:
            raise ValueError(
                f"the run in {folder} has --{name.replace('_', '-')} {value}, not {ours}"
            )


def _parse_objectives(args):
    """ "mle,mixce:0.5" -> {label: options}."""
    runs = {}
    for item in args.objectives.split(","):
        if ".py:" in item:
            path, _, name = item.strip().rpartition(":")
            if name in runs:
                raise ValueError(f"--objectives names {name} twice")
            runs[name] = {"objective": f"{os.path.abspath(path)}:{name}"}
            continue
        name, _, ratio = item.strip().partition(":")
        etas = ("mixce", "mixce_surrogate", "mixce_star", "two_kls", "js")
        key = "gamma" if name == "tailr" else "eta" if name in etas else None
        if ratio and key is None:
            raise ValueError(f"--objectives: {name} takes no ratio, got {item!r}")
        try:
            value = float(ratio) if ratio else None
        except ValueError:
            raise ValueError(f"--objectives: {ratio!r} in {item!r} is not a number") from None
        if key is not None and value is None:
            value = getattr(args, key)
        symbol = {"eta": "η", "gamma": "γ"}.get(key)
        label = f"{name} {symbol}={value:g}" if key else name
        if label in runs:
            raise ValueError(f"--objectives names {label} twice")
        runs[label] = {"objective": name} | ({key: value} if key else {})
    return runs


def _parse_seeds(text):
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds must be integers separated by commas, got {text!r}") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"--seeds must be different integers, at least 0, got {text!r}")
    return seeds


def _write_csv(path, groups, columns):
    from .storage import files

    rows = [{"model": label} | row for label, rows in groups.items() for row in rows]
    files.write_atomically(
        path, _csv([{name: row.get(name, "") for name in columns} for row in rows]).encode()
    )


# ---- synthetic -----------------------------------------------------------------------------------


def _synthetic(args):
    from . import backend
    from .experiments.synthetic import study

    backend.reuse_freed_memory()
    if args.jobs < 0:
        raise ValueError(f"--jobs must be at least 0, got {args.jobs}")
    jobs = _synthetic_jobs(args)
    options = {"workers": args.jobs, "overwrite": args.overwrite, "resume": args.resume}
    found = study.run_study(jobs, args.out, progress=not args.quiet, **options)
    print(study.format_summary(found.table))
    print(
        f"mean ± standard error over seeds, at the η of least avg. JS; files in {Path(args.out)}/:"
        f" runs.jsonl, runs.csv, table.csv, {', '.join(found.figures)}"
    )
    return 0


def _synthetic_jobs(args):
    from .experiments.synthetic import study

    for name, instead in (("seed", "--seeds names them"), ("threads", "a run has one: see --jobs")):
        if name in args.given:
            raise ValueError(f"synthetic takes no --{name}: {instead}")
    if args.device not in ("auto", "cpu"):
        raise ValueError(f"--device must be cpu for synthetic, got {args.device!r}")

    def numbers(name, kind):
        """None where the option was not given."""
        return _numbers(name, args.given[name], kind) if name in args.given else None

    return study.jobs_of_study(
        numbers("vocab", int),
        numbers("zeros", float),
        _parse_seeds(args.seeds),
        [name.strip() for name in args.objectives.split(",")],
        _numbers("etas", args.etas, float),
        tuple(args.corpus or ()),
        full=args.full,
        protocol=args.protocol,
        model=args.given.get("model"),
        forward=args.given.get("forward"),
    )


def _numbers(name, text, kind):
    try:
        values = [kind(item) for item in text.split(",")]
    except ValueError:
        raise ValueError(f"--{name} must be numbers separated by commas, got {text!r}") from None
    if len(set(values)) < len(values):
        raise ValueError(f"--{name} names a number twice: {text}")
    return values


def _csv(rows):
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


# ---- prepare, gradcheck --------------------------------------------------------------------------


def _prepare(args):
    corpus = _load_corpus(args, args.out)
    print(
        f"{len(corpus.train):,} training and {len(corpus.validation):,} validation tokens, ", end=""
    )
    print(
        f"{corpus.tokenizer.vocab_size} different, in {args.out}/; train on them with --data"
        f" {args.out}"
    )
    return 0


def _gradcheck(args):
    from . import backend, checks
    from .experiments import selfcheck

    _check_out_file(args)
    xp, where = backend.select_device(args.device), Path(checks.__file__).parent
    print(
        f"Numerical derivatives against the backward functions of {where}, float64, on"
        f" {backend.device_name(xp)}\n"
    )
    rows = []
    for title, report in selfcheck.check_everything(args.device, args.seed):
        print(f"{title}\n{report}\n", flush=True)
        rows += [{"check": title, **vars(row)} for row in report.rows]
    if args.out:
        _write_lines(args.out, rows)
    wrong = sum(not row["ok"] for row in rows)
    worst = max(row["relative_error"] for row in rows)
    verdict = f"{wrong} of {len(rows)} tensors WRONG" if wrong else f"all {len(rows)} tensors OK"
    print(f"{verdict}; largest relative error {worst:.1e}, allowed {1e-6:.0e}")
    return 1 if wrong else 0
