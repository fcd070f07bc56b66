"""A Ray that the tests of a file share."""

import pytest


@pytest.fixture(scope="module")
def running():
    """As a user's that runs already."""
    from sb3_distrl.distributed.cluster import connection

    with connection(None):  # as ApeX does it
        yield
