"""Faults of machines, made to happen: faults.c, and what drives it."""
