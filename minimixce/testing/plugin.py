"""The pytest plugin, by an entry point: the fixture `assert_gradients`."""

from collections.abc import Callable

import pytest

from ..checks import Report


@pytest.fixture
def assert_gradients() -> Callable[..., Report]:
    """minimixce.testing.assert_gradients: check a backward against its forward."""
    from .gradients import assert_gradients

    return assert_gradients
