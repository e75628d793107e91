"""The whole of minimixce in one file: a small GPT that learns to write, in nothing but NumPy.

A language model reads a text and says, for every character, how likely it is to come next. Call
the author of the text P and the model Q. There are two questions to ask of Q:

    forward:    would Q write what P writes?    All of P's text should be likely under Q.
    reverse:    would P write what Q writes?    All of Q's text should be likely under P.

Maximum likelihood asks the first question only. A model that is too small to be P then spreads
itself over all that P might write, and over much that P never would. MixCE asks both. The second
question seems to need P itself, and all we have is P's text; section 1 shows the way around.

The rest is the backward pass, which finds how every parameter should move, all of them at once. It
is the chain rule and nothing else: each layer is a forward function and its backward.

    python tutorials/one_file.py [steps] [eta]    # η = 1 is maximum likelihood

Shapes: B sequences in a batch, T characters in a sequence, C channels, H heads of D = C/H channels,
V different characters. N = B·T is the number of all positions in a batch.
"""

import argparse
import math
import time
from pydoc_data.topics import topics  # Python's own manual, the pages behind help("for")

import numpy as np


# ---- 1. The loss: what we want of Q --------------------------------------------------------------
# The model gives each character a score, its logit. Softmax turns the scores into probabilities.
# Let q be the probability of the target, the character that did come next. Two losses:
#
#     maximum likelihood    −log q
#     MixCE                 −η log q − (1−η) q
#
# The first term is the forward question. For the second, ask how likely P finds what Q writes:
# Σ P(x) Q(x), over all texts x. That sum is also how likely Q finds what P writes, so P's text is
# enough. (Taking it character by character makes it another question again; see lesson 6.)
#
# "dlogits" means ∂loss/∂logits: how fast the loss grows with each of them. Training goes the other
# way. With log q = z_target − log Σ eᶻ, where z are the logits,
#
#     ∂(log q)/∂z = onehot − softmax        onehot is 1 at the target, 0 elsewhere
#     ∂q/∂z       = q (onehot − softmax)    since ∂q = q ∂(log q)
#
# Both losses push the target up and all the others down. They differ in one weight: w = 1 for
# maximum likelihood, w = η + (1−η) q for MixCE, where those targets count less that Q finds odd.
def softmax(x):
    """Scores to probabilities along the last axis: p = eˣ / Σ eˣ."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))  # the maximum cancels; without it eˣ overflows
    return e / e.sum(axis=-1, keepdims=True)


def mixce(logits, targets, eta):
    """logits (B,T,V), targets (B,T) -> the mean loss over all targets, dlogits (B,T,V)"""
    z = logits - logits.max(axis=-1, keepdims=True)
    onehot = np.eye(z.shape[-1], dtype=z.dtype)[targets]  # (B,T,V)
    z_target = (z * onehot).sum(axis=-1, keepdims=True)  # (B,T,1)
    log_q = z_target - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    q = np.exp(log_q)
    loss = np.mean(-eta * log_q - (1 - eta) * q)
    w = eta + (1 - eta) * q
    return loss, w * (softmax(logits) - onehot) / targets.size


# ---- 2. Text: it teaches itself, for the target is the next character ----------------------------
# A token is a character's place in the sorted alphabet; token 0 is the boundary of two documents.
def load_text():
    """-> tokens (N,), characters: tokens[i] is the place in `characters` of the text's i-th."""
    text = "".join("\0" + document for document in topics.values())
    characters = sorted(set(text))
    token_of = {character: token for token, character in enumerate(characters)}
    return np.array([token_of[character] for character in text]), characters


def random_batch(tokens, B, T, rng):
    """tokens (N,) -> inputs (B,T), targets (B,T)"""
    starts = rng.integers(0, len(tokens) - T, size=B)
    windows = np.stack([tokens[start : start + T + 1] for start in starts])  # (B,T+1)
    return windows[:, :-1], windows[:, 1:]


