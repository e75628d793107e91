"""How much memory a training step of a GPT takes, by arithmetic: no array is made.

Numbers that N = B·T positions need which go through the model at once, P being the number of
parameters:

    weights, gradients               P each; those of a single batch come while activations go
    AdamW's two means                2 P, and on the CPU P more while it steps
    what a block keeps for backward  N (20 C + 2) + B H T², half of the T² where attention goes in
                                     blocks of queries; with dropout 2 N C + 2 B H T² more
    the same with recompute          N C, with dropout (2 N C + B H T²) / 32 more, for masks of bits
    the loss head                    2 n V, logits and their gradient, of n positions at a time
    a block's backward               10 N C or, where it is more, 6 N C and B H T² on a GPU, with
                                     dropout 3 B H T²; with recompute what a block keeps besides

The peak is that of the moment that needs most: at the head, at the first or the last block of
backward, or when AdamW steps. The interpreter and its libraries come on top, some 50 to 300 MiB.
"""

from typing import NamedTuple

import numpy as np

from ..fast import attention, blocks, head
from ..gpt import GPTConfig
from . import steps


class Footprint(NamedTuple):
    """Bytes of a training step. The parts are not all there at once, so `peak`, the most at a time,
    may be less than their sum.
    """

    weights: int
    gradients: int
    moments: int  # AdamW's two
    activations: int  # kept for backward, of all blocks
    head: int  # logits and their gradient
    work: int  # in one block's backward, with what is computed again for it
    peak: int


def of_training(
    config: GPTConfig,
    batch_size: int,
    accumulate: int = 1,
    recompute: bool = False,
    on_gpu: bool = False,
) -> Footprint:
    """The Footprint of a step of training with AdamW, in one shard.

    config: the sizes; batch_size: sequences of config.block_size positions in a batch; accumulate:
    batches in a step; recompute: fit's; on_gpu: whether arrays are CuPy's.
    """
    T, C, V, L = config.block_size, config.n_embd, config.vocab_size, config.n_layer
    # on the CPU a batch goes through the model in parts
    B = batch_size if on_gpu else min(batch_size, max(1, steps.AT_ONCE // T))
    N = B * T
    P = L * (12 * C * C + 13 * C) + (V + T + 2) * C
    scores = _scores(config, B, on_gpu)
    block = N * (20 * C + 2) + scores
    masks = 0
    if config.dropout:
        block += 2 * N * C
        masks = (2 * N * C + B * config.n_head * T * T) // 32
    kept = L * (N * C + masks if recompute else block)
    at_head, in_head = _head(B, T, V, on_gpu)
    work = max(10 * N * C, 6 * N * C + _scores_at_work(config, B, on_gpu))
    if recompute:
        work += block
    several = accumulate > 1 or B < batch_size
    first_grads = P if several else V * C + 12 * C * C
    last_block = 0 if recompute else block
    peak = max(
        kept + 4 * N * C + at_head + (P if several else 0) + V * C,
        kept + 4 * N * C + in_head + first_grads + work,
        last_block + in_head + P + work,
        P if on_gpu else 2 * P,  # AdamW has the gradients in one vector
    )
    size = np.dtype(config.dtype).itemsize
    parts = (P, P, 2 * P, kept, at_head, work, 3 * P + peak)
    return Footprint(*(size * numbers for numbers in parts))


def _scores(config, B, on_gpu):
    """How many numbers attention keeps of its scores, of a block and B sequences."""
    H, T = config.n_head, config.block_size
    if config.dropout:
        return 3 * B * H * T * T  # before dropout and after, and the mask's
    if on_gpu or B * H * T * T < blocks.ELEMENTS:
        return B * H * T * T
    size = min(T, attention.QUERIES)  # of a block, whose queries have the keys up to its end
    whole, rest = divmod(T, size)
    seen = size * size * whole * (whole + 1) // 2 + rest * T
    return B * H * (seen + T)  # and a sum for each query


def _scores_at_work(config, B, on_gpu):
    """How many numbers, as large as the scores, attention's backward has besides at a time."""
    whole = B * config.n_head * config.block_size**2
    if config.dropout:
        return 3 * whole
    if on_gpu:
        return whole
    return 0 if whole >= blocks.ELEMENTS else 2 * whole


def _head(B, T, V, on_gpu):
    """Numbers of the logits and their gradient: at the head, and what is left of them when the
    blocks' backward begins.
    """
    most = head.ELEMENTS_ON_GPU if on_gpu else head.ELEMENTS
    if B * T * V <= most:
        return 2 * B * T * V, 2 * B * T * V
    chunks = -(-B // max(1, most // (T * V)))
    return 2 * -(-B // chunks) * T * V, 0
