"""The tables of ``gradient_steps.py``."""

import subprocess
from typing import Any, NamedTuple

import numpy as np
from shared import ROOT, processor, versions

from speed.contenders import Timings

PACKAGES = (
    "sb3-distrl",
    "stable-baselines3",
    "sb3-contrib",
    "torch",
    "numpy",
    "numba",
    "pfrl",
    "tianshou",
    "gymnasium",
    "ale-py",
)
OURS, FLOOR = "sb3_distrl", "floor"

WHAT_THEY_DO = """
Read in their sources, and counted as operators dispatched in one step. Passes: by the target network on next observations,
by the online network on next observations to choose actions, by the online network to learn. Adam is PyTorch's; "default"
is its loop over parameters on a CPU.

| | passes | what it leaves out, or does besides |
|---|---|---|
| sb3_distrl, Rainbow | 1, 1, 1 | a draw of factorised noise for each pass; keeps metrics for the log |
| PFRL, Rainbow | 1, 1, 1 | a draw for each pass, but both streams' hidden layers are one of 1024 units, with one \
noise of their input; default Adam; scales inputs in NumPy; reads loss and values at each step |
| Tianshou, Rainbow | 1, 1, 1 | **a draw for each network: the choosing and the learning pass share it; does not scale \
inputs**, as in its example; default Adam; reads the loss at each step; bootstraps from the next observation, not the third |
| Tianshou, made whole | 1, 1, 1 | the same with inputs scaled, by its own wrapper, and a draw for each pass |
| CleanRL, Rainbow | 1, 1, 1 | a draw for each network, **one number for each weight** instead of factorised noise: 6.8M \
numbers a step; default Adam; projects in a loop over the batch |
| floor, Rainbow | 1, 1, 1 | a draw for each pass; no replay, weights, priorities, metrics; fused Adam |
| sb3_distrl, floor, IQN | 1, 0, 1 | 32 fractions of the target network choose, 64 and 64 learn |
| PFRL, IQN | 1, 0, 1 | the same; default Adam |
| Tianshou, IQN | 1, 1, 1 | chooses by 64 fractions of the online network, always; inputs not scaled; default Adam; \
reads next observations twice |
| sb3_distrl, floor, QRDQN | 1, 0, 1 | |
| sb3-contrib QRDQN | 1, 0, 1 | default Adam; reads the loss at each step |
| Tianshou, QRDQN | 1, 1, 1 | always double; inputs not scaled; default Adam |
| sb3_distrl, DQN | 1, 0, 1 | Rainbow with all six off; clips gradients at 10 |
| SB3 DQN; PFRL, DQN | 1, 0, 1 | clip gradients at 10; default Adam; read the loss at each step |
| Tianshou, DQN | 1, 1, 1 | does the choosing pass without using it; cannot clip; inputs not scaled; default Adam |

Nobody clips gradients in Rainbow, IQN and QRDQN, as Tianshou and CleanRL cannot. Importance weights: all in Rainbow, divided
by the largest of the batch (in CleanRL and PFRL, too). All peers compute in float32 without a compiler: they have no option.
PFRL has no QR-DQN. CleanRL keeps whole observations twice, so its replay is as large, but holds fewer transitions (--whole).
In Pong, Tianshou's collector does not look for NaN in its buffer, which it does by default, all of it at each collection.
"""


class Results(NamedTuple):
    """What was measured."""

    learner: dict[tuple[str, int], Timings]  # by family and threads
    end_to_end: dict[int, Timings]  # by threads
    memory: dict[str, dict[str, tuple[int, int]]]  # by family and contender, bytes before and at most
    notes: list[str]


def median(values: Any) -> float:
    return float(np.median(values))


def spread(values: Any, form: str = "{:.1f}") -> str:
    """:return: the median and the quartiles"""
    low, middle, high = (form.format(value) for value in np.percentile(values, [25, 50, 75]))
    return f"{middle} ({low}..{high})"


def ratio(values: list[float], others: list[float]) -> str:
    """:return: the median of the rounds' ratios, and the least and the largest"""
    ratios = np.array(values) / np.array(others)
    return f"{np.median(ratios):.2f} ({ratios.min():.2f}..{ratios.max():.2f})"


def fastest(timings: Timings, names: list[str]) -> str | None:
    """:return: the one of these names with the least median, if there is one"""
    return min(names, key=lambda name: median(timings[name]["whole"]), default=None)


