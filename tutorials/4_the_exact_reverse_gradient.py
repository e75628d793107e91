# %% [markdown]
# # 4 The exact reverse gradient
#
# *Prose: 30 minutes; with the code: 50; with exercises: 2½ hours. Computing: 10 seconds. Before this: the gradient of
# one softmax ([lesson 3](3_one_softmax_by_hand.ipynb)) and the `agreement()` world
# ([lesson 2](2_sequences_and_worlds.ipynb)).*
#
# **At the end you will know**
#
# - how to differentiate $R = -\mathbb{E}_Q \log P$ and $\mathrm{KL}(Q\|P)$ through every sequence that a model can
#   write, in three ways that agree to the last digits: by a list, by a tree, by costs to go;
# - why the third is the policy-gradient theorem of reinforcement learning, here with nothing sampled;
# - what each of them costs;
# - what a divergence taken token by token has to do with the divergence between sequences.

# %% tags=["setup"]
import numpy as np

import minimixce as mm
from minimixce import exact_list, exact_tree
from minimixce.lessons import (
    MAX_LEN,
    full_or_fast,
    optimal_table,
    sentence_probs,
    source,
    table,
    tree,
)
from minimixce.logprob import Sums

# %% [markdown]
# ## Why the reverse cross-entropy is harder
#
# The [forward cross-entropy](glossary.md#cross-entropy-forward) $F = -\mathbb{E}_{x \sim P} \log Q(x)$ is an average
# over data. The parameters of $Q$ sit inside the logarithm: draw data and differentiate. In the
# [reverse one](glossary.md#cross-entropy-reverse),
#
# $$
# R = -\mathbb{E}_{x \sim Q} \log P(x) = -\sum_x Q(x) \log P(x),
# $$
#
# the logarithm belongs to $P$ and holds no parameter at all. The parameters sit in *what is drawn*. If you drew
# sequences from $Q$ and differentiated $-\log P(x)$ for each, you would get exactly zero. In a small world you need
# not draw: write down the sum over every sequence, and differentiate that.
#
# `agreement()` is such a world: $V = 6$ tokens, and with [horizon](glossary.md#horizon-max_len) $T = 4$ at most three
# words. $Q$ is a table of [logits](glossary.md#logits) $z$, one row for each last token.

# %%
world, T = mm.worlds.agreement(), MAX_LEN
V = world.vocab_size
every = mm.exact.sequences(V, T)  # (n, T+1): every sequence there is, laid out as in lesson 2
inputs, targets = world.batch(every)  # (n, T−1) each: token before, token drawn; then −1
log_P = world.log_prob(every, floored=True)  # (n,): log_p_floor for an impossible token

# %% [markdown]
# The model is the best bigram by [maximum likelihood](glossary.md#maximum-likelihood-mle), which is counting, blended
# with a little of the uniform distribution, so that no probability is zero.


# %%
def with_logits(z):
    """z (V,V), a row for each last token -> the table bigram that has these logits"""
    model = mm.TableBigram(V)
    model.params["logits"][:] = z
    return model


counts = mm.exact.bigram_counts(world, T)  # (V,V) expected counts under P
z = np.log(0.94 * counts / counts.sum(axis=1, keepdims=True) + 0.06 / V)  # (V,V)
model = with_logits(z)
log_Q = mm.exact.log_prob(model, every)  # (n,)
Q = np.exp(log_Q)
R, KL = -Q @ log_P, Q @ (log_Q - log_P)

# %% [markdown]
# There are {{len(every)}} sequences, of which $P$ can produce {{(world.log_prob(every) > -np.inf).sum()}}. $Q$ gives
# all of them together {{Q.sum():.6f}}, and the impossible ones {{Q[world.log_prob(every) == -np.inf].sum():.1%}}. $R$ is
# {{R:.2f}} nats per sequence, $\mathrm{KL}(Q\|P)$ is {{KL:.2f}}: each
# [impossible token](glossary.md#impossible-token) costs {{-world.log_p_floor:.2f}} nats (the
# [floor](glossary.md#floor)), so nearly all of either is the price of the impossible.

# %% tags=["check"]
found = mm.exact.measure(model, world, T)
assert np.isclose(Q.sum(), 1)
assert np.allclose([R, KL], [found["reverse_ce"], found["reverse_kl"]])

# %% [markdown]
# ## First way: the list
#
# Take any $L = \sum_x \varphi(P(x), Q(x))$, a sum of some function $\varphi$ of the two probabilities of a sequence.
# Ask how it moves when the *log-probability* of one sequence moves, as if it could move alone. Since
# $Q = e^{\log Q}$, we have $\partial Q / \partial \log Q = Q$, and so
#
# $$
# w(x) = \frac{\partial L}{\partial \log Q(x)} = Q(x) \frac{\partial \varphi}{\partial Q(x)} .
# $$
#
# For $R$, $\varphi = -Q \log P$ and $w(x) = -Q(x) \log P(x)$. For $\mathrm{KL}(Q\|P)$,
# $\varphi = Q (\log Q - \log P)$ and $w(x) = Q(x) (\log Q(x) - \log P(x) + 1)$.
#
# The other half you know. $\log Q(x)$ is a sum over positions of $\log \mathrm{softmax}$, and lesson 3 found the
# gradient of each: onehot − softmax. (There it was $-\log q$, with the other sign.) By the chain rule, at position
# $t$ of the sequence $x$,
#
# $$
# \frac{\partial L}{\partial \mathrm{logits}(x, t)} = w(x) (\mathrm{onehot}(x_t) - \mathrm{softmax}) .
# $$
#
# All that is left is to add up. In a table, positions with the same last token share a row.


