"""
Blind Cliffwalk: how many fewer updates prioritized replay needs than uniform replay (Schaul et al. 2016, Prioritized
Experience Replay, section 3.1, figure 2 and appendix B.1), with the library's own ``PrioritizedReplayBuffer``.

As in appendix B.1: the memory holds what all 2^n action sequences meet until termination, in random order; Q-learning
replays one transition per update, with gamma = 1 - 1/n, step size 1/4 and parameters from N(0, 0.1) (0.1 taken for the
standard deviation), until the mean squared error to the true Q-values is below 1e-3. The default is the setting of figure 2
(right): linear Q-values over a one-hot state and a constant bias feature, and stochastic proportional prioritization.

Where the paper leaves a choice, or the buffer makes one:

- alpha: B.1 names none for this figure; 0.6 is the paper's for its proportional variant (table 3). Priorities are
  |TD error|, that of before the update (algorithm 1), plus the buffer's default priority_eps.
- Importance weights: off, as B.1 mentions none. They would change nothing: the buffer normalises by the largest weight of
  the batch, and in a batch of one that is the weight itself.
- All transitions come in with the same, largest priority and, once seen, fall below those never seen. Prioritized replay
  thus sweeps about once over the memory, however fast it learns, and cannot be faster than uniform replay by more than
  uniform's updates per stored transition: the factor grows with n, but far less than the oracle's in the paper's figure.
- Uniform is alpha=0. As its draws do not depend on what was learned, they are drawn ahead in blocks and shuffled. Blocks are
  1/128 of the memory, since a block is stratified: there, it lowers the variance of a transition's count by under 1%.
"""

import argparse
import platform
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from shared import processor
from tqdm import tqdm

import sb3_distrl
from sb3_distrl.buffers import PrioritizedReplayBuffer

STEP_SIZE = 1 / 4
MAX_MSE = 1e-3
INITIAL_STD = 0.1
ALPHA = 0.6
BLOCKS = 128
GIVE_UP = 100  # updates per stored transition; uniform replay needs up to about 20
DEFAULT_OUTPUT = Path(__file__).parent / "results" / "blind_cliffwalk.md"


class Result(NamedTuple):
    """Updates until convergence on ``n`` states, one number per seed; ``factor`` is uniform / prioritized in the median."""

    n: int
    uniform: list[int]
    prioritized: list[int]

    @property
    def factor(self) -> float:
        return float(np.median(self.uniform) / np.median(self.prioritized))


def true_q(n: int) -> np.ndarray:
    """
    The optimal Q-values: gamma^(n - 1 - s) for the right action in state s, 0 for the wrong one.

    :param n: number of states
    :return: shape [n, 2]
    """
    q, states = np.zeros((n, 2)), np.arange(n)
    q[states, states % 2] = (1 - 1 / n) ** (n - 1 - states)
    return q


def fill_memory(n: int, alpha: float, rng: np.random.Generator) -> PrioritizedReplayBuffer:
    """
    Run all 2^n action sequences until termination, in random order (appendix B.1).

    The right action in state s is s % 2: it alternates, so that generalizing over actions is of no help.

    :param n: number of states
    :param alpha: of the buffer
    :param rng: shuffles the sequences
    :return: a full buffer of 2^(n + 1) - 2 transitions, one of which is rewarded
    """
    buffer = PrioritizedReplayBuffer(
        2 ** (n + 1) - 2, spaces.Discrete(n + 1), spaces.Discrete(2), device="cpu", gamma=1 - 1 / n, alpha=alpha
    )
    for sequence in rng.permutation(2**n).tolist():
        for state in range(n):
            action = sequence >> state & 1
            right, last = action == state % 2, state == n - 1
            done = last or not right
            step = state, n if done else state + 1, action, float(right and last), done
            buffer.add(*(np.array([x]) for x in step), infos=[{}])  # type: ignore[misc, arg-type]
            if done:
                break
    assert buffer.full and buffer.pos == 0, "the sequences must fill the memory exactly"
    return buffer


