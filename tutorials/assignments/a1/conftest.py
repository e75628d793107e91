"""Markers: `pytest -m task1_4` runs the tests of task 1.4."""


def pytest_configure(config):
    for number in range(1, 8):
        config.addinivalue_line("markers", f"task1_{number}: tests of task 1.{number}")
