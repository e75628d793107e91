"""The explorer page: its numbers against the package, then the page itself in Chromium."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pages
import pytest

import minimixce as mm
from minimixce.experiments.fixed_points import fixed_point

TUTORIALS = Path(__file__).parent.parent / "tutorials"
P = (0.5, 0.25, 0.15, 0.07, 0.03)
MAX_LEN = 4


@pytest.fixture(scope="module")
def explorer():
    sys.path.insert(0, str(TUTORIALS))
    yield importlib.import_module("explorer")
    sys.path.remove(str(TUTORIALS))


@pytest.fixture(scope="module")
def page(explorer, tmp_path_factory):
    return explorer.build(tmp_path_factory.mktemp("page") / "made for it")


@pytest.fixture(scope="module")
def text(page):
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def numbers(text):
    return json.loads(
        re.search(r'<script type="application/json" id="numbers">(.*?)</script>', text, re.S)[1]
    )


# ---- fixed points of one context -----------------------------------------------------------------


def expected_gradient(objective, ratio, p, q):
    """Σ_v p_v ∂loss/∂logits when v is the target (V,), by the package's token objective, at the
    logits log q.
    """
    with np.errstate(divide="ignore"):
        logits = np.log(q)[None]
    call = {"mle": {}, "mixce": {"eta": ratio}, "tailr": {"gamma": ratio}}[objective]
    return sum(
        x * getattr(mm.objectives, objective)(logits, np.array([v]), **call)[1][0]
        for v, x in enumerate(p)
        if x > 0
    )


def test_fixed_points_in_the_page_are_the_package_s_and_stationary(numbers):
    assert {(e["objective"], e["ratio"]) for e in numbers["examples"]} >= {
        ("mixce", 0.01),
        ("mixce", 1),
        ("tailr", 0.99),
    }
    for example in numbers["examples"]:
        p, q = np.array(example["p"]), np.array(example["q"])
        assert q.sum() == pytest.approx(1, abs=1e-12)
        assert (
            np.abs(expected_gradient(example["objective"], example["ratio"], p, q)).max() < 1e-9
        ), example
        if example["objective"] == "mixce":
            assert np.allclose(q, fixed_point("mixce", p, example["ratio"])[0], atol=1e-14)
    shown = {(e["objective"], e["ratio"]): e["q"] for e in numbers["examples"] if e["p"] == list(P)}
    # math.md §6
    assert np.allclose(shown["mixce", 0.1], (0.850, 0.088, 0.040, 0.016, 0.006), atol=6e-4)
    assert np.allclose(shown["tailr", 0.1], (0.630, 0.259, 0.111, 0, 0), atol=6e-4)


@pytest.mark.parametrize("objective", ["mixce", "tailr"])
def test_fixed_points_are_minima_and_not_only_stationary(explorer, objective):
    point, rng = (
        {"mixce": explorer.mixce_point, "tailr": explorer.tailr_point}[objective],
        np.random.default_rng(0),
    )
    key = {"mixce": "eta", "tailr": "gamma"}[objective]

    def loss(p, q, ratio):
        logits = np.tile(np.log(np.maximum(q, 1e-300)), (len(p), 1))
        f, _ = getattr(mm.objectives, objective)(
            logits, np.arange(len(p)), **{key: ratio}, reduction="none"
        )
        return p @ f

    for _ in range(20):
        p, ratio = rng.dirichlet(np.ones(5)), rng.uniform(0.02, 0.98)
        q = point(p, ratio)
        least = loss(p, q, ratio)
        assert all(loss(p, other, ratio) > least for other in rng.dirichlet(np.ones(5), 20))
        near = 0.99 * q + 0.01 * np.eye(5)  # a little more for each token
        assert all(loss(p, other, ratio) > least for other in near if not np.allclose(other, q))


# ---- exact optima over sentences -----------------------------------------------------------------


def all_optima(explorer):
    return [(name, ratio) for name, ratios in explorer.RATIOS.items() for ratio in ratios]


def exact_gradient(name, ratio, logits):
    # in expectation over P a sum over the rows of the table, each as often as P is there
    if name == "tailr":
        counts = mm.exact.bigram_counts(mm.worlds.agreement(), MAX_LEN)
        q = np.exp(mm.logprob.log_softmax(logits))
        return np.array([expected_gradient("tailr", ratio, p, row) for p, row in zip(counts, q)])
    objective = {"mle": "forward_ce"}.get(name, name)
    eta = 1.0 if ratio is None else ratio
    world = mm.worlds.agreement()
    return mm.exact.bigram_loss_and_grads(
        logits, world, objective=objective, eta=eta, max_len=MAX_LEN
    )[1]


def test_exact_gradients_vanish_at_every_optimum(explorer):
    for name, ratio in all_optima(explorer):
        gradient = exact_gradient(name, ratio, explorer.optimum(name, ratio))
        assert np.abs(gradient).max() < 1e-9, (name, ratio)
    # elsewhere they do not
    away = explorer.optimum("two_kls", 0.5) + np.random.default_rng(0).standard_normal((6, 6))
    assert np.abs(exact_gradient("two_kls", 0.5, away)).max() > 1e-3


def test_the_page_shows_the_measures_of_these_optima(explorer, numbers):
    world = mm.worlds.agreement()
    rows = mm.exact.sequences(6, MAX_LEN)
    sentences = [world.text(row) for row in rows]
    assert [list(numbers["optima"]), len(numbers["sentences"])] == [list(explorer.RATIOS), 7]
    for name, ratio in [
        ("mle", None),
        ("mixce", 0.1),
        ("tailr", 0.5),
        ("two_kls", 0.3),
        ("mixce_star", 0.05),
        ("reverse_kl", None),
    ]:
        model = mm.TableBigram(6)
        model.params["logits"] = explorer.optimum(name, ratio)
        q = np.exp(mm.exact.log_prob(model, rows))
        p = np.exp(world.log_prob(rows))
        shown = numbers["optima"][name][
            0 if ratio is None else numbers["ratios"][name].index(ratio)
        ]
        by_sentence = [q[sentences.index(sentence)] for sentence in numbers["sentences"][:6]]
        assert shown[:6] == pytest.approx(by_sentence, rel=1e-5)
        assert shown[6] == pytest.approx(1 - sum(by_sentence), abs=1e-9)
        entropy = -(q[q > 0] * np.log(q[q > 0])).sum()
        forward = (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()
        reverse = mm.exact.bigram_loss_and_grads(
            model.params["logits"], world, objective="reverse_kl", max_len=MAX_LEN
        )[0]
        assert shown[7:] == pytest.approx(
            [q[p > 0].sum(), forward, float(reverse), entropy], rel=1e-5
        )


def test_mle_forgets_the_number_and_every_objective_with_eta_ends_in_it(numbers):
    mle = numbers["optima"]["mle"][0]
    assert mle[7] == pytest.approx(0.76, abs=1e-6)
    for name, at in (("mixce", -1), ("two_kls", -1), ("mixce_star", -1), ("tailr", 0)):
        assert numbers["optima"][name][at] == pytest.approx(mle, rel=1e-4), name


@pytest.mark.parametrize("eta", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("objective", ["two_kls", "mixce_star"])
def test_no_random_start_ends_lower(explorer, objective, eta):
    least, _ = explorer.loss_and_grad(explorer.optimum(objective, eta), objective, eta)
    rng = np.random.default_rng(5)
    found = []
    for _ in range(6):
        z = explorer.descend(3 * rng.standard_normal((6, 6)), objective, eta, tolerance=1e-7)
        found.append(explorer.loss_and_grad(z, objective, eta)[0])
    assert min(found) > least - 1e-8
    assert min(found) == pytest.approx(least, abs=1e-5)


def test_reverse_kl_has_the_least_value_that_can_be_had_without_the_impossible(explorer):
    # A bigram that writes only what is possible gives up one of the sentences with "here"; then
    # KL(Q‖P) = −log P(the rest).
    value, _ = explorer.loss_and_grad(explorer.optimum("reverse_kl"), "reverse_kl")
    assert value == pytest.approx(-np.log(0.8), abs=1e-9)
    rng = np.random.default_rng(2)
    others = [
        explorer.loss_and_grad(
            explorer.fixed_policy(2 * rng.standard_normal((6, 6))), "reverse_kl"
        )[0]
        for _ in range(3)
    ]
    assert min(others) > value - 1e-9


def test_reverse_ce_is_least_on_the_likeliest_sentences_however_they_share(explorer):
    world = mm.worlds.agreement()
    # R is a mean of −log P(x), so no Q is below
    least = -world.log_prob(mm.exact.sequences(6, MAX_LEN)).max()
    z = explorer.optimum("reverse_ce")
    assert explorer.loss_and_grad(z, "reverse_ce")[0] == pytest.approx(least, abs=1e-12)
    other = z.copy()
    other[1, 3:5] = np.log([0.9, 0.1])  # "here" and "sleeps" after "cat"
    assert explorer.loss_and_grad(other, "reverse_ce")[0] == pytest.approx(least, abs=1e-12)


# ---- the file ------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_fetches_nothing(text):
    assert not re.search(
        r"""src\s*=|href\s*=\s*(?!"#)|url\(|@import|\bfetch\(|XMLHttpRequest"""
        r"""|https?://(?!www\.w3\.org/2000/svg)""",
        text,
    )
    assert "{{" not in text
    assert len(re.findall(r"<script>.*?</script>", text, re.S)) == 1
    assert "function bisect" in text
    assert len(text.encode()) < 150_000


