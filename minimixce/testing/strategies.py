"""hypothesis strategies for layers: sizes that all differ, so that no wrong axis goes unnoticed.

Two axes of the same size hide a transpose, a sum over the wrong one, or a mean where a sum belongs.
"""

import numpy as np
from hypothesis import strategies as st

from ..storage.shapes import Array


def sizes(letters: str, least: int = 1, most: int = 9) -> st.SearchStrategy[dict[str, int]]:
    """{letter: size} for every letter of a string, all sizes different: sizes("BTC").

    Sizes are in least … most; one of them may be 1, which is where broadcasting goes wrong.
    Raises ValueError where there are more letters than sizes.
    """
    letters = letters.replace(" ", "")
    if len(set(letters)) > most - least + 1:
        raise ValueError(
            f"letters must be at most {most - least + 1} different ones, got {letters!r}"
        )
    names = sorted(set(letters))
    numbers = st.permutations(range(least, most + 1)).map(lambda order: order[: len(names)])
    return numbers.map(lambda chosen: dict(zip(names, chosen)))


def arrays(
    *shapes: str, least: int = 1, most: int = 9, scale: float = 1.0
) -> st.SearchStrategy[list[Array]]:
    """A list of float64 arrays, one for each of `shapes`, written in letters: arrays("BTC", "CO",
    "O").

    The same letter is the same size in all of them, different letters are different sizes, in least
    … most. Entries are normal, times `scale`, and the same for the same example. Raises ValueError
    where there are more letters than sizes.
    """

    def make(drawn):
        size, seed = drawn
        rng = np.random.default_rng(seed)
        return [scale * rng.standard_normal([size[x] for x in shape]) for shape in shapes]

    return st.tuples(sizes("".join(shapes), least, most), st.integers(0, 2**32 - 1)).map(make)
