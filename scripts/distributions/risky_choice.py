"""
Rainbow, IQN and QRDQN on RiskyCrossing: do they learn the distribution of returns, which is known exactly, and do policies
that maximise its mean and its CVaR take different ways, each the right one?

Each algorithm is trained once for each seed, risk-neutrally; the policies differ only in ``model.risk`` afterwards. This is
correct here, because an action at the start is followed by the same returns for all policies that maximise an increasing risk
measure (see the environment's docstring). If later actions depended on the measure, one would train with it.

The settings are our own, as similar as possible, and were found on seed 100. Transitions are one-step ones, because off-policy
returns over several steps would include the effect of exploration. Half of the actions are random, without noisy layers, so
that both ways are seen. The learning rate decreases to 0; otherwise the distributions would fluctuate to the end.
"""

import argparse
import multiprocessing
import pickle
import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from shared import ALGORITHMS, ROOT, machine
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from tqdm import tqdm

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.distribution import ValueDistribution
from sb3_distrl.envs.risky import ACTION_NAMES, ENV_ID, START, return_distribution

STEPS = 32_000
EPISODES = 1_000
LEVEL = 0.25
RISKS = ("mean", f"cvar:{LEVEL}")
WAYS = ("bridge", "road")
SHARED: dict[str, Any] = dict(
    buffer_size=30_000,
    learning_starts=500,
    batch_size=128,
    gamma=1.0,
    train_freq=1,
    replay_ratio=0.25,
    target_update_interval=200,
    n_steps=1,
    exploration_fraction=0.1,
    exploration_initial_eps=1.0,
    exploration_final_eps=0.5,
    device="cpu",
)

RESULTS = Path(__file__).parent / "results"
ADAM = dict(eps=1e-8)
NETWORKS: dict[str, dict[str, Any]] = {
    "rainbow": dict(net_arch=[64, 64], noisy=False, v_min=-150.0, v_max=0.0, optimizer_kwargs=ADAM),
    "iqn": dict(net_arch=[64, 64], n_quantiles=16, n_target_quantiles=16, n_eval_quantiles=32, optimizer_kwargs=ADAM),
    "qrdqn": dict(net_arch=[64, 64], n_quantiles=50, optimizer_kwargs=ADAM),
}


class Result(NamedTuple):
    """A run: of each action at the start the distribution and its distance to the truth, of each risk what it does."""

    algo: str
    seed: int
    learnt: ValueDistribution
    distances: list[float]  # minutes, for each action
    choices: list[int]  # for each risk
    means: list[float]  # of the returns of episodes, for each risk
    cvars: list[float]
    seconds: float


