"""Markers: `pytest -m task0_3` runs the tests of task 0.3."""


def pytest_configure(config):
    for number in range(1, 4):
        config.addinivalue_line("markers", f"task0_{number}: tests of task 0.{number}")