# %%
def softmax(z):
    return mm.layers.softmax_forward(z)[0]


def list_gradient(w):
    """w (n,), a weight for each sequence -> ∂L/∂z (V,V)"""
    q, dz = softmax(z), np.zeros((V, V))
    for x, t in zip(*np.nonzero(targets >= 0)):  # every position at which a token is drawn
        last, drawn = inputs[x, t], targets[x, t]
        dz[last] += w[x] * (np.eye(V)[drawn] - q[last])
    return dz


by_hand = {
    "reverse_ce": list_gradient(-Q * log_P),
    "reverse_kl": list_gradient(Q * (log_Q - log_P + 1)),
}

# %% [markdown]
# The package has the same sum, for any model. Compare the two, and let lesson 3's referee, the
# [gradient check](glossary.md#gradient-check), compare the package with numerical derivatives, one for each logit.


# %%
def exact(z, objective, method="list"):
    """The package's value and gradient at logits z"""
    model = with_logits(z)
    loss, grads = mm.exact.loss_and_grads(model, world, T, objective=objective, method=method)
    return loss, grads["logits"]


def check(objective):
    return mm.gradcheck(lambda z: exact(z, objective), lambda dy, dz: (dy * dz,), [z])


checked = {name: check(name) for name in by_hand}

# %% tags=["fold"]
rows = [
    [name, f"{abs(dz - exact(z, name)[1]).max():.0e}", f"{checked[name].max_relative_error:.0e}"]
    for name, dz in by_hand.items()
]
table(["objective", "our loop and the package differ by", "relative error of the check"], rows)

# %% tags=["check"]
assert all(report.ok for report in checked.values())
assert all(np.allclose(dz, exact(z, name)[1]) for name, dz in by_hand.items())

# %% [markdown]
# > **Predict.** For $R$ no weight $w(x) = -Q(x) \log P(x)$ is negative, and that of "cat sleeps" is positive. A
# > positive $w(x)$ pushes $\log Q(x)$ down. So does every sequence lose probability? And what changes if you add the
# > same 1,000 nats to the cost $-\log P(x)$ of every sequence?

# %%
gradient = by_hand["reverse_ce"]
dearer = list_gradient(Q * (1000 - log_P))
after = np.exp(mm.exact.log_prob(with_logits(z - 0.01 * gradient), every))  # one small step
number = np.flatnonzero((every == world.rows(["cat sleeps"], T)).all(axis=1))[0]  # in the list

# %% [markdown]
# <details><summary>Every sequence loses; with 1,000 nats more, it loses faster</summary>
#
# The probabilities add up to one: what one sequence loses another must gain. Read the last answer.
#
# </details>
# <details><summary>Cheap ones gain; with 1,000 nats more, they lose too</summary>
#
# The first half is right. "cat sleeps" gains. But the two gradients differ by {{abs(gradient - dearer).max():.0e}}.
# Read the last answer.
#
# </details>
# <details><summary>Cheap ones gain; the 1,000 nats change nothing</summary>
#
# Right. The probabilities add up to one, so what one sequence loses another must gain, and a constant added to every
# cost adds a constant to $R$, whose gradient is zero: the two gradients differ by
# {{abs(gradient - dearer).max():.0e}}. Only *differences* between costs count. "cat sleeps" costs
# {{-log_P[number]:.2f}} nats, far less than the average, $R$, and gains: one small step takes it from
# {{Q[number]:.4f}} to {{after[number]:.4f}}. (The $+1$ in the weight of $\mathrm{KL}(Q\|P)$ is such a constant.) With
# samples instead of sums the constant does matter: lesson 5 chooses it well.
#
# </details>

# %% tags=["check"]
assert np.allclose(gradient, dearer)
assert after[number] > Q[number]

# %% [markdown]
# Here are the package's own lines. First $\varphi$ and $w$ for many sequences at once: `x` holds their
# log-probabilities under $Q$ and $P$. (For $R$, $\varphi$ and $w$ are the same number. So they are for the KL
# divergence, once the $+1$ is left out.)

# %%
objectives = mm.objectives.OBJECTIVES
source(objectives["reverse_ce"].terms, objectives["reverse_kl"].terms)

# %% [markdown]
# Then the list, for some of its rows. Look for three places. `model.forward` gives the logits at all positions, and
# from them come the log-probabilities `x`. `summand.of_sequences` is what you have just read; it gives $w(x)$. The
# last four lines are our loop, all positions at once and for any model: $-w(x) \, \mathrm{softmax}$ everywhere,
# $+w(x)$ at the tokens that were drawn; then the model's own [backward](glossary.md#backward) carries the gradient
# from its logits to its parameters. (In a table, that is the adding up of rows.) The rest serves other objectives.

