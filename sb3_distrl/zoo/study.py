"""What a study of hyperparameters leaves behind: a report, an entry to train from, and plots."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import plot_optimization_history, plot_parallel_coordinate, plot_param_importances, plot_slice
from plotly.offline import get_plotlyjs

from sb3_distrl.zoo.settings import Hyperparams, plain

SHOWN_TRIALS = 10
MIN_TRIALS = 3  # of which Optuna estimates importances that differ
PLOTS: dict[str, Callable[[optuna.Study], Any]] = {
    "history": plot_optimization_history,
    "importance": plot_param_importances,
    "parallel": plot_parallel_coordinate,
    "slices": plot_slice,
}


def write(path: Path, text: str) -> None:
    """
    :param path: file; whole, or what it was before, at any moment
    :param text: its content
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # several processes may end a study at the same time
    temporary.write_text(text)
    os.replace(temporary, path)


def importances(study: optuna.Study) -> dict[str, float]:
    """
    :param study: with completed trials
    :return: importance of each parameter, the largest first; none where there are too few trials to tell
    """
    if len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])) < MIN_TRIALS:
        return {}
    try:
        return get_param_importances(study)
    except (ValueError, RuntimeError):
        return {}


def shown(value: Any) -> str:
    """:param value: of a parameter"""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def describe(trial: FrozenTrial) -> str:
    """:param trial: with parameters"""
    return ", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())


def report(study: optuna.Study, weights: dict[str, float], algo: str, env_id: str, n_timesteps: int) -> str:
    """
    :param study: with completed trials
    :param weights: importance of each parameter, if one can tell
    :param algo: name of the algorithm
    :param env_id: name of the environment
    :param n_timesteps: environment steps of each run
    :return: Markdown
    """
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    states = {state: sum(trial.state == state for trial in study.get_trials(deepcopy=False)) for state in TrialState}
    best = sorted(complete, key=lambda trial: trial.values, reverse=True)[:SHOWN_TRIALS]
    n_seeds = len(study.best_trial.user_attrs.get("seeds", [None]))
    lines = [
        f"# Study {study.study_name}: {algo} on {env_id}",
        "",
        f"{', '.join(f'{number} {state.name.lower()}' for state, number in states.items() if number)} trials of "
        f"{n_timesteps:,} steps; a trial's score is the mean over {n_seeds} seed{'s' * (n_seeds > 1)} of the last evaluation.",
        "",
        "| trial | score | of each seed | parameters |",
        "|---|---|---|---|",
    ]
    for trial in best:
        scores = ", ".join(f"{score:.1f}" for score in trial.user_attrs.get("scores", []))
        lines.append(f"| {trial.number} | {trial.value:.1f} | {scores} | {describe(trial)} |")
    if weights:
        lines += ["", "| parameter | importance, as Optuna estimates it |", "|---|---|"]
        lines += [f"| {name} | {weight:.2f} |" for name, weight in weights.items()]
    command = study.user_attrs.get("command", " ".join(sys.orig_argv))
    lines += ["", f"Command: `{command}`"]
    return "\n".join(lines) + "\n"


def entry(study: optuna.Study, env_id: str, hyperparams: Hyperparams) -> str:
    """
    :param study: with completed trials
    :param env_id: name of the environment
    :param hyperparams: of the best trial, with all that was not tuned
    :return: a YAML file for ``--conf-file``
    """
    best = study.best_trial
    seeds = best.user_attrs.get("seeds", [])
    comment = f"# Trial {best.number} of study {study.study_name}: {best.value:.1f}, mean over seeds {seeds}.\n"
    return comment + yaml.safe_dump({env_id: plain(hyperparams)}, sort_keys=False)


def write_report(
    study: optuna.Study, stem: Path, algo: str, env_id: str, n_timesteps: int, hyperparams: Hyperparams, plots: bool
) -> list[Path]:
    """
    :param study: with completed trials
    :param stem: where to write: path of the files without what tells them apart
    :param algo: name of the algorithm
    :param env_id: name of the environment
    :param n_timesteps: environment steps of each run
    :param hyperparams: of the best trial, with all that was not tuned
    :param plots: whether to draw
    :return: the files
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.yml")]
    weights = importances(study)
    write(files[0], report(study, weights, algo, env_id, n_timesteps))
    write(files[1], entry(study, env_id, hyperparams))
    if plots:
        write(stem.with_name("plotly.min.js"), get_plotlyjs())  # once, so that the plots need no network
        for name, draw in PLOTS.items():
            if name == "importance" and not weights:
                continue
            files.append(stem.with_name(f"{stem.name}_{name}.html"))
            write(files[-1], draw(study).to_html(include_plotlyjs="plotly.min.js"))
    return files
