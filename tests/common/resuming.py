"""
Going on in another process: ``python -m tests.common.resuming TASK FOLDER``.

``resume`` goes on with every model that the test has saved in the folder, and writes the parameters it comes to.
``kill`` has processes die in the middle of saving checkpoints, and sees what the file is good for then.
"""

import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_distrl import QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.common.envs import vec_env
from tests.common.settings import ALGORITHMS, SETTINGS, Setting, make, snapshot

STEPS = 90  # of each part
SEED = 3
ALL_ON = dict(double_q=True, prioritized=True, n_steps=3)
RESUMED = {"Rainbow": 1, "IQN": 4, "QRDQN": 4, "IQN with all": 1, "Rainbow from stacked images": 4, "QRDQN normalised": 1}
"""Models that are resumed, and how many environments each has."""
MODELS = {
    "Rainbow": Setting(Rainbow, {}, dict(v_min=0.0, v_max=100.0)),
    "IQN": SETTINGS["IQN"],
    "QRDQN": SETTINGS["QRDQN"],
    "IQN with all": SETTINGS["IQN with all"],
    "Rainbow from stacked images": Setting(Rainbow, dict(replay_ratio=0.3, buffer_size=60), {}),  # wraps around
    "QRDQN normalised": Setting(QRDQN, ALL_ON, {}),
}
CLASSES = {name: setting.algorithm for name, setting in ALGORITHMS.items()}


def new_env(name: str, n_envs: int) -> VecEnv:
    """:return: seeded environments, the same each time"""
    if name.endswith("images"):
        env: VecEnv = VecFrameStack(vec_env("image", n_envs), n_stack=3)
    else:
        env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=SEED)  # without a seed, it would draw one
    env.seed(SEED)
    return VecNormalize(env) if name.endswith("normalised") else env


def new_model(name: str, n_envs: int) -> Any:
    kind = "image" if name.endswith("images") else "box"
    drifting = dict(exploration_initial_eps=0.9, exploration_final_eps=0.1, exploration_fraction=0.9, seed=SEED)
    return make(MODELS[name], new_env(name, n_envs), kind, **drifting)


def class_of(name: str) -> type[ValueAlgorithm]:
    return CLASSES[name.split()[0]]


def resume(folder: Path) -> None:
    for name, n_envs in RESUMED.items():
        algorithm = class_of(name)
        if not name.endswith("normalised"):  # VecNormalize's statistics are in checkpoints only
            model = algorithm.load(folder / f"{name}.model", env=new_env(name, n_envs), device="cpu")
            model.load_replay_buffer(folder / f"{name}.buffer")
            model.learn(STEPS, reset_num_timesteps=False)
            th.save(snapshot(model), folder / f"{name}.from_files")
        model = algorithm.load_checkpoint(folder / f"{name}.checkpoint", env=new_env(name, n_envs), device="cpu")
        model.learn(STEPS, reset_num_timesteps=False)
        th.save(snapshot(model), folder / f"{name}.from_checkpoint")


# Killing

# After how many saves, and how far into the next; one algorithm in one environment, one in four
KILLS = {
    ("Rainbow", 1): [(0, 0.0), (1, 0.97), (2, 0.3)],
    ("IQN", 4): [(0, 0.8), (1, 0.03), (2, 1.0)],
    ("QRDQN", 1): [(1, 0.5)],
}
FILLED, ROUND_STEPS = 300, 8


def round_env(n_envs: int) -> VecEnv:
    return new_env("images", n_envs)


def load_round(name: str, path: Path, n_envs: int) -> Any:
    return CLASSES[name].load_checkpoint(path, env=round_env(n_envs), device="cpu")


def learn_round(model: Any) -> Any:
    """Ends with a reset, as there is one where a checkpoint is loaded."""
    model.learn(ROUND_STEPS * model.n_envs, reset_num_timesteps=False)
    model.set_env(round_env(model.n_envs))
    return model


def die_at(size: int) -> None:
    """:param size: in bytes; the kernel kills this process when it writes beyond it in any file"""
    import resource  # not on Windows

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def die_before_replacing(path: Path) -> None:
    """:param path: which this process never gets to replace"""
    replace = os.replace

    def replace_or_die(source: Any, target: Any) -> None:
        if Path(target) == path:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die  # type: ignore[assignment]


def save_and_die(path: Path, model: Any, saves: int, part: float) -> None:
    """
    :param path: of the checkpoint
    :param model: to save and to train
    :param saves: that are completed before
    :param part: of the next file that is written; all of it is there at 1, but under another name
    """
    for _ in range(saves):
        model.save_checkpoint(path)
        learn_round(model)
    if part < 1:
        die_at(int(part * path.stat().st_size))
    else:
        die_before_replacing(path)
    model.save_checkpoint(path)


def kill(folder: Path) -> None:
    """Every checkpoint that a killed process has left leads to where the uninterrupted rounds lead."""
    fork = multiprocessing.get_context("fork")
    for (name, n_envs), kills in KILLS.items():
        algorithm = CLASSES[name]
        full = dict(buffer_size=FILLED, learning_starts=FILLED - 100, seed=SEED)
        model = make(Setting(algorithm, full, {}), round_env(n_envs), "image")
        start, path = folder / f"{name}-start.zip", folder / f"{name}.zip"
        model.learn(FILLED).save_checkpoint(start)
        expected = []  # steps and parameters after each round
        model = load_round(name, start, n_envs)
        for _ in range(max(saves for saves, _ in kills) + 1):
            steps = model.num_timesteps
            expected.append((steps, snapshot(learn_round(model))))

        for saves, part in kills:
            shutil.copy(start, path)
            before = set(folder.iterdir())
            saving = fork.Process(target=save_and_die, args=(path, load_round(name, start, n_envs), saves, part))
            saving.start()
            saving.join()
            assert saving.exitcode == -(signal.SIGXFSZ if part < 1 else signal.SIGKILL), (name, saves, part)
            unfinished = set(folder.iterdir()) - before
            assert unfinished, (name, saves, part)
            for file in unfinished:
                file.unlink()
            loaded = load_round(name, path, n_envs)
            loaded.replay_buffer.check_valid()
            steps, parameters = expected[max(saves - 1, 0)]
            assert loaded.num_timesteps == steps, (name, saves, part)
            for key, value in snapshot(learn_round(loaded)).items():
                assert th.equal(value, parameters[key]), (name, saves, part, key)


if __name__ == "__main__":
    th.set_num_threads(1)
    task, target = sys.argv[1:]
    {"resume": resume, "kill": kill}[task](Path(target))
