# %% [markdown]
# # 0 A derivative by trying
#
# *Prose: 10 minutes; with the code: 15; with exercises: 45. Computing: 2 seconds. Before this: nothing but school
# algebra and a little Python.*
#
# **At the end you will know**
#
# - what a derivative and a gradient are, and how to find one without knowing any rule: by trying;
# - how the same number comes out of a *backward pass*, with one short line for each line of the computation;
# - why gradients add up where a number is used twice;
# - what a neuron and a softmax do, and what their backward passes look like.
#
# All of training is this: compute a number that says how wrong a model is, find out in which direction each of its
# parameters must move to make it smaller, and move them a little. This lesson is about finding out.

# %% tags=["setup"]
import numpy as np

from minimixce.lessons import as_markdown, graph

# %% [markdown]
# ## A derivative is what you find by trying
#
# Take a function of one number.


# %%
def f(x):
    return x**2 - 3 * x


# %% [markdown]
# How much does $f(x)$ change if $x$ changes a little? Try it: once a little to the right, once a little to the left,
# and divide the difference by the step between them.
#
# $$f'(x) \approx \frac{f(x+h) - f(x-h)}{2h}$$
#
# This quotient is a *[central difference](glossary.md#central-difference)*, and what it approaches as $h$ gets small
# is the *derivative*: the slope of $f$ at $x$.


# %%
def by_trying(f, x, h=1e-5):
    return (f(x + h) - f(x - h)) / (2 * h)


slope = by_trying(f, x=4.0)

# %% tags=["fold"]
graph.draw_slope(f, x=4.0, h=0.5)

# %% [markdown]
# The slope of the dashed line is the quotient, drawn with a large $h$, one half. At $x = 4$ it is {{slope:.6f}}.
# (School gives $2x - 3 = 5$.) Move $x$ a little to the right and $f(x)$ grows about five times as much. To make $f(x)$
# *smaller*, move $x$ to the left: against the sign of the derivative. That is *gradient descent*, and there is nothing
# more to it.
#
# > **Predict.** A smaller $h$ is nearer to the limit. Try $\sin$ at $x = 1$, where the derivative is known to be
# > $\cos 1$, with $h = 10^{-1}, 10^{-5}, 10^{-9}, 10^{-13}$. Which one is the most exact?

# %%
steps = (1e-1, 1e-5, 1e-9, 1e-13)
error = {h: abs(by_trying(np.sin, 1.0, h) - np.cos(1.0)) for h in steps}

# %% [markdown]
# <details><summary>The smallest, 10⁻¹³</summary>
#
# Only the largest is worse. See the other answer.
#
# </details>
# <details><summary>One in the middle, 10⁻⁵ or 10⁻⁹</summary>
#
# Right, it is 10⁻⁵. The errors:
#
# {{as_markdown(["h", "error"], [[f"{h:.0e}", f"{e:.0e}"] for h, e in error.items()])}}
#
# A large $h$ sees the curve bend. A tiny one subtracts two numbers that agree in almost all of their sixteen digits,
# and what is left is rounding. Between the two lies a good $h$. Whoever checks gradients must know this, and the
# package's [gradient check](gradient_checking.md) does.
#
# </details>

# %% tags=["check"]
assert abs(slope - 5) < 1e-6
assert min(error, key=error.get) == 1e-5
assert error[1e-1] > error[1e-13] > error[1e-9] > error[1e-5]

# %% [markdown]
# ## Several steps: a graph of numbers
#
# Models compute in many small steps. Here are three, from $a$, $b$, $e$ to a number $L$ that we would like to be
# small:


# %%
def forward(a, b, e):
    c = a * b
    d = c + e
    L = d**2
    return L, (a, b, d)  # what the way back will need


a, b, e = 2.0, -3.0, 1.0
L, cache = forward(a, b, e)