def test_a_site_can_ask_for_a_way_back(explorer, tmp_path):
    assert '<a href="index.html">' in explorer.build(tmp_path, home="index.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_stand_out_as_wcag_asks(text, scheme):
    blocks = re.findall(r":root \{(.*?)\}", text, re.S)
    assert len(blocks) == 2
    color = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for name in ("text", "quiet", "p-text", "q-text", "g-text"):
        for ground in ("page", "panel", "shade"):
            assert pages.contrast(color[name], color[ground]) >= 4.5, (name, ground)
    for name in ("p", "q", "g", "focus"):
        assert pages.contrast(color[name], color["page"]) >= 3, name
    assert pages.contrast("#000000", "#ffffff") == pytest.approx(21)


# ---- in Chromium ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = pages.chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, page):
    """visit(fragment, …) -> the page opened there; the test fails if it said anything on the
    console.
    """
    opened, said = [], []

    def visit(fragment="", width=1200, scheme="light", motion="reduce"):
        tab = chromium.new_page(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion=motion
        )
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url),
        )
        tab.goto(page.as_uri() + fragment)
        opened.append(tab)
        return tab

    yield visit
    for tab in opened:
        tab.close()
    assert said == []


def cells(tab, row):
    return tab.locator(f"#{row} td").all_inner_texts()


