"""A GPT that keeps less from forward to backward: of each block its input alone.

What a block leaves for backward is some 20 numbers for each of its inputs, besides the scores of
its attention. Backward can compute all of it again from the input, one block at a time, by the same
operations on the same numbers: so the gradients are the same to the bit, a step needs the memory
of one block where it needed that of all, and takes one more forward pass of the blocks (Chen et
al. 2016, arXiv 1604.06174). Of dropout the masks are kept, a bit for each number.
"""

import math
from typing import Any, NamedTuple

from ..backend import array_module
from ..fast import head_in_chunks, layer_norm_backward, layer_norm_forward, splits_head
from ..gpt import GPT, HiddenCache, block_backward, block_forward
from ..kv import KV
from ..layers import (
    dropout_backward,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    position_backward,
    position_forward,
)
from ..model import LanguageModel, add_grad
from ..storage.shapes import (
    Array,
    Float,
    Grads,
    IdsOrOneHots,
    Int,
    Loss,
    LossAndGrads,
    RandomGenerator,
)


class BlockInput(NamedTuple):
    """What is kept of a block."""

    x: Float[Array, "B T C"]
    dropout: float
    masks: list[Array]  # of dropout, in the order in which they were drawn


class RecomputingGPT(GPT):
    """A GPT as training takes it: RecomputingGPT(model) has model's config and its very arrays, and
    its loss and gradients.

    Sequences are taken whole: there is no past, and no present.
    """

    def __init__(self, model: GPT) -> None:
        self.config = model.config
        self.params = model.params

    def hidden_forward(
        self,
        x: IdsOrOneHots,
        past: list[KV] | None = None,
        training: bool = False,
        rng: RandomGenerator | None = None,
    ) -> tuple[Float[Array, "B T C"], list[KV], HiddenCache]:
        """GPT's, line by line, with an empty present -> hidden (B,T,C), [], cache.

        x, training, rng and errors: as for GPT. Raises ValueError for a past.
        """
        if past:
            raise ValueError("a RecomputingGPT takes whole sequences: past must be None")
        self._check_input(x)
        config, params = self.config, self.params
        dropout = config.dropout if training else 0.0
        x, embedding = embedding_forward(x, params["wte.weight"])
        x, position = position_forward(x, params["wpe.weight"])
        x, dropped = dropout_forward(x, dropout, rng)
        blocks: list[Any] = []
        for i in range(config.n_layer):
            block = BlockInput(x, dropout, [])
            # without a name for the cache, which is free when the next block begins
            draws = DrawsMasks(rng, dropout, block.masks) if rng is not None else None
            x = self._block(block, i, draws)[0]
            blocks.append(block)
        x, ln_f = layer_norm_forward(x, params["ln_f.weight"], params["ln_f.bias"])
        return x, [], HiddenCache(embedding, position, dropped, blocks, ln_f, self)

    def hidden_backward(
        self,
        dx: Float[Array, "B T C"],
        dpresent: list[KV] | None,
        cache: HiddenCache,
        grads: Grads,
    ) -> tuple[Float[Array, "B T V"] | None, list[KV] | None, Grads]:
        """GPT's, without a dpresent -> dx of hidden_forward's input, None, grads.

        dx (B,T,C), cache, grads and errors: as for GPT.
        """
        self._check_cache(cache, HiddenCache)
        self._check_unused(cache)
        dx, dweight, dbias = layer_norm_backward(dx, cache.ln_f)
        add_grad(grads, "ln_f.weight", dweight)
        add_grad(grads, "ln_f.bias", dbias)
        for i in reversed(range(self.config.n_layer)):
            dx = self._block_backward(dx, cache.blocks.pop(), i, grads)
        dx = dropout_backward(dx, cache.dropout)
        dx, dweight = position_backward(dx, cache.position)
        add_grad(grads, "wpe.weight", dweight)
        dinput, dweight = embedding_backward(dx, cache.embedding)
        add_grad(grads, "wte.weight", dweight)
        return dinput, None, {name: grads[name] for name in self.params}

    def _block_backward(self, dx, block, i, grads):
        """dx of the output of block i, and its BlockInput -> dx of its input."""
        cache = self._block(block, i, SameMasks(block.masks))[1]
        return block_backward(dx, cache, f"h.{i}", grads)[0]

    def _block(self, block, i, rng):
        n_head = self.config.n_head
        return block_forward(block.x, self.params, f"h.{i}", n_head, None, block.dropout, rng)

    def loss_and_grads(
        self,
        tokens: IdsOrOneHots,
        targets: Int[Array, "B T"],
        objective: Loss,
        rng: RandomGenerator | None = None,
        grads: Grads | None = None,
    ) -> LossAndGrads:
        """GPT's, the head in chunks where GPT has it so: tokens and targets (B,T) -> loss, grads.

        objective, rng, grads: as for GPT.
        """
        B, T = tokens.shape[:2]
        weight = self.params["wte.weight"]
        if not splits_head(B, T, weight):
            return LanguageModel.loss_and_grads(self, tokens, targets, objective, rng, grads)
        x, _, cache = self.hidden_forward(tokens, None, True, rng)
        loss, dx, dweight = head_in_chunks(x, weight, targets, objective)
        grads = {} if grads is None else grads
        add_grad(grads, "wte.weight", dweight)
        _, _, grads = self.hidden_backward(dx, None, cache, grads)
        return loss, grads


class DrawsMasks:
    """A random generator for dropout that adds the masks which follow from its draws to `masks`, a
    list: DrawsMasks(rng, rate, masks). A copy of rng to draw from again would do on the CPU alone,
    for CuPy's generators have none.
    """

    def __init__(self, rng: RandomGenerator, rate: float, masks: list[Array]) -> None:
        self._rng = rng
        self._rate = rate
        self._masks = masks

    def random(self, shape: tuple[int, ...], dtype: Any) -> Float[Array, "*shape"]:
        """rng's numbers, of this shape and dtype."""
        drawn = self._rng.random(shape, dtype=dtype)
        is_kept = drawn >= self._rate
        self._masks.append(array_module(drawn).packbits(is_kept))  # eight of them a byte
        return drawn


class SameMasks:
    """A random generator from whose draws the masks of a list follow, one after the other:
    SameMasks(masks).
    """

    def __init__(self, masks: list[Array]) -> None:
        self._masks = iter(masks)

    def random(self, shape: tuple[int, ...], dtype: Any) -> Float[Array, "*shape"]:
        """1 where the mask keeps an element and 0 elsewhere, of this shape and dtype."""
        mask = next(self._masks)
        bits = array_module(mask).unpackbits(mask)[: math.prod(shape)]
        return bits.reshape(shape).astype(dtype)
