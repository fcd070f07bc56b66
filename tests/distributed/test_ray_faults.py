"""Actors of a real Ray that fail, and a learner that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from tests.distributed.envs import MESSAGE, misbehaving
from tests.distributed.models import make_model

pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("running"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]


@pytest.mark.parametrize("what", ["exception", "kill", "hang"])
def test_an_actor_that_fails_once_is_replaced(what, tmp_path, caplog):
    """The run goes on with both; nothing of the bad block is in the replay, and no return reaches over it."""
    model = make_model(
        env=misbehaving(what, tmp_path), collector="ray", max_failures=1, hang_timeout=25.0 if what == "hang" else 300.0
    )
    replaced = Replaced()
    model.learn(1_000_000, callback=replaced)
    assert replaced.failures == 1 and len(list(tmp_path.iterdir())) == 1
    buffer = model.replay_buffer
    buffer.check_valid()
    batch = buffer.sample(200)
    assert batch.rewards.isfinite().all() and batch.observations.isfinite().all() and batch.next_observations.isfinite().all()
    assert "failed and is being restarted" in caplog.text
    failed = int(caplog.text.split("Actor ")[1].split()[0])
    assert (buffer.timeouts[:, failed] & ~buffer._dones[:, failed]).any(), "the stream goes on as if nothing was lost"


class Replaced(BaseCallback):
    """Ends the training when an actor has failed and both have sent more since then."""

    failures = 0

    def _on_step(self):
        added = self.model.replay_buffer._added
        if self.model._intake.actors.failures > self.failures:
            self.failures, self.then = self.model._intake.actors.failures, added.copy()
        return not (self.failures and (added - self.then).min() >= 100)


@pytest.mark.parametrize("what, says", [("exception", MESSAGE), ("kill", "actor 0|actor 1")])
def test_an_environment_that_always_fails_ends_the_run(what, says, tmp_path):
    """With what the environment says."""
    model = make_model(env=misbehaving(what, tmp_path, after=5, times=100), collector="ray", max_failures=2)
    with pytest.raises(RuntimeError, match=f"(?s)Actors failed 3 times .* max_failures=2.*({says})"):
        model.learn(600)
    assert model._intake is None and model.num_timesteps == 0


def test_actors_that_cannot_make_their_environment_say_so(tmp_path):
    """The learner could make it, but the actors are elsewhere."""
    here = os.getpid()

    def make():
        if os.getpid() != here:
            raise FileNotFoundError("no ROM on this machine")
        return misbehaving("exit", tmp_path, after=10**9)()

    model = make_model(env=make, collector="ray", max_failures=0)
    with pytest.raises(RuntimeError, match="no ROM on this machine"):
        model.learn(100)


def test_no_data_at_all_is_an_error(tmp_path):
    """Before one knows that an actor hangs."""
    model = make_model(env=misbehaving("hang", tmp_path, after=3, times=9), collector="ray", stall_timeout=15.0)
    with pytest.raises(RuntimeError, match=r"No actor has sent anything for 15 s \(stall_timeout\)"):
        model.learn(100)


TRAIN = """
import sys
from sb3_distrl.common.callbacks import RollingCheckpointCallback, latest_checkpoint
from sb3_distrl.distributed import ApeXIQN, ApeXRainbow
from tests.distributed.models import make_model

path = latest_checkpoint(sys.argv[1])
if path:
    print("going on from", path, flush=True)
    model = ApeXRainbow.load_checkpoint(path, "CartPole-v1")
else:
    model = make_model(collector="ray")
model.learn(int(sys.argv[2]), callback=RollingCheckpointCallback(100, sys.argv[1]), reset_num_timesteps=path is None)
print("reached", model.num_timesteps, model.replay_buffer._added.sum(), flush=True)
"""


def test_a_learner_that_is_killed_goes_on_from_its_checkpoint(tmp_path):
    """The actors of the first one, and its Ray, end with it."""
    command = [sys.executable, "-W", "ignore", "-c", TRAIN, str(tmp_path)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    first = subprocess.Popen([*command, "1000000"], env=environment, cwd=root)
    deadline = time.monotonic() + 600
    while not len(list(tmp_path.glob("checkpoint_*.zip"))) == 2:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    children = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    first.wait()
    run = subprocess.run([*command, "300"], env=environment, cwd=root, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    started, reached = run.stdout.splitlines()
    assert started.startswith("going on from") and reached.startswith("reached")
    steps = int(started.rsplit("_", 2)[-2])
    assert int(reached.split()[1]) == steps + 300
    _, alive = psutil.wait_procs(children, timeout=300)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
