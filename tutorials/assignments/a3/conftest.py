"""Markers: `pytest -m task3_4` runs the tests of task 3.4."""


def pytest_configure(config):
    for number in range(1, 8):
        config.addinivalue_line("markers", f"task3_{number}: tests of task 3.{number}")