def count_updates(n: int, alpha: float, seed: int, linear: bool = True) -> int:
    """
    Q-learning from a fixed memory, one transition per update (appendix B.1).

    :param n: number of states
    :param alpha: 0 for uniform replay
    :param seed: of the order of the memory, the initial parameters and the draws
    :param linear: with the bias feature; without it the Q-values are tabular
    :return: number of updates until the mean squared error is below ``MAX_MSE``
    :raises RuntimeError: if it has not converged after ``GIVE_UP`` updates per stored transition
    """
    rng = np.random.default_rng(seed)
    np.random.seed(seed)  # the buffer, as those of SB3, draws from the global generator
    buffer = fill_memory(n, alpha, rng)
    block = 1 if alpha > 0 else max(1, buffer.size() // BLOCKS)
    q_star = true_q(n)
    theta = rng.normal(0, INITIAL_STD, (n + 1, 2))  # a row for each state and one for the bias feature
    bias = float(linear)
    q = theta[:n] + bias * theta[n]
    updates = 0
    while updates < GIVE_UP * buffer.size():
        samples = buffer.sample(block)
        discounts = samples.discounts * (1 - samples.dones)
        columns = (samples.observations, samples.actions, samples.rewards, samples.next_observations, discounts)
        batch = list(zip(*(th.as_tensor(column).flatten().tolist() for column in columns), strict=True))
        deltas = np.empty(block)
        for i in rng.permutation(block):
            state, action, reward, next_state, discount = batch[i]
            bootstrap = q[next_state].max() if discount > 0 else 0.0
            deltas[i] = reward + discount * bootstrap - q[state, action]
            theta[state, action] += STEP_SIZE * deltas[i]
            theta[n, action] += STEP_SIZE * deltas[i] * bias
            q = theta[:n] + bias * theta[n]
            updates += 1
            if np.square(q - q_star).sum() < MAX_MSE * q.size:
                return updates
        buffer.update_priorities(samples.indices, deltas)
    raise RuntimeError(f"n={n}, alpha={alpha}, seed={seed} did not converge in {updates} updates.")


def compare(n: int, seeds: int, linear: bool = True) -> Result:
    """:return: the updates of ``seeds`` runs of each kind; see :func:`count_updates`"""
    result = Result(n, [], [])
    for seed in tqdm(range(seeds), desc=f"n={n}", unit="seed", mininterval=1):
        for name, alpha, counts in (("uniform", 0.0, result.uniform), ("prioritized", ALPHA, result.prioritized)):
            counts.append(count_updates(n, alpha, seed, linear))
            tqdm.write(f"n={n} seed={seed} {name}: {counts[-1]:,} updates")
    return result


def table(results: list[Result]) -> str:
    """:return: a markdown table with a row for each result"""
    text = "| n | transitions | uniform: median (min..max) | prioritized: median (min..max) | uniform / prioritized |\n"
    text += "|---:|---:|---:|---:|---:|"
    for result in results:
        cells = (f"{np.median(runs):,.0f} ({min(runs):,}..{max(runs):,})" for runs in (result.uniform, result.prioritized))
        text += f"\n| {result.n} | {2 ** (result.n + 1) - 2:,} | {' | '.join(cells)} | {result.factor:.1f} |"
    return text


def main(arguments: list[str]) -> None:
    """Compare, print the table and write it down."""
    parser = argparse.ArgumentParser(description="Updates that uniform and prioritized replay need on the Blind Cliffwalk.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 12, 16], help="numbers of states (default: 8 12 16)")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each kind (default: 10)")
    parser.add_argument("--representation", choices=["linear", "tabular"], default="linear", help="of the Q-values")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"markdown file (default: {DEFAULT_OUTPUT})")
    args = parser.parse_args(arguments)

    start = time.perf_counter()
    results = [compare(n, args.seeds, args.representation == "linear") for n in args.sizes]
    minutes = (time.perf_counter() - start) / 60
    raw = "\n".join(f"- n = {r.n}, uniform: {r.uniform}\n- n = {r.n}, prioritized: {r.prioritized}" for r in results)
    text = f"""# Blind Cliffwalk

Updates until Q-learning from a fixed memory converges (Schaul et al. 2016, section 3.1, figure 2 and appendix B.1).
Written by `scripts/replay/blind_cliffwalk.py`, whose docstring describes the settings.

{table(results)}

- {args.representation} Q-values, alpha = {ALPHA}, no importance weights
- gamma = 1 - 1/n, step size {STEP_SIZE}, until the mean squared error is below {MAX_MSE}
- seeds 0 to {args.seeds - 1}; {minutes:.1f} minutes on {processor()}
- Python {platform.python_version()}, numpy {np.__version__}, torch {th.__version__}, sb3_distrl {sb3_distrl.__version__}

## Updates of each seed

{raw}
"""
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text)
    print(f"{table(results)}\nWritten to {args.output}")
