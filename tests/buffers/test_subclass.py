"""A subclass keeps more of each transition, and loses none of it: pickled, in checkpoints, in blocks."""

import copy
import pickle
from typing import ClassVar

import numpy as np
import pytest

from sb3_distrl import Rainbow
from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer, RowArray
from sb3_distrl.buffers.storage import WholeStorage
from sb3_distrl.buffers.sum_tree import SumTree
from tests.buffers.naive_replay import ACTIONS, ARRAY_SPACE, Episodes, feed, make_buffer
from tests.common.envs import vec_env


class Curious(PrioritizedReplayBuffer):
    row_arrays: ClassVar = {
        **PrioritizedReplayBuffer.row_arrays,
        "intrinsic": RowArray(np.float32),
        "seen": RowArray(np.uint8, (3,)),
    }

    def row_values(self, obs, next_obs, action, reward, done, infos):
        values = super().row_values(obs, next_obs, action, reward, done, infos)
        return {**values, "intrinsic": 10 * np.asarray(reward) + 1, "seen": np.arange(3) + np.asarray(action).reshape(-1, 1)}


class CuriousDict(Curious, PrioritizedDictReplayBuffer):
    pass


SUBCLASSES = [Curious, CuriousDict]


def filled(buffer_class, steps=12, n_envs=2, **kwargs):
    buffer = make_buffer(buffer_class, n_envs=n_envs, rows=8, **kwargs)
    episodes = Episodes(n_envs)
    for _ in range(steps):
        feed(buffer, episodes.step())
    return buffer


def check(buffer, rows):
    rewards, actions = buffer.rewards[:rows], buffer.actions[:rows]
    assert len(np.unique(rewards)) > 3 and (buffer.intrinsic[:rows] == 10 * rewards + 1).all()
    assert (buffer.seen[:rows] == actions + np.arange(3)).all()
    assert buffer.intrinsic.dtype == np.float32 and buffer.seen.dtype == np.uint8


@pytest.mark.parametrize("steps", [5, 12])
@pytest.mark.parametrize("how", ["added", "pickled", "copied"])
@pytest.mark.parametrize("buffer_class", SUBCLASSES)
def test_arrays_of_a_subclass_survive(buffer_class, how, steps):
    buffer = filled(buffer_class, steps)
    if how != "added":
        buffer = pickle.loads(pickle.dumps(buffer)) if how == "pickled" else copy.deepcopy(buffer)
    check(buffer, min(steps, 8))
    assert not buffer.intrinsic[steps:].any()
    feed(buffer, Episodes(2, seed=1).step())
    check(buffer, min(steps + 1, 8))


@pytest.mark.parametrize("n_steps", [1, 3])
def test_what_is_sampled_is_found_by_its_index(n_steps):
    """Its values are those of the first of n steps."""
    buffer = filled(Curious, n_steps=n_steps)
    batch = buffer.sample(16)
    rewards = buffer.rewards.reshape(-1)[batch.indices]
    assert (batch.rewards.flatten().tolist() == rewards.tolist()) == (n_steps == 1)
    assert buffer.intrinsic.reshape(-1)[batch.indices].tolist() == (10 * rewards + 1).tolist()
    assert (buffer.seen.reshape(-1, 3)[batch.indices] == batch.actions.numpy() + np.arange(3)).all()


def test_a_value_for_each_row_array_is_needed():
    class Forgets(Curious):
        def row_values(self, *args):
            values = super().row_values(*args)
            return {name: value for name, value in values.items() if name != "intrinsic"}

    buffer = make_buffer(Forgets)
    with pytest.raises(ValueError, match=r"row_values\(\) gave \['actions', .*\] and should give \['actions', .*'intrinsic'"):
        feed(buffer, Episodes(1).step())
    assert buffer.size() == 0


def test_values_without_a_row_array_are_refused():
    class Forgets(PrioritizedReplayBuffer):
        def row_values(self, *args):
            return {**super().row_values(*args), "intrinsic": np.zeros(self.n_envs)}

    buffer = make_buffer(Forgets)
    with pytest.raises(
        ValueError, match=r"row_values\(\) gave \['actions', .*'intrinsic'\] and should give .*: see row_arrays"
    ):
        feed(buffer, Episodes(1).step())
    assert buffer.size() == 0


