"""What arguments must be: each check raises one sentence that names the argument, what came and
what is allowed."""

import numpy as np


def check_count(name, value, least=1):
    """`value` as an int. TypeError unless it is an integer, ValueError unless it is >= least."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r:.80}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_number(name, value):
    """Raise TypeError unless `value` is a real number; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r:.80}")


def check_ratio(name, value):
    """Raise TypeError or ValueError unless `value` is a number in [0, 1]; NaN is not."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")


def check_horizon(max_len):
    """Raise ValueError unless `max_len` can be a horizon: an integer of at least 1."""
    if isinstance(max_len, bool) or not isinstance(max_len, (int, np.integer)) or max_len < 1:
        raise ValueError(f"max_len must be an integer, at least 1, got {max_len!r}")
