"""
Resident memory of a million Atari transitions in the replay buffer with optimize_memory_usage, and a check that nothing is
lost.

Without --compare: random play of Pong with SB3's preprocessing, with true final observations, as SB3's algorithms add them.
The memory is that of the process after adding minus before. With --save, the buffer is also saved and loaded: this measures
the speed, and the additional memory at the peak (without pages of the file itself, which the system can drop).

With --compare: the same steps are added to a buffer with optimize_memory_usage and to one without, beyond the capacity of
both. Samples from the same random state must be equal to the bit. If episodes are so short that the optimised buffer has
dropped transitions that the other one still has, the two draw different indices; then the other buffer's transitions at the
optimised buffer's indices are compared.
"""

import argparse
import datetime
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ale_py
import gymnasium
import numpy as np
import psutil
import torch as th
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from shared import locked, machine, make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from tqdm import tqdm

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.common.files import load_object, save_object

RESULTS = Path(__file__).parent / "results"

PONG, BREAKOUT = "PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"
N_STEPS, GAMMA = 3, 0.99
MAX_FRAMES = 3600  # of an episode with Gymnasium's wrappers, so that some are truncated
BATCH = 256
COMPARE_EVERY = 1000  # transitions
SAMPLE = 32


def with_gymnasium(env_id: str, n_envs: int, seed: int) -> VecEnv:
    """
    :param env_id: Atari game
    :param n_envs: number of environments
    :param seed: seed
    :return: games with Gymnasium's wrappers, whose stacks are padded by the first frame, truncated after ``MAX_FRAMES``
    """

    def make() -> gymnasium.Env:
        env = gymnasium.make(env_id, max_episode_steps=MAX_FRAMES)
        return FrameStackObservation(AtariPreprocessing(env), stack_size=4)

    return make_vec_env(make, n_envs, seed)


def play(env: VecEnv, seed: int) -> Iterator[tuple[Any, ...]]:
    """
    Random play.

    :param env: games
    :param seed: of the actions
    :return: endless arguments for the ``add`` of a buffer: what SB3's ``OffPolicyAlgorithm`` would add
    """
    rng = np.random.default_rng(seed)
    obs = env.reset()
    while True:
        actions = rng.integers(0, env.action_space.n, env.num_envs)  # type: ignore[attr-defined]
        new_obs, rewards, dones, infos = env.step(actions)
        next_obs = np.array(new_obs)
        for i in np.flatnonzero(dones):
            next_obs[i] = infos[i]["terminal_observation"]
        yield obs, next_obs, actions, rewards, dones, infos
        obs = new_obs


# Memory


def resident() -> int:
    """:return: bytes of this process in memory"""
    gc.collect()
    return psutil.Process().memory_info().rss


def own_memory() -> int:
    """:return: bytes of this process in memory, without pages of files where the system counts them"""
    info = psutil.Process().memory_info()
    return info.rss - getattr(info, "shared", 0)


def with_peak(call: Callable[[], Any]) -> tuple[Any, float, int]:
    """:return: what ``call`` returns, seconds, and the largest own memory meanwhile, looked at every few milliseconds"""
    peak, done = own_memory(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    try:
        result = call()
    finally:
        seconds = time.perf_counter() - start
        done.set()
        thread.join()
    return result, seconds, max(peak, own_memory())


def array_bytes(thing: Any) -> int:
    """:return: bytes of all arrays in an object's attributes, however deep"""
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, list | tuple | dict):
        return sum(array_bytes(part) for part in (thing.values() if isinstance(thing, dict) else thing))
    return array_bytes(vars(thing)) if type(thing).__module__.startswith(("sb3_distrl", "stable_baselines3")) else 0


def make_buffer(env: VecEnv, capacity: int, optimise: bool = True) -> PrioritizedReplayBuffer:
    """:return: an empty buffer for an environment's transitions"""
    return PrioritizedReplayBuffer(
        capacity,
        env.observation_space,
        env.action_space,
        device="cpu",
        n_envs=env.num_envs,
        optimize_memory_usage=optimise,
        n_steps=N_STEPS,
        gamma=GAMMA,
    )


def others(env: VecEnv, step: tuple[Any, ...]) -> dict[str, float]:
    """
    :param env: games
    :param step: of them
    :return: bytes per transition in other buffers' arrays, from buffers of 1024 transitions
    """
    plain = make_buffer(env, 1024, optimise=False)
    plain.add(*step)
    spaces = env.observation_space, env.action_space
    sb3 = ReplayBuffer(1024, *spaces, n_envs=env.num_envs)
    small = ReplayBuffer(1024, *spaces, n_envs=env.num_envs, optimize_memory_usage=True, handle_timeout_termination=False)
    buffers = {"without optimize_memory_usage": plain, "SB3's ReplayBuffer": sb3, "SB3's with optimize_memory_usage": small}
    return {name: array_bytes(buffer) / (buffer.buffer_size * buffer.n_envs) for name, buffer in buffers.items()}


