"""The whole of minimixce in one file: from text to a trained language model and what it writes, in nothing but NumPy (2.x).

    OPENBLAS_NUM_THREADS=1 python tutorials/one_file.py [steps] [eta]    # 2500 steps and η = 0.5; η = 1 is maximum likelihood

Read it from top to bottom: text, batches, a small GPT-2 that guesses each next character, the backward pass that says how its
parameters should move, the MixCE loss, AdamW that moves them, and what the model then writes. No tricks, nothing for speed.

Expect 30 to 40 seconds (a second thread may only make the first one wait). On held-out text −log q falls from 4.3 (blind: log
V = 4.6) to 1.6, the MixCE loss from 2.1 to 0.56; noise turns into words. A lower η gives up the rare for the well formed: at
η = 1, 0.5, 0.1, −log q ends near 1.58, 1.61, 1.95; about 54, 60, 76 in 100 sampled words occur in the text. η = 0 gives spaces.

Shapes: B sequences in a batch, T characters in a sequence, C channels, H heads of D = C/H channels, V different characters.
"""

import math
import sys
import time
from pydoc_data.topics import topics  # {name: text}, the pages behind Python's own help("assert"), help("for"), …

import numpy as np


# ---- 1. Text to batches -----------------------------------------------------------------------------------------------
def load_text():
    """-> tokens (N,), characters. A token is a character's place in the sorted characters; "\\0" is token 0, the boundary."""
    text = "".join("\0" + document for document in topics.values())  # the start of one document is the end of another
    characters = sorted(set(text))
    token_of = {character: token for token, character in enumerate(characters)}
    return np.array([token_of[character] for character in text]), characters


def random_batch(tokens, B, T, rng):
    """tokens (N,) -> inputs (B,T), targets (B,T). The target of each position is the token after it."""
    starts = rng.integers(0, len(tokens) - T, size=B)
    windows = np.stack([tokens[start : start + T + 1] for start in starts])  # (B,T+1)
    return windows[:, :-1], windows[:, 1:]


# ---- 2. Parameters: a dict of named arrays, with GPT-2's names and shapes ---------------------------------------------
def init(vocab_size, block_size, n_layer, n_head, n_embd, seed):
    """-> params: small random matrices, biases 0, layer-norm weights 1. block_size is the longest T the model can read."""
    C, rng = n_embd, np.random.default_rng(seed)
    assert C % n_head == 0, "the heads share the channels equally"
    params = {"wte.weight": 0.02 * rng.standard_normal((vocab_size, C))}  # an embedding for each token
    params["wpe.weight"] = 0.02 * rng.standard_normal((block_size, C))  # and for each position
    attn = {"ln_1": (C,), "attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C)}
    mlp = {"ln_2": (C,), "mlp.c_fc": (C, 4 * C), "mlp.c_proj": (4 * C, C)}
    for i in range(n_layer):
        for name, shape in (attn | mlp).items():
            # The outputs of all 2·n_layer c_proj are added up in x: they start smaller, so that the sum starts no larger.
            std = 0.02 / math.sqrt(2 * n_layer) if name.endswith("c_proj") else 0.02
            params[f"h.{i}.{name}.weight"] = std * rng.standard_normal(shape) if len(shape) == 2 else np.ones(shape)
            params[f"h.{i}.{name}.bias"] = np.zeros(shape[-1])
    return params | {"ln_f.weight": np.ones(C), "ln_f.bias": np.zeros(C)}


# ---- 3. Layers: every forward function, then its backward -------------------------------------------------------------
# Every character of a batch is one row of x: x is (N,C) with N = B·T. Only attention lets rows know of one another.
# `dx` always means ∂loss/∂x: how fast the loss grows with each element of x, in x's shape. A forward function makes y from x;
# its backward is given dy and must find dx. One rule does it all, the chain rule: follow every road from x_j to the loss, that
# is dx_j = Σ_i dy_i · ∂y_i/∂x_j over all y_i that x_j appears in. `cache` is what the forward keeps because backward needs it.
def linear(x, W, b):
    """x (N,I), W (I,O), b (O,) -> y (N,O)"""
    return x @ W + b, (x, W)


def linear_backward(dy, cache):
    # Row by row y_o = Σ_i x_i W_io + b_o, so ∂y_o/∂x_i = W_io, ∂y_o/∂W_io = x_i, ∂y_o/∂b_o = 1.
    # x_i appears in every y_o of its row: a sum over o. W and b appear in every row: a sum over the N rows.
    x, W = cache
    dx = dy @ W.T  # (N,O) @ (O,I) -> (N,I)
    dW = x.T @ dy  # (I,N) @ (N,O) -> (I,O)
    db = dy.sum(axis=0)
    return dx, dW, db


def layer_norm(x, weight, bias):
    """Shift every row of x to mean 0 and scale it to variance 1; then a learned scale and shift. x (N,C) -> y (N,C)"""
    centered = x - x.mean(axis=-1, keepdims=True)
    r = 1 / np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + 1e-5)  # 1/standard deviation, (N,1)
    n = centered * r
    return n * weight + bias, (n, r, weight)


