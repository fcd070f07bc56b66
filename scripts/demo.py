"""Train Rainbow with the command sb3-distrl, evaluate it and draw its learning curve: the first thing to run."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from shared import ROOT, is_atari

ENV = "CartPole-v1"
SOLVED = 475  # mean return from which on Gymnasium calls CartPole-v1 solved


def run(*arguments: str) -> None:
    """
    :param arguments: of the command sb3-distrl, which is shown and run; Ctrl-C ends the command, and not the demo
    """
    print(f"\n$ {shlex.join(['sb3-distrl', *arguments])}", flush=True)
    with subprocess.Popen([sys.executable, "-m", "sb3_distrl.zoo", *arguments]) as process:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.wait()
    if process.returncode:
        raise SystemExit(process.returncode)


def read_episodes(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """
    :param folder: where SB3's Monitor wrote
    :return: environment steps at the end of each training episode, and its return
    """
    episodes = np.genfromtxt(folder / "0.monitor.csv", delimiter=",", skip_header=2, ndmin=2)
    returns, lengths = episodes[:, 0], episodes[:, 1]
    return lengths.cumsum(), returns


def draw_learning_curve(folder: Path, title: str, window: int = 20) -> Path:
    """
    :param folder: where SB3's Monitor and EvalCallback wrote; the picture goes there too
    :param title: of the picture
    :param window: episodes of the running mean
    :return: the picture
    """
    steps, returns = read_episodes(folder)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(steps, returns, ".", color="tab:gray", alpha=0.4, markersize=4, label="training episodes")
    if len(returns) >= window:
        means = np.convolve(returns, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1 :], means, color="tab:blue", label=f"mean of {window} training episodes")
    if (folder / "evaluations.npz").exists():
        evaluations = np.load(folder / "evaluations.npz")
        axes.plot(evaluations["timesteps"], evaluations["results"].mean(axis=1), "o-", color="tab:orange", label="evaluation")
    axes.set(title=title, xlabel="environment steps", ylabel="return of an episode")
    axes.legend()
    picture = folder / "learning_curve.png"
    figure.savefig(picture, dpi=150)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", default="rainbow", help="rainbow, iqn, qrdqn, or any other that sb3-distrl train knows")
    parser.add_argument("--env", default=ENV, help="name of an environment, such as PongNoFrameskip-v4")
    parser.add_argument("--steps", type=int, help="environment steps; by default those of hyperparams/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "runs", help="folder for the results")
    args = parser.parse_args()

    run_of = ["--algo", args.algo, "--env", args.env, "-f", str(args.output)]
    training = ["train", *run_of, "--seed", str(args.seed), "--verbose", "0", "-P"]
    training += ["-n", str(args.steps)] if args.steps else []
    if is_atari(args.env):
        training += ["--eval-freq", "50000", "--eval-episodes", "2"]
    else:  # small networks lose more by handing work to other threads than they gain
        training += ["--eval-freq", "2000", "--eval-episodes", "10", "--num-threads", "1"]
    print(f"Training {args.algo} on {args.env}. Ctrl-C stops it; what was learned is kept.")
    run(*training)

    name = args.env.replace("/", "-")
    folder = max((args.output / args.algo).glob(f"{name}_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    if len((folder / "0.monitor.csv").read_text().splitlines()) > 2:  # at least one episode has ended
        print(f"\nDrew the learning curve: {draw_learning_curve(folder, f'{args.algo} on {args.env}')}")
    best = ["--load-best"] if (folder / "best_model.zip").exists() else []
    run("enjoy", *run_of, *best, "--no-render", "-n", "5000", "--seed", str(args.seed + 1000))
    if args.env == ENV:
        print(f"{ENV} counts as solved from a mean reward of {SOLVED} on.")
    print("\nWhat to run next:")
    print(f"  {Path(sys.executable).parent / 'sb3-distrl'} --help")
    if not is_atari(args.env):
        print("  make demo ENV=PongNoFrameskip-v4   the same from pixels; takes hours on a CPU")
    print("  make test                          the tests")


if __name__ == "__main__":
    main()
