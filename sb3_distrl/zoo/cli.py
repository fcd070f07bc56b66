"""The command ``sb3-distrl``: rl-zoo3's commands with this library's algorithms."""

import argparse
import importlib
import importlib.util
import sys
import traceback
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import gymnasium
from gymnasium.error import DependencyNotInstalled

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.functional import as_distortion
from sb3_distrl.validation import nearest
from sb3_distrl.zoo import register

COMMANDS = {
    "train": "train an agent, resume training, or tune hyperparameters",
    "enjoy": "watch or evaluate a trained agent",
    "record_video": "record a video of a trained agent",
    "record_training": "record a video of the checkpoints of a training run",
    "plot_train": "plot the returns of training episodes",
    "all_plots": "plot and tabulate the evaluations of several runs",
    "plot_from_file": "plot what all_plots saved",
    "plot_distribution": "draw the distributions of returns of a trained agent (rainbow, iqn, qrdqn)",
    "push_to_hub": "upload a trained agent to the Hugging Face Hub",
    "load_from_hub": "download a trained agent",
}
LISTED = "\n".join(f"  {name:<16} {what}" for name, what in COMMANDS.items())
HELP = f"""usage: sb3-distrl COMMAND [options]

rl-zoo3's commands, for rainbow, iqn, this library's qrdqn, the same with Ray actors (apex-rainbow, apex-iqn,
apex-qrdqn), and all algorithms of rl-zoo3:

{LISTED}

sb3-distrl COMMAND --help lists the options."""
WATCHING = ("enjoy", "record_video", "record_training", "plot_distribution")
PRETRAINED = "rl-trained-agents"  # rl-zoo3's default folder of agents, although its train saves them in logs
NEEDED = ("rl_zoo3", "optuna", "pandas", "plotly", "requests", "scipy", "seaborn")  # rl-zoo3 does not require all of them
# Errors shown to users without traceback, and the modules that raise them
FOR_USERS: tuple[tuple[tuple[type[Exception], ...], tuple[str, ...]], ...] = (
    ((AssertionError, ValueError), ("sb3_distrl.", "rl_zoo3.utils", "rl_zoo3.train", "huggingface_sb3", "__main__")),
    ((ImportError,), ("rl_zoo3.", "stable_baselines3.", "sb3_distrl.distributed")),
    ((RuntimeError,), ("sb3_distrl.distributed",)),
    ((OSError,), ("sb3_distrl.zoo.commands",)),  # of the Hub
    ((DependencyNotInstalled,), ("",)),
)


class TrainParser(argparse.ArgumentParser):
    """The parser of rl-zoo3's ``train`` with the options of :class:`~sb3_distrl.zoo.experiment.Experiment`."""

    def parse_args(self, *args: Any) -> argparse.Namespace:  # type: ignore[override]
        own = self.add_argument_group("sb3-distrl")
        own.add_argument("--entry", help="Entry of the hyperparameter file to use (default: that of the environment)")
        own.add_argument(
            "--n-seeds", type=int, default=1, help="Number of seeds that a trial's score is averaged over (default: 1)"
        )
        for action in self._actions:
            if action.dest == "vec_env":
                action.choices = [*(action.choices or ()), "ale"]
                action.help = "VecEnv type; ale: ale-py's own for Atari games, in C++; replaces the entry's AtariWrapper"
        parsed = super().parse_args(*args)
        if parsed.n_seeds < 1:
            self.error(f"--n-seeds {parsed.n_seeds} must be at least 1")
        parsed.seed_given = parsed.seed >= 0  # otherwise rl-zoo3 draws one
        return parsed