def layer_norm_backward(dy, cache):
    # y = n · weight + bias gives dweight, dbias and dn as above. From x_j three roads lead to its row's n = (x − mean) r:
    # its own place (∂n_j/∂x_j = r), the mean (∂n_i/∂x_j = −r/C for every i), and r (∂r/∂x_j = −r² n_j/C, so
    # ∂n_i/∂x_j = −r n_i n_j/C for every i). Their sum: dx_j = r (dn_j − mean(dn) − n_j mean(dn · n)), means over the row.
    n, r, weight = cache
    dweight, dbias = (dy * n).sum(axis=0), dy.sum(axis=0)
    dn = dy * weight
    dx = r * (dn - dn.mean(axis=-1, keepdims=True) - n * (dn * n).mean(axis=-1, keepdims=True))
    return dx, dweight, dbias


def gelu(x):
    """A soft switch, near 0 for x ≪ 0 and near x for x ≫ 0: y = ½ x (1 + t), t = tanh u, u = √(2/π) (x + 0.044715 x³)."""
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1 + t), (x, t)


def gelu_backward(dy, cache):
    # The product rule, with ∂t/∂u = 1 − t²: ∂y/∂x = ½ (1 + t) + ½ x (1 − t²) ∂u/∂x.
    x, t = cache
    du_dx = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du_dx)