# %% [markdown]
# Each of the six numbers is a *node* of the graph. The *gradient* of a node is the answer to one question: if this
# number alone changes a little, how much does $L$ change, per unit? It can be found by trying, node by node. But look
# at one step at a time and no trying is needed:
#
# - $L = d^2$. If $d$ changes by a little, $L$ changes by $2d$ times that.
# - $d = c + e$. If $c$ changes, $d$ changes as much. So $c$'s effect on $L$ is that of $d$, and so is $e$'s.
# - $c = a \, b$. If $a$ changes, $c$ changes by $b$ times that. So $a$'s effect on $L$ is $b$ times that of $c$.
#
# Effects of steps that follow each other multiply. This is the *chain rule*, and it is walked from the end to the
# beginning: the effect of $L$ on itself is 1, and every line of the computation gets one line that passes the effect
# on. In this package such a function is called [`backward`](glossary.md#backward), and `dc` is the gradient of `c`.
# Read it beside `forward`, from the bottom of one to the top of the other.


# %%
def backward(cache):
    a, b, d = cache
    dL = 1.0
    dd = dL * 2 * d  # L = d**2
    dc = dd  # d = c + e
    de = dd
    da = dc * b  # c = a * b
    db = dc * a
    return da, db, de


da, db, de = backward(cache)

# %% tags=["fold"]
graph.draw_graph(
    [
        graph.Node("a", "", (0, 0), a, da),
        graph.Node("b", "", (0, 1), b, db),
        graph.Node("c", "a · b", (1, 0.5), a * b, 2 * (a * b + e), ("a", "b")),
        graph.Node("e", "", (1, 1.5), e, de),
        graph.Node("d", "c + e", (2, 1), a * b + e, 2 * (a * b + e), ("c", "e")),
        graph.Node("L", "d²", (3, 1), L, 1.0, ("d",)),
    ],
    "A graph of six numbers from a, b and e to L, with the value and below it the gradient in every box.",
)

# %% [markdown]
# Read it from right to left. And never believe a backward pass that was not checked by trying:

# %%
tried = [
    by_trying(lambda v: forward(v, b, e)[0], a),
    by_trying(lambda v: forward(a, v, e)[0], b),
    by_trying(lambda v: forward(a, b, v)[0], e),
]

# %% [markdown]
# By trying the gradients of $a$, $b$ and $e$ are {{", ".join(f"{t:.4f}" for t in tried)}}; by the backward pass
# {{da:.4f}}, {{db:.4f}}, {{de:.4f}}.
#
# > **Predict.** You may change *one* of $a$, $b$, $e$ by a hundredth, up or down, to make $L$ as small as you can. Which one,
# > and which way?
#
# <details><summary>a, up</summary>
#
# That makes $L$ larger still: the gradient of $a$ is positive, so $a$ must go *down*.
#
# </details>
# <details><summary>a, down</summary>
#
# Right. The largest gradient in size is that of $a$, and it is positive. $L$ goes from {{L:.2f}} to
# {{forward(a - 0.01, b, e)[0]:.4f}}. Training moves all parameters at once, each in proportion to its own gradient.
#
# </details>
# <details><summary>e, up: it is the one that is added</summary>
#
# It helps, to {{forward(a, b, e + 0.01)[0]:.4f}}, but one of the others has a larger gradient.
#
# </details>

# %% tags=["check"]
assert np.allclose(tried, [da, db, de], rtol=1e-6)
assert da > 0
assert abs(da) > max(abs(db), abs(de))
assert forward(a - 0.01, b, e)[0] < forward(a, b, e + 0.01)[0] < L < forward(a + 0.01, b, e)[0]

# %% [markdown]
# ## Used twice, added up
#
# What if a number goes into two places? In $L = a \, b + a$ a change of $a$ reaches $L$ by two ways, and the effects
# of both add up: $b$ by the product, 1 by the sum. A backward pass therefore never *sets* the gradient of a number
# that is used again; it *adds* to it.


# %%
def forward_twice(a, b):
    product = a * b
    L = product + a
    return L, (a, b)


def backward_twice(cache):
    a, b = cache
    dL = 1.0
    dproduct, da = dL, dL  # L = product + a
    da += dproduct * b  # product = a * b: a is used for the second time
    db = dproduct * a
    return da, db


# %% [markdown]
# At $a = 2$, $b = -3$ it gives {{backward_twice((2.0, -3.0))[0]:.1f}} for $a$; by trying it is
# {{by_trying(lambda a: forward_twice(a, -3.0)[0], 2.0):.4f}}. To write `=` for `+=` here is one of the
# commonest mistakes in a backward pass: in a transformer every word's vector is used in many places.

