"""What the ways to measure the runs of a comparison have in common: the runs as they were trained,
and what is found about them.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from .. import objectives
from ..gpt import GPT
from . import measures, tables
from .jobs import Job
from .options import ComparisonOptions

# title, headings and rows of a part of a table
Part: TypeAlias = tuple[str, Sequence[str], Sequence[Sequence[str]]]


class Comparison(NamedTuple):
    """What a comparison found: the content of its table.json, its rows of table.csv (label ->
    dicts), the measures of its columns, and a sentence on how to read them; parts: of the table,
    (title, headings, rows) each, where it has more than one.
    """

    result: dict[str, Any]
    groups: dict[str, list[dict[str, Any]]]
    measures: dict[str, measures.Measure]
    note: str
    parts: Sequence[Part] = ()

    def table(self) -> str:
        """The table as text: mean ± standard deviation over seeds."""
        if not self.parts:
            return tables.format_measures(self.groups, self.measures)
        shown = [
            f"{title}\n{tables.format_table(headings, rows)}"
            for title, headings, rows in self.parts
        ]
        return "\n\n".join(shown)

    def markdown(self) -> str:
        """The same table as a page of Markdown."""
        parts = self.parts or [("", *tables.measures_by_row(self.groups, self.measures))]
        shown = [
            f"{title}\n\n{tables.format_markdown(headings, rows)}"
            for title, headings, rows in parts
        ]
        notes = "\n".join(f"- {note}" for note in self.note.split("\n"))
        return "\n\n".join([*shown, notes]).lstrip() + "\n"


class Trained(NamedTuple):
    """A run of a comparison: its job, its folder and its measurements while training."""

    job: Job
    folder: Path
    measurements: list[dict[str, Any]]

    def load(self) -> GPT:
        """Its best model, from its folder each time: all models of a comparison would fill the
        memory.
        """
        return GPT.load(self.folder, self.job.options.device)


Runs: TypeAlias = dict[tuple[str, int], Trained]  # by label and seed


def labels_and_seeds(trained: Runs) -> tuple[list[str], list[int]]:
    """The labels of the runs and their seeds, each once, in order."""
    labels, seeds = (list(dict.fromkeys(keys)) for keys in zip(*trained))
    return labels, seeds


def over_seeds(seeds: Sequence[int]) -> str:
    """The beginning of a note on numbers of runs with these seeds."""
    return f"mean ± standard deviation over {len(seeds)} seeds; " if len(seeds) > 1 else ""


def curve(trained_run: Trained) -> dict[str, list[float]]:
    """Validation perplexity of a run at the steps where it was measured, and these steps."""
    return {
        "step": [m["step"] for m in trained_run.measurements],
        "perplexity": [measures.perplexity(m["validation_mle"]) for m in trained_run.measurements],
    }


def shared_options(comparison_options: ComparisonOptions) -> dict[str, Any]:
    """The options of all runs: each has its own objective."""
    found = dataclasses.asdict(comparison_options)
    del found["objective"]
    return found


def folder_name(label: str) -> str:
    """A label as a folder's name: "mixce η=0.5" -> "mixce_eta0.5"."""
    for name, ratio in objectives.RATIOS.items():
        label = label.replace(ratio.symbol, name)
    return label.replace(" ", "_").replace("=", "")
