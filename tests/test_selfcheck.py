"""What the package checks of itself covers the table of objectives."""

import functools

import numpy as np
import pytest

import minimixce as mm
from minimixce import objectives
from minimixce.experiments import selfcheck
from minimixce.objectives import Objective


def reports():
    """{title: Report} of selfcheck.objective_checks on a small case."""
    rng = np.random.default_rng(0)
    logits, cost_embedding = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 5))
    targets = np.array([[0, 3, -1], [2, 2, 1]])
    checks = selfcheck.objective_checks(logits, targets, cost_embedding)
    return {
        title: mm.gradcheck(objective, lambda dy, dlogits: (dy * dlogits,), [logits])
        for title, objective in checks
    }


def brier(log_q, ratio, xp):
    """½ (1 − q)², whose weight is q (1 − q)."""
    q = xp.exp(log_q)
    return (1 - q) ** 2 / 2, q * (1 - q)


def loss_of(f_and_w):
    return lambda logits, targets, **options: objectives.token_objective(
        logits, targets, f_and_w, None, **options
    )


def test_every_objective_over_tokens_is_checked():
    found = reports()
    assert all(report.ok for report in found.values())
    assert {title.split(",")[0] for title in found} == set(objectives.names("tokens"))


def test_a_new_row_is_checked_without_being_named(monkeypatch):
    row = Objective("tokens", loss=loss_of(brier), f_and_w=brier)
    monkeypatch.setitem(objectives.OBJECTIVES, "brier", row)
    assert reports()["brier"].ok

    def wrong(log_q, ratio, xp):
        f, w = brier(log_q, ratio, xp)
        return f, 1.001 * w

    monkeypatch.setitem(objectives.OBJECTIVES, "brier", row._replace(loss=loss_of(wrong)))
    assert not reports()["brier"].ok


def test_a_row_that_stops_a_gradient_needs_a_frozen_form(monkeypatch):
    row = Objective("tokens", loss=loss_of(brier), stops_gradient=True)
    monkeypatch.setitem(objectives.OBJECTIVES, "brier", row)
    with pytest.raises(ValueError, match=r"brier stops a gradient and has no form in .*FROZEN"):
        reports()


def test_frozen_forms_are_those_of_the_table_and_no_others():
    stopped = {n for n in objectives.names("tokens") if objectives.OBJECTIVES[n].stops_gradient}
    assert selfcheck.FROZEN.keys() == stopped


@pytest.mark.parametrize("name", list(selfcheck.FROZEN))
def test_a_frozen_form_is_held_at_the_logits_it_was_made_at(name):
    """Its value moves with the logits, what is frozen does not: at other logits dlogits is not its
    derivative.
    """
    rng = np.random.default_rng(1)
    here, there, cost_embedding = (rng.standard_normal((3, 4)) for _ in range(3))
    checks = selfcheck.objective_checks(here, np.array([0, 1, 2]), cost_embedding.T)
    (objective,) = (check for title, check in checks if title.startswith(f"{name},"))
    check = functools.partial(mm.gradcheck, objective, lambda dy, dlogits: (dy * dlogits,))
    assert check([here]).ok
    assert not check([there]).ok
