"""Training and comparing on worlds: batches, sequence objectives, measures, and the commands that
use them.
"""

import csv
import json
import math

import numpy as np
import pytest
import strict_device as sd
from helpers import assert_close, assert_same_grads, random_gpt

import minimixce as mm
from minimixce import cli, estimators, exact, text, worlds
from minimixce.experiments import on_worlds, world_measures
from minimixce.storage.files import write_atomically

SMALL = (
    "--block-size 6 --n-layer 1 --n-embd 16 --n-head 2 --steps 20 --eval-every 10 --warmup 2"
    " --quiet --device cpu"
)


def run(*words):
    return cli.main([word for part in words for word in str(part).split()])


def agreement_gpt(seed=1):
    return random_gpt(seed, 6, 3)


# ---- data ----------------------------------------------------------------------------------------


def test_a_world_s_corpus_is_its_samples_twice_over():
    corpus = on_worlds.load_corpus("agreement", 200, None, 9)
    assert corpus.max_len == 5  # the longest has 4, and its end is drawn, not forced
    assert (corpus.rows.shape, corpus.held_out.shape) == ((200, 6), (20, 6))
    lines = (
        " ".join(corpus.tokenizer.decode([t]) or "|" for t in corpus.train).strip("| ").split(" | ")
    )
    assert lines == [corpus.world.text(row) for row in corpus.rows]
    again = on_worlds.load_corpus("agreement", 200, None, 9)
    assert (
        again.fingerprint()
        == corpus.fingerprint()
        != on_worlds.load_corpus("agreement", 201, None, 9).fingerprint()
    )


def test_measures_and_data_share_no_random_numbers(monkeypatch):
    corpus = on_worlds.load_corpus("stories", 2000, 12, 13)
    drawn, sample = [], worlds.World.sample
    monkeypatch.setattr(
        worlds.World, "sample", lambda *args: drawn.append(sample(*args)) or drawn[-1]
    )
    model = random_gpt(1, 63, 12, n_layer=1)
    for seed in (0, 1):
        world_measures.measure_on_world(model, corpus.world, 12, samples=200, seed=seed)
    for a, b in (
        (drawn[0], corpus.rows),
        (drawn[1], corpus.rows),
        (drawn[0], corpus.held_out),
        (drawn[1], drawn[0]),
    ):
        assert (a == b[:200]).all(axis=1).mean() < 0.2


def test_what_is_held_out_is_not_drawn_again_from_the_training_rows():
    corpus = on_worlds.load_corpus("stories", 2000, 12, 13)
    assert len(corpus.held_out) == 200
    # from the same random numbers the first words would all be the same
    first_word = corpus.rows[:200, 1]
    assert (first_word == corpus.held_out[:, 1]).mean() < 0.6


def test_a_changed_world_is_another_corpus():
    corpus = on_worlds.load_corpus("agreement", 200, None, 9)
    before = corpus.fingerprint()
    corpus.world = corpus.world.with_floor(-3.0)
    assert corpus.fingerprint() != before


