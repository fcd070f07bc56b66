"""
Clusters: joining one, with and without its token, losing a machine of it, and what a Ray of one's own leaves behind. Each in
processes of its own.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sb3_distrl.distributed import ApeXRainbow

pytest.importorskip("ray")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

HEAD = """
import ray
context = ray.init(address="local", include_dashboard=False, num_cpus=2, logging_level="ERROR")
print(context.address_info["address"], context.address_info["session_dir"], flush=True)
input()
"""

JOIN = """
import os, signal, sys
import ray  # before us, as a user may
from tests.distributed.models import make_model

def handler(signum, frame): ...

signal.signal(signal.SIGTERM, handler)
model = make_model(collector="ray", ray_address=sys.argv[1])
before = dict(os.environ)
try:
    model.learn(200)
    os.kill(os.getpid(), signal.SIGTERM)  # it does no harm
    print("reached", model.num_timesteps, "connected", ray.is_initialized(), "as before", dict(os.environ) == before)
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
    address, session = process.stdout.readline().split()
    yield address, token
    assert Path(session).is_dir(), "a Ray that was not started by us lost its files"
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
        assert join(address, RAY_AUTH_TOKEN=token) == "reached 200 connected False as before True"


def test_with_another_token(head):
    message = join(head[0], RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert message.startswith(f"ray_address={head[0]} cannot be joined") and "that the token is the head's" in message


def test_without_a_token(head, tmp_path):
    message = join(head[0], HOME=str(tmp_path))
    assert message.startswith(f"ray_address={head[0]} needs a token, and there is none: copy the head's ~/.ray/auth_token")


LOSE = """
import ray
from ray.cluster_utils import Cluster
from stable_baselines3.common.callbacks import BaseCallback
from tests.distributed.models import make_model

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
        if self.state == "one" and self.model._intake.actors.failures and added.max() > self.at.max() + 500:
            grown = added - self.at
            assert grown.min() <= 60, grown  # what was under way
            assert self.model._intake.actors.failures == 1, "waiting for a place counts as a failure"
            cluster.add_node(num_cpus=1)
            self.state, self.at = "again", added.copy()
        if self.state == "again" and (added - self.at).min() >= 50:
            print("both", self.model._intake.actors.failures)
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


PREEMPTED = """
import os, signal, sys, warnings
from pathlib import Path
from stable_baselines3.common.callbacks import BaseCallback
import ray
from tests.distributed.envs import Telling
from tests.distributed.models import make_model

folder, received = Path(sys.argv[1]), []

def handler(signum, frame):
    received.append(signum)
    if len(received) == 2:
        raise SystemExit(7)

class UntilSignal(BaseCallback):
    def __init__(self, number):
        super().__init__()
        self.number, self.told = number, False

    def _on_step(self):
        if not self.told and self.model.replay_buffer._added.min() >= 50 * self.number:
            self.told = True
            print("training", flush=True)
        return len(received) < self.number

warnings.filterwarnings("always", "(?s).*holds Ray's token")
signal.signal(signal.SIGTERM, handler)
model = make_model(env=Telling.maker(folder), collector="ray")
before = dict(os.environ)
model.learn(1_000_000, callback=UntilSignal(1))
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert signal.getsignal(signal.SIGTERM) is handler
assert not list((folder / "ray").iterdir()), list((folder / "ray").iterdir())
assert model._intake is None and not ray.is_initialized()
print("going on", flush=True)
token = folder / ".ray" / "auth_token"
assert token.stat().st_mode & 0o777 == 0o600, oct(token.stat().st_mode)
token.chmod(0o644)
try:
    model.learn(1_000_000, callback=UntilSignal(2), reset_num_timesteps=False)
finally:
    model.save(folder / "model")
    assert token.stat().st_mode & 0o777 == 0o600, oct(token.stat().st_mode)
"""


def test_a_job_that_is_preempted_ends_as_its_handler_says():
    """
    The first SIGTERM lets a callback stop the training, the second raises SystemExit: what was learnt is saved. Neither Ray
    leaves anything behind: no handler, no environment variable, no file but the token, no environment that is not closed.
    """
    with tempfile.TemporaryDirectory(prefix="sb3") as folder:  # a longer name than that is too long for Ray's sockets
        process = subprocess.Popen(
            [sys.executable, "-c", PREEMPTED, folder],
            env=environment(HOME=folder, RAY_TMPDIR=folder),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in ("training", "going on", "training"):
            assert process.stdout.readline().strip() == line, process.stderr.read()[-3000:]
            if line == "training":
                process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 7, errors[-3000:]
        assert ApeXRainbow.load(Path(folder) / "model").num_timesteps >= 200
        assert "auth_token holds Ray's token, with which other users of this machine can run code as you" in errors
        assert not list((Path(folder) / "ray").iterdir())
        actors = {path.name for path in Path(folder).glob("closed by *")} - {f"closed by {process.pid}"}
        assert len(actors) == 4
