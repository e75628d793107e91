"""AdamW, Adam with L2, gradient clipping and the learning-rate schedule."""

import math

from .backend import array_module, blocks


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019). Updates the arrays of `params`
    in place.

    Weight decay acts on matrices only (two or more axes), not on biases and layer norms. The
    running means of the gradient and of its square, `.mean` and `.square` by name, are views of one
    long vector each: a few long operations take the place of many short ones.
    """

    def __init__(self, params, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
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
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.steps = 0
        self._mean = _flat([array_module(p).zeros_like(p) for p in params.values()])
        self._square = _flat([array_module(p).zeros_like(p) for p in params.values()])
        self.mean = self._by_name(self._mean)
        self.square = self._by_name(self._square)

    def step(self, grads, lr=None):
        """One update from grads {name: array}, with learning rate `lr` or the constructor's."""
        if not isinstance(grads, dict):
            raise TypeError(
                f"grads must be a dict of arrays, as a backward returns, got {type(grads).__name__}"
            )
        if grads.keys() != self.params.keys():
            raise ValueError(
                f"grads and params differ in {sorted(grads.keys() ^ self.params.keys())}"
            )
        for name, p in self.params.items():
            if grads[name].shape != p.shape:
                raise ValueError(
                    f"the gradient of {name} must have its shape {p.shape}, got {grads[name].shape}"
                )
        lr = self.lr if lr is None else lr
        beta1, beta2 = self.betas
        self.steps += 1
        # m/(1−β1ᵗ) and v/(1−β2ᵗ) undo the start at zero; as scalars they fold into the step size
        # and the root.
        step_size = lr / (1 - beta1**self.steps)
        root_scale = 1 / math.sqrt(1 - beta2**self.steps)
        update = _flat([grads[name] for name in self.params])
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
                p *= 1 - lr * self.weight_decay
            p -= change

    def _by_name(self, flat):
        """A long vector -> {name: view of params' shape}."""
        views, start = {}, 0
        for name, p in self.params.items():
            views[name] = flat[start : start + p.size].reshape(p.shape)
            start += p.size
        return views


class Adam(AdamW):
    """Adam (Kingma & Ba 2015) with L2: the decay is part of the gradient, l2 · p for every
    parameter, and so goes through the running means, as PyTorch's `Adam(weight_decay=l2)` has it
    and the MixCE paper's synthetic experiments use.
    """

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-8, l2=0.0):
        super().__init__(params, lr, betas, eps, weight_decay=0.0)
        if not 0 <= l2 < math.inf:
            raise ValueError(f"l2 must be a number, at least 0, got {l2}")
        self.l2 = l2

    def step(self, grads, lr=None):
        """One update from grads {name: array}, to which the decay is added here; `lr` as in
        AdamW.step.
        """
        if self.l2 and isinstance(grads, dict):
            grads = {
                name: g + self.l2 * self.params[name] if name in self.params else g
                for name, g in grads.items()
            }
        super().step(grads, lr)


def _flat(arrays):
    return array_module(arrays[0]).concatenate([x.reshape(-1) for x in arrays])


def clip_grads(grads, max_norm):
    """Scale grads in place so that their joint Euclidean norm is at most max_norm; returns the norm
    before, 0-d on device.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be a positive number, got {max_norm}")
    xp = array_module(next(iter(grads.values())))
    norm = xp.sqrt(sum(xp.vdot(g, g) for g in grads.values()))
    if max_norm == math.inf:
        return norm
    scale = max_norm / xp.maximum(norm, max_norm)
    for g in grads.values():
        g *= scale
    return norm


def warmup_cosine(step, lr, warmup, total, final=0.1):
    """Learning rate of step 0, 1, …: a linear rise over `warmup` steps to lr, then half a cosine
    down to final·lr.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
