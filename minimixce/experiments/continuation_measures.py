"""The measures of the MixCE paper's second half, of continuations (continuations.py): what
`minimixce eval --prompt-tokens` prints.

A measure is a row of CONTINUATION_MEASURES, as in measures.TEXT_MEASURES; both tables are measured.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..gpt import GPT
from ..model import LanguageModel
from ..storage.shapes import Array, Batch, Float
from ..text import Corpus
from ..text.prepared import Tokens
from ..text.tokenizers import Tokenizer
from ..training import run
from . import embeddings, mauve, tables
from .continuations import (
    ContinuationOptions,
    Hands,
    count_spans,
    deal,
    draw_spans,
    tune_top_p,
    write_on,
)
from .measures import TEXT_MEASURES, Measure, TextEvidence
from .options import parse_seeds
from .published import authors_repetition


@dataclass
class Judge:
    """By what texts are compared: encode(texts) -> (n,d) for coherence, features(texts) -> (n,d)
    for MAUVE (None: it is not measured), and the number and length of spans.
    """

    encode: embeddings.Encode
    features: embeddings.Encode | None
    spans: int = 0
    span_words: int = 74


@dataclass(kw_only=True)
class Compared(TextEvidence):
    """What a function of CONTINUATION_MEASURES may look at: texts, of which so many tokens are
    prompt, a judge, the seed of spans, and the human texts that MAUVE compares them with.
    """

    prompt_tokens: int
    judge: Judge
    seed: int = 0
    reference: "Compared | None" = None

    def __post_init__(self) -> None:
        self._features_of_spans: dict[int, Float[Array, "n d"]] = {}

    def has(self, needs: str) -> bool:
        """Whether it can serve a measure that needs "model", "texts", "mauve" (features and a
        reference), "spans", or "spans, mauve" (both).
        """
        with_mauve = self.judge.features is not None and self.reference is not None
        if needs == "spans, mauve":
            return with_mauve and self.judge.spans >= mauve.LEAST
        if needs in ("spans", "mauve"):
            return self.judge.spans > 0 if needs == "spans" else with_mauve
        return super().has(needs)

    @functools.cached_property
    def strings(self) -> list[str]:
        """The texts as strings."""
        return self.decoded()

    @functools.cached_property
    def text_features(self) -> Float[Array, "n d"]:
        """Features of the texts."""
        assert self.judge.features is not None  # has("mauve") says so
        return self.judge.features(self.strings)

    def span_features(self, seed: int) -> Float[Array, "n d"]:
        """Features of the spans that `seed` draws."""
        assert self.judge.features is not None
        if seed not in self._features_of_spans:
            spans = [" ".join(words) for words in self.draw(seed)]
            self._features_of_spans[seed] = self.judge.features(spans)
        return self._features_of_spans[seed]

    def draw(self, seed: int) -> list[list[str]]:
        """Spans of the texts, by `seed`."""
        return draw_spans(self.strings, self.judge.spans, self.judge.span_words, seed)

    @functools.cached_property
    def authors_repetitions(self) -> list[tuple[float, int]]:
        """published.authors_repetition of each text."""
        return [authors_repetition(ids) for ids in self.texts]

    def parts(self) -> list[list[str]]:
        """[prompts, continuations], as strings."""
        cut = self.prompt_tokens
        sides = ([ids[:cut] for ids in self.texts], [ids[cut:] for ids in self.texts])
        return [TextEvidence(ids, self.tokenizer, self.vocabulary).decoded() for ids in sides]

    def span_parts(self) -> list[list[str]]:
        """[prompts, continuations] of spans: their halves."""
        cut = self.judge.span_words // 2
        spans = self.draw(self.seed)
        return [
            [" ".join(words[part]) for words in spans] for part in (slice(cut), slice(cut, None))
        ]


def _mauve(e: Compared) -> float:
    assert e.reference is not None
    return mauve.mauve(e.reference.text_features, e.text_features)


def _controlled_mauve(e: Compared) -> float:
    assert e.reference is not None
    return mauve.mauve(e.reference.span_features(e.seed), e.span_features(e.seed))


def _authors_length(e: Compared) -> float:
    """Of the texts that repeat a phrase; 0 where none does."""
    lengths = [length for _, length in e.authors_repetitions if length]
    return float(np.mean(lengths)) if lengths else 0.0


# a row as in TEXT_MEASURES; what it needs is what Compared.has knows
CONTINUATION_MEASURES = {
    "authors_repetition": Measure(
        "authors' repetition",
        ".4f",
        lambda e: float(np.mean([rate for rate, _ in e.authors_repetitions])),
        "texts",
    ),
    "authors_repetition_length": Measure("authors' rep. length", ".2f", _authors_length, "texts"),
    "coherence": Measure(
        "coherence",
        ".3f",
        lambda e: embeddings.coherence(e.judge.encode, *e.parts()),
        "texts",
        panel=("Coherence of prompt and continuation", "cosine"),
    ),
    "mauve": Measure("MAUVE", ".3f", _mauve, "mauve", panel=("MAUVE", "0 to 1")),
    "controlled_coherence": Measure(
        "controlled coherence",
        ".3f",
        lambda e: embeddings.coherence(e.judge.encode, *e.span_parts()),
        "spans",
    ),
    "controlled_mauve": Measure(
        "controlled MAUVE",
        ".3f",
        _controlled_mauve,
        "spans, mauve",
        panel=("MAUVE of spans of equal length", "0 to 1"),
    ),
}
ALL_MEASURES = TEXT_MEASURES | CONTINUATION_MEASURES


def measure_compared(evidence: Compared) -> dict[str, float]:
    """Those of ALL_MEASURES that the evidence serves -> {name: float}."""
    return {
        name: measure.function(evidence)
        for name, measure in ALL_MEASURES.items()
        if evidence.has(measure.needs)
    }


# ---- all of it -----------------------------------------------------------------------------------


def measure_continuations(
    model: LanguageModel,
    hands: Hands,
    corpus: Corpus,
    vocabulary: set[str],
    judge: Judge,
    *,
    tokens: int,
    seeds: Sequence[int],
    temperature: float = 1.0,
    top_p: float | None = None,
    tune: bool = False,
) -> dict[str, Any]:
    """All measures of what a model writes behind the prompts of hands.measured, and of these texts
    themselves -> {"groups": {label: a dict of measures for each seed}, "top_p", "tuned"}.

    The groups are "unbiased" (or "temperature T"), "top-p P" where top_p is given or tune=True, and
    "human text", measured once: against hands.others, where a measure compares. texts of the corpus
    are up to `tokens` tokens long. judge.spans is reduced to what the shortest of the groups has.
    tuned: {top-p: diversity}, on hands.others. Raises ValueError for too few texts for MAUVE.
    """
    boundary = corpus.tokenizer.boundary
    if judge.features is not None:
        mauve.check_count(len(hands.measured))

    def write(texts, seed, top_p):
        options = {"temperature": temperature, "top_p": top_p, "seed": seed}
        return write_on(model, texts, hands, boundary, tokens, **options)

    def compared(texts, seed=0, reference=None):
        common = {"prompt_tokens": hands.prompt_tokens, "judge": judge}
        return Compared(
            texts, corpus.tokenizer, vocabulary, seed=seed, reference=reference, **common
        )

    tuned = None
    if tune:
        others = hands.others
        top_p, tuned = tune_top_p(lambda p: write(others, seeds[0], p), others)
    human = compared(hands.measured, seeds[0], compared(hands.others))
    label = "unbiased" if temperature == 1 else f"temperature {temperature:g}"
    decoding = {label: None} | ({} if top_p is None else {f"top-p {top_p:g}": top_p})
    groups = {
        label: [compared(write(hands.measured, seed, p), seed, human) for seed in seeds]
        for label, p in decoding.items()
    }
    groups["human text"] = [human]
    limit_spans(judge, [e.strings for e in [human.reference, *itertools.chain(*groups.values())]])
    found = {
        label: [{"seed": e.seed} | measure_compared(e) for e in group]
        for label, group in groups.items()
    }
    return {"groups": found, "top_p": top_p, "tuned": tuned}


def limit_spans(judge: Judge, texts: Sequence[Sequence[str]]) -> None:
    """Set judge.spans to as many as each of several sets of texts has, at most what it is."""
    judge.spans = min([judge.spans, *(count_spans(each, judge.span_words) for each in texts)])


# ---- what eval prints ----------------------------------------------------------------------------


def report_continuations(
    model: GPT,
    ids: Tokens,
    corpus: Corpus,
    vocabulary: set[str],
    batches: Iterable[Batch],
    o: ContinuationOptions,
    *,
    whole: bool,
    samples: int,
    tokens: int,
    temperature: float = 1.0,
    device: str = "auto",
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """measure_continuations on `samples` texts of up to `tokens` tokens of held-out text, `ids`
    (N,), with options o -> what it returns, and "fit": perplexity and entropy on `batches`,
    "headings" and "rows" of the table, and "notes" on how to read it, which are said, too.

    vocabulary: words that count as valid; whole, temperature: as for deal and write_on; device: of
    o.features. Raises ValueError or FileNotFoundError for options that cannot work.
    """
    hands = deal(ids, corpus.tokenizer.boundary, samples, tokens, o.prompt_tokens, whole)
    seeds = parse_seeds(o.seeds)
    judge = judge_by(o, model, corpus.tokenizer, device)
    found = measure_continuations(
        *(model, hands, corpus, vocabulary, judge),
        tokens=tokens,
        seeds=seeds,
        temperature=temperature,
        top_p=o.top_p,
        tune=o.tune_top_p,
    )
    evidence = TextEvidence([], corpus.tokenizer, vocabulary, model, batches, temperature)
    of_model = {name: row for name, row in TEXT_MEASURES.items() if row.needs == "model"}
    fit = {name: float(measure.function(evidence)) for name, measure in of_model.items()}
    headings, rows = tables.measures_by_row(found["groups"], ALL_MEASURES)
    blank = [""] * (len(headings) - 2)
    of_fit = [[row.heading, f"{fit[name]:{row.format}}", *blank] for name, row in of_model.items()]
    rows = [*of_fit, *rows]
    notes = reading_notes(o, hands, judge, tokens, len(seeds), found["tuned"])
    say(tables.format_table(headings, rows))
    for note in notes:
        say(note)
    used = {"options": asdict(o), "texts": len(hands.measured), "spans": judge.spans}
    return found | used | {"fit": fit, "headings": headings, "rows": rows, "notes": notes}


def markdown(report: dict[str, Any]) -> str:
    """What report_continuations returned as a page: the table and its notes, in Markdown."""
    table = tables.format_markdown(report["headings"], report["rows"])
    return "\n".join([table, "", *(f"- {note}" for note in report["notes"]), ""])


def judge_by(o: ContinuationOptions, model: GPT, tokenizer: Tokenizer, device: str) -> Judge:
    """By what the options o ask to compare texts."""
    if o.features is not None:
        model, tokenizer = run.open_folder(o.features, device)
    encode: embeddings.Encode = functools.partial(embeddings.mean_states, model, tokenizer)
    features = functools.partial(embeddings.last_states, model, tokenizer) if o.mauve else None
    if o.encode is not None:
        encode = embeddings.encoder_of_file(o.encode)
    return Judge(encode, features, o.spans, o.span_words)


def reading_notes(
    o: ContinuationOptions,
    hands: Hands,
    judge: Judge,
    tokens: int,
    seeds: int,
    tuned: dict[float, float] | None,
) -> list[str]:
    """Sentences on how to read the table."""
    count = len(hands.measured)
    whose = f"the hidden states of {o.features}" if o.features else "the model's own hidden states"
    over = f"mean ± standard deviation over {seeds} seeds, " if seeds > 1 else ""
    kind = "texts" if hands.whole else "stretches of text"
    found = [
        f"{over}each of {count:,} {kind} of up to {tokens} tokens, {hands.prompt_tokens} of them"
        " prompt; perplexity and entropy are of held-out text"
    ]
    if tuned:
        found.append(f"top-p: tuned for the diversity of human text on {count:,} other texts")
    if o.encode:
        found.append(f"coherence: cosine of vectors by {o.encode}")
    else:
        found.append(f"coherence: cosine of the means of {whose}, not comparable with SimCSE's")
    if o.mauve:
        few = f"; fewer than {mauve.RELIABLE:,} texts say little" if count < mauve.RELIABLE else ""
        found.append(
            f"MAUVE: by {whose}; compare only with the same features and as many texts{few}; of"
            f" human text: against {count:,} other texts"
        )
    if o.spans and not judge.spans:
        found.append(f"no controlled measures: no text of a kind has {judge.span_words} words")
    elif o.spans:
        fewer = "" if judge.spans == o.spans else f" (there are no {o.spans:,})"
        found.append(f"controlled: on {judge.spans:,} spans of {judge.span_words} words{fewer}")
        if o.mauve and judge.spans < mauve.LEAST:
            found.append(f"no controlled MAUVE: it needs {mauve.LEAST} spans")
    if not o.features and (o.mauve or not o.encode):
        found.append("a model's own hidden states compare it with no other model: give --features")
    return found