# %% tags=["check"]
assert np.isclose(backward_twice((2.0, -3.0))[0], by_trying(lambda a: forward_twice(a, -3.0)[0], 2.0))

# %% [markdown]
# ## One neuron
#
# A *neuron* multiplies each of its inputs by a *weight*, adds the products and a *bias*, and bends the result so that
# it stays between −1 and 1 (with the function tanh, whose derivative is $1 - \tanh^2$). With arrays instead of single
# numbers the code hardly changes: one line for each line, in the opposite order.


# %%
def neuron_forward(x, w, bias):
    s = x @ w + bias  # @ multiplies entry by entry and adds up
    y = np.tanh(s)
    return y, (x, w, y)


def neuron_backward(dy, cache):
    x, w, y = cache
    ds = dy * (1 - y**2)  # the derivative of tanh: y is its value
    dx = ds * w
    dw = ds * x
    dbias = ds
    return dx, dw, dbias


# %% [markdown]
# `dy` is how much $L$ changes with $y$: what comes after the neuron passes it on. Here that is a squared error, for
# one example whose right answer is 1. One step of gradient descent on weights and bias, a tenth (the *rate*) of the
# gradient, and the error is smaller:

# %%
x, w, bias, answer, rate = np.array([1.0, -2.0]), np.array([0.5, 0.8]), 0.1, 1.0, 0.1
y, cache = neuron_forward(x, w, bias)
_, dw, dbias = neuron_backward(2 * (y - answer), cache)
better, _ = neuron_forward(x, w - rate * dw, bias - rate * dbias)

# %% [markdown]
# The squared error falls from {{(y - answer) ** 2:.3f}} to {{(better - answer) ** 2:.3f}}. A thousand such steps on a
# thousand examples are called training.

# %% tags=["check"]
assert (better - answer) ** 2 < (y - answer) ** 2
mine = neuron_backward(1.0, cache)
assert np.isclose(mine[2], by_trying(lambda v: neuron_forward(x, w, v)[0], bias))
for k in range(2):
    step = np.eye(2)[k]
    assert np.isclose(mine[0][k], by_trying(lambda v, step=step: neuron_forward(x + v * step, w, bias)[0], 0.0))
    assert np.isclose(mine[1][k], by_trying(lambda v, step=step: neuron_forward(x, w + v * step, bias)[0], 0.0))

# %% [markdown]
# ## One softmax
#
# A language model must answer with probabilities: positive, and one in sum. It computes any numbers $z_v$, called
# *[logits](glossary.md#logits)*, one for each word $v$ it knows, and makes probabilities of them:
#
# $$q_v = \frac{e^{z_v}}{\sum_u e^{z_u}}$$
#
# This is the *softmax*. Then a word comes, and the loss is $-\log q$ of that word (the natural logarithm): nothing if
# the model was sure of it, much if it thought it nearly impossible.


# %%
def softmax(z):
    # taking the largest away changes nothing, and no exp can overflow
    weights = np.exp(z - z.max())
    return weights / weights.sum()


def loss(z, word):
    return -np.log(softmax(z)[word])


z, word = np.array([1.0, 2.0, 0.0]), 0
unit = np.eye(3)  # row k: 1 at place k, 0 elsewhere
dz = np.array([by_trying(lambda v, k=k: loss(z + v * unit[k], word), 0.0) for k in range(3)])

# %% tags=["fold"]
q = softmax(z)
rows = [[v, f"{z[v]:.1f}", f"{q[v]:.4f}", f"{dz[v]:+.4f}"] for v in range(3)]

# %% [markdown]
# Word 0 came. The gradient of the loss in the three logits, written $\partial L / \partial z_v$, by trying:
#
# {{as_markdown(["word", "logit z", "probability q", "gradient"], rows)}}
#
# > **Predict.** Compare the last two columns. What is the rule?
#
# <details><summary>The gradient is the probability</summary>
#
# For the words that did not come, yes. Look at word 0 once more.
#
# </details>
# <details><summary>The gradient is the probability, less one for the word that came</summary>
#
# Yes: $\partial L / \partial z_v = q_v - 1$ for the word that came and $q_v$ for all others. Descent raises the logit
# of the word that came by what its probability lacks to one, and lowers each other logit by the probability it wasted.
# At every position of every text, all training of all language models begins with these numbers.
#
# </details>

