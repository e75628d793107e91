"""Markers: `pytest -m task2_5` runs the tests of task 2.5."""


def pytest_configure(config):
    for number in (1, 2, 3, 4, 5, 6, 7, 9):
        config.addinivalue_line("markers", f"task2_{number}: tests of task 2.{number}")
