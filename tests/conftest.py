"""Settings of all tests."""

import os

import pytest
import torch as th

th.set_num_threads(1)  # the networks here are too small for more
# Ray would run actors at a low priority, at which they get nearly nothing beside other tests
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_configure(config: pytest.Config) -> None:
    # SB3 says so where the buffer class is given: for this library's algorithms it would be false (trap 4)
    config.addinivalue_line("filterwarnings", "error:.*is ignored because a custom `replay_buffer_class`.*:UserWarning")
