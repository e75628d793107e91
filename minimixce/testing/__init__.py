"""Gradient checks for tests of your own: an assertion, a pytest fixture, strategies of shapes.

    from minimixce.testing import assert_gradients

    def test_my_layer():
        assert_gradients(my_forward, my_backward, x, weight, bias)

The fixture `assert_gradients` is the same function, there in every pytest run where minimixce is
installed; the strategies, in testing.strategies, need hypothesis.
"""

from .gradients import assert_gradients, check_gradients
from .sentences import explain

__all__ = ["assert_gradients", "check_gradients", "explain"]
