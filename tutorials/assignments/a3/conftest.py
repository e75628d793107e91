"""Markers: `pytest -m task3_4` runs the tests of task 3.4."""


def pytest_configure(config):
    for number in (1, 2, 3, 4, 5, 6, 7, 9):
        config.addinivalue_line("markers", f"task3_{number}: tests of task 3.{number}")
