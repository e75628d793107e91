"""The reference solution of A2, textbook form and variants."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from .catalogue import functions_of, load_source

_SOURCES = Path(__file__).parent / "sources"
_CAPPED = "2.6 Attention with capped scores"
_REPLACED = ("2.3 GELU", "2.5 Layer norm", "2.6 Who sees whom: causal", "2.6 Attention")
VARIANTS = (
    _REPLACED,
    ("2.3 SiLU", "2.5 RMS norm", "2.6 Who sees whom: a window of 3", "2.6 Attention"),
    (
        "2.3 Squared ReLU",
        "2.5 Centred L2 norm",
        "2.6 Who sees whom: a prefix of 2",
        "2.6 Attention",
    ),
    (
        "2.3 Softplus",
        "2.5 Layer norm with a weight around 0",
        "2.6 Who sees whom: every second",
        "2.6 Attention",
    ),
    ("2.3 Softplus", "2.5 Centred L2 norm", "2.6 Who sees whom: a window of 3", _CAPPED),
    (
        "2.3 SiLU",
        "2.5 Layer norm with a weight around 0",
        "2.6 Who sees whom: a prefix of 2",
        "2.6 Attention with scores over D",
    ),
)


@cache
def source(variant: int = 0) -> str:
    """The reference solution of a variant: sections of the textbook form are replaced."""
    text = (_SOURCES / "a2_backprop.py").read_text(encoding="utf-8")
    if variant:
        sections = _sections((_SOURCES / "a2_variants.txt").read_text(encoding="utf-8"))
        own = _sections(text)
        for old, new in zip(_REPLACED, VARIANTS[variant]):
            if new != old:
                text = text.replace(own[old], sections[new].rstrip() + "\n\n\n")
    return text.rstrip() + "\n"


def _sections(text):
    """{heading: text from its cell to the next heading's}."""
    parts = re.split(r"^(?=# %% \[markdown\]\n# ## )", text, flags=re.MULTILINE)
    return {part.splitlines()[1].removeprefix("# ## "): part for part in parts[1:]}


@cache
def reference(variant: int) -> Any:
    """The functions of the reference solution, as attributes."""
    return functions_of(load_source(source(variant), "reference"))


def has_bias(variant: int) -> bool:
    """Whether the norm of a variant has a bias."""
    return "norm_forward(x, weight, bias)" in source(variant)


def has_cap(variant: int) -> bool:
    """Whether the scores of a variant's attention are capped."""
    return VARIANTS[variant][3] == _CAPPED
