"""The ledger of the advice: each sentence stands in its page, each test that it names exists, and
each condition on the stored experiments is true.
"""

import ast
import functools
import json
import math
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

import minimixce as mm
from minimixce import exact
from minimixce.experiments.fixed_points import fixed_point
from minimixce.experiments.options import ComparisonOptions

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "tutorials"
LESSONS = TUTORIALS.glob("[0-9]_*.py")
P = np.array([0.5, 0.25, 0.15, 0.07, 0.03])


@pytest.fixture(scope="module")
def evidence():
    sys.path.insert(0, str(TUTORIALS))
    import evidence

    yield evidence
    sys.path.remove(str(TUTORIALS))


# ---- the ledger ----------------------------------------------------------------------------------


def plain(text):
    """Words alone: no line ends, comment signs of a lesson, or targets of links."""
    text = re.sub(r"^# ?", "", text, flags=re.M)
    return " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).split())


def read(page):
    return (TUTORIALS / page).read_text(encoding="utf-8")


def ledger():
    """[(page, sentence, what it rests on), …] of claims.md."""
    found = []
    for part in re.split(r"^## ", read("claims.md"), flags=re.M)[1:]:
        page = re.search(r"^\[.*?\]\((.*?)\)", part, re.M)[1].replace(".ipynb", ".py")
        lines = re.findall(r"^\| (.*) \| (.*) \|$", part, re.M)[1:]
        found += [(page, sentence, rests) for sentence, rests in lines if sentence != "---"]
    return found


LEDGER = ledger()
SPANS = [span for _, _, rests in LEDGER for span in re.findall(r"`(.*?)`", rests)]
TESTS = sorted({span for span in SPANS if span.startswith("tests/")})
CONDITIONS = sorted({span for span in SPANS if not span.startswith("tests/")})


def test_each_sentence_stands_in_its_page_and_rests_on_something():
    assert len(LEDGER) > 40
    pages = {page: plain(read(page)) for page, _, _ in LEDGER}
    for page, sentence, rests in LEDGER:
        assert plain(sentence) in pages[page], f"{page} no longer says: {sentence}"
        assert "`" in rests or rests.startswith("source: "), sentence


@pytest.mark.parametrize("named", TESTS)
def test_each_test_that_is_named_exists(named):
    file, name = named.split("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {f.name for f in tree.body if isinstance(f, ast.FunctionDef)}


def test_each_sentence_of_the_page_on_objectives_is_in_the_ledger():
    """Of every bullet, and of every row of the table of advice, only punctuation is left."""
    page = read("which_objective.md")
    advice = page[page.index("| if you want") : page.index("## How to choose η")]
    texts = [row.split(" | ")[1] for row in advice.strip().splitlines()[2:]]
    texts += re.findall(r"^- (.*?)(?=\n- |\n\n)", page, re.M | re.S)
    assert len(texts) == 14
    for text in texts:
        left = plain(text)
        for of, sentence, _ in LEDGER:
            if of == "which_objective.md":
                left = left.replace(plain(sentence), "")
        assert not re.search(r"\w", left), f"claims.md lacks: {left}"


ADVICE = r"\b(should|never|always|better|prefer|must)\b"


@pytest.mark.parametrize("page", ["../README.md", *sorted(p.name for p in LESSONS)])
def test_advice_on_the_front_page_and_in_the_summaries_is_in_the_ledger(page):
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.M | re.S)
    if page.endswith(".py"):
        text = text.split("# ## Summary")[1].split("# ## Exercises")[0]
    kept = [plain(sentence) for of, sentence, _ in LEDGER if of == page]
    for sentence in re.split(r"(?<=[.?!]) ", plain(text)):
        if re.search(ADVICE, sentence):
            assert any(s in sentence or sentence in s for s in kept), f"claims.md lacks: {sentence}"


# ---- conditions ----------------------------------------------------------------------------------
# what the words of a condition mean


def stored(name):
    return _json(f"results/{name}.json")


@functools.cache
def _json(name):
    return json.loads(read(name))


def noisy(world, objective, way="as trained", measure="impossible"):
    """The mean measure of tables of noisy sentences; by default, the share of impossible moves."""
    return stored("evidence")["noise"][world][objective][way][measure]["mean"]


def t_noisy(world, objective, control, measure="impossible"):
    """The objective less its control there, in standard errors of the paired differences."""
    found = stored("evidence")["noise"][world][objective][f"less {control}"][measure]
    return found["mean"] / found["se"]


def F(steps, eta):
    """The mean forward cross-entropy of a table of stories() after some steps with MixCE."""
    return stored("evidence")["early_stopping"][f"{eta:g}"][str(steps)]["mean"]


def F_error(steps, eta):
    """Its standard error."""
    return stored("evidence")["early_stopping"][f"{eta:g}"][str(steps)]["se"]