def softmax(x):
    """Scores to probabilities along the last axis: p = eˣ / Σ eˣ. Subtracting the maximum changes nothing but avoids inf."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(dp, p):
    # ∂p_i/∂x_j = p_i (1[i=j] − p_j), so dx_j = Σ_i dp_i p_i (1[i=j] − p_j) = p_j (dp_j − Σ_i dp_i p_i).
    return p * (dp - (dp * p).sum(axis=-1, keepdims=True))


def attention(qkv, B, T, n_head):
    """Every position gathers values v from itself and those before it whose key k fits its query q. qkv (N,3C) -> y (N,C)"""
    q, k, v = qkv.reshape(B, T, 3, n_head, -1).transpose(2, 0, 3, 1, 4)  # each (B,H,T,D); below, .mT swaps the last two axes
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B,H,T,D) @ (B,H,D,T) -> (B,H,T,T): row i asks, column j answers
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)  # causal: nobody asks the future, j > i
    p = softmax(scores)
    y = p @ v  # (B,H,T,T) @ (B,H,T,D) -> (B,H,T,D)
    return y.transpose(0, 2, 1, 3).reshape(B * T, -1), (q, k, v, p)  # (B,H,T,D) -> (B,T,H,D) -> (N,C)


def attention_backward(dy, cache, B, T, n_head):
    # The forward's lines from last to first. Y = A M has dA = dY Mᵀ and dM = Aᵀ dY: linear_backward for each head.
    # The forbidden scores need no line: their p is 0, so softmax_backward makes their derivative 0.
    q, k, v, p = cache
    dy = dy.reshape(B, T, n_head, -1).transpose(0, 2, 1, 3)  # (B,H,T,D)
    dp, dv = dy @ v.mT, p.mT @ dy  # (B,H,T,T), (B,H,T,D)
    dscores = softmax_backward(dp, p)
    dq, dk = dscores @ k / math.sqrt(q.shape[-1]), dscores.mT @ q / math.sqrt(q.shape[-1])  # both (B,H,T,D)
    return np.stack([dq, dk, dv]).transpose(1, 3, 0, 2, 4).reshape(B * T, -1)  # (3,B,H,T,D) -> (B,T,3,H,D) -> (N,3C)


# ---- 4. The model: the backward is the forward, read from its last line to its first ----------------------------------
def forward(params, tokens, n_head):
    """tokens (B,T) -> logits (B,T,V), a score for each token to come next; cache, those of the layers by name."""
    blocks = [name.removesuffix("ln_1.bias") for name in params if name.endswith("ln_1.bias")]  # ["h.0.", "h.1.", …]
    cache, (B, T) = {"tokens": tokens, "blocks": blocks}, tokens.shape
    x = (params["wte.weight"][tokens] + params["wpe.weight"][:T]).reshape(B * T, -1)  # (B,T,C) + (T,C) -> (N,C)
    for h in blocks:
        y, cache[h + "ln_1"] = layer_norm(x, params[h + "ln_1.weight"], params[h + "ln_1.bias"])
        y, cache[h + "attn.c_attn"] = linear(y, params[h + "attn.c_attn.weight"], params[h + "attn.c_attn.bias"])
        y, cache[h + "attn"] = attention(y, B, T, n_head)
        y, cache[h + "attn.c_proj"] = linear(y, params[h + "attn.c_proj.weight"], params[h + "attn.c_proj.bias"])
        x = x + y
        y, cache[h + "ln_2"] = layer_norm(x, params[h + "ln_2.weight"], params[h + "ln_2.bias"])
        y, cache[h + "mlp.c_fc"] = linear(y, params[h + "mlp.c_fc.weight"], params[h + "mlp.c_fc.bias"])
        y, cache[h + "mlp.gelu"] = gelu(y)
        y, cache[h + "mlp.c_proj"] = linear(y, params[h + "mlp.c_proj.weight"], params[h + "mlp.c_proj.bias"])
        x = x + y
    x, cache["ln_f"] = layer_norm(x, params["ln_f.weight"], params["ln_f.bias"])
    logits, cache["head"] = linear(x, params["wte.weight"].T, 0)  # the token embedding again, as the last matrix
    return logits.reshape(B, T, -1), cache


def backward(params, dlogits, cache, n_head):
    """dlogits (B,T,V) -> grads, an array for each of params. What reaches x + y goes back both ways: to x, and into y."""
    grads = {name: np.zeros_like(p) for name, p in params.items()}
    B, T, V = dlogits.shape
    dx, dwte_transposed, _ = linear_backward(dlogits.reshape(B * T, V), cache["head"])
    dx, grads["ln_f.weight"], grads["ln_f.bias"] = layer_norm_backward(dx, cache["ln_f"])
    for h in reversed(cache["blocks"]):
        dy, grads[h + "mlp.c_proj.weight"], grads[h + "mlp.c_proj.bias"] = linear_backward(dx, cache[h + "mlp.c_proj"])
        dy = gelu_backward(dy, cache[h + "mlp.gelu"])
        dy, grads[h + "mlp.c_fc.weight"], grads[h + "mlp.c_fc.bias"] = linear_backward(dy, cache[h + "mlp.c_fc"])
        dy, grads[h + "ln_2.weight"], grads[h + "ln_2.bias"] = layer_norm_backward(dy, cache[h + "ln_2"])
        dx = dx + dy
        dy, grads[h + "attn.c_proj.weight"], grads[h + "attn.c_proj.bias"] = linear_backward(dx, cache[h + "attn.c_proj"])
        dy = attention_backward(dy, cache[h + "attn"], B, T, n_head)
        dy, grads[h + "attn.c_attn.weight"], grads[h + "attn.c_attn.bias"] = linear_backward(dy, cache[h + "attn.c_attn"])
        dy, grads[h + "ln_1.weight"], grads[h + "ln_1.bias"] = layer_norm_backward(dy, cache[h + "ln_1"])
        dx = dx + dy
    grads["wpe.weight"][:T] = dx.reshape(B, T, -1).sum(axis=0)  # a position is shared by the B sequences
    np.add.at(grads["wte.weight"], cache["tokens"].reshape(B * T), dx)  # each dx is added to the row that its token looked up,
    grads["wte.weight"] += dwte_transposed.T  # and the same matrix was used a second time, at the end
    return grads


# ---- 5. The loss, the optimizer and the writer ------------------------------------------------------------------------
def mixce(logits, targets, eta):
    """MixCE, the mean of −η log q − (1−η) q over all N targets, q being the target's probability -> loss, dlogits (B,T,V)."""
    # −log q alone, maximum likelihood, is the forward cross-entropy: the model judges the data. In the reverse one the data
    # judge what the model writes. It needs the data's true probabilities, which nobody has; −q stands in: samples will do.
    # With logits z: log q = z_target − log Σ e^z, so ∂(log q)/∂z = onehot − softmax and ∂q/∂z = q (onehot − softmax). Together
    # dz = w (softmax − onehot) / N, w = η + (1−η) q. At η = 1 all w are 1; below, targets that the model finds odd count less.
    z = logits - logits.max(axis=-1, keepdims=True)
    onehot = np.eye(z.shape[-1], dtype=z.dtype)[targets]  # (B,T,V): 1 at the target, 0 elsewhere
    log_q = (z * onehot).sum(axis=-1, keepdims=True) - np.log(np.exp(z).sum(axis=-1, keepdims=True))  # (B,T,1)
    q = np.exp(log_q)
    w = eta + (1 - eta) * q
    return np.mean(-eta * log_q - (1 - eta) * q), w * (softmax(logits) - onehot) / targets.size


