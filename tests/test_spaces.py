"""Spaces that algorithms cannot learn in are refused at once, wherever an environment is given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.distributed import ApeXRainbow
from sb3_distrl.networks import MinAtarConv
from tests.common.envs import CountingEnv

ALGORITHMS = [Rainbow, IQN, QRDQN]
BOX = spaces.Box(-1, 1, (2,))
# Spaces of observations and actions, and the message
SPACES: list[tuple[spaces.Space, spaces.Space, str]] = [
    (BOX, spaces.Discrete(3, start=1), r"action_space=Discrete\(3, start=1\), .*start at 0: .*action \+ 1, .*Discrete\(3\)\)"),
    (BOX, spaces.Discrete(2, start=-1), r"action_space=Discrete\(2, start=-1\), .*start at 0: .*action \+ -1"),
    (spaces.Discrete(3, start=2), spaces.Discrete(3), r"observation_space=Discrete\(3, start=2\), .*start at 0: subtract"),
    (spaces.MultiDiscrete([2, 3], start=[0, 1]), spaces.Discrete(3), r"observation_space=MultiDiscrete.*start at 0: subtract"),
    (
        spaces.Dict(a=BOX, b=spaces.Discrete(3, start=2)),
        spaces.Discrete(3),
        r"observation_space\['b'\]=Discrete\(3, start=2\), .*start at 0: subtract",
    ),
    (
        spaces.Dict(image=BOX, mission=spaces.Text(9)),
        spaces.Discrete(3),
        r"observation_space\['mission'\]=Text\(.*, which networks cannot process: remove it .*FilterObservation",
    ),
    (spaces.Dict(a=spaces.Dict(b=BOX)), spaces.Discrete(3), r"observation_space\['a'\]=Dict.*: remove it"),
    (spaces.Text(9), spaces.Discrete(3), r"observation_space=Text.*, which networks cannot process: convert it to numbers"),
    (spaces.Tuple([BOX]), spaces.Discrete(3), r"observation_space=Tuple.*, which networks cannot process: convert it"),
]


def env_of(observation_space: spaces.Space, action_space: spaces.Space) -> CountingEnv:
    env = CountingEnv()
    env.observation_space, env.action_space = observation_space, action_space
    return env


@pytest.mark.parametrize(("observation_space", "action_space", "message"), SPACES)
@pytest.mark.parametrize("algorithm", [*ALGORITHMS, ApeXRainbow])
def test_spaces(algorithm: Any, observation_space: spaces.Space, action_space: spaces.Space, message: str) -> None:
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    env = env_of(observation_space, action_space)
    with pytest.raises(ValueError, match=f"^env has {message}"):
        algorithm(policy, (lambda: env) if algorithm is ApeXRainbow else env)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, ApeXRainbow])
def test_spaces_of_another_environment(algorithm: Any, tmp_path: Path) -> None:
    def other() -> CountingEnv:
        return env_of(CountingEnv().observation_space, spaces.Discrete(3, start=1))

    of_actors = algorithm is ApeXRainbow
    kwargs: dict[str, Any] = dict(collector="local", n_actors=1) if of_actors else {}
    model = algorithm("MlpPolicy", CountingEnv if of_actors else CountingEnv(), buffer_size=100, **kwargs)
    model.save(tmp_path / "model")
    env = other if of_actors else other()
    with pytest.raises(ValueError, match=r"^env has action_space=Discrete\(3, start=1\), .*start at 0"):
        model.set_env(env)
    with pytest.raises(ValueError, match=r"^env has action_space=Discrete\(3, start=1\), .*start at 0"):
        algorithm.load(tmp_path / "model", env=env)
    model.action_space = spaces.Discrete(3, start=1)  # as models were saved before this was checked
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"^env has action_space=Discrete\(3, start=1\), .*start at 0"):
        algorithm.load(tmp_path / "model")


SMALL_IMAGE = spaces.Box(0, 255, (7, 7, 3), np.uint8)


@pytest.mark.parametrize("extractor", [None, NatureCNN])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_images_too_small_for_the_convolutions(algorithm: Any, extractor: Any) -> None:
    policy_kwargs = {} if extractor is None else dict(features_extractor_class=extractor)
    message = r"^observation_space of shape \(3, 7, 7\) is too small .* 36x36: use MlpPolicy, .*MinAtarConv.*, or .*wrapper"
    with pytest.raises(ValueError, match=message):
        algorithm("CnnPolicy", env_of(SMALL_IMAGE, spaces.Discrete(3)), policy_kwargs=policy_kwargs)
    env = env_of(spaces.Dict(image=SMALL_IMAGE, direction=spaces.Discrete(4)), spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"^observation_space\['image'\] of shape \(3, 7, 7\) is too small .* wrapper"):
        algorithm("MultiInputPolicy", env)
    for policy, extra in (("MlpPolicy", {}), ("CnnPolicy", dict(features_extractor_class=MinAtarConv))):
        algorithm(policy, env_of(SMALL_IMAGE, spaces.Discrete(3)), buffer_size=10, policy_kwargs=extra)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Box(-1, 1, (2, 2)),
        spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2,))),
    ],
    ids=str,
)
def test_spaces_that_start_at_0(space: spaces.Space) -> None:
    env = CountingEnv()
    env.observation_space = space
    QRDQN("MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy", env, buffer_size=10)