def as_numbers(texts):
    special = {"∞": np.inf, "<.001": 2.5e-4}
    return [special[text] if text in special else float(text.removesuffix(" %")) for text in texts]


def assert_shown(texts, expected):
    """To the three digits shown; exactly zero is written 0, and nothing else is."""
    assert np.allclose(as_numbers(texts), expected, atol=5.1e-4)
    assert [text == "0" for text in texts] == [x == 0 for x in expected]


CONTEXTS = [
    P,
    (0.44, 0.4, 0.1, 0.04, 0.02),
    (0.2,) * 5,
    (0.9, 0.1, 0, 0, 0),
    (0.03, 0.07, 0.15, 0.25, 0.5),
]


@pytest.mark.browser
@pytest.mark.parametrize("p", CONTEXTS)
def test_values_in_the_page_are_those_of_python(explorer, visit, p):
    tab, p = visit("?view=context"), np.array(p)
    settings = [("mixce", "eta", x) for x in (0.01, 0.1, 0.37, 1)] + [
        ("tailr", "gamma", x) for x in (0, 0.01, 0.1, 0.6, 0.99)
    ]
    for objective, key, ratio in [
        *settings,
        ("temperature", "tau", 0.1),
        ("temperature", "tau", 1.7),
        ("mle", "none", 1),
    ]:
        tab.evaluate(
            f"location.hash = 'objective={objective}&{key}={ratio}&p={','.join(map(str, p))}'"
        )
        tab.wait_for_function(
            f"state.context.objective === '{objective}' &&"
            f" (state.context.ratio[state.context.objective] ?? 1) === {ratio}"
        )
        if objective == "mixce":
            q = explorer.mixce_point(p, ratio)
            w = ratio + (1 - ratio) * q
        elif objective == "tailr":
            q = explorer.tailr_point(p, ratio)
            w = q / (ratio + (1 - ratio) * q) if ratio else np.ones(5)
        else:
            q, w = p ** (1 / ratio) / (p ** (1 / ratio)).sum(), np.ones(5)
        assert_shown(cells(tab, "row-p"), p)
        assert_shown(cells(tab, "row-q"), q)
        assert_shown(cells(tab, "row-w"), w)


@pytest.mark.browser
def test_sentences_and_measures_are_those_of_python(explorer, visit):
    tab = visit()
    for name, ratio in [
        ("mle", None),
        ("mixce", 0.25),
        ("tailr", 0.9),
        ("two_kls", 0.3),
        ("mixce_star", 0.01),
        ("reverse_ce", None),
    ]:
        tab.evaluate(f"location.hash = 'sentences={name}&at={ratio}'")
        tab.wait_for_function(f"state.sentences.objective === '{name}'")
        *q, validity, forward, reverse, entropy = explorer.describe(explorer.optimum(name, ratio))
        assert_shown(tab.locator("#sentences .value-q").all_text_contents(), q)
        assert_shown(
            tab.locator("#sentences .value-p").all_text_contents(), [0.3, 0.2, 0.3, 0.2, 0, 0, 0]
        )
        found = [
            as_numbers(cells(tab, row))[2]
            for row in ("validity", "forward_kl", "reverse_kl", "entropy_q")
        ]
        expected = [100 * validity, np.inf if forward is None else forward, reverse, entropy]
        assert np.allclose(found, expected, atol=[0.051, 6e-4, 6e-4, 6e-4]), name


