# %% [markdown]
# # 4 The exact reverse gradient
#
# *Reading: 30 minutes. Computing: 10 seconds on a laptop. Before this: the gradient of one softmax
# ([lesson 3](3_one_softmax_by_hand.ipynb)) and the `agreement()` world ([lesson 2](2_sequences_and_worlds.ipynb)).*
#
# **At the end you will know**
#
# - how to differentiate $R = -\mathbb{E}_Q \log P$ and $\mathrm{KL}(Q\|P)$ through every sequence that a model can
#   write, in three ways that agree to the last digits: by a list, by a tree, by costs to go;
# - why the third is the policy-gradient theorem of reinforcement learning, here with nothing sampled;
# - what each of them costs;
# - why a divergence taken token by token has another gradient than the divergence between sequences.

# %%
import itertools

import numpy as np

import minimixce as mm
from minimixce.lessons import (
    INVALID_COLOR,
    figure,
    full_or_fast,
    optimal_table,
    oranges,
    say,
    sentence_bars,
    sentence_probs,
    show,
    table,
)

# %% [markdown]
# ## Why the reverse cross-entropy is harder
#
# The forward cross-entropy $F = -\mathbb{E}_{x \sim P} \log Q(x)$ is an average over data. The parameters of $Q$
# sit inside the logarithm: draw data and differentiate. In the reverse one,
#
# $$
# R = -\mathbb{E}_{x \sim Q} \log P(x) = -\sum_x Q(x) \log P(x),
# $$
#
# the logarithm belongs to $P$ and holds no parameter at all. The parameters sit in *what is drawn*. If you drew
# sequences from $Q$ and differentiated $-\log P(x)$ for each, you would get exactly zero. In a small world you need
# not draw: write down the sum over every sequence, and differentiate that.
#
# `agreement()` is such a world: $V = 6$ tokens, and with horizon $T = 4$ at most three words. $Q$ is a table of
# logits $z$, one row for each last token.

# %%
world, T = mm.worlds.agreement(), 4
V = world.vocab_size
rows = mm.exact.sequences(V, T)  # (n, T+1): every sequence there is, as ids: boundary, words, boundary, then −1
inputs, targets = world.batch(rows)  # (n, T−1) each: the token before, and the token to be drawn; −1 after the end
drawn = targets >= 0
log_P = world.log_prob(rows, floored=True)  # (n,): an impossible token counts as log_p_floor instead of −∞


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# %% [markdown]
# The model is the best bigram by maximum likelihood, which is counting, blended with a little of the uniform
# distribution, so that no probability is zero.

# %%
counts = mm.exact.bigram_counts(world, T)  # (V,V) expected counts under P
counted = counts / counts.sum(axis=1, keepdims=True)
z = np.log(0.94 * counted + 0.06 / V)  # (V,V) logits: row = last token, column = next token


def log_Q(z):
    """log Q(x) of every sequence -> (n,)"""
    return np.where(drawn, np.log(softmax(z))[inputs, targets], 0).sum(axis=1)


def R(z):
    return -(np.exp(log_Q(z)) * log_P).sum()


def KL(z):
    return (np.exp(log_Q(z)) * (log_Q(z) - log_P)).sum()


Q, possible = np.exp(log_Q(z)), world.log_prob(rows) > -np.inf
say(f"""{len(rows)} sequences, of which P can produce {possible.sum()}. Q gives all of them together {Q.sum():.6f},
and the impossible ones {Q[~possible].sum():.1%}. R = {R(z):.2f} nats per sequence, KL(Q‖P) = {KL(z):.2f}: each
impossible token costs {-world.log_p_floor:.2f} nats, so nearly all of either is the price of the impossible.""")

# %% [markdown]
# ## First way: the list
#
# Take any $L = \sum_x \varphi(P(x), Q(x))$, a sum of some function $\varphi$ of the two probabilities of a sequence. Ask
# how it moves when the *log-probability* of one sequence moves. Since $Q = e^{\log Q}$, we have
# $\partial Q / \partial \log Q = Q$, and so
#
# $$
# w(x) = \frac{\partial L}{\partial \log Q(x)} = Q(x) \frac{\partial \varphi}{\partial Q(x)} .
# $$
#
# For $R$, $\varphi = -Q \log P$ and $w(x) = -Q(x) \log P(x)$. For $\mathrm{KL}(Q\|P)$,
# $\varphi = Q (\log Q - \log P)$ and $w(x) = Q(x) (\log Q(x) - \log P(x) + 1)$.
#
# The other half you know. $\log Q(x)$ is a sum over positions of $\log \mathrm{softmax}$, and lesson 3 found the
# gradient of each: onehot − softmax. (There it was $-\log q$, with the other sign.) Together, at position $t$ of the
# sequence $x$,
#
# $$
# \frac{\partial L}{\partial \mathrm{logits}(x, t)} = w(x) (\mathrm{onehot}(x_t) - \mathrm{softmax}) .
# $$
#
# All that is left is to add up. In a table, positions with the same last token share a row.


