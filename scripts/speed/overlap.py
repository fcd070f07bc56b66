"""
Time saved by overlapping collection and learning: wall time of learn() with and without it, and of both parts alone.

The replay ratio is set so that collection alone and training alone take about the same time, where the most can be saved. A
gradient step overlaps with one step of all environments, so the two should take a similar time; this determines the number of
environments and the networks. All four take turns in each round, and each continues with the environments as the previous one
left them.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from shared import machine, make_env, write_report
from stable_baselines3.common.vec_env import SubprocVecEnv
from tqdm import tqdm

from sb3_distrl import Rainbow
from sb3_distrl.envs import AtariVecEnv
from sb3_distrl.networks import DataEfficientConv

RESULTS = Path(__file__).parent / "results"

SLEEP = 0.005  # seconds
NEVER = 1e-9  # gradient steps per transition
MOST = 1.15  # times the longest of what bounds the overlapped time
COLLECT, TRAIN, SERIAL, OVERLAP = "collection alone", "training alone", "one after the other", "overlapped"


class Sleeping(gymnasium.Env):
    """Takes 5 ms a step, in which its process does nothing."""

    observation_space = spaces.Box(-1, 1, (8,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(SLEEP)
        return self.observation_space.sample(), 0.0, False, bool(self.np_random.random() < 0.01), {}


def pong(n_envs: int) -> Rainbow:
    """:return: the network of data-efficient Rainbow, whose gradient steps take about as long as steps of 16 games"""
    env = make_env("PongNoFrameskip-v4", 0, n_envs=n_envs, vec_env_cls=SubprocVecEnv)
    policy_kwargs = dict(features_extractor_class=DataEfficientConv)
    return Rainbow("CnnPolicy", env, policy_kwargs=policy_kwargs, **settings(n_envs))


def pong_in_threads(n_envs: int) -> Rainbow:
    """:return: the same, with the games in ale-py's threads"""
    policy_kwargs = dict(features_extractor_class=DataEfficientConv)
    env = AtariVecEnv("PongNoFrameskip-v4", n_envs, seed=0)
    return Rainbow("CnnPolicy", env, policy_kwargs=policy_kwargs, **settings(n_envs))


def sleeping(n_envs: int) -> Rainbow:
    """:return: Rainbow with a small network"""
    return Rainbow("MlpPolicy", SubprocVecEnv([Sleeping] * n_envs), **settings(n_envs))


def settings(n_envs: int) -> dict[str, Any]:
    return dict(buffer_size=20_000, learning_starts=n_envs, train_freq=1, replay_ratio=NEVER, seed=0, device="cpu")


TASKS: dict[str, Callable[[int], Rainbow]] = {
    "Pong, SubprocVecEnv": pong,
    "Pong, AtariVecEnv": pong_in_threads,
    "5 ms of sleep, SubprocVecEnv": sleeping,
}


def cpu_seconds() -> float:
    """:return: CPU time of this process and of the environments'"""
    process = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


class Bench:
    """
    :param model: whose parts are timed
    :param steps: vectorised environment steps of each part in each round
    """

    def __init__(self, model: Rainbow, steps: int) -> None:
        self.model, self.total = model, steps * model.n_envs
        model.gradient_steps = 0
        model.learn(max(self.total, 40 * model.n_envs))
        self.train(20)
        collection, _ = self.measure(lambda: self.learn(NEVER, False))
        training, _ = self.measure(lambda: self.train(20))
        self.replay_ratio = collection / (training / 20) / self.total

    def learn(self, replay_ratio: float, overlap: bool) -> None:
        self.model.replay_ratio, self.model.overlap = replay_ratio, overlap
        self.model.gradient_steps = int(replay_ratio != NEVER)
        self.model.learn(self.total, reset_num_timesteps=False, log_interval=10**9)

    def train(self, gradient_steps: int) -> None:
        self.model.replay_ratio = None
        self.model.train(gradient_steps, self.model.batch_size)

    def measure(self, part: Callable[[], None]) -> tuple[float, float]:
        """:return: wall time and CPU time, seconds"""
        cpu, wall = cpu_seconds(), time.perf_counter()
        part()
        return time.perf_counter() - wall, cpu_seconds() - cpu

    def round(self) -> dict[str, tuple[float, float]]:
        """:return: wall and CPU time of each part"""
        parts: dict[str, Callable[[], None]] = {
            COLLECT: lambda: self.learn(NEVER, False),
            TRAIN: lambda: self.train(round(self.replay_ratio * self.total)),
            SERIAL: lambda: self.learn(self.replay_ratio, False),
            OVERLAP: lambda: self.learn(self.replay_ratio, True),
        }
        return {name: self.measure(part) for name, part in parts.items()}


def report(name: str, bench: Bench, rounds: list[dict[str, tuple[float, float]]]) -> list[str]:
    """
    :param name: of the task
    :param bench: that was run
    :param rounds: what its rounds returned
    :return: lines of Markdown
    """
    cores = len(psutil.Process().cpu_affinity())  # type: ignore[arg-type]
    n_envs = bench.model.n_envs
    gradient_steps = bench.replay_ratio * n_envs
    lines = ["", f"## {name}, {n_envs} environments, {gradient_steps:.2f} gradient steps per step", ""]
    lines += ["| | wall, s (median) | CPU, s (median) |", "|---|---:|---:|"]
    for part in rounds[0]:
        wall, cpu = (np.median([each[part][i] for each in rounds]) for i in range(2))
        lines.append(f"| {part} | {wall:.2f} | {cpu:.2f} |")
    bounds = [max(each[COLLECT][0], each[TRAIN][0], (each[COLLECT][1] + each[TRAIN][1]) / cores) for each in rounds]
    for part in (SERIAL, OVERLAP):
        ratios = [each[part][0] / bound for each, bound in zip(rounds, bounds, strict=True)]
        verdict = f": at most {MOST}" if np.median(ratios) <= MOST else f": more than {MOST}"
        lines.append(
            f"{'' if part == OVERLAP else chr(10)}- {part} / the longest of collection, training, and CPU time of both over "
            f"{cores} cores: {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            + (verdict if part == OVERLAP else "")
        )
    return lines


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--n-envs", type=int, nargs="+", default=[16, 16, 4], help="for each task")
    parser.add_argument("--steps", type=int, default=150, help="vectorised environment steps in each part of a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=RESULTS / "overlap.md")
    args = parser.parse_args(arguments)

    th.set_num_threads(1)
    load = os.getloadavg()[0]
    lines = ["# Collection and learning, one after the other and overlapped", ""]
    lines += [f"Written by `scripts/speed/overlap.py`; {args.rounds} rounds of {args.steps} steps of all environments.", ""]
    lines += [f"{machine()}; one thread for the learner; load of the machine when it began: {load:.1f}"]
    for task, n_envs in zip(args.tasks, args.n_envs, strict=False):
        model = TASKS[task](n_envs)
        bench = Bench(model, args.steps)
        rounds = [bench.round() for _ in tqdm(range(args.rounds), desc=task)]
        lines += report(task, bench, rounds)
        assert model.env is not None
        model.env.close()
    text = "\n".join(lines) + "\n"
    write_report(text, args.output)
