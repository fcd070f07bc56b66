"""Settings of all tests."""

import os
import signal

import pytest
import torch as th

th.set_num_threads(1)  # the networks here are too small for more
# A shell ignores Ctrl-C for what it runs in the background, and so would the tests that send it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Ray would run actors at a low priority, at which they get nearly nothing beside other tests
os.environ.setdefault("RAY_worker_niceness", "0")

# Started first, so that no process is left with minutes of tests while the others have none (`--no-loadscope-reorder`)
LONGEST = (
    "test_acceleration.py",
    "test_ray.py",
    "test_ray_faults.py",
    "test_learning.py",
    "test_interrupts.py",
    "test_state_machine.py",
    "test_scripts.py",
    "test_runs.py",
    "test_cluster.py",
    "test_commands_train.py",
    "test_hyperparams.py",
    "test_export.py",
    "test_parity.py",
    "test_resume.py",
)


def pytest_configure(config: pytest.Config) -> None:
    # SB3 says so where the buffer class is given: for this library's algorithms it would be false (trap 4)
    config.addinivalue_line("filterwarnings", "error:.*is ignored because a custom `replay_buffer_class`.*:UserWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
