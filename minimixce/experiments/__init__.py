"""Experiments: comparisons, worlds, measures, figures."""