# ---- 3. Parameters: all that the model will know, at first small and random ----------------------
# They are a dict of named arrays. The names are GPT-2's. Every token and every position has a
# vector of C channels (wte and wpe). The vectors pass through n_layer blocks, each with two layer
# norms and four linear layers.
def init(vocab_size, block_size, n_layer, n_head, n_embd, seed):
    """-> params, a dict of arrays. block_size is the longest sequence the model can read."""
    assert n_embd % n_head == 0, "the heads share the channels equally"
    C = n_embd
    rng = np.random.default_rng(seed)
    attn = {"ln_1": (C,), "attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C)}
    mlp = {"ln_2": (C,), "mlp.c_fc": (C, 4 * C), "mlp.c_proj": (4 * C, C)}
    params = {"wte.weight": 0.02 * rng.standard_normal((vocab_size, C))}
    params["wpe.weight"] = 0.02 * rng.standard_normal((block_size, C))
    for i in range(n_layer):
        for name, shape in (attn | mlp).items():
            # All 2·n_layer outputs of c_proj add up: start smaller, and the sum starts no larger.
            std = 0.02 / math.sqrt(2 * n_layer) if name.endswith("c_proj") else 0.02
            is_norm = len(shape) == 1
            weight = np.ones(C) if is_norm else std * rng.standard_normal(shape)
            params[f"h.{i}.{name}.weight"] = weight
            params[f"h.{i}.{name}.bias"] = np.zeros(shape[-1])
    return params | {"ln_f.weight": np.ones(C), "ln_f.bias": np.zeros(C)}


# ---- 4. Backward: follow every road, multiply along it, add up the roads -------------------------
# A forward function makes y from x. Its backward is given dy = ∂loss/∂y and must find dx:
#
#     dx_j = Σ_i dy_i · ∂y_i/∂x_j    over all y_i in which x_j appears
#
# dy comes from the layer above, dx goes to the layer below, and "cache" is what the forward keeps
# because the backward will ask for it. x has a row for each position of the batch. Here
# y_o = Σ_i x_i W_io + b_o in each row, with these slopes:
#
#     ∂y_o/∂x_i  = W_io    x_i appears in every y_o of its row: a sum over o
#     ∂y_o/∂W_io = x_i     W_io appears in every row: a sum over the N rows
#     ∂y_o/∂b_o  = 1       and so does b_o
#
# A sum over a shared letter is a matrix product. The shapes leave only one way to write it.
def linear(x, W, b):
    """x (N,I), W (I,O), b (O,) -> y (N,O)"""
    return x @ W + b, (x, W)


def linear_backward(dy, cache):
    x, W = cache
    dx = dy @ W.T  # (N,O) @ (O,I) -> (N,I)
    dW = x.T @ dy  # (I,N) @ (N,O) -> (I,O)
    db = dy.sum(axis=0)  # (N,O) -> (O,)
    return dx, dW, db


# ---- 5. Layer norm: no row may grow too large or too small ---------------------------------------
# Shift each row to mean 0 and scale it to variance 1: n = (x − mean) r, where r is one over its
# standard deviation. Then comes a learned scale and shift, n · weight + bias, with slopes like a
# linear layer's. From x_j three roads lead to the n_i of its row:
#
#     its own place      ∂n_j/∂x_j = r
#     through the mean   ∂n_i/∂x_j = −r / C            for every i
#     through r          ∂n_i/∂x_j = −r n_i n_j / C    for every i, since ∂r/∂x_j = −r² n_j / C
#
# Their sum is dx_j = r (dn_j − mean(dn) − n_j mean(dn · n)), with means over the row.
def layer_norm(x, weight, bias):
    """x (N,C), weight (C,), bias (C,) -> y (N,C)"""
    centered = x - x.mean(axis=-1, keepdims=True)
    r = 1 / np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + 1e-5)  # (N,1)
    n = centered * r
    return n * weight + bias, (n, r, weight)


def layer_norm_backward(dy, cache):
    n, r, weight = cache
    dweight = (dy * n).sum(axis=0)
    dbias = dy.sum(axis=0)
    dn = dy * weight
    through_mean = dn.mean(axis=-1, keepdims=True)
    through_r = n * (dn * n).mean(axis=-1, keepdims=True)
    return r * (dn - through_mean - through_r), dweight, dbias


