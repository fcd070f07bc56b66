"""Settings of all tests."""

import pytest
import torch as th

th.set_num_threads(1)  # the networks here are too small for more


def pytest_configure(config: pytest.Config) -> None:
    # SB3 says so where the buffer class is given: for this library's algorithms it would be false (trap 4)
    config.addinivalue_line("filterwarnings", "error:.*is ignored because a custom `replay_buffer_class`.*:UserWarning")
