"""Let a model go on from the beginnings of held-out texts, to compare with how the texts go on.

Held-out texts are dealt into two hands. The model goes on from the prompts of the first, whose own
continuations are what it is compared with. The second is for what must be other text: it gives the
human value of MAUVE, and top-p is tuned on it.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import backend
from ..model import LanguageModel, check_drawn
from ..storage import validate
from ..storage.shapes import Int, Seed
from ..text.prepared import Tokens
from . import mauve, measures
from .measures import Ids
from .options import option, parse_seeds

# where the MixCE authors look for the top-p whose samples are as diverse as human text
TOP_PS = (0.85, 0.87, 0.89, 0.91, 0.93, 0.95, 0.97, 0.99)
SPAN_PROMPT = 37  # words of prompt in their spans, int(50 / 1.35)
_ROWS = 32  # texts that are written at a time
_STEPS = 64  # tokens of each, before it is looked whether all of them have ended


@dataclass
class ContinuationOptions:
    """What is measured on continuations, and by what."""

    prompt_tokens: int = option(
        0,
        "let the model go on from the first so many tokens of --samples held-out texts, up to"
        " --tokens in all, and measure that beside how the texts go on; 0: do not",
    )
    seeds: str = option("0,1,2", "seeds of these samples: mean and deviation are over them")
    top_p: float | None = option(None, "sample with this top-p, too")
    tune_top_p: bool = option(
        False,
        "the same with the top-p whose samples are as diverse as human text, found on other texts",
    )
    mauve: bool = option(
        False, "measure MAUVE, too (needs the extra 'mauve', whose library is under the GPL)"
    )
    features: str | None = option(
        None,
        "GPT-2 folder whose hidden states MAUVE and coherence compare texts by (default: the model"
        " itself, which then compares with no other)",
        metavar="FOLDER",
    )
    encode: str | None = option(
        None,
        "FILE.py:NAME, a function from a list of n texts to vectors (n, d), for coherence in the"
        " place of hidden states; the file is executed",
        metavar="FILE.py:NAME",
    )
    spans: int = option(
        1000, "spans of equally many words for controlled measures, 10000 in the paper; 0: none"
    )
    span_words: int = option(
        74, f"words of a span, the first half of which, at most {SPAN_PROMPT}, is its prompt"
    )


def check_options(o: ContinuationOptions, samples: int, tokens: int) -> None:
    """Raise ValueError, naming the option, for options `o` that cannot work, by themselves or with
    `samples` texts of `tokens` tokens.
    """
    if not 1 <= o.prompt_tokens < tokens:
        raise ValueError(
            f"--prompt-tokens must be at least 1 and less than --tokens, {tokens}, got"
            f" {o.prompt_tokens}"
        )
    if samples < 1:
        raise ValueError(f"--samples must be at least 1 with --prompt-tokens, got {samples}")
    validate.check_count("--spans", o.spans, least=0)
    validate.check_count("--span-words", o.span_words, least=2)
    if o.top_p is not None and not 0 < o.top_p <= 1:
        raise ValueError(f"--top-p must be above 0 and at most 1, got {o.top_p}")
    if o.top_p is not None and o.tune_top_p:
        raise ValueError("--top-p and --tune-top-p exclude each other")
    parse_seeds(o.seeds)
    if o.mauve:
        mauve.check_count(samples)
        mauve.check_library()


# ---- texts ---------------------------------------------------------------------------------------


class Hands(NamedTuple):
    """Held-out texts, ids (n,) each, that begin with `prompt_tokens` tokens of prompt: `measured`
    and `others`, as many of each; whole: whether each is a text from its beginning, which ends, or
    a stretch of text.
    """

    measured: list[Ids]
    others: list[Ids]
    prompt_tokens: int
    whole: bool


def deal(
    ids: Tokens, boundary: int, count: int, tokens: int, prompt_tokens: int, whole: bool
) -> Hands:
    """`count` texts to measure on and as many others, evenly spread over a stream `ids` (N,), each
    of at most `tokens` tokens; fewer where there are fewer.

    whole: the texts that the token `boundary` divides, as far as they are longer than their prompt;
    otherwise stretches of `tokens` tokens, one behind another. Raises ValueError where there are
    not two.
    """
    if whole:
        stream = np.asarray(ids[:])
        ends = np.flatnonzero(stream == boundary).tolist()  # Python's integers: tokens may be any
        places = [(a + 1, min(b, a + 1 + tokens)) for a, b in itertools.pairwise(ends)]
        texts: list[Ids] = [stream[a:b] for a, b in places if b - a > prompt_tokens]
    else:
        texts = [*measures.held_out_texts(ids, 2 * count, tokens)]
    if len(texts) < 2:
        kind = f"texts of more than {prompt_tokens}" if whole else f"stretches of {tokens}"
        raise ValueError(
            f"continuations need two {kind} tokens to measure on, got {len(texts)}; take more of"
            " the text (--eval-tokens), or smaller --tokens and --prompt-tokens"
        )
    count = min(count, len(texts) // 2)
    chosen = [texts[i] for i in np.linspace(0, len(texts) - 1, 2 * count).astype(int)]
    return Hands(chosen[::2], chosen[1::2], prompt_tokens, whole)


def write_on(
    model: LanguageModel,
    texts: Sequence[Ids],
    hands: Hands,
    boundary: int,
    tokens: int,
    *,
    temperature: float = 1.0,
    top_p: float | None = None,
    seed: Seed = 0,
) -> list[Ids]:
    """Let a model go on from the prompt of each of `texts`, of `hands`, until the text has `tokens`
    tokens or, where texts are whole, ends -> ids (n,) of each, prompt included.

    The prompt of a whole text has the boundary before it. temperature, top_p, seed: as for
    GPT.generate, whose NotFinite is raised for logits that are not finite.
    """
    rng = backend.rng(seed, model.xp)
    prompts = np.stack([np.asarray(ids[: hands.prompt_tokens]) for ids in texts]).astype(np.int64)
    first = 0
    if hands.whole:
        prompts = np.insert(prompts, 0, boundary, axis=1)
        first = 1
    stop = boundary if hands.whole else None
    more = tokens - hands.prompt_tokens
    written: list[Ids] = []
    for start in range(0, len(prompts), _ROWS):
        rows = prompts[start : start + _ROWS]
        stream = model.stream(
            model.xp.asarray(rows), more, temperature, top_p=top_p, stop=stop, seed=rng
        )
        while drawn := [*itertools.islice(stream, _STEPS)]:
            on_host = backend.to_numpy(model.xp.stack(drawn, axis=1))
            check_drawn(on_host)
            rows = np.concatenate([rows, on_host], axis=1)
            if stop is not None and (on_host[:, -1] == stop).all():
                break
        written += [_up_to(row[first:], stop, hands.prompt_tokens) for row in rows]
    return written


def _up_to(ids: Int[np.ndarray, " n"], stop: int | None, least: int) -> Int[np.ndarray, " m"]:
    """ids up to the first `stop` behind `least` tokens."""
    if stop is None:
        return ids
    ends = least + np.flatnonzero(ids[least:] == stop)
    return ids[: ends[0]] if len(ends) else ids


def tune_top_p(
    write: Callable[[float], Sequence[Ids]], human: Sequence[Ids], choices: Sequence[float] = TOP_PS
) -> tuple[float, dict[float, float]]:
    """The top-p of `choices` whose texts, write(top_p), are nearest in mean diversity to `human` ->
    that, and {top_p: its diversity}. The criterion is that of the MixCE authors.
    """
    wanted = _mean_diversity(human)
    found = {top_p: _mean_diversity(write(top_p)) for top_p in choices}
    return min(found, key=lambda top_p: abs(found[top_p] - wanted)), found


def _mean_diversity(texts: Sequence[Ids]) -> float:
    return float(np.mean([measures.diversity(ids) for ids in texts]))


# ---- spans ---------------------------------------------------------------------------------------


def count_spans(texts: Sequence[str], words: int) -> int:
    """How many spans of `words` words `texts` have; words are what white space divides."""
    return sum(max(0, len(text.split()) - words + 1) for text in texts)


def draw_spans(texts: Sequence[str], count: int, words: int, seed: int) -> list[list[str]]:
    """`count` different spans of `words` words, drawn by `seed` from all that `texts` have, each
    as probable as any other -> lists of words. Raises ValueError where there are fewer.

    So what is compared has equal length, whoever wrote it. (The authors never draw the last span of
    a text.)
    """
    split = [text.split() for text in texts]
    ends = np.cumsum([max(0, len(each) - words + 1) for each in split])
    total = int(ends[-1]) if len(ends) else 0
    if count > total:
        raise ValueError(f"the texts have {total} spans of {words} words, {count} are wanted")
    chosen = np.random.default_rng(seed).choice(total, count, replace=False)
    places = np.searchsorted(ends, chosen, side="right")
    starts = chosen - np.concatenate([[0], ends])[places]
    return [split[i][start : start + words] for i, start in zip(places, starts)]