def raised(tokens, eta):
    """The share of random contexts in which MixCE raises several tokens."""
    return stored("evidence")["several_raised"][str(tokens)][f"{eta:g}"]


def rare(objective, way="as trained"):
    """The share of the mass of rare pairs that is left."""
    return stored("evidence")["rare"][objective][way]["kept"]


def steps(objective, way="descent"):
    """How long a token takes from .0001 to half of where it ends."""
    return stored("evidence")["new_token"][objective][way]["0.0001"]


def etas(run):
    return stored(f"longer_run_{run}")["settings"]["etas"][1:]


def differences(run, eta, measure):
    """MixCE less maximum likelihood at the temperature of the same entropy, for each seed."""
    rows = stored(f"longer_run_{run}")["rows"]
    mixce = [r for r in rows if r["decoding"] == "as trained" and r["eta"] == eta]
    control = [r for r in rows if r["decoding"] == f"entropy of η = {eta:g}"]
    return [a[measure] - b[measure] for a, b in zip(mixce, control, strict=True)]


def gain(run, eta, measure):
    """The mean of those differences."""
    return statistics.mean(differences(run, eta, measure))


def t_run(run, eta, measure):
    """Their mean in standard errors."""
    values = differences(run, eta, measure)
    return statistics.mean(values) / (statistics.stdev(values) / math.sqrt(len(values)))


def chance(seeds):
    """Standard errors that chance alone exceeds once in twenty times (Student's t)."""
    return {3: 4.303, 5: 2.776, 10: 2.262}[seeds]


def near(value, shown):
    return round(value, 3) == shown