# %%
source(exact_list._sum_over_rows)

# %% [markdown]
# ## Second way: the tree
#
# The list does the same work again and again. "cat here sleeps" and "cat here sleep" share the
# *[prefix](glossary.md#prefix)* "cat here", and with it a softmax. So collect the terms of the list by prefix. Write
# $h$ for a prefix, $Q(v|h)$ for the probability of token $v$ after it, $hv$ for $h$ with $v$ put behind it, and
#
# $$
# W(h) = \sum_{x \text{ through } h} w(x)
# $$
#
# for the weight of all sequences that begin with $h$. Each of them adds $-w(x) \, \mathrm{softmax}$ to the logits
# after $h$: together $-W(h) \, Q(\cdot|h)$, where the dot stands for all tokens. Those that go on with $v$ add $w(x)$
# to logit $v$: together $W(hv)$. So
#
# $$
# \frac{\partial L}{\partial \mathrm{logits}(h)_v} = W(hv) - W(h) \, Q(v|h) ,
# $$
#
# and $W$ comes from one walk from the leaves to the root, because $W(h) = \sum_v W(hv)$. In words: the weight that
# passes through $v$, less what would pass there if the weight at $h$ were dealt out by the model's own probabilities.
#
# For example, at the prefix "cat here" and for $R$:

# %%
cat, cats, here, sleeps, sleep = range(1, 6)  # the tokens of the words
w = -Q * log_P
through = (every[:, 1] == cat) & (every[:, 2] == here)  # (n,): the sequences that begin with it
following = every[through, 3]  # the token that each of them has next
W_next = np.bincount(following, w[through], V)  # W(hv) for every v
W = W_next.sum()
by_tree = W_next - W * softmax(z)[here]
by_list = w[through] @ (np.eye(V)[following] - softmax(z)[here])

# %% [markdown]
# $W$ = {{W:.3f}}, of which {{W_next[sleep]:.3f}} passes through "sleep", to which $Q$ gives the share
# {{softmax(z)[here, sleep]:.3f}}. So the logit of "sleep" gets {{W_next[sleep]:.3f}} − {{W:.3f}} ·
# {{softmax(z)[here, sleep]:.3f}} = ${{by_tree[sleep]:+.2f}}$, and is pushed down, for descent goes against the
# gradient.

# %% tags=["check"]
assert np.allclose(by_tree, by_list)
assert by_tree[sleep] > 0

# %% [markdown]
# The package walks the tree from the leaves to the root (`exact_tree.sum_over_tree`) and asks a *rule* at every
# prefix: what goes into its logits, and what does it tell the prefix above? This is the rule of the weights. It
# handles $n$ prefixes at once: `log_q_next` is $\log Q(v|h)$, $(n,V)$; `from_children` is the $W(hv)$ that came from
# below; `ended` says which children are whole sequences, with a weight $w(x)$ of their own.
# (`values` add up to the value of the objective on the way.)

# %%
source(exact_tree.by_sequence_weights)

# %%
tree_gradients = {name: exact(z, name, method="tree")[1] for name in by_hand}

# %% [markdown]
# Tree and list differ by {{max(abs(tree_gradients[name] - by_hand[name]).max() for name in by_hand):.0e}} at most.
# The tree has {{mm.exact.num_sequences(V, T - 1)}} prefixes, the list {{(targets >= 0).sum()}} positions.

# %% tags=["check"]
assert all(np.allclose(tree_gradients[name], by_hand[name]) for name in by_hand)

# %% [markdown]
# ## Third way: the cost to go
#
# For $R$ and $\mathrm{KL}(Q\|P)$ the cost of a sequence is a sum over its tokens. Let $c(v|h)$ be the cost of token
# $v$ after $h$: $-\log P(v|h)$ for $R$, and $\log Q(v|h) - \log P(v|h)$ for the
# [KL divergence](glossary.md#kl-divergence). Stand at $h$ and ask
# what is still to be paid on average, until the end, the *[cost to go](glossary.md#cost-to-go)*,
#
# $$
# U(h) = \sum_v Q(v|h) \, [ c(v|h) + U(hv) ] ,
# $$
#
# with $U = 0$ after the boundary, and where the boundary is forced. At the start, $U$ is the whole expected cost:
# $R$, or the KL divergence.
#
# Write $\partial$ for the derivative in any one parameter, and use the product rule. (In the KL divergence $c$ moves
# too, but $\sum_v Q(v|h) \, \partial \log Q(v|h) = \sum_v \partial Q(v|h) = 0$, since probabilities keep adding up to
# one: no effect on average.)
#
# $$
# \partial U(h) = \sum_v \partial Q(v|h) \, [ c(v|h) + U(hv) ] + \sum_v Q(v|h) \, \partial U(hv) .
# $$
#
# The last term is the same expression one token later, averaged over that token. Put it in, again and again, and
# each prefix gets the probability of being reached, $Q(h)$, as its factor:
#
# $$
# \partial L = \sum_h Q(h) \sum_v \partial Q(v|h) \, [ c(v|h) + U(hv) ] .
# $$

