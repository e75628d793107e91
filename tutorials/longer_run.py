"""The longer runs that lesson 8 draws: MLE and MixCE at several η and seeds, on a world and on Python's documentation, and MLE
decoded at several temperatures and top-p, among them the temperature that matches each MixCE model's entropy.

    OMP_NUM_THREADS=1 python tutorials/longer_run.py stories          # 9 minutes of one core
    OMP_NUM_THREADS=1 python tutorials/longer_run.py stories_large    # 10 minutes
    OMP_NUM_THREADS=1 python tutorials/longer_run.py docs             # 18 minutes

writes tutorials/results/longer_run_stories.json, …_stories_large.json or …_docs.json: one object for every model and way to
decode it, with what was measured, and the settings. Trained models are kept in runs/, so a run that was stopped goes on where
it was; after a change of SETTINGS, delete them.
"""

import argparse
import functools
import json
import math
import platform
import sys
from pathlib import Path

import numpy as np

import minimixce as mm
from minimixce import backend, text
from minimixce.experiments import measures, on_worlds

RESULTS = Path(__file__).parent / "results"
TEMPERATURES, TOP_P = (0.9, 0.8, 0.7, 0.6, 0.5), (0.98, 0.95, 0.9, 0.8, 0.7)
_SENTENCES = {"batch_size": 64, "sentences": {"train": 50_000, "held_out": 5_000, "sampled": 5_000}}
SETTINGS = {
    "stories": {  # a model that is too small for its world
        "etas": (1.0, 0.7, 0.5, 0.3, 0.1, 0.03, 0.01),
        "seeds": (0, 1, 2, 3, 4),
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 8},
        "fit": {"steps": 4000, "lr": 6e-3, "warmup": 100},
        **_SENTENCES,
    },
    "stories_large": {  # one that is large enough
        "etas": (1.0, 0.5, 0.1),
        "seeds": (0, 1, 2),
        "model": {"n_layer": 2, "n_head": 2, "n_embd": 64},
        "fit": {"steps": 3000, "lr": 3e-3, "warmup": 100},
        **_SENTENCES,
    },
    "docs": {
        "etas": (1.0, 0.5, 0.2, 0.1),
        "seeds": (0, 1, 2),
        "model": {"block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 128},
        "fit": {"steps": 2200, "lr": 4e-3, "warmup": 100},
        "batch_size": 12,
        "texts": {"sampled": 40, "tokens": 500},
    },
}


def decoded_log_probs(logits, temperature=1.0, top_p=None):
    """log Q(·|h) of what is decoded: logits (…,V) over temperature, and all but the nucleus of probability top_p −inf."""
    log_q = mm.logprob.log_softmax(logits / temperature)
    if top_p is not None:
        kept = mm.model.nucleus(np.exp(log_q).reshape(-1, log_q.shape[-1]), top_p)  # the tokens that generate draws from
        outside = ~kept.reshape(log_q.shape)
        log_q = np.where(outside, -math.inf, mm.logprob.log_softmax(np.where(outside, -math.inf, log_q)))
    return log_q


def fit_to_targets(model, batches, temperature=1.0, top_p=None):
    """On the targets of `batches` -> perplexity, entropy of Q(·|h) in nats per token, and the share of targets that decoding
    can never produce (where there is one, perplexity is infinite)."""
    nats, entropy, outside, count = 0.0, 0.0, 0, 0
    for inputs, targets in batches:
        log_q = decoded_log_probs(model.forward(inputs)[0].astype("float64"), temperature, top_p)
        there = targets >= 0
        of_targets = np.take_along_axis(log_q, np.where(there, targets, 0)[..., None], axis=-1)[..., 0][there]
        q = np.exp(log_q)
        nats -= float(of_targets.sum())
        entropy -= float((q * np.where(q > 0, log_q, 0)).sum(axis=-1)[there].sum())
        outside, count = outside + int((of_targets == -math.inf).sum()), count + int(there.sum())
    return {"perplexity": measures.perplexity(nats / count), "entropy": entropy / count, "outside": outside / count}


def world_rows(tokens):
    """Generated ids (n,T), from the boundary on, as rows of a world (n,T+1): the last column forced, −1 after the end."""
    rows = np.concatenate([tokens, np.zeros((len(tokens), 1), tokens.dtype)], axis=1)
    return np.where(np.cumsum(rows == 0, axis=1) > 2, -1, rows)


