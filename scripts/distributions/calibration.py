"""
Do the predicted distributions match the returns? Coverage of a model's quantiles on a real environment.

A model is trained with its entry in hyperparams/, or loaded if --models has it, and plays episodes greedily. In each state,
the discounted return that followed (Monte Carlo) is compared with the distribution that was predicted for the action taken
there: the share of returns below the predicted quantile of each fraction should equal that fraction. States so close to a
time limit that less than 95% of the weights gamma^t of their return are before it are left out; if that applies to all
states, so is the episode. States of an episode are not independent, so intervals are computed by resampling whole episodes.

The predicted distribution is meant to be that of the greedy policy. It was learnt from returns over n_steps that include
exploration, by a network that changed meanwhile and is shared by all states: perfect coverage is not to be expected.
"""

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from shared import ALGORITHMS, ROOT, load_settings, machine, make_env
from tqdm import trange

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.distribution import ValueDistribution
from sb3_distrl.plotting import record_episode, save_film
from sb3_distrl.plotting.density import COLORS

RESULTS = Path(__file__).parent / "results"

FRACTIONS = np.arange(1, 20) / 20
ACTION_NAMES = {"LunarLander-v3": ("no engine", "left engine", "main engine", "right engine")}
FILM_STEPS, EVERY = 400, 4
BOOTSTRAPS = 1_000
KNOWN = 0.95  # share of a return's weights that must lie before a time limit


class Calibration(NamedTuple):
    """Predictions and returns along the episodes of a policy, a number for each of S states."""

    algo: str  # its class
    seed: int  # of the training
    below: np.ndarray  # whether the return is at most the predicted quantile, shape [S, fractions]
    returns: np.ndarray  # discounted, shape [S]
    means: np.ndarray  # predicted, shape [S]
    stds: np.ndarray  # predicted, shape [S]
    episodes: np.ndarray  # which episode, shape [S]
    score: float  # mean undiscounted return of the episodes

    @property
    def name(self) -> str:
        return f"{self.algo}, seed {self.seed}"

    @property
    def coverage(self) -> np.ndarray:
        """Share of returns that are at most the predicted quantile, shape [fractions]."""
        return self.below.mean(axis=0)

    @property
    def error(self) -> float:
        """Mean absolute difference of coverage and fraction."""
        return float(np.abs(self.coverage - FRACTIONS).mean())

    @property
    def numbers(self) -> tuple[float, ...]:
        """Score, mean return and predicted mean; spread of the return about that mean, and predicted standard deviation."""
        spread = (self.returns - self.means).std()
        return self.score, self.returns.mean(), self.means.mean(), spread, self.stds.mean()


def trained(algo: str, env_id: str, seed: int, folder: Path) -> ValueAlgorithm:
    """
    :param algo: name of an algorithm
    :param env_id: name of an environment
    :param seed: seed
    :param folder: where models are kept
    :return: the model, trained now or before
    """
    path = folder / f"{algo}_{env_id}_{seed}.zip"
    if path.exists():
        return ALGORITHMS[algo].load(path, device="cpu")
    settings = load_settings(algo, env_id)
    steps = settings.pop("n_timesteps")
    model = ALGORITHMS[algo](env=make_env(env_id, seed), seed=seed, device="cpu", **settings)
    model.learn(steps, progress_bar=True)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def discounted(rewards: list[float], gamma: float) -> np.ndarray:
    """
    :param rewards: of an episode
    :param gamma: discount factor
    :return: the discounted return from each step on
    """
    returns = np.zeros(len(rewards) + 1)
    for t in reversed(range(len(rewards))):
        returns[t] = rewards[t] + gamma * returns[t + 1]
    return returns[:-1]


def horizon(gamma: float) -> int:
    """
    :param gamma: discount factor, below 1
    :return: steps whose weights gamma^t are the share KNOWN of those of all, sum over t < horizon: 1 - gamma^horizon
    """
    return math.ceil(math.log(1 - KNOWN) / math.log(gamma))