# %%
def R_weights(z):
    return -np.exp(log_Q(z)) * log_P


def KL_weights(z):
    return np.exp(log_Q(z)) * (log_Q(z) - log_P + 1)


def list_gradient(z, w):
    """w (n,), one weight a sequence -> ∂L/∂z (V,V)"""
    q, dz = softmax(z), np.zeros_like(z)
    for x in range(len(rows)):
        for t in range(T - 1):
            if drawn[x, t]:
                last = inputs[x, t]
                dz[last] += w[x] * (np.eye(V)[targets[x, t]] - q[last])
    return dz


# %% [markdown]
# Lesson 3's referee compares with numerical derivatives, one for each logit. Then compare with the package, which does
# the same sum for any model.

# %%
for name, value, weights in (("reverse_ce", R, R_weights), ("reverse_kl", KL, KL_weights)):
    report = mm.gradcheck(
        lambda z, value=value: (value(z), z),
        lambda dy, z, weights=weights: dy * list_gradient(z, weights(z)),
        [z],
        names=[name],
    )
    print(report)
    assert report.ok

model = mm.TableBigram(V)
model.params["logits"][:] = z
for name, weights in (("reverse_ce", R_weights), ("reverse_kl", KL_weights)):
    loss, grads = mm.exact.loss_and_grads(model, world, T, objective=name, method="list")
    assert np.allclose(grads["logits"], list_gradient(z, weights(z)))

# %% [markdown]
# > **Predict.** For $R$ no weight $w(x) = -Q(x) \log P(x)$ is negative, and that of "cat sleeps" is positive. A
# > positive $w(x)$ pushes $\log Q(x)$ down. So does every sequence lose probability? And what changes if you add the
# > same 1,000 nats to the cost $-\log P(x)$ of every sequence?

# %% tags=["reveal"]
gradient = list_gradient(z, R_weights(z))
dearer = list_gradient(z, R_weights(z) + 1000 * Q)  # w = Q · (cost + 1000)
after = np.exp(log_Q(z - 0.01 * gradient))
its_row = world.rows(["cat sleeps"], T)
number = int(np.flatnonzero((rows == its_row).all(axis=1))[0])  # of "cat sleeps" in the list
assert np.allclose(gradient, dearer)
assert after[number] > Q[number]
say(f"""No; and nothing changes. The probabilities add up to one, so what one sequence loses another must gain, and a
constant added to every cost adds a constant to R, whose gradient is zero: the two gradients above differ by
{abs(gradient - dearer).max():.0e}. Only *differences* between costs count. "cat sleeps" costs {-log_P[number]:.2f} nats,
far less than the average, R, and gains: one small step takes it from {Q[number]:.4f} to {after[number]:.4f}. (The +1 in
the weight of KL(Q‖P) is such a constant; drop it and nothing changes.) With samples instead of sums the constant does
matter: lesson 5 chooses it well.""")

# %% [markdown]
# ## Second way: the tree
#
# The list does the same work again and again. "cat here sleeps" and "cat here sleep" share the prefix "cat here", and
# with it a softmax. So collect the terms of the list by prefix. Write $h$ for a prefix, $hv$ for $h$ with one more
# token $v$, and
#
# $$
# W(h) = \sum_{x \text{ through } h} w(x)
# $$
#
# for the weight of all sequences that begin with $h$. Each of them adds $-w(x) \mathrm{softmax}$ to the logits
# after $h$: together $-W(h) Q(\cdot|h)$. Those that go on with $v$ add $w(x)$ to logit $v$: together $W(hv)$. So
#
# $$
# \frac{\partial L}{\partial \mathrm{logits}(h)_v} = W(hv) - W(h) Q(v|h) ,
# $$
#
# and $W$ comes from one walk from the leaves to the root, because $W(h) = \sum_v W(hv)$. In words: the weight that
# passes through $v$, less what would pass there if the weight at $h$ were dealt out by the model's own probabilities.

