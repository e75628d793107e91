"""Compare fine-tuned models by how they go on: the experiment of the MixCE paper's second half,
which `minimixce compare --prompt-tokens` makes.

Every run goes on from the prompts of validation texts, by which one of the objectives beside MLE is
chosen, and from those of test texts, on which all are measured. The control is MLE at the
temperature at which it has the entropy of the other model.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..training import run
from . import continuation_measures, intervals, measures, tables
from .continuation_measures import ALL_MEASURES, Compared, measure_compared
from .continuation_runs import HeldOut, Way, Writer, digest_of, digest_of_model, ways
from .continuations import ContinuationOptions, count_spans
from .measures import Ids, spread
from .options import ComparisonOptions
from .trained import Comparison, Runs, curve, labels_and_seeds, shared_options

_HUMAN = "human text"
_LEVEL, _POWER = 0.95, 0.8
Rows: TypeAlias = list[dict[str, Any]]


def compare_on_continuations(
    o: ComparisonOptions,
    c: ContinuationOptions,
    objectives: dict[str, dict[str, Any]],
    trained: Runs,
    held_out: HeldOut,
    out: Path,
    say: Callable[[str], object],
) -> Comparison:
    """Let trained models go on, and measure what they write -> Comparison.

    objectives: the options of the runs by label; held_out: what deal_texts made; out: the folder in
    which what is written is kept; say: takes the name of each run, unless the options are quiet.
    """
    labels, seeds = labels_and_seeds(trained)
    writer = Writer(o, c, trained, held_out, out)
    wanted = ways(labels, seeds, c)
    for way in wanted:
        if writer.write(way) and not o.quiet:
            say(f"{way.group}, seed {way.seed}: went on from {way.split} texts")
    return _Measuring(o, c, objectives, trained, writer, wanted).comparison()


class _Measuring:
    """What the parts of a comparison share."""

    def __init__(
        self,
        o: ComparisonOptions,
        c: ContinuationOptions,
        objectives: dict[str, dict[str, Any]],
        trained: Runs,
        writer: Writer,
        wanted: Sequence[Way],
    ) -> None:
        self._o, self._c, self._objectives = o, c, objectives
        self._trained, self._writer, self._wanted = trained, writer, wanted
        first = next(iter(trained.values()))
        self._corpus = first.job.corpus
        self._vocabulary = measures.vocabulary_of(self._corpus)
        if c.features is not None:
            model, tokenizer = run.open_folder(c.features, o.device)
        else:  # --encode alone reads texts
            model, tokenizer = first.load(), self._corpus.tokenizer
        here = dataclasses.replace(c, features=None)
        self._judge = continuation_measures.judge_by(here, model, tokenizer, o.device)
        code = Path(c.encode.rpartition(":")[0]).read_text("utf-8") if c.encode else ""
        by = [c.prompt_tokens, c.mauve, c.spans, c.span_words, c.encode, code, o.eval_tokens]
        by.append(digest_of_model(model))
        self._by = digest_of([*by, *map(_ids, self._all_human_texts())])

    def comparison(self) -> Comparison:
        """All of it."""
        labels, seeds = labels_and_seeds(self._trained)
        validation, human_validation = self._on_validation()
        chosen = choose(validation, human_validation)
        groups, human = self._on_test()
        rows = {label: groups[label] for label in labels}
        controls = {label: group for label, group in groups.items() if label not in rows}
        differences = {
            f"{label} − {other}": difference(groups[label], groups[other])
            for label in labels
            if label != "mle"
            for other in ("mle", f"mle, entropy of {label}")
        }
        by = "MAUVE" if self._c.mauve else "diversity nearest to human text's"
        result = {
            "objectives": self._objectives,
            "rows": rows,
            "controls": controls,
            "temperatures": {},
            "held_out": human,
            "validation": validation | {_HUMAN: [human_validation]},
            "chosen": chosen,
            "chosen_by": f"validation {by}",
            "differences": differences,
            "texts": {split: len(hands.measured) for split, hands in self._hands.items()},
            "spans": self._judge.spans,
            "curves": {
                label: [curve(self._trained[label, seed]) for seed in seeds] for label in labels
            },
            "options": shared_options(self._o) | dataclasses.asdict(self._c),
        }
        groups[_HUMAN] = [human]
        return Comparison(
            result, groups, ALL_MEASURES, self._note(seeds, by), self._parts(result, groups)
        )

    @property
    def _hands(self):
        return self._writer.held_out.hands

    def _all_human_texts(self) -> list[Ids]:
        return [ids for hands in self._hands.values() for part in hands[:2] for ids in part]

    def _compared(
        self, texts: Sequence[Ids], seed: int = 0, reference: Compared | None = None, **more: Any
    ) -> Compared:
        return Compared(
            texts,
            self._corpus.tokenizer,
            self._vocabulary,
            prompt_tokens=self._c.prompt_tokens,
            judge=self._judge,
            seed=seed,
            reference=reference,
            **more,
        )

    # ---- validation ------------------------------------------------------------------------------

    def _on_validation(self) -> tuple[dict[str, Rows], dict[str, float]]:
        """What the choice among the objectives looks at: of each run, and of the human text."""
        hands = self._hands["validation"]
        human = self._compared(hands.measured, reference=self._compared(hands.others))

        def look(evidence):
            names = ["diversity", "mauve"] if self._c.mauve else ["diversity"]
            return {name: ALL_MEASURES[name].function(evidence) for name in names}

        found: dict[str, Rows] = {}
        for way in self._wanted:

            def measure(texts, temperature, way=way):
                return look(self._compared(texts, way.seed, human))

            if way.split == "validation":
                row = self._writer.measured(way, self._by, measure)
                found.setdefault(way.label, []).append(row)
        return found, look(human)

    # ---- test ------------------------------------------------------------------------------------

    def _on_test(self) -> tuple[dict[str, Rows], dict[str, float]]:
        """All measures, by label in tables, and those of the human text."""
        hands, batches = self._hands["test"], self._writer.held_out.batches
        wanted = [way for way in self._wanted if way.split == "test"]
        others = self._compared(hands.others)
        human = self._compared(hands.measured, reference=others)
        self._limit_spans([human.strings, others.strings], wanted)
        by = digest_of([self._by, self._judge.spans])
        found: dict[str, Rows] = {}
        for way in sorted(wanted, key=lambda way: (bool(way.like), way.top_p)):

            def measure(texts, temperature, way=way):
                fit = {"temperature": temperature}
                # a nucleus gives what is outside no probability at all: no perplexity is finite
                if not way.top_p:
                    model = self._trained[way.label, way.seed].load()
                    fit |= {"model": model, "batches": batches}
                return measure_compared(self._compared(texts, way.seed, human, **fit))

            found.setdefault(way.group, []).append(self._writer.measured(way, by, measure))
        return found, measure_compared(human)

    def _limit_spans(self, human: Sequence[Sequence[str]], wanted: Sequence[Way]) -> None:
        """As many spans for all texts as the shortest of them have."""
        words = self._judge.span_words
        counts = [count_spans(texts, words) for texts in human]
        if self._judge.spans:
            counts += [
                count_spans(self._compared(self._writer.texts(way)).strings, words)
                for way in wanted
            ]
        self._judge.spans = min([self._judge.spans, *counts])

    # ---- what is shown ---------------------------------------------------------------------------

    def _parts(self, result: dict[str, Any], groups: dict[str, Rows]) -> list[Any]:
        chosen, by = result["chosen"], result["chosen_by"]
        control = f"mle, entropy of {chosen}"
        first = ["mle", chosen, control, "mle, top-p", f"{chosen}, top-p", _HUMAN]
        best = {label: groups[label] for label in first if label in groups}
        rest = {label: rows for label, rows in groups.items() if label not in first}
        parts = [
            (
                f"On the test text: MLE and {chosen}, the best by {by}",
                *tables.measures_by_row(best, ALL_MEASURES),
            ),
            (f"Differences of {chosen}", *_difference_rows(result["differences"], chosen)),
            ("On validation texts", *tables.measures_by_row(result["validation"], ALL_MEASURES)),
        ]
        if rest:
            parts.append(
                ("On the test text, the others", *tables.measures_by_row(rest, ALL_MEASURES))
            )
        return parts

    def _note(self, seeds: Sequence[int], by: str) -> str:
        c, n = self._c, len(seeds)
        notes = continuation_measures.reading_notes(
            c, self._hands["test"], self._judge.spans, self._o.tokens, n, None
        )
        notes.append(
            f"the choice among the objectives is by validation {by}"
            + ("" if c.mauve else ", for want of --mauve")
        )
        if c.tune_top_p:
            notes.append("top-p: tuned for the diversity of human text on validation texts")
        if n > 1:
            notes.append(
                f"differences are of runs with the same seed, with {_LEVEL:.0%} t intervals from"
                f" {n} of them; seeds: how many it takes to leave out 0 with probability {_POWER},"
                " if the true difference and its deviation are those found here: the least n ≥"
                " ((t(0.975) + t(0.8)) s / d)²"
            )
        return "\n".join(notes)


def _ids(ids: Ids) -> list[int]:
    return np.asarray(ids).tolist()


def choose(validation: dict[str, Rows], human: dict[str, float]) -> str:
    """The best label other than "mle" by its mean over rows of validation: of the highest MAUVE or,
    where `human` has none, of the diversity nearest to human text's.
    """
    name = "mauve" if "mauve" in human else "diversity"
    means = {
        label: spread(rows, [name])[name][0] for label, rows in validation.items() if label != "mle"
    }
    if name == "mauve":
        return max(means, key=means.__getitem__)
    return min(means, key=lambda label: abs(means[label] - human[name]))


def difference(a: Rows, b: Rows) -> dict[str, dict[str, Any]]:
    """Rows of measures minus others, of the same seeds in the same order -> {measure: {"mean",
    "low", "high", "seeds"}}: a t interval and intervals.pairs_needed; the mean alone where there is
    one seed.
    """
    names = [name for name in ALL_MEASURES if all(name in row for row in (*a, *b))]
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        values = [x[name] - y[name] for x, y in zip(a, b, strict=True)]
        if len(values) < 2:
            found[name] = {"mean": values[0]}
            continue
        mean, low, high = intervals.interval(values, _LEVEL)
        needed = intervals.pairs_needed(values, _LEVEL, _POWER)
        found[name] = {"mean": mean, "low": low, "high": high, "seeds": needed}
    return found


def _difference_rows(
    differences: dict[str, dict[str, dict[str, Any]]], chosen: str
) -> tuple[list[str], list[list[str]]]:
    """A row a measure, three columns a difference of the label `chosen` -> headings, rows."""
    own = {name: row for name, row in differences.items() if name.startswith(f"{chosen} − ")}
    headings = [""]
    for name in own:
        headings += [
            f"minus {name.removeprefix(f'{chosen} − ')}",
            f"{_LEVEL:.0%} interval",
            "seeds",
        ]
    rows = []
    for measure in next(iter(own.values())):
        cells = [ALL_MEASURES[measure].heading]
        for found in own.values():
            cells += _difference_cells(found.get(measure), ALL_MEASURES[measure].format)
        rows.append(cells)
    return headings, rows


def _difference_cells(found: dict[str, Any] | None, format: str) -> list[str]:
    if found is None:
        return ["", "", ""]
    if "low" not in found:
        return [f"{found['mean']:+{format}}", "", ""]
    seeds = "" if found["seeds"] is None else f"{found['seeds']:,}"
    interval = f"{found['low']:+{format}} to {found['high']:+{format}}"
    return [f"{found['mean']:+{format}}", interval, seeds]
