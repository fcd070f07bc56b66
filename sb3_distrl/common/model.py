"""What users do with a model before and after training: act, save, load, resume."""

import io
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import Env
from stable_baselines3 import DQN, HerReplayBuffer
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.common.arguments import as_arrays, check_spaces, refuse_vector_env
from sb3_distrl.common.checkpoints import (
    is_archive,
    is_checkpoint,
    keeping_replay_buffer,
    save_checkpoint,
    take_checkpoint,
    take_replay_buffer,
    whole_model,
)
from sb3_distrl.common.distribution import ValueDistribution
from sb3_distrl.common.episodes import end_episodes
from sb3_distrl.common.export import GreedyPolicy
from sb3_distrl.common.files import atomic_write, load_object, reading, resolve_path, save_object, with_suffix
from sb3_distrl.common.finite import check_model
from sb3_distrl.common.generators import Seeding, random_state, seeding_of_our_own, set_random_state
from sb3_distrl.common.policies import ValueNetwork, optimizers_of
from sb3_distrl.common.risk import RiskMeasure
from sb3_distrl.functional import Distortion, as_distortion, greedy_actions

SelfModel = TypeVar("SelfModel", bound="ValueModel")


class ValueModel(DQN):
    """
    SB3's DQN with risk measures, files that are never incomplete, exact resuming, and an epsilon-greedy draw for each
    environment of a vectorised step.

    Greedy actions maximise a distortion risk measure of the return (Dabney et al. 2018b, section 4), by default its mean.
    ``risk`` concerns acting: ``predict``, hence ``evaluate_policy``, and the collection of transitions. It can be changed at
    any time, ``model.risk = "cvar:0.25"``, or passed to ``load(path, risk="cvar:0.25")``, and is saved with the model; the
    learnt distributions do not change. SB3's ``policy.predict`` does not know the risk and uses the mean.

    ``bootstrap_risk`` concerns learning: it chooses the next action whose distribution the targets bootstrap from. ``None``
    follows ``risk``, as in the paper, whose policy chooses both (equation 2): the model then learns the distribution of
    returns under that policy, as far as the policy is consistent over time, which measures other than the mean need not be.
    With "mean" it learns the distributions of the policy that maximises the mean, whatever ``risk`` is.

    A saved model and its replay buffer, or a checkpoint, which contains both, can be loaded in another process.
    ``learn(reset_num_timesteps=False)`` then does what the first process would have done had its environment been reset; on a
    CPU to the last bit. That ``learn()`` first restores the state of the random generators, except the environment's: seed it.
    Seeding after saving takes precedence: a seed passed to ``load()``, ``model.set_random_seed()``, and SB3's global
    ``set_random_seed()`` or ``torch.manual_seed()`` between ``load()`` and ``learn()``. Seeding NumPy or Python alone does
    not: it cannot be told from drawing numbers.
    """

    q_net: ValueNetwork  # type: ignore[assignment]
    q_net_target: ValueNetwork  # type: ignore[assignment]
    risk = RiskMeasure[Distortion]()
    bootstrap_risk = RiskMeasure[Distortion | None](optional=True)
    _random_state: dict[str, Any] | None = None  # loaded, for the next learn()
    _seeding: Seeding | None = None  # what was seeded since loading

    @staticmethod
    def select_actions(values: th.Tensor) -> th.Tensor:
        """
        Greedy actions, in ``predict``, collecting and the targets of learning. A subclass may override it, as a static method.

        :param values: what actions maximise, shape [B, A]
        :return: shape [B]
        """
        return greedy_actions(values)

    def random_actions(self, n: int) -> np.ndarray:
        """
        Actions that explore, in warm-up and in place of greedy ones with probability epsilon. A subclass may override it.

        :param n: number of actions
        :return: shape [n]
        """
        return np.array([self.action_space.sample() for _ in range(n)])

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions that maximise ``risk``; unless ``deterministic``, with noise, and epsilon-greedily for each environment.

        :param observation: one observation, or one for each of several environments
        :param state: passed through
        :param episode_start: ignored
        :param deterministic: greedy, without noise
        :return: the actions, and the state
        :raises ValueError: for what the ``reset`` of a Gymnasium environment returns
        """
        observation = as_arrays(observation)
        vectorized = self.policy.is_vectorized_observation(observation)
        some_obs = next(iter(observation.values())) if isinstance(observation, dict) else observation
        n_obs = len(some_obs) if vectorized else 1
        explore = np.zeros(n_obs, dtype=bool) if deterministic else np.random.rand(n_obs) < self.exploration_rate
        actions = self._choose_actions(observation, explore, deterministic)
        return actions if vectorized else actions.squeeze(axis=0), state

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        assert self._last_obs is not None
        if self.num_timesteps < learning_starts:
            actions = self._choose_actions(self._last_obs, np.ones(n_envs, dtype=bool), False)
        else:
            actions, _ = self.predict(self._last_obs)
        return actions, actions

    def _choose_actions(
        self, observation: np.ndarray | dict[str, np.ndarray], explore: np.ndarray, deterministic: bool
    ) -> np.ndarray:
        """Random actions where ``explore``, shape [B], and greedy ones elsewhere."""
        actions = np.empty(len(explore), dtype=np.int64)
        if not explore.all():
            obs, _ = self._to_tensor(observation)
            with th.no_grad():
                actions[:] = self.select_actions(self.q_net.acting_values(obs, deterministic, self.risk)).cpu().numpy()
        if explore.any():
            actions[explore] = self.random_actions(int(explore.sum()))
        return actions

    def _to_tensor(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[PyTorchObs, bool]:
        """:return: observations on the device, shape [B, ...], and whether there were several; starts evaluation mode"""
        self.policy.set_training_mode(False)
        return self.policy.obs_to_tensor(as_arrays(observation))

    def predict_distribution(self, observation: np.ndarray | dict[str, np.ndarray]) -> ValueDistribution:
        """
        The learnt distribution of each action's return (discounted, and, if so, clipped or normalised rewards), without noise.

        Rainbow's atoms are those of its support; QRDQN's are its ``n_quantiles`` quantiles, equally likely; IQN's are its
        ``n_eval_quantiles`` quantiles at the midpoints of as many equal parts of [0, 1].

        :param observation: one observation, or several, as in ``predict``
        :return: values and probabilities of shape [A, Z], or [B, A, Z] for several
        :raises ValueError: for Rainbow with ``distributional=False``, which has no distributions
        """
        obs, vectorized = self._to_tensor(observation)
        with th.no_grad():
            values, probabilities = (part.cpu().numpy() for part in self.q_net.distribution(obs))
        return ValueDistribution(values, probabilities) if vectorized else ValueDistribution(values[0], probabilities[0])

    def q_values(self, observation: np.ndarray | dict[str, np.ndarray], risk: str | Distortion | None = None) -> np.ndarray:
        """
        The value of each action, without noise, which ``predict(deterministic=True)`` maximises.

        It is the mean, or the risk measure, of what :meth:`predict_distribution` returns, except that for risk measures other
        than the mean IQN evaluates the network at ``n_eval_quantiles`` distorted fractions.

        :param observation: one observation, or several, as in ``predict``
        :param risk: risk measure of the return; ``None``: the model's; "mean": expected returns
        :return: in units of discounted (and, if so, clipped or normalised) return, shape [A], or [B, A] for several
        :raises ValueError: for an unknown risk measure, and for all but the mean with Rainbow's ``distributional=False``
        """
        measure = self.risk if risk is None else as_distortion(risk)
        obs, vectorized = self._to_tensor(observation)
        with th.no_grad():
            values = self.q_net.acting_values(obs, risk=measure).cpu().numpy()
        return values if vectorized else values[0]

    def greedy_policy(self) -> GreedyPolicy:
        """
        Export ``predict(deterministic=True)`` of the current model, with its ``risk``, as a torch module.

        :return: the module, with a copy of the network, on its device
        """
        return GreedyPolicy(self.q_net, self.select_actions, self.risk)

    # Saving and loading

    def save(
        self, path: str | Path | io.BufferedIOBase, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """
        Save the model without its replay buffer, with the state of the random generators.

        :param path: file, by default with the suffix .zip; an interruption leaves the old file
        :param exclude: attributes to leave out
        :param include: attributes to save that usually are not
        :raises ValueError: if weights, or the optimizer's state, are not finite
        """
        check_model(self.policy, self._n_updates)
        waiting = self._random_state
        self._random_state = self._state_to_resume() or random_state(self.action_space, self.device)
        try:
            with atomic_write(with_suffix(path, ".zip")) if isinstance(path, (str, Path)) else nullcontext(path) as file:
                super().save(file, exclude, include)
        finally:
            self._random_state = waiting

    @classmethod
    def load(
        cls: type[SelfModel],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfModel:
        """
        Load a model saved by :meth:`save` or :meth:`save_checkpoint`, without its replay buffer; arguments as in SB3.

        :param path: file
        :param kwargs: arguments of the constructor that replace the saved ones; with ``seed``, the saved state of the random
            generators is not restored
        :return: the model
        :raises ValueError: if the file is truncated or damaged, or not a model of this algorithm
        """
        if isinstance(path, (str, Path)):
            path = whole_model(path)
        model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        given = {**(custom_objects or {}), **kwargs}
        if given.get("seed") is not None:
            model._random_state = None
        if "exploration_rate" not in given and any(name.startswith("exploration_") for name in given):
            model.exploration_rate = model.exploration_schedule(model._current_progress_remaining)
        model._seeding = Seeding(model.action_space)
        return model

    def save_replay_buffer(self, path: str | Path | io.BufferedIOBase) -> None:
        """
        Save the replay buffer.

        :param path: file, by default with the suffix .pkl; an interruption leaves the old file
        """
        if not isinstance(path, (str, Path)):
            super().save_replay_buffer(path)
        elif isinstance(self.replay_buffer, PrioritizedReplayBuffer):
            save_object(with_suffix(path, ".pkl"), self.replay_buffer)
        else:
            with atomic_write(with_suffix(path, ".pkl")) as temporary:
                super().save_replay_buffer(temporary)

    def load_replay_buffer(self, path: str | Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer; the next transition starts a new episode.

        :param path: file, of this library or of SB3
        :param truncate_last_traj: ``False`` lets the next transition continue the last episode, in buffers of SB3
        :raises ValueError: if the file is truncated or damaged, or not a replay buffer
        """
        if isinstance(path, (str, Path)):
            path = resolve_path(path, ".pkl")
            if is_archive(path):
                take_replay_buffer(self, load_object(path), path)
                return
        name = path if isinstance(path, Path) else getattr(path, "name", path)
        with open(path, "rb") if isinstance(path, Path) else nullcontext(path) as file:  # SB3 would not close it
            with keeping_replay_buffer(self, name), reading(name):
                super().load_replay_buffer(file, truncate_last_traj)
        if truncate_last_traj:
            end_episodes(self.replay_buffer)  # type: ignore[arg-type]

    def save_checkpoint(self, path: str | Path) -> None:
        """
        Save everything needed to resume training in one file: the model, its replay buffer, and VecNormalize's statistics.

        :param path: file, by default with the suffix .zip; an interruption leaves the old file. ``load()`` accepts it as a
            model, too
        :raises ValueError: if weights, the optimizer's state or statistics are not finite
        """
        save_checkpoint(self, path)

    @classmethod
    def load_checkpoint(cls: type[SelfModel], path: str | Path, env: GymEnv, **kwargs: Any) -> SelfModel:
        """
        Load what :meth:`save_checkpoint` saved, to continue with ``learn(reset_num_timesteps=False)``.

        :param path: file
        :param env: like the environment of the checkpoint; its VecNormalize is given the saved statistics
        :param kwargs: of ``load()``
        :return: the model with its replay buffer
        :raises ValueError: if the file is not a checkpoint, or is truncated or damaged, or if the environment or an argument
            for the replay buffer does not match
        """
        path = resolve_path(path, ".zip")
        if not is_checkpoint(path):
            raise ValueError(f"path={path} is not a checkpoint: use load() and load_replay_buffer() for separate files.")
        model = cls.load(path, env=env, **kwargs)
        take_checkpoint(model, path, kwargs)
        return model

    def _setup_model(self) -> None:
        waiting = self._random_state
        with seeding_of_our_own():
            super()._setup_model()
        self._random_state = waiting  # SB3 seeds here, perhaps with the saved seed, which clears it

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        env = maybe_make_env(env, verbose)  # of an id, in load() and set_env(), too
        refuse_vector_env(env)
        if isinstance(env, (Env, VecEnv)):  # otherwise SB3 raises an error
            check_spaces(env.observation_space, env.action_space)
        return DQN._wrap_env(env, verbose, monitor_wrapper)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all random generators, as in SB3, and set the model's ``seed``; ``None`` changes nothing."""
        super().set_random_seed(seed)
        if seed is not None:
            self.seed, self._random_state = seed, None

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environment, as in SB3, also for a ``HerReplayBuffer``, which computes rewards with it."""
        super().set_env(env, force_reset)
        if isinstance(self.replay_buffer, HerReplayBuffer):
            self.replay_buffer.env = self.env

    def _state_to_resume(self) -> dict[str, Any] | None:
        """:return: the saved state of the random generators, except of those seeded since the model was loaded"""
        if self._random_state is None or self._seeding is None:
            return self._random_state
        return self._seeding.unseeded_since(self._random_state, self.action_space, self.device)

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        state = self._state_to_resume()
        if state is not None and not reset_num_timesteps:
            with seeding_of_our_own():
                set_random_state(state, self.action_space, self.device)
        self._random_state = None
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *(f"policy.{name}" for name in optimizers_of(self.policy))], []

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_seeding"]
