"""Tables and figures of a suite from its CSV file: means, interquartile means and performance profiles by rliable."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from rliable import library, metrics, plot_utils

from benchmark.results import KEYS, Results
from benchmark.suite import Suite, names

REPETITIONS = 2000  # of the bootstrap
CHARACTERS, LINE = 11, 8  # of a legend: how many to an inch, and how many as the line before each is wide
Estimates = dict[str, np.ndarray]


def estimates(scores: Estimates, aggregate: Callable[[np.ndarray], np.ndarray]) -> tuple[Estimates, Estimates]:
    """
    :param scores: of each contender, shape [seeds, environments, ...]
    :param aggregate: maps such an array to one of shape [K]
    :return: aggregates of shape [K], and their 95% intervals of shape [2, K] by stratified bootstrap over seeds
    """
    state = np.random.get_state()
    np.random.seed(0)  # rliable draws from numpy's global generator, whatever random_state it is given
    try:
        return library.get_interval_estimates(scores, aggregate, reps=REPETITIONS)
    finally:
        np.random.set_state(state)


def final_scores(suite: Suite, rows: pd.DataFrame) -> pd.DataFrame:
    """
    :param suite: the suite
    :param rows: its rows
    :return: final score of each run, with the columns algo, env, seed and score: the mean over the last ``suite.last`` steps,
        where each episode counts the same
    """
    rows = rows[rows["step"] > rows["env"].map(suite.steps) - max(suite.last, 1)]
    total = (rows["return_mean"] * rows["episodes"]).groupby([rows[name] for name in ("algo", "env", "seed")]).sum()
    return (total / rows.groupby(["algo", "env", "seed"])["episodes"].sum()).rename("score").reset_index()


def normalised(suite: Suite, scores: pd.DataFrame) -> pd.DataFrame:
    """
    :param suite: with the scores that count as 0 and 1
    :param scores: of :func:`final_scores`
    :return: the same with normalised scores
    """
    low, high = (scores["env"].map({env: values[i] for env, values in suite.normalise.items()}) for i in (0, 1))
    return scores.assign(score=(scores["score"] - low) / (high - low))


def matrices(suite: Suite, scores: pd.DataFrame) -> Estimates:
    """
    :param suite: the suite
    :param scores: of :func:`final_scores`
    :return: for each contender that has any seed on all environments, scores of shape [seeds, environments] of those seeds
    """
    found = {}
    for algo in suite.contenders:
        table = scores[scores["algo"] == algo].pivot(index="seed", columns="env", values="score")
        table = table.reindex(columns=list(suite.steps)).dropna()
        if len(table):
            found[algo] = table.to_numpy()
    return found


def number(value: float) -> str:
    """:return: four significant digits, none as a power of ten"""
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")


def interval(values: np.ndarray) -> str:
    """
    :param values: of seeds
    :return: mean and 95% interval; of one seed, there is none
    """
    if len(values) < 2:
        return number(values[0])
    points, intervals = estimates({"": values[:, None]}, lambda scores: np.array([metrics.aggregate_mean(scores)]))
    low, high = intervals[""][:, 0]
    return f"{number(points[''][0])} [{number(low)}, {number(high)}]"


def accepted(suite: Suite, algo: str, env_id: str) -> tuple[float, float] | None:
    """:return: lowest and highest accepted score, if the suite has a reference for it"""
    reference = suite.reference.get("scores", {}).get(algo, {}).get(env_id)
    if reference is None:
        return None
    low, high = reference if isinstance(reference, list) else (reference, np.inf)
    return float(low), float(high)


def score_table(suite: Suite, scores: pd.DataFrame) -> list[str]:
    """:return: Markdown lines: a row for each environment and contender"""
    lines = ["| environment | contender | score | seeds | reference | each seed |", "|---|---|---:|---:|---:|---|"]
    for algo, env_id in suite.pairs():
        values = scores[(scores["algo"] == algo) & (scores["env"] == env_id)].sort_values("seed")["score"].to_numpy()
        bounds = accepted(suite, algo, env_id)
        reference = "" if bounds is None else f"{bounds[0]:g}" + (f" to {bounds[1]:g}" if np.isfinite(bounds[1]) else "")
        if len(values):
            each = ", ".join(map(number, values))
            lines.append(f"| {env_id} | {algo} | {interval(values)} | {len(values)} | {reference} | {each} |")
        else:
            lines.append(f"| {env_id} | {algo} | not run | 0 | {reference} | |")
    return lines


def aggregate_table(scores: Estimates, points: Estimates, intervals: Estimates) -> list[str]:
    """
    :param scores: normalised, shapes [seeds, environments]
    :param points: their aggregates
    :param intervals: of these
    :return: Markdown lines: a row for each contender
    """
    if not scores:
        return ["No contender has a seed on all environments yet."]
    lines = ["| contender | seeds | mean | interquartile mean |", "|---|---:|---:|---:|"]
    for algo, values in scores.items():
        cells = [
            f"{point:.3f}" + (f" [{low:.3f}, {high:.3f}]" if len(values) > 1 else "")
            for point, (low, high) in zip(points[algo], intervals[algo].T, strict=True)
        ]
        lines.append(f"| {algo} | {len(values)} | {' | '.join(cells)} |")
    return lines


def aggregates(scores: np.ndarray) -> np.ndarray:
    """
    :param scores: shape [seeds, environments]
    :return: their mean and interquartile mean
    """
    return np.array([metrics.aggregate_mean(scores), metrics.aggregate_iqm(scores)])


def colours(suite: Suite) -> dict[str, tuple[float, float, float]]:
    """:return: of each contender"""
    palette = "colorblind" if len(suite.contenders) <= 10 else "husl"  # which has as many as one asks for
    return dict(zip(suite.contenders, sns.color_palette(palette, len(suite.contenders)), strict=True))


def draw_curves(suite: Suite, rows: pd.DataFrame, path: Path) -> None:
    """
    A panel for each environment that has rows: mean over seeds, 95% bootstrap intervals.

    :param suite: the suite
    :param rows: its rows
    :param path: of the picture
    """
    env_ids = [env_id for env_id in suite.steps if (rows["env"] == env_id).any()]
    labels = [algo for algo in suite.contenders if (rows["algo"] == algo).any()]
    width = 3.6 * len(env_ids)
    columns = max(1, min(4, int(width * CHARACTERS) // (max(map(len, labels)) + LINE)))
    height = 2.8 + 0.2 * -(-len(labels) // columns)
    figure, axes = plt.subplots(1, len(env_ids), figsize=(width, height), squeeze=False, layout="constrained")
    for axis, env_id in zip(axes[0], env_ids, strict=True):
        for algo, colour in colours(suite).items():
            of_algo = rows[(rows["env"] == env_id) & (rows["algo"] == algo)]
            table = of_algo.pivot(index="seed", columns="step", values="return_mean").dropna(axis=1)
            if table.empty:
                continue
            values = table.to_numpy()[:, None, :]  # [seeds, 1, steps]
            points, intervals = estimates({algo: values}, lambda scores: scores.mean(axis=(0, 1)))
            axis.plot(table.columns, points[algo], color=colour, label=algo)
            if len(table) > 1:
                axis.fill_between(table.columns, *intervals[algo], color=colour, alpha=0.2, linewidth=0)
        axis.set_title(env_id)
        axis.set_xlabel("environment steps")
        axis.grid(alpha=0.25)
        axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    axes[0, 0].set_ylabel(f"return of {'evaluation' if suite.measure == 'evaluation' else 'training'}")
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path, dpi=110, bbox_inches="tight")  # a line of the legend may be wider than the figure
    plt.close(figure)


def draw_aggregates(suite: Suite, points: Estimates, intervals: Estimates, path: Path) -> None:
    """
    Mean and interquartile mean with 95% stratified bootstrap intervals.

    :param suite: the suite
    :param points: aggregates of each contender
    :param intervals: of these
    :param path: of the picture
    """
    figure, _ = plot_utils.plot_interval_estimates(
        points,
        intervals,
        metric_names=["Mean", "Interquartile mean"],
        algorithms=list(reversed(points)),
        colors=colours(suite),
        xlabel="normalised score",
        xlabel_y_coordinate=-0.25,
    )
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)


def draw_profiles(suite: Suite, scores: Estimates, path: Path) -> None:
    """
    Part of the runs above each normalised score.

    :param suite: the suite
    :param scores: normalised, shapes [seeds, environments]
    :param path: of the picture
    """
    thresholds = np.linspace(0.0, max(1.0, *(values.max() for values in scores.values())), 101)
    points, intervals = estimates(scores, partial(_profile, thresholds=thresholds))
    figure, axis = plt.subplots(figsize=(6, 3.5))
    plot_utils.plot_performance_profiles(
        points, thresholds, performance_profile_cis=intervals, colors=colours(suite), ax=axis, xlabel="normalised score τ",
        ylabel="part of runs with score > τ", legend=True, labelsize="medium", ticklabelsize="medium",
    )  # fmt: skip
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)


def _profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return (scores[..., None] > thresholds).mean(axis=(0, 1))


def write(suite: Suite, folder: Path) -> str:
    """
    :param suite: the suite
    :param folder: of its results, for the report and its pictures
    :return: the report, which is also in ``<suite>.md``
    :raises ValueError: if there are no results yet
    """
    results = Results(suite, folder)
    if results.rows.empty:
        raise ValueError(f"suite={suite.name} has no results in {folder}: run it first.")
    scores = final_scores(suite, results.rows)
    curves = results.rows.groupby(KEYS).size().max() > 1
    final = "last evaluation" if suite.measure == "evaluation" else "training episodes"
    window = f" of the last {suite.last:,} steps" if suite.last else ""
    lines = [
        f"# {suite.name}",
        "",
        *suite.description,
        "",
        f"Rows: [{results.table.name}]({results.table.name}). Settings, versions, commits, machines and times of all runs: "
        f"[{results.origin.name}]({results.origin.name}). Again: `python scripts/benchmark run {suite.name}`, then "
        f"`python scripts/benchmark report {suite.name}`.",
        "",
        *([f"![Learning curves]({suite.name}_curves.png)", ""] if curves else []),
        f"Score: mean return of the {final}{window}; mean over seeds with 95% bootstrap interval.",
        *([f"Reference: {suite.reference['source']}."] if suite.reference else []),
        "",
        *score_table(suite, scores),
    ]
    if curves:
        draw_curves(suite, results.rows, folder / f"{suite.name}_curves.png")
    if suite.normalise:
        relative = matrices(suite, normalised(suite, scores))
        points, intervals = estimates(relative, aggregates)
        lines += [
            "",
            f"Scores normalised, of seeds with all environments: {suite.normalise_source}. 95% stratified bootstrap.",
            "",
            *aggregate_table(relative, points, intervals),
        ]
        if relative:
            draw_aggregates(suite, points, intervals, folder / f"{suite.name}_aggregates.png")
            draw_profiles(suite, relative, folder / f"{suite.name}_profiles.png")
            lines += ["", f"![Aggregates]({suite.name}_aggregates.png)", "", f"![Profiles]({suite.name}_profiles.png)"]
    report = "\n".join(lines) + "\n"
    (folder / f"{suite.name}.md").write_text(report)
    return report


def main(arguments: list[str]) -> None:
    """:param arguments: of the command line"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", help=f"{', '.join(names())}, or a YAML file like theirs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder for the tables")
    args = parser.parse_args(arguments)
    try:
        print(write(Suite.named(args.suite), args.results))
    except ValueError as error:
        parser.error(str(error))
