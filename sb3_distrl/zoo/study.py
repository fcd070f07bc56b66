"""Results of a study of hyperparameters: a report, an entry to train from, and plots."""

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

from sb3_distrl.common.files import atomic_write
from sb3_distrl.zoo.entries import Hyperparams, plain

SHOWN_TRIALS = 10
MIN_TRIALS = 3  # with fewer, Optuna estimates the same importance for all parameters
PLOTS: dict[str, Callable[[optuna.Study], Any]] = {
    "history": plot_optimization_history,
    "importance": plot_param_importances,
    "parallel": plot_parallel_coordinate,
    "slices": plot_slice,
}


def importances(study: optuna.Study) -> dict[str, float]:
    """:return: importances of parameters in descending order; empty if too few trials are complete"""
    if len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])) < MIN_TRIALS:
        return {}
    try:
        return get_param_importances(study)
    except (ValueError, RuntimeError):
        return {}


def _parameters(trial: FrozenTrial) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.params.items()
    )


def report(study: optuna.Study, weights: dict[str, float], algo: str, env_id: str, n_timesteps: int) -> str:
    """:return: a Markdown report of a study; ``weights`` are importances, or empty"""
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
        lines.append(f"| {trial.number} | {trial.value:.1f} | {scores} | {_parameters(trial)} |")
    if weights:
        lines += ["", "| parameter | importance, as Optuna estimates it |", "|---|---|"]
        lines += [f"| {name} | {weight:.2f} |" for name, weight in weights.items()]
    command = study.user_attrs.get("command", " ".join(sys.orig_argv))
    lines += ["", f"Command: `{command}`"]
    return "\n".join(lines) + "\n"


def entry(study: optuna.Study, env_id: str, hyperparams: Hyperparams) -> str:
    """:return: a YAML file for ``--conf-file`` with all hyperparameters of the best trial"""
    best = study.best_trial
    seeds = best.user_attrs.get("seeds", [])
    comment = f"# Trial {best.number} of study {study.study_name}: {best.value:.1f}, mean over seeds {seeds}.\n"
    return comment + yaml.safe_dump({env_id: plain(hyperparams)}, sort_keys=False)


def write_report(
    study: optuna.Study, stem: Path, algo: str, env_id: str, n_timesteps: int, hyperparams: Hyperparams, plots: bool
) -> list[Path]:
    """Write a report, an entry and, if asked, plots to files whose names start with ``stem``; return the files."""
    weights = importances(study)
    texts = {
        stem.with_name(f"{stem.name}.md"): report(study, weights, algo, env_id, n_timesteps),
        stem.with_name(f"{stem.name}.yml"): entry(study, env_id, hyperparams),
    }
    if plots:
        for name, draw in PLOTS.items():
            if weights or name != "importance":
                html = draw(study).to_html(include_plotlyjs="plotly.min.js")
                texts[stem.with_name(f"{stem.name}_{name}.html")] = html
    files = list(texts)
    if plots:
        texts[stem.with_name("plotly.min.js")] = get_plotlyjs()  # one copy, so that the plots work offline
    for path, text in texts.items():
        with atomic_write(path, shared=True) as temporary:  # several processes may end a study at the same time
            temporary.write_text(text)
    return files
