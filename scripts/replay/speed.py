"""
Speed and memory of prioritized replay compared with Tianshou, cpprb, TorchRL and SB3's uniform buffer, on one core.

1. Indices: drawing 32 indices with their weights, and updating 32 priorities, without the transitions. Hot is after
   ten such calls; cold is after reading a large array, see --cold-mb.
2. Whole buffers: adding a vectorised step, sampling 32 transitions of four 84 x 84 frames, updating 32 priorities, and the
   resident memory of a full buffer. Frames are sections of a picture, moved by a random walk; episodes end after about 800
   steps, half of them truncated. The input of each peer is put into its own containers (TensorDict, Batch) before the clock
   starts. Buffers that store whole observations have a smaller capacity, so that all fit into memory at once.
3. One gradient step of Rainbow with its default network, for comparison.

Contenders take turns in every round, in random order; the numbers are medians over rounds. Whether a buffer returns what was
added is tested with short episodes: every sampled transition is compared with the added one. Peers that are not installed are
left out: pip install tianshou cpprb torchrl (TorchRL's extension must be built for the installed torch).
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))

import argparse
import ctypes
import datetime
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch as th
from shared import processor, versions, write_report
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import Logger
from tqdm import tqdm

from replay.peers import BATCH, Buffer, Indices, OurIndices, buffer_factories, index_factories
from replay.stream import N_ACTIONS, SHAPE, Stream
from sb3_distrl import Rainbow
from sb3_distrl.buffers import sum_tree

RESULTS = Path(__file__).parent / "results"

WARM_UP = 10  # draws and updates before the hot ones
PACKAGES = ("sb3-distrl", "stable-baselines3", "torch", "numpy", "numba", "tianshou", "cpprb", "torchrl", "tensordict")
MAX_DRAW_SHARE, MAX_OPTIMISED_SHARE = 0.01, 0.05  # of a gradient step

Timings = dict[str, list[float]]  # seconds of each round, by what was done


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    """:return: seconds that ``call`` takes, and what it returns"""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def median(seconds: list[float]) -> float:
    return float(np.median(seconds))


def resident() -> int:
    """:return: bytes of this process in memory, without what was freed and not given back, where that can be helped"""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not on Linux with glibc
        pass
    return psutil.Process().memory_info().rss


def installed(factories: dict[str, Callable[[], Any]], notes: list[str]) -> list[Any]:
    """
    :param factories: of contenders, by name
    :param notes: says which are left out
    :return: the contenders that can be made
    """
    made = []
    for name, factory in factories.items():
        try:
            made.append(factory())
        except (ImportError, RuntimeError) as error:  # TorchRL: its extension was built for another version of torch
            note = f"{name} is left out ({str(error).splitlines()[0]}): pip install tianshou cpprb torchrl numba"
            if note not in notes:
                notes.append(note)
    return made


def time_indices(capacity: int, rounds: int, cold_mb: int, notes: list[str]) -> dict[str, Timings]:
    """
    :param capacity: of all contenders, which are full of random priorities
    :param rounds: how often each takes its turn
    :param cold_mb: size of the array that is read to clear the caches
    :param notes: says who is left out
    :return: for each contender, the seconds of "draw hot", "update hot", "draw cold" and "update cold"
    """
    rng = np.random.default_rng(0)
    priorities = rng.random(capacity) + 0.1
    contenders: list[Indices] = installed(index_factories(capacity, priorities), notes)
    junk = np.zeros(cold_mb * 2**20 // 8)
    timings: dict[str, Timings] = {contender.name: {} for contender in contenders}
    for _ in tqdm(range(rounds), desc="indices", unit="round", mininterval=1):
        rng.shuffle(contenders)  # type: ignore[arg-type]
        for contender in contenders:
            new, seconds = rng.random(BATCH) + 0.1, {}
            contender.prepare()
            for _ in range(WARM_UP):
                contender.update(contender.draw(), new)
            seconds["draw hot"], indices = clock(contender.draw)
            seconds["update hot"], _ = clock(lambda: contender.update(indices, new))  # noqa: B023
            junk.sum()
            seconds["draw cold"], indices = clock(contender.draw)
            junk.sum()
            seconds["update cold"], _ = clock(lambda: contender.update(indices, new))  # noqa: B023
            for name, value in seconds.items():
                timings[contender.name].setdefault(name, []).append(value)
    sum_tree.compiled = OurIndices.compiled  # type: ignore[assignment]
    return timings


class Row(NamedTuple):
    """What was measured of a buffer."""

    buffer: str
    capacity: int
    prioritized: bool
    n_step: str
    bytes: float  # per transition
    timings: Timings  # "add", "sample" and, with priorities, "update"
    right: dict[str, str]  # of Right


RIGHT = ("observations", "next observations", "final ones of truncated episodes", "truncated, not terminated")


def check_contents(buffer: Buffer) -> dict[str, str]:
    """
    Add short episodes and compare what is sampled.

    :param buffer: an empty one; not with n-step returns
    :return: for each of ``RIGHT``, "yes" or how many of the sampled transitions are right
    """
    stream, added = Stream(buffer.n_envs, 1, 30), {}
    for _ in range(buffer.capacity * 3 // 2 // buffer.n_envs):
        step = stream.step()
        buffer.add(buffer.prepare(step))
        for i, number in enumerate(step.rewards):
            added[int(number)] = tuple(part[i] for part in step)
    checks: dict[str, list[bool]] = {name: [] for name in RIGHT}
    for _ in range(60):
        for obs, next_obs, number, terminated in zip(*buffer.contents(buffer.sample()), strict=True):
            true_obs, true_next_obs, _, _, done, truncated = added[int(number)]
            checks[RIGHT[0]].append(np.array_equal(obs, true_obs))
            if not done:
                checks[RIGHT[1]].append(np.array_equal(next_obs, true_next_obs))
            if truncated:
                checks[RIGHT[2]].append(np.array_equal(next_obs, true_next_obs))
                checks[RIGHT[3]].append(not terminated)
    return {name: "yes" if all(right) else f"{np.mean(right):.0%}" for name, right in checks.items()}


def time_buffers(capacity: int, whole_capacity: int, n_envs: int, rounds: int, notes: list[str]) -> list[Row]:
    """
    :param capacity: of buffers that keep each frame once
    :param whole_capacity: of the others
    :param n_envs: number of environments
    :param rounds: how often each takes its turn
    :param notes: says who is left out
    :return: what was measured of each
    """
    rows = []
    contenders: list[tuple[Buffer, Stream]] = []
    for factory in buffer_factories(capacity, whole_capacity, n_envs).values():
        before, stream = resident(), Stream(n_envs, 0, 800)
        made = installed({"": factory}, [])
        for buffer in made:
            for _ in tqdm(range(int(1.05 * buffer.capacity) // n_envs), desc=buffer.name, unit="step", mininterval=1):
                buffer.add(buffer.prepare(stream.step()))
            size = (resident() - before) / buffer.capacity
            contenders.append((buffer, stream))
            rows.append(Row(buffer.name, buffer.capacity, buffer.prioritized, buffer.n_step, size, {}, {}))
    rng = np.random.default_rng(0)
    for _ in tqdm(range(rounds), desc=f"{n_envs} environments", unit="round", mininterval=1):
        for place in rng.permutation(len(rows)):
            (buffer, stream), row = contenders[place], rows[place]
            prepared, priorities = buffer.prepare(stream.step()), rng.random(BATCH) + 0.1
            row.timings.setdefault("add", []).append(clock(lambda: buffer.add(prepared))[0])  # noqa: B023
            seconds, batch = clock(buffer.sample)
            row.timings.setdefault("sample", []).append(seconds)
            if buffer.prioritized:
                seconds, _ = clock(lambda: buffer.update(batch, priorities))  # noqa: B023
                row.timings.setdefault("update", []).append(seconds)
    for small, row in zip(installed(buffer_factories(400, 400, n_envs), notes), rows, strict=True):
        if "n_steps" not in row.buffer:
            row.right.update(check_contents(small))
    return rows


# The gradient step


def time_gradient_steps(rounds: int) -> list[float]:
    """
    :param rounds: number of gradient steps
    :return: seconds of each: Rainbow with its default network and a batch of 32 on one core, without the sampling
    """
    env = FakeImageEnv(N_ACTIONS, *SHAPE[1:], n_channels=SHAPE[0], channel_first=True)
    model = Rainbow("CnnPolicy", env, buffer_size=1000, batch_size=BATCH, seed=0, device="cpu")
    model.set_logger(Logger(None, []))
    model.policy.set_training_mode(True)
    stream, seconds = Stream(1, 0, 800), []
    buffer = model.replay_buffer
    assert buffer is not None
    for _ in range(500):
        step = stream.step()
        buffer.add(*step[:-1], [{}])
    for _ in tqdm(range(rounds + 2), desc="gradient steps", mininterval=1):
        batch = model.sample(BATCH)
        seconds.append(clock(lambda: model.gradient_step(batch))[0])  # noqa: B023
    return seconds[2:]


# Report


def spread(seconds: list[float], unit: float) -> str:
    """:return: the median and the quartiles, in units of so many seconds"""
    low, middle, high = np.percentile(seconds, [25, 50, 75]) / unit
    return f"{middle:.3g} ({low:.3g}..{high:.3g})"


def index_table(timings: dict[str, Timings]) -> str:
    """:return: a markdown table with a row for each contender"""
    columns = ("draw hot", "update hot", "draw cold", "update cold")
    sums = {
        name: [median(t[f"draw {heat}"]) + median(t[f"update {heat}"]) for heat in ("hot", "cold")]
        for name, t in timings.items()
    }
    ours = next(iter(sums.values()))
    text = f"| | {', us | '.join(columns)}, us | sum hot, us | sum cold, us | hot / ours | cold / ours |\n|---|{'---:|' * 8}"
    for name, t in timings.items():
        cells = [spread(t[column], 1e-6) for column in columns] + [f"{value * 1e6:.1f}" for value in sums[name]]
        cells += [f"{value / our:.2f}" for value, our in zip(sums[name], ours, strict=True)]
        text += f"\n| {name} | {' | '.join(cells)} |"
    return text


def buffer_table(rows: list[Row]) -> str:
    """:return: a markdown table with a row for each buffer"""
    text = f"| | capacity | bytes per transition | add a step, ms | sample 32, ms | update 32, ms |\n|---|{'---:|' * 5}"
    for row in rows:
        cells = [f"{row.capacity:,}", f"{row.bytes:,.0f}"]
        cells += [spread(row.timings[what], 1e-3) if what in row.timings else "-" for what in ("add", "sample", "update")]
        text += f"\n| {row.buffer} | {' | '.join(cells)} |"
    return text


def right_table(rows: list[Row]) -> str:
    """:return: a markdown table of what each buffer has, and of what it gives back as it was given"""
    text = f"| | prioritized | n-step returns | {' | '.join(RIGHT)} |\n|---|{'---|' * (2 + len(RIGHT))}"
    for row in rows:
        if row.right:
            cells = ["yes" if row.prioritized else "no", row.n_step, *row.right.values()]
            text += f"\n| {row.buffer} | {' | '.join(cells)} |"
    return text


def shares(timings: dict[str, Timings], rows: list[Row], gradient: float) -> list[str]:
    """
    :param timings: of the indices
    :param rows: of one environment
    :param gradient: median seconds of a gradient step
    :return: what replay costs in terms of gradient steps, a line for each
    """
    lines = [f"- A gradient step of Rainbow takes {gradient * 1e3:.1f} ms."]
    for name, t in timings.items():
        if name.startswith("sb3_distrl"):
            hot, cold = ((median(t[f"draw {heat}"]) + median(t[f"update {heat}"])) / gradient for heat in ("hot", "cold"))
            verdict = f"{'at most' if cold <= MAX_DRAW_SHARE else 'more than'} {MAX_DRAW_SHARE:.0%}"
            lines.append(f"- {name}: drawing and updating 32 takes {hot:.2%} of it hot, {cold:.2%} cold: {verdict}.")
    costs = {row.buffer: median(row.timings["sample"]) + 4 * median(row.timings["add"]) for row in rows}
    more = (costs["sb3_distrl, optimize_memory_usage"] - costs["sb3_distrl, plain"]) / gradient
    verdict = "under" if more < MAX_OPTIMISED_SHARE else "not under"
    lines.append(
        f"- Sampling 32 and adding 4 steps of one environment take {more:+.2%} of it more with optimize_memory_usage than "
        f"without: {verdict} {MAX_OPTIMISED_SHARE:.0%}."
    )
    return lines


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of prioritized replay beside its peers, on one core.")
    parser.add_argument("--index-capacity", type=int, default=1_000_000)
    parser.add_argument("--capacity", type=int, default=100_000, help="of buffers that keep each frame once")
    parser.add_argument("--whole-capacity", type=int, default=30_000, help="of buffers that keep whole observations")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--gradient-steps", type=int, default=30)
    parser.add_argument("--cold-mb", type=int, default=256, help="size of what is read to clear the caches")
    parser.add_argument("--note", default="", help="a line for the results")
    parser.add_argument("--output", type=Path, default=RESULTS / "speed.md")
    args = parser.parse_args(arguments)

    th.set_num_threads(1)
    np.random.seed(0)
    start, notes = time.perf_counter(), [args.note] if args.note else []
    timings = time_indices(args.index_capacity, args.rounds, args.cold_mb, notes)
    gc.collect()
    one, eight = (time_buffers(args.capacity, args.whole_capacity, n_envs, args.rounds, notes) for n_envs in (1, 8))
    gradient_steps = time_gradient_steps(args.gradient_steps)

    text = f"""# Speed and memory of prioritized replay