class EnjoyParser(argparse.ArgumentParser):
    """The parser of rl-zoo3's ``enjoy`` with an option for the risk measure."""

    def parse_args(self, *args: Any) -> argparse.Namespace:  # type: ignore[override]
        from rl_zoo3.utils import ALGOS

        self.add_argument_group("sb3-distrl").add_argument(
            "--risk", help="Risk measure to act by, e.g. cvar:0.25 (default: that of the agent); for rainbow, iqn and qrdqn"
        )
        parsed = super().parse_args(*args)
        if parsed.risk is not None:
            algorithm = ALGOS[parsed.algo]
            if not issubclass(algorithm, ValueAlgorithm):
                self.error(f"--risk {parsed.risk} is for rainbow, iqn and qrdqn, not for {parsed.algo}")
            try:
                risk = as_distortion(parsed.risk, "--risk")
            except ValueError as error:
                self.error(str(error))
            # enjoy only needs load()
            ALGOS[parsed.algo] = SimpleNamespace(load=partial(algorithm.load, risk=risk))  # type: ignore[assignment]
        return parsed


def fail(message: str) -> NoReturn:
    """Print an error and exit."""
    print(f"sb3-distrl: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def options(arguments: list[str]) -> argparse.Namespace:
    """:return: the options to check before rl-zoo3 parses them, with its defaults"""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("-f", "--folder")
    parser.add_argument("--gym-packages", nargs="+", default=[])
    return parser.parse_known_args(arguments)[0]


def check_names(known: argparse.Namespace) -> None:
    """:raises SystemExit: for an unknown algorithm or environment"""
    from rl_zoo3.utils import ALGOS

    if known.algo not in ALGOS:
        fail(f"--algo {known.algo} is unknown.{nearest(known.algo, ALGOS)} There are {', '.join(ALGOS)}.")
    for package in known.gym_packages:
        if not importlib.util.find_spec(package):
            fail(f"--gym-packages {package} cannot be imported: install it, or run in the folder that contains it.")
        importlib.import_module(package)
    if known.env not in gymnasium.registry:
        if ("NoFrameskip" in known.env or known.env.startswith("ALE/")) and not importlib.util.find_spec("ale_py"):
            fail(f"--env {known.env} needs the Atari games: pip install 'sb3-distrl[atari]'.")
        fail(
            f"--env {known.env} is not registered.{nearest(known.env, gymnasium.registry)} "
            "--gym-packages imports packages that register environments."
        )


def folder_option(command: str, known: argparse.Namespace) -> list[str]:
    """:return: an option for train's folder, if the agent is there and rl-zoo3's own agents are not installed"""
    if command not in WATCHING or known.folder is not None or Path(PRETRAINED).is_dir():
        return []
    runs = Path("logs", known.algo).glob(f"{known.env.replace('/', '-')}_*")
    return ["-f", "logs"] if any(runs) else []


def run(command: str, arguments: list[str]) -> None:
    """Run one of COMMANDS with its options."""
    from sb3_distrl.zoo import commands

    if command not in commands.PLOTS and not {"-h", "--help"} & set(arguments):
        known = options(arguments)
        check_names(known)
        arguments = [*arguments, *folder_option(command, known)]
    sys.argv = [f"sb3-distrl {command}", *arguments]
    if command == "train":
        commands.train(TrainParser)
    elif command == "enjoy":
        commands.enjoy(EnjoyParser)
    elif command in commands.PLOTS:
        commands.plot(command)
    else:
        getattr(commands, command)()


def main() -> None:
    """Run the command line; errors of the user end it with a message."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(HELP)
        return
    if command not in COMMANDS:
        fail(f"{command} is not a command.{nearest(command, COMMANDS)} There are {', '.join(COMMANDS)}.")
    missing = [package for package in NEEDED if not importlib.util.find_spec(package)]
    if missing:
        fail(f"{', '.join(missing)} not installed: pip install 'sb3-distrl[zoo]'.")
    register()
    try:
        run(command, arguments)
    except Exception as error:
        raised_in = list(traceback.walk_tb(error.__traceback__))[-1][0].f_globals.get("__name__", "")
        if not any(isinstance(error, kind) and raised_in.startswith(modules) for kind, modules in FOR_USERS):
            raise
        fail(str(error))
