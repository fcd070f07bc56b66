"""The environments of actors: how an actor makes them, and their placeholder in the learner."""

from collections.abc import Callable
from typing import Any, NoReturn

import gymnasium
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_distrl.common.arguments import check_spaces
from sb3_distrl.validation import check_at_least, whole_number

EnvSource = str | Callable[[], gymnasium.Env | VecEnv]


def make_envs(source: EnvSource, n_envs: int | None) -> VecEnv:
    """
    Make the environments of an actor, wrapped as in SB3.

    :param source: environment ID, or a function that makes one environment or an actor's whole VecEnv
    :param n_envs: ``None`` is 1, or as many as the VecEnv has
    :raises ValueError: if ``source`` is something else, or the environments cannot be used
    """
    if not (isinstance(source, str) or callable(source)):
        raise ValueError(
            f"env={source} cannot be made by each actor: use an environment ID, or a function without arguments that makes "
            "one environment or an actor's whole VecEnv."
        )

    def make() -> gymnasium.Env | VecEnv:
        return gymnasium.make(source) if isinstance(source, str) else source()

    envs = make()
    if isinstance(envs, gymnasium.Env):
        check_spaces(envs.observation_space, envs.action_space)
        alike = [envs, *(make() for _ in range((n_envs or 1) - 1))]
        monitored = [env if is_wrapped(env, Monitor) else Monitor(env) for env in alike]  # type: ignore[arg-type]
        envs = DummyVecEnv([lambda env=env: env for env in monitored])  # type: ignore[misc]
    if not isinstance(envs, VecEnv):
        raise ValueError(f"env makes a {type(envs).__name__}: it should make a gymnasium.Env or a VecEnv.")
    if n_envs not in (None, envs.num_envs):
        raise ValueError(
            f"envs_per_actor={n_envs}, but env makes a VecEnv of {envs.num_envs}: leave envs_per_actor out, or change one."
        )
    if unwrap_vec_normalize(envs) is not None:
        raise ValueError(
            "env makes a VecNormalize, whose statistics would differ between actors: scale by constants in a wrapper such as "
            "gymnasium.wrappers.TransformReward, or use the algorithm without actors."
        )
    return BaseAlgorithm._wrap_env(envs)


class ActorEnvs(VecEnv):
    """
    The learner's placeholder for its actors' environments: it has their number and spaces, but cannot be stepped.

    :raises ValueError: as :func:`make_envs`, which takes ``source`` and ``envs_per_actor``
    """

    def __init__(self, source: EnvSource, n_actors: int, envs_per_actor: int | None) -> None:
        check_at_least("n_actors", n_actors, 1, "use the number of processes that step environments")
        check_at_least("envs_per_actor", 1 if envs_per_actor is None else envs_per_actor, 1, "use 1")
        self.source, self.n_actors = source, whole_number("n_actors", n_actors, "use e.g. 2")
        if envs_per_actor is not None:
            envs_per_actor = whole_number("envs_per_actor", envs_per_actor, "use 1")
        probe = make_envs(source, envs_per_actor)
        self.envs_per_actor = probe.num_envs
        super().__init__(self.n_actors * probe.num_envs, probe.observation_space, probe.action_space)
        probe.close()

    def make(self) -> VecEnv:
        """:return: the environments of an actor"""
        return make_envs(self.source, self.envs_per_actor)

    def reset(self) -> VecEnvObs:
        """:return: an actor's first observations, repeated for all actors, which reset their environments themselves"""
        envs = self.make()
        envs.seed(self._seeds[0])
        obs = envs.reset()
        envs.close()
        self._reset_seeds()
        if isinstance(obs, dict):
            return {key: np.concatenate([part] * self.n_actors) for key, part in obs.items()}
        return np.concatenate([obs] * self.n_actors)

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        if attr_name == "render_mode":
            return [None] * self.num_envs
        return self._out_of_reach()

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [False] * self.num_envs

    def step_async(self, actions: np.ndarray) -> None:
        self._out_of_reach()

    def step_wait(self) -> VecEnvStepReturn:
        self._out_of_reach()

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._out_of_reach()

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        self._out_of_reach()

    def _out_of_reach(self) -> NoReturn:
        raise AttributeError("These environments live in the actors' processes: only actors can step or access them.")
