"""Prioritized n-step replay for SB3's off-policy algorithms."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from sb3_distrl.buffers.storage import NEXT, OBS
from sb3_distrl.buffers.transitions import LARGEST, RepairOnError, TransitionBuffer
from sb3_distrl.validation import check_alpha, check_at_least, check_fraction, whole_number, with_env_axis

BETA_REMEDY = "use 0 for no correction, 1 for the full one"


class PrioritizedReplayBufferSamples(NamedTuple):
    """
    A batch of n-step transitions: SB3's ``ReplayBufferSamples`` with more fields.

    ``discounts`` is gamma to the number of summed rewards and ``weights`` are importance-sampling weights, both of shape
    [B, 1]; ``indices``, shape [B], identify the transitions for ``update_priorities``.
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    next_observations: th.Tensor | TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    weights: th.Tensor
    indices: np.ndarray


class PrioritizedReplayBuffer(TransitionBuffer):
    """
    Proportional prioritized replay (Schaul et al. 2016) of n-step transitions (Hessel et al. 2018).

    It works as ``replay_buffer_class`` of any off-policy algorithm of SB3. Algorithms without priorities, such as SB3's DQN
    and sb3-contrib's QRDQN, neither update priorities nor use weights: sampling is uniform, with n-step returns given by
    ``replay_buffer_kwargs=dict(n_steps=..., gamma=...)``. sb3_distrl's algorithms use all of it.

    - Transitions are sampled in proportion to (\\|priority\\| + priority_eps)^alpha, stratified; new ones get the largest
      priority seen. ``alpha=0`` is uniform sampling.
    - n-step returns stay within one environment and one episode. The last n - 1 transitions of an episode, and the newest
      ones, have shorter returns; ``discounts`` is the factor for bootstrapping. A truncated episode bootstraps from its true
      final observation, a terminated one does not.
    - A reset that the buffer is not told of (a second ``learn()``, another environment, a buffer loaded from disk) starts a
      new episode, see :meth:`add` and :meth:`end_episodes`.
    - Memory is allocated when the first transition is added.

    A subclass stores another field with each transition by extending :attr:`row_arrays` and :meth:`row_values`::

        class Curious(PrioritizedReplayBuffer):
            row_arrays = {**PrioritizedReplayBuffer.row_arrays, "intrinsic": RowArray(np.float32)}

            def row_values(self, obs, next_obs, action, reward, done, infos):
                values = super().row_values(obs, next_obs, action, reward, done, infos)
                return {**values, "intrinsic": np.array([info["intrinsic"] for info in infos])}

    ``buffer.intrinsic``, shape [rows, n_envs], is then checked, saved and sent in Ape-X's blocks like the rewards. For a
    sampled batch, ``buffer.intrinsic.reshape(-1)[batch.indices]``, shape [B], has the values of the first of the n steps.

    :param buffer_size: number of transitions over all environments
    :param observation_space: observation space; for Dict spaces see :class:`PrioritizedDictReplayBuffer`
    :param action_space: action space
    :param device: device of samples
    :param n_envs: number of environments
    :param optimize_memory_usage: store each frame of a stack once, and other observations once for both of their
        transitions; samples are equal to the bit. Each episode takes the room of one more observation: if episodes are
        short, the oldest transitions may be dropped before the buffer is full
    :param handle_timeout_termination: bootstrap if an episode is truncated rather than terminated
    :param n_steps: maximum number of rewards in a return, in environment steps
    :param gamma: discount factor per environment step; must be the algorithm's
    :param alpha: how much priorities count, from 0 (uniform sampling) to 1
    :param beta: default exponent of the importance-sampling weights
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
        if isinstance(observation_space, spaces.Dict) != isinstance(self, DictReplayBuffer):
            raise ValueError(
                f"observation_space={observation_space} does not fit {type(self).__name__}: use "
                "PrioritizedDictReplayBuffer for Dict observations and PrioritizedReplayBuffer for all others."
            )
        n_envs = whole_number("n_envs", n_envs, "use the number of environments")
        buffer_size = whole_number("buffer_size", buffer_size, "use a number of transitions")
        n_steps = whole_number("n_steps", n_steps, "use 1 for one-step returns")
        check_at_least("n_envs", n_envs, 1, "use the number of environments")
        check_at_least("buffer_size", buffer_size, n_envs, "use one that holds a transition of each environment")
        check_at_least("n_steps", n_steps, 1, "use 1 for one-step returns")
        check_alpha(alpha, "use 0 for uniform sampling, 1 for sampling in proportion to priority")
        check_fraction("beta", beta, BETA_REMEDY, zero=True)
        check_fraction("gamma", gamma, "use a discount factor such as 0.99", zero=True)
        if not 0 < priority_eps < LARGEST:
            raise ValueError(
                f"priority_eps={priority_eps} must be positive and finite, so that each transition can be drawn: use 1e-6."
            )
        # SB3's constructors of replay buffers would allocate
        super(ReplayBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = buffer_size // n_envs  # rows, as in SB3
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps = n_steps
        self.gamma = gamma
        self.alpha = alpha
        self.beta = beta
        self.priority_eps = priority_eps
        self.reset()

    # Sampling

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None, beta: float | None = None
    ) -> PrioritizedReplayBufferSamples:
        """
        Draw a batch in proportion to priority^alpha, stratified (Schaul et al. 2016, section 3.3 and appendix B.2.1).

        The weight of transition i is (N P(i))^-beta, divided by the largest of the batch (section 3.4).

        :param batch_size: B, the number of transitions
        :param env: normalizes observations, and each reward before the n-step sum
        :param beta: exponent of the importance-sampling weights; by default that of the constructor
        :return: the batch, on the buffer's device
        :raises ValueError: if the buffer is empty, or if beta is out of range
        """
        beta = self.beta if beta is None else beta
        if not (isinstance(beta, float) and 0 <= beta <= 1):
            check_fraction("beta", beta, BETA_REMEDY, zero=True)
        indices = masses = np.empty(0, dtype=np.int64)
        if self.stored.allocated:
            indices, masses = self.tree.draw(np.random.random_sample(batch_size))
        if not len(indices):
            raise ValueError(f"Cannot sample batch_size={batch_size} transitions from an empty buffer: add some first.")
        return self.transitions(indices, (masses / masses.min()) ** -beta, env)

    def transitions(
        self, indices: np.ndarray, weights: np.ndarray | None = None, env: VecNormalize | None = None
    ) -> PrioritizedReplayBufferSamples:
        """
        Sum rewards over up to n steps within environment and episode (Sutton 1988; Rainbow, equation for R_t^(n)).

        At the end of an episode and at the newest transition there are fewer steps.

        :param indices: flat indices row * n_envs + environment, shape [B]
        :param weights: importance-sampling weights, shape [B]; by default 1
        :param env: as in :meth:`sample`
        :return: the batch, on the buffer's device
        """
        rows, envs = np.divmod(indices, self.n_envs)
        steps = np.arange(self.n_steps)
        window = (rows[:, None] + steps) % self.buffer_size  # [B, n]
        columns = envs[:, None]
        ends = self._dones[window, columns] | self.timeouts[window, columns]  # [B, n]
        ends |= window == (self._added[columns] - 1) % self.buffer_size  # the newest transition
        ends[:, -1] = True
        last = ends.argmax(axis=1)  # [B], the first end
        summed = steps <= last[:, None]  # [B, n]
        rewards = self._normalize_reward(self.rewards[window, columns], env)
        last_rows = window[np.arange(len(indices)), last]
        numbers = dict(
            dones=self._dones[last_rows, envs] & ~self.timeouts[last_rows, envs],
            rewards=(rewards * self.gamma**steps * summed).sum(axis=1),
            discounts=self.gamma ** (last + 1.0),
            weights=np.ones(len(indices)) if weights is None else weights,
        )
        batch = dict(
            observations=self._normalize_obs(self.stored.take(rows, envs, OBS), env),
            actions=self.actions[rows, envs],
            next_observations=self._normalize_obs(self.stored.take(last_rows, envs, NEXT), env),
            **{name: values.astype(np.float32)[:, None] for name, values in numbers.items()},
        )
        return PrioritizedReplayBufferSamples(**to_device(batch, self.device), indices=indices)

    def update_priorities(self, indices: np.ndarray, priorities: np.ndarray | th.Tensor) -> None:
        """
        Set the priorities of sampled transitions to ``|priority| + priority_eps``.

        :param indices: ``indices`` of a sample, shape [B]
        :param priorities: e.g. temporal-difference errors, shape [B] or [B, 1]
        :raises ValueError: if a priority is not finite, if there is not one for each index, or if an index is out of range
        """
        if isinstance(priorities, th.Tensor):
            priorities = priorities.detach().cpu()
            priorities = (priorities.float() if priorities.element_size() < 4 else priorities).numpy()  # numpy has no bfloat16
        indices, priorities = self._checked_indices(np.asarray(indices)), np.asarray(priorities)
        if priorities.shape != indices.shape:
            priorities = with_env_axis("priorities", priorities, len(indices), (), "give one for each index")
        masses = self._masses_of(priorities)
        if not self.stored.allocated:
            return
        with RepairOnError(self._repair, self._all_envs, 0):
            # A mass of zero stays zero: since sampling, the transition was dropped or the buffer was reset
            self.tree.update(indices, masses, only_drawable=True)

    def _checked_indices(self, indices: np.ndarray) -> np.ndarray:
        """:return: indices as int64, if they are whole numbers of shape [B] in range"""
        if indices.ndim != 1 or (indices.dtype.kind not in "iu" and len(indices)):
            raise ValueError(
                f"indices of shape {indices.shape} and type {indices.dtype} should be whole numbers of shape [B]: use those "
                "of a sample."
            )
        slots = self.buffer_size * self.n_envs
        slot_numbers = indices.astype(np.int64, copy=False)
        if slot_numbers.view(np.uint64).max(initial=0) >= slots:  # negative ones become the largest
            wrong = indices[(indices < 0) | (indices >= slots)][0]
            raise ValueError(f"indices={wrong} is not one of the buffer's {slots} slots: use those of a sample.")
        return slot_numbers

    # Checking

    def check_valid(self) -> None:
        """
        Check that the buffer is consistent; takes seconds for a large one.

        :raises ValueError: if a sum is wrong, if the transitions that can be drawn are not those stored, or if an observation
            within an episode is not the previous next observation
        """
        if not self.stored.allocated:
            return
        self.tree.check_valid()
        self.stored.check_valid()
        masses = self._masses()
        if masses.max() > self.max_priority**self.alpha * (1 + 1e-9):  # powers of arrays and of numbers may differ a bit
            raise ValueError("The replay buffer is broken: a priority is larger than the largest one seen.")
        for env in range(self.n_envs):
            live = np.arange(max(self._oldest[env], self._added[env] - self.buffer_size), self._added[env]) % self.buffer_size
            drawable = np.flatnonzero(masses[:, env])
            if not (np.array_equal(np.sort(live), drawable) and self.stored.holds(live, np.full(len(live), env)).all()):
                raise ValueError(f"The replay buffer is broken: environment {env} draws other transitions than it stores.")
            goes_on = ~(self._dones[live[:-1], env] | self.timeouts[live[:-1], env])
            if not self.stored.follow(live[:-1][goes_on], live[1:][goes_on], env).all():
                raise ValueError(f"The replay buffer is broken: an episode of environment {env} has a gap.")


class PrioritizedDictReplayBuffer(PrioritizedReplayBuffer, DictReplayBuffer):  # type: ignore[misc, override]
    """:class:`PrioritizedReplayBuffer` for Dict observations, with the same arguments."""


def to_device(arrays: Any, device: th.device) -> Any:
    """Copy an array, or a dict of arrays, to a device; to CUDA asynchronously, from pinned memory."""
    if isinstance(arrays, dict):
        return {key: to_device(array, device) for key, array in arrays.items()}
    tensor = th.from_numpy(arrays)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
