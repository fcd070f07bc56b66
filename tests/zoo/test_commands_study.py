"""Tuning of hyperparameters by ``sb3-distrl train --optimize-hyperparameters``."""

import re
import shlex
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.zoo.commands import TIMEOUT, Running, in_process, mistake, saved

AGENT = ("--algo", "rainbow", "--env", "CartPole-v1")
PARAMS = ("-params", "learning_starts:100", "buffer_size:10000", "train_freq:20")
TUNE = ("train", *AGENT, "-optimize", "-n", "200", "--n-evaluations", "2", "--eval-episodes", "1", "--n-startup-trials", "1")
STORAGE = ("--storage", "studies/trials.log", "--study-name", "shared")


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """:return: those of the study in a working directory"""
    storage = JournalStorage(JournalFileBackend(str(folder / "studies/trials.log")))
    return optuna.load_study(study_name="shared", storage=storage).trials


def count(folder: Path) -> list[int]:
    """:return: number of all trials of the study in a working directory, and of those that were completed or pruned"""
    found = trials(folder)
    return [len(found), sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in found)]


def check_report(folder: Path) -> None:
    """:param folder: working directory whose study has left a report with plots"""
    stem = folder / "logs" / "rainbow" / "report_CartPole-v1_shared"
    report = stem.with_suffix(".md").read_text()
    assert "# Study shared: rainbow on CartPole-v1" in report and "| trial | score |" in report
    for name in ("history", "slices", "parallel"):
        assert "plotly.min.js" in stem.with_name(f"{stem.name}_{name}.html").read_text()
    assert (stem.parent / "plotly.min.js").is_file()
    assert list(stem.parent.glob("report_CartPole-v1_*.csv"))  # rl-zoo3's own


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """:return: working directory with a study, and what it printed"""
    path = tmp_path_factory.mktemp("study")
    return path, in_process(path, *TUNE, *STORAGE, "--max-total-trials", "3", "--seed", "1", *PARAMS)


@pytest.fixture
def folder(study: tuple[Path, str]) -> Path:
    """:return: working directory with a study"""
    return study[0]


def test_a_study_leaves_a_report(folder: Path) -> None:
    check_report(folder)


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path: Path) -> None:
    workers = []
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        arguments = ("--storage", str(tmp_path / "studies/trials.log"), "--study-name", "shared", "--max-total-trials", "4")
        workers.append(Running(tmp_path / str(i), *TUNE, *arguments, "-f", str(tmp_path / "logs"), "--seed", "1", *PARAMS))
    try:
        for worker in workers:
            assert worker.process.wait(TIMEOUT) == 0, worker.printed
            assert "To train with the best: sb3-distrl train" in worker.printed
    finally:
        for worker in workers:
            worker.close()
    number, done = count(tmp_path)
    assert 4 <= number == done <= 5  # one more where both decide at the same moment
    check_report(tmp_path)
    # Processes with one seed do not propose the same trials
    assert len({str(trial.params) for trial in trials(tmp_path)}) == number


def test_train_with_the_best_as_printed(study: tuple[Path, str]) -> None:
    folder, printed = study
    line = next(line for line in printed.splitlines() if line.startswith("To train with the best: "))
    command, *arguments = shlex.split(line.partition(": ")[2])
    assert command == "sb3-distrl"
    in_process(folder, *arguments, "-n", "200", "--eval-freq", "-1", "-f", "best")
    entry = yaml.safe_load((folder / arguments[arguments.index("--conf-file") + 1]).read_text())["CartPole-v1"]
    assert entry["n_timesteps"] == 200 and entry["learning_starts"] == 100
    model = saved(folder / "best" / "rainbow" / "CartPole-v1_1" / "CartPole-v1.zip")
    for name in ("n_steps", "batch_size", "gamma", "replay_ratio", "target_update_interval"):
        assert model[name] == entry[name], name
    kwargs = model["policy_kwargs"]
    for name in ("net_arch", "noisy_std", "n_atoms", "v_min", "v_max"):
        assert kwargs[name] == entry["policy_kwargs"][name], name
    config = yaml.safe_load((folder / "best" / "rainbow" / "CartPole-v1_1" / "CartPole-v1" / "config.yml").read_text())
    assert config == entry


def test_train_with_the_first_trial(folder: Path) -> None:
    train = ("train", *AGENT, *STORAGE, "-n", "150", "--eval-freq", "-1", "-f", "first")
    assert "Loading trial 0 of study shared" in in_process(folder, *train, "--trial-id", "0", *PARAMS)
    assert saved(folder / "first" / "rainbow" / "CartPole-v1_1" / "CartPole-v1.zip")["num_timesteps"] >= 150
    assert "trial_id=99 is not a trial with parameters of study shared" in mistake(folder, *train, "--trial-id", "99", *PARAMS)


def test_a_study_goes_on(folder: Path) -> None:
    before, _ = count(folder)
    in_process(folder, *TUNE, *STORAGE, "--max-total-trials", str(before + 1), "--seed", "1", "--no-optim-plots", *PARAMS)
    assert count(folder) == [before + 1, before + 1]
    in_process(folder, *TUNE, *STORAGE, "--max-total-trials", str(before + 1), "--no-optim-plots", *PARAMS)  # all done
    assert count(folder) == [before + 1, before + 1]
    report = (folder / "logs" / "rainbow" / "report_CartPole-v1_shared.md").read_text()
    counts = next(line for line in report.splitlines() if " trials of 200 steps" in line).partition(" trials of ")[0]
    assert sum(map(int, re.findall(r"\d+", counts))) == before + 1  # complete, pruned or failed: seeds decide


def test_database(tmp_path: Path) -> None:
    storage = ("--storage", "sqlite:///trials.db", "--study-name", "lite", "--n-trials", "1", "--no-optim-plots")
    in_process(tmp_path, *TUNE, *storage, *PARAMS)
    assert (tmp_path / "trials.db").is_file()
    assert (tmp_path / "logs" / "rainbow" / "report_CartPole-v1_lite.yml").is_file()
    train = ("train", *AGENT, *storage[:4], "--trial-id", "0", "-n", "150", "--eval-freq", "-1", *PARAMS)
    assert "Loading trial 0" in in_process(tmp_path, *train)


def test_in_memory_with_seeds(tmp_path: Path) -> None:
    printed = in_process(tmp_path, *TUNE, "--n-trials", "2", "--n-seeds", "2", "--pruner", "none", "--seed", "5", *PARAMS)
    assert "seeds: [5, 6]" in printed
    reports = list((tmp_path / "logs" / "rainbow").glob("report_CartPole-v1_*.md"))
    assert len(reports) == 1 and "mean over 2 seeds" in reports[0].read_text()


@pytest.mark.slow
def test_interrupted_study_reports(tmp_path: Path) -> None:
    command = Running(tmp_path, *TUNE, "--n-trials", "1000", "--no-optim-plots", *PARAMS)
    try:
        command.wait_for(lambda: "Trial 0 finished" in command.printed)
        command.interrupt()
        assert command.process.returncode == 0, command.printed
    finally:
        command.close()
    assert "To train with the best" in command.printed
    assert "Traceback" not in command.printed, command.printed


def test_study_without_a_good_trial(tmp_path: Path) -> None:
    wrong = ("--n-trials", "2", "-params", "learning_starts:100", "policy_kwargs:dict(v_min=5.0,v_max=1.0)")
    printed = in_process(tmp_path, *TUNE, *wrong, code=2)
    assert "v_min=5.0 must be less than v_max=1.0" in printed
    assert printed.splitlines()[-1].startswith("sb3-distrl: error: ")
