"""The pytest plugin, by an entry point: the fixture `assert_gradients`."""

from typing import Any

import pytest


@pytest.fixture
def assert_gradients() -> Any:
    """minimixce.testing.assert_gradients: check a backward against its forward."""
    from .gradients import assert_gradients

    return assert_gradients
