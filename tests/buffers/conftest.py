import numpy as np
import pytest

from tests.buffers import naive_replay


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(0)  # what the buffers draw from, as SB3's do


@pytest.fixture(params=[False, True], ids=["whole", "frames"])
def optimize(request, monkeypatch):
    """With it, all buffers of a test are made with and without optimize_memory_usage."""
    monkeypatch.setitem(naive_replay.OPTIONS, "optimize_memory_usage", request.param)
    return request.param