def calibrate(model: ValueAlgorithm, env_id: str, seed: int, n_episodes: int) -> Calibration:
    """
    :param model: plays greedily
    :param env_id: name of the environment
    :param seed: of the model's training, from which that of the environment follows
    :param n_episodes: how many to play
    :return: predictions and returns
    """
    algo = type(model).__name__
    env = make_env(env_id, 10_000 + seed, evaluation=True)
    parts: list[tuple[Any, ...]] = []
    scores = []
    obs: Any = env.reset()
    for episode in trange(n_episodes, desc=f"{algo}, seed {seed}"):
        observations, actions, rewards = [], [], []
        done, info = False, {}
        while not done:
            action, _ = model.predict(obs, deterministic=True)
            observations.append(np.array(obs[0]))
            obs, reward, dones, infos = env.step(action)
            actions.append(int(action[0]))
            rewards.append(float(reward[0]))
            done, info = bool(dones[0]), infos[0]
        scores.append(sum(rewards))
        n = len(rewards) - (horizon(model.gamma) if info.get("TimeLimit.truncated") else 0)
        if n <= 0:
            continue
        predicted = model.predict_distribution(np.stack(observations[:n]))
        rows = np.arange(n), np.array(actions[:n])
        taken = ValueDistribution(predicted.values[rows], predicted.probabilities[rows])  # [n, Z]
        returns = discounted(rewards, model.gamma)[:n]
        below = returns[:, None] <= taken.quantile(FRACTIONS)
        parts.append((below, returns, taken.mean(), taken.std(), np.full(n, episode)))
    if not parts:
        raise ValueError(
            f"episodes={n_episodes}: none of {algo}, seed {seed}, ended before its time limit; play more, or train for longer."
        )
    below, returns, means, stds, episodes = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Calibration(algo, seed, below, returns, means, stds, episodes, float(np.mean(scores)))


def intervals(calibration: Calibration) -> np.ndarray:
    """
    :param calibration: of a model
    :return: ends of the 95% bootstrap intervals of the coverage over episodes, shape [2, fractions]
    """
    rng = np.random.default_rng(0)
    _, index = np.unique(calibration.episodes, return_inverse=True)
    counts = np.bincount(index)  # states of each episode
    sums = np.stack([np.bincount(index, weights=column) for column in calibration.below.T], axis=1)  # [E, fractions]
    draws = rng.integers(len(counts), size=(BOOTSTRAPS, len(counts)))
    coverages = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)[:, None]
    return np.quantile(coverages, [0.025, 0.975], axis=0)


def by_algo(calibrations: list[Calibration]) -> list[list[Calibration]]:
    """:return: the seeds of each algorithm"""
    return [list(seeds) for _, seeds in itertools.groupby(calibrations, key=lambda each: each.algo)]


def title(seeds: list[Calibration]) -> str:
    """:return: for the seeds of an algorithm"""
    return seeds[0].name if len(seeds) == 1 else f"{seeds[0].algo}, {len(seeds)} seeds"


def draw(calibrations: list[Calibration], env_id: str, path: Path) -> None:
    """
    :param calibrations: of all models
    :param env_id: name of the environment
    :param path: PNG file
    """
    figure, ax = plt.subplots(figsize=(5.2, 4.8), layout="constrained")
    ax.plot([0, 1], [0, 1], color="black", lw=1.5, ls="--", label="calibrated")
    for seeds, color, marker in zip(by_algo(calibrations), COLORS, "os^", strict=False):
        for each in seeds:
            ax.fill_between(FRACTIONS, *intervals(each), color=color, alpha=0.2 / len(seeds), lw=0)
            ax.plot(FRACTIONS, each.coverage, color=color, lw=0.8, alpha=0.6)
        label = f"{title(seeds)}: off by {np.mean([each.error for each in seeds]):.1%}"
        coverage = np.mean([each.coverage for each in seeds], axis=0)
        ax.plot(FRACTIONS, coverage, color=color, marker=marker, ms=5, lw=2, label=label)
    ax.set_xlabel("predicted quantile", fontsize=13)
    ax.set_ylabel("share of returns below it", fontsize=13)
    ax.set(xlim=(0, 1), ylim=(0, 1), title=env_id)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=11)
    figure.savefig(path, dpi=90)


