"""
Going on in another process: ``python -m tests.common.resuming TASK FOLDER [N_ENVS]``.

``resume`` goes on with every model that the test has saved in the folder, and writes the parameters it comes to.
``kill`` kills processes in the middle of saving checkpoints, and sees what the file is good for then.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.common.envs import vec_env
from tests.common.settings import SETTINGS, Setting, make, snapshot

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
CLASSES: dict[str, type[ValueAlgorithm]] = {"Rainbow": Rainbow, "IQN": IQN, "QRDQN": QRDQN}


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

KILLS, ATTEMPTS, ROUNDS, ROUND_STEPS, ROUND_NAME = 20, 200, 60, 8, "Rainbow from stacked images"


def crowded_model() -> Any:
    """:return: a model with a replay buffer that takes some time to save"""
    model = make(
        Setting(Rainbow, {}, {}), new_env(ROUND_NAME, 1), "image", buffer_size=6_000, learning_starts=5_000, seed=SEED
    )
    return model.learn(6_000)


def save_rounds(path: Path, model: Any) -> None:
    for _ in range(ROUNDS):
        model.save_checkpoint(path)
        model.learn(ROUND_STEPS, reset_num_timesteps=False)
        model.set_env(new_env(ROUND_NAME, 1))


def outcome(path: Path) -> tuple[int, dict[str, th.Tensor]]:
    """:return: the steps of a checkpoint, and the parameters that going on with it leads to"""
    model = Rainbow.load_checkpoint(path, env=new_env(ROUND_NAME, 1), device="cpu")
    model.replay_buffer.check_valid()
    steps = model.num_timesteps
    model.learn(ROUND_STEPS, reset_num_timesteps=False)
    return steps, snapshot(model)


def forked(function: Any) -> int:
    """:return: the process in which the function runs"""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


def kill(folder: Path, n_envs: int) -> None:
    """Every checkpoint that a killed process has left leads to where the uninterrupted rounds lead."""
    model = crowded_model()
    start = folder / "start.zip"
    model.save_checkpoint(start)
    expected = {}
    uninterrupted = Rainbow.load_checkpoint(start, env=new_env(ROUND_NAME, 1), device="cpu")
    for _ in range(ROUNDS):
        steps = uninterrupted.num_timesteps
        uninterrupted.learn(ROUND_STEPS, reset_num_timesteps=False)
        uninterrupted.set_env(new_env(ROUND_NAME, 1))
        expected[steps] = snapshot(uninterrupted)

    path, rng, found = folder / "rounds.zip", random.Random(0), set()
    temporary = folder / ".rounds.zip.tmp"
    kills = 0
    for _ in range(ATTEMPTS):
        path.write_bytes(start.read_bytes())
        pid = forked(lambda: save_rounds(path, Rainbow.load_checkpoint(start, env=new_env(ROUND_NAME, 1), device="cpu")))
        time.sleep(0.1 + 0.6 * rng.random())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        in_the_middle = temporary.exists()
        steps, parameters = outcome(path)
        assert all(th.equal(value, expected[steps][key]) for key, value in parameters.items()), steps
        found.add(steps)
        temporary.unlink(missing_ok=True)
        kills += in_the_middle
        if kills == KILLS:
            break
    print(f"{kills} kills in the middle of a save, checkpoints of {len(found)} different steps")
    assert kills == KILLS and len(found) > 3


if __name__ == "__main__":
    th.set_num_threads(1)
    task, target, number = sys.argv[1:]
    {"resume": resume, "kill": kill}[task](Path(target), int(number))
