"""Replay memory of the algorithms: none before the first transition, frames once for images, an error where it is too much."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.buffers.frames import FrameStorage
from sb3_distrl.buffers.storage import WholeStorage
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.buffers.whole_replay import storages_of
from tests.common.envs import KINDS, vec_env
from tests.common.settings import ALGORITHMS, SMALL, assert_same_parameters, make, snapshot

CLASSES = [setting.algorithm for setting in ALGORITHMS.values()]
MILLION = 1_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_kept_once_for_images(kind: str) -> None:
    for given, frames in [(None, kind in ("image", "dict")), (True, True), (False, False)]:
        model = make(QRDQN, kind=kind, optimize_memory_usage=given)
        model.learn(30)
        assert model.optimize_memory_usage is given
        storages = storages_of(model.replay_buffer).values()
        assert all(isinstance(storage, FrameStorage if frames else WholeStorage) for storage in storages)
        model.replay_buffer.check_valid()


@pytest.mark.parametrize(
    ("algorithm", "kind", "n_envs"),
    [(QRDQN, "image", 1), (Rainbow, "image", 3), (IQN, "dict", 1), (QRDQN, "dict", 3), (QRDQN, "box", 3)],
)
def test_training_is_the_same_however_observations_are_kept(algorithm: type[ValueAlgorithm], kind: str, n_envs: int) -> None:
    models = []
    for optimize_memory_usage in (False, True):
        env: Any = vec_env(kind, n_envs)
        env = VecFrameStack(env, 3) if kind != "dict" else env
        models.append(make(algorithm, env, kind, optimize_memory_usage=optimize_memory_usage, n_steps=3, prioritized=True))
        models[-1].learn(48 * n_envs)
        models[-1].learn(28 * n_envs)
    assert models[0]._n_updates > 7
    assert_same_parameters(snapshot(models[0]), snapshot(models[1]))


@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer:UserWarning")
@pytest.mark.parametrize("theirs", [DQN, sb3_contrib.QRDQN])
def test_algorithms_of_others_take_the_buffer(theirs: Any) -> None:
    """SB3's learn() marks the last transition as terminal where memory is optimised; it was not."""
    small = {key: value for key, value in SMALL.items() if key != "seed"}
    model = theirs(
        "CnnPolicy",
        VecFrameStack(vec_env("image"), 3),
        replay_buffer_class=PrioritizedReplayBuffer,
        replay_buffer_kwargs=dict(n_steps=3, gamma=0.99),
        optimize_memory_usage=True,
        **small,
    )
    model.learn(30)
    buffer = model.replay_buffer
    last = buffer.pos - 1
    assert not buffer.dones[last, 0]
    model.learn(30)
    assert not buffer.dones[last, 0] and buffer.timeouts[last, 0], "the episode was left there, not terminated"
    assert isinstance(buffer.stored, FrameStorage)
    buffer.check_valid()


def test_no_warning_of_sb3_where_memory_is_optimised(recwarn: pytest.WarningsRecorder) -> None:
    model = make(Rainbow, optimize_memory_usage=True)
    model.learn(30)
    model.learn(30)
    assert not [warning for warning in recwarn if "last trajectory" in str(warning.message)]


# Allocation


@pytest.mark.parametrize("algorithm", CLASSES)
def test_nothing_is_allocated_before_the_first_transition(algorithm: type[ValueAlgorithm], tmp_path: Path) -> None:
    model = make(algorithm, buffer_size=MILLION)
    assert not model.replay_buffer.stored.allocated
    model.learn(40)
    assert model.replay_buffer.stored.allocated
    model.save(tmp_path / "model")
    for env in (None, vec_env()):
        loaded = algorithm.load(tmp_path / "model", env=env)
        loaded.predict(vec_env().reset())
        assert loaded.replay_buffer.size() == 0 and not loaded.replay_buffer.stored.allocated


PLAY = """
import resource, sys
from pathlib import Path
from sb3_distrl import Rainbow
from tests.test_replay_memory import atari_like
for path in sys.argv[1:]:
    model = Rainbow.load(path, env=atari_like(), device="cpu")
    env = model.get_env()
    obs = env.reset()
    for _ in range(20):
        obs, _, _, _ = env.step(model.predict(obs)[0])
    assert model.replay_buffer.buffer_size == 1_000_000
status = Path("/proc/self/status")  # getrusage would tell the peak of the process that started this one, if that was higher
if status.exists():
    peak = int(status.read_text().split("VmHWM:")[1].split()[0])
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
"""


class AtariLike(gym.Env):
    """Images of an Atari game's shape."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (84, 84, 1), np.uint8)
        self.action_space = gym.spaces.Discrete(6)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def atari_like() -> VecFrameStack:
    return VecFrameStack(DummyVecEnv([AtariLike]), 4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="measures by getrusage")
def test_playing_with_a_model_of_a_million_transitions(tmp_path: Path) -> None:
    """In less than a gigabyte, also where the replay buffer would have 56."""
    paths = []
    for optimize_memory_usage in (None, False):
        paths.append(str(tmp_path / f"{optimize_memory_usage}.zip"))
        Rainbow("CnnPolicy", atari_like(), optimize_memory_usage=optimize_memory_usage).save(paths[-1])
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", PLAY, *paths]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1e6


# Too large


class Unused(AtariLike):
    def step(self, action: int) -> Any:
        raise AssertionError("no step must be taken")


@pytest.mark.parametrize(
    ("optimize_memory_usage", "message"),
    [
        (
            None,
            r"^buffer_size=50000000 needs 36\d\.\d GB of memory, but only \d+\.\d GB are free: use buffer_size=\d+ or less\.",
        ),
        (False, r"^buffer_size=50000000 needs 2823\.\d GB .* or less, or optimize_memory_usage=True\."),
    ],
)
@pytest.mark.parametrize("algorithm", CLASSES)
def test_a_buffer_that_does_not_fit(algorithm: type[ValueAlgorithm], optimize_memory_usage: bool | None, message: str) -> None:
    env = VecFrameStack(DummyVecEnv([Unused]), 4)
    model = algorithm("CnnPolicy", env, buffer_size=50_000_000, optimize_memory_usage=optimize_memory_usage, device="cpu")
    with pytest.raises(ValueError, match=message):
        model.learn(100)


def test_the_buffer_size_that_the_error_names_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_distrl.validation.available_memory", lambda: 5e6)
    model = make(QRDQN, buffer_size=MILLION)
    with pytest.raises(ValueError) as caught:
        model.learn(40)
    size = int(str(caught.value).split("use buffer_size=")[1].split()[0])
    assert 1_000 < size < MILLION
    model = make(QRDQN, buffer_size=size)
    model.learn(40)