# %% [markdown]
# The rest is the backward of one softmax from lesson 3,
# $\partial Q(v|h) / \partial z_u = Q(v|h) (1[u = v] - Q(u|h))$. Put it in: the $1$ picks out one
# token, and the rest of the sum is $U(h)$ by its definition. What remains is
#
# $$
# \frac{\partial L}{\partial \mathrm{logits}(h)_v} = Q(h) \, Q(v|h) \, [ c(v|h) + U(hv) - U(h) ] .
# $$
#
# The bracket asks: does taking $v$ here cost more, from now to the end, than the average token here? In reinforcement
# learning prefixes are *states*, tokens are *actions*, $-c$ is a *reward*, $-U$ is the *value function* and the
# bracket, with its sign turned, is the *[advantage](glossary.md#advantage)*. (For the KL divergence the reward holds
# $-\log Q$: a bonus for entropy.) There the line is called the policy-gradient theorem (Sutton et al., 2000), and one
# meets it as something to be estimated from samples. Here it is a rearranged sum: nothing is sampled, so nothing
# varies.
#
# In the package it is one more rule. `from_children` is now $U(hv)$, and what it tells the prefix above is $U(h)$:

# %%
source(objectives["reverse_ce"].cost, objectives["reverse_kl"].cost, exact_tree.by_cost_to_go)

# %% [markdown]
# Take $R$, and begin at the end: after "cat here" the token to come is the last that is drawn, so $U(hv) = 0$.

# %%
log_p = world.tables(np).log_p_floored  # (states,V): log P(v|h), h being in that state
after_cat = world.next_state[0, cat]  # where the world is after "cat"
after_cat_here = world.next_state[after_cat, here]
cost = -log_p[after_cat_here]  # (V,): c(v|h) + 0
U_cat_here = softmax(z)[here] @ cost
bracket_cat_here = cost - U_cat_here

# %% [markdown]
# Here "sleeps" costs {{abs(cost[sleeps]):.2f}} nats and the impossible "sleep" {{cost[sleep]:.2f}}. With $Q$'s
# probabilities, {{softmax(z)[here, sleeps]:.2f}} and {{softmax(z)[here, sleep]:.2f}} (and a little for the rest,
# which is impossible too), $U$ = {{U_cat_here:.2f}}. The brackets are ${{bracket_cat_here[sleeps]:+.2f}}$ and
# ${{bracket_cat_here[sleep]:+.2f}}$: "sleeps" is pushed up, "sleep" down.

# %% tags=["check"]
assert bracket_cat_here[sleeps] < 0 < bracket_cat_here[sleep]

# %% [markdown]
# > **Predict.** Now one step to the left. After "cat", $P$ finds "here" and "sleeps" equally likely, so the two cost
# > the same there. Is either of them pushed down?

# %%
U_next = np.zeros(V)  # U("cat" v); 0 after the boundary
for v in range(1, V):
    U_next[v] = softmax(z)[v] @ -log_p[world.next_state[after_cat, v]]
to_go = -log_p[after_cat] + U_next  # c(v|h) + U(hv)
bracket_cat = to_go - softmax(z)[cat] @ to_go

# %% [markdown]
# <details><summary>Neither: both are possible, and what is possible is pushed up</summary>
#
# By the costs at "cat" alone it would be so. But the bracket holds $U(hv)$ as well. Read the last answer.
#
# </details>
# <details><summary>They are treated alike, as they cost the same</summary>
#
# The token costs the same. What comes after it does not. Read the last answer.
#
# </details>
# <details><summary>"here" is pushed down, "sleeps" is not</summary>
#
# Right. Both cost {{-log_p[after_cat, here]:.2f}} nats. But beyond "sleeps" {{U_next[sleeps]:.2f}} nats are still to
# be paid on average, beyond "here" {{U_next[here]:.2f}}: the brackets are ${{bracket_cat[sleeps]:+.2f}}$ and
# ${{bracket_cat[here]:+.2f}}$. "here" pays for what it leads to: beyond it lies a word at which this $Q$, which
# forgets the number, will often be wrong.
#
# </details>

# %% tags=["check"]
assert np.isclose(log_p[after_cat, here], log_p[after_cat, sleeps])
assert bracket_cat[here] > 0 > bracket_cat[sleeps]

# %% [markdown]
# All prefixes at once, by the package's rule:

# %%
third = {name: mm.exact.policy_gradient(model, world, T, objective=name) for name in by_hand}
at = tree.costs_to_go(model, world, T)  # for R: {prefix: Q(h), U(h) and the brackets}

# %% tags=["fold"]
rows = [
    [
        name,
        f"{float(loss):.4f}",
        f"{abs(grads['logits'] - tree_gradients[name]).max():.0e}",
        f"{abs(grads['logits'] - by_hand[name]).max():.0e}",
    ]
    for name, (loss, grads) in third.items()
]
table(["objective", "U of the start, nats", "differs from the tree by", "from the list by"], rows)

# %% tags=["check"]
assert all(np.allclose(grads["logits"], by_hand[name]) for name, (_, grads) in third.items())
assert np.allclose([float(loss) for loss, _ in third.values()], [R, KL])
assert np.isclose(at[()].U, R)
assert np.isclose(at[(cat, here)].U, U_cat_here)
assert np.allclose(at[(cat,)].bracket, bracket_cat)
assert np.allclose(at[(cat, here)].bracket, bracket_cat_here)

