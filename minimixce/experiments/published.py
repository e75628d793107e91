"""Objectives and measures as their authors' code has them, where it differs from what this package
computes: named, so that numbers of both can be told apart, and to compare with.

| here                | this package's          | the difference                                   |
| js_capped           | objectives js           | log Q − log P capped at 30 nats inside log M     |
| tailr_clamped       | objectives.tailr        | w is at least `least`                            |
| tailr_surrogate     | objectives.tailr        | the same, and the value is −sg[w] log q          |
| emo_patched         | objectives.emo          | the second term is divided by d + q, not by d    |
| frozen_embedding    | emo as training has it  | costs are those of the embedding at the start    |
| authors_repetition  | measures.repetition     | see there                                        |

Sources: the code of MixCE (Zhang et al. 2023, github.com/bloomberg/MixCE-acl2023), of TaiLr (Ji et
al. 2023, github.com/thu-coai/TaiLr) and of EMO (Ren et al. 2024, github.com/DRSY/EMO). Nothing here
is copied from them.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .. import objectives
from ..automaton import World
from ..backend import array_module
from ..exact_list import sum_over_list
from ..layers import softmax_forward
from ..logprob import Prefixes, Summand, Sums, times_log
from ..model import LanguageModel, complete_grads
from ..objectives import Logits, Normalizer, Targets
from ..storage.shapes import Array, ArrayModule, Float, Grads, LossAndDlogits, LossAndGrads
from ..storage.validate import check_horizon, check_ratio

CAP = 30.0  # nats, of the MixCE authors' log_prob_truncation


# ---- js ------------------------------------------------------------------------------------------


def js_capped(
    model: LanguageModel, world: World, max_len: int, *, eta: float = 0.5, cap: float = CAP
) -> LossAndGrads:
    """The MixCE authors' js of a model at η = eta in expectation, by the list of all sequences ->
    loss (0-d float64), grads {name: array}.

    Their log M is log P + log(η + (1−η) exp(r)), where r = log Q − log P is cut off at ±cap, and P
    is floored per token also where it stands for P. Where nothing is cut off this is js. Where P =
    0, as on most sequences of Q in a world with zeros, r is about 69 nats for each impossible
    token, so that log Q − log M is no longer at most −log(1−η): the value has no bound of log 2,
    and its gradient there is (1−η) times that of reverse KL, since M does not move with Q. Raises
    ValueError for an η that is not between 0 and 1, or a max_len that is no horizon.
    """
    check_horizon(max_len)
    objectives.check_objective_ratio("js", eta)
    sums = Sums()
    grads: Grads = {}
    terms = functools.partial(_js_capped, eta=float(eta), cap=cap)
    summand = Summand(terms, None)
    sum_over_list(model, world, max_len, summand, sums, grads, lambda n: None)
    return sums.total("js_capped", model.xp), complete_grads(grads, model)


def _js_capped(
    x: Prefixes, xp: ArrayModule, *, eta: float, cap: float
) -> tuple[dict[str, Array], Array]:
    """Values and weights ∂/∂log Q of whole sequences x (logprob.Prefixes)."""
    p, q, log_p = xp.exp(x.log_p), xp.exp(x.log_q), x.log_p_floored
    r = x.log_q - log_p
    ratio = xp.exp(xp.clip(r, -cap, cap))
    log_m = log_p + xp.log(eta + (1 - eta) * ratio)
    # ∂ log M / ∂ log Q, which is 0 where r is cut off
    slope = xp.where(xp.abs(r) < cap, (1 - eta) * ratio / (eta + (1 - eta) * ratio), 0)
    under_p = eta * times_log(p, log_p - log_m, xp)
    under_q = (1 - eta) * times_log(q, x.log_q - log_m, xp)
    w = -eta * p * slope + under_q + (1 - eta) * q * (1 - slope)
    return {"js_capped": under_p + under_q}, w


# ---- TaiLr ---------------------------------------------------------------------------------------


def tailr_clamped(
    logits: Logits,
    targets: Targets,
    *,
    gamma: float,
    least: float,
    normalizer: Normalizer = None,
    reduction: str = "mean",
) -> LossAndDlogits:
    """TaiLr with its weight clamped from below: w = max(q / (γ + (1−γ) q), least).

    The clamp is in all of the authors' scripts, with least = 0.2 or 0.3 and γ = 1e-7, 0.1 or 0.8.
    At γ = 0.8, 100 tokens and the start of training, w is 0.0125 without it and 0.2 with it: the
    clamp, not γ, then decides. The value is the one that dlogits is the derivative of: below the q
    at which w reaches `least` it goes on as −least · log q. logits (…,V), targets (…), −1 ignored
    -> loss (0-d, nats per target), dlogits (…,V); gamma, normalizer, reduction and errors as for
    objectives.tailr; least in [0, 1], or ValueError is raised.
    """
    ratios = check_ratio("gamma", gamma), check_ratio("least", least)
    arguments = (ratios, normalizer, reduction)
    return objectives.token_objective(logits, targets, _tailr_clamped, *arguments)


def _tailr_clamped(
    log_q: Array, ratios: tuple[float, float], xp: ArrayModule
) -> tuple[Array, Array]:
    gamma, least = ratios
    tailr = objectives.OBJECTIVES["tailr"].f_and_w
    mle = objectives.OBJECTIVES["mle"].f_and_w
    assert tailr is not None
    assert mle is not None
    f, w = tailr(log_q, gamma, xp)
    if gamma == 0 or least == 0:  # w is 1, or is never less
        return f, w
    if least == 1:  # which w, at most 1, never exceeds
        return mle(log_q, None, xp)
    # w = least at q = least γ / (1 − least (1−γ))
    log_edge = xp.full_like(log_q, math.log(least * gamma) - math.log1p(-least * (1 - gamma)))
    f_at_edge, _ = tailr(log_edge, gamma, xp)
    below = w < least
    return xp.where(below, f_at_edge - least * (log_q - log_edge), f), xp.maximum(w, least)


def tailr_surrogate(
    logits: Logits,
    targets: Targets,
    *,
    gamma: float,
    least: float = 0.0,
    normalizer: Normalizer = None,
    reduction: str = "mean",
) -> LossAndDlogits:
    """TaiLr with the value that its authors' code prints: −sg[w] log q, w clamped from below.

    sg stops the gradient, so the gradient is tailr_clamped's while the value is another, and
    dlogits is NOT its derivative. Arguments, shapes and errors as for tailr_clamped.
    """
    ratios = check_ratio("gamma", gamma), check_ratio("least", least)
    arguments = (ratios, normalizer, reduction)
    return objectives.token_objective(logits, targets, _tailr_surrogate, *arguments)


def _tailr_surrogate(
    log_q: Array, ratios: tuple[float, float], xp: ArrayModule
) -> tuple[Array, Array]:
    _, w = _tailr_clamped(log_q, ratios, xp)
    return -times_log(w, log_q, xp), w


# ---- EMO -----------------------------------------------------------------------------------------


def emo_patched(
    logits: Logits,
    targets: Targets,
    cost_embedding: Float[Array, "V C"],
    *,
    normalizer: Normalizer = None,
    reduction: str = "mean",
) -> LossAndDlogits:
    """EMO as a later patch of its authors has it: ½ (−log q + sg[−log q / (d + q)] d).

    A smaller second term than objectives.emo's, by d / (d + q): at q = 0.9 and d = 0.065 the target
    logit has the gradient −0.0532 in the place of −0.0974. The value, ½ (−log q) (1 + d / (d + q)),
    is no longer MLE's. Arguments, shapes and errors as for objectives.emo.
    """
    emo = functools.partial(objectives.emo, cost_embedding=cost_embedding)
    xp = array_module(logits)
    nll, _ = objectives.mle(logits, targets, reduction="none")
    share = _patched_share(logits, targets, cost_embedding, nll, xp)  # of the second term
    if reduction != "mean":
        _, pull = emo(logits, targets, reduction=reduction)
        return 0.5 * nll * (1 + share), xp.where(targets >= 0, 0.5 + share * (pull - 0.5), 0)
    loss, d_mle = objectives.mle(logits, targets, normalizer=normalizer)
    _, d_emo = emo(logits, targets, normalizer=normalizer)
    second = 2 * d_emo - d_mle
    count = xp.maximum((targets >= 0).sum(), 1) if normalizer is None else normalizer
    loss = xp.asarray((loss + (share * nll).sum() / count) / 2)
    return loss, (d_mle + share[..., None] * second) / 2


def _patched_share(
    logits: Logits,
    targets: Targets,
    cost_embedding: Float[Array, "V C"],
    nll: Float[Array, "*batch"],
    xp: ArrayModule,
) -> Float[Array, "*batch"]:
    """d / (d + q) of each target, like targets; 0 where d is."""
    unit = cost_embedding / xp.sqrt(xp.square(cost_embedding).sum(axis=-1, keepdims=True))
    ids = xp.where(targets >= 0, targets, 0)
    cost = 1 - unit[ids] @ unit.T
    cost = xp.where(cost > 8 * np.finfo(cost.dtype).eps, cost, 0)
    d = (softmax_forward(logits)[0] * cost).sum(axis=-1)
    return xp.where(d > 0, d / xp.where(d > 0, d + xp.exp(-nll), 1), 0).astype(logits.dtype)


def frozen_embedding(model: LanguageModel) -> Float[Array, "V C"]:
    """A copy of a GPT's token embedding, for cost_embedding: EMO's authors take the costs from the
    pretrained model and hold them fixed throughout training.

    Use it as functools.partial(objectives.emo, cost_embedding=frozen_embedding(model)), before
    training. The command line trains from scratch, where an embedding of the start says nothing of
    tokens, and takes the costs from the embedding as it is in each step.
    """
    return model.params["wte.weight"].copy()


# ---- repetition ----------------------------------------------------------------------------------


def authors_repetition(ids: Iterable[int], times: int = 3) -> tuple[float, int]:
    """The MixCE authors' repetition of a text, `ids` (n,) -> (rate, length of the longest phrase
    or 0).

    For each different token they look at the gaps between its occurrences, each gap read as a
    phrase that begins with the token. Neighbouring gaps that are equal make a run, which repeats
    its phrase once for each gap, and once more if the phrase stands again behind the last of them;
    but where the run goes up to the token's last occurrence, that once more is not looked for. Runs
    of `times` and more count, but only one for all phrases made of the same set of tokens: a run
    found later takes the place of an earlier one if it begins before it and repeats its phrase as
    often or more. The rate is the sum of length · repeats over these runs, divided by n. So a
    phrase found in two places counts once, one in which each token occurs twice is never
    found, and overlapping runs count twice: the rate can be above 1, and differs from
    measures.repetition in about half of all texts that repeat anything.
    """
    ids = [int(token) for token in ids]
    places: dict[int, list[int]] = {}
    for place, token in enumerate(ids):
        places.setdefault(token, []).append(place)
    found: dict[Any, Any] = {}  # by set of tokens: (repeats, start, length)
    for of_token in places.values():
        for phrase, repeats, start in _runs(ids, of_token):
            if repeats < times:
                continue
            before = found.get(frozenset(phrase))
            if before is None or (start < before[1] and repeats >= before[0]):
                found[frozenset(phrase)] = repeats, start, len(phrase)
    covered = sum(repeats * length for repeats, _, length in found.values())
    longest = max((length for _, _, length in found.values()), default=0)
    return (covered / len(ids) if ids else math.nan), longest


def _runs(ids: list[int], places: list[int]) -> Iterator[tuple[list[int], int, int]]:
    """Runs of equal gaps between the places of one token: (phrase, repeats, start)."""
    phrase: list[int] | None = None
    repeats, start = 0, 0
    last = places[0]
    for place in places[1:]:
        if phrase is not None and ids[last:place] == phrase:
            repeats += 1
        else:
            if phrase is not None:
                if ids[last : last + len(phrase)] == phrase:
                    repeats += 1
                    last += len(phrase)
                yield phrase, repeats, start
            phrase, repeats, start = ids[last:place], 1, last
        last = place
    if phrase is not None:
        yield phrase, repeats, start