Written by `scripts/replay/speed.py`, whose docstring says what is measured and how. Numbers are medians (with quartiles) of
{args.rounds} rounds in which the contenders take turns in random order; the seed of all streams is 0.

- {versions(*PACKAGES)}
- {processor()}, one thread; {datetime.date.today()}; {(time.perf_counter() - start) / 60:.0f} minutes
{"".join(f"- {note}{chr(10)}" for note in notes)}
## Indices

32 of {args.index_capacity:,} transitions with random priorities; cold: after reading {args.cold_mb} MiB.

{index_table(timings)}

## One environment

{buffer_table(one)}

## Eight environments

A step adds eight transitions.

{buffer_table(eight)}

## What they give back

Whether the sampled transitions of short episodes, with stacks padded by zeros, are to the bit what was added, or which share
of them is; with one environment and with eight. Tianshou, with these settings, pads stacks by repeating the first frame, and
takes an episode's last observation for its final one; SB3, with optimize_memory_usage, takes the first one of the next.

{right_table(one)}

{right_table(eight)}

## Beside a gradient step

{chr(10).join(shares(timings, one, median(gradient_steps)))}
- Quartiles of {args.gradient_steps} gradient steps, ms: {spread(gradient_steps, 1e-3)}
"""
    write_report(text, args.output)
