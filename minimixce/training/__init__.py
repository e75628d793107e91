"""The training loop, its steps and its run folder."""