# %% [markdown]
# ## The tree, drawn
#
# Every edge below leads to one more token. It is the thicker, the more probable it is that the model comes that way,
# $Q(hv)$; its number is the bracket for $R$, in nats.

# %% tags=["fold"]
least = 0.02  # the probability of a sequence that is drawn
drawn = [tuple(int(v) for v in row if v >= 0) for row in targets]  # (1, 4, 0) is "cat sleeps" and its boundary
tree.draw_tree(at, dict(zip(drawn, Q)), world, least)

# %% [markdown]
# Drawn are the sequences with a probability of at least {{least:.0%}}, {{Q[Q >= least].sum():.0%}} of all; grey words
# end a sequence that $P$ cannot produce. Start at the right: after "cat here" the impossible "sleep" is dear
# (${{at[(cat, here)].bracket[sleep]:+.1f}}$), after "cats here" it is "sleeps"
# (${{at[(cats, here)].bracket[sleeps]:+.1f}}$). One step to the left, "here" is dear after either noun
# (${{at[(cat,)].bracket[here]:+.1f}}$ and ${{at[(cats,)].bracket[here]:+.1f}}$). So the gradient asks for less
# "here". (In the [explorer](explorer.py) you can move the probabilities of a smaller tree and watch its costs to go.)
#
# The prefixes "cat here" and "cats here" end in the same token, so in the table they share a row of logits: one pulls
# it one way, the other the other way, and $Q(h)$ decides how they add up. In a transformer they share all parameters,
# and its backward pass takes the same sum.

# %% tags=["check"]
assert at[(cats,)].bracket[here] > 0 > at[(cats,)].bracket[sleep]

# %% [markdown]
# ## From a table to any model
#
# None of the three ways needs $Q$ to be a table. They give $\partial L / \partial \mathrm{logits}$ at every prefix,
# and from there a model's own backward takes over. Here is a small transformer, by list and by tree.

# %%
config = mm.GPTConfig(V, block_size=T - 1, n_layer=2, n_head=2, n_embd=32, dtype="float64")
gpt = mm.GPT(config, seed=0, device="cpu")
_, listed = mm.exact.loss_and_grads(gpt, world, T, objective="reverse_kl", method="list")
_, shared = mm.exact.loss_and_grads(gpt, world, T, objective="reverse_kl", method="tree")
furthest = max(abs(listed[name] - shared[name]).max() for name in gpt.params)

# %% [markdown]
# It has {{gpt.num_params:,}} parameters, and in all of them the list and the tree find the same gradient, to
# {{furthest:.0e}}. How often does each of them compute logits?

# %% tags=["check"]
assert furthest < 1e-9


# %%
def positions_of_list(V, T):
    # k words, then the boundary unless it is forced
    return sum((V - 1) ** k * min(k + 1, T - 1) for k in range(T))


def prefixes_of_tree(V, T):
    return sum((V - 1) ** k for k in range(T - 1))


# %% tags=["check"]
assert positions_of_list(V, T) == (targets >= 0).sum()
assert prefixes_of_tree(V, T) == len(at) == mm.exact.num_sequences(V, T - 1)
assert np.isclose(positions_of_list(63, 22) / prefixes_of_tree(63, 22), (22 - 1) * (63 - 1), rtol=0.01)

# %% [markdown]
# The tree has fewer positions by a factor of about $(T-1)(V-1)$, and costs to go visit the same prefixes as the tree.
# But all three grow by a factor of $V-1$ with each token that you add to the horizon, and no sharing of prefixes will
# save a sum over that many different futures. Unless the futures are *not* different: with a bigram $Q$ and a world
# that is an automaton, two prefixes with the same length, the same world [state](glossary.md#state) and the same last
# token have the same $U$. Merge them, and the recursion for $U$ becomes dynamic programming over such triples.
# Without a horizon, in a [Markov](glossary.md#markov) world, it is one linear system
# ([math §4](math.md#4-exact-gradients-by-the-tree)).

# %%
stories, long = mm.worlds.stories(), 22
programmed = {}
for name in by_hand:
    _, programmed[name] = mm.exact.bigram_loss_and_grads(z, world, objective=name, max_len=T)
uniform = np.zeros((stories.vocab_size,) * 2)  # logits
story_KL, _ = mm.exact.bigram_loss_and_grads(uniform, stories, objective="reverse_kl", max_len=long)


# %% tags=["fold"]
def written(n):
    return f"{n:,}" if n < 10**8 else "about $10^{" + str(len(str(n)) - 1) + "}$"


def sizes(world, T):
    V = world.vocab_size
    return mm.exact.num_sequences(V, T), positions_of_list(V, T), prefixes_of_tree(V, T), tree.triples(world, T)


rows = [[f"{w.name}, {t}", *map(written, sizes(w, t))] for w, t in ((world, 4), (world, 8), (stories, 4), (stories, long))]
table(["world, horizon", "sequences", "positions, list", "prefixes, tree", "triples, bigram Q"], rows)

# %% tags=["check"]
assert all(np.allclose(programmed[name], by_hand[name]) for name in by_hand)

