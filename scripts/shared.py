"""What the scripts share: settings from hyperparams/, environments, versions, results."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import torch as th
import yaml
from filelock import FileLock
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.envs import register_minatar

ROOT = Path(__file__).resolve().parent.parent
ALGORITHMS: dict[str, type[ValueAlgorithm]] = {"rainbow": Rainbow, "iqn": IQN, "qrdqn": QRDQN}


def is_atari(env_id: str) -> bool:
    """
    :param env_id: name of an environment
    :return: whether it is an Atari game without frame skip of its own, which SB3's wrappers expect
    """
    return env_id.endswith("NoFrameskip-v4")


def load_settings(algo: str, env_id: str) -> dict[str, Any]:
    """
    :param algo: "rainbow" or "iqn"
    :param env_id: name of an environment
    :return: its entry in hyperparams/<algo>.yml: ``n_timesteps``, ``policy``, and arguments of the algorithm
    :raises ValueError: if there is none
    """
    entries = yaml.safe_load((ROOT / "hyperparams" / f"{algo}.yml").read_text())
    name = "atari" if is_atari(env_id) and env_id not in entries else env_id
    if name not in entries:
        raise ValueError(f"env={env_id} has no entry in hyperparams/{algo}.yml: use one of {sorted(entries)}, or add one.")
    settings = {key: value for key, value in entries[name].items() if key not in ("env_wrapper", "frame_stack")}
    learning_rate = settings["learning_rate"]
    if isinstance(learning_rate, str):  # rl-zoo3's notation for a linear schedule to 0
        settings["learning_rate"] = LinearSchedule(float(learning_rate.removeprefix("lin_")), 0.0, 1.0)
    return settings


def make_env(
    env_id: str, seed: int, monitor_dir: Path | None = None, evaluation: bool = False, n_envs: int = 1, **kwargs: Any
) -> VecEnv:
    """
    :param env_id: name of an environment
    :param seed: seed
    :param monitor_dir: folder for the episodes' returns
    :param evaluation: whole games with unclipped rewards, in Atari
    :param n_envs: how many
    :param kwargs: of SB3's ``make_vec_env``
    :return: environments, with SB3's preprocessing and four stacked, channel-first frames for Atari
    """
    kwargs.update(n_envs=n_envs, seed=seed, monitor_dir=None if monitor_dir is None else str(monitor_dir))
    if env_id.startswith("MinAtar/"):
        register_minatar()
    if not is_atari(env_id):
        return make_vec_env(env_id, **kwargs)
    gymnasium.register_envs(ale_py)
    wrapper_kwargs = dict(terminal_on_life_loss=False, clip_reward=False) if evaluation else {}
    env = make_atari_env(env_id, wrapper_kwargs=wrapper_kwargs, **kwargs)
    return VecTransposeImage(VecFrameStack(env, n_stack=4))


def machine() -> str:
    """:return: one line with the versions and the processor that a result was made with"""
    return f"{versions('sb3-distrl', 'stable-baselines3', 'sb3-contrib', 'torch', 'gymnasium', 'numpy')}; {processor()}"


def versions(*packages: str) -> str:
    """
    :param packages: which may not be installed
    :return: one line with the versions of Python and of them
    """
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def processor() -> str:
    """:return: name of the processor, where the system tells it, and of the GPU, where there is one"""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    name = names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()
    return f"{name} and {th.cuda.get_device_name()}" if th.cuda.is_available() else name


def locked(path: Path) -> FileLock:
    """
    :param path: file that several processes may read, change and write
    :return: a lock on it, for a ``with`` statement; the operating system releases it when its owner dies
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


def write_report(report: str, path: Path) -> None:
    """
    Write a report, and print it.

    :param report: Markdown
    :param path: of the file; its folder may not exist
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report)
    print(report)
