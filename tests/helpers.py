"""What several test files share: comparison, models with random parameters, and layers written
naively.

The naive layers are in autograd.numpy, so HIPS autograd differentiates them: an oracle that shares
no line with the package.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import autograd.numpy as anp
import numpy as np
from autograd import make_vjp
from hypothesis import settings
from safetensors.numpy import load_file, save_file

import minimixce as mm
from minimixce.kv import KV
from minimixce.storage import install

# The same examples in every run, and no limit on a slow machine.
twenty_five_examples = settings(derandomize=True, deadline=None, max_examples=25)


@contextlib.contextmanager
def locked_by_another(folder):
    """A context in which another thread is at work in a folder: to the kernel, which has opened it
    for each of them, as good as another process.
    """
    with ThreadPoolExecutor(1) as other, contextlib.ExitStack() as stack:
        other.submit(stack.enter_context, install.locked(folder)).result()
        try:
            yield
        finally:
            other.submit(stack.close).result()


def assert_close(got, want, tolerance, name="", floor=1e-5):
    """Same shape, and max|got − want| ≤ tolerance · max(max|want|, floor); the floor lets exact
    zeros be rounded.
    """
    assert np.shape(got) == np.shape(want), (
        f"{name}: shape {np.shape(got)}, expected {np.shape(want)}"
    )
    error = np.abs(np.subtract(got, want)).max(initial=0) / max(np.abs(want).max(initial=0), floor)
    assert error <= tolerance, f"{name}: relative error {error:.1e} is above {tolerance:.0e}"


def forget_checksums(folder):
    """Make a saved model's folder like one of another library, in which a test can change a file to
    see what is said of the change itself.
    """
    weights = Path(folder) / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})


def assert_same_grads(got, want, tolerance):
    assert list(got) == list(want)
    for name in want:
        assert_close(got[name], want[name], tolerance, name)


def random_gpt(
    seed=0, vocab_size=5, block_size=6, n_layer=2, n_head=2, n_embd=6, dropout=0.0, dtype="float64"
):
    """A GPT whose parameters, biases too, are all random and far from zero, so that no term of a
    gradient hides.
    """
    model = mm.GPT(
        mm.GPTConfig(vocab_size, block_size, n_layer, n_head, n_embd, dropout, dtype), device="cpu"
    )
    rng = np.random.default_rng(seed)
    model.params = {
        name: (0.5 * rng.standard_normal(p.shape)).astype(dtype) for name, p in model.params.items()
    }
    return model


def check_pieces(model, rows=1, shared_by=2, past_length=1, names=None, **options):
    """gradcheck of the whole model fed in two pieces after a given past, with a loss on every
    output.

    The past has `rows` rows and is an input; soft one-hots continue it, then `shared_by` children
    of each row continue those. The loss sees the logits of both pieces and all keys and values; the
    model's dropout, if any, acts. `names`: parameters to check, None for all; options are
    gradcheck's.
    """
    c = model.config
    rng = np.random.default_rng(3)
    names = list(model.params if names is None else names)
    fixed = dict(model.params)
    layers = range(c.n_layer)
    past = [
        rng.standard_normal((rows, c.n_head, past_length, c.n_embd // c.n_head))
        for _ in layers
        for _ in "kv"
    ]
    inputs = {f"past {i // 2} {'kv'[i % 2]}": array for i, array in enumerate(past)}
    inputs["first piece"] = rng.standard_normal((rows, 2, c.vocab_size))
    inputs["second piece"] = rng.standard_normal((rows * shared_by, 1, c.vocab_size))
    inputs |= {name: fixed[name] for name in names}

    def pairs(flat):
        return [KV(flat[2 * i], flat[2 * i + 1]) for i in layers]

    def forward(*values):
        n = len(past)
        model.params = fixed | dict(zip(names, values[n + 2 :]))
        logits_1, present, cache_1 = model.extend_forward(
            values[n], pairs(values[:n]), True, mm.backend.rng(1, np)
        )
        logits_2, present, cache_2 = model.extend_forward(
            values[n + 1], present, True, mm.backend.rng(2, np)
        )
        return (logits_1, logits_2, *(array for kv in present for array in kv)), (cache_1, cache_2)

    def backward(dy, caches):
        dx_2, dpresent, grads = model.extend_backward(dy[1], pairs(dy[2:]), caches[1])
        dx_1, dpast, grads = model.extend_backward(dy[0], dpresent, caches[0], grads)
        return (
            *(array for kv in dpast or [] for array in kv),
            dx_1,
            dx_2,
            *(grads[name] for name in names),
        )

    try:
        return mm.gradcheck(forward, backward, list(inputs.values()), names=list(inputs), **options)
    finally:
        model.params = fixed


# ---- the naive layers ----------------------------------------------------------------------------


def autograd_oracle(naive, inputs, dy):
    """Value of naive(*inputs) and, by HIPS autograd, the gradients of Σ value·dy: None for integer
    inputs.
    """
    floats = tuple(x for x in inputs if np.asarray(x).dtype.kind == "f")

    def of_floats(floats):
        floats = iter(floats)
        return naive(*(next(floats) if np.asarray(x).dtype.kind == "f" else x for x in inputs))

    pull_back, value = make_vjp(of_floats)(floats)
    gradients = iter(pull_back(dy))
    return value, [next(gradients) if np.asarray(x).dtype.kind == "f" else None for x in inputs]


def naive_softmax(x, axis=-1):
    return anp.exp(x) / anp.sum(anp.exp(x), axis=axis, keepdims=True)


def naive_gelu(x):
    return 0.5 * x * (1 + anp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def naive_layer_norm(x, weight, bias):
    variance = anp.mean((x - anp.mean(x, -1, keepdims=True)) ** 2, -1, keepdims=True)
    return (x - anp.mean(x, -1, keepdims=True)) / anp.sqrt(variance + 1e-5) * weight + bias


def naive_attention(qkv, n_head, past_k=None, past_v=None, scale=None):
    """qkv (B,T,3C) -> y (B,T,C), k, v (B,H,T,D): one query after the other, queries before keys,
    past rows repeated.

    scale (B,H,P+T,T) multiplies the probability of key j for query t by scale[:, :, j, t], as
    dropout does.
    """
    B, T, _ = qkv.shape
    q, k, v = (anp.reshape(part, (B, T, n_head, -1)) for part in anp.split(qkv, 3, axis=-1))
    own_k, own_v = (anp.transpose(x, (0, 2, 1, 3)) for x in (k, v))
    k, v, P = own_k, own_v, 0
    if past_k is not None:
        G, P = B // past_k.shape[0], past_k.shape[2]
        k = anp.concatenate([anp.repeat(past_k, G, axis=0), k], axis=2)
        v = anp.concatenate([anp.repeat(past_v, G, axis=0), v], axis=2)
    outputs = []
    for t in range(T):
        seen = P + t + 1
        scores = anp.einsum("bhd,bhjd->bhj", q[:, t], k[:, :, :seen]) / np.sqrt(q.shape[-1])
        probs = naive_softmax(scores)
        if scale is not None:
            probs = probs * scale[:, :, :seen, t]
        outputs.append(anp.reshape(anp.einsum("bhj,bhjd->bhd", probs, v[:, :, :seen]), (B, -1)))
    return anp.stack(outputs, axis=1), own_k, own_v


def naive_gpt(params, tokens, config, rng):
    """With dropout where GPT-2 has it: on the embeddings, the attention probabilities, and what
    each half of a block adds.
    """
    B, T = tokens.shape

    def scale(*shape):
        return (
            (rng.random(shape) >= config.dropout) / (1 - config.dropout)
            if config.dropout
            else np.ones(shape)
        )

    def drop(x):
        return x * scale(*x.shape)

    x = (
        anp.tensordot(np.eye(config.vocab_size)[tokens], params["wte.weight"], 1)
        + params["wpe.weight"][:T]
    )
    x = drop(x)
    for i in range(config.n_layer):

        def weights(layer, i=i):
            return params[f"h.{i}.{layer}.weight"], params[f"h.{i}.{layer}.bias"]

        def linear(x, layer, weights=weights):
            weight, bias = weights(layer)
            return anp.tensordot(x, weight, 1) + bias

        qkv = linear(naive_layer_norm(x, *weights("ln_1")), "attn.c_attn")
        y, _, _ = naive_attention(qkv, config.n_head, scale=scale(B, config.n_head, T, T))
        x = x + drop(linear(y, "attn.c_proj"))
        x = x + drop(
            linear(
                naive_gelu(linear(naive_layer_norm(x, *weights("ln_2")), "mlp.c_fc")), "mlp.c_proj"
            )
        )
    x = naive_layer_norm(x, params["ln_f.weight"], params["ln_f.bias"])
    return anp.tensordot(x, params["wte.weight"].T, 1)
