import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(0)  # what the buffers draw from, as SB3's do
