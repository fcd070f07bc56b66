"""
Environment steps per second of Atari vector environments: SB3's, AtariVecEnv, and ale-py's own without an adapter.

All play the same game with SB3's preprocessing and random actions, on the cores that this process may use. In every round
they take turns, in random order, and each continues where it was. Besides medians over the rounds, ratios to AtariVecEnv are
given as medians of the ratios within each round, since other work on the machine slows down a round as a whole.

AtariVecEnv plays three more steps after each loss of a life, as SB3 does (no-op, FIRE, action 2); ale-py alone does not. The
cost of the adapter itself is therefore measured where the loss of a life does not end an episode.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import numpy as np
import torch as th
from ale_py import AtariVectorEnv
from shared import processor, versions, write_report
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack
from tqdm import tqdm

from sb3_distrl.envs import AtariVecEnv

RESULTS = Path(__file__).parent / "results"

PACKAGES = ("sb3-distrl", "stable-baselines3", "ale-py", "gymnasium", "numpy", "opencv-python-headless", "opencv-python")
WARM_UP = 20  # steps before the first round
OURS, OURS_GAMES, BARE, BARE_GAMES = "AtariVecEnv", "AtariVecEnv, games", "ale-py alone", "ale-py alone, games"
SUBPROC, SUBPROC_GAMES, DUMMY = "SubprocVecEnv", "SubprocVecEnv, games", "DummyVecEnv"
MIN_FASTER, MAX_COST = 2.5, 0.1  # than SubprocVecEnv; of ale-py's own time


def make_envs(env_id: str, n_envs: int) -> dict[str, Any]:
    """
    :param env_id: of ale-py, without frame skip
    :param n_envs: number of games
    :return: vector environments by name; in those called games, the loss of a life does not end an episode
    """

    def bare(**kwargs: Any) -> AtariVectorEnv:
        game = gymnasium.spec(env_id).kwargs["game"]
        return AtariVectorEnv(game, n_envs, autoreset_mode="SameStep", reward_clipping=True, **kwargs)

    def sb3(**kwargs: Any) -> VecFrameStack:
        return VecFrameStack(make_atari_env(f"ale_py:{env_id}", n_envs, seed=0, **kwargs), 4)

    return {
        DUMMY: sb3(),
        SUBPROC: sb3(vec_env_cls=SubprocVecEnv),
        SUBPROC_GAMES: sb3(vec_env_cls=SubprocVecEnv, wrapper_kwargs=dict(terminal_on_life_loss=False)),
        OURS: AtariVecEnv(env_id, n_envs, seed=0),
        OURS_GAMES: AtariVecEnv(env_id, n_envs, seed=0, terminal_on_life_loss=False),
        BARE: bare(life_loss_info=True),
        BARE_GAMES: bare(),
    }


def seconds(step: Callable[[np.ndarray], Any], actions: np.ndarray) -> float:
    """:return: seconds of the steps, actions having shape [steps, n_envs]"""
    start = time.perf_counter()
    for action in actions:
        step(action)
    return time.perf_counter() - start


def measure(envs: dict[str, Any], n_actions: int, n_envs: int, steps: int, rounds: int) -> dict[str, np.ndarray]:
    """:return: for each environment, seconds of each round"""
    rng = np.random.default_rng(0)
    names = list(envs)
    timings: dict[str, list[float]] = {name: [] for name in envs}
    for env in envs.values():
        env.reset()
        seconds(env.step, rng.integers(0, n_actions, (WARM_UP, n_envs)))
    for _ in tqdm(range(rounds), unit="round", mininterval=1):
        actions = rng.integers(0, n_actions, (steps, n_envs))
        rng.shuffle(names)
        for name in names:
            timings[name].append(seconds(envs[name].step, actions))
    return {name: np.array(times) for name, times in timings.items()}


def table(timings: dict[str, np.ndarray], n_steps: int) -> str:
    """
    :param timings: seconds of each round
    :param n_steps: environment steps of a round
    :return: a markdown table with a row for each environment
    """
    text = "| | steps/s (quartiles) | speed / DummyVecEnv | speed / SubprocVecEnv |\n|---|---:|---:|---:|"
    for name, times in timings.items():
        middle, low, high = n_steps / np.percentile(times, [50, 75, 25])
        ratios = [f"{np.median(timings[other] / times):.2f}" for other in (DUMMY, SUBPROC)]
        text += f"\n| {name} | {middle:,.0f} ({low:,.0f}..{high:,.0f}) | {' | '.join(ratios)} |"
    return text


def verdicts(timings: dict[str, np.ndarray]) -> str:
    """:return: what the numbers mean, in Markdown"""
    lines = []
    for ours, subproc in ((OURS, SUBPROC), (OURS_GAMES, SUBPROC_GAMES)):
        faster = float(np.median(timings[subproc] / timings[ours]))
        verdict = "at least" if faster >= MIN_FASTER else "less than"
        lines.append(f"- {ours}: {faster:.2f} times the speed of {subproc}: {verdict} {MIN_FASTER}.")
    for ours, bare in ((OURS_GAMES, BARE_GAMES), (OURS, BARE)):
        cost = float(np.median(timings[ours] / timings[bare])) - 1
        verdict = "at most" if cost <= MAX_COST else "more than"
        lines.append(f"- {ours} takes {cost:+.1%} of the time of {bare} more: {verdict} {MAX_COST:.0%}.")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Environment steps per second of Atari vector environments.")
    parser.add_argument("--env", default="BreakoutNoFrameskip-v4")
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200, help="vector steps of a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--note", default="", help="a line for the results")
    parser.add_argument("--output", type=Path, default=RESULTS / "collection.md")
    args = parser.parse_args(arguments)

    gymnasium.register_envs(ale_py)
    th.set_num_threads(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    envs = make_envs(args.env, args.n_envs)
    timings = measure(envs, int(envs[OURS].action_space.n), args.n_envs, args.steps, args.rounds)
    for env in envs.values():
        env.close()
    text = f"""# Speed of collecting Atari steps

Written by `scripts/speed/collection.py`, whose docstring says what is measured and how. {args.n_envs} environments of
{args.env}; {args.rounds} rounds of {args.steps:,} vector steps; a step is 4 frames. In those called games, the loss of a life
does not end an episode.

- {versions(*PACKAGES)}
- {processor()}, {cores} cores; {datetime.date.today()}; load of the machine when it began: {load}
{f"- {args.note}{chr(10)}" if args.note else ""}
{table(timings, args.steps * args.n_envs)}

{verdicts(timings)}
"""
    write_report(text, args.output)
