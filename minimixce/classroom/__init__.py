"""Assignments to hand out, and what is wrong with a solution, in words."""