def run_stories(name, settings):
    """Measurements on stories(), whose P is known: whether a sampled sentence is possible is looked up."""
    world, sizes = mm.worlds.stories(), settings["sentences"]
    max_len = on_worlds.horizon(world, 64)
    rows = {name: world.sample(sizes[name], max_len, seed) for seed, name in enumerate(("train", "held_out"))}
    seen = {row.tobytes() for row in rows["train"]}
    held_out = on_worlds.RowBatches(world, rows["held_out"], 500)

    def measure(model, temperature=1.0, top_p=None, seed=0):
        tokens = model.generate(np.zeros((sizes["sampled"], 1), int), max_len - 1, temperature, None, top_p, 0, seed)
        sampled = world_rows(tokens)
        log_p = world.log_prob(sampled)
        valid = log_p > -math.inf
        return fit_to_targets(model, held_out, temperature, top_p) | {
            "validity": float(valid.mean()),
            "different": len({row.tobytes() for row in sampled}) / len(sampled),
            "new": float(np.mean([row.tobytes() not in seen for row in sampled[valid]])) if valid.any() else math.nan,
            "nats_under_p": float(-log_p[valid].mean()) if valid.any() else math.nan,
            "length": float((sampled >= 0).sum(axis=1).mean() - 1),
        }

    def new(seed):
        config = mm.GPTConfig(world.vocab_size, block_size=max_len - 1, **settings["model"])
        return mm.GPT(config, seed, "cpu"), on_worlds.RowBatches(world, rows["train"], settings["batch_size"], seed)

    targets = world.batch(rows["held_out"])[1] >= 0
    p = {
        "validity": 1.0,
        "perplexity": math.exp(-world.log_prob(rows["held_out"]).sum() / targets.sum()),
        "entropy": world.entropy(max_len) / (world.expected_length(max_len)),
        "length": float((rows["held_out"] >= 0).sum(axis=1).mean() - 1),
        "nats_under_p": float(-world.log_prob(rows["held_out"]).mean()),
        "different": len({row.tobytes() for row in rows["held_out"]}) / len(rows["held_out"]),
        "new": float(np.mean([row.tobytes() not in seen for row in rows["held_out"]])),
    }
    return rows_of(name, settings, new, measure, held_out), p


def run_docs(name, settings):
    """The same on Python's documentation, where only the words of samples can be checked."""
    corpus, size = text.load_corpus(), settings["texts"]
    vocabulary = measures.vocabulary_of(corpus)
    block_size = settings["model"]["block_size"]
    held_out = text.consecutive_batches(corpus.validation, 32, block_size)

    def measure(model, temperature=1.0, top_p=None, seed=0):
        prompt = np.full((size["sampled"], 1), corpus.tokenizer.boundary)
        sampled = model.generate(prompt, size["tokens"], temperature, None, top_p, seed=seed)[:, 1:]
        measured = measures.measure_texts(sampled, corpus.tokenizer, vocabulary)
        return fit_to_targets(model, held_out, temperature, top_p) | measured

    def new(seed):
        model = mm.GPT(mm.GPTConfig(corpus.tokenizer.vocab_size, **settings["model"]), seed, "cpu")
        return model, text.random_batches(corpus.train, settings["batch_size"], block_size, seed)

    texts = measures.held_out_texts(corpus.validation, size["sampled"], size["tokens"])
    return rows_of(name, settings, new, measure, held_out), measures.measure_texts(texts, corpus.tokenizer, vocabulary)


def rows_of(name, settings, new, measure, held_out):
    """Train all models, decode MLE in every way -> list of dicts: eta, seed, temperature, top_p, decoding and measures."""
    rows = []
    for seed in settings["seeds"]:
        models = {
            eta: trained(Path("runs") / f"{name}_eta{eta:g}_seed{seed}", new, eta, seed, settings) for eta in settings["etas"]
        }
        entropies = {}
        for eta, model in models.items():
            rows.append(row(measure, model, "as trained", eta, seed))
            entropies[eta] = rows[-1]["entropy"]
        for temperature in TEMPERATURES:
            rows.append(row(measure, models[1.0], "temperature", 1.0, seed, temperature))
        for top_p in TOP_P:
            rows.append(row(measure, models[1.0], "top-p", 1.0, seed, 1.0, top_p))
        for eta in settings["etas"][1:]:
            temperature = measures.matching_temperature(models[1.0], list(held_out), entropies[eta])
            rows.append(row(measure, models[1.0], f"entropy of η = {eta:g}", 1.0, seed, temperature))
    return rows


def trained(folder, new, eta, seed, settings):
    """The model of one run, which goes on where its folder is, and there makes no step if it has made all."""
    model, batches = new(seed)
    objective = functools.partial(mm.objectives.mixce, eta=eta)
    mm.fit(model, batches, objective, **settings["fit"], seed=seed, folder=folder, resume=(folder / "config.json").exists())
    return model


def row(measure, model, decoding, eta, seed, temperature=1.0, top_p=None):
    found = {"decoding": decoding, "eta": eta, "seed": seed, "temperature": temperature, "top_p": top_p}
    found |= measure(model, temperature, top_p, seed)
    print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in found.items()), flush=True)
    return found


def main():
    sys.stdout.reconfigure(errors="replace")  # a terminal without η prints a question mark
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", choices=SETTINGS)
    name = parser.parse_args().data
    backend.reuse_freed_memory()
    rows, p = (run_docs if name == "docs" else run_stories)(name, SETTINGS[name])
    versions = {"python": platform.python_version(), "numpy": np.__version__, "minimixce": mm.__version__}
    command = f"python tutorials/longer_run.py {name}"
    result = {"command": command, "versions": versions, "settings": SETTINGS[name], "p": p, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"longer_run_{name}.json"
    finite = json.loads(json.dumps(result), parse_constant=lambda _: None)  # JSON knows no infinity: what is infinite is null
    path.write_text(json.dumps(finite, ensure_ascii=False, allow_nan=False, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
