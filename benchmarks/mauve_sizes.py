"""How MAUVE moves with the number of texts and with what the features are: python
benchmarks/mauve_sizes.py [--out FILE.csv]

A small GPT with a BPE learns half of the documentation in every CPython and goes on from stretches
of the other half. Sets of its continuations, and of other stretches that people wrote, are compared
with the same number of stretches by mauve-text (the extra "mauve"), by features of three models:
the one that wrote, a smaller one trained for a quarter of the steps, and one with random weights.
The numbers repeat on one machine; nothing is timed.
"""

import argparse

import numpy as np

import minimixce as mm
from minimixce import text
from minimixce.experiments import continuations, embeddings, measures
from minimixce.experiments.mauve import check_library, mauve
from report import print_machine, print_row, write_csv

TOKENS, PROMPT = 30, 5
SIZES = (25, 50, 100, 200, 400, 800, 1200)
SEEDS = (0, 1, 2)
TOP_P = 0.7


def trained(corpus, n_layer, n_embd, steps):
    """A GPT after `steps` steps of maximum likelihood on the training half."""
    config = mm.GPTConfig(corpus.tokenizer.vocab_size, 32, n_layer, 4, n_embd)
    model = mm.GPT(config, seed=0, device="cpu")
    if steps:
        batches = text.random_batches(corpus.train, batch_size=32, block_size=32)
        options = {"lr": 3e-3, "eval_every": steps, "progress": False}
        mm.fit(model, batches, mm.objectives.mle, steps=steps, **options)
    return model


def strings_of(texts, tokenizer):
    return measures.TextEvidence(texts, tokenizer, set()).decoded()


def shuffled(texts, seed):
    order = np.random.default_rng(seed).permutation(len(texts))
    return [texts[i] for i in order]


def sets_of_texts(writer, corpus, seed):
    """Human texts to compare with, and what is compared with them, {label: texts}, shuffled."""
    boundary = corpus.tokenizer.boundary
    hands = continuations.deal(corpus.validation, boundary, max(SIZES), TOKENS, PROMPT, whole=False)
    human, others = shuffled(hands.measured, seed), shuffled(hands.others, seed)
    found = {"human": others}
    for label, top_p in (("unbiased", None), ("top-p", TOP_P)):
        found[label] = continuations.write_on(
            writer, human, hands, boundary, TOKENS, top_p=top_p, seed=seed
        )
    return human, found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", help="also write the rows to FILE", metavar="FILE.csv")
    parser.add_argument("--steps", type=int, default=1200)
    arguments = parser.parse_args()
    check_library()
    print_machine(np, note=f"texts of {TOKENS} tokens, {PROMPT} of them prompt; {len(SEEDS)} seeds")
    corpus = text.load_corpus(tokenizer="bpe", vocab_size=600, held_out=0.5)
    tokenizer = corpus.tokenizer
    writer = trained(corpus, 2, 64, arguments.steps)
    judges = {
        "the writer": writer,
        "a smaller model": trained(corpus, 1, 16, arguments.steps // 4),
        "random weights": trained(corpus, 2, 64, 0),
    }
    batches = text.consecutive_batches(corpus.validation, 64, 32)
    print_row({"perplexity": measures.fit_to_text(writer, batches)[0]})
    values = {}
    for seed in SEEDS:
        human, found = sets_of_texts(writer, corpus, seed)
        for name, judge in judges.items():
            features = {
                label: embeddings.last_states(judge, tokenizer, strings_of(texts, tokenizer))
                for label, texts in (found | {"reference": human}).items()
            }
            for size in (n for n in SIZES if n <= len(human)):
                for label in found:
                    value = mauve(features["reference"][:size], features[label][:size])
                    values.setdefault((name, size, label), []).append(value)
    rows = []
    for name in judges:
        for size in SIZES:
            row = {"features": name, "texts": size}
            for label in ("human", "unbiased", "top-p"):
                of_label = values.get((name, size, label))
                if of_label:
                    mean, deviation = measures.mean_and_deviation(of_label)
                    row |= {label: round(mean, 3), f"{label} ±": round(deviation, 3)}
            if len(row) > 2:
                rows.append(row)
                print_row(row)
    if arguments.out:
        write_csv(arguments.out, rows)


if __name__ == "__main__":
    main()
