"""What the lessons and their notebooks import: figures, tables, and worlds of sentences.

A lesson is a percent-format Python file in tutorials/. Run as a script, it prints and saves its
figures; in a notebook, and on the page made from it, the same calls show pictures, formatted prose
and code. P is blue, Q vermillion, what P cannot produce is shaded, and the sentences of the
agreement() world always come in the same order.
"""

from ..experiments.plots import P_COLOR, Q_COLOR
from .figures import INVALID_COLOR, figure, looks, sentence_bars, show
from .reports import full_or_fast, lesson_folder, source
from .sentences import INVALID, MAX_LEN, SENTENCES, VALID, optimal_table, sentence_probs
from .tables import as_markdown, table

__all__ = [
    "INVALID",
    "INVALID_COLOR",
    "MAX_LEN",
    "P_COLOR",
    "Q_COLOR",
    "SENTENCES",
    "VALID",
    "as_markdown",
    "figure",
    "full_or_fast",
    "lesson_folder",
    "looks",
    "optimal_table",
    "sentence_bars",
    "sentence_probs",
    "show",
    "source",
    "table",
]
