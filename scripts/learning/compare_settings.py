"""Comparison of hyperparameter files: evaluation returns of the final policies over seeds, trained by sb3-distrl."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch as th
from shared import ALGORITHMS, ROOT, machine, make_env
from stable_baselines3.common.evaluation import evaluate_policy
from tqdm import tqdm

from sb3_distrl.zoo.entries import read_entries

EVAL_SEED = 10_000


def train(algo: str, env_id: str, seed: int, folder: Path, options: list[str]) -> tuple[Path, float]:
    """
    :param algo: name of the algorithm
    :param env_id: name of the environment
    :param seed: seed
    :param folder: for the run, which is not repeated if it is there
    :param options: further ones of sb3-distrl train
    :return: the saved model, and the seconds that it took to train
    """
    name = env_id.replace("/", "-")
    model, seconds = folder / algo / f"{name}_1" / f"{name}.zip", folder / "seconds"
    if not seconds.exists():
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run has left
        start = time.perf_counter()
        command = [sys.executable, "-m", "sb3_distrl.zoo", "train", "--algo", algo, "--env", env_id, "--seed", str(seed)]
        command += ["-f", str(folder), "--eval-freq", "-1", "--verbose", "0", "--num-threads", "1", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds.write_text(str(time.perf_counter() - start))
    return model, float(seconds.read_text())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", required=True, choices=sorted(ALGORITHMS))
    parser.add_argument("--env", required=True)
    parser.add_argument("--conf-files", nargs="+", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=100, help="of the evaluation")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "compare", help="folder for the runs, to go on with")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file")
    args = parser.parse_args(arguments)

    th.set_num_threads(1)
    jobs = [(file, seed) for seed in args.seeds for file in args.conf_files]
    results = {}
    with ThreadPoolExecutor(args.processes) as pool:
        futures = {
            pool.submit(
                train,
                args.algo,
                args.env,
                seed,
                args.runs / args.algo / file.stem / str(seed),
                ["--conf-file", str(file)],
            ): (file, seed)
            for file, seed in jobs
        }
        for future in tqdm(as_completed(futures), total=len(jobs), desc="runs"):
            path, seconds = future.result()
            env = make_env(args.env, EVAL_SEED)
            returns, _ = evaluate_policy(ALGORITHMS[args.algo].load(path), env, args.episodes, return_episode_rewards=True)
            results[futures[future]] = np.mean(returns), np.std(returns), seconds

    lines = [f"# {args.algo} on {args.env}: evaluation return of the final policy", ""]
    for file in args.conf_files:
        n_timesteps = read_entries(str(file))[args.env]["n_timesteps"]
        lines.append(f"- `{file.name}`: {n_timesteps:,} steps")
    lines += ["", f"{args.episodes} deterministic episodes for each seed, one thread each. {machine()}", ""]
    lines += ["| settings | seed | mean return | standard deviation | training, s |", "|---|---|---|---|---|"]
    for file in args.conf_files:
        for seed in args.seeds:
            mean, std, seconds = results[file, seed]
            lines.append(f"| {file.name} | {seed} | {mean:.1f} | {std:.1f} | {seconds:.0f} |")
    lines.append("")
    for file in args.conf_files:
        means = [results[file, seed][0] for seed in args.seeds]
        lines.append(f"- {file.name}: mean over seeds {np.mean(means):.1f}, from {min(means):.1f} to {max(means):.1f}")
    report = "\n".join(lines) + "\n"
    args.output.write_text(report)
    print(report)