def wasserstein(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """
    The 1-Wasserstein distance: the area between the distribution functions.

    :param one: values and their probabilities, of shape [Z]
    :param other: the same, of shape [Z']
    :return: in the unit of the values
    """
    grid = np.sort(np.concatenate([one[0], other[0]]))
    functions = [(probs * (values <= grid[:, None])).sum(axis=1) for values, probs in (one, other)]
    return float(np.abs(functions[0] - functions[1])[:-1] @ np.diff(grid))


def train(algo: str, seed: int) -> ValueAlgorithm:
    """
    :param algo: name of the algorithm
    :param seed: seed
    :return: a model that has learnt
    """
    learning_rate = LinearSchedule(5e-3, 0.0, 1.0)
    env = make_vec_env(ENV_ID, n_envs=8, seed=seed)
    arguments = {**SHARED, "learning_rate": learning_rate, "policy_kwargs": NETWORKS[algo]}
    return ALGORITHMS[algo]("MlpPolicy", env, seed=seed, **arguments).learn(STEPS)


def run(job: tuple[str, int, Path]) -> Result:
    """
    :param job: algorithm, seed, and the folder for the model
    :return: what it has learnt, and how it acts
    """
    algo, seed, folder = job
    done = folder / f"{algo}_{seed}.pkl"
    if done.exists():
        return pickle.loads(done.read_bytes())
    th.set_num_threads(1)
    start = time.process_time()
    model = train(algo, seed)
    seconds = time.process_time() - start
    model.save(folder / f"{algo}_{seed}")
    learnt = model.predict_distribution(np.array(START))
    pairs = zip(learnt.values.astype(float), learnt.probabilities, strict=True)
    distances = [wasserstein(pair, return_distribution(START, action)) for action, pair in enumerate(pairs)]
    choices, means, cvars = [], [], []
    for risk in RISKS:
        model.risk = risk
        choices.append(int(model.predict(np.array(START), deterministic=True)[0]))
        env = make_vec_env(ENV_ID, n_envs=8, seed=1000 + seed)
        returns, _ = evaluate_policy(model, env, EPISODES, return_episode_rewards=True)
        means.append(float(np.mean(returns)))
        cvars.append(float(np.sort(returns)[: int(LEVEL * EPISODES)].mean()))
    result = Result(algo, seed, learnt, distances, choices, means, cvars, seconds)
    done.write_bytes(pickle.dumps(result))
    return result


def truth() -> ValueDistribution:
    """:return: the true distributions of the actions at the start, with atoms of no probability where one has fewer"""
    pairs = [return_distribution(START, action) for action in range(2)]
    most = max(len(values) for values, _ in pairs)
    filled = [(np.pad(v, (0, most - len(v)), mode="edge"), np.pad(p, (0, most - len(p)))) for v, p in pairs]
    return ValueDistribution(np.stack([values for values, _ in filled]), np.stack([probs for _, probs in filled]))


def ranges() -> np.ndarray:
    """:return: highest minus lowest possible return of each action at the start, minutes"""
    return np.array([np.ptp(return_distribution(START, action)[0]) for action in range(2)])


def draw(results: list[Result], path: Path) -> None:
    """
    :param results: of all runs
    :param path: PNG file for the true distribution functions, and those learnt, a line for each seed
    """
    names = sorted({result.algo for result in results})
    figure, axes = plt.subplots(2, len(names), figsize=(9, 4.6), sharex=True, sharey=True, layout="constrained", squeeze=False)
    for column, algo in enumerate(names):
        for action, name in enumerate(ACTION_NAMES):
            ax = axes[action, column]
            values, probs = return_distribution(START, action)
            for result in (each for each in results if each.algo == algo):
                cumulative = result.learnt.probabilities[action].cumsum()
                (line,) = ax.step(result.learnt.values[action], cumulative, where="post", color="#D55E00", lw=1.2, alpha=0.6)
            ends = np.concatenate([[-105.0], values, [0.0]])
            (true,) = ax.step(
                ends, np.concatenate([[0.0], probs.cumsum(), [1.0]]), where="post", color="black", lw=2, zorder=1
            )
            ax.set(xlim=(-105, 0), ylim=(-0.03, 1.03))
            ax.grid(alpha=0.3)
            if action == 0:
                ax.set_title(ALGORITHMS[algo].__name__)
            if column == 0:
                ax.set_ylabel(f"{name.split(': ')[1]}\nprobability")
    axes[0, 0].legend([true, line], ["true", "learnt, each seed"], loc="upper left", frameon=False)
    figure.supxlabel("return at most, minutes")
    figure.savefig(path, dpi=100)


def report(results: list[Result]) -> str:
    """
    :param results: of all runs
    :return: tables, markdown
    """
    true, spans, seeds = truth(), ranges(), len({result.seed for result in results})
    lines = [
        f"# {ENV_ID}: distributions of returns, and what the mean and CVaR choose",
        "",
        f"Written by `scripts/distributions/risky_choice.py`, whose docstring describes the settings. {STEPS:,} steps,",
        f"{seeds} seeds, {EPISODES:,} episodes for each policy, with the same seeds for all: those that take the same way",
        f"have the same returns, which are minutes, negative. {machine()}",
        "",
        "| at the start | mean | CVaR, worst 25% | range of returns |",
        "|---|---:|---:|---:|",
        *(
            f"| the {way}, exactly | {true.mean()[a]:.1f} | {true.cvar(LEVEL)[a]:.1f} | {spans[a]:.0f} |"
            for a, way in enumerate(WAYS)
        ),
        "",
        "Wasserstein-1 distance of the learnt to the true distribution, minutes and share of the range: mean of seeds (worst)",
        "",
        "| | bridge | road |",
        "|---|---:|---:|",
    ]
    names = sorted({result.algo for result in results})
    for algo in names:
        distances = np.array([result.distances for result in results if result.algo == algo])  # [seeds, 2]
        cells = [
            f"{distances[:, a].mean():.2f} ({distances[:, a].max():.2f}), {distances[:, a].mean() / spans[a]:.1%} "
            f"({distances[:, a].max() / spans[a]:.1%})"
            for a in range(2)
        ]
        lines.append(f"| {ALGORITHMS[algo].__name__} | {' | '.join(cells)} |")
    lines += [
        "",
        "What the policies take, in how many seeds, and their returns over all seeds: mean (lowest to highest seed)",
        "",
        "| | policy | takes | mean return | CVaR, worst 25% |",
        "|---|---|---|---:|---:|",
    ]
    for algo in names:
        runs = [result for result in results if result.algo == algo]
        for i, risk in enumerate(RISKS):
            taken = [WAYS[result.choices[i]] for result in runs]
            ways = ", ".join(f"{way} {taken.count(way)}" for way in WAYS if way in taken)
            cells = [
                f"{np.mean(each):.1f} ({min(each):.1f} to {max(each):.1f})"
                for each in ([run.means[i] for run in runs], [run.cvars[i] for run in runs])
            ]
            lines.append(f"| {ALGORITHMS[algo].__name__} | {risk} | {ways} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Each run",
        "",
        "| | seed | distance, bridge | road | mean policy: way, mean, CVaR | CVaR policy: way, mean, CVaR | CPU, s |",
        "|---|---:|---:|---:|---|---|---:|",
    ]
    for result in results:
        policies = (f"{WAYS[result.choices[i]]}, {result.means[i]:.1f}, {result.cvars[i]:.1f}" for i in range(len(RISKS)))
        distance = " | ".join(f"{each:.2f}" for each in result.distances)
        lines.append(f"| {result.algo} | {result.seed} | {distance} | {' | '.join(policies)} | {result.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", nargs="+", default=["rainbow", "iqn", "qrdqn"], choices=list(ALGORITHMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--models", type=Path, default=ROOT / "runs" / "risky_choice", help="models and runs, which are not run again"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "risky_choice.md", help="and .png")
    args = parser.parse_args(arguments)

    args.models.mkdir(parents=True, exist_ok=True)
    jobs = [(algo, seed, args.models) for seed in args.seeds for algo in args.algos]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        results = sorted(tqdm(pool.imap_unordered(run, jobs), total=len(jobs), desc="runs"), key=lambda each: each[:2])
    args.output.write_text(report(results))
    draw(results, args.output.with_suffix(".png"))
    print(args.output.read_text())
