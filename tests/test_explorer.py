"""The explorer page: its numbers against the package, then the page itself in Chromium."""

import json
import re

import numpy as np
import pages
import pytest
from explorer_cells import as_numbers, cells

import minimixce as mm
from minimixce.experiments.fixed_points import fixed_point

pytest_plugins = ["explorer_page"]  # its fixtures
P = (0.5, 0.25, 0.15, 0.07, 0.03)
MAX_LEN = 4


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
