"""Train Rainbow, evaluate it, save it and draw its learning curve: the first thing to run."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from settings import ROOT, is_atari, load_settings, make_env
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_distrl import Rainbow

SOLVED = {"CartPole-v1": 475.0}  # mean return from which on Gymnasium calls the task solved


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
    parser.add_argument("--env", default="CartPole-v1", help="CartPole-v1, or an Atari game such as PongNoFrameskip-v4")
    parser.add_argument("--steps", type=int, help="environment steps; by default those of hyperparams/rainbow.yml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "runs", help="folder for the results")
    args = parser.parse_args()

    settings = load_settings("rainbow", args.env)
    default_steps = settings.pop("n_timesteps")
    steps = args.steps or default_steps
    folder = args.output / f"rainbow-{args.env}"
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in ("best_model.zip", "evaluations.npz"):
        (folder / earlier).unlink(missing_ok=True)
    if not is_atari(args.env):
        th.set_num_threads(1)  # small networks lose more by handing work to other threads than they gain

    env = make_env(args.env, args.seed, monitor_dir=folder)
    eval_env = make_env(args.env, args.seed + 1000, evaluation=True)
    solved = SOLVED.get(args.env)
    evaluation = EvalCallback(
        eval_env,
        callback_on_new_best=None if solved is None else StopTrainingOnRewardThreshold(solved, verbose=0),
        n_eval_episodes=20 if solved else 2,
        eval_freq=5_000 if solved else 50_000,
        log_path=str(folder),
        best_model_save_path=str(folder),
        verbose=0,
    )
    model = Rainbow(env=env, seed=args.seed, **settings)
    print(f"Training Rainbow on {args.env} for at most {steps:,} steps. Ctrl-C stops; what was learned is kept.")
    try:
        model.learn(steps, callback=evaluation, progress_bar=True)
    except KeyboardInterrupt:
        print("\nInterrupted.")
    model.save(folder / "model.zip")
    print(f"Trained for {model.num_timesteps:,} steps. Saved {folder / 'model.zip'}")
    if model.ep_info_buffer:  # at least one episode has ended
        print(f"Drew the learning curve: {draw_learning_curve(folder, f'Rainbow on {args.env}')}")

    if (folder / "best_model.zip").exists():
        print(f"The best model of the evaluations is {folder / 'best_model.zip'}")
        model = Rainbow.load(folder / "best_model.zip")
    n_episodes = 100 if solved else 5
    returns, _ = evaluate_policy(model, eval_env, n_eval_episodes=n_episodes, return_episode_rewards=True)
    mean, std = float(np.mean(returns)), float(np.std(returns))
    print(f"Its mean return over {n_episodes} fresh episodes: {mean:.1f} +- {std:.1f}")
    if solved:
        print(f"{args.env} counts as solved from {solved:g} on: {'solved' if mean >= solved else 'not solved this time'}.")
    print("What to run next:")
    if not is_atari(args.env):
        print("  make demo ENV=PongNoFrameskip-v4   the same from pixels; takes hours on a CPU")
    print("  make test                          the tests")
    print(f"In Python, what was trained is Rainbow.load({str(folder / 'model.zip')!r}).")


if __name__ == "__main__":
    main()
