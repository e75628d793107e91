"""Grading other people's code: it runs in a sandbox that holds no answer."""
