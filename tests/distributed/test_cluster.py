"""Clusters: joining one, with and without its token, and losing a machine of it. Each in processes of its own."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]

HEAD = """
import ray
context = ray.init(address="local", include_dashboard=False, num_cpus=2, logging_level="ERROR")
print(context.address_info["address"], flush=True)
input()
"""

JOIN = """
import sys
import ray  # before us, as a user may
from tests.distributed.settings import make_model

model = make_model(collector="ray", ray_address=sys.argv[1])
try:
    model.learn(200)
    print("reached", model.num_timesteps, "connected", ray.is_initialized())
except ValueError as error:
    print(error)
"""


def environment(**changes):
    """:return: of a process, without this one's settings of Ray"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "RAY_worker_niceness": "0", **changes}


@pytest.fixture(scope="module")
def head():
    """:return: a running cluster's address and token"""
    token = secrets.token_hex(32)
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env=environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process.stdout.readline().strip(), token
    process.communicate("\n", timeout=300)


def join(address, **changes):
    command = [sys.executable, "-c", JOIN, address]
    run = subprocess.run(command, env=environment(**changes), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


def test_with_the_token(head):
    """Twice: the first one, when it ended, left the cluster as it was."""
    address, token = head
    for _ in range(2):
        assert join(address, RAY_AUTH_TOKEN=token) == "reached 200 connected False"


def test_with_another_token(head):
    message = join(head[0], RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert message.startswith(f"ray_address={head[0]} cannot be joined") and "whether the token is the head's" in message


def test_without_a_token(head, tmp_path):
    message = join(head[0], HOME=str(tmp_path))
    assert message.startswith(f"ray_address={head[0]} needs a token, and there is none: copy the head's ~/.ray/auth_token")


LOSE = """
import ray
from ray.cluster_utils import Cluster
from stable_baselines3.common.callbacks import BaseCallback
from tests.distributed.settings import make_model

cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False))
other = cluster.add_node(num_cpus=1)
cluster.connect()
cluster.wait_for_nodes()

class LoseTheOtherMachine(BaseCallback):
    state = "both"

    def _on_step(self):
        added = self.model.replay_buffer._added
        if self.state == "both" and added.min() >= 100:
            cluster.remove_node(other)
            self.state, self.at = "one", added.copy()
        if self.state == "one" and self.model._actors.failures and added.max() > self.at.max() + 500:
            grown = added - self.at
            assert grown.min() <= 60, grown  # what was under way
            assert self.model._actors.failures == 1, "waiting for a place counts as a failure"
            cluster.add_node(num_cpus=1)
            self.state, self.at = "again", added.copy()
        if self.state == "again" and (added - self.at).min() >= 50:
            print("both", self.model._actors.failures)
            return False
        return True

model = make_model(collector="ray", max_failures=1, hang_timeout=30.0, block_steps=20)
model.learn(1_000_000, callback=LoseTheOtherMachine())
model.replay_buffer.check_valid()
ray.shutdown()
cluster.shutdown()
"""


def test_a_machine_that_is_lost():
    """The run goes on with the actors that there are; the lost one waits for a place, without an error, and joins again."""
    run = subprocess.run(
        [sys.executable, "-c", LOSE],
        env=environment(RAY_AUTH_MODE="token"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines()[-1] == "both 1"
