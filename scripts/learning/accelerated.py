"""Do the accelerations harm learning? Returns with and without overlap, bf16 and compile, over seeds."""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch as th
from shared import ALGORITHMS, ROOT, machine, make_env, write_report
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import load_results
from tqdm import tqdm

from learning.compare_settings import EVAL_SEED, train

VARIANTS = {
    "SB3's order, float32": ["overlap:False"],
    "overlap": ["overlap:True"],
    "overlap, bf16": ["overlap:True", "precision:'bf16'"],
    "overlap, compile": ["overlap:True", "compile:True"],
    "overlap, bf16, compile": ["overlap:True", "precision:'bf16'", "compile:True"],
}
T_975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # Student's t for n seeds
LAST = 0.2  # part of the training whose episodes count as its end


def interval(values: Sequence[float]) -> str:
    """
    :param values: of 2 to 10 seeds
    :return: their mean and 95% confidence interval
    """
    mean, error = np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean:.2f} ± {T_975[len(values)] * error:.2f}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", default="rainbow", choices=sorted(ALGORITHMS))
    parser.add_argument("--env", default="CartPole-v1", help="whose entry in hyperparams/ is taken")
    parser.add_argument("--steps", type=int, default=-1, help="environment steps; those of the entry by default")
    parser.add_argument("--train-freq", type=int, help="and as many gradient steps; those of the entry by default")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--episodes", type=int, default=100, help="of the evaluation")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "learning", help="folder for the runs, to go on with")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file")
    args = parser.parse_args(arguments)
    if not 2 <= len(args.seeds) <= 10:
        parser.error("--seeds: name 2 to 10 of them")

    th.set_num_threads(1)
    setting = f"{args.env.replace('/', '-')}_{args.steps}_{args.train_freq}"
    frequency = [] if args.train_freq is None else [f"train_freq:{args.train_freq}", f"gradient_steps:{args.train_freq}"]
    jobs = [(variant, seed) for seed in args.seeds for variant in args.variants]
    results = {}
    with ThreadPoolExecutor(args.processes) as pool:
        futures = {
            pool.submit(
                train,
                args.algo,
                args.env,
                seed,
                args.runs / args.algo / setting / variant.replace(" ", "_") / str(seed),
                ["-n", str(args.steps), "-params", *VARIANTS[variant], *frequency],
            ): (variant, seed)
            for variant, seed in jobs
        }
        for future in tqdm(as_completed(futures), total=len(jobs), desc="runs"):
            path, _ = future.result()
            episodes = load_results(str(path.parent))
            steps = episodes["l"].cumsum()
            training = float(episodes["r"][steps >= (1 - LAST) * steps.iloc[-1]].mean())
            model = ALGORITHMS[args.algo].load(path, device="cpu")
            returns, _ = evaluate_policy(model, make_env(args.env, EVAL_SEED), args.episodes, return_episode_rewards=True)
            results[futures[future]] = training, float(np.mean(returns))

    lines = [f"# {args.algo} on {args.env}: the same learning, faster", "", machine(), ""]
    lines += [
        f"Settings of hyperparams/{args.algo}.yml"
        + (f", {args.steps:,} environment steps" if args.steps > 0 else "")
        + (f", {args.train_freq} gradient steps every {args.train_freq} environment steps" if args.train_freq else "")
        + f"; seeds {', '.join(map(str, args.seeds))}. Training return: of the episodes in the last {LAST:.0%} of the steps; "
        f"evaluation: {args.episodes} deterministic episodes of the final policy. Means over seeds, 95% confidence intervals.",
        "",
        "| variant | training return | evaluation return | training return of each seed | evaluation return of each seed |",
        "|---|---|---|---|---|",
    ]
    for variant in args.variants:
        trainings, evaluations = zip(*(results[variant, seed] for seed in args.seeds), strict=True)
        each = " | ".join(", ".join(f"{value:.1f}" for value in values) for values in (trainings, evaluations))
        lines.append(f"| {variant} | {interval(trainings)} | {interval(evaluations)} | {each} |")
    report = "\n".join(lines) + "\n"
    write_report(report, args.output)