# %%
prefixes = [h for k in range(T - 1) for h in itertools.product(range(1, V), repeat=k)]  # shortest first
sequence = [tuple(int(v) for v in row[1:T] if v >= 0) for row in rows]  # (1, 4, 0) is "cat sleeps" and its boundary


def last(h):
    return h[-1] if h else 0


def tree_gradient(z, w):
    q, W, dz = softmax(z), dict(zip(sequence, w)), np.zeros_like(z)
    for h in reversed(prefixes):  # longest first, so that all W(hv) are there
        W_next = np.array([W[(*h, v)] for v in range(V)])
        W[h] = W_next.sum()
        dz[last(h)] += W_next - W[h] * q[last(h)]
    return dz


for weights in (R_weights, KL_weights):
    assert np.allclose(tree_gradient(z, weights(z)), list_gradient(z, weights(z)))
cat, cats, here, sleeps, sleep = range(1, 6)
weight = dict(zip(sequence, R_weights(z)))
W = sum(w for x, w in weight.items() if x[:2] == (cat, here))
W_sleep, share = weight[(cat, here, sleep)], softmax(z)[here, sleep]
say(f"""For example, at the prefix "cat here" and for R: W = {W:.3f}, of which {W_sleep:.3f} passes through "sleep",
to which Q gives the share {share:.3f}. So the logit of "sleep" gets {W_sleep:.3f} − {W:.3f} · {share:.3f} =
{W_sleep - W * share:+.2f}, and is pushed down.

The same gradients as the list's, from {len(prefixes)} prefixes instead of {drawn.sum()} positions of sequences.""")

# %% [markdown]
# ## Third way: the cost to go
#
# For $R$ and $\mathrm{KL}(Q\|P)$ the cost of a sequence is a sum over its tokens. Let $c(v|h)$ be the cost of token
# $v$ after $h$: $-\log P(v|h)$ for $R$, and $\log Q(v|h) - \log P(v|h)$ for the KL divergence. Stand at $h$ and ask
# what is still to be paid on average, until the end:
#
# $$
# U(h) = \sum_v Q(v|h) [ c(v|h) + U(hv) ] ,
# $$
#
# with $U = 0$ after the boundary, and where the boundary is forced. At the start, $U$ is the whole expected cost:
# $R$, or the KL divergence.
#
# Write $\partial$ for the derivative in any parameter, and use the product rule. (In the KL divergence $c$ moves too,
# but $\sum_v Q(v|h) \partial \log Q(v|h) = \sum_v \partial Q(v|h) = 0$: no effect on average.)
#
# $$
# \partial U(h) = \sum_v \partial Q(v|h) [ c(v|h) + U(hv) ] + \sum_v Q(v|h) \partial U(hv) .
# $$
#
# The last term is the same expression one token later, averaged over that token. Put it in, again and again, and
# each prefix gets the probability of being reached, $Q(h)$, as its factor:
#
# $$
# \partial L = \sum_h Q(h) \sum_v \partial Q(v|h) [ c(v|h) + U(hv) ] .
# $$

# %% [markdown]
# The rest is the backward of one softmax from lesson 3,
# $\partial Q(v|h) / \partial z_u = Q(v|h) (1[u = v] - Q(u|h))$:
#
# $$
# \frac{\partial L}{\partial \mathrm{logits}(h)_v} = Q(h) Q(v|h) [ c(v|h) + U(hv) - U(h) ] .
# $$
#
# The bracket asks: does taking $v$ here cost more, from now to the end, than the average token here? In
# reinforcement learning prefixes are *states*, tokens are *actions*, $-c$ is a *reward*, $-U$ is the *value
# function* and the bracket, with its sign turned, is the *advantage*. (For the KL divergence the reward holds
# $-\log Q$: a bonus for entropy.) There the line is called the policy-gradient theorem (Sutton et al., 2000), and one
# meets it as something to be estimated from samples. Here it is a rearranged sum: nothing is sampled, so nothing
# varies.

# %%
state = {(): 0}  # where the world is after a prefix
for h in prefixes:
    state |= {(*h, v): int(world.next_state[state[h], v]) for v in range(1, V)}
log_p = world.tables(np).log_p_floored  # (states, V)


def R_cost(z, h):
    return -log_p[state[h]]  # (V,)


def KL_cost(z, h):
    return np.log(softmax(z)[last(h)]) - log_p[state[h]]


def reach(z):
    """{h: Q(h)}, the probability that the model writes h and perhaps more"""
    q, Q = softmax(z), {(): 1.0}
    for h in prefixes:
        Q |= {(*h, v): Q[h] * q[last(h), v] for v in range(V)}
    return Q


