"""
Speed of learning compared with peers: this library, SB3's DQN, sb3-contrib's QRDQN, PFRL, Tianshou and CleanRL.

learner: a whole gradient step, i.e. sampling from replay, computing, updating priorities, with each library's own code.
    Contenders of a family have the same network, batch size, losses and Adam settings, and replay full of the same transitions
    of four 84 x 84 frames. They take turns in every round, in random order. A turn is several gradient steps, its result is
    their mean, and ratios are within a round. The floors are those of ``floor.py``.
end-to-end: steps of PongNoFrameskip-v4 per second in each library's own training loop, with SB3's preprocessing, one
    environment, and a gradient step every fourth step, for Rainbow. Also in turns; timing starts when learning starts.
memory: the most that a separate process needs for a learner with full replay.

Each contender has its own process, which sleeps when it is not its turn, so that what one does to its process, such as the
way memory is freed, neither helps nor harms the others. Contenders that are not installed are left out, and so is what a
version of this library does not offer: pip install tianshou pfrl, and --cleanrl PATH for CleanRL's rainbow_atari.py, which
need not be installed. ``collection.py`` measures the speed of environments alone.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import fnmatch
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import psutil
import torch as th
from shared import make_env, write_report
from stable_baselines3.common.atari_wrappers import AtariWrapper
from tqdm import tqdm

from speed.contenders import (
    ADAM,
    LEARNING_STARTS,
    Contender,
    Settings,
    Timings,
    fill,
    our_factories,
    take_turn,
    time_turns,
    warm_up,
)
from speed.floor import floor_factories
from speed.peers import peer_factories
from speed.report import Results, report

RESULTS = Path(__file__).parent / "results"

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
PARTS = ("learner", "end-to-end", "memory")
ENV = "PongNoFrameskip-v4"
FIRST_STEPS = LEARNING_STARTS + 100  # in the environment, before the clock starts


class Job(NamedTuple):
    """What a process measures."""

    settings: Settings
    threads: int
    rounds: int
    steps: int  # in a round: gradient steps, or those of the environment
    wanted: tuple[str, ...] = ("*",)  # contenders' names, or patterns


def factories(job: Job, floors: bool = True) -> dict[str, Callable[..., Contender]]:
    """
    :param job: whose contenders
    :param floors: whether those are among them
    :return: what makes the wanted contenders, by name
    """
    found = {**our_factories(job.settings), **peer_factories(job.settings)}
    if floors:
        found.update(floor_factories(job.settings))
    return {name: make for name, make in found.items() if any(fnmatch.fnmatchcase(name, wanted) for wanted in job.wanted)}


def pong(name: str) -> Any:
    """:return: the environment for a contender; all have SB3's preprocessing"""
    env = make_env(ENV, seed=0)  # which registers it
    if name.startswith("sb3_distrl"):
        return env
    env.close()
    frames = gymnasium.wrappers.ReshapeObservation(AtariWrapper(gymnasium.make(ENV)), (84, 84))
    return gymnasium.wrappers.FrameStackObservation(frames, 4)


def peak_memory() -> int:
    """:return: most bytes that this process has had in memory"""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return psutil.Process().memory_info().rss


# In the process of a contender

contender: Contender


def make(job: Job, name: str, training: bool) -> str | None:
    """
    Make the contender and do its first steps.

    :param job: what is measured
    :param name: of the contender
    :param training: in Pong, instead of gradient steps on a full buffer
    :return: why it cannot be made
    """
    global contender
    th.set_num_threads(job.threads)
    np.random.seed(0)
    try:
        contender = factories(job)[name](env=pong(name) if training else None)
    except (ImportError, RuntimeError, ValueError) as error:
        return f"{name} is left out: {str(error).splitlines()[0]}"
    if training:
        contender.run(FIRST_STEPS)
    else:
        fill(contender)
        warm_up(contender)
    return None


def turn(steps: int, training: bool) -> dict[str, float]:
    """:return: what ``take_turn`` returns of this process's contender"""
    return take_turn(contender, steps, training)


def memory() -> int:
    """:return: bytes that this process has"""
    return psutil.Process().memory_info().rss