def fastest_peer(timings: Timings) -> str | None:
    """:return: the name of the fastest one of another library, as that library is"""
    return fastest(timings, [name for name in timings if library(name) not in (OURS, FLOOR) and library(name) == name])


def library(name: str) -> str:
    return name.split(",")[0]


def way(name: str) -> set[str]:
    """:return: how a contender computes"""
    return set(name.split(", ")[1:]) & {"bf16", "compile"}


def learner_table(timings: Timings) -> str:
    """
    :param timings: of one family
    :return: a markdown table
    """
    peer = fastest_peer(timings)
    columns = (
        "step, ms",
        "CPU, ms",
        "replay, ms",
        "priorities, ms",
        "both, share",
        "to the fastest peer",
        "in CPU",
        "to the floor",
    )
    text = f"| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}"
    for name, parts in sorted(timings.items(), key=lambda item: median(item[1]["whole"])):
        replay = [parts.get(part) for part in ("replay", "priorities")]
        cells = [spread(np.array(parts["whole"]) * 1e3), f"{median(parts['cpu']) * 1e3:.1f}"]
        cells += ["-" if seconds is None else f"{median(seconds) * 1e3:.2f}" for seconds in replay]
        known = [seconds for seconds in replay if seconds is not None]
        cells.append(f"{median(np.sum(known, axis=0) / np.array(parts['whole'])):.1%}" if known else "-")
        cells += ["-" if peer is None else ratio(parts[what], timings[peer][what]) for what in ("whole", "cpu")]
        floor = fastest(timings, [other for other in timings if library(other) == FLOOR and way(other) == way(name)])
        cells.append("-" if floor is None else ratio(parts["whole"], timings[floor]["whole"]))
        text += f"\n| {f'**{name}**' if name == peer else name} | {' | '.join(cells)} |"
    return text


def end_to_end_table(timings: Timings) -> str:
    """
    :param timings: of Pong
    :return: a markdown table
    """
    peer = fastest_peer(timings)
    text = "| | steps/s | CPU per step, ms | to the fastest peer |\n|---|---:|---:|---:|"
    for name, parts in sorted(timings.items(), key=lambda item: median(item[1]["whole"])):
        cells = [spread(1 / np.array(parts["whole"])), f"{median(parts['cpu']) * 1e3:.1f}"]
        cells.append("-" if peer is None else ratio(timings[peer]["whole"], parts["whole"]))
        text += f"\n| {f'**{name}**' if name == peer else name} | {' | '.join(cells)} |"
    return text


def memory_table(memory: dict[str, dict[str, tuple[int, int]]]) -> str:
    """:return: a markdown table"""
    text = "| family | | before, MiB | peak, MiB | more, MiB |\n|---|---|---:|---:|---:|"
    for family, contenders in memory.items():
        for name, (before, peak) in contenders.items():
            cells = (f"{bytes_ / 2**20:,.0f}" for bytes_ in (before, peak, peak - before))
            text += f"\n| {family} | {name} | {' | '.join(cells)} |"
    return text


def commit() -> str:
    """:return: that of the repository, where there is one"""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def report(results: Results, settings: dict[str, Any], when: str) -> str:
    """
    :param results: what was measured
    :param settings: the command line's
    :param when: date and duration
    :return: markdown
    """
    text = f"""# Speed of learning

Written by `scripts/speed/gradient_steps.py`, whose docstring says what is measured and how; the fastest peer is in bold. Times
are medians over rounds with quartiles; ratios are medians of the rounds' ratios with the least and the largest. The floor of a
contender is the fastest of those that compute in the same way.

- {versions(*PACKAGES)}
- {processor()}; commit {commit()}; {when}
- {", ".join(f"{name}={value}" for name, value in settings.items())}
{"".join(f"- {note}{chr(10)}" for note in results.notes)}"""
    for (family, threads), timings in results.learner.items():
        text += f"\n## Gradient step: {family}, {threads} thread(s)\n\n{learner_table(timings)}\n"
    for threads, timings in results.end_to_end.items():
        text += f"\n## Pong, Rainbow, steps per second: {threads} thread(s)\n\n{end_to_end_table(timings)}\n"
    if results.memory:
        text += f"\n## Memory of a learner with full replay\n\n{memory_table(results.memory)}\n"
    if results.learner:
        text += f"\n## What a gradient step does\n{WHAT_THEY_DO}"
    return text