# ---- 6. GELU: a soft switch between two linear layers --------------------------------------------
# It lets large x through and holds negative x back. Without it two linear layers would be only one.
#
#     y = ½ x (1 + t),    t = tanh u,    u = √(2/π) (x + 0.044715 x³)
#
# Each y has a single x, so there is one road; the product rule, with ∂t/∂u = 1 − t², gives
#
#     ∂y/∂x = ½ (1 + t) + ½ x (1 − t²) ∂u/∂x
def gelu(x):
    """x -> y, of any shape"""
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1 + t), (x, t)


def gelu_backward(dy, cache):
    x, t = cache
    du_dx = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du_dx)


# ---- 7. Attention: the one place where positions meet --------------------------------------------
# Every position has a query q ("what do I look for?"), a key k ("what am I?") and a value v ("what
# do I hand over?"). Where its query fits a key, it takes much of that position's value. It must not
# look ahead: what comes next is to be guessed. H heads do this side by side, on D channels each.
#
# Backward, we need softmax's slopes, ∂p_i/∂x_j = p_i (1[i=j] − p_j). Over all roads from x_j,
#
#     dx_j = Σ_i dp_i p_i (1[i=j] − p_j) = p_j (dp_j − Σ_i dp_i p_i)
#
# The rest are matrix products, as in section 4: Y = A M has dA = dY Mᵀ and dM = Aᵀ dY. Scores that
# look ahead need no line: their p is 0, a factor of their dx. (`.mT` swaps the last two axes.)
def softmax_backward(dp, p):
    return p * (dp - (dp * p).sum(axis=-1, keepdims=True))


def attention(qkv, B, T, n_head):
    """qkv (N,3C), in each row all queries, then all keys, then all values -> y (N,C)"""
    q, k, v = qkv.reshape(B, T, 3, n_head, -1).transpose(2, 0, 3, 1, 4)  # each (B,H,T,D)
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B,H,T,T): row i asks, column j answers
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)  # j > i would be looking ahead
    p = softmax(scores)
    y = p @ v  # (B,H,T,T) @ (B,H,T,D) -> (B,H,T,D)
    return y.transpose(0, 2, 1, 3).reshape(B * T, -1), (q, k, v, p)


def attention_backward(dy, cache, B, T, n_head):
    q, k, v, p = cache
    dy = dy.reshape(B, T, n_head, -1).transpose(0, 2, 1, 3)  # (B,H,T,D)
    dp = dy @ v.mT  # (B,H,T,T)
    dv = p.mT @ dy  # (B,H,T,D)
    dscores = softmax_backward(dp, p) / math.sqrt(q.shape[-1])
    dq = dscores @ k
    dk = dscores.mT @ q
    dqkv = np.stack([dq, dk, dv])  # (3,B,H,T,D)
    return dqkv.transpose(1, 3, 0, 2, 4).reshape(B * T, -1)  # (N,3C)


# ---- 8. The model, forward: a stream to which every block adds -----------------------------------
# The stream x has a vector for each position, and every block adds something to it twice. Attention
# gathers from other positions; two linear layers with a GELU between them (the "mlp") work on what
# was gathered. At the end the table of token vectors serves once more, turned around: the better a
# token's vector fits the stream's, the higher its score.
def forward(params, tokens, n_head):
    """tokens (B,T) -> logits (B,T,V), cache: what every layer keeps, by its name"""
    B, T = tokens.shape
    blocks = [name.removesuffix("ln_1.bias") for name in params if name.endswith("ln_1.bias")]
    cache = {"tokens": tokens, "blocks": blocks}  # blocks are "h.0.", "h.1.", …

    def of(name):
        return params[name + ".weight"], params[name + ".bias"]

    x = params["wte.weight"][tokens] + params["wpe.weight"][:T]  # (B,T,C) + (T,C)
    x = x.reshape(B * T, -1)
    for h in blocks:
        y, cache[h + "ln_1"] = layer_norm(x, *of(h + "ln_1"))
        y, cache[h + "attn.c_attn"] = linear(y, *of(h + "attn.c_attn"))
        y, cache[h + "attn"] = attention(y, B, T, n_head)
        y, cache[h + "attn.c_proj"] = linear(y, *of(h + "attn.c_proj"))
        x = x + y
        y, cache[h + "ln_2"] = layer_norm(x, *of(h + "ln_2"))
        y, cache[h + "mlp.c_fc"] = linear(y, *of(h + "mlp.c_fc"))
        y, cache[h + "mlp.gelu"] = gelu(y)
        y, cache[h + "mlp.c_proj"] = linear(y, *of(h + "mlp.c_proj"))
        x = x + y
    x, cache["ln_f"] = layer_norm(x, *of("ln_f"))
    logits, cache["head"] = linear(x, params["wte.weight"].T, 0)
    return logits.reshape(B, T, -1), cache