@pytest.mark.browser
def test_the_page_compares_itself_with_the_package(visit):
    said = visit().locator("#check").inner_text()
    assert float(re.search(r"difference is (\S+)\.$", said)[1]) < 1e-12
    assert "compared 45 of" in said


@pytest.mark.browser
def test_words_say_what_is_to_be_seen(visit):
    for fragment, expected in [
        ("#objective=tailr&gamma=0.1", "TaiLr gives tokens 4 and 5 exactly zero."),
        ("#objective=mixce&eta=1", "η = 1 is MLE: q = p."),
        ("#objective=tailr&gamma=0", "γ = 0 is MLE: q = p."),
        ("#objective=mixce&eta=0.1", "multiplies p by 1.70 at token 1 and by 0.21 at token 5"),
        ("#objective=mixce&p=1,1,1,1,1", "nothing to sharpen"),
        ("#objective=tailr&gamma=0.99", "All mass is on token 1."),
    ]:
        assert expected in visit(fragment).locator("#context-says").inner_text().replace(
            "\u00a0", " "
        )
    for fragment, expected in [
        ("#sentences=mle", "24.0 % of what Q writes is impossible under P"),
        ("#sentences=two_kls&at=0.3", "It gives up “cats here sleep”."),
        ("#sentences=reverse_ce", "It gives up “cats sleep” and “cats here sleep” entirely."),
    ]:
        assert expected in visit(fragment).locator("#sentences-say").inner_text().replace(
            "\u00a0", " "
        )


@pytest.mark.browser
def test_the_keyboard_reaches_and_moves_everything(visit):
    tab = visit("?view=context")
    focused = []
    for _ in range(9):
        tab.keyboard.press("Tab")
        focused.append(tab.evaluate("document.activeElement.id || document.activeElement.name"))
    context = ["objective", "ratio", "preset", "p0", "p1", "p2", "p3", "p4", "control"]
    assert focused == context
    tab = visit("?view=context")
    for _ in range(2):
        tab.keyboard.press("Tab")
    outline = tab.evaluate(
        "getComputedStyle(document.activeElement).outlineStyle +"
        " getComputedStyle(document.activeElement).outlineWidth"
    )
    assert outline == "solid3px"
    bars, words = tab.locator("#bars").inner_html(), tab.locator("#context-says").inner_text()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#ratio-value").inner_text() == "0.11"
    assert tab.locator("#bars").inner_html() != bars
    assert tab.locator("#context-says").inner_text() != words  # a live region, so it is also heard
    assert tab.locator("#context-says").get_attribute("role") == "status"
    for _ in range(2):
        tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("#p0-value").inner_text() == "0.490"
    assert sum(as_numbers(cells(tab, "row-p"))) == pytest.approx(1, abs=2e-3)
    assert as_numbers(cells(tab, "row-p"))[1] == pytest.approx(0.25 * 0.51 / 0.5, abs=6e-4)
    tab.locator("input[name=objective]:checked").focus()
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate("state.context.objective") == "tailr"


@pytest.mark.browser
def test_every_input_has_a_name(visit):
    tab = visit("#sentences=two_kls&control=1")
    names = (
        "[...document.querySelectorAll('input, select')]"
        ".map((x) => x.ariaLabel ?? x.labels[0].textContent.trim())"
    )
    assert min(map(len, tab.evaluate(names))) > 2
    assert tab.locator("input[type=range]").count() == 7 + 4 + 9 + 1


@pytest.mark.browser
@pytest.mark.parametrize(
    "fragment",
    [
        "",
        "#objective=tailr&control=1&sentences=two_kls",
        "#objective=mixce&eta=0.01&p=.3,.25,.2,.15,.1&control=1&sentences=reverse_kl",
        "?view=simplex#simplex=all",
        "?view=tree#tree=reverse_ce&tree.node=12",
        "?view=training#training=0.5",
    ],
)
def test_a_phone_shows_all_of_it(visit, fragment):
    tab = visit(fragment, width=360)
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    right = """Math.max(...[...document.querySelectorAll('body *:not(.scroll *)')].map((x) =>
        x.getBoundingClientRect().right))"""  # in .scroll a table may be wider, and scrolls
    assert tab.evaluate(right) <= 360.5
    drawing = "document.querySelector('section:not([hidden]) svg[viewBox]').viewBox.baseVal.width"
    narrow = tab.evaluate(drawing)
    tab.set_viewport_size({"width": 1200, "height": 800})
    tab.wait_for_function(f"{drawing} > {narrow} + 200")  # drawn anew


@pytest.mark.browser
def test_dark_is_another_set_of_colours(visit):
    colors = (
        "[getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.bar-p')).fill]"
    )
    light, dark = (visit(scheme=scheme).evaluate(colors) for scheme in ("light", "dark"))
    assert light == ["rgb(255, 255, 255)", "rgb(0, 114, 178)"]  # Okabe and Ito's blue
    assert light[0] != dark[0]
    assert light[1] != dark[1]