# %%
def cost_to_go(z, cost):
    """-> U {h: nats}, bracket {h: (V,)}, ∂L/∂z (V,V)"""
    q, Q, U, bracket, dz = softmax(z), reach(z), {}, {}, np.zeros_like(z)
    for h in reversed(prefixes):
        to_go = cost(z, h) + np.array([U.get((*h, v), 0.0) for v in range(V)])  # 0: nothing is to come
        U[h] = q[last(h)] @ to_go
        bracket[h] = to_go - U[h]
        dz[last(h)] += Q[h] * q[last(h)] * bracket[h]
    return U, bracket, dz


for name, value, weights, cost in (("reverse_ce", R, R_weights, R_cost), ("reverse_kl", KL, KL_weights, KL_cost)):
    U, bracket, dz = cost_to_go(z, cost)
    loss, grads = mm.exact.policy_gradient(model, world, T, objective=name)
    assert np.isclose(U[()], value(z))
    assert np.isclose(U[()], float(loss))
    assert np.allclose(dz, tree_gradient(z, weights(z)))
    assert np.allclose(dz, grads["logits"])
    furthest = abs(dz - list_gradient(z, weights(z))).max()
    say(f"{name}: U of the start is {U[()]:.4f}, and the three gradients agree to {furthest:.0e}.")

# %% [markdown]
# ## The tree, drawn
#
# Every edge below leads to one more token. Its width is the probability $Q(hv)$ that the model comes that way, its
# number and colour are the bracket for $R$, in nats: **red** costs more than the average token there, and a gradient
# step pushes it down; **blue** costs less, and is pushed up.


# %%
def draw_tree(z, visible=0.02):
    Q, (_, bracket, _) = reach(z), cost_to_go(z, R_cost)
    leaves = [x for x in sequence if Q[x] >= visible]
    leaves.sort(key=lambda x: (-Q[x[:1]], -Q[x[:2]], -Q[x]))
    height = {x: -i for i, x in enumerate(leaves)}
    for h in reversed(prefixes):
        below = [height[(*h, v)] for v in range(V) if (*h, v) in height]
        if below:
            height[h] = sum(below) / len(below)
    fig = figure(7.5, 4.4)
    ax = fig.subplots()
    for h in [h for h in height if h]:
        y0, y1, cost = height[h[:-1]], height[h], bracket[h[:-1]][h[-1]]
        color = ("#c1272d" if cost > 0 else "#2166ac", 0.35 + 0.65 * min(1.0, abs(cost) / 30))
        ax.plot([len(h) - 0.8, len(h) - 0.22], [y0, y1], color=color, linewidth=1 + 26 * Q[h], solid_capstyle="butt")
        text = {"ha": "center", "va": "center"}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        ax.text(len(h) - 0.45, y0 + 0.6 * (y1 - y0), f"{cost:+.1f}".replace("-", "−"), text, fontsize=8, bbox=box)
        if h in leaves and not possible[sequence.index(h)]:
            box |= {"facecolor": INVALID_COLOR, "pad": 3}
        ax.text(len(h), y1, world.words[h[-1]] or "(end)", text, fontsize=10, bbox=box)
    ax.text(0, height[()], "start", ha="center", va="center", fontsize=10)
    ax.set(xlim=(-0.2, 3.35), ylim=(-len(leaves) + 0.4, 0.75))
    ax.axis("off")
    return fig


show(
    draw_tree(z),
    "Prefix tree of the agreement world: edges to impossible last words and both edges to 'here' are red, the others blue",
)

# %%
U, bracket, dz = cost_to_go(z, R_cost)
kept = sum(p for x, p in zip(sequence, Q) if p >= 0.02)
assert bracket[(cat,)][here] > 0 > bracket[(cat,)][sleeps]
assert bracket[(cats,)][here] > 0 > bracket[(cats,)][sleep]
say(f"""Drawn are the sequences with a probability of at least 2 %, {kept:.0%} of all; grey words end a sequence
that P cannot produce. Start at the right. After "cat here" the impossible "sleep" is red
({bracket[(cat, here)][sleep]:+.1f}), after "cats here" it is "sleeps" ({bracket[(cats, here)][sleeps]:+.1f}). Now
go one step to the left. P finds "here" and the verb equally likely after a noun, so both cost the same there; yet
"here" is red ({bracket[(cat,)][here]:+.1f} and {bracket[(cats,)][here]:+.1f}). It pays for what it leads to: beyond
it lies a word at which this Q, which forgets the number, will often be wrong. So the gradient asks for less
"here".""")

