import pytest
import torch as th


@pytest.fixture(autouse=True)
def one_thread():
    """Compute on one thread, as actors in processes of their own do: sums depend on how they are shared out."""
    before = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(before)