def over_seeds(values: Sequence[float], digits: int) -> str:
    """:return: their mean, with the least and the most"""
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def report(calibrations: list[Calibration], env_id: str, n_episodes: int) -> str:
    """
    :param calibrations: of all models
    :param env_id: name of the environment
    :param n_episodes: episodes of each
    :return: tables, markdown
    """
    shown = (0.05, 0.25, 0.5, 0.75, 0.95)
    picked = [int(np.flatnonzero(np.isclose(FRACTIONS, fraction))[0]) for fraction in shown]
    lines = [
        f"# Calibration on {env_id}",
        "",
        "Written by `scripts/distributions/calibration.py`, whose docstring says what is compared. Settings: hyperparams/;",
        f"{n_episodes} greedy episodes of each model; what a time limit hides too much of is left out. {machine()}",
        "",
        "Share of discounted returns below the predicted quantile, with 95% bootstrap intervals over episodes; the error is",
        "the mean of |share - fraction| over the fractions 0.05, 0.1, ..., 0.95. Of several seeds: mean (least to most).",
        "",
        f"| model | {' | '.join(f'{fraction:g}' for fraction in shown)} | error |",
        f"|---|{'---:|' * (len(shown) + 1)}",
    ]
    for seeds in by_algo(calibrations):
        for each in seeds:
            ends = intervals(each)[:, picked].T
            cells = [f"{each.coverage[i]:.2f} ({low:.2f} to {high:.2f})" for i, (low, high) in zip(picked, ends, strict=True)]
            lines.append(f"| {each.name} | {' | '.join(cells)} | {each.error:.3f} |")
        if len(seeds) > 1:
            cells = [over_seeds([each.coverage[i] for each in seeds], 2) for i in picked]
            cells.append(over_seeds([each.error for each in seeds], 3))
            lines.append(f"| **{title(seeds)}** | {' | '.join(cells)} |")
    lines += [
        "",
        "| model | episodes left | their states | mean score | mean return | mean of the predicted means | "
        "spread of return - predicted mean | mean predicted standard deviation |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for seeds in by_algo(calibrations):
        for each in seeds:
            counts = f"{len(np.unique(each.episodes))} | {len(each.returns):,}"
            lines.append(f"| {each.name} | {counts} | {' | '.join(f'{number:.1f}' for number in each.numbers)} |")
        if len(seeds) > 1:
            cells = [over_seeds(numbers, 1) for numbers in zip(*(each.numbers for each in seeds), strict=True)]
            lines.append(f"| **{title(seeds)}** | | | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def film(model: ValueAlgorithm, env_id: str, seed: int, path: Path) -> None:
    """
    :param model: plays greedily
    :param env_id: name of the environment
    :param seed: of the environment
    :param path: GIF file for an episode, with the distributions as they move
    """
    env = make_env(env_id, seed, env_kwargs=dict(render_mode="rgb_array"))
    moments = record_episode(model, env, FILM_STEPS)
    save_film(moments, path, ACTION_NAMES.get(env_id), fps=12, every=EVERY)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="LunarLander-v3")
    parser.add_argument("--algos", nargs="+", default=["iqn"], choices=list(ALGORITHMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--film-seed", type=int, default=2, help="of the episode that the first model is filmed in")
    parser.add_argument("--models", type=Path, default=ROOT / "runs" / "calibration", help="their folder: ALGO_ENV_SEED.zip")
    parser.add_argument("--output", type=Path, default=RESULTS / "calibration.md", help="and .png, .gif")
    args = parser.parse_args(arguments)

    th.set_num_threads(1)
    calibrations = []
    for algo in args.algos:
        for seed in args.seeds:
            model = trained(algo, args.env, seed, args.models)
            calibrations.append(calibrate(model, args.env, seed, args.episodes))
    args.output.write_text(report(calibrations, args.env, args.episodes))
    draw(calibrations, args.env, args.output.with_suffix(".png"))
    first = trained(args.algos[0], args.env, args.seeds[0], args.models)
    film(first, args.env, args.film_seed, args.output.with_suffix(".gif"))
    print(args.output.read_text())