WORDS = {
    f.__name__: f
    for f in (noisy, t_noisy, F, F_error, raised, rare, steps, etas, gain, t_run, chance, near)
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_each_condition_is_true(condition):
    assert eval(condition, WORDS | {"worlds": ("agreement", "stories")}) is True


def test_a_false_condition_or_a_changed_sentence_would_be_noticed():
    assert len(CONDITIONS) > 20
    assert not near(noisy("stories", "mle"), 0.131)
    assert plain("# never\n# say [it](here)") == "never say it"


# ---- the experiments -----------------------------------------------------------------------------


def test_the_validity_of_a_table_is_that_of_the_exact_sums(evidence):
    world, rng = mm.worlds.agreement(), np.random.default_rng(0)
    model = mm.TableBigram(6)
    model.params["logits"] = rng.standard_normal((6, 6))
    table = np.exp(mm.logprob.log_softmax(model.params["logits"]))
    found, wanted = evidence.measure(table, world, 4), exact.measure(model, world, 4)
    assert found["validity"] == pytest.approx(float(wanted["validity"]), rel=1e-12)
    assert found["F"] == pytest.approx(float(wanted["forward_ce"]), rel=1e-12)


@pytest.mark.parametrize("control", ["cooled", "cut"])
def test_a_control_has_the_entropy_that_is_asked_for(evidence, control):
    rng = np.random.default_rng(0)
    table, contexts = rng.dirichlet(np.ones(2000), 3), np.array([0.2, 0.3, 0.5])
    target = fixed_point("mixce", table, 0.9)[0]
    found = evidence.matched(getattr(evidence, control), table, target, contexts)
    wanted = evidence.entropy(target, contexts)
    assert evidence.entropy(found, contexts) == pytest.approx(wanted, abs=2e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_some_of_the_stored_numbers_come_out_again(evidence):
    few = evidence.SETTINGS["new_token"] | {"objectives": [("mle", None), ("mixce", 0.1)]}
    found, kept = evidence.new_token(few), stored("evidence")["new_token"]
    assert found == {name: kept[name] for name in found}


@pytest.mark.slow
def test_all_stored_numbers_come_out_again(evidence):
    """A minute and more; sums may differ in the last digits between machines."""
    found, kept = json.loads(json.dumps(evidence.experiments())), stored("evidence")

    def compare(a, b, where):
        if isinstance(a, dict):
            assert a.keys() == b.keys(), where
            for key in a:
                compare(a[key], b[key], (*where, key))
        else:
            assert b == pytest.approx(a, rel=1e-3, abs=1e-6), where

    for name in found:
        compare(found[name], kept[name], (name,))


# ---- what is not stored but true of any numbers --------------------------------------------------


def test_emo_sees_more_than_q():
    """The other objectives pull by q alone; at one q EMO's gradient depends on the embedding."""
    logits, target = np.zeros((1, 3)), np.array([0])
    alike, unlike = (
        mm.objectives.emo(logits, target, embedding)[1]
        for embedding in (np.eye(3), np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    )
    assert abs(alike - unlike).max() > 0.1


def test_emo_does_not_end_at_p():
    """Its expected gradient is not zero at q = p, where maximum likelihood's is."""
    logits, every = np.tile(np.log(P), (5, 1)), np.arange(5)
    embedding = np.random.default_rng(0).standard_normal((5, 3))
    _, by_mle = mm.objectives.mle(logits, every, normalizer=1)
    _, by_emo = mm.objectives.emo(logits, every, embedding, normalizer=1)
    np.testing.assert_allclose(P @ by_mle, 0, atol=1e-15)
    assert abs(P @ by_emo).max() > 0.01


@pytest.mark.parametrize("case", [("mixce", 0.5), ("mixce", 0.1), ("tailr", 0.01), ("tailr", 0.1)])
def test_mixce_and_tailr_end_at_a_lower_entropy(case):
    p = np.random.default_rng(0).dirichlet(np.ones(20), 100)
    q, _ = fixed_point(case[0], p, case[1])
    of_p = -(p * np.log(p)).sum(axis=1)
    of_q = -(q * np.log(np.where(q > 0, q, 1))).sum(axis=1)
    assert (of_q < of_p).all()


def test_a_tail_is_scaled_steepened_or_cut():
    p = 1 / np.arange(1, 1001)
    p /= p.sum()
    rarer = slice(500, None)
    q, _ = fixed_point("mixce", p, 0.1)
    factors = (q / p)[rarer]
    assert factors.max() / factors.min() < 1.01
    assert (q > 0).all()
    cold = p**2 / (p**2).sum()
    assert (np.diff(cold / p) < 0).all()
    q, lam = fixed_point("tailr", p, 0.01)
    np.testing.assert_array_equal(q == 0, p <= 0.01 * lam)
    assert (q[rarer] == 0).any()


def test_mixce_without_a_forward_part_ends_on_one_token():
    """Already near η = 0, and by descent at η = 0 itself; the smaller η, the nearer."""
    largest = [fixed_point("mixce", P, eta)[0].max() for eta in (0.9, 0.5, 0.1, 0.01, 1e-4)]
    assert largest == sorted(largest)
    assert largest[-1] > 0.999
    z, every = np.zeros(5), np.arange(5)
    for _ in range(3000):
        _, w = mm.objectives.mixce(np.tile(z, (5, 1)), every, eta=0.0, reduction="none")
        q = np.exp(mm.logprob.log_softmax(z))
        z = z - 2 * ((P * w).sum() * q - P * w)
    assert q[0] > 0.99


def test_one_model_has_a_lower_loss_at_a_lower_eta():
    """And a worse one at η = 0.1 a lower loss than a better one at η = 0.5."""
    every = np.arange(5)
    best, worse = np.tile(np.log(P), (5, 1)), np.zeros((5, 5))

    def loss(logits, eta):
        return float(P @ mm.objectives.mixce(logits, every, eta=eta, reduction="none")[0])

    values = [loss(best, eta) for eta in (1.0, 0.5, 0.1, 0.0)]
    assert values == sorted(values, reverse=True)
    assert loss(worse, 0.1) < loss(best, 0.5)


def test_perplexity_bounds_inventions_only_with_the_entropy_of_p():
    """A share m of inventions costs −log(1−m) above H(P). F alone says nothing of it: F of P itself
    would allow most of what is written to be invented.
    """
    world, rng = mm.worlds.agreement(), np.random.default_rng(0)
    for _ in range(10):
        model = mm.TableBigram(6)
        model.params["logits"] = rng.standard_normal((6, 6))
        found = exact.measure(model, world, 4)
        excess = float(found["forward_ce"]) - world.entropy(4)
        assert 1 - float(found["validity"]) <= 1 - math.exp(-excess) + 1e-12
    assert 1 - math.exp(-world.entropy(4)) > 0.7


@pytest.mark.parametrize(
    ("name", "ratio", "factor"),
    [("mixce", 0.1, 0.1 + 0.9 / 50), ("tailr", 0.1, 1 / (1 + 0.1 * 49))],
)
def test_at_the_start_adamw_hides_the_factor_of_each_objective(name, ratio, factor):
    logits, targets = np.zeros((4, 50)), np.array([0, 1, 2, 2])
    option = {"mixce": "eta", "tailr": "gamma"}[name]
    of_mle = mm.objectives.mle(logits, targets)[1]
    grads = getattr(mm.objectives, name)(logits, targets, **{option: ratio})[1]
    np.testing.assert_allclose(grads, factor * of_mle, atol=1e-16)
    moved = []
    for gradient in (of_mle, grads):
        params = {"z": np.zeros((4, 50))}
        mm.AdamW(params, lr=0.1, weight_decay=0.0).step({"z": gradient})
        moved.append(params["z"])
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-3)


def test_compare_trains_with_three_seeds_by_default():
    assert len(ComparisonOptions().seeds.split(",")) == 3
