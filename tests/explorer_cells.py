"""Reading the explorer's tables."""

import numpy as np


def cells(tab, row):
    return tab.locator(f"#{row} td").all_inner_texts()


def as_numbers(texts):
    special = {"∞": np.inf, "<.001": 2.5e-4}
    return [special[text] if text in special else float(text.removesuffix(" %")) for text in texts]
