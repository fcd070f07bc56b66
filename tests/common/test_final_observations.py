"""Environments that write into one array and return it: their final observations are lost, which is told once."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.distributed import ApeXQRDQN
from tests.common.envs import CountingEnv, make_env, vec_env
from tests.common.settings import make

MESSAGE = r"writes into an observation that it has returned.*return a copy"
LENGTH = 6


class OneArray(gym.Env):
    """
    Counts steps in an array that it returns each time; episodes are truncated after some steps.

    :param result: what is returned of the array
    :param terminates: in place of truncating
    :param first: what an episode starts at
    :param dtype: of the array
    """

    def __init__(
        self,
        result: Callable[[np.ndarray], Any] = lambda array: array,
        terminates: bool = False,
        first: float = 0.0,
        dtype: Any = np.float32,
    ) -> None:
        self.array, self.first, self.result, self.terminates = np.zeros(3, dtype), first, result, terminates
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.array[:] = self.first
        return self.result(self.array), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.array += 1
        end = bool(self.array[0] >= LENGTH)
        return self.result(self.array), 0.0, end and self.terminates, end and not self.terminates, {}


class OneDict(OneArray):
    """The same in a dict, beside what is returned anew each time."""

    def __init__(self, same_dict: bool = False) -> None:
        super().__init__(self._in_dict)
        self.dict: dict[str, Any] = {}
        self.same_dict = same_dict
        self.observation_space = spaces.Dict(vector=self.observation_space, place=spaces.Discrete(4))

    def _in_dict(self, array: np.ndarray) -> dict[str, Any]:
        observation = self.dict if self.same_dict else {}
        observation.update(vector=array.copy() if self.same_dict else array, place=np.int64(1))
        return observation


class Loops(CountingEnv):
    """Its observations are its own each time, or those of a table; the final one is the next first one."""

    def __init__(self, copies: bool) -> None:
        super().__init__()
        self.table = np.arange(30, dtype=np.float32).reshape(10, 3)
        self.copies = copies

    def _observation(self, kind: str) -> np.ndarray:
        row = self.table[self.steps % LENGTH]
        return row.copy() if self.copies else row

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observation("box"), 0.0, False, self.steps == LENGTH, {}


class TwoArrays(OneArray):
    """It returns one of two arrays in turn, which hold what they should for long enough."""

    def __init__(self) -> None:
        super().__init__(self._in_turn)
        self.arrays = [np.zeros(3, np.float32), np.zeros(3, np.float32)]

    def _in_turn(self, array: np.ndarray) -> np.ndarray:
        self.arrays.reverse()
        self.arrays[0][:] = array
        return self.arrays[0]


def told(model: Any, total: int = 60) -> list[str]:
    """:return: the warnings of ``learn``"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(total)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_one_array_is_told_once(algorithm: type[ValueAlgorithm], n_envs: int) -> None:
    env = DummyVecEnv([lambda i=i: Monitor(OneArray()) if i == n_envs - 1 else CountingEnv() for i in range(n_envs)])
    model = make(algorithm, env, learning_starts=0)
    with pytest.warns(UserWarning, match=MESSAGE) as caught:
        model.learn(40 * n_envs)
    assert len(caught) == 1
    assert told(model) == []


@pytest.mark.parametrize(
    "env",
    [
        lambda: DummyVecEnv([lambda: OneDict()]),
        lambda: DummyVecEnv([lambda: OneDict(same_dict=True)]),
        lambda: DummyVecEnv([lambda: OneArray(lambda array: array[::-1])]),  # a view
        lambda: DummyVecEnv([lambda: OneArray(first=0.1, dtype=np.float64)]),  # kept as float32
        lambda: VecFrameStack(DummyVecEnv([OneArray]), 2),
        lambda: VecNormalize(DummyVecEnv([OneArray])),
    ],
)
def test_dicts_views_and_wrappers(env: Callable[[], Any]) -> None:
    env = env()
    kind = "dict" if isinstance(env.observation_space, spaces.Dict) else "box"
    with pytest.warns(UserWarning, match=MESSAGE):
        make(QRDQN, env, kind, learning_starts=0).learn(40)


def test_with_sb3s_buffer_and_order() -> None:
    with pytest.warns(UserWarning, match=MESSAGE):
        make(QRDQN, OneArray(), learning_starts=0, replay_buffer_class=ReplayBuffer, overlap=False).learn(40)


def test_with_actors() -> None:
    model = ApeXQRDQN("MlpPolicy", OneArray, n_actors=1, collector="local", learning_starts=10, buffer_size=500, device="cpu")
    with pytest.warns(UserWarning, match=MESSAGE):
        model.learn(100)


@pytest.mark.parametrize(
    "env",
    [
        lambda: OneArray(np.copy),
        lambda: OneArray(terminates=True),  # nobody looks at the observation after a termination
        lambda: Loops(copies=True),
        lambda: Loops(copies=False),
        TwoArrays,
        *(make_env(kind) for kind in ("box", "dict", "discrete")),
    ],
)
def test_no_false_alarm(env: Callable[[], gym.Env]) -> None:
    kind = "dict" if isinstance(env().observation_space, spaces.Dict) else "box"
    assert told(make(QRDQN, DummyVecEnv([env, env]), kind, learning_starts=0), 100) == []


def test_other_vectorised_environments_are_left_alone() -> None:
    env = SubprocVecEnv([make_env()], start_method="fork")
    assert told(make(QRDQN, env, learning_starts=0)) == []
    env.close()


def test_what_it_looks_at_is_not_saved(tmp_path: Any) -> None:
    model = make(QRDQN, Loops(copies=False))
    model.learn(60)
    model.save_checkpoint(tmp_path / "model")
    assert told(QRDQN.load_checkpoint(tmp_path / "model", env=vec_env(), device="cpu")) == []