@pytest.mark.browser
def test_the_address_follows_and_restores_a_view(visit):
    tab = visit(
        "#objective=tailr&gamma=0.23&p=0.4,0.3,0.2,0.06,0.04&control=1&sentences=mixce_star&at=0.07"
    )
    tab.locator("#ratio").focus()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("location.hash.includes('gamma=0.24')")
    shown = [cells(tab, row) for row in ("row-p", "row-q", "row-c", "forward_kl")]
    again = visit("#" + tab.url.partition("#")[2])
    assert [cells(again, row) for row in ("row-p", "row-q", "row-c", "forward_kl")] == shown
    assert again.locator("#at-value").inner_text() == "0.07"
    assert again.locator("#control").is_checked()


@pytest.mark.browser
def test_a_damaged_address_shows_the_defaults(visit):
    plain = visit()
    wrong = visit("#objective=constructor&eta=7&p=1,-2,x&sentences=__proto__&at=99")
    for row in ("row-p", "row-q", "row-w", "validity"):
        assert cells(wrong, row) == cells(plain, row)


@pytest.mark.browser
def test_the_control_has_the_same_entropy(visit):
    tab = visit("#objective=mixce&eta=0.3&control=1")
    q, control = (np.array(as_numbers(cells(tab, row))) for row in ("row-q", "row-c"))
    entropies = [-(x[x > 0] * np.log(x[x > 0])).sum() for x in (q, control)]
    assert entropies[0] == pytest.approx(entropies[1], abs=5e-3)
    tau = float(tab.locator("#control-name").inner_text().split()[-1])
    power = np.array(P) ** (1 / tau)
    assert np.allclose(control, power / power.sum(), atol=5e-3)


# ---- three outcomes ------------------------------------------------------------------------------

RATIO_OF = {"two_kls": 0.3, "mixce_star": 0.7, "mixce": 0.2, "tailr": 0.15, "js": 0.4}
POINTS = [  # P and Q
    ((0.55, 0.3, 0.15), (0.12, 0.18, 0.7)),
    ((0.98, 0.01, 0.01), (0.01, 0.01, 0.98)),
    ((1 / 3, 1 / 3, 1 / 3), (0.2, 0.3, 0.5)),
    ((0.005, 0.6, 0.395), (0.9995, 0.00025, 0.00025)),
]


def one_step_world(p):
    """Sequences of at most one token: three of them, with probabilities p."""
    return mm.worlds.markov([list(p), [1, 0, 0], [1, 0, 0]])


def package_loss_and_gradient(name, p, q, ratio):
    model = mm.TableBigram(3, device="cpu")
    model.params["logits"] = np.array([np.log(q), [0, 0, 0], [0, 0, 0]])
    loss, grads = mm.exact.loss_and_grads(
        model, one_step_world(p), 2, objective=name, eta=ratio, progress=False
    )
    return float(loss), grads["logits"][0]


def in_page(tab, function, *arguments):
    """A function of the page, called with these arguments -> what it returns."""
    return tab.evaluate(f"(x) => {function}(...x)", list(arguments))


@pytest.mark.browser
def test_losses_and_gradients_of_three_outcomes_are_the_package_s(visit):
    tab = visit("?view=simplex")
    names = tab.evaluate("Object.keys(OBJECTIVES)")
    assert len(names) == 10
    for name in names:
        ratio = RATIO_OF.get(name, 0.5)
        for p, q in POINTS:
            loss, gradient = package_loss_and_gradient(name, p, q, ratio)
            assert in_page(tab, "lossOf", name, p, q, ratio) == pytest.approx(loss, abs=1e-9), name
            found = in_page(tab, "gradientOf", name, p, q, ratio)
            assert np.allclose(found, gradient, rtol=0, atol=1e-9), name


@pytest.mark.browser
def test_every_path_goes_down_and_ends_where_it_must(explorer, visit):
    tab, p = visit("?view=simplex"), POINTS[0][0]
    ends = dict.fromkeys(("forward_ce", "forward_kl", "reverse_kl", "two_kls", "js"), p)
    ends |= {"mixce": explorer.mixce_point(p, 0.2), "tailr": explorer.tailr_point(p, 0.15)}
    ends |= dict.fromkeys(("reverse_ce", "overlap"), (1, 0, 0))  # from a start near enough
    for name, end in ends.items():
        ratio = RATIO_OF.get(name, 0.5)
        path = in_page(tab, "descend", name, p, (0.3, 0.4, 0.3), ratio)
        losses = [in_page(tab, "lossOf", name, p, q, ratio) for q in path]
        assert all(np.diff(losses) < 0), name
        assert np.abs(np.diff(path, axis=0)).max() < 0.02, name  # no jumps
        assert np.allclose(path[-1], end, atol=2e-3), name


