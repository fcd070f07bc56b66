"""``sb3-distrl plot_distribution``: the distributions of returns along an episode of a trained agent."""

import argparse
from pathlib import Path
from typing import Any

import yaml
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import create_test_env, get_model_path, get_saved_hyperparams
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.plotting import plot_film_strip, record_episode, save_film
from sb3_distrl.plotting.episode import WRITERS
from sb3_distrl.zoo.registration import ALGORITHMS

PICTURES = (".png", ".pdf", ".svg")
SUFFIXES = (*PICTURES, *WRITERS)


def parser() -> argparse.ArgumentParser:
    """:return: a parser with the names of options of rl-zoo3's enjoy"""
    options = argparse.ArgumentParser(description="Draw the learnt distributions of returns along an episode.")
    options.add_argument("--algo", help="Algorithm", choices=list(ALGORITHMS), required=True)
    options.add_argument("--env", help="Environment ID", type=EnvironmentName, required=True)
    options.add_argument("-f", "--folder", help="Log folder", default="logs")
    options.add_argument("--exp-id", help="Experiment ID (default: 0: latest, -1: no exp folder)", default=0, type=int)
    options.add_argument("--load-best", action="store_true", help="Load best model instead of last model if available")
    options.add_argument("--risk", help="Risk measure to act by, e.g. cvar:0.25 (default: that of the agent)")
    options.add_argument("--stochastic", action="store_true", help="Use stochastic actions")
    options.add_argument("--seed", help="Random generator seed", type=int, default=0)
    options.add_argument("-n", "--n-timesteps", help="Maximum number of timesteps", default=1000, type=int)
    options.add_argument("--gym-packages", nargs="+", default=[], help="Packages that register environments")
    options.add_argument("--action-names", nargs="+", help="A name for each action")
    options.add_argument(
        "-o", "--output", type=Path, help=f"File to write: steps of the episode ({', '.join(PICTURES)}), or a film "
        f"({', '.join(WRITERS)}); default: distribution_ALGO_ENV.png",
    )  # fmt: skip
    options.add_argument("--columns", type=int, default=4, help="Number of steps to show (default: 4)")
    options.add_argument("--fps", type=int, default=10, help="Frames per second of a film (default: 10)")
    options.add_argument("--every", type=int, default=1, help="Timesteps between frames of a film (default: 1)")
    return options


def load(args: argparse.Namespace) -> tuple[ValueAlgorithm, VecEnv]:
    """:return: the agent and its training environment, rendered as images"""
    _, model_path, log_path = get_model_path(args.exp_id, args.folder, args.algo, args.env, args.load_best)
    print(f"Loading {model_path}")
    run = Path(log_path) / args.env
    hyperparams, stats_path = get_saved_hyperparams(str(run), test_mode=True)
    saved = run / "args.yml"
    env_kwargs: dict[str, Any] = {}
    if saved.is_file():
        env_kwargs = yaml.load(saved.read_text(), Loader=yaml.UnsafeLoader)["env_kwargs"] or {}  # as rl-zoo3 reads it
    env = create_test_env(
        args.env.gym_id,
        stats_path=stats_path,
        seed=args.seed,
        should_render=False,
        hyperparams=hyperparams,
        env_kwargs={**env_kwargs, "render_mode": "rgb_array"},
    )
    given = {} if args.risk is None else dict(risk=args.risk)
    return ALGORITHMS[args.algo].load(model_path, **given), env  # type: ignore[return-value]


def main() -> None:
    """Play an episode and draw it."""
    args = parser().parse_args()
    output = args.output or Path(f"distribution_{args.algo}_{args.env}.png")
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output {output} must end with one of {', '.join(SUFFIXES)}.")
    set_random_seed(args.seed)
    model, env = load(args)
    n_actions = int(model.action_space.n)  # type: ignore[attr-defined]
    if args.action_names is not None and len(args.action_names) != n_actions:
        raise ValueError(f"--action-names {' '.join(args.action_names)} must be {n_actions} names, one for each action.")
    steps = record_episode(model, env, args.n_timesteps, not args.stochastic, args.seed)
    env.close()
    if output.suffix.lower() in WRITERS:
        save_film(steps, output, args.action_names, args.fps, args.every)
    else:
        plot_film_strip(steps, args.action_names, args.columns).savefig(output, dpi=100)
    print(f"Saved {output}: {len(steps)} steps, acting by risk={model.risk}")
