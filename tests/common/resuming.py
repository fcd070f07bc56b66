"""
Going on in another process: ``python -m tests.common.resuming TASK FOLDER [N_ENVS]``.

``resume`` goes on with every model that the test has saved in the folder, and writes the parameters it comes to.
``kill`` kills processes in the middle of saving checkpoints, and sees what the file is good for then.
"""

import multiprocessing
import random
import shutil
import sys
import time
from collections.abc import Callable
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
RESUMED = {
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
    return make(RESUMED[name], new_env(name, n_envs), kind, **drifting)


def class_of(name: str) -> type[ValueAlgorithm]:
    return CLASSES[name.split()[0]]


def resume(folder: Path, n_envs: int) -> None:
    for name in RESUMED:
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

KILLS, ATTEMPTS, ROUNDS = 6, 40, 10  # of each algorithm
KILLED_WITHIN = 3  # rounds
WRITING = 0.6  # of the time of a save; some are complete by then
FILLED, ROUND_STEPS = 6_000, 8


def round_env(n_envs: int) -> VecEnv:
    return new_env("images", n_envs)


def load_round(name: str, path: Path, n_envs: int) -> Any:
    return CLASSES[name].load_checkpoint(path, env=round_env(n_envs), device="cpu")


def learn_round(model: Any) -> Any:
    """Ends with a reset, as there is one where a checkpoint is loaded."""
    model.learn(ROUND_STEPS * model.n_envs, reset_num_timesteps=False)
    model.set_env(round_env(model.n_envs))
    return model


def save_rounds(path: Path, model: Any) -> None:
    for _ in range(ROUNDS):
        model.save_checkpoint(path)
        learn_round(model)


def seconds(function: Callable[..., None], *args: Any) -> float:
    """:return: that it takes"""
    began = time.perf_counter()
    function(*args)
    return time.perf_counter() - began


def kill(folder: Path, n_envs: int) -> None:
    """Every checkpoint that a killed process has left leads to where the uninterrupted rounds lead."""
    fork = multiprocessing.get_context("fork")
    for name, algorithm in CLASSES.items():
        # The replay buffer takes some time to save
        crowded = dict(buffer_size=FILLED, learning_starts=FILLED - 200, seed=SEED)
        model = make(Setting(algorithm, crowded, {}), round_env(n_envs), "image")
        start, path = folder / f"{name}-start.zip", folder / f"{name}.zip"
        model.learn(FILLED).save_checkpoint(start)
        model, expected = load_round(name, start, n_envs), {}
        for _ in range(ROUNDS):
            steps = model.num_timesteps
            expected[steps] = snapshot(learn_round(model))

        # On this machine, so that a slow one gets to the same point
        round_seconds = seconds(save_rounds, path, model) / ROUNDS
        save_seconds = seconds(model.save_checkpoint, path)

        rng, found, kills = random.Random(0), set(), 0
        temporary = folder / f".{name}.zip.tmp"
        for _ in range(ATTEMPTS):
            shutil.copy(start, path)
            model = load_round(name, start, n_envs)
            saving = fork.Process(target=save_rounds, args=(path, model))
            saving.start()
            time.sleep(KILLED_WITHIN * round_seconds * rng.random())
            while saving.is_alive() and not temporary.exists():
                time.sleep(save_seconds / 100)
            time.sleep(WRITING * save_seconds * rng.random())
            saving.kill()
            saving.join()
            kills += temporary.exists()
            temporary.unlink(missing_ok=True)
            loaded = load_round(name, path, n_envs)
            loaded.replay_buffer.check_valid()
            steps = loaded.num_timesteps
            found.add(steps)
            for key, value in snapshot(learn_round(loaded)).items():
                assert th.equal(value, expected[steps][key]), (name, steps, key)
            if kills >= KILLS and len(found) > 1:
                break
        seen = f"{name}, {n_envs} environments: {kills} kills in the middle of a save; steps of checkpoints: {sorted(found)}"
        print(seen)
        assert kills >= KILLS and len(found) > 1, seen


if __name__ == "__main__":
    th.set_num_threads(1)
    task, target, number = sys.argv[1:]
    {"resume": resume, "kill": kill}[task](Path(target), int(number))