@pytest.mark.browser
@pytest.mark.parametrize("name", ["forward_ce", "reverse_kl", "mixce"])
def test_a_path_is_the_gradient_flow_in_the_logits(visit, name):
    tab, (p, start) = visit("?view=simplex"), POINTS[0]
    path = np.array(in_page(tab, "descend", name, p, start, 0.2))
    z, flow = np.log(start), []
    for _ in range(12000):  # Euler with steps so short that they are exact enough
        q = np.exp(z - np.logaddexp.reduce(z))
        flow.append(q)
        w = {
            "forward_ce": -np.array(p),
            "reverse_kl": q * np.log(q / p),
            "mixce": -np.array(p) * (0.2 + 0.8 * q),
        }[name]
        z = z - 0.01 * (w - q * w.sum())
    distance = np.linalg.norm(path[:, None] - np.array(flow)[None], axis=2).min(axis=1)
    reached = [q for q in path if np.linalg.norm(q - flow[-1]) > 0.01]
    assert len(reached) > 20
    assert distance[: len(reached)].max() < 4e-3


@pytest.mark.browser
def test_a_contour_is_where_the_loss_is_its_level(visit):
    tab = visit("?view=simplex")
    errors = tab.evaluate("""() => {
      const p = [0.55, 0.3, 0.15], plan = planOf(600), level = 1.2;
      const d = contours(lossGrid("forward_ce", p, 1), [level], plan)[0];
      const points = [...d.matchAll(/([\\d.]+),([\\d.]+)/g)].map((x) => [+x[1], +x[2]]);
      return points.map(([x, y]) => lossOf("forward_ce", p, plan.at(x, y), 1) - level);
    }""")
    assert len(errors) > 60
    assert np.median(np.abs(errors)) < 1e-3
    assert np.abs(errors).max() < 0.05  # where it is steep, beside a side of the triangle


def probabilities(tab, which):
    """What a screen reader is told of a handle."""
    text = tab.locator(f"#handle-{which}").get_attribute("aria-valuetext")
    return [float(x) for x in re.findall(r"[\d.]+", text)]


@pytest.mark.browser
def test_p_moves_by_pointer_and_by_keys(visit):
    tab = visit("?view=simplex")
    handle = tab.locator("#handle-p")
    assert handle.get_attribute("role") == "slider"
    assert probabilities(tab, "p") == [0.55, 0.3, 0.15]
    picture, table = tab.locator("#simplex-paths"), tab.locator("#simplex-table")
    before = picture.inner_html(), table.inner_text()
    box = tab.locator("#handle-p .mark").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 60, box["y"] + 150, steps=4)
    tab.mouse.up()
    tab.wait_for_function("state.simplex.p[0] < 0.4")
    moved = probabilities(tab, "p")
    assert sum(moved) == pytest.approx(1, abs=0.02)
    assert moved[2] > 0.15
    assert (picture.inner_html(), table.inner_text()) != before
    handle.focus()
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate("state.simplex.p[0]") > moved[0]
    tab.keyboard.press("Shift+ArrowUp")
    assert tab.evaluate("state.simplex.p[0]") > moved[0] + 0.04
    for _ in range(14):  # never out of the triangle
        tab.keyboard.press("Shift+ArrowLeft")
    assert min(tab.evaluate("state.simplex.p")) > 0.004
    tab.keyboard.press("Home")
    assert probabilities(tab, "p") == [0.55, 0.3, 0.15]
    assert tab.evaluate("document.activeElement.id") == "handle-p"


@pytest.mark.browser
def test_the_table_of_three_outcomes_has_values_and_entropies(explorer, visit):
    tab = visit("?view=simplex#simplex=all")
    p, q = POINTS[0]
    loss, _ = package_loss_and_gradient("mixce", p, q, 0.2)
    end = explorer.mixce_point(p, 0.2)
    least, _ = package_loss_and_gradient("mixce", p, end, 0.2)
    entropy = -(end * np.log(end)).sum()
    shown = as_numbers([text.replace("−", "-") for text in cells(tab, "simplex-mixce")])
    assert np.allclose(shown, [loss, least, *end, entropy], atol=2e-3)
    assert as_numbers(cells(tab, "simplex-of-p")[2:5]) == list(p)
    ends = tab.locator("#simplex-paths .end")
    assert ends.count() == 9  # forward CE and forward KL go the same way
    assert "Nine objectives" in tab.locator("#simplex-says").inner_text()


@pytest.mark.browser
def test_words_say_where_an_objective_is_least(visit):
    for fragment, expected in [
        ("#simplex=forward_ce", "Forward CE is least at P itself."),
        ("#simplex=mixce&simplex.ratio=1", "MixCE at η = 1.00 is least at P itself."),
        ("#simplex=reverse_ce", "(1.00, 0.00, 0.00), not at P."),
        ("#simplex=reverse_ce&simplex.p=0.4,0.4,0.2", "Paths end in"),
    ]:
        tab = visit("?view=simplex" + fragment)
        words = tab.locator("#simplex-says").inner_text().replace("\u00a0", " ")
        assert expected in words
        tab.close()


