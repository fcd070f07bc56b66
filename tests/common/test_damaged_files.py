"""Files with bytes changed, cut off or put in: each loads, or raises a ValueError that names it, and leaves nothing behind."""

import gc
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_distrl import QRDQN
from sb3_distrl.distributed import ApeXQRDQN
from tests.common.envs import vec_env
from tests.common.settings import make
from tests.distributed.models import make_model

try:
    import resource
except ImportError:
    resource = None

ROOM = 4 << 30  # bytes: a changed length may ask for much more


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    ours, theirs = make(QRDQN), make(QRDQN, replay_buffer_class=ReplayBuffer, buffer_size=50)
    for name, model in {"ours": ours, "theirs": theirs}.items():
        model.learn(30)
        model.save(folder / f"{name}-model.zip")
        model.save_checkpoint(folder / f"{name}-checkpoint.zip")
        model.save_replay_buffer(folder / f"{name}-buffer.pkl")
    with open(folder / "stream-buffer.pkl", "wb") as file:  # pickled as SB3 does it
        ours.save_replay_buffer(file)
    make_model(ApeXQRDQN, buffer_size=100).save(folder / "apex-model.zip")
    return folder


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Pickles may ask for as many bytes as they like; guards the machine."""
    if resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def flip(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def replace(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] = rng.randrange(256)


def cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def leave_out(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content))
    del content[at : at + rng.randint(1, 50)]


def insert(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content))
    content[at:at] = rng.randbytes(rng.randint(1, 50))


CHANGES: list[Callable[[bytearray, random.Random], None]] = [flip, flip, replace, cut, leave_out, insert]
# Where there is structure rather than numbers: most changes of those are found by their checksum, or are no damage
ENDS = 3000  # bytes


def mutated(content: bytes, rng: random.Random) -> bytes:
    """:return: the content with a change, as often as not in the beginning or the end of it"""
    changed = bytearray(content)
    begin, end = rng.choice([(0, len(changed)), (0, len(changed)), (0, ENDS), (len(changed) - ENDS, len(changed))])
    part = changed[max(0, begin) : end]
    rng.choice(CHANGES)(part, rng)
    changed[max(0, begin) : end] = part
    return bytes(changed)


def load_model(model: Any, path: Path) -> None:
    QRDQN.load(path, env=vec_env(), device="cpu")


def load_checkpoint(model: Any, path: Path) -> None:
    QRDQN.load_checkpoint(path, env=vec_env(), device="cpu")


def load_buffer(model: Any, path: Path) -> None:
    model.load_replay_buffer(path)


def load_buffer_from_stream(model: Any, path: Path) -> None:
    with open(path, "rb") as file:
        model.load_replay_buffer(file)


def load_apex(model: Any, path: Path) -> None:
    ApeXQRDQN.load(path, env="CartPole-v1", device="cpu")


KINDS: dict[str, tuple[str, Callable[[Any, Path], None]]] = {
    "model": ("ours-model.zip", load_model),
    "checkpoint": ("ours-checkpoint.zip", load_checkpoint),
    "checkpoint with SB3's buffer": ("theirs-checkpoint.zip", load_checkpoint),
    "buffer": ("ours-buffer.pkl", load_buffer),
    "SB3's buffer": ("theirs-buffer.pkl", load_buffer),
    "buffer in a stream": ("stream-buffer.pkl", load_buffer_from_stream),
    "model of actors": ("apex-model.zip", load_apex),
}


@pytest.mark.filterwarnings("ignore")  # numpy's and gymnasium's, of what is in a damaged file
@pytest.mark.parametrize("mutations", [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_loads_or_says_so(kind: str, mutations: int, saved: Path, tmp_path: Path, little_memory: None) -> None:
    name, load = KINDS[kind]
    content, rng, path = (saved / name).read_bytes(), random.Random(mutations), tmp_path / name
    path.write_bytes(content)
    model = make(QRDQN)
    load(model, path)
    buffer, refused = model.replay_buffer, 0
    for number in range(mutations):
        path.write_bytes(mutated(content, rng))
        try:
            load(model, path)
            buffer = model.replay_buffer
        except ValueError as error:
            refused += 1
            assert path.name in str(error), f"mutation {number}: {error!r}"
        except Exception as error:
            pytest.fail(f"mutation {number}: {error!r}")
        assert model.replay_buffer is buffer, "as it was"
        assert [file.name for file in tmp_path.iterdir()] == [name]
    assert refused > (0.4 * mutations if mutations > 100 else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_closed(kind: str, saved: Path, tmp_path: Path) -> None:
    name, load = KINDS[kind]
    path = tmp_path / name
    path.write_bytes((saved / name).read_bytes()[:-300])
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match=name):
            load(make(QRDQN), path)
        gc.collect()
    assert not [str(each.message) for each in caught if each.category is ResourceWarning]


@pytest.mark.parametrize("kind", KINDS)
def test_missing_files(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        KINDS[kind][1](make(QRDQN), tmp_path / "nothing")