# %% tags=["check"]
assert np.allclose(dz, softmax(z) - np.eye(3)[word], atol=1e-8)

# %% [markdown]
# [Lesson 3](3_one_softmax_by_hand.ipynb) derives this rule, builds the first real backward passes on it, and shows
# that the objectives this package is about differ from maximum likelihood by one factor in front of it.
#
# ## Summary
#
# - A derivative is how much a result changes when one number changes a little, and can be found by trying: a central
#   difference.
# - A backward pass finds the gradients of all numbers at once: from the end to the beginning, one line for each line
#   of the forward pass. Effects in a row multiply.
# - Where a number is used twice, its gradients add up.
# - Gradient descent moves every parameter a little against its gradient.
# - The gradient of $-\log$ softmax is the probabilities, less one at the word that came.

# %% [markdown]
# ## Exercises
#
# 1. *Pencil.* $L = (a + b)^2 \, a$ at $a = 1$, $b = 2$. Draw the graph, and write value and gradient at every node.
# 2. *Code.* Write `forward` and `backward` of $L = \log(1 + e^{a b})$, with one line for each step. Check by trying.
#    (The derivative of $e^s$ is $e^s$, that of $\log s$ is $1/s$.)
# 3. *Think.* A softmax of three logits is not changed if the same number is added to all three. What does that say
#    about the sum of the gradients in the logits? Check it in the table.

# %% [markdown] tags=["solution"]
# **Solution 1.** $s = a + b = 3$, $t = s^2 = 9$, $L = t \, a = 9$. Backwards: $dt = a = 1$, and $a$ gets a first part,
# $t = 9$; $ds = 2 s \, dt = 6$; $b$ gets 6, and $a$ gets 6 more. So $a$ has the gradient 15 and $b$ has 6.

# %% tags=["solution"]
of_a, of_b = by_trying(lambda a: (a + 2) ** 2 * a, 1.0), by_trying(lambda b: (1 + b) ** 2, 2.0)

# %% [markdown] tags=["solution"]
# By trying: {{of_a:.4f}} and {{of_b:.4f}}.

# %% tags=["check"]
assert np.allclose([of_a, of_b], [15, 6])

# %% [markdown] tags=["solution"]
# **Solution 2.** Three steps, three lines back.


# %% tags=["solution"]
def softplus_forward(a, b):
    s = a * b
    exponential = np.exp(s)
    L = np.log(1 + exponential)
    return L, (a, b, exponential)


def softplus_backward(dL, cache):
    a, b, exponential = cache
    dexponential = dL / (1 + exponential)
    ds = dexponential * exponential
    da = ds * b
    db = ds * a
    return da, db


da, db = softplus_backward(1.0, softplus_forward(0.5, -1.5)[1])

# %% [markdown] tags=["solution"]
# At $a = 1/2$, $b = -3/2$: {{da:.6f}} and {{db:.6f}}; by trying
# {{by_trying(lambda a: softplus_forward(a, -1.5)[0], 0.5):.6f}} and
# {{by_trying(lambda b: softplus_forward(0.5, b)[0], -1.5):.6f}}.

# %% tags=["check"]
assert np.isclose(da, by_trying(lambda a: softplus_forward(a, -1.5)[0], 0.5))
assert np.isclose(db, by_trying(lambda b: softplus_forward(0.5, b)[0], -1.5))

# %% [markdown] tags=["solution"]
# **Solution 3.** Adding $t$ to all logits changes each by $t$, so the loss changes by $t$ times the sum of the
# gradients; but it does not change. So they sum to zero: what is pulled up at one word is pushed down at the others.

# %% tags=["solution"]
total = dz.sum()

# %% [markdown] tags=["solution"]
# In the table they sum to {{abs(total):.6f}}.

# %% tags=["check"]
assert abs(total) < 1e-9

# %% [markdown]
# Next: [1 Two cross-entropies](1_two_cross_entropies.ipynb). The words are in the [glossary](glossary.md).