@pytest.mark.browser
def test_motion_is_for_those_who_did_not_ask_for_less(visit):
    moving = "document.querySelectorAll('animateMotion').length"
    assert visit("?view=simplex", motion="no-preference").evaluate(moving) > 5
    still = visit("?view=simplex", motion="reduce")
    assert still.evaluate(moving) == 0
    assert still.evaluate("document.getAnimations().length") == 0


# ---- the tree of prefixes ------------------------------------------------------------------------

TABLES = [
    [[0.3, 0.35, 0.35]] * 3,
    [[0.05, 0.15, 0.8], [0.6, 0.399, 0.001], [0.1, 0.2, 0.7]],
]


@pytest.mark.browser
@pytest.mark.parametrize("objective", ["reverse_ce", "reverse_kl"])
@pytest.mark.parametrize("q", TABLES)
def test_the_cost_to_go_and_its_slopes_are_the_package_s(explorer, visit, objective, q):
    tab = visit("?view=tree")
    world = mm.worlds.markov(explorer.TREE["p"])
    loss, gradient = mm.exact.bigram_loss_and_grads(
        np.log(q), world, objective=objective, max_len=explorer.TREE["max_len"]
    )
    root = tab.evaluate(
        """([q, objective]) => {
          const root = grow(q, COSTS[objective].cost);
          return [root.costToGo, tableGradient(root), nodesOf(root).length];
        }""",
        [q, objective],
    )
    assert root[0] == pytest.approx(float(loss), abs=1e-9)
    assert np.allclose(root[1], gradient, rtol=0, atol=1e-9)
    assert root[2] == 7


@pytest.mark.browser
def test_a_node_shows_the_sum_of_its_children(visit):
    tab = visit("?view=tree")
    assert tab.locator("[role=tree] [role=treeitem]").count() == 7
    for node, words in [("node-1", "After “a”"), ("node-12", "After “a b”")]:
        tab.locator(f"#{node}").hover()
        assert words in tab.locator("#tree-node").inner_text()
        rows = tab.locator("#tree-table tbody tr").all()
        texts = [row.locator("td").all_inner_texts() for row in rows]
        shares = [float(row[4].replace("−", "-")) for row in texts]
        assert sum(shares[:3]) == pytest.approx(shares[3], abs=2e-3)
        shown = tab.locator(f"#{node} .cost").text_content().replace("−", "-")
        assert float(shown) == pytest.approx(shares[3], abs=6e-3)
        marks = [row[5][0] for row in texts[:3]]
        assert {"▲", "▼"} <= set(marks)
        assert tab.locator(f"#{node}").get_attribute("aria-selected") == "true"


@pytest.mark.browser
def test_arrow_keys_walk_through_the_tree(visit):
    tab = visit("?view=tree")
    tab.locator("#node-").focus()
    walked = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "End", "Home"):
        tab.keyboard.press(key)
        walked.append(tab.evaluate("document.activeElement.id"))
    assert walked == ["node-1", "node-11", "node-12", "node-1", "node-22", "node-"]
    assert tab.locator("[role=treeitem][tabindex='0']").count() == 1
    label = tab.locator("#node-12").get_attribute("aria-label")
    assert re.fullmatch(r"a b: reached with probability 0\.12, cost to go -?−?[\d.]+ nats", label)


@pytest.mark.browser
def test_descent_in_the_tree_ends_at_p_or_at_one_sentence(explorer, visit):
    tab = visit("?view=tree")
    for _ in range(8):
        tab.locator("#tree-steps").click()
    q = tab.evaluate("state.tree.q")
    assert np.allclose(q, explorer.TREE["p"], atol=5e-3)  # KL(Q‖P) is 0 there
    tab.locator("#tree-again").click()
    tab.locator("input[name=tree][value=reverse_ce]").check()
    for _ in range(8):
        tab.locator("#tree-steps").click()
    q = tab.evaluate("state.tree.q")
    assert min(max(row) for row in q) > 0.8  # "a b .", the likeliest
    assert "160 steps downhill" in tab.locator("#tree-says").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize("q", TABLES)