# %% [markdown]
# On `agreement()` the package's dynamic programme (`bigram_loss_and_grads`) gives the same gradient again. On
# `stories()`, with {{stories.vocab_size}} tokens and horizon {{long}}, it has the exact $\mathrm{KL}(Q\|P)$ of the
# uniform table, {{float(story_KL):.0f}} nats, and its gradient in seconds. For a model with a memory, such as a
# transformer, nothing merges, and {{long}} tokens are out of reach: that is where lesson 5 begins.

# %% [markdown]
# ## Token by token
#
# A tempting shortcut: a language model predicts one token at a time, so compare it with $P$ one token at a time. At
# each prefix take the divergence between the two next-token distributions, and add up over prefixes, each with some
# weight $D(h)$:
#
# $$
# L_D = \sum_h D(h) \, \mathrm{KL}\big( Q(\cdot|h) \,\|\, P(\cdot|h) \big) .
# $$
#
# $D$ is taken as given, because that is what a training loop does: it is handed some prefixes, of the data
# ($D = P$) or written by the model ($D = Q$), and differentiates the loss on them. Token-level distillation, where a
# larger model is the $P$, works like this, with this divergence or another.
#
# With $D = Q$ the *value* is not an approximation. $\log Q(x) - \log P(x)$ is a sum over tokens, so
# $\sum_h Q(h) \, \mathrm{KL}(Q(\cdot|h) \| P(\cdot|h))$ is $\mathrm{KL}(Q\|P)$ between sequences, exactly. For a
# given prefix the gradient is that of a mean cost through one softmax:
#
# $$
# \frac{\partial L_D}{\partial \mathrm{logits}(h)_v} = D(h) \, Q(v|h) \, [ c(v|h) - \bar{c}(h) ], \qquad
# \bar{c}(h) = \sum_v Q(v|h) \, c(v|h) .
# $$
#
# That is a rule for the tree, too. Put it beside `by_cost_to_go`:


# %%
def token_level_rule(log_D):
    """log_D(prefix) -> log D(h) of n prefixes"""

    def rule(prefix, child, log_q_next, from_children, ended, xp):
        log_p_next = child.log_p_floored - prefix.log_p_floored[:, None]
        q, D = xp.exp(log_q_next), xp.exp(log_D(prefix))[:, None]
        c = log_q_next - log_p_next
        mean = (q * c).sum(axis=1, keepdims=True)
        dlogits = D * q * (c - mean)
        value = (D * mean)[:, 0] + from_children.sum(axis=1)  # here and below
        return dlogits, value, {}  # nothing else to add up

    return rule


def token_level(model, log_D=lambda prefix: prefix.log_q):
    """L_D, and its gradient in the table's logits with D held fixed"""
    grads = {}
    rule = token_level_rule(log_D)
    value = exact_tree.sum_over_tree(model, world, T, rule, Sums(), grads, lambda n: None)  # no progress bar
    return value.item(), grads["logits"]


# %% [markdown]
# > **Predict.** With $D = Q$ the value is $\mathrm{KL}(Q\|P)$ itself. Is the gradient, then, the gradient of
# > $\mathrm{KL}(Q\|P)$? If not: at which words of the tree does it go wrong, and which way does it push "here"?

# %%
value, by_token = token_level(model)
_, by_token_P = token_level(model, lambda prefix: prefix.log_p)
by_sequence = by_hand["reverse_kl"]


def cosine(a, b):
    """1 for gradients of the same direction, 0 for such at a right angle"""
    return (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)


# %% [markdown]
# <details><summary>Yes: equal functions have equal gradients</summary>
#
# They would. But $D$ was held fixed, so only the values are equal ({{value:.4f}} and {{KL:.4f}}); the function that
# was differentiated is another. Read the last answer.
#
# </details>
# <details><summary>No: it goes wrong at the last words</summary>
#
# After the last word nothing follows, and there it agrees. Read the last answer.
#
# </details>
# <details><summary>No: it goes wrong at the nouns, and pushes "here" up</summary>
#
# Right. The values are equal ({{value:.4f}} and {{KL:.4f}}), the gradients are not: the cosine between them is
# {{cosine(by_token, by_sequence):.2f}} with the model's prefixes, {{cosine(by_token_P, by_sequence):.2f}} with $P$'s.
# Compare the brackets: $c(v|h) - \bar{c}(h)$ is $c(v|h) + U(hv) - U(h)$ with the future left out. Where nothing
# follows, both agree. Before that, the token-level gradient does not see that a token decides *which prefixes come
# later*: that is hidden in $D(h)$, which was held fixed. To it "here" after a noun is good ($P$ says so), and it
# pushes "here" **up**, against the exact gradient.
#
# </details>

# %% tags=["check"]
assert np.isclose(value, KL)
assert cosine(by_token, by_sequence) < 0.7
assert by_token[cat, here] < 0 < by_sequence[cat, here]
assert by_token[cats, here] < 0 < by_sequence[cats, here]

# %% tags=["fold"]
tree.draw_rows(
    {
        "sequence level (exact)": by_sequence,
        "token level, prefixes of Q": by_token,
        "token level, prefixes of P": by_token_P,
    },
    (cat, cats, here),
    world,
)

