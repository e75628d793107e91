"""Views that the explorer computes itself: three outcomes, the tree of prefixes, training."""

import re

import numpy as np
import pytest
from explorer_cells import as_numbers, cells

import minimixce as mm

pytest_plugins = ["explorer_page"]  # its fixtures

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


@pytest.mark.browser
def test_the_control_has_the_same_entropy(visit):
    tab = visit("#objective=mixce&eta=0.3&control=1")
    q, control = (np.array(as_numbers(cells(tab, row))) for row in ("row-q", "row-c"))
    entropies = [-(x[x > 0] * np.log(x[x > 0])).sum() for x in (q, control)]
    assert entropies[0] == pytest.approx(entropies[1], abs=5e-3)
    tau = float(tab.locator("#control-name").inner_text().split()[-1])
    power = np.array((0.5, 0.25, 0.15, 0.07, 0.03)) ** (1 / tau)
    assert np.allclose(control, power / power.sum(), atol=5e-3)