# ---- 9. The model, backward: the forward, read from its last line to its first -------------------
# The slopes of x + y are 1: what reaches the sum goes unchanged both to x and into y. Where the two
# roads meet again, at the x that was used twice, they are added.
def backward(params, dlogits, cache, n_head):
    """dlogits (B,T,V) -> grads: ∂loss/∂p for every p of params, under its name"""
    B, T, V = dlogits.shape
    grads = {name: np.zeros_like(p) for name, p in params.items()}

    def keep(name, dx, dweight, dbias):
        grads[name + ".weight"] = dweight
        grads[name + ".bias"] = dbias
        return dx

    dx, dwte_transposed, _ = linear_backward(dlogits.reshape(B * T, V), cache["head"])
    dx = keep("ln_f", *layer_norm_backward(dx, cache["ln_f"]))
    for h in reversed(cache["blocks"]):
        dy = keep(h + "mlp.c_proj", *linear_backward(dx, cache[h + "mlp.c_proj"]))
        dy = gelu_backward(dy, cache[h + "mlp.gelu"])
        dy = keep(h + "mlp.c_fc", *linear_backward(dy, cache[h + "mlp.c_fc"]))
        dy = keep(h + "ln_2", *layer_norm_backward(dy, cache[h + "ln_2"]))
        dx = dx + dy
        dy = keep(h + "attn.c_proj", *linear_backward(dx, cache[h + "attn.c_proj"]))
        dy = attention_backward(dy, cache[h + "attn"], B, T, n_head)
        dy = keep(h + "attn.c_attn", *linear_backward(dy, cache[h + "attn.c_attn"]))
        dy = keep(h + "ln_1", *layer_norm_backward(dy, cache[h + "ln_1"]))
        dx = dx + dy
    grads["wpe.weight"][:T] = dx.reshape(B, T, -1).sum(axis=0)  # B sequences share each position
    grads["wte.weight"] += dwte_transposed.T  # this table was used twice: at the end, and
    np.add.at(grads["wte.weight"], cache["tokens"].reshape(B * T), dx)  # to look up each token
    return grads


# ---- 10. The check: is it right? Nudge the parameters and see ------------------------------------
# A gradient is a promise: move a parameter a little, and the loss moves by so much. Try it: move
# all parameters at once along a random direction u, a small step forward and one back. The loss
# must change as the gradient says, by its product with u; a mistake in any backward shows.
def check_slope(params, inputs, targets, n_head, eta, seed):
    """-> the slope of the loss along u, as backward says and as it is found; params are float64"""
    rng = np.random.default_rng(seed)
    u = {name: rng.standard_normal(p.shape) for name, p in params.items()}

    def run(step):
        moved = {name: p + step * u[name] for name, p in params.items()}
        logits, cache = forward(moved, inputs, n_head)
        loss, dlogits = mixce(logits, targets, eta)
        return loss, backward(moved, dlogits, cache, n_head)

    _, grads = run(0)
    said = sum((grads[name] * u[name]).sum() for name in params)
    found = (run(1e-6)[0] - run(-1e-6)[0]) / 2e-6
    return said, found


