"""Prioritized n-step replay for SB3's off-policy algorithms."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from sb3_distrl.buffers.sum_tree import SumTree
from sb3_distrl.checks import check_at_least, check_finite, check_fraction

Obs = np.ndarray | dict[str, np.ndarray]

ENVIRONMENT_REMEDY = "mend the environment, or replace what is not finite in a wrapper"


class PrioritizedReplayBufferSamples(NamedTuple):
    """
    A batch of n-step transitions; SB3's ``ReplayBufferSamples`` with two more fields.

    ``discounts`` is gamma to the number of rewards that were summed, ``weights`` are the importance-sampling weights,
    both of shape [B, 1]; ``indices``, shape [B], names the transitions to ``update_priorities``.
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    next_observations: th.Tensor | TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    weights: th.Tensor
    indices: np.ndarray


class PrioritizedReplayBuffer(ReplayBuffer):
    """
    Proportional prioritized replay (Schaul et al. 2016) of n-step transitions (Hessel et al. 2018).

    It stands in wherever SB3 takes a ``replay_buffer_class``. Algorithms that know nothing of priorities, such as SB3's
    DQN and sb3-contrib's QRDQN, run with it, but neither update priorities nor use the weights: every transition keeps
    the priority it came with, and sampling is uniform. Of this buffer they get the n-step returns
    (``replay_buffer_kwargs=dict(n_steps=..., gamma=...)``) that end where an episode does. sb3_distrl's QRDQN makes full
    use of it.

    - Transitions are sampled in proportion to (\\|priority\\| + priority_eps)^alpha, stratified; new ones come with the
      largest priority seen. ``alpha=0`` is uniform sampling.
    - n-step returns stay in one environment and one episode. The last n - 1 transitions of an episode, and the newest
      ones, have shorter returns; ``discounts`` says by how much to bootstrap. A truncated episode bootstraps from its true
      final observation, a terminated one does not.
    - A reset behind the buffer's back (a second ``learn()``, another environment, a buffer loaded from disk) starts a new
      episode, see :meth:`add` and :meth:`end_episodes`.

    :param buffer_size: number of transitions over all environments
    :param observation_space: observation space, but Dict (see :class:`PrioritizedDictReplayBuffer`)
    :param action_space: action space
    :param device: where samples are put
    :param n_envs: number of environments
    :param optimize_memory_usage: not supported: raises a ValueError
    :param handle_timeout_termination: bootstrap where an episode is truncated rather than terminated
    :param n_steps: largest number of rewards in a return, in environment steps
    :param gamma: discount factor per environment step; must be the algorithm's
    :param alpha: how much priorities count, 0 (not at all) to 1
    :param beta: exponent of the importance-sampling weights where ``sample`` is not given one
    :param priority_eps: added to each priority, so that none is zero
    :raises ValueError: for arguments out of range
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.5,
        beta: float = 0.4,
        priority_eps: float = 1e-6,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage=True is not supported by this buffer: set it to False.")
        if isinstance(observation_space, spaces.Dict) != isinstance(self, DictReplayBuffer):
            raise ValueError(
                f"observation_space={observation_space} does not fit {type(self).__name__}: use "
                "PrioritizedDictReplayBuffer for Dict observations and PrioritizedReplayBuffer for all others."
            )
        check_at_least("buffer_size", buffer_size, n_envs, "use one that holds a transition of each environment")
        check_at_least("n_steps", n_steps, 1, "use 1 for one-step returns")
        check_at_least("alpha", alpha, 0, "use 0 for uniform sampling, 1 for sampling in proportion to priority")
        check_at_least("beta", beta, 0, "use 0 for no correction, 1 for the full one")
        check_fraction("gamma", gamma, "use a discount factor such as 0.99", zero=True)
        if not priority_eps > 0:
            raise ValueError(f"priority_eps={priority_eps} must be positive, so that each transition can be drawn: use 1e-6.")
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs=n_envs,
            optimize_memory_usage=False,
            handle_timeout_termination=handle_timeout_termination,
        )
        self.n_steps = n_steps
        self.gamma = gamma
        self.alpha = alpha
        self.beta = beta
        self.priority_eps = priority_eps
        self.reset()

    def reset(self) -> None:
        """Forget all transitions and priorities."""
        super().reset()
        self.tree = SumTree(self.buffer_size * self.n_envs)
        self.max_priority = 1.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Whoever loads the buffer goes on with another environment, or with the same one at another state
        self.__dict__.update(state)
        self.end_episodes()

    # Adding

    def add(  # type: ignore[override]
        self, obs: Obs, next_obs: Obs, action: np.ndarray, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """
        Add one transition of each environment, with the largest priority seen so far.

        An observation that is not the one which the environment's last transition led to starts a new episode: the
        environment was reset between (see also :meth:`end_episodes`).

        :param obs: observations s_t of all environments, shape [n_envs, ...]
        :param next_obs: s_{t+1}; where the episode ended, its true final observation, shape [n_envs, ...]
        :param action: a_t, shape [n_envs, ...]
        :param reward: r_{t+1}, shape [n_envs]
        :param done: whether the episode ended there, terminated or truncated, shape [n_envs]
        :param infos: of each environment; ``TimeLimit.truncated`` tells a truncation from a termination
        :raises ValueError: if a reward or an observation is not finite
        """
        check_finite("reward", np.asarray(reward), ENVIRONMENT_REMEDY)
        for name, value in (("obs", obs), ("next_obs", next_obs)):
            arrays = {f"{name}[{key!r}]": array for key, array in value.items()} if isinstance(value, dict) else {name: value}
            for part, array in arrays.items():
                check_finite(part, np.asarray(array), ENVIRONMENT_REMEDY)
        self._end_interrupted(~self._continues(obs))
        slots = self.pos * self.n_envs + np.arange(self.n_envs)
        self.timeouts[self.pos] = 0  # SB3 leaves the overwritten ones where it does not handle timeouts
        super().add(obs, next_obs, action, reward, done, infos)  # type: ignore[arg-type]
        self.tree.update(slots, self.max_priority**self.alpha)

    def _continues(self, obs: Obs) -> np.ndarray:
        """
        :param obs: incoming observations, shape [n_envs, ...]
        :return: whether they equal the last transition's next observations, shape [n_envs]
        """
        stored: Any = self.next_observations
        pairs = [(stored[key], obs[key]) for key in stored] if isinstance(obs, dict) else [(stored, obs)]
        same = np.ones(self.n_envs, dtype=bool)
        for next_observations, new in pairs:
            last = next_observations[self.pos - 1]
            new = np.asarray(new).astype(last.dtype, copy=False).reshape(last.shape)
            same &= (last == new).reshape(self.n_envs, -1).all(axis=1)
        return same

    def end_episodes(self) -> None:
        """
        Say that all environments were, or will be, reset: the next transition of each starts a new episode.

        The last stored transitions then count as truncated, so that no n-step return reaches past them.
        """
        self._end_interrupted(np.ones(self.n_envs, dtype=bool))

    def _end_interrupted(self, interrupted: np.ndarray) -> None:
        """
        Mark the last transitions as truncated where the stream was interrupted and they are not marked done already.

        :param interrupted: shape [n_envs]
        """
        last = self.pos - 1  # -1 is the last row, of a full buffer; in an empty one nobody reads it before it is written
        self.timeouts[last][interrupted & (self.dones[last] == 0)] = 1

    # Sampling

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None, beta: float | None = None
    ) -> PrioritizedReplayBufferSamples:
        """
        Draw a batch in proportion to priority^alpha, stratified (Schaul et al. 2016, section 3.3 and appendix B.2.1).

        The weight of transition i is (N P(i))^-beta, divided by the largest of the batch (section 3.4).

        :param batch_size: B, the number of transitions to draw
        :param env: normalizes observations, and each reward before the n-step sum
        :param beta: exponent of the importance-sampling weights; ``None`` takes the one of the constructor
        :return: the batch, on the buffer's device
        :raises ValueError: if the buffer is empty
        """
        if self.size() == 0:
            raise ValueError(f"Cannot sample batch_size={batch_size} transitions from an empty buffer: add some first.")
        strata = (np.arange(batch_size) + np.random.random_sample(batch_size)) / batch_size
        indices = self.tree.find(strata * self.tree.total)
        masses = self.tree[indices]
        weights = (masses / masses.min()) ** -(self.beta if beta is None else beta)
        return self._n_step_samples(indices, weights, env)

    def update_priorities(self, indices: np.ndarray, priorities: np.ndarray | th.Tensor) -> None:
        """
        Set the priorities of sampled transitions to |priority| + priority_eps.

        :param indices: ``indices`` of a sample, shape [B]
        :param priorities: e.g. temporal-difference errors, shape [B] or [B, 1]
        :raises ValueError: if a priority is not finite
        """
        if isinstance(priorities, th.Tensor):
            priorities = priorities.detach().cpu().numpy()
        priorities = np.abs(np.asarray(priorities, dtype=np.float64).reshape(-1)) + self.priority_eps
        check_finite("priorities", priorities, "lower the learning rate or clip the rewards")
        self.max_priority = max(self.max_priority, float(priorities.max()))
        indices = np.asarray(indices)
        live = self.tree[indices] > 0  # the buffer may have been reset since the sample
        self.tree.update(indices[live], priorities[live] ** self.alpha)

    def _n_step_samples(
        self, indices: np.ndarray, weights: np.ndarray, env: VecNormalize | None
    ) -> PrioritizedReplayBufferSamples:
        """
        Follow each transition for up to n steps within its environment and episode (Sutton 1988; Rainbow, equation for
        R_t^(n)): fewer at the end of an episode and at the newest transition, where the return then bootstraps.

        :param indices: flat indices row * n_envs + environment, shape [B]
        :param weights: shape [B]
        :param env: see :meth:`sample`
        :return: the batch
        """
        rows, envs = np.divmod(indices, self.n_envs)
        steps = np.arange(self.n_steps)
        window = (rows[:, None] + steps) % self.buffer_size  # [B, n]
        columns = envs[:, None]
        ends = (self.dones[window, columns] > 0) | (self.timeouts[window, columns] > 0)  # [B, n]
        ends |= window == (self.pos - 1) % self.buffer_size  # nothing is known past the newest transition
        ends[:, -1] = True
        last = ends.argmax(axis=1)  # [B], the first end
        summed = steps <= last[:, None]  # [B, n]
        rewards = self._normalize_reward(self.rewards[window, columns], env)
        returns = (rewards * self.gamma**steps * summed).sum(axis=1)

        last_rows = window[np.arange(len(indices)), last]
        return PrioritizedReplayBufferSamples(
            observations=self._take(self.observations, rows, envs, env),
            actions=self.to_torch(self.actions[rows, envs]),
            next_observations=self._take(self.next_observations, last_rows, envs, env),
            dones=self._column(self.dones[last_rows, envs] * (1 - self.timeouts[last_rows, envs])),
            rewards=self._column(returns),
            discounts=self._column(self.gamma ** (last + 1.0)),
            weights=self._column(weights),
            indices=indices,
        )

    def _take(self, storage: Obs, rows: np.ndarray, envs: np.ndarray, env: VecNormalize | None) -> th.Tensor | TensorDict:
        """
        :param storage: ``observations`` or ``next_observations``
        :param rows: shape [B]
        :param envs: shape [B]
        :param env: normalizes
        :return: shape [B, ...], for each key
        """
        if isinstance(storage, dict):
            taken = self._normalize_obs({key: array[rows, envs] for key, array in storage.items()}, env)
            assert isinstance(taken, dict)
            return {key: self.to_torch(array, copy=False) for key, array in taken.items()}
        return self.to_torch(self._normalize_obs(storage[rows, envs], env), copy=False)  # type: ignore[arg-type]

    def _column(self, values: np.ndarray) -> th.Tensor:
        """
        :param values: shape [B]
        :return: float32 on the device, shape [B, 1]
        """
        return self.to_torch(values.astype(np.float32)[:, None], copy=False)


class PrioritizedDictReplayBuffer(PrioritizedReplayBuffer, DictReplayBuffer):  # type: ignore[misc]
    """:class:`PrioritizedReplayBuffer` for Dict observations; see there for all arguments."""
