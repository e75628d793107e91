"""A program that uses every name users may rely on, with their types written out: `mypy --strict`
has nothing to say about it. It is read by tests/test_types.py, and runs.
"""

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import minimixce as mm
from minimixce import text
from minimixce.checks import Report
from minimixce.kv import KV
from minimixce.storage.shapes import Array, Grads, LossAndGrads
from minimixce.testing import assert_gradients, explain


def models(folder: Path) -> mm.GPT:
    config = mm.GPTConfig(6, block_size=8, n_layer=1, n_head=2, n_embd=4, dropout=0.1)
    model = mm.GPT(config, seed=0, device="cpu")
    size: int = model.num_params
    blocks: int = model.config.block_size
    tokens = np.array([[1, 2, 3, 0]])
    logits, cache = model.forward(tokens, training=True, rng=mm.backend.rng(0, np))
    grads: Grads = model.backward(np.ones_like(logits), cache)
    logits, cache = model.forward(np.eye(6, dtype="float32")[tokens])
    grads = model.backward(np.ones_like(logits), cache, grads)
    rng = mm.backend.rng(1, np)
    loss, grads = model.loss_and_grads(tokens[:, :-1], tokens[:, 1:], mm.objectives.mle, rng, grads)
    for rows, logits in model.logits_in_chunks(tokens):
        print(tokens[rows].shape, logits.shape, loss)
    present: list[KV]
    logits, present, gpt_cache = model.extend_forward(tokens[:, :2], None)
    logits, present, gpt_cache = model.extend_forward(tokens[:, 2:], present)
    dx, dpast, grads = model.extend_backward(np.ones_like(logits), None, gpt_cache)
    assert dx is None
    assert dpast is not None
    wider: Array = model.generate(tokens, 3, 0.8, top_k=3, top_p=0.9, stop=0, seed=1)
    steps: list[Array] = list(model.stream(tokens, 2, temperature=0.0))
    model.save(folder / "gpt", overwrite=True, boundary=0)
    model = mm.GPT.load(folder / "gpt", device="cpu", dtype="float64")
    neural: mm.Bigram = mm.Bigram(mm.BigramConfig(6, n_embd=3, n_hidden=4), device="cpu")
    neural.save(folder / "bigram")
    neural = mm.Bigram.load(folder / "bigram", device="cpu")
    table: mm.TableBigram = mm.TableBigram(6, device="cpu")
    params: dict[str, Array] = table.params
    print(size, blocks, wider.shape, len(steps), neural.num_params, sorted(params))
    return model


def losses(model: mm.GPT, inputs: Array, targets: Array) -> float:
    logits, _ = model.forward(inputs)
    loss, dlogits = mm.objectives.mixce(logits, targets, eta=0.5)
    loss, dlogits = mm.objectives.mle(logits, targets, normalizer=10)
    loss, dlogits = mm.objectives.mixce_surrogate(logits, targets, eta=0.1)
    loss, dlogits = mm.objectives.tailr(logits, targets, gamma=0.1, reduction="none")
    loss, dlogits = mm.objectives.emo(logits, targets, cost_embedding=model.params["wte.weight"])
    chosen = mm.objectives.token_loss("mixce", eta=0.3)
    loss, dlogits = chosen(logits, targets)
    names: list[str] = mm.objectives.names("tokens")
    label: str = mm.objectives.label("mixce", 0.5)
    row: mm.objectives.Objective = mm.objectives.OBJECTIVES["mixce"]
    print(names, label, row.over, dlogits.shape, mm.objectives.exact_names())
    shares: tuple[tuple[float, str], ...] = mm.objectives.parts("two_kls", 0.5)
    print(shares, mm.objectives.information_used("two_kls", 0.5))
    mm.objectives.check_objective_ratio("js", 0.5)

    def f_and_w(log_q: Array, ratio: float, xp: Any) -> tuple[Array, Array]:
        return -ratio * log_q, xp.full_like(log_q, ratio)

    loss, dlogits = mm.objectives.token_objective(logits, targets, f_and_w, 0.5)
    return float(loss)