# %% [markdown]
# The prefixes "cat here" and "cats here" end in the same token, so in the table they share a row of logits: one pulls
# it one way, the other the other way, and $Q(h)$ decides how they add up. In a transformer they share all parameters,
# and its backward pass takes the same sum.
#
# ## From a table to any model
#
# None of the three ways needs $Q$ to be a table. They give $\partial L / \partial \mathrm{logits}$ at every prefix, and
# from there a model's own backward takes over. Here is a small transformer, by list and by tree; then a count of how
# often each of them computes logits.

# %%
gpt = mm.GPT(mm.GPTConfig(V, block_size=T - 1, n_layer=2, n_head=2, n_embd=32, dtype="float64"), seed=0, device="cpu")
_, by_list = mm.exact.loss_and_grads(gpt, world, T, objective="reverse_kl", method="list")
_, by_tree = mm.exact.loss_and_grads(gpt, world, T, objective="reverse_kl", method="tree")
furthest = max(abs(by_list[name] - by_tree[name]).max() for name in gpt.params)
assert furthest < 1e-9
say(f"{gpt.num_params:,} parameters, and in all of them the list and the tree find the same gradient, to {furthest:.0e}.")


# %%
def list_positions(V, T):
    return sum((V - 1) ** k * min(k + 1, T - 1) for k in range(T))  # k words, then the boundary unless it is forced


def tree_positions(V, T):
    return sum((V - 1) ** k for k in range(T - 1))


def triples(world, T):
    """Different (length, world state, last token) among the prefixes"""
    state, total = np.zeros(1, dtype=int), 0
    for _ in range(T - 1):
        total += len(state)
        following = world.next_state[state] * world.vocab_size + np.arange(world.vocab_size)  # a pair as one number
        state = np.unique(following[:, 1:]) // world.vocab_size
    return total


assert (list_positions(V, T), tree_positions(V, T)) == (drawn.sum(), len(prefixes))

# %% [markdown]
# The tree has fewer positions by a factor of about $(T-1)(V-1)$, and costs to go visit the same prefixes as the tree.
# But all three grow by a factor of $V-1$ with each token that you add to the horizon, and no sharing of prefixes will
# save a sum over that many different futures. Unless the futures are *not* different: with a bigram $Q$ and a world
# that is an automaton, two prefixes with the same length, the same world state and the same last token have the same
# $U$. Merge them, and the recursion for $U$ becomes dynamic programming over such triples. Without a horizon, in a
# Markov world, it is one linear system ([math §4](math.md#4-exact-gradients-by-the-tree)).

# %%
stories = mm.worlds.stories()


def written(n):
    return f"{n:,}" if n < 10**8 else f"about 10^{len(str(n)) - 1}"


table(
    ("world, horizon", "sequences", "positions, list", "prefixes, tree", "triples, bigram Q"),
    [
        (
            f"{w.name}, {t}",
            *map(written, (mm.exact.num_sequences(v, t), list_positions(v, t), tree_positions(v, t), triples(w, t))),
        )
        for w, t in ((world, 4), (world, 8), (stories, 4), (stories, 22))
        for v in [w.vocab_size]
    ],
)
assert np.isclose(list_positions(63, 22) / tree_positions(63, 22), (22 - 1) * (63 - 1), rtol=0.01)

# %%
for name, cost in (("reverse_ce", R_cost), ("reverse_kl", KL_cost)):
    loss, dlogits = mm.exact.bigram_loss_and_grads(z, world, objective=name, max_len=T)
    assert np.allclose(dlogits, cost_to_go(z, cost)[2])

horizon = 22
loss, _ = mm.exact.bigram_loss_and_grads(np.zeros((stories.vocab_size,) * 2), stories, objective="reverse_kl", max_len=horizon)
say(f"""On `agreement()` the package's dynamic programme gives the same gradient again. On `stories()`, with
{stories.vocab_size} tokens and horizon {horizon}, it has the exact KL(Q‖P) of the uniform table, {float(loss):.0f} nats, and
its gradient in seconds. For a model with a memory, such as a transformer, nothing merges, and
{horizon} tokens are out of reach: that is where lesson 5 begins.""")