def test_random_row_batches_depend_on_seed_and_number_alone_and_ordered_ones_cover_all():
    world = worlds.agreement()
    rows = world.sample(50, 4, seed=0)
    batches, again, other = (on_worlds.RowBatches(world, rows, 8, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for k in (5, 3) for a, b in zip(batches[k], again[k]))
    assert not np.array_equal(batches[3][1], other[3][1])
    inputs, targets = batches[0]
    assert (inputs.shape, targets.shape) == ((8, 3), (8, 3))  # the forced boundary is no target
    ordered = list(on_worlds.RowBatches(world, rows, 8))
    assert len(ordered) == 7
    np.testing.assert_array_equal(
        np.concatenate([targets for _, targets in ordered]), world.batch(rows)[1]
    )


def test_words_are_tokens():
    tokenizer = text.WordTokenizer(["cat", "sat"])
    assert tokenizer.vocab_size == 3
    assert tokenizer.encode("sat cat  sat").tolist() == [2, 1, 2]
    assert tokenizer.decode([0, 2, 1, 0]) == "sat cat"
    with pytest.raises(ValueError, match="word 'dog' is not in"):
        tokenizer.encode("cat dog")


# ---- objectives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", on_worlds.SEQUENCE_OBJECTIVES)
def test_on_every_sequence_in_proportion_a_step_is_the_exact_objective(name):
    """A batch that holds each of agreement's four sentences as often as P says makes even the
    sampled part exact.
    """
    world, model = worlds.agreement(), agreement_gpt()
    space = exact.sequences(6, 4)
    rows = np.repeat(space, np.rint(10 * np.exp(world.log_prob(space))).astype(int), axis=0)
    assert len(rows) == 10
    loss, grads = on_worlds.sequence_step(name, world, 4, eta=0.3)(model, world.batch(rows))
    expected_loss, expected = exact.loss_and_grads(model, world, 4, objective=name, eta=0.3)
    assert_close(loss, expected_loss, 1e-12)
    assert_same_grads({n: grads[n] for n in model.params}, expected, 1e-10)


def test_where_the_space_is_too_large_the_reverse_part_is_rloo_drawn_by_seed_and_number():
    world, model = worlds.stories(), random_gpt(1, 63, 11)
    batches = on_worlds.RowBatches(world, world.sample(50, 12, seed=0), 4, 0)
    assert not on_worlds.is_listed(world, 12)
    step = on_worlds.sequence_step("reverse_ce", world, 12, samples=8, seed=3)
    (loss, grads), (again, same), (other, _) = (
        step(model, batches[0], number=k) for k in (0, 0, 1)
    )
    assert float(loss) == float(again) != float(other)
    another_seed = on_worlds.sequence_step("reverse_ce", world, 12, samples=8, seed=4)
    assert float(another_seed(model, batches[0], number=0)[0]) not in (float(loss), float(other))
    assert_same_grads(grads, same, 0)
    forward, _ = on_worlds.sequence_step("forward_ce", world, 12)(model, batches[0])
    mixed, _ = on_worlds.sequence_step("mixce_star", world, 12, eta=0.25, samples=8, seed=3)(
        model, batches[0]
    )
    assert float(mixed) == pytest.approx(0.25 * float(forward) + 0.75 * float(loss), rel=1e-12)
    with pytest.raises(
        ValueError, match="overlap is exact only, and horizon 12 has too many sequences"
    ):
        on_worlds.sequence_step("overlap", world, 12)


@pytest.mark.parametrize("name", ["two_kls", "reverse_ce", "mixce_star", "js"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_step_on_a_device_never_waits(name, listed, monkeypatch):
    world, model = worlds.agreement(), agreement_gpt()
    if not listed:
        monkeypatch.setattr(on_worlds, "is_listed", lambda *_: False)
    inputs, targets = world.batch(world.sample(6, 4, seed=0))
    step = on_worlds.sequence_step(name, world, 4, samples=4)
    expected_loss, expected = step(model, (inputs, targets))
    model.params = {key: sd.asarray(p) for key, p in model.params.items()}
    with sd.no_host_reads():
        loss, grads = step(model, (sd.asarray(inputs), sd.asarray(targets)))
    assert type(loss) is sd.ndarray
    if listed:  # samples of another generator are other samples
        assert_close(loss.get(), expected_loss, 1e-12)
        for key, g in expected.items():
            assert_close(grads[key].get(), g, 1e-10, key)


def test_options_of_sequence_steps_are_checked():
    for options, message in (
        ({"eta": 2}, "eta must be"),
        ({"samples": 1}, "samples must be"),
        ({"name": "mle"}, "objective must"),
    ):
        with pytest.raises(ValueError, match=message):
            on_worlds.sequence_step(
                **({"name": "two_kls", "world": worlds.agreement(), "max_len": 4} | options)
            )
    with pytest.raises(ValueError, match="above 0 and below 1 for js"):
        on_worlds.sequence_step("js", worlds.agreement(), 4, eta=1)


def test_two_kls_repairs_what_mle_leaves():
    world = worlds.agreement()
    batches = on_worlds.RowBatches(world, world.sample(2000, 4, seed=0), 32, 0)
    validity = {}
    for name, how in (
        ("mle", {"objective": mm.objectives.mle}),
        ("two_kls", {"step": on_worlds.sequence_step("two_kls", world, 4)}),
    ):
        model = mm.TableBigram(6)
        mm.fit(
            model,
            batches,
            **how,
            steps=300,
            lr=0.1,
            weight_decay=0.0,
            max_grad_norm=10.0,
            progress=False,
        )
        validity[name] = float(exact.measure(model, world, 4)["validity"])
    assert abs(validity["mle"] - 0.76) < 0.03  # a bigram cannot do better by likelihood
    assert validity["two_kls"] > 0.95


# ---- measures ------------------------------------------------------------------------------------


def test_measures_list_far_more_sequences_than_a_step_does():
    world, model = worlds.agreement(), mm.TableBigram(6)
    assert on_worlds.MAX_LISTED < exact.num_sequences(6, 8) <= world_measures.MAX_LISTED
    assert not on_worlds.is_listed(world, 8)
    measured = world_measures.measure_on_world(model, world, 8, samples=10)
    assert measured["exact"]
    assert measured["validity"] == float(exact.measure(model, world, 8)["validity"])


def test_measures_are_exact_where_they_can_be_and_agree_with_samples(monkeypatch):
    world, model = worlds.agreement(), mm.TableBigram(6)
    model.params["logits"] = np.random.default_rng(0).standard_normal((6, 6))
    listed = world_measures.measure_on_world(model, world, 4)
    assert listed["exact"]
    assert listed["validity"] == float(exact.measure(model, world, 4)["validity"])
    monkeypatch.setattr(world_measures, "MAX_LISTED", 0)
    sampled = world_measures.measure_on_world(model, world, 4, samples=20_000, seed=1)
    assert not sampled["exact"]
    for name in world_measures.WORLD_MEASURES:
        assert abs(sampled[name] - listed[name]) < 4.5 * sampled[f"{name}_se"], name
    finite = sampled["reverse_ce_finite"] - world.log_p_floor * sampled["impossible_tokens"]
    assert sampled["reverse_ce"] == pytest.approx(finite, rel=1e-9)
    lines = world_measures.describe_world_measures(sampled, world)
    assert len(lines) == 8
    assert "floored at 69.08 nats" in lines[4]


# ---- commands ------------------------------------------------------------------------------------


def test_train_eval_and_sample_on_a_world(tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        run(f"train --world agreement --sequences 500 --objective two_kls --out {out}", SMALL) == 0
    )
    assert json.loads((out / "run.json").read_text())["world"] == "agreement"
    capsys.readouterr()
    assert run(f"eval {out} --device cpu --out {tmp_path / 'eval.json'}") == 0
    row = json.loads((tmp_path / "eval.json").read_text())
    world = worlds.agreement()
    expected = exact.measure(mm.GPT.load(out, "cpu"), world, 5)
    assert row["validity"] == float(expected["validity"])
    assert f"{float(expected['reverse_ce']):.5f}" in capsys.readouterr().out
    assert run(f"sample {out} --device cpu --prompt cat --count 3") == 0
    for sentence in capsys.readouterr().out.split("\n\n"):
        assert sentence.split()[0] == "cat"
        assert set(sentence.split()) <= set(world.words)


@pytest.mark.parametrize("stop", [3, 12])
def test_a_run_with_rloo_resumes_bit_for_bit(tmp_path, stop):
    world = worlds.stories()
    batches = on_worlds.RowBatches(world, world.sample(100, 6, seed=0), 4, 0)

    def fit(folder, resume=False, stop=None):
        step, calls = (
            on_worlds.sequence_step("mixce_star", world, 6, samples=4, seed=1),
            iter(range(100)),
        )

        def interrupted(model, batch, number):
            if next(calls) == stop:
                raise KeyboardInterrupt
            return step(model, batch, number=number)

        model = mm.GPT(mm.GPTConfig(63, 5, 1, 1, 8), device="cpu")
        mm.fit(
            model,
            batches,
            step=interrupted,
            steps=20,
            eval_every=5,
            folder=folder,
            resume=resume,
            progress=False,
        )
        return model.params

    whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", stop=stop)
    for name, p in fit(tmp_path / "parts", resume=True).items():
        np.testing.assert_array_equal(p, whole[name])


def test_compare_on_a_world_tabulates_and_draws(tmp_path, capsys):
    out = tmp_path / "comparison"
    objectives = "mle,mixce:0.1,tailr:0.1,two_kls:0.5,js:0.5"
    assert (
        run(
            f"compare --world agreement --sequences 300 --objectives {objectives} --seeds 0,1 --out"
            f" {out}",
            SMALL,
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "nats per sequence, exact; agreement, horizon 5" in printed
    with open(out / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows[::2]] == [
        "mle",
        "mixce η=0.1",
        "tailr γ=0.1",
        "two_kls η=0.5",
        "js η=0.5",
    ]
    for row in rows:
        assert float(row["forward_kl"]) == pytest.approx(
            float(row["forward_ce"]) - worlds.agreement().entropy(5), rel=1e-9
        )
    assert (out / "comparison.png").stat().st_size > 10_000


def test_worlds_come_by_name_by_recipe_and_from_files(tmp_path):
    assert on_worlds.open_world("stories").vocab_size == 63
    drawn = on_worlds.open_world("random:20:0.5:7")
    np.testing.assert_array_equal(drawn.probs, worlds.random_markov(20, 0.5, 7).probs)
    drawn.save(tmp_path / "world.json")
    np.testing.assert_array_equal(
        on_worlds.open_world(str(tmp_path / "world.json")).probs, drawn.probs
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--world nowhere",
            "world must be agreement, stories, random:VOCABULARY:ZEROS:SEED or a .json file",
        ),
        ("--world random:20:x:7", "random:VOCABULARY:ZEROS:SEED, as random:20:0.5:7"),
        ("--world nowhere.json", "does not exist"),
        ("--world agreement --tokenizer byte", "goes without --tokenizer"),
        ("--world agreement --sequences 3", "sequences must be at least 10, got 3"),
        ("--world agreement --max-len 1", "max_len must be at least 2"),
        ("--world agreement --max-len 9", "at most block_size + 1 = 7, got 9"),
        ("--world agreement --objective two_kls --eta 2", "eta must be between 0 and 1"),
        ("--world agreement --objective js --eta 1", "above 0 and below 1 for js"),
        ("--world agreement --objective nothing", "js, overlap or FILE.py:NAME"),
        ("--world stories --max-len 6 --objective overlap", "overlap is exact only"),
        ("--objective two_kls", "needs P itself: give --world"),
        ("--max-len 4", "--max-len is for worlds"),
        ("--sequences 40", "--sequences is for worlds"),
        (
            "--world agreement --objective two_kls --dropout 0.1",
            "--dropout is for objectives over tokens",
        ),
        (
            "--world agreement --objective two_kls --patience 2",
            "--patience is for objectives over tokens",
        ),
    ],
)
def test_bad_options_are_one_sentence(options, message, tmp_path, capsys):
    assert run(f"train --out {tmp_path / 'run'}", SMALL, options) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_model_of_a_world_is_not_measured_on_text(tmp_path, capsys):
    assert run(f"train --world agreement --sequences 100 --out {tmp_path / 'run'}", SMALL) == 0
    write_atomically(tmp_path / "text.txt", b"cat cat")
    assert run(f"eval {tmp_path / 'run'} --device cpu --data {tmp_path / 'text.txt'}") == 2
    assert "leave out --data" in capsys.readouterr().err


def test_study_draws_its_figure(tmp_path):
    pytest.importorskip("matplotlib")
    from minimixce.experiments import plots

    rows = estimators.study(mm.TableBigram(6), worlds.agreement(), 4, sizes=(4, 8), repeats=10)
    assert all(
        math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float)
    )
    plots.study(rows, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 10_000