def training(model: mm.GPT, folder: Path) -> None:
    batches = [(np.array([[1, 2, 3]]), np.array([[2, 3, 0]]))]

    def step(model: mm.GPT, batch: tuple[Array, Array]) -> LossAndGrads:
        inputs, targets = batch
        logits, cache = model.forward(inputs)
        loss, dlogits = mm.objectives.mle(logits, targets)
        return loss, model.backward(dlogits, cache)

    optimizer = mm.AdamW(model.params, 1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    _, grads = step(model, batches[0])
    norm: Array = mm.optim.clip_grads(grads, 1.0)
    optimizer.step(grads, lr=mm.optim.warmup_cosine(3, 1e-3, warmup=2, total=10))
    mm.optim.Adam(model.params, 1e-3, l2=0.1).step(grads)
    loss = functools.partial(mm.objectives.mixce, eta=0.5)
    found: list[dict[str, Any]] = mm.fit(model, batches, loss, lr=1e-3, progress=False)
    mm.fit(model, batches, step=step, steps=1, folder=folder / "run", progress=False)
    print(float(norm), found)


def world_of(kind: str) -> mm.worlds.World:
    if kind == "markov":
        return mm.worlds.markov([[0.5, 0.5], [0.5, 0.5]], words=["", "a"], name="two")
    if kind == "random":
        return mm.worlds.random_markov(4, 0.5, seed=0)
    if kind == "ngram":
        return mm.worlds.ngram([[1, 2], [2, 1]], 2, 3)
    if kind == "text":
        return mm.worlds.from_text("a cat. a dog.", 4)
    return mm.worlds.stories() if kind == "stories" else mm.worlds.agreement()


def worlds(folder: Path) -> mm.worlds.World:
    for kind in ("markov", "random", "ngram", "text", "stories"):
        print(world_of(kind))
    world = world_of("agreement").with_floor(-60.0)
    rows = world.sample(5, max_len=4, seed=0)
    log_prob: Array = world.log_prob(rows, floored=True)
    of_tokens: Array = world.token_log_probs(rows)
    inputs, targets = world.batch(rows)
    numbers: tuple[float, float, float] = (
        world.entropy(4),
        world.expected_length(),
        world.validity(rows),
    )
    states, visits = world.states(rows), world.visits(4)
    words: Sequence[str] = world.words
    line: str = world.text(rows[0])
    again: Array = world.rows([line], 4)
    world.save(folder / "world.json")
    shapes = (world.probs.shape, world.next_state.shape, world.reachable.shape)
    print(log_prob, of_tokens, inputs, targets, numbers, states, visits, words, again, shapes)
    print(world.describe(), world.log_p_floor, world.is_markov, world.tables(np).log_p.shape)
    return mm.worlds.load(folder / "world.json")


def exact_sums(model: mm.GPT, world: mm.worlds.World) -> None:
    entropies: mm.exact.CrossEntropies = mm.exact.cross_entropies(model, world, 3)
    loss, grads = mm.exact.loss_and_grads(
        model, world, 3, objective="mixce_star", eta=0.5, method="list", max_sequences=1000
    )
    loss, grads = mm.exact.policy_gradient(model, world, 3, objective="reverse_kl")
    everything: dict[str, Array] = mm.exact.measure(model, world, 3, progress=False)
    log_q: Array = mm.exact.log_prob(model, world.sample(3, 3))
    markov = world_of("random")
    q_logits: NDArray[np.float64] = np.zeros((4, 4))
    loss, dlogits = mm.exact.bigram_loss_and_grads(
        q_logits, markov, objective="two_kls", eta=0.5, counts=mm.exact.bigram_counts(markov)
    )
    every_row: Array = mm.exact.sequences(4, 3, start=0, stop=5)
    count: int = mm.exact.num_sequences(4, 3)
    shards: int = mm.exact.default_shards(4, 3, threads=2)
    print(float(entropies.forward), float(loss), sorted(grads), sorted(everything), log_q, dlogits)
    print(every_row, count, shards)


def estimates(model: mm.GPT, world: mm.worlds.World) -> None:
    rows = mm.estimators.sample(model, 4, 3, seed=0)
    loss, grads = mm.estimators.rloo(model, world, rows, objective="reverse_ce", eta=0.5)
    mm.estimators.score_sequences(model, world, rows, "reverse_ce", 0.5)
    loss, grads = mm.estimators.reinforce(model, world, rows, objective="reverse_ce")
    loss, grads = mm.estimators.reward_to_go(model, world, rows)
    loss, grads = mm.estimators.k1(model, world, rows)
    loss, grads = mm.estimators.k2(model, world, rows, per="token")
    loss, grads = mm.estimators.k3(model, world, rows)
    loss, grads = mm.estimators.importance(model, world, world.sample(4, 3))
    scored: mm.estimators.Scored = mm.estimators.score(model, world, rows, "reverse_kl")
    grads = mm.estimators.pull_back(model, scored, scored.cost)
    noise = mm.estimators.gumbel_noise(4, 3, 6, seed=0)
    loss, grads = mm.estimators.gumbel(model, world, noise, tau=0.5)
    found = mm.estimators.study(model, world, 3, sizes=(2,), repeats=2, taus=(1.0,), seed=0)
    print(float(loss), sorted(grads), mm.estimators.format_study(found))


def checks() -> None:
    x = np.ones((2, 3))
    weight, bias = np.ones((3, 2)), np.zeros(2)
    forward, backward = mm.layers.linear_forward, mm.layers.linear_backward
    report: Report = mm.gradcheck(forward, backward, [x, weight, bias], names=["x", "w", "b"])
    numbers: tuple[float, bool, str] = (report.max_relative_error, report.ok, report.worst.name)
    report = assert_gradients(forward, backward, x, weight, bias, tolerance=1e-6)
    words: list[str] = [explain(row) for row in report.rows]
    print(numbers, words, report.to_markdown(), report.rows[0].as_dict())


def layers() -> None:
    qkv = np.ones((1, 2, 12))
    y, attention = mm.layers.attention_forward(qkv, 2, dropout=0.0)
    dqkv, _ = mm.layers.attention_backward(y, attention)
    y, embedding = mm.layers.embedding_forward(np.array([[1, 2]]), np.ones((3, 4)))
    _, dweight = mm.layers.embedding_backward(y, embedding)
    y, position = mm.layers.position_forward(y, np.ones((5, 4)), start=1)
    y, dweight = mm.layers.position_backward(y, position)
    y, unembedding = mm.layers.unembedding_forward(y, np.ones((3, 4)))
    y, dweight = mm.layers.unembedding_backward(y, unembedding)
    y, norm = mm.layers.layer_norm_forward(y, np.ones(4), np.zeros(4), epsilon=1e-5)
    y, dweight, dbias = mm.layers.layer_norm_backward(y, norm)
    y, gelu = mm.layers.gelu_forward(y)
    y = mm.layers.gelu_backward(y, gelu)
    y, relu = mm.layers.relu_forward(y)
    y = mm.layers.relu_backward(y, relu)
    y, softmax = mm.layers.softmax_forward(y, axis=-1)
    y = mm.layers.softmax_backward(y, softmax)
    y, dropped = mm.layers.dropout_forward(y, 0.5, mm.backend.rng(0, np))
    y = mm.layers.dropout_backward(y, dropped)
    print(dqkv.sum(), dweight, dbias, y.shape)


def texts(folder: Path) -> None:
    file = folder / "story.txt"
    file.write_text("The cat sat on the mat.\n" * 20)
    corpus: text.Corpus = text.load_corpus([file], tokenizer="character", held_out=0.1)
    batches = text.random_batches(corpus.train, 2, 4, seed=0)
    inputs, targets = batches[0]
    small = mm.Bigram(mm.BigramConfig(corpus.tokenizer.vocab_size), device="cpu")
    held_out = text.consecutive_batches(corpus.validation, 2, 4)
    mm.fit(small, batches, steps=1, validation=held_out, progress=False)
    inputs, targets = text.consecutive_batches(corpus.validation, 2, 4)[0]
    text.save_tokenizer(corpus.tokenizer, folder)
    tokenizer = text.load_tokenizer(folder)
    print(tokenizer.decode(tokenizer.encode("cat")), tokenizer.vocab_size, inputs, targets)
    print(text.ByteTokenizer().encode("é"), text.WordTokenizer(["a"]).fields(), text.BOUNDARY)
    bpe: text.SubwordTokenizer = text.learn_bpe(["the cat, the mat"], vocab_size=260)
    print(text.encode_prompt(bpe, "the cat"), bpe.boundary, bpe.decode(bpe.encode("cat")))
    print(len(text.load_corpus(file, tokenizer=bpe).train))


def devices() -> None:
    xp = mm.backend.select_device("cpu")
    host: Array = mm.backend.to_numpy(xp.zeros(3))
    print(mm.backend.array_module(host).__name__, mm.backend.device_name(xp), mm.__version__)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, world = models(folder), worlds(folder)
        inputs, targets = world.batch(world.sample(5, 4))
        print(losses(model, inputs, targets))
        training(model, folder)
        exact_sums(model, world)
        estimates(model, world)
        texts(folder)
    checks()
    layers()
    devices()


if __name__ == "__main__":
    main()