@pytest.mark.parametrize("buffer_class", SUBCLASSES)
def test_blocks_carry_them(buffer_class):
    source, buffer = (make_buffer(buffer_class, n_envs=n, rows=8) for n in (2, 4))
    episodes = Episodes(2)
    for _ in range(2):
        source.start_block()
        for _ in range(5):
            feed(source, episodes.step())
        block = pickle.loads(pickle.dumps(source.block()))
        buffer.check_block(block, 2)
        buffer.add_block(np.array([1, 3]), block)
    assert not buffer.intrinsic[:, ::2].any()
    assert (buffer.intrinsic[:, 1::2] == 10 * buffer.rewards[:, 1::2] + 1).all()
    assert (buffer.seen[:, 1::2] == buffer.actions[:, 1::2] + np.arange(3)).all()
    arrays = {**block.arrays, "intrinsic": block.arrays["intrinsic"] * np.nan}
    with pytest.raises(ValueError, match="intrinsic=nan is not finite"):
        buffer.check_block(block._replace(arrays=arrays), 2)
    with pytest.raises(ValueError, match="intrinsic of shape"):
        buffer.check_block(block._replace(arrays={**block.arrays, "intrinsic": block.arrays["seen"]}), 2)
    assert block.nbytes() > 5 * 2 * (4 + 3)
    plain = make_buffer(buffer_class.__bases__[-1], n_envs=2, rows=8)
    for theirs, ours in ((source, plain), (plain, source)):
        theirs.start_block()
        feed(theirs, Episodes(2).step())
        with pytest.raises(ValueError, match=r"A block has \[.*\] and should have \["):
            ours.check_block(theirs.block(), 2)


def test_a_checkpoint_holds_them(tmp_path):
    kwargs = dict(learning_starts=10, buffer_size=100, policy_kwargs=dict(net_arch=[8]), replay_buffer_class=Curious)
    model = Rainbow("MlpPolicy", vec_env(n_envs=2), **kwargs).learn(40)
    model.save_checkpoint(tmp_path / "checkpoint")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = Rainbow.load_checkpoint(tmp_path / "checkpoint", vec_env(n_envs=2))
    check(loaded.replay_buffer, 20)
    loaded.load_replay_buffer(tmp_path / "buffer")
    check(loaded.replay_buffer, 20)
    loaded.learn(20, reset_num_timesteps=False)
    check(loaded.replay_buffer, 30)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_they_are_checked_as_all_others(value):
    class Broken(Curious):
        def row_values(self, *args):
            return {**super().row_values(*args), "intrinsic": np.array([value, 0])}

    with pytest.raises(ValueError, match=f"^intrinsic={value} is not finite"):
        filled(Broken)


def test_their_memory_is_counted(monkeypatch):
    plain, curious = (cls(100, ARRAY_SPACE, ACTIONS) for cls in (PrioritizedReplayBuffer, Curious))
    needed = []
    monkeypatch.setattr("sb3_distrl.buffers.rows.check_memory", lambda *args: needed.append(args[2]))
    plain.check_memory(), curious.check_memory()
    assert needed[1] - needed[0] == 100 * (4 + 3)


def test_a_buffer_saved_before_the_subclass_had_the_array():
    """Loading it would have to invent what was seen."""
    buffer = filled(PrioritizedReplayBuffer)
    state = buffer.__getstate__()
    with pytest.raises(ValueError, match=r"without \['intrinsic', 'seen'\]"):
        Curious.__new__(Curious).__setstate__(state)


class AllocatesItself(PrioritizedReplayBuffer):
    """Arrays that the base does not know of are part of the object as well."""

    def _allocate_rows(self):
        super()._allocate_rows()
        self.own = np.zeros((self.buffer_size, self.n_envs))

    def add(self, *args):
        super().add(*args)
        self.own[self.pos - 1] = 7


class OwnStorage(WholeStorage):
    def allocate(self):
        super().allocate()
        self.own = np.zeros(3)


class OwnTree(SumTree):
    def __init__(self, capacity, name):
        super().__init__(capacity)
        self.name = name


def test_arrays_that_a_subclass_makes_by_itself_survive_too():
    buffer = pickle.loads(pickle.dumps(filled(AllocatesItself, 5)))
    assert (buffer.own[:5] == 7).all() and not buffer.own[5:].any()

    storage = OwnStorage(4, 1, (2,), np.dtype(np.float32))
    storage.allocate()
    storage.own += 5
    assert pickle.loads(pickle.dumps(storage)).own.tolist() == [5, 5, 5]

    tree = OwnTree(100, "mine")
    tree.update(np.arange(50), np.ones(50))
    tree = pickle.loads(pickle.dumps(tree))
    assert tree.name == "mine" and tree.groups.sum() == 50
    tree.check_valid()


def test_what_0_1_0_saved_before_the_first_transition_can_be_loaded():
    """It had no arrays of rows then."""
    buffer = make_buffer()
    state = {name: value for name, value in buffer.__getstate__().items() if name not in {"actions", *buffer.row_arrays}}
    loaded = PrioritizedReplayBuffer.__new__(PrioritizedReplayBuffer)
    loaded.__setstate__(state)
    feed(loaded, Episodes(1).step())
    loaded.check_valid()
    assert loaded.size() == 1
