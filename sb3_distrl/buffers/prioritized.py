"""Prioritized n-step replay for SB3's off-policy algorithms."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from sb3_distrl.buffers.observations import REMEDY, Obs, Observations, Storages, nbytes
from sb3_distrl.buffers.samples import PrioritizedReplayBufferSamples, to_device
from sb3_distrl.buffers.storage import NEXT, OBS
from sb3_distrl.buffers.sum_tree import SumTree
from sb3_distrl.checks import check_at_least, check_finite, check_fraction, check_memory

LARGEST = float(np.finfo(np.float32).max)
FORMAT = 1  # of a saved buffer; another one cannot be loaded
NOTHING = np.empty(0, dtype=np.int64), np.empty(0)
ROW_ARRAYS = ("actions", "rewards", "_dones", "timeouts")


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
    - No memory is taken before the first transition is added.

    :param buffer_size: number of transitions over all environments
    :param observation_space: observation space, but Dict (see :class:`PrioritizedDictReplayBuffer`)
    :param action_space: action space
    :param device: where samples are put
    :param n_envs: number of environments
    :param optimize_memory_usage: keep each frame of a stack once, and what is no stack once for the two transitions that it
        belongs to; what comes out is the same to the bit. Each episode costs the room of one more observation: where episodes
        are short, the oldest transitions may be lost before the buffer is full, and are then not sampled any more
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

    def reset(self) -> None:
        """Forget all transitions and priorities, and give their memory back."""
        super().reset()
        self.stored = Observations(self.observation_space, self.buffer_size, self.n_envs, self.optimize_memory_usage)
        self.max_priority = 1.0
        self._changing = False  # inside of what must not be left half done
        self._added = 0  # rows, since the first
        self._oldest = np.zeros(self.n_envs, dtype=np.int64)  # the row of each environment's oldest transition, counted alike

    # Memory

    def check_memory(self) -> None:
        """
        :raises ValueError: if the buffer is not allocated yet and there is less memory than it needs, as far as one can tell
            before the first observations
        """
        if not self.stored.allocated:
            self._check_memory(self.stored.storages_for())

    def _check_memory(self, storages: Storages) -> None:
        observation_bytes, fixed_bytes = (nbytes(storages, rows) for rows in (self.buffer_size, 0))
        slots = self.buffer_size * self.n_envs
        slot_bytes = self.action_dim * np.dtype(self.action_space.dtype).itemsize + 4 + 2 + 8  # and reward, flags, mass
        remedy = "" if self.optimize_memory_usage else ", or optimize_memory_usage=True"
        check_memory("buffer_size", slots, observation_bytes + slots * slot_bytes, fixed_bytes, remedy)

    def _allocate_rows(self) -> None:
        shape = (self.buffer_size, self.n_envs)
        self.actions = np.zeros((*shape, self.action_dim), dtype=self._maybe_cast_dtype(self.action_space.dtype))
        self.rewards = np.zeros(shape, dtype=np.float32)
        self._dones = np.zeros(shape, dtype=bool)
        self.timeouts = np.zeros(shape, dtype=bool)

    @property
    def dones(self) -> np.ndarray:  # type: ignore[override]
        """
        Whether the episode ended there, terminated or truncated, shape [rows, n_envs].

        It is a copy: SB3's learn() makes terminations of the last transitions where memory is optimised (its issue 46).
        """
        return self._dones.copy()

    @property
    def observations(self) -> Any:  # type: ignore[override]
        """SB3's array, shape [rows, n_envs, ...], or a dict of them; not with ``optimize_memory_usage``."""
        return self.stored.arrays(OBS)

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        """Like :attr:`observations`."""
        return self.stored.arrays(NEXT)

    def __getstate__(self) -> dict[str, Any]:
        self._recover()
        filled = {name: vars(self)[name][: self.size()] for name in ROW_ARRAYS if self.stored.allocated}
        return {"format": FORMAT, **vars(self), **filled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.pop("format", None) != FORMAT:
            raise ValueError("The buffer was saved by another version of sb3_distrl: use that version, or fill a new buffer.")
        vars(self).update(state)
        if self.stored.allocated:
            self._allocate_rows()
            for name in ROW_ARRAYS:
                vars(self)[name][: self.size()] = state[name]
            # Whoever loads the buffer goes on with another environment, or with the same one at another state
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
        :raises ValueError: if a reward or an observation is not finite, or if the buffer does not fit into memory
        """
        check_finite("reward", np.asarray(reward), REMEDY)
        obs, next_obs = self.stored.parts("obs", obs), self.stored.parts("next_obs", next_obs)
        if not self.stored.allocated:
            storages = self.stored.storages_for(obs, next_obs)
            self._check_memory(storages)
            self._allocate_rows()
            self.tree = SumTree(self.buffer_size * self.n_envs)
            self.stored.allocate(storages)
        obs, next_obs = self.stored.arranged(obs), self.stored.arranged(next_obs)
        self._recover()
        self._changing = True
        slots = self.pos * self.n_envs + np.arange(self.n_envs)
        if self.full:
            self.tree.update(slots, np.zeros(self.n_envs))
        continues = self.stored.continues(obs)
        self._end_interrupted(~continues)

        truncated = [info.get("TimeLimit.truncated", False) for info in infos] if self.handle_timeout_termination else False
        self.actions[self.pos] = np.asarray(action).reshape(self.n_envs, self.action_dim)
        self.rewards[self.pos] = reward
        self._dones[self.pos] = done
        self.timeouts[self.pos] = truncated
        self.stored.add(self.pos, obs, next_obs, continues)
        self._added += 1
        self.pos, self.full = self._added % self.buffer_size, self._added >= self.buffer_size
        self.tree.update(slots, np.full(self.n_envs, self.max_priority**self.alpha))
        if self.optimize_memory_usage:
            self._evict()
        self._changing = False

    def _recover(self) -> None:
        """Make good what an exception, such as Ctrl-C, has left half done: a transition may be lost, none is wrong."""
        if not self._changing:
            return
        self.pos, self.full = self._added % self.buffer_size, self._added >= self.buffer_size
        self.stored.recover()
        masses = self._masses()
        masses[self.pos] = 0  # the one that was being overwritten
        np.maximum(self._oldest, self._added + 1 - self.buffer_size, out=self._oldest)
        newest = masses[self.pos - 1]  # they may be there, without a mass yet
        newest[(newest == 0) & (self._oldest < self._added)] = self.max_priority**self.alpha
        self.tree.update(np.arange(masses.size), masses.flatten())
        self._evict()
        self._end_interrupted(np.ones(self.n_envs, dtype=bool))
        self._changing = False

    def end_episodes(self) -> None:
        """
        Say that all environments were, or will be, reset: the next transition of each starts a new episode.

        The last stored transitions then count as truncated, so that no n-step return reaches past them.
        """
        if self.stored.allocated:
            self._recover()
            self._end_interrupted(np.ones(self.n_envs, dtype=bool))

    def _end_interrupted(self, interrupted: np.ndarray) -> None:
        """
        Mark the last transitions as truncated where the stream was interrupted and they are not marked done already.

        :param interrupted: shape [n_envs]
        """
        last = self.pos - 1  # -1 is the last row, of a full buffer; in an empty one nobody reads it before it is written
        self.timeouts[last][interrupted & ~self._dones[last]] = True

    def _evict(self) -> None:
        """Take the mass of the oldest transitions whose frames were overwritten."""
        np.maximum(self._oldest, self._added - self.buffer_size, out=self._oldest)
        envs = np.flatnonzero(self._oldest < self._added)
        while len(envs):
            rows = self._oldest[envs] % self.buffer_size
            lost = ~self.stored.hold(rows, envs)
            if not lost.any():
                break
            rows, envs = rows[lost], envs[lost]
            self.tree.update(rows * self.n_envs + envs, np.zeros(len(envs)))
            self._oldest[envs] += 1
            envs = envs[self._oldest[envs] < self._added]

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
        self._recover()
        indices, masses = self.tree.draw(np.random.random_sample(batch_size)) if self.stored.allocated else NOTHING
        if not len(indices):
            raise ValueError(f"Cannot sample batch_size={batch_size} transitions from an empty buffer: add some first.")
        weights = (masses / masses.min()) ** -(self.beta if beta is None else beta)
        return self._n_step_samples(indices, weights, env)

    def update_priorities(self, indices: np.ndarray, priorities: np.ndarray | th.Tensor) -> None:
        """
        Set the priorities of sampled transitions to ``|priority| + priority_eps``.

        :param indices: ``indices`` of a sample, shape [B]
        :param priorities: e.g. temporal-difference errors, shape [B] or [B, 1]
        :raises ValueError: if a priority is not finite
        """
        if isinstance(priorities, th.Tensor):
            priorities = priorities.detach().cpu().numpy()
        priorities = np.abs(np.asarray(priorities, dtype=np.float64).reshape(-1)) + self.priority_eps
        largest = float(priorities.max(initial=0.0))  # which is not a number, if one of them is not
        if not largest <= LARGEST:
            check_finite("priorities", priorities, "lower the learning rate or clip the rewards")
        self.max_priority = max(self.max_priority, largest)
        if not self.stored.allocated:
            return
        self._recover()
        self._changing = True
        # What has no mass was lost since the sample, or the buffer was reset
        self.tree.update_drawable(np.asarray(indices), priorities**self.alpha)
        self._changing = False

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
        ends = self._dones[window, columns] | self.timeouts[window, columns]  # [B, n]
        ends |= window == (self.pos - 1) % self.buffer_size  # nothing is known past the newest transition
        ends[:, -1] = True
        last = ends.argmax(axis=1)  # [B], the first end
        summed = steps <= last[:, None]  # [B, n]
        rewards = self._normalize_reward(self.rewards[window, columns], env)
        returns = (rewards * self.gamma**steps * summed).sum(axis=1)

        last_rows = window[np.arange(len(indices)), last]
        return PrioritizedReplayBufferSamples(
            observations=self._take(OBS, rows, envs, env),
            actions=to_device(self.actions[rows, envs], self.device),
            next_observations=self._take(NEXT, last_rows, envs, env),
            dones=self._column(self._dones[last_rows, envs] & ~self.timeouts[last_rows, envs]),
            rewards=self._column(returns),
            discounts=self._column(self.gamma ** (last + 1.0)),
            weights=self._column(weights),
            indices=indices,
        )

    def _take(self, which: int, rows: np.ndarray, envs: np.ndarray, env: VecNormalize | None) -> th.Tensor | TensorDict:
        """
        :param which: ``OBS`` or ``NEXT``
        :param rows: shape [B]
        :param envs: shape [B]
        :param env: normalizes
        :return: shape [B, ...], for each key
        """
        taken = self._normalize_obs(self.stored.take(rows, envs, which), env)
        if isinstance(taken, dict):
            return {key: to_device(array, self.device) for key, array in taken.items()}
        return to_device(taken, self.device)

    def _column(self, values: np.ndarray) -> th.Tensor:
        """
        :param values: shape [B]
        :return: float32 on the device, shape [B, 1]
        """
        return to_device(values.astype(np.float32)[:, None], self.device)

    # Checking

    def _masses(self) -> np.ndarray:
        """:return: a copy of all masses, shape [rows, n_envs]"""
        return self.tree[np.arange(self.buffer_size * self.n_envs)].reshape(self.buffer_size, self.n_envs)

    def check_valid(self) -> None:
        """
        Check what must always hold, for tests and in case of doubt; takes seconds for a large buffer.

        :raises ValueError: if sums are not those of their masses; if a transition can be drawn that is not there, or cannot
            be though it is; or if an episode goes on with another observation than the one it had come to
        """
        if not self.stored.allocated:
            return
        self._recover()
        self.tree.check_valid()
        self.stored.check_valid()
        masses = self._masses()
        if masses.max() > self.max_priority**self.alpha * (1 + 1e-9):  # powers of arrays and of numbers may differ a bit
            raise ValueError("The replay buffer is broken: a priority is larger than the largest one seen.")
        for env in range(self.n_envs):
            live = np.arange(max(self._oldest[env], self._added - self.buffer_size), self._added) % self.buffer_size
            drawable = np.flatnonzero(masses[:, env])
            if not (np.array_equal(np.sort(live), drawable) and self.stored.hold(live, np.full(len(live), env)).all()):
                raise ValueError(f"The replay buffer is broken: environment {env} has transitions to draw that are not there.")
            goes_on = ~(self._dones[live[:-1], env] | self.timeouts[live[:-1], env])
            if not self.stored.follow(live[:-1][goes_on], live[1:][goes_on], env).all():
                raise ValueError(f"The replay buffer is broken: an episode of environment {env} has a gap.")


class PrioritizedDictReplayBuffer(PrioritizedReplayBuffer, DictReplayBuffer):  # type: ignore[misc, override]
    """:class:`PrioritizedReplayBuffer` for Dict observations; see there for all arguments."""