# %% [markdown]
# ## Token by token is something else
#
# A tempting shortcut: a language model predicts one token at a time, so compare it with $P$ one token at a time. At
# each prefix take the divergence between the two next-token distributions, and add up over prefixes, each with some
# weight $D(h)$:
#
# $$
# L_D = \sum_h D(h) \mathrm{KL}\big( Q(\cdot|h) \| P(\cdot|h) \big) .
# $$
#
# $D$ is taken as given, because that is what a training loop does: it is handed some prefixes, of the data
# ($D = P$) or written by the model ($D = Q$), and differentiates the loss on them. Token-level distillation, where a
# larger model is the $P$, works like this, with this divergence or another.
#
# With $D = Q$ the *value* is not an approximation. $\log Q(x) - \log P(x)$ is a sum over tokens, so
# $\sum_h Q(h) \mathrm{KL}(Q(\cdot|h) \| P(\cdot|h))$ is $\mathrm{KL}(Q\|P)$ between sequences, exactly. For a given
# prefix the gradient is that of a mean cost through one softmax:
#
# $$
# \frac{\partial L_D}{\partial \mathrm{logits}(h)_v} = D(h) Q(v|h) [ c(v|h) - \bar{c}(h) ], \qquad
# \bar{c}(h) = \sum_v Q(v|h) c(v|h) .
# $$

# %%
world_reach = {(): 1.0}  # P(h)
for h in prefixes:
    world_reach |= {(*h, v): world_reach[h] * world.probs[state[h], v] for v in range(1, V)}


def token_level(z, D):
    """Σ_h D(h) KL(Q(·|h)‖P(·|h)) and its gradient with D held fixed"""
    q, value, dz = softmax(z), 0.0, np.zeros_like(z)
    for h in prefixes:
        c = KL_cost(z, h)
        mean = q[last(h)] @ c
        value += D[h] * mean
        dz[last(h)] += D[h] * q[last(h)] * (c - mean)
    return value, dz


# %% [markdown]
# > **Predict.** With $D = Q$ the value is $\mathrm{KL}(Q\|P)$ itself. Is the gradient, then, the gradient of
# > $\mathrm{KL}(Q\|P)$? If not: at which words of the tree does it go wrong, and which way does it push "here"?

# %% tags=["reveal"]
value, by_token = token_level(z, reach(z))
_, by_token_P = token_level(z, world_reach)
_, _, by_sequence = cost_to_go(z, KL_cost)


def cosine(a, b):
    return (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)


assert np.isclose(value, KL(z))
assert cosine(by_token, by_sequence) < 0.7
assert by_token[cat, here] < 0 < by_sequence[cat, here]
assert by_token[cats, here] < 0 < by_sequence[cats, here]
say(f"""No. The values are equal ({value:.4f} and {KL(z):.4f}), the gradients are not: the cosine between them is
{cosine(by_token, by_sequence):.2f} with the model's prefixes, {cosine(by_token_P, by_sequence):.2f} with P's.
Compare the brackets: c(v|h) − c̄(h) is c(v|h) + U(hv) − U(h) with the future left out. Where nothing follows, both
agree. Before that, the token-level gradient does not see that a token decides *which prefixes come later*: that is
hidden in D(h), which was held fixed. To it "here" after a noun is good (P says so), and it pushes "here" **up**,
against the exact gradient.""")


# %%
def draw_rows():
    fig = figure(7.5, 3.2)
    names = {
        "sequence level (exact)": by_sequence,
        "token level, prefixes of Q": by_token,
        "token level, prefixes of P": by_token_P,
    }
    for ax, row in zip(fig.subplots(1, 3, sharey=True), (cat, cats, here)):
        for i, (color, (name, dz)) in enumerate(zip(oranges(3), names.items())):
            ax.bar(np.arange(V) + 0.27 * (i - 1), dz[row], 0.27, color=color, label=name, zorder=2)
        ax.set_xticks(range(V), ["(end)", *world.words[1:]], rotation=60)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_title(f"logits after “{world.words[row]}”", fontsize=10)
        if row == cat:
            ax.set_ylabel("gradient in the logit, nats")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return fig


show(
    draw_rows(),
    "Bars of the gradient after cat, cats and here: after nouns the token-level bars for 'here' go down, the exact ones up",
)

# %% [markdown]
# Below zero means pushed up. After "here" comes the last word, hardly anything follows, and the three agree up to how
# often they think that one gets there. After the nouns they disagree in size and in sign.
#
# Nor are these two ways to the same place. Follow each gradient (the token-level one with the model's own prefixes)
# from the same start to its end.


