"""Real mistakes, each in a line that ends in `# wrong`: mypy finds every one of them, and nothing
else. It is read by tests/test_types.py, and never runs.
"""

import numpy as np

import minimixce as mm
from minimixce.experiments import compare, fixed_points, jobs, measures, on_worlds
from minimixce.experiments.options import TrainingOptions

config = mm.GPTConfig(6, block_size=8, n_layer=1, n_head=2, n_embd=4)
model = mm.GPT(config)
world = mm.worlds.agreement()
tokens = np.array([[1, 2, 3, 0]])
logits, cache = model.forward(tokens)
rows = world.sample(4, 3)

mm.GPT("not a config")  # wrong
mm.GPT(mm.BigramConfig(6))  # wrong
mm.GPTConfig(6, 8, 1, 2, 4, dropout="0.1")  # wrong
mm.GPTConfig(6, block_size=8, n_layer=1, n_heads=2, n_embd=4)  # wrong
mm.Bigram(config)  # wrong
mm.TableBigram([6])  # wrong
mm.GPT.load(3)  # wrong

mm.objectives.mixce(1, 2, eta="x")  # wrong
mm.objectives.mixce(logits, tokens, eta="0.5")  # wrong
mm.objectives.mixce(logits, tokens, 0.5)  # wrong
mm.objectives.mixce(logits, tokens, gamma=0.5)  # wrong
mm.objectives.mle([[0.0, 1.0]], [1])  # wrong
mm.objectives.emo(logits, tokens)  # wrong

model.forward([[1, 2, 3]])  # wrong
model.generate(tokens, 3, temprature=0.5)  # wrong
model.generate("The ", 3)  # wrong
model.extend_forward(tokens, past=logits)  # wrong
model.backward(logits)  # wrong
print(model.parms)  # wrong

mm.AdamW(model.params.values(), 1e-3)  # wrong
mm.AdamW(model.params, lr="1e-3")  # wrong
mm.AdamW(model.params, 1e-3).step(logits)  # wrong
mm.fit(model, [(tokens, tokens)], "mixce")  # wrong
mm.fit(model, [tokens, 3])  # wrong
mm.fit(config, [(tokens, tokens)])  # wrong

mm.exact.loss_and_grads(model, world, 3, method=True)  # wrong
mm.exact.loss_and_grads(model, model, 3)  # wrong
mm.exact.loss_and_grads(model, world, 3, "reverse_ce")  # wrong
print(mm.exact.cross_entropies(model, world, 3).backward)  # wrong
mm.estimators.rloo(model, world, 64)  # wrong
mm.estimators.gumbel(model, world, rows, tau="hot")  # wrong
world.sample(4, "3")  # wrong
world.log_probs(rows)  # wrong
mm.worlds.World(3, 4)  # wrong
mm.worlds.random_markov(4, "half", seed=0)  # wrong

options = TrainingOptions(eta=0.1, steps=10)
TrainingOptions(eta="0.1")  # wrong
TrainingOptions(eta=0.1, step=10)  # wrong
jobs.train({"steps": 10}, "run")  # wrong
jobs.train(options, 3)  # wrong
compare.compare(options, "comparison")  # wrong
measures.diversity(0.5)  # wrong
measures.fit_to_text(model, [tokens])  # wrong
fixed_points.fixed_point(0.5, tokens)  # wrong
on_worlds.sequence_step("js", model, 4)  # wrong

mm.gradcheck(mm.layers.linear_forward, None, [logits])  # wrong
mm.gradcheck(mm.layers.linear_forward, mm.layers.linear_backward, [logits], tol=1e-3)  # wrong
mm.layers.linear_forward(logits, logits)  # wrong
mm.layers.gelu_forward(0.5)  # wrong
mm.layers.attention_forward(logits, n_head=2, past=tokens)  # wrong