def test_the_links_of_the_approximation_are_the_package_s(explorer, visit, q):
    tab, world = visit("?view=tree"), mm.worlds.markov(explorer.TREE["p"])
    links = tab.evaluate("(q) => linksOf(q)", q)
    max_len = explorer.TREE["max_len"]
    for name, objective in [("reverse", "reverse_ce"), ("overlap", "overlap"), ("tokens", "mixce")]:
        loss, gradient = mm.exact.bigram_loss_and_grads(
            np.log(q), world, objective=objective, eta=0.0, max_len=max_len
        )
        assert links[name]["value"] == pytest.approx(float(loss), abs=1e-9), name
        assert np.allclose(links[name]["slopes"], gradient, rtol=0, atol=1e-9), name
    assert links["jensen"]["value"] <= links["reverse"]["value"]  # Jensen's inequality
    shown = tab.evaluate(
        "(q) => { state.tree.q = q; change();"
        " return [...document.querySelectorAll('#tree-links td:last-child')]"
        ".map((x) => parseFloat(x.textContent)); }",
        q,
    )
    assert shown[0] == 0
    assert shown[1] == shown[2]  # the logarithm does not turn the push
    assert shown[3] != shown[2]


# ---- a bigram trained in the page ----------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize(("objective", "eta"), [("forward_ce", 1), ("mixce", 0.3)])
def test_the_trained_bigram_s_loss_and_slopes_are_the_package_s(explorer, visit, objective, eta):
    tab = visit("?view=training")
    logits = np.random.default_rng(0).standard_normal((6, 6))
    loss, gradient = explorer.loss_and_grad(logits, objective, eta)
    found = tab.evaluate("([z, eta]) => tableLoss(z, eta)", [logits.tolist(), eta])
    assert found["loss"] == pytest.approx(loss, abs=1e-9)
    assert np.allclose(found["slopes"], gradient, rtol=0, atol=1e-9)
    model = mm.TableBigram(6, device="cpu")
    model.params["logits"] = logits
    shown = tab.evaluate("(z) => sentencesUnder(z)", logits.tolist())
    assert np.allclose(shown, explorer.sentence_probs(model), rtol=0, atol=1e-12)


@pytest.mark.browser
@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_training_comes_near_the_optimum(explorer, visit, motion):
    tab = visit("?view=training", motion=motion)
    tab.locator("#training-run").click()
    if motion == "no-preference":  # it runs; here it is paused, and then taken to the end
        tab.wait_for_function("state.training.step > 2")
        assert tab.locator("#training-run").inner_text() == "Pause"
        tab.locator("#training-run").click()
        assert tab.evaluate("state.training.step") < 400
        tab.evaluate("finishTraining()")
    assert cells(tab, "training-step") == ["400", "400"]
    for name, ratio, kind in [("mle", None, "c"), ("mixce", 0.1, "q")]:
        best = explorer.describe(explorer.optimum(name, ratio))[:7]
        texts = tab.locator(f"#training-bars .value-{kind}").all_text_contents()
        assert np.allclose(as_numbers(texts), best, atol=0.03), name
    validity = as_numbers(cells(tab, "training-valid"))
    assert validity[1] > validity[0] + 5
    tab.locator("#training-again").click()
    assert cells(tab, "training-step") == ["0", "0"]


# ---- one view alone ------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("view", ["simplex", "tree", "context", "sentences", "training"])
def test_a_lesson_can_show_one_view(visit, view):
    tab = visit(f"?view={view}", width=700)
    shown = "[...document.querySelectorAll('section')].filter((x) => !x.hidden).map((x) => x.id)"
    assert tab.evaluate(shown) == [view]
    assert not tab.locator("h1").is_visible()
    tab.goto(tab.url.partition("?")[0] + "#" + view)
    assert len(tab.evaluate(shown)) == 5
    assert tab.evaluate(
        f"Math.abs(document.getElementById('{view}').getBoundingClientRect().top)"
        " < 2 || scrollY + innerHeight > document.body.scrollHeight - 2"
    )


@pytest.mark.browser
def test_an_address_restores_simplex_and_tree(visit):
    tab = visit(
        "#simplex=tailr&simplex.ratio=0.3&simplex.p=0.2,0.3,0.5&tree=reverse_ce&tree.node=2"
    )
    tab.locator("#simplex-ratio").focus()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("location.hash.includes('simplex.ratio=0.31')")
    shown = tab.locator("#simplex-says").inner_text(), tab.locator("#tree-says").inner_text()
    again = visit("#" + tab.url.partition("#")[2])
    found = again.locator("#simplex-says").inner_text(), again.locator("#tree-says").inner_text()
    assert found == shown
    assert "TaiLr" in shown[0]
    assert "After “b”" in shown[1]


@pytest.mark.browser
def test_the_page_stays_small_and_quick(visit):
    tab = visit("#simplex=all")
    assert tab.evaluate("document.querySelectorAll('*').length") < 1200
    redraws = """() => {
      const start = performance.now();
      for (const name of Object.keys(OBJECTIVES)) { state.simplex.objective = name; show(); }
      return (performance.now() - start) / Object.keys(OBJECTIVES).length;
    }"""
    assert tab.evaluate(redraws) < 1000  # some 30 ms on an idle machine