# %%
def descend(gradient):
    steps = full_or_fast(1500, 300)
    trained = mm.TableBigram(V)
    trained.params["logits"][:] = z
    optimizer = mm.AdamW(trained.params, lr=0.05, weight_decay=0.0)
    for step in range(steps):
        dlogits = gradient(trained.params["logits"])
        optimizer.step({"logits": dlogits}, lr=mm.optim.warmup_cosine(step, 0.05, 0, steps, 1e-4))
    return trained


ends = {
    "MLE": optimal_table("forward_ce"),
    "token level": descend(lambda z: token_level(z, reach(z))[1]),
    "sequence level": descend(lambda z: mm.exact.bigram_loss_and_grads(z, world, objective="reverse_kl", max_len=T)[1]),
}
found = {name: mm.exact.measure(end, world, T) for name, end in ends.items()}

# %%
fig = figure(7.5, 3.4)
sentence_bars(fig.subplots(), {"P": sentence_probs(world)} | {name: sentence_probs(end) for name, end in ends.items()})
show(
    fig,
    "Bars of P, MLE and the two ends: token level keeps a fifth on an impossible sentence, sequence level none",
)
table(
    ("ends at", "KL(Q‖P), nats", "written that is possible"),
    [(name, f"{float(f['reverse_kl']):.2f}", f"{float(f['validity']):.1%}") for name, f in found.items()],
)
assert found["sequence level"]["validity"] > 0.95 > 0.9 > found["token level"]["validity"]
assert found["sequence level"]["reverse_kl"] < found["token level"]["reverse_kl"] - 5

# %% [markdown]
# Both settle on "sleeps" after "here". The token-level gradient leaves it at that, and still writes "cats here sleeps",
# which is impossible. The sequence-level gradient also stops writing "here" after "cats": it gives up a possible
# sentence and avoids the trouble.
#
# Be fair to the shortcut: if $Q$ can represent $P$, then $Q = P$ is the end of both, for there every next-token
# divergence is zero. The difference is in what a *limited* $Q$ does with its limits, and on the way there. With $P$'s
# prefixes the token-level loss needs no samples of $Q$, and that is worth something. But it is another objective, and
# has to be called one.

# %% [markdown]
# ## Summary
#
# - $R$ and $\mathrm{KL}(Q\|P)$ have their parameters in what is drawn. With every sequence in the sum they
#   differentiate like anything else: $w(x) = \partial L / \partial \log Q(x)$, then onehot − softmax at each
#   position.
# - The tree collects by prefix: $W(hv) - W(h) Q(v|h)$. It computes each prefix once, and works for every sum of
#   $\varphi(P(x), Q(x))$.
# - Costs to go: $Q(h) Q(v|h) [ c(v|h) + U(hv) - U(h) ]$, the policy-gradient theorem as an identity. It needs a
#   cost that adds over tokens.
# - A token is judged by what it leads to, and only differences between costs count.
# - Token-level divergences leave out $U(hv)$: the same value with $D = Q$, another gradient, another end.
# - All three ways grow by a factor of $V-1$ with each token of the horizon. A bigram $Q$ merges prefixes and escapes; a
#   transformer does not.
#
# ## Exercises
#
# 1. *Pencil.* Let $\mathrm{spent}(h)$ be the cost of the tokens of $h$ itself. Show that for $R$,
#    $W(h) = Q(h) [ \mathrm{spent}(h) + U(h) ]$, and from that, that the second and the third way are the same line.
# 2. *Pencil.* Take $T = 2$: one token is drawn, then the boundary is forced. Write the gradient of $R$ in one line.
# 3. *Code.* Find $w(x)$ for the overlap, $-\sum_x P(x) Q(x)$, and compute its gradient with `tree_gradient`. Check
#    it. (Here $P(x)$ is 0 where it is 0: `world.log_prob(rows)` without a floor.)
# 4. *Code.* Set the floor to $-10$ nats instead of about $-69$. What happens to the brackets of "here" after "cat"
#    and "cats", and why? (`cost_to_go` meets the floor in `log_p` only.)
# 5. *Think.* Let each row of $Q$ put everything on one token. What is the gradient of $R$? Is such a $Q$ optimal?
# 6. *Think.* At which prefixes does the token-level gradient (with $D = Q$) agree with the exact one, whatever the
#    world?
#
# ## Solutions

