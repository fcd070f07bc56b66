"""Rows of a suite: read from the files that training writes, and kept in a CSV file with their origin beside it."""

import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from shared import ROOT, locked, processor, versions

from benchmark.suite import Run, Suite, respelled
from benchmark.training import parts
from sb3_distrl.common.files import atomic_write

KEYS = ["algo", "env", "seed"]
COLUMNS = [*KEYS, "step", "return_mean", "return_std", "episodes"]
PACKAGES = ("stable-baselines3", "sb3-contrib", "rl-zoo3", "torch", "gymnasium", "numpy", "minatar", "ale-py")


def commit() -> str:
    """:return: of the checkout, with a mark where files differ from it"""
    line = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=10", "--dirty"]
    return subprocess.run(line, capture_output=True, text=True).stdout.strip() or "unknown"


def rows_of(suite: Suite, run: Run, folder: Path) -> pd.DataFrame:
    """
    :param suite: the suite
    :param run: one of its runs
    :param folder: of the run, which is done
    :return: its rows, with the columns COLUMNS
    """
    steps, returns = evaluations(folder) if suite.measure == "evaluation" else windows(suite, run, folder)
    rows = [(step, np.mean(values), np.std(values), len(values)) for step, values in zip(steps, returns, strict=True)]
    frame = pd.DataFrame(rows, columns=COLUMNS[3:])
    for name, value in zip(KEYS, (run.algo, run.env_id, run.seed), strict=True):
        frame[name] = value
    return frame[COLUMNS]


def evaluations(folder: Path) -> tuple[list[int], list[np.ndarray]]:
    """
    :param folder: of a run
    :return: steps of its evaluations, and the returns of their episodes
    """
    with np.load(parts(folder)[-1].folder / "evaluations.npz") as saved:
        return saved["timesteps"].tolist(), list(saved["results"])


def windows(suite: Suite, run: Run, folder: Path) -> tuple[list[int], list[np.ndarray]]:
    """
    :param suite: the suite
    :param run: one of its runs
    :param folder: of the run
    :return: last steps of its windows, without those in which no episode ended, and the returns of the training episodes
    """
    steps, returns = np.array([]), np.array([])  # of the episodes: the step at which each ended
    for part in parts(folder):
        monitors = [pd.read_csv(path, skiprows=1) for path in part.folder.glob("*monitor.csv")]  # of each environment
        ends = [episodes["l"].cumsum() / suite.frame_skip * len(monitors) for episodes in monitors]  # they step together
        before = steps <= part.start  # the others were played again
        steps = np.concatenate([steps[before], *(part.start + each for each in ends)])
        returns = np.concatenate([returns[before], *(episodes["r"] for episodes in monitors)])
    window_ends = range(suite.window, suite.steps[run.env_id] + 1, suite.window)
    values = [returns[(steps > end - suite.window) & (steps <= end)] for end in window_ends]
    found = [(end, of_window) for end, of_window in zip(window_ends, values, strict=True) if len(of_window)]
    return [end for end, _ in found], [of_window for _, of_window in found]


class Results:
    """
    ``<suite>.csv``, and ``<suite>.yml`` with the settings of each contender and the origin of each run.

    :param suite: the suite
    :param folder: of both files
    :raises ValueError: if there are rows of a contender whose settings were others
    """

    def __init__(self, suite: Suite, folder: Path) -> None:
        self.suite = suite
        self.table, self.origin = folder / f"{suite.name}.csv", folder / f"{suite.name}.yml"
        self.here = dict(commit=commit(), versions=versions(*PACKAGES), processor=processor())
        self._read()
        for algo, of_envs in self.settings.items():
            for env_id, settings in of_envs.items():
                if (algo, env_id) not in suite.pairs():
                    continue
                kept, current = respelled(settings), respelled(suite.settings(algo, env_id))
                changed = sorted(name for name in {*current, *kept} if current.get(name) != kept.get(name))
                if changed:
                    raise ValueError(
                        f"{self.table} has rows of {algo} on {env_id} with other settings ({', '.join(changed)}): "
                        f"delete them, and its entry in {self.origin}, or name another folder for results."
                    )

    def _read(self) -> None:
        self.rows = pd.read_csv(self.table) if self.table.exists() else pd.DataFrame(columns=COLUMNS)
        known: dict[str, Any] = yaml.safe_load(self.origin.read_text()) if self.origin.exists() else {}
        self.settings: dict[str, dict[str, Any]] = known.get("settings", {})
        self.origins: list[dict[str, Any]] = known.get("origins", [])

    def __contains__(self, run: Run) -> bool:
        rows = self.rows
        return bool(((rows["algo"] == run.algo) & (rows["env"] == run.env_id) & (rows["seed"] == run.seed)).any())

    def add(self, run: Run, rows: pd.DataFrame, seconds: float) -> None:
        """
        Write the rows of a run beside those that other processes have written.

        :param run: which is done
        :param rows: of it
        :param seconds: that it took, or its last part, where it was interrupted
        """
        with locked(self.table):
            self._read()
            self._add(run, rows, seconds)
            self._write()

    def _add(self, run: Run, rows: pd.DataFrame, seconds: float) -> None:
        self.rows = rows if self.rows.empty else pd.concat([self.rows, rows])
        self.rows = self.rows.sort_values([*KEYS, "step"], ignore_index=True)
        self.settings.setdefault(run.algo, {})[run.env_id] = self.suite.settings(run.algo, run.env_id)
        found = [origin for origin in self.origins if self.here.items() <= origin.items()]
        if not found:
            self.origins.append({**self.here, "seconds": {}})
            found = self.origins[-1:]
        found[0]["seconds"].setdefault(run.algo, {}).setdefault(run.env_id, {})[run.seed] = round(seconds)

    def _write(self) -> None:
        text = io.StringIO()
        self.rows.to_csv(text, index=False, float_format="%.6g")
        with atomic_write(self.origin) as path:
            path.write_text(yaml.safe_dump(dict(origins=self.origins, settings=self.settings), sort_keys=False, width=125))
        with atomic_write(self.table) as path:  # last: it says which runs are done
            path.write_text(text.getvalue())
