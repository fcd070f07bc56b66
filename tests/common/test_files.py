"""Files are whole, or what they were before; what is not whole, or something else, is refused with a clear message."""

import io
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.common.files import CHUNK, MAPPED, atomic_write, load_object, save_object, with_suffix
from tests.common.envs import vec_env
from tests.common.settings import make


class Large:
    """Arrays around the sizes at which they are written in pieces and mapped."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        sizes = [0, 1, 7, MAPPED - 1, MAPPED, MAPPED + 1, CHUNK, 2 * CHUNK + 5]
        self.arrays = [rng.integers(0, 256, size=size, dtype=np.uint8) for size in sizes]
        self.floats = rng.normal(size=(300, 1000))
        self.text = "something"


def test_objects_come_back_as_they_were(tmp_path: Path) -> None:
    thing = Large()
    save_object(tmp_path / "large", thing)
    loaded = load_object(tmp_path / "large")
    assert all(np.array_equal(one, other) for one, other in zip(thing.arrays, loaded.arrays, strict=True))
    assert np.array_equal(thing.floats, loaded.floats) and loaded.text == "something"
    loaded.floats[0, 0] = 5.0  # is the loader's own
    loaded.arrays[-1][0] ^= 1
    assert load_object(tmp_path / "large").arrays[-1][0] == thing.arrays[-1][0]


def test_saving_copies_nothing_large(tmp_path: Path) -> None:
    thing = np.zeros(50_000_000, dtype=np.uint8)
    tracemalloc.start()
    save_object(tmp_path / "large", thing)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


MAPS = Path("/proc/self/maps")  # of the files that this process has mapped


class Filled(PrioritizedReplayBuffer):
    """With an array that it does not copy when it is loaded, but changes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.large = np.zeros(MAPPED, dtype=np.uint8)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.large += 1


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not tell what is mapped")
@pytest.mark.parametrize("buffer_class", [ReplayBuffer, Filled, None])
def test_what_is_loaded_does_not_keep_the_file(buffer_class: Any, tmp_path: Path) -> None:
    model = make(QRDQN, replay_buffer_class=buffer_class, buffer_size=200_000)
    model.learn(40)
    model.save_checkpoint(tmp_path / "checkpoint")
    loaded = QRDQN.load_checkpoint(tmp_path / "checkpoint", env=vec_env())
    assert str(tmp_path) not in MAPS.read_text()
    (tmp_path / "checkpoint.zip").unlink()
    if buffer_class is Filled:
        assert (loaded.replay_buffer.large == 1).all()
    else:
        assert np.array_equal(loaded.replay_buffer.rewards, model.replay_buffer.rewards)
    loaded.learn(40, reset_num_timesteps=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_save_leaves_the_former_file(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "file"
    with atomic_write(path) as temporary:
        temporary.write_text("former")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "former"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="needs symbolic links")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "file")
    save_object(tmp_path / "link", [1])
    assert (tmp_path / "link").is_symlink() and load_object(tmp_path / "disk" / "file") == [1]


def test_suffixes_are_those_of_sb3() -> None:
    assert with_suffix("a/model", ".zip") == Path("a/model.zip")
    assert with_suffix(Path("a.b/model.zip"), ".zip") == Path("a.b/model.zip")
    assert with_suffix("model.ckpt", ".zip") == Path("model.ckpt")


def test_files_are_found_by_the_names_they_were_saved_by(tmp_path: Path) -> None:
    model = make(Rainbow)
    model.learn(40)
    for name in ("a", tmp_path.name + ".x"):
        model.save(tmp_path / name)
        model.save_replay_buffer(str(tmp_path / f"{name}-buffer"))
        model.save_checkpoint(tmp_path / f"{name}-checkpoint")
        loaded = Rainbow.load(tmp_path / name, env=vec_env())
        loaded.load_replay_buffer(tmp_path / f"{name}-buffer")
        assert loaded.replay_buffer.size() == 40
        assert Rainbow.load_checkpoint(str(tmp_path / f"{name}-checkpoint"), env=vec_env()).replay_buffer.size() == 40
        with pytest.raises(FileNotFoundError, match="nothing"):
            Rainbow.load_checkpoint(tmp_path / "nothing", env=vec_env())
        with pytest.raises(FileNotFoundError, match=r"nothing\.pkl'"):
            loaded.load_replay_buffer(tmp_path / "nothing")
    assert (tmp_path / "a.zip").exists() and (tmp_path / "a-buffer.pkl").exists() and (tmp_path / "a-checkpoint.zip").exists()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model = make(Rainbow)
    model.learn(40)
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    model.save_checkpoint(folder / "checkpoint")
    return folder


def load(kind: str, path: Path) -> Any:
    if kind == "buffer":
        model = make(Rainbow)
        model.load_replay_buffer(path)
    elif kind == "checkpoint":
        model = Rainbow.load_checkpoint(path, env=vec_env())
    else:
        model = Rainbow.load(path, env=vec_env())
    return model


