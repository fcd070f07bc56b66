"""How transitions are added to a replay buffer: those of each environment in a ring of its own."""

import warnings
from typing import Any

import numpy as np

from sb3_distrl.buffers.blocks import Block
from sb3_distrl.buffers.observations import REMEDY, Obs
from sb3_distrl.buffers.rows import RowBuffer
from sb3_distrl.validation import check_array, check_at_least, check_finite, check_shape, with_env_axis

# Names of the arguments of add(), by the array that they are stored in
ARGUMENTS = {"actions": "action", "rewards": "reward", "_dones": "done", "timeouts": "infos"}
ONE_FOR_EACH = "give one for each environment"
LARGEST = float(np.finfo(np.float32).max)


class TransitionBuffer(RowBuffer):
    """
    The transitions of :class:`~sb3_distrl.buffers.PrioritizedReplayBuffer`, where the arguments are described, and the masses
    that they are drawn by.

    Each environment has a ring of ``buffer_size // n_envs`` rows, which it may fill at its own pace (:meth:`add_block`).
    """

    alpha: float
    priority_eps: float

    def reset(self) -> None:
        """Forget all transitions and priorities, and give their memory back."""
        super().reset()
        self.max_priority = 1.0
        self._changing: tuple[np.ndarray, int] | None = None  # inside of what must not be left half done: whose rows, how many
        self._oldest = np.zeros(self.n_envs, dtype=np.int64)  # the row of each environment's oldest transition, counted alike
        self._all_envs = np.arange(self.n_envs)

    def __getstate__(self) -> dict[str, Any]:
        self._recover()
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
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
        :raises ValueError: if something has the wrong shape or is not finite, or if the buffer does not fit into memory.
            Nothing is reshaped, with two exceptions: single numbers may come as [n_envs] or [n_envs, 1], and a single
            environment may leave out the first axis
        """
        given = self.row_values(obs, next_obs, action, reward, done, infos)
        values = {name: self._checked(name, value) for name, value in given.items()}
        obs, next_obs = self.stored.parts("obs", obs), self.stored.parts("next_obs", next_obs)
        if not self.stored.allocated:
            self._allocate(self.stored.storages_for(obs, next_obs))
        obs, next_obs = self.stored.prepared(obs), self.stored.prepared(next_obs)
        envs = self._all_envs
        (rows,) = self._begin_adding(envs, 1)
        continues = self.stored.continues(envs, obs)
        self._end_interrupted(envs[~continues])

        for name, value in values.items():
            vars(self)[name][rows, envs] = value
        self.stored.add(rows, envs, obs, next_obs, continues)
        self._finish_adding(envs, rows[None], self._masses_of(None, self.n_envs))

    def _checked(self, name: str, values: Any) -> np.ndarray:
        """
        :param name: name of the array that the values are stored in
        :param values: one for each environment
        :return: the same, shape [n_envs, ...]
        :raises ValueError: if they have the wrong shape or are not finite
        """
        values, shape = np.asarray(values), vars(self)[name].shape[1:]
        if values.dtype.kind == "f" or values.shape != shape:  # rare, and add() is called at every step
            label = ARGUMENTS.get(name, name)
            check_finite(label, values, REMEDY)
            values = with_env_axis(label, values, self.n_envs, shape[1:], ONE_FOR_EACH)
        return values

    def row_values(
        self, obs: Obs, next_obs: Obs, action: np.ndarray, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """
        What to store for one transition of each environment, besides observations. Subclasses that extend
        :attr:`row_arrays` override it; the arguments are those of :meth:`add`.

        :param obs: observations s_t
        :param next_obs: s_{t+1}
        :param action: a_t
        :param reward: r_{t+1}
        :param done: whether the episode ended there
        :param infos: infos of each environment
        :return: values of "actions" and of each name in ``row_arrays``, shape [n_envs, ...]
        """
        if isinstance(infos, dict):
            raise ValueError("infos is a dict and should be a list: give one dict for each environment.")
        timeouts = [False] * self.n_envs
        if self.handle_timeout_termination:
            timeouts = [info.get("TimeLimit.truncated", False) for info in infos]
        actions = np.asarray(action)
        if actions.shape != (self.n_envs, self.action_dim):  # SB3 stores them flattened
            shape: tuple[int, ...] = self.action_space.shape  # type: ignore[assignment]
            actions = with_env_axis("action", actions, self.n_envs, shape, ONE_FOR_EACH)
            actions = actions.reshape(self.n_envs, self.action_dim)
        return {"actions": actions, "rewards": reward, "_dones": done, "timeouts": timeouts}

    def start_block(self) -> None:
        """Forget all transitions, and keep those that come, of ``buffer_size`` at the most, for :meth:`block`."""
        self.reset()
        self.stored.for_blocks = True

    def block(self, priorities: np.ndarray | None = None) -> Block:
        """
        All transitions since :meth:`start_block`, for :meth:`add_block` of another buffer.

        :param priorities: of the transitions, shape [T, n_envs]; by default the largest that the other one has seen
        :return: them, in the buffer's own arrays, which the next block does not use
        """
        steps = self.size()
        return Block({name: vars(self)[name][:steps] for name in self._row_names}, self.stored.blocks(), priorities)

    def extend(self, *args: Any) -> None:  # type: ignore[override]
        """
        Add transitions one after another, such as demonstrations, as SB3's buffers do.

        :param args: ``obs, next_obs, actions, rewards, dones, infos``: sequences of the arguments of :meth:`add`
        :raises ValueError: as :meth:`add`, or if their lengths differ
        """
        if len(args) == 2 and isinstance(args[1], Block):
            warnings.warn("extend(envs, block) is now add_block(envs, block).", DeprecationWarning, stacklevel=2)
            self.add_block(*args)
        else:
            super().extend(*args)

    def add_block(self, envs: np.ndarray, block: Block) -> None:
        """
        Add T transitions of each of E environments at once. As in :meth:`add`, what does not go on with the environment's
        last observation starts a new episode, and so does what :meth:`end_episodes` was called before.

        :param envs: which of this buffer's environments they are of, shape [E]
        :param block: of another buffer's :meth:`block`; one that :meth:`check_block` refuses would do harm
        :raises ValueError: if the buffer does not fit into memory, or has no room for so many of one environment
        """
        steps = len(block.rewards)
        for name in self._row_names:
            check_shape(name.removeprefix("_"), block.arrays[name], (steps, len(envs), *vars(self)[name].shape[2:]))
        if block.priorities is not None:
            check_shape("priorities", block.priorities, (steps, len(envs)))
        check_at_least("buffer_size", self.buffer_size * self.n_envs, steps * self.n_envs, "or blocks must be shorter")
        if not self.stored.allocated:
            self._allocate(self.stored.storages_of(block.observations))
        masses = self._masses_of(block.priorities, steps * len(envs))
        rows = self._begin_adding(envs, steps)
        continues = self.stored.continues(envs, self.stored.first(block.observations))
        self._end_interrupted(envs[~continues])
        for name in self._row_names:
            vars(self)[name][rows, envs] = block.arrays[name]
        self.stored.extend(rows, envs, block.observations, continues)
        self._finish_adding(envs, rows, masses)

    def check_block(self, block: Block, n_envs: int) -> None:
        """
        :param block: that somebody else has made
        :param n_envs: E, whose transitions it should hold
        :raises ValueError: if it does not fit: an array of another shape or type, an action that there is not, or a number
            that is not finite
        """
        if block.arrays.keys() != set(self._row_names):
            raise ValueError(f"A block has {list(block.arrays)} and should have {self._row_names}.")
        steps = len(block.rewards)
        for name, array in block.arrays.items():
            own = vars(self)[name]
            check_array(name.removeprefix("_"), array, (steps, n_envs, *own.shape[2:]), own.dtype)
        if block.priorities is not None:
            check_array("priorities", block.priorities, (steps, n_envs), np.dtype(np.float32))
        for action in np.unique(block.actions.reshape(-1, self.action_dim), axis=0):
            if not self.action_space.contains(action.reshape(self.action_space.shape)):
                raise ValueError(f"actions={action} is not in {self.action_space}: mend what chose it.")
        self.stored.check_blocks(block.observations, steps, n_envs)

    def _masses_of(self, priorities: np.ndarray | None, size: int) -> np.ndarray:
        """
        :param priorities: with ``size`` elements, or none, which is the largest seen
        :param size: how many transitions there are
        :return: their masses, shape [size]
        :raises ValueError: if a priority is not finite
        """
        if priorities is None:
            return np.full(size, self.max_priority**self.alpha)
        priorities = np.abs(np.asarray(priorities, dtype=np.float64).reshape(-1)) + self.priority_eps
        largest = float(priorities.max(initial=0.0))  # which is not a number, if one of them is not
        if not largest <= LARGEST:
            check_finite("priorities", priorities, "lower the learning rate or clip the rewards")
        self.max_priority = max(self.max_priority, largest)
        return priorities**self.alpha

    def _begin_adding(self, envs: np.ndarray, steps: int) -> np.ndarray:
        """
        :param envs: whose transitions are to be added, shape [E]
        :param steps: T, how many of each
        :return: rows for them, where nothing can be drawn any more, shape [T, E]
        """
        self._recover()
        self._changing = envs, steps
        rows = self._rows(envs, steps)
        if (self._added[envs] + steps > self.buffer_size).any():
            self.tree.update((rows * self.n_envs + envs).reshape(-1), np.zeros(rows.size))
        return rows

    def _rows(self, envs: np.ndarray, steps: int) -> np.ndarray:
        """:return: the rows after the newest ones, shape [steps, E]"""
        return (self._added[envs] + np.arange(steps)[:, None]) % self.buffer_size

    def _finish_adding(self, envs: np.ndarray, rows: np.ndarray, masses: np.ndarray) -> None:
        """
        :param envs: shape [E]
        :param rows: that were written, shape [T, E]
        :param masses: shape [T * E]
        """
        self._added[envs] += len(rows)
        self._set_position()
        self.tree.update((rows * self.n_envs + envs).reshape(-1), masses)
        if self.optimize_memory_usage:
            self._evict()
        self._changing = None

    def _set_position(self) -> None:
        """Have SB3's ``pos`` and ``full`` say what they do in its buffers; of the environment that has filled most."""
        added = int(self._added.max())
        self.pos, self.full = added % self.buffer_size, added >= self.buffer_size

    def _recover(self) -> None:
        """Make good what an exception, such as Ctrl-C, has left half done: transitions may be lost, none is wrong."""
        if self._changing is None:
            return
        envs, steps = self._changing
        self._set_position()
        self.stored.recover()
        masses = self._masses()
        masses[self._rows(envs, steps), envs] = 0  # those that were being overwritten
        self._oldest[envs] = np.maximum(self._oldest[envs], self._added[envs] + steps - self.buffer_size)
        newest = self._added[envs] - 1 - np.arange(steps)[:, None]  # they may be there, without a mass yet
        rows, columns = newest % self.buffer_size, np.broadcast_to(envs, newest.shape)
        without = (newest >= self._oldest[envs]) & (masses[rows, columns] == 0)
        masses[rows[without], columns[without]] = self.max_priority**self.alpha
        self.tree.update(np.arange(masses.size), masses.flatten())
        self._evict()
        self._end_interrupted(self._all_envs)
        self._changing = None

    def end_episodes(self, envs: np.ndarray | None = None) -> None:
        """
        Say that environments were, or will be, reset: the next transition of each starts a new episode.

        The last stored transitions then count as truncated, so that no n-step return reaches past them.

        :param envs: which; by default all of them
        """
        if self.stored.allocated:
            self._recover()
            self._end_interrupted(self._all_envs if envs is None else envs)

    def _end_interrupted(self, envs: np.ndarray) -> None:
        """
        Mark the last transitions as truncated where they are not marked done already.

        :param envs: whose streams were interrupted
        """
        last = (self._added[envs] - 1) % self.buffer_size  # before the first is added, nobody reads what is marked
        self.timeouts[last, envs] |= ~self._dones[last, envs]

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
            envs = envs[self._oldest[envs] < self._added[envs]]

    def _masses(self) -> np.ndarray:
        """:return: a copy of all masses, shape [rows, n_envs]"""
        return self.tree[np.arange(self.buffer_size * self.n_envs)].reshape(self.buffer_size, self.n_envs)