# %% [markdown]
# Below zero means pushed up. After "here" comes the last word, hardly anything follows, and the three agree up to how
# often they think that one gets there. After the nouns they disagree in size and in sign.
#
# Nor are these two ways to the same place. Follow each gradient (the token-level one with the model's own prefixes)
# from the same start to its end.


# %%
def descend(gradient):
    """Follow gradient(model) (V,V) from the same start -> the table bigram where it ends"""
    trained, steps = with_logits(z), full_or_fast(1500, 300)
    optimizer = mm.AdamW(trained.params, lr=0.05, weight_decay=0.0)
    for step in range(steps):
        lr = mm.optim.warmup_cosine(step, 0.05, 0, steps, 1e-4)
        optimizer.step({"logits": gradient(trained)}, lr=lr)
    return trained


ends = {
    "MLE": optimal_table("forward_ce"),
    "token level": descend(lambda model: token_level(model)[1]),
    "sequence level": descend(lambda model: exact(model.params["logits"], "reverse_kl", "tree")[1]),
}
measured = {name: mm.exact.measure(end, world, T) for name, end in ends.items()}

# %% tags=["fold"]
tree.draw_ends({"P": sentence_probs(world)} | {name: sentence_probs(end) for name, end in ends.items()})
rows = [[name, f"{float(m['reverse_kl']):.2f}", f"{float(m['validity']):.1%}"] for name, m in measured.items()]
table(["ends at", "KL(Q‖P), nats", "written that is possible"], rows)

# %% tags=["check"]
assert measured["sequence level"]["validity"] > 0.95 > 0.9 > measured["token level"]["validity"]
assert measured["sequence level"]["reverse_kl"] < measured["token level"]["reverse_kl"] - 5
q_ends = {name: softmax(end.params["logits"]) for name, end in ends.items()}
assert q_ends["token level"][here, sleeps] > 0.95
assert q_ends["sequence level"][here, sleeps] > 0.95
assert q_ends["sequence level"][cats, here] < 0.05
assert abs(sentence_probs(ends["token level"])[5] - 0.2) < 0.01  # "cats here sleeps", as the picture's words say

# %% [markdown]
# Both settle on "sleeps" after "here". The token-level gradient leaves it at that, and still writes "cats here
# sleeps", which is impossible. The sequence-level gradient also stops writing "here" after "cats": it gives up a
# possible sentence and avoids the trouble.
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
# - The tree collects by prefix: $W(hv) - W(h) \, Q(v|h)$. It computes each prefix once, and works for every sum of
#   $\varphi(P(x), Q(x))$.
# - Costs to go: $Q(h) \, Q(v|h) \, [ c(v|h) + U(hv) - U(h) ]$, the policy-gradient theorem as an identity. It needs a
#   cost that adds over tokens.
# - A token is judged by what it leads to, and only differences between costs count.
# - Token-level divergences leave out $U(hv)$: the same value with $D = Q$, another gradient, another end.
# - All three ways grow by a factor of $V-1$ with each token of the horizon. A bigram $Q$ merges prefixes and escapes;
#   a transformer does not.

# %% [markdown]
# ## Exercises
#
# 1. *Pencil.* Let $\mathrm{spent}(h)$ be the cost of the tokens of $h$ itself. Show that for $R$,
#    $W(h) = Q(h) [ \mathrm{spent}(h) + U(h) ]$, and from that, that the second and the third way are the same line.
# 2. *Pencil.* Take $T = 2$: one token is drawn, then the boundary is forced. Write the gradient of $R$ in one line.
# 3. *Code.* Find $w(x)$ for the overlap, $-\sum_x P(x) Q(x)$, and compute its gradient with `list_gradient`. Check
#    it. (Here $P(x)$ is 0 where it is 0: `world.log_prob(every)` without a floor.)
# 4. *Code.* Set the floor to $-10$ nats instead of about ${{world.log_p_floor:.0f}}$ (`world.with_floor(-10.0)`,
#    `tree.costs_to_go(model, …, T)`). What happens to the brackets of "here" after "cat" and "cats", and why?
# 5. *Think.* Let each row of $Q$ put everything on one token. What is the gradient of $R$? Is such a $Q$ optimal?
# 6. *Think.* At which prefixes does the token-level gradient (with $D = Q$) agree with the exact one in every world?

# %% [markdown] tags=["solution"]
# **Solution 1.** A sequence through $h$ has the cost of $h$ and then more. Summed over all of them, with their
# probabilities, the first part is $Q(h) \, \mathrm{spent}(h)$ and the second is $Q(h) \, U(h)$, by the definition of
# $U$. So, with $Q(hv) = Q(h) \, Q(v|h)$,
#
# $$
# W(hv) - W(h) \, Q(v|h) = Q(hv) [ \mathrm{spent}(h) + c(v|h) + U(hv) ] - Q(hv) [ \mathrm{spent}(h) + U(h) ] .
# $$
#
# What was spent before cancels. It is in the weights and not in the gradient: lesson 5 will make an estimator of
# that. At the prefix "cat here", to see it in numbers:

# %% tags=["solution"]
spent = -log_p[0, cat] - log_p[after_cat, here]
of_the_weights = W_next[sleep] - W * softmax(z)[here, sleep]
of_the_costs = at[(cat, here)].reach * softmax(z)[here, sleep] * bracket_cat_here[sleep]

# %% [markdown] tags=["solution"]
# $W(h)$ is {{W:.4f}}, and $Q(h) [\mathrm{spent}(h) + U(h)]$ is {{at[(cat, here)].reach * (spent + U_cat_here):.4f}}.
# The logit of "sleep" gets {{of_the_weights:.4f}} by the weights and {{of_the_costs:.4f}} by the costs.

# %% tags=["check"]
assert np.isclose(of_the_weights, of_the_costs)
for h, here_at in at.items():
    begin = (every[:, 1 : len(h) + 1] == np.array(h, dtype=int)).all(axis=1)
    states = [0]
    for v in h:
        states.append(world.next_state[states[-1], v])
    paid = -sum(log_p[state, v] for state, v in zip(states, h))
    assert np.isclose(w[begin].sum(), here_at.reach * (paid + here_at.U))

# %% [markdown] tags=["solution"]
# **Solution 2.** The only prefix is the empty one, $Q(h) = 1$ and $U(hv) = 0$, so the gradient in logit $v$ is
# $Q(v) [-\log P(v) - R]$. It is [lesson 1](1_two_cross_entropies.ipynb)'s: a linear function of $Q$ seen through a
# softmax.

# %% [markdown] tags=["solution"]
# **Solution 3.** $\varphi = -PQ$, so $w(x) = Q \cdot (-P) = -P(x) Q(x)$. Impossible sequences have weight zero: the
# overlap does not punish them, it only fails to reward them.

# %% tags=["solution"]
P = np.exp(world.log_prob(every))
of_overlap = list_gradient(-P * Q)
overlap, packages = exact(z, "overlap")

# %% [markdown] tags=["solution"]
# The sum is ${{-P @ Q:.4f}}$, the package's value ${{float(overlap):.4f}}$; the two gradients differ by
# {{abs(of_overlap - packages).max():.0e}}.

# %% tags=["check"]
assert np.isclose(-P @ Q, overlap)
assert np.allclose(of_overlap, packages)

# %% [markdown] tags=["solution"]
# **Solution 4.** They shrink by the factor of the floor, nearly. $R$ is a finite part plus the floor's price times
# the expected number of impossible tokens, so a bracket is a finite part plus that price times a difference of such
# numbers, and here the finite parts are small. The floor is a hyper-parameter: it says how much worse an impossible
# sentence is than a rare one.

# %% tags=["solution"]
at_ten = tree.costs_to_go(model, world.with_floor(-10.0), T)
before = [at[(noun,)].bracket[here] for noun in (cat, cats)]
lower = [at_ten[(noun,)].bracket[here] for noun in (cat, cats)]

# %% [markdown] tags=["solution"]
# After "cat" ${{before[0]:+.2f}}$ becomes ${{lower[0]:+.2f}}$ nats, after "cats" ${{before[1]:+.2f}}$ becomes
# ${{lower[1]:+.2f}}$. The ratios are {{lower[0] / before[0]:.3f}} and {{lower[1] / before[1]:.3f}}; that of the
# prices is {{10 / -world.log_p_floor:.3f}}.

# %% tags=["check"]
assert all(0.1 < b / a < 0.2 for a, b in zip(before, lower))

# %% [markdown] tags=["solution"]
# **Solution 5.** Zero, for every $P$. A prefix that is never reached has $Q(h) = 0$; on the one path that is taken,
# tokens that are not have $Q(v|h) = 0$, and the one that is has $c + U(hv) = U(h)$. So every one-hot table is a
# stationary point, optimal or not. $R$ alone is least at a corner, so training on it moves towards corners, and can
# stick at a wrong one.

# %% tags=["solution"]
corner = np.full((V, V), -40.0)  # as good as one-hot: e^-40
corner[range(V), [cats, here, here, sleeps, 0, 0]] = 0  # "cats here sleeps", impossible
R_there, gradient_there = exact(corner, "reverse_ce")

# %% [markdown] tags=["solution"]
# At "cats here sleeps" $R$ is {{float(R_there):.1f}} nats, and the largest element of its gradient
# {{abs(gradient_there).max():.0e}}.

# %% tags=["check"]
assert R_there > 60
assert abs(gradient_there).max() < 1e-9

# %% [markdown] tags=["solution"]
# **Solution 6.** Where the future is the same whichever token comes next, so that $U(hv)$ is one constant and drops
# out: at prefixes of $T-2$ words, whose next token is the last that is drawn, so that $U(hv) = 0$. Elsewhere
# only by luck, or where $Q = P$ in all that follows (then $U(hv) = 0$ for the KL divergence). That is why a $Q$
# that can represent $P$ is not led astray.

# %% [markdown]
# Next: [lesson 5, when you can only sample](5_when_you_can_only_sample.ipynb), where the sums become too long and
# are replaced by draws. The words are in the [glossary](glossary.md), the formulas in
# [math §3 and §4](math.md#3-exact-gradients-by-the-list).