# %% [markdown] tags=["solution"]
# **Solution 1.** A sequence through $h$ has the cost of $h$ and then more. Summed over all of them, with their
# probabilities, the first part is $Q(h) \mathrm{spent}(h)$ and the second is $Q(h) U(h)$, by the definition of $U$.
# So, with $Q(hv) = Q(h) Q(v|h)$,
#
# $$
# W(hv) - W(h) Q(v|h) = Q(hv) [ \mathrm{spent}(h) + c(v|h) + U(hv) ] - Q(hv) [ \mathrm{spent}(h) + U(h) ] .
# $$
#
# What was spent before cancels. It is in the weights and not in the gradient: lesson 5 will make an estimator of
# that.

# %% tags=["solution"]
U, _, _ = cost_to_go(z, R_cost)
reached, weight = reach(z), dict(zip(sequence, R_weights(z)))
for h in prefixes:
    W = sum(w for x, w in weight.items() if x[: len(h)] == h)
    spent = sum(R_cost(z, h[:k])[h[k]] for k in range(len(h)))
    assert np.isclose(W, reached[h] * (spent + U[h]))

# %% [markdown] tags=["solution"]
# **Solution 2.** The only prefix is the empty one, $Q(h) = 1$ and $U(hv) = 0$, so the gradient in logit $v$ is
# $Q(v) [-\log P(v) - R]$. It is [lesson 1](1_two_cross_entropies.ipynb)'s: a linear function of $Q$ seen through a
# softmax.

# %% [markdown] tags=["solution"]
# **Solution 3.** $\varphi = -PQ$, so $w(x) = Q \cdot (-P) = -P(x) Q(x)$. Impossible sequences have weight zero: the
# overlap does not punish them, it only fails to reward them.

# %% tags=["solution"]
loss, grads = mm.exact.loss_and_grads(model, world, T, objective="overlap")
P = np.exp(world.log_prob(rows))
assert np.isclose(-(P * Q).sum(), float(loss))
assert np.allclose(tree_gradient(z, -P * Q), grads["logits"])

# %% [markdown] tags=["solution"]
# **Solution 4.** They shrink by the factor of the floor, nearly. $R$ is a finite part plus the floor's price times the
# expected number of impossible tokens, so a bracket is a finite part plus that price times a difference of such
# numbers, and here the finite parts are small. The floor is a hyper-parameter: it says how much worse an impossible
# sentence is than a rare one.

# %% tags=["solution"]
with_69, log_p_of_69 = cost_to_go(z, R_cost)[1], log_p
log_p = np.maximum(log_p_of_69, -10)
with_10, log_p = cost_to_go(z, R_cost)[1], log_p_of_69
ratios = [with_10[(noun,)][here] / with_69[(noun,)][here] for noun in (cat, cats)]
say(f"""After "cat": {with_69[(cat,)][here]:+.2f} becomes {with_10[(cat,)][here]:+.2f} nats; after "cats":
{with_69[(cats,)][here]:+.2f} becomes {with_10[(cats,)][here]:+.2f}. Ratios {ratios[0]:.3f} and {ratios[1]:.3f};
that of the prices is {10 / -world.log_p_floor:.3f}.""")
assert all(0.1 < ratio < 0.2 for ratio in ratios)

# %% [markdown] tags=["solution"]
# **Solution 5.** Zero, whatever $P$. A prefix that is never reached has $Q(h) = 0$; on the one path that is taken,
# tokens that are not have $Q(v|h) = 0$, and the one that is has $c + U(hv) = U(h)$. So every one-hot table is a
# stationary point, optimal or not. $R$ alone is least at a corner, so training on it moves towards corners, and can
# stick at a wrong one.

# %% tags=["solution"]
corner = np.full((V, V), -40.0)  # as good as one-hot: e^-40
corner[range(V), [cats, here, here, sleeps, 0, 0]] = 0  # "cats here sleeps", impossible
largest = abs(cost_to_go(corner, R_cost)[2]).max()
say(f"At “cats here sleeps” R is {R(corner):.1f} nats, and the largest element of its gradient {largest:.0e}.")
assert R(corner) > 60
assert largest < 1e-9

# %% [markdown] tags=["solution"]
# **Solution 6.** Where the future is the same whatever token comes next, so that $U(hv)$ is one constant and drops
# out: at prefixes of $T-2$ words, whose next token is the last that is drawn, so that $U(hv) = 0$. Elsewhere
# only by luck, or where $Q = P$ in all that follows (then $U(hv) = 0$ for the KL divergence). That is why a $Q$
# that can represent $P$ is not led astray.

# %% [markdown]
# Next: [lesson 5, when you can only sample](5_when_you_can_only_sample.ipynb), where the sums become too long and
# are replaced by draws.