# In the first process


def process(threads: int) -> concurrent.futures.ProcessPoolExecutor:
    """:return: a new process"""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)), TORCHINDUCTOR_COMPILE_THREADS="1")  # no more processes
    pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    away(pool, memory)  # starts it with these variables
    return pool


def away(pool: concurrent.futures.Executor, function: Callable[..., Any], *args: Any) -> Any:
    """:return: what the function returns, called in that process"""
    return pool.submit(function, *args).result()


def measure_speed(job: Job, notes: list[str], training: bool = False) -> Timings:
    """
    :param job: what to measure
    :param notes: says who is left out
    :param training: in Pong, instead of gradient steps
    :return: seconds per step of each contender and part
    """
    with contextlib.ExitStack() as stack:
        turns: dict[str, Callable[[], dict[str, float]]] = {}
        title = f"{'Pong' if training else job.settings.family}, {job.threads} thread(s)"
        for name in tqdm(factories(job, floors=not training), desc=f"{title}: contenders"):
            pool = process(job.threads)
            note = away(pool, make, job, name, training)
            if note is None:
                stack.enter_context(pool)
                turns[name] = partial(away, pool, turn, job.steps, training)
            else:
                pool.shutdown()
                notes += [note] * (note not in notes)
        return time_turns(turns, job.rounds, title)


def measure_memory(job: Job, notes: list[str]) -> dict[str, tuple[int, int]]:
    """
    :param job: what to measure
    :param notes: says who is left out
    :return: by contender, the bytes of its process before it was made, and the most that it had
    """
    job, found = job._replace(settings=job.settings._replace(whole=job.settings.buffer)), {}
    for name in factories(job, floors=False):
        with process(job.threads) as pool:
            before = away(pool, memory)
            note = away(pool, make, job, name, False)
            if note is None:
                found[name] = before, away(pool, peak_memory)
            elif note not in notes:
                notes.append(note)
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Speed of learning beside the peers'.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--families", nargs="+", choices=ADAM, default=list(ADAM))
    parser.add_argument("--contenders", nargs="+", default=["*"], help="names or patterns, e.g. 'sb3_distrl*' PFRL floor")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5, help="gradient steps in a turn")
    parser.add_argument("--buffer", type=int, default=100_000, help="transitions in replay")
    parser.add_argument("--whole", type=int, default=20_000, help="transitions for replay that keeps whole observations")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--pong-rounds", type=int, default=10)
    parser.add_argument("--pong-steps", type=int, default=200, help="environment steps in a turn")
    parser.add_argument("--device", default="cpu", help="of learners; on cuda, parts of a step overlap and say little")
    parser.add_argument("--cleanrl", help="path of CleanRL's rainbow_atari.py")
    parser.add_argument("--note", default="", help="a line for the results")
    parser.add_argument("--output", type=Path, default=RESULTS / "speed.md")
    args = parser.parse_args(arguments)

    start = time.perf_counter()
    results = Results({}, {}, {}, [args.note] if args.note else [])

    def job(family: str, threads: int, rounds: int = args.rounds, steps: int = args.steps) -> Job:
        settings = Settings(family, args.buffer, args.whole, args.batch_size, args.device, args.cleanrl)
        return Job(settings, threads, rounds, steps, tuple(args.contenders))

    for threads in args.threads:
        for family in args.families if "learner" in args.parts else ():
            results.learner[family, threads] = measure_speed(job(family, threads), results.notes)
        if "end-to-end" in args.parts:
            pong_job = job("rainbow", threads, args.pong_rounds, args.pong_steps)
            results.end_to_end[threads] = measure_speed(pong_job, results.notes, training=True)
    for family in args.families if "memory" in args.parts else ():
        results.memory[family] = measure_memory(job(family, 1), results.notes)

    minutes = (time.perf_counter() - start) / 60
    settings = {name: value for name, value in vars(args).items() if name not in ("output", "note", "cleanrl")}
    text = report(results, settings, f"{datetime.date.today()}; {minutes:.0f} minutes")
    write_report(text, args.output)