NAMES = {"model": "model.zip", "buffer": "buffer.pkl", "checkpoint": "checkpoint.zip"}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("kind", NAMES)
def test_truncated_files(kind: str, share: float, saved: Path, tmp_path: Path) -> None:
    content = (saved / NAMES[kind]).read_bytes()
    path = tmp_path / NAMES[kind]
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=path.name):
        load(kind, path)


@pytest.mark.parametrize("kind", ["buffer", "checkpoint"])
def test_damaged_files(kind: str, saved: Path, tmp_path: Path) -> None:
    content = bytearray((saved / NAMES[kind]).read_bytes())
    rewards = np.array(make_rewards(saved)).tobytes()
    assert content.count(rewards) == 1
    content[content.index(rewards)] ^= 1
    path = tmp_path / NAMES[kind]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name} cannot be read: it is .*damaged"):
        load(kind, path)


def make_rewards(saved: Path) -> np.ndarray:
    return load("buffer", saved / "buffer.pkl").replay_buffer.rewards[:40]


@pytest.mark.parametrize(("kind", "other"), [(kind, other) for kind in NAMES for other in NAMES if kind != other])
def test_files_of_another_kind(kind: str, other: str, saved: Path) -> None:
    path = saved / NAMES[other]
    if (kind, other) == ("model", "checkpoint"):  # a checkpoint is a model with more in it
        assert load(kind, path).num_timesteps == 40
        return
    with pytest.raises(ValueError, match=path.name):
        load(kind, path)


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1, 2]), pickle.dumps(None), b"\x80\x05cno.such\nclass\n."])
@pytest.mark.parametrize("kind", NAMES)
def test_foreign_files(kind: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.file"):
        load(kind, path)


@pytest.mark.parametrize(
    "make_other",
    [
        lambda: make(IQN),
        lambda: make(QRDQN),
        lambda: DQN("MlpPolicy", vec_env(), buffer_size=100),
        lambda: PPO("MlpPolicy", vec_env(), n_steps=8, batch_size=8),
    ],
)
def test_models_of_other_algorithms(make_other: Any, tmp_path: Path) -> None:
    make_other().save(tmp_path / "other")
    with pytest.raises(ValueError, match=r"is not a policy of Rainbow: use .* or the algorithm that saved the model"):
        Rainbow.load(tmp_path / "other", env=vec_env())


def test_an_object_that_is_no_buffer(tmp_path: Path) -> None:
    save_object(tmp_path / "list", [1, 2])
    with pytest.raises(ValueError, match="list holds a list, not a replay buffer"):
        load("buffer", tmp_path / "list")


def test_a_buffer_of_another_environment(saved: Path) -> None:
    for env, name in ((vec_env("multibinary"), "observation_space"), (vec_env(n_actions=5), "action_space")):
        with pytest.raises(ValueError, match=rf"buffer\.pkl holds a replay buffer of {name}=.*: load the buffer that belongs"):
            make(Rainbow, env).load_replay_buffer(saved / "buffer.pkl")


def test_a_buffer_of_another_version(saved: Path, tmp_path: Path) -> None:
    buffer = load("buffer", saved / "buffer.pkl").replay_buffer
    state = buffer.__getstate__()
    for wrong in ({**state, "format": 0}, {key: value for key, value in state.items() if key != "format"}):
        with pytest.raises(ValueError, match="saved by another version of sb3_distrl: use that version"):
            PrioritizedReplayBuffer.__new__(PrioritizedReplayBuffer).__setstate__(wrong)


@pytest.mark.parametrize("buffer_class", [None, ReplayBuffer])
def test_streams_instead_of_files(buffer_class: Any) -> None:
    """As in SB3."""
    model = make(QRDQN, replay_buffer_class=buffer_class)
    model.learn(40)
    stream = io.BytesIO()
    model.save_replay_buffer(stream)
    other = make(QRDQN, replay_buffer_class=buffer_class)
    stream.seek(0)
    other.load_replay_buffer(stream)
    assert np.array_equal(other.replay_buffer.rewards[:40], model.replay_buffer.rewards[:40])
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    assert QRDQN.load(stream).num_timesteps == 40


def test_buffers_of_sb3(tmp_path: Path) -> None:
    model = make(QRDQN, replay_buffer_class=ReplayBuffer)
    model.learn(40)
    model.save_replay_buffer(tmp_path / "buffer")
    model.save_checkpoint(tmp_path / "checkpoint")
    other = make(QRDQN, replay_buffer_class=ReplayBuffer)
    other.load_replay_buffer(tmp_path / "buffer")
    for loaded in (other, QRDQN.load_checkpoint(tmp_path / "checkpoint", env=vec_env())):
        assert type(loaded.replay_buffer) is ReplayBuffer
        assert np.array_equal(loaded.replay_buffer.observations, model.replay_buffer.observations)
        loaded.learn(40, reset_num_timesteps=False)