def save_and_load(buffer: PrioritizedReplayBuffer, path: Path) -> tuple[PrioritizedReplayBuffer, list[str]]:
    """
    :param buffer: a buffer, which is taken apart from whoever holds it
    :param path: file
    :return: the buffer that was loaded, and what to report
    """
    gc.collect()
    before = own_memory()
    _, save_seconds, save_peak = with_peak(lambda: save_object(path, buffer))
    size = path.stat().st_size
    loaded, load_seconds, load_peak = with_peak(lambda: load_object(path))
    both = own_memory()
    return loaded, [
        f"- Saved in {save_seconds:.1f} s, {size / save_seconds / 1e6:.0f} MB/s: a file of {size / 1e9:.2f} GB; "
        f"{max(save_peak - before, 0) / 1e6:.0f} MB of memory on top",
        f"- Loaded in {load_seconds:.1f} s, {size / load_seconds / 1e6:.0f} MB/s; "
        f"{max(load_peak - both, 0) / 1e6:.0f} MB of memory on top of the loaded buffer",
    ]


def sample_with(buffer: PrioritizedReplayBuffer, state: Any, batch_size: int = BATCH) -> Any:
    """:return: a sample from a given state of numpy's random generator"""
    np.random.set_state(state)
    return buffer.sample(batch_size)


