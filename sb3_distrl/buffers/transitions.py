"""Adding transitions to a replay buffer, in a ring for each environment."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from sb3_distrl.buffers.blocks import Block
from sb3_distrl.buffers.rows import RowBuffer
from sb3_distrl.buffers.storage import REMEDY, Obs
from sb3_distrl.validation import check_array, check_at_least, check_finite, check_shape, with_env_axis

# The argument of add() for each row array
ARGUMENTS = {"actions": "action", "rewards": "reward", "_dones": "done", "timeouts": "infos"}
ONE_FOR_EACH = "give one for each environment"
LARGEST = float(np.finfo(np.float32).max)


class RepairOnError:
    """
    Context manager that repairs the buffer after an exception such as Ctrl-C. Ctrl-C during the repair, or SystemExit of a
    handler of SIGTERM, restarts it.
    """

    __slots__ = ("args", "repair")

    def __init__(self, repair: Callable[..., None], *args: Any) -> None:
        self.repair, self.args = repair, args

    def __enter__(self) -> None:
        pass

    def __exit__(self, exception: type[BaseException] | None, *_: Any) -> None:
        ended: SystemExit | None = None
        while exception is not None:
            try:
                self.repair(*self.args)
                break
            except KeyboardInterrupt:
                pass
            except SystemExit as error:
                ended = error
        if ended is not None:
            raise ended


class TransitionBuffer(RowBuffer):
    """The part of ``PrioritizedReplayBuffer`` that adds transitions; each environment fills its rows at its own pace."""

    alpha: float
    priority_eps: float

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.end_episodes()  # training continues in another environment, or from another state

    def add(  # type: ignore[override]
        self, obs: Obs, next_obs: Obs, action: np.ndarray, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """
        Add one transition of each environment, with the largest priority seen so far.

        An observation that differs from the environment's previous next observation starts a new episode: the environment was
        reset in between (see also :meth:`end_episodes`).

        :param obs: observations s_t of all environments, shape [n_envs, ...]
        :param next_obs: s_{t+1}; at the end of an episode, its true final observation, shape [n_envs, ...]
        :param action: a_t, shape [n_envs, ...]
        :param reward: r_{t+1}, shape [n_envs]
        :param done: whether the episode ended (terminated or truncated), shape [n_envs]
        :param infos: one for each environment; ``TimeLimit.truncated`` tells truncation from termination
        :raises ValueError: for a wrong shape, values that are not finite, or too little memory. Nothing is reshaped, except
            that single numbers may have shape [n_envs] or [n_envs, 1], and a single environment may omit the first axis
        """
        given, values = self.row_values(obs, next_obs, action, reward, done, infos), {}
        if len(given) != len(self.row_arrays) + 1 or "actions" not in given or not given.keys() >= self.row_arrays.keys():
            raise ValueError(f"row_values() gave {list(given)} and should give {self._row_names}: see row_arrays.")
        for name in ("actions", *self.row_arrays):
            value, shape = np.asarray(given[name]), vars(self)[name].shape[1:]
            if value.dtype.kind == "f" or value.shape != shape:
                label = ARGUMENTS.get(name, name)
                check_finite(label, value, REMEDY)
                value = with_env_axis(label, value, self.n_envs, shape[1:], ONE_FOR_EACH)
            values[name] = value
        obs, next_obs = self.stored.prepared(obs, next_obs)
        if not self.stored.allocated:
            self._allocate()

        write = partial(self.stored.add, envs=self._all_envs, obs=obs, next_obs=next_obs)
        self._store(self._all_envs, 1, values, obs, write)

    def row_values(
        self, obs: Obs, next_obs: Obs, action: np.ndarray, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """
        What to store for one transition of each environment, besides observations; takes the arguments of :meth:`add`.

        Subclasses that extend :attr:`row_arrays` override it.

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

    def extend(self, *args: Any) -> None:  # type: ignore[override]
        """
        Add several transitions, such as demonstrations, as in SB3.

        :param args: ``obs, next_obs, actions, rewards, dones, infos``: sequences of the arguments of :meth:`add`
        :raises ValueError: as :meth:`add`, or if their lengths differ
        """
        if len(args) == 2 and isinstance(args[1], Block):
            warnings.warn("extend(envs, block) is now add_block(envs, block).", DeprecationWarning, stacklevel=2)
            self.add_block(*args)
        else:
            super().extend(*args)

    # Blocks

    def start_block(self) -> None:
        """Remove all transitions, and collect up to ``buffer_size`` new ones for :meth:`block`."""
        self.reset()
        self.stored = self._make_storage(lossless=True)

    def block(self, priorities: np.ndarray | None = None) -> Block:
        """
        All transitions since :meth:`start_block`, in the buffer's own arrays, which the next block does not reuse.

        :param priorities: shape [T, n_envs]; by default the largest that the receiving buffer has seen
        """
        steps = self.size()
        return Block({name: vars(self)[name][:steps] for name in self._row_names}, self.stored.block(), priorities)

    def check_block(self, block: Block, n_envs: int) -> None:
        """
        Check a block from an untrusted source.

        :param n_envs: E, the number of environments that it should have
        :raises ValueError: for a wrong shape or type, an action outside the action space, or values that are not finite
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
                raise ValueError(f"actions={action} is not in {self.action_space}: fix the policy.")
        self.stored.check_block(block.observations, steps, n_envs)

    def add_block(self, envs: np.ndarray, block: Block) -> None:
        """
        Add T transitions of each of E environments. A first observation may start a new episode, as in :meth:`add`.

        :param envs: indices of the environments in this buffer, shape [E]
        :param block: from another buffer's :meth:`block`; if its source is untrusted, call :meth:`check_block` first
        :raises ValueError: for too little memory, or a block longer than the buffer
        """
        steps, values = len(block.rewards), {name: block.arrays[name] for name in self._row_names}
        for name, value in values.items():
            check_shape(name.removeprefix("_"), value, (steps, len(envs), *vars(self)[name].shape[2:]))
        if block.priorities is not None:
            check_shape("priorities", block.priorities, (steps, len(envs)))
        check_at_least("buffer_size", self.buffer_size * self.n_envs, steps * self.n_envs, "use more, or shorter blocks")
        first = self.stored.prepared_block(block.observations)
        if not self.stored.allocated:
            self._allocate()
        masses = None if block.priorities is None else self._masses_of(block.priorities)

        write = partial(self.stored.add_block, envs=envs, block=block.observations)
        self._store(envs, steps, values, first, write, masses)

    # Storing

    def _store(
        self,
        envs: np.ndarray,
        steps: int,
        values: dict[str, np.ndarray],
        first: Any,
        write: Callable[..., None],
        masses: np.ndarray | None = None,
    ) -> None:
        """
        Store T transitions of each of E environments, with ``values`` [T, E, ...] or, for one step, [E, ...].

        :param first: the first observations, from :meth:`ObservationStorage.prepared`
        :param write: stores the observations, given ``rows`` [T, E] and ``continues`` [E]
        :param masses: shape [T * E]; by default that of the largest priority
        """
        if masses is None:
            masses = np.full(steps * len(envs), self.max_priority**self.alpha)
        with RepairOnError(self._repair, envs, steps):
            rows = self._next_rows(envs, steps)
            slots = (rows * self.n_envs + envs).reshape(-1)
            if (self._added[envs] + steps > self.buffer_size).any():  # transitions being overwritten must not be drawn
                self.tree.update(slots, np.zeros(rows.size))
            continues = self.stored.continues(envs, first)
            if not continues.all():
                self._truncate(envs[~continues])
            for name, value in values.items():
                vars(self)[name][rows, envs] = value
            write(rows=rows, continues=continues)
            self._added[envs] += steps
            self._set_position()
            self.tree.update(slots, masses)
            if self.optimize_memory_usage:
                self._evict()

    def _next_rows(self, envs: np.ndarray, steps: int) -> np.ndarray:
        """:return: the rows after the newest ones, shape [steps, E]"""
        return (self._added[envs] + np.arange(steps)[:, None]) % self.buffer_size

    def _set_position(self) -> None:
        """Set SB3's ``pos`` and ``full`` for the environment that has filled most."""
        added = int(self._added.max())
        self.pos, self.full = added % self.buffer_size, added >= self.buffer_size

    def end_episodes(self, envs: np.ndarray | None = None) -> None:
        """
        Tell the buffer that environments were or will be reset: their next transitions start new episodes.

        Their last transitions count as truncated, so that no n-step return reaches beyond them.

        :param envs: indices of environments; by default all
        """
        if self.stored.allocated:
            self._truncate(self._all_envs if envs is None else envs)

    def _truncate(self, envs: np.ndarray) -> None:
        """Mark the environments' last transitions as truncated, unless they are done."""
        last = (self._added[envs] - 1) % self.buffer_size  # in an empty buffer, nobody reads the mark
        self.timeouts[last, envs] |= ~self._dones[last, envs]

    def _evict(self) -> None:
        """Set the masses of transitions whose frames were overwritten to zero."""
        np.maximum(self._oldest, self._added - self.buffer_size, out=self._oldest)
        envs = np.flatnonzero(self._oldest < self._added)
        while len(envs):
            rows = self._oldest[envs] % self.buffer_size
            lost = ~self.stored.holds(rows, envs)
            if not lost.any():
                break
            rows, envs = rows[lost], envs[lost]
            self.tree.update(rows * self.n_envs + envs, np.zeros(len(envs)))
            self._oldest[envs] += 1
            envs = envs[self._oldest[envs] < self._added[envs]]

    def _repair(self, envs: np.ndarray, steps: int) -> None:
        """Repair after an interrupted :meth:`_store`: transitions may be lost, but none is corrupted."""
        self._set_position()
        self.stored.repair()
        masses = self._masses()
        masses[self._next_rows(envs, steps), envs] = 0  # transitions that were being overwritten
        self._oldest[envs] = np.maximum(self._oldest[envs], self._added[envs] + steps - self.buffer_size)
        newest = self._added[envs] - 1 - np.arange(steps)[:, None]  # may be stored without a mass
        rows, columns = newest % self.buffer_size, np.broadcast_to(envs, newest.shape)
        without = (newest >= self._oldest[envs]) & (masses[rows, columns] == 0)
        masses[rows[without], columns[without]] = self.max_priority**self.alpha
        self.tree.update(np.arange(masses.size), masses.flatten())
        self._evict()
        self._truncate(self._all_envs)

    # Masses

    def _masses_of(self, priorities: np.ndarray) -> np.ndarray:
        """Check and flatten priorities, update the largest one, and return the masses."""
        priorities = np.abs(np.asarray(priorities, dtype=np.float64).reshape(-1)) + self.priority_eps
        largest = float(priorities.max(initial=0.0))  # NaN if one is NaN
        if not largest <= LARGEST:
            check_finite("priorities", priorities, "lower the learning rate or clip the rewards")
        self.max_priority = max(self.max_priority, largest)
        return priorities**self.alpha

    def _masses(self) -> np.ndarray:
        """:return: a copy of all masses, shape [rows, n_envs]"""
        return self.tree[np.arange(self.buffer_size * self.n_envs)].reshape(self.buffer_size, self.n_envs)
