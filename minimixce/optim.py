"""AdamW, Adam with L2, gradient clipping and the learning-rate schedule."""

import math
from collections.abc import Sequence

import numpy as np

from . import fast
from .backend import array_module, blocks, check_array
from .storage.shapes import Array, Arrays, Float, Grads, Scalar
from .storage.validate import NotFinite, check_number


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    Updates the arrays of `params` in place. Weight decay acts on matrices only (two or more axes),
    not on biases and layer norms. The running means of the gradient and of its square, `.mean` and
    `.square` by name, are views of one long vector each: a few long operations take the place of
    many short ones. AdamW(params {name: array}, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
    the learning rate, the shares of the running means that each step keeps, what is added to the
    root of the square, the decay in units of lr. Raises TypeError or ValueError for others.
    """

    def __init__(
        self,
        params: Arrays,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        if not isinstance(params, dict) or not params:
            raise TypeError(
                f"params must be a dict of arrays, as model.params, got {type(params).__name__}"
            )
        if not 0 < lr < math.inf:
            raise ValueError(f"lr must be a positive number, got {lr}")
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"betas must be at least 0 and below 1, got {betas}")
        if not 0 < eps < math.inf:
            raise ValueError(f"eps must be a positive number, got {eps}")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be a number, at least 0, got {weight_decay}")
        self.params = params
        # as Python's numbers: a NumPy scalar would change the dtype of what it is multiplied with
        self.lr = float(lr)
        self.betas = float(betas[0]), float(betas[1])
        self.eps = float(eps)
        self.weight_decay = float(weight_decay)
        self.steps = 0
        self._mean = _flat([array_module(p).zeros_like(p) for p in params.values()])
        self._square = _flat([array_module(p).zeros_like(p) for p in params.values()])
        self.mean = self._by_name(self._mean)
        self.square = self._by_name(self._square)

    def step(self, grads: Grads, lr: float | None = None) -> None:
        """One update from grads {name: array}, with learning rate `lr` or the constructor's.

        Raises TypeError or ValueError before anything is changed. Whether gradients are finite is
        not looked at here: fit looks at their norm when it measures.
        """
        lr = self._checked(grads, lr)
        beta1, beta2 = self.betas
        self.steps += 1
        # p −= lr · m̂ / (√v̂ + ε) with m̂ = m/(1−β₁ᵗ) and v̂ = v/(1−β₂ᵗ), which undo the start at
        # zero; being numbers, they can go into the step size and in front of the root.
        step_size = lr / (1 - beta1**self.steps)
        root_scale = 1 / math.sqrt(1 - beta2**self.steps)
        keep = 1 - lr * self.weight_decay
        if fast.has_kernels_for(self.params, grads):  # on a GPU: the rest of this, in one launch
            fast.adamw_update(
                self.params,
                grads,
                self._mean,
                self._square,
                self.betas,
                step_size,
                root_scale,
                self.eps,
                keep,
            )
            return
        update = _flat([grads[name] for name in self.params])  # gradients, soon the changes
        for block in blocks(update):
            g, m, v = update[block], self._mean[block], self._square[block]
            m += (1 - beta1) * (g - m)
            v += (1 - beta2) * (g * g - v)
            denominator = array_module(v).sqrt(v)
            denominator *= root_scale
            denominator += self.eps
            g[...] = step_size * m / denominator
        for name, change in self._by_name(update).items():
            p = self.params[name]
            if p.ndim >= 2:
                p *= keep
            p -= change

    def _checked(self, grads: Grads, lr: float | None) -> float:
        """The learning rate; TypeError or ValueError for anything that a step would fail at, so
        that none fails when some arrays have been updated.
        """
        if not isinstance(grads, dict):
            raise TypeError(
                f"grads must be a dict of arrays, as a backward returns, got {type(grads).__name__}"
            )
        if grads.keys() != self.params.keys():
            raise ValueError(
                f"grads and params differ in {sorted(grads.keys() ^ self.params.keys())}"
            )
        for name, p in self.params.items():
            _check_gradient(name, grads[name], p)
        if lr is None:
            return self.lr
        check_number("lr", lr)
        if not 0 <= lr < math.inf:  # NotFinite, as fit has advice for rates that overflow
            raise NotFinite(f"lr must be a finite number, at least 0, got {lr}")
        return float(lr)

    def _by_name(self, flat: Float[Array, " N"]) -> Arrays:
        """A long vector -> {name: view of params' shape}."""
        views, start = {}, 0
        for name, p in self.params.items():
            views[name] = flat[start : start + p.size].reshape(p.shape)
            start += p.size
        return views


class Adam(AdamW):
    """Adam (Kingma & Ba 2015) with L2: the decay is part of the gradient.

    It is l2 · p for every parameter, and so goes through the running means, as PyTorch's
    `Adam(weight_decay=l2)` has it and the MixCE paper's synthetic experiments use. params {name:
    array}, lr, betas, eps and errors: as for AdamW. Raises what AdamW raises, and ValueError for an
    l2 below 0.
    """

    def __init__(
        self,
        params: Arrays,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        l2: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay=0.0)
        if not 0 <= l2 < math.inf:
            raise ValueError(f"l2 must be a number, at least 0, got {l2}")
        self.l2 = float(l2)

    def step(self, grads: Grads, lr: float | None = None) -> None:
        """One update from grads {name: array}, to which the decay is added here.

        `lr` as in AdamW.step.
        """
        lr = self._checked(grads, lr)
        if self.l2:
            grads = {name: g + self.l2 * self.params[name] for name, g in grads.items()}
        super().step(grads, lr)


def _check_gradient(name: str, g: Array, p: Array) -> None:
    """Raise TypeError or ValueError unless the gradient g can be taken from the parameter p."""
    xp = check_array(f"the gradient of {name}", g)
    if xp is not array_module(p):
        raise TypeError(f"the gradient of {name} must be on its device, got one of {xp.__name__}")
    if g.dtype.kind != "f":
        raise TypeError(f"the gradient of {name} must be floats, got {g.dtype}")
    if g.shape != p.shape:
        raise ValueError(f"the gradient of {name} must have its shape {p.shape}, got {g.shape}")
    if isinstance(p, np.ndarray) and not p.flags.writeable:
        raise ValueError(f"the parameter {name} cannot be written, its array is read-only")


def _flat(arrays: Sequence[Float[Array, "..."]]) -> Float[Array, " N"]:
    return array_module(arrays[0]).concatenate([x.reshape(-1) for x in arrays])


def clip_grads(grads: Grads, max_norm: float) -> Scalar:
    """Scale grads {name: array} in place so that their joint Euclidean norm is at most max_norm.

    Returns the norm before, 0-d on the device. Raises ValueError unless max_norm is positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be a positive number, got {max_norm}")
    if not isinstance(grads, dict) or not grads:
        raise TypeError(
            "grads must be a dict of arrays, with at least one, got"
            f" {type(grads).__name__ if not isinstance(grads, dict) else 'an empty dict'}"
        )
    if fast.has_kernels_for(grads):
        return fast.clip_grads(grads, max_norm)
    xp = array_module(next(iter(grads.values())))
    norm = xp.sqrt(sum(xp.vdot(g, g) for g in grads.values()))
    # On a GPU the look would wait for the device.
    if max_norm == math.inf or (xp is np and norm <= max_norm):
        return norm
    max_norm = float(max_norm)
    scale = max_norm / xp.maximum(norm, max_norm)
    for g in grads.values():
        g *= scale
    return norm


def warmup_cosine(step: float, lr: float, warmup: int, total: int, final: float = 0.1) -> float:
    """Learning rate of step 0, 1, …: a linear rise, then half a cosine.

    It rises over `warmup` steps to lr and falls to final·lr at step `total`.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