def same(a: Any, b: Any) -> bool:
    """:return: whether all fields of two samples are equal to the bit"""
    return all(np.array_equal(np.asarray(x), np.asarray(y)) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def measure(steps: int, n_envs: int, seed: int, subprocesses: bool, save: Path | None) -> tuple[str, bool]:
    """
    :param steps: transitions to add, and the buffer's capacity
    :param n_envs: number of environments
    :param seed: seed
    :param subprocesses: one for each environment
    :param save: file to save the buffer to, or ``None``
    :return: the report, and whether the buffer was right
    """
    env = make_env(PONG, seed, n_envs=n_envs, vec_env_cls=SubprocVecEnv if subprocesses else None)
    game = play(env, seed)
    small = make_buffer(env, 100 * n_envs)  # so that code and the games have their memory already
    for _ in range(200):
        step = next(game)
        small.add(*step)
    small.sample(SAMPLE)
    needs = others(env, step)
    del small

    before, start, episodes = resident(), time.perf_counter(), 0
    buffer = make_buffer(env, steps)
    capacity = buffer.buffer_size * n_envs
    with tqdm(total=capacity, desc=PONG, unit="step", mininterval=1) as progress:
        for _ in range(buffer.buffer_size):
            step = next(game)
            buffer.add(*step)
            episodes += int(step[4].sum())
            progress.update(n_envs)
    seconds = time.perf_counter() - start
    ours = (resident() - before) / capacity
    env.close()

    drawable = int(np.count_nonzero(buffer.tree[np.arange(capacity)]))
    start_of_check = time.perf_counter()
    buffer.check_valid()
    lines = [
        f"Random play of {PONG} in {n_envs} environments, seed {seed}, stacks of four 84 x 84 frames, n_steps={N_STEPS}: "
        f"{capacity:,} transitions in a buffer of {capacity:,}.",
        "",
        "| | bytes per transition | all, GB | of optimize_memory_usage |",
        "|---|---:|---:|---:|",
        f"| with optimize_memory_usage (resident) | {ours:,.0f} | {ours * capacity / 1e9:.2f} | 1.0 |",
    ]
    lines += [
        f"| {name} (size of its arrays) | {need:,.0f} | {need * capacity / 1e9:.2f} | {need / ours:.1f} |"
        for name, need in needs.items()
    ]
    lines += [
        "",
        f"- {episodes:,} episodes ended, {capacity / max(episodes, 1):.0f} transitions each",
        f"- {drawable:,} of {capacity:,} transitions can be drawn",
        f"- check_valid() passed, in {time.perf_counter() - start_of_check:.1f} s",
        f"- {seconds / 60:.1f} minutes, {capacity / seconds:.0f} steps/s",
    ]
    right = True
    if save is not None:
        state = np.random.get_state()
        sample = sample_with(buffer, state)
        loaded, report = save_and_load(buffer, save)
        right = same(sample, sample_with(loaded, state))
        loaded.check_valid()
        lines += [*report, f"- The loaded buffer passes check_valid() and gives the same sample: {right}"]
    return "\n".join(lines), right


# Comparison


class Comparison(NamedTuple):
    """What was compared of one kind of environment."""

    name: str
    steps: int
    episodes: int
    truncated: int
    sampled: int  # transitions of whole samples from the same random state
    by_index: int  # transitions compared by their indices, where the optimised buffer has fewer
    lost: int  # transitions that the optimised buffer could not draw at the end
    different: int


def compare(name: str, env: VecEnv, steps: int, capacity: int, seed: int) -> Comparison:
    """
    :param name: of the environment
    :param env: games
    :param steps: transitions
    :param capacity: of both buffers
    :param seed: of actions and samples
    :return: what was found
    """
    plain, optimised = make_buffer(env, capacity, optimise=False), make_buffer(env, capacity)
    rng = np.random.default_rng(seed)
    np.random.seed(seed)
    episodes = truncated = sampled = by_index = different = 0
    game, total = play(env, seed), capacity // env.num_envs * env.num_envs
    for i in tqdm(range(1, steps // env.num_envs + 1), desc=name, unit=" vectorised steps", mininterval=1):
        step = next(game)
        plain.add(*step)
        optimised.add(*step)
        episodes += int(step[4].sum())
        truncated += sum(info.get("TimeLimit.truncated", False) for info in step[5])
        if i % (COMPARE_EVERY // env.num_envs) == 0:
            state, every = np.random.get_state(), np.arange(total)
            ours = sample_with(optimised, state)
            if np.array_equal(optimised.tree[every], plain.tree[every]):
                theirs = sample_with(plain, state)
                sampled += BATCH
            else:
                theirs = plain.transitions(ours.indices, ours.weights.numpy()[:, 0])
                by_index += BATCH
            different += (
                0 if same(ours, theirs) else sum(not same(*pair) for pair in zip(*map(rows, (ours, theirs)), strict=True))
            )
            priorities = rng.random(BATCH)
            plain.update_priorities(ours.indices, priorities)
            optimised.update_priorities(ours.indices, priorities)
    optimised.check_valid()
    plain.check_valid()
    lost = np.count_nonzero(plain.tree[every]) - np.count_nonzero(optimised.tree[every])
    env.close()
    return Comparison(name, i * env.num_envs, episodes, truncated, sampled, by_index, int(lost), different)


def rows(sample: Any) -> list[tuple[Any, ...]]:
    """:return: the fields of each transition of a sample"""
    return [tuple(np.asarray(field)[i] for field in sample) for i in range(len(sample.indices))]


def compare_all(steps: int, capacity: int, n_envs: int, seed: int) -> tuple[str, bool]:
    """
    :param steps: transitions of each kind of environment
    :param capacity: of the buffers
    :param n_envs: number of environments
    :param seed: seed
    :return: the report, and whether all was the same
    """
    makers: dict[str, Callable[[], VecEnv]] = {
        f"{PONG}, VecFrameStack": lambda: make_env(PONG, seed, n_envs=n_envs),
        f"{PONG}, FrameStackObservation": lambda: with_gymnasium(PONG, n_envs, seed),
        f"{BREAKOUT}, VecFrameStack, an episode per life": lambda: make_env(BREAKOUT, seed, n_envs=n_envs),
    }
    results = [compare(name, make(), steps, capacity, seed) for name, make in makers.items()]
    lines = [
        f"{n_envs} environments, seed {seed}, buffers of {capacity:,} transitions, n_steps={N_STEPS}. Every {COMPARE_EVERY} "
        f"transitions {BATCH} are sampled from both buffers, in all fields, and given new random priorities.",
        "",
        "| | steps | episodes | truncated | sampled from the same random state | compared by index | lost by the optimised | "
        "different |",
        f"|---|{'---:|' * 7}",
    ]
    lines += [f"| {' | '.join(f'{x:,}' if isinstance(x, int) else x for x in result)} |" for result in results]
    right = not any(result.different for result in results)
    lines += ["", f"- {sum(r.sampled + r.by_index for r in results):,} transitions compared, all identical: {right}"]
    return "\n".join(lines), right


def write_section(path: Path, title: str, text: str) -> None:
    """
    Write a section of the results, and leave the other one as it is.

    :param path: markdown file
    :param title: of the section
    :param text: what it says
    """
    head = "# Memory of the replay buffer with optimize_memory_usage\n\nWritten by `scripts/replay/memory.py`.\n"
    new = f"{title}\n\n{text}\n"
    with locked(path):
        sections = path.read_text().split("\n## ")[1:] if path.exists() else []
        kept = [section for section in sections if not section.startswith(title)]
        path.write_text("\n## ".join([head, *sorted([*kept, new])]))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Resident memory of Atari transitions in the replay buffer.")
    parser.add_argument("--steps", type=int, help="transitions (default: 1,000,000; 50,000 with --compare)")
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subprocesses", action="store_true", help="a process for each environment")
    parser.add_argument("--save", type=Path, help="save the buffer to this file and load it, too")
    parser.add_argument("--compare", action="store_true", help="compare with a buffer without optimize_memory_usage instead")
    parser.add_argument("--capacity", type=int, default=20_000, help="of the buffers with --compare")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.md")
    args = parser.parse_args(arguments)

    gymnasium.register_envs(ale_py)
    th.set_num_threads(1)
    if args.compare:
        title = "The same as without it"
        text, right = compare_all(args.steps or 50_000, args.capacity, args.n_envs, args.seed)
    else:
        title = "Resident memory"
        text, right = measure(args.steps or 1_000_000, args.n_envs, args.seed, args.subprocesses, args.save)
    text += f"\n- {machine()}; {datetime.date.today()}"
    write_section(args.output, title, text)
    print(f"## {title}\n\n{text}")
    if not right:
        sys.exit(1)