# ---- 11. AdamW: walk against the gradient, in steps of about one length --------------------------
# m is where the gradient has pointed lately, v how large it has been, squared. So m / √v is long
# where the gradient keeps its direction, short where it flickers. Both begin at 0, for which the
# division by 1 − βˢᵗᵉᵖ makes up. Matrices also shrink a little at every step.
def adamw(params, grads, state, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
    """One step -> new params, new state. The state is {} at first."""
    step = state.get("step", 0) + 1
    new_params = {}
    new_state = {"step": step}
    for name, p in params.items():
        m, v = state.get(name, (0, 0))
        m = betas[0] * m + (1 - betas[0]) * grads[name]
        v = betas[1] * v + (1 - betas[1]) * grads[name] ** 2
        m_hat = m / (1 - betas[0] ** step)
        v_hat = v / (1 - betas[1] ** step)
        decay = weight_decay * p if p.ndim == 2 else 0
        new_params[name] = p - lr * (m_hat / (np.sqrt(v_hat) + eps) + decay)
        new_state[name] = m, v
    return new_params, new_state


# ---- 12. Writing: guess the next character, append it, guess again -------------------------------
# The characters are drawn with the probabilities that Q gives them, never just the likeliest one.
def sample(params, prompt, max_new_tokens, n_head, seed):
    """prompt, a list of tokens -> the same list continued, at most up to the next boundary"""
    rng = np.random.default_rng(seed)
    block_size = len(params["wpe.weight"])
    tokens = list(prompt)
    for _ in range(max_new_tokens):
        logits, _ = forward(params, np.array([tokens[-block_size:]]), n_head)  # (1,T,V)
        probabilities = softmax(logits[0, -1])
        tokens.append(int(rng.choice(len(probabilities), p=probabilities)))
        if tokens[-1] == 0:
            break
    return tokens


# ---- 13. All together: guess, compare, walk a step -----------------------------------------------
# 2500 steps take about 40 seconds, and noise turns into words. On text that Q has not seen, −log q
# falls from 4.3, a blind guess, to 1.6. A lower η gives up the rare for the well formed: of about
# 2700 words in 40 pieces that Q writes,
#
#     η = 1      −log q 1.58    54 % are words of the text; 1490 are different
#     η = 0.5    −log q 1.61    59 % and 1252
#     η = 0.1    −log q 1.95    76 % and 667
def main(steps, eta):
    n_head = 4
    T = 64
    tokens, characters = load_text()
    train, held_out = np.split(tokens, [len(tokens) * 9 // 10])  # the last tenth is for the exam
    rng = np.random.default_rng(0)
    exam, answers = random_batch(held_out, 100, T, rng)
    params = init(len(characters), T, n_layer=2, n_head=n_head, n_embd=64, seed=0)
    size = sum(p.size for p in params.values())
    print(f"{len(tokens)} characters, V = {len(characters)}; {size} parameters; η = {eta}")
    said, found = check_slope(params, exam[:2], answers[:2], n_head, eta, seed=1)
    print(f"slope of the loss: backward says {said:.7f}, nudging says {found:.7f}")

    params = {name: p.astype(np.float32) for name, p in params.items()}  # half the digits and time
    state = {}
    start = time.time()
    for step in range(1, steps + 1):
        inputs, targets = random_batch(train, 8, T, rng)
        logits, cache = forward(params, inputs, n_head)
        loss, dlogits = mixce(logits, targets, eta)
        grads = backward(params, dlogits, cache, n_head)
        lr = 3e-3 * (1 - (step - 1) / steps)  # shorter and shorter steps, to come to rest
        params, state = adamw(params, grads, state, lr)
        if step == 1 or step % max(1, steps // 10) == 0 or step == steps:
            logits, _ = forward(params, exam, n_head)
            loss, _ = mixce(logits, answers, eta)
            nll, _ = mixce(logits, answers, eta=1)
            seconds = f"{time.time() - start:.0f} s"
            print(f"step {step:4}: held-out MixCE loss {loss:.3f}, −log q {nll:.3f} ({seconds})")

    written = sample(params, [0], 500, n_head, seed=0)
    print("\nIt writes:\n" + "".join(characters[token] for token in written).strip("\0"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("steps", nargs="?", type=int, default=2500)
    parser.add_argument("eta", nargs="?", type=float, default=0.5)
    main(**vars(parser.parse_args()))