def adamw(params, grads, state, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
    """One step -> new params, new state. The state, {} at first, counts steps and remembers two averages for each array."""
    step, new_params, new_state = state.get("step", 0) + 1, {}, {}
    for name, p in params.items():
        m, v = state.get(name, (0, 0))
        m = betas[0] * m + (1 - betas[0]) * grads[name]  # where the gradient has pointed lately
        v = betas[1] * v + (1 - betas[1]) * grads[name] ** 2  # how large it has been lately, squared
        m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)  # both began at 0: make up for it
        decay = weight_decay * p if p.ndim == 2 else 0  # matrices, if nothing holds them, shrink
        new_params[name] = p - lr * (m_hat / (np.sqrt(v_hat) + eps) + decay)
        new_state[name] = m, v
    return new_params, new_state | {"step": step}


def sample(params, prompt, max_new_tokens, n_head, seed):
    """prompt, a list of tokens -> the same list continued, each token drawn from what the model says, until a boundary."""
    tokens, rng, block_size = list(prompt), np.random.default_rng(seed), len(params["wpe.weight"])
    for _ in range(max_new_tokens):
        logits, _ = forward(params, np.array([tokens[-block_size:]]), n_head)  # (1,T,V)
        tokens.append(int(rng.choice(logits.shape[-1], p=softmax(logits[0, -1]))))
        if tokens[-1] == 0:
            break
    return tokens


def main(steps=2500, eta=0.5):
    steps, eta = int(steps), float(eta)
    B, T, n_layer, n_head, C, lr, rng, start = 8, 64, 2, 4, 64, 3e-3, np.random.default_rng(0), time.time()
    tokens, characters = load_text()
    train, held_out = np.split(tokens, [len(tokens) * 9 // 10])
    exam, answers = random_batch(held_out, 100, T, rng)  # from the last tenth of the text, which is not trained on
    params, state = init(len(characters), T, n_layer, n_head, C, seed=0), {}
    params = {name: p.astype(np.float32) for name, p in params.items()}  # digits enough to train, in half the time
    print(f"{len(tokens)} characters, V = {len(characters)}; {sum(p.size for p in params.values())} parameters; η = {eta}")
    for step in range(1, steps + 1):
        inputs, targets = random_batch(train, B, T, rng)
        logits, cache = forward(params, inputs, n_head)
        loss, dlogits = mixce(logits, targets, eta)
        grads = backward(params, dlogits, cache, n_head)
        params, state = adamw(params, grads, state, lr * (1 - (step - 1) / steps))
        if step == 1 or step % max(1, steps // 10) == 0 or step == steps:
            logits, _ = forward(params, exam, n_head)
            loss, nll = mixce(logits, answers, eta)[0], mixce(logits, answers, 1)[0]
            print(f"step {step:4}: held-out MixCE loss {loss:.3f}, −log q {nll:.3f} ({time.time() - start:.0f} s)", flush=True)
    sampled = sample(params, [0], 500, n_head, seed=0)
    print("\nIt writes:\n" + "".join(characters[token] for token in sampled).strip("\0"))


if __name__ == "__main__":
    main(*sys.argv[1:])
