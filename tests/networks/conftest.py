import pytest
import torch as th


@pytest.fixture(autouse=True)
def seed():
    th.manual_seed(0)
