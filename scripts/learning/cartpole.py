"""CartPole-v1 with the settings in hyperparams/: final evaluation returns over seeds, one process and thread each."""

import argparse
import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch as th
from shared import ALGORITHMS, load_settings, machine, make_env
from stable_baselines3.common.evaluation import evaluate_policy
from tqdm import tqdm

RESULTS = Path(__file__).parent / "results"

ENV = "CartPole-v1"
SOLVED = 475.0
EVAL_EPISODES = 100


def run(job: tuple[str, int]) -> tuple[str, int, float, float, float]:
    """
    :param job: algorithm and seed
    :return: algorithm, seed, mean and standard deviation of the final policy's evaluation returns, seconds of training
    """
    algo, seed = job
    th.set_num_threads(1)
    settings = load_settings(algo, ENV)
    steps = settings.pop("n_timesteps")
    model = ALGORITHMS[algo](env=make_env(ENV, seed), seed=seed, **settings)
    start = time.perf_counter()
    model.learn(steps)
    seconds = time.perf_counter() - start
    returns, _ = evaluate_policy(model, make_env(ENV, seed + 1000), EVAL_EPISODES, return_episode_rewards=True)
    return algo, seed, float(np.mean(returns)), float(np.std(returns)), seconds


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algos", nargs="+", default=["rainbow", "iqn"], choices=["rainbow", "iqn"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "cartpole.md")
    args = parser.parse_args(arguments)

    jobs = [(algo, seed) for seed in args.seeds for algo in args.algos]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        results = sorted(tqdm(pool.imap_unordered(run, jobs), total=len(jobs), desc="runs"))

    lines = [
        f"# {ENV}: evaluation return of the final policy",
        "",
        f"Settings: hyperparams/rainbow.yml and iqn.yml. {EVAL_EPISODES} deterministic episodes for each seed.",
        machine(),
        "",
        "| algorithm | seed | mean return | standard deviation | training, s |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {algo} | {seed} | {mean:.1f} | {std:.1f} | {seconds:.0f} |" for algo, seed, mean, std, seconds in results]
    lines.append("")
    for algo in args.algos:
        means = [mean for name, _, mean, _, _ in results if name == algo]
        lines.append(f"- {algo}: at least {SOLVED:g} in {sum(mean >= SOLVED for mean in means)} of {len(means)} seeds")
    report = "\n".join(lines) + "\n"
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(report)
    print(report)
