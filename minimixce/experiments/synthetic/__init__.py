"""The synthetic experiments of the MixCE paper (Zhang et al. 2023, section 4): how well does each
objective recover a known bigram world from 50,000 of its sequences?

Two protocols. "paper" (paper.py): the paper's neural bigram, Adam with L2 and dropout, sampled
Gumbel-softmax gradients for what needs P. "exact" (optima.py): the same objectives with exact
gradients (exact.bigram_loss_and_grads), brought to their optimum. A grid of jobs (grid.py) runs in
any number of processes; each job (job.py) depends on its own fields alone and on the data of its
world (data.py). study.py is what `minimixce synthetic` does.
"""
