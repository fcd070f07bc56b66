"""One run of a suite: sb3-distrl train in a process of its own, which goes on from its last checkpoint."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import yaml
from rl_zoo3.utils import ALGOS
from shared import ROOT

from benchmark.suite import Run, Suite
from sb3_distrl.common.callbacks import RollingCheckpointCallback, latest_checkpoint, steps_of
from sb3_distrl.common.model import ValueModel

N_EVAL_ENVS = 20
CHECKPOINT = f"{RollingCheckpointCallback.__module__}.{RollingCheckpointCallback.__qualname__}"
INTERRUPTED = "Interrupted after"  # in the log, where Ctrl-C has ended a training early


class Part(NamedTuple):
    """
    What a training wrote between two interruptions.

    :param folder: of its files
    :param start: environment steps before it
    """

    folder: Path
    start: int


def parts(folder: Path) -> list[Part]:
    """
    :param folder: of a run
    :return: its parts, one after the other
    """
    logs = folder / "parts.yml"
    starts: list[int] = yaml.safe_load(logs.read_text()) if logs.exists() else []
    folders = sorted(
        (path for path in folder.glob("*/*_*") if path.is_dir()), key=lambda path: int(path.name.rpartition("_")[2])
    )
    return [Part(path, start) for path, start in zip(folders, starts, strict=False)]


def settings(suite: Suite, run: Run, folder: Path) -> dict:
    """
    :param suite: the suite
    :param run: one of its runs
    :param folder: for its files
    :return: its hyperparameters, with checkpoints where the suite and the algorithm have them
    """
    found = suite.settings(run.algo, run.env_id)
    if suite.checkpoint and issubclass(ALGOS[suite.contenders[run.algo]["algo"]], ValueModel):
        checkpoints = dict(save_freq=suite.checkpoint, folder=str(folder / "checkpoints"), keep=1)
        found["callback"] = [*found.get("callback", []), {CHECKPOINT: checkpoints}]
    return found


def steps_before(checkpoint: Path | None) -> int:
    """
    :param checkpoint: to go on from, if there is one
    :return: environment steps that are done then
    """
    return 0 if checkpoint is None else steps_of(checkpoint)


def command(suite: Suite, run: Run, folder: Path, checkpoint: Path | None) -> list[str]:
    """
    :param suite: the suite
    :param run: one of its runs
    :param folder: for its files
    :param checkpoint: to go on from
    :return: the command line that trains it
    """
    algo, left = suite.contenders[run.algo]["algo"], suite.steps[run.env_id] - steps_before(checkpoint)
    line = [sys.executable, "-m", "sb3_distrl.zoo", "train", "--algo", algo, "--env", run.env_id, "--seed", str(run.seed)]
    line += ["--conf-file", str(folder / "settings.yml"), "-f", str(folder), "--num-threads", "1", "--verbose", "0"]
    if checkpoint is not None:
        line += ["-i", str(checkpoint)]
    if suite.measure == "evaluation":
        line += ["--eval-freq", str(left // suite.evaluations), "--eval-episodes", str(suite.episodes)]
        return [*line, "--n-eval-envs", str(min(N_EVAL_ENVS, suite.episodes))]
    return [*line, "--eval-freq", "-1"]


def train(suite: Suite, run: Run, folder: Path) -> float:
    """
    :param suite: the suite
    :param run: one of its runs
    :param folder: for its files; without a checkpoint with these settings, what is there is deleted
    :return: seconds that it took, or its last part; 0 if only the deletion of its checkpoints was left
    :raises RuntimeError: if it failed
    """
    entry, written = yaml.safe_dump({run.env_id: settings(suite, run, folder)}), folder / "settings.yml"
    same = written.exists() and written.read_text() == entry
    checkpoint = latest_checkpoint(folder / "checkpoints") if same else None
    if checkpoint is None:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    written.write_text(entry)
    start = time.perf_counter()
    if steps_before(checkpoint) < suite.steps[run.env_id]:
        train_part(suite, run, folder, checkpoint)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return time.perf_counter() - start


def train_part(suite: Suite, run: Run, folder: Path, checkpoint: Path | None) -> None:
    """
    :param suite: the suite
    :param run: one of its runs
    :param folder: for its files
    :param checkpoint: to go on from
    :raises RuntimeError: if it failed
    """
    starts = [part.start for part in parts(folder)] + [steps_before(checkpoint)]
    (folder / "parts.yml").write_text(yaml.safe_dump(starts))
    path = os.pathsep.join(filter(None, [str(ROOT / "scripts"), os.environ.get("PYTHONPATH")]))  # for benchmark.callbacks
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with (folder / "log.txt").open("w") as log:
        code = subprocess.run(command(suite, run, folder, checkpoint), stdout=log, stderr=log, env=environment).returncode
    text = (folder / "log.txt").read_text()
    if code or INTERRUPTED in text:
        raise RuntimeError(f"{run} failed: see {folder / 'log.txt'}, which ends with\n{text[-2000:]}")


def steps_done(suite: Suite, folder: Path) -> int:
    """
    :param suite: the suite
    :param folder: of a run
    :return: its environment steps in episodes that have ended
    """
    found = parts(folder)
    if not found:
        return 0
    steps = 0
    for path in found[-1].folder.glob("*monitor.csv"):
        lines = path.read_text().splitlines()[2:]
        steps += sum(int(fields[1]) for fields in (line.split(",") for line in lines) if len(fields) == 3)
    return found[-1].start + steps // suite.frame_skip
