"""Suites are run through sb3-distrl, resumed, and kept with their settings; most of it in this process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from benchmark.callbacks import EpsilonSchedule
from benchmark.results import COLUMNS, Results, rows_of
from benchmark.run import main
from benchmark.suite import Run, Suite, names, respelled
from benchmark.training import parts

from tests.benchmark.suites import ENTRY, TRAINING, suite_file
from tests.zoo.commands import train_here

BENCHMARK = Path(__file__).resolve().parents[2] / "scripts" / "benchmark"
EVALUATION = dict(measure="evaluation", evaluations=2, episodes=3, seeds=[0], steps={"CartPole-v1": 600})


def interrupted(folder, callback):
    """:return: fields of a suite with one run of Rainbow, which a callback interrupts between its first two checkpoints"""
    interrupts = {f"tests.benchmark.suites.{callback}": dict(step=700, reached=str(folder / "reached"))}
    contenders = dict(Rainbow=dict(algo="rainbow", entry={**ENTRY, "callback": [interrupts]}))
    return dict(seeds=[0], steps={"CartPole-v1": 2000}, checkpoint=500, contenders=contenders)


def run(folder, path, *options):
    """Trainings run in this process, one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        run_in_processes(folder, path, "--processes", "1", *options)


def run_in_processes(folder, path, *options):
    main([str(path), "--results", str(folder / "results"), "--runs", str(folder / "runs"), *options])


@pytest.mark.slow
def test_rows_of_training_are_those_of_the_monitor(tmp_path, capsys):
    path = suite_file(tmp_path, **TRAINING)
    run(tmp_path, path)
    rows = pd.read_csv(tmp_path / "results" / "tiny.csv")
    assert list(rows.columns) == COLUMNS
    assert sorted(set(zip(rows["algo"], rows["seed"], strict=True))) == [
        ("DQN", 0),
        ("DQN", 3),
        ("Rainbow", 0),
        ("Rainbow", 3),
    ]

    (monitor,) = (tmp_path / "runs" / "tiny" / "Rainbow" / "CartPole-v1" / "3").rglob("*monitor.csv")
    episodes = pd.read_csv(monitor, skiprows=1)
    ends = np.cumsum(episodes["l"])
    of_run = rows[(rows["algo"] == "Rainbow") & (rows["seed"] == 3)].set_index("step")
    assert list(of_run.index) == [400, 800, 1200]
    second = [reward for reward, end in zip(episodes["r"], ends, strict=True) if 400 < end <= 800]
    assert of_run.loc[800, "episodes"] == len(second)
    assert of_run.loc[800, "return_mean"] == pytest.approx(np.mean(second), rel=1e-5)
    assert of_run.loc[800, "return_std"] == pytest.approx(np.std(second), rel=1e-5)

    origin = yaml.safe_load((tmp_path / "results" / "tiny.yml").read_text())
    assert origin["settings"]["DQN"]["CartPole-v1"] == {**ENTRY, "n_timesteps": 1200}
    assert set(origin["origins"][0]["seconds"]["Rainbow"]["CartPole-v1"]) == {0, 3}
    assert "torch" in origin["origins"][0]["versions"]

    capsys.readouterr()
    before = (tmp_path / "results" / "tiny.csv").stat().st_mtime_ns
    run(tmp_path, path)  # nothing is left to do
    assert "4 runs, 4 of them done" in capsys.readouterr().out
    assert (tmp_path / "results" / "tiny.csv").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """:return: a folder with the results of DQN in a suite with evaluations"""
    folder = tmp_path_factory.mktemp("evaluated")
    run(folder, suite_file(folder, **EVALUATION), "--algos", "DQN")
    return folder


def test_rows_of_evaluation(evaluated):
    rows = pd.read_csv(evaluated / "results" / "tiny.csv")
    assert list(rows["step"]) == [300, 600]
    assert set(rows["episodes"]) == {3} and set(rows["algo"]) == {"DQN"}


def test_rows_with_other_settings_are_not_mixed(evaluated, tmp_path, capsys):
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    changed = dict(DQN=dict(algo="dqn", entry=ENTRY, changes=dict(gamma=0.9)))
    with pytest.raises(SystemExit):
        run(tmp_path, suite_file(tmp_path, **EVALUATION, contenders=changed))
    assert "rows of DQN on CartPole-v1 with other settings (gamma)" in capsys.readouterr().err


def test_settings_in_another_spelling_are_the_same(evaluated, tmp_path, capsys):
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    contenders = dict(DQN=dict(algo="dqn", entry={**ENTRY, "policy_kwargs": "dict(net_arch=[ 8 ])"}))
    run(tmp_path, suite_file(tmp_path, **EVALUATION, contenders=contenders))
    assert "1 runs, 1 of them done" in capsys.readouterr().out


def test_settings_in_another_order_are_the_same():
    spellings = ["dict(net_arch=[8], activation_fn=nn.ReLU)", "dict(activation_fn=nn.ReLU, net_arch=[8])"]
    first, second = (respelled({**ENTRY, "policy_kwargs": spelling}) for spelling in spellings)
    assert first == second


@contextmanager
def started(folder, path):
    """
    :param folder: for runs and results
    :param path: of a suite
    :return: the process that runs it, with processes of its own; they do not ignore Ctrl-C, as they would in the background
    """
    line = [sys.executable, str(BENCHMARK), "run", str(path), "--results", str(folder / "results")]
    process = subprocess.Popen(
        [*line, "--runs", str(folder / "runs")],
        start_new_session=True,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(process, found):
    """:param found: called until it returns something"""
    until = time.monotonic() + 600
    while not found():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)


def folder_of_rainbow(folder):
    """:return: of its run of the suite tiny with seed 0"""
    return folder / "runs" / "tiny" / "Rainbow" / "CartPole-v1" / "0"


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    """In processes of its own, which find these tests, whatever folder they are started from."""
    path = [str(BENCHMARK.parents[1]), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    path, folder = suite_file(tmp_path, **{**TRAINING, **interrupted(tmp_path, "WaitToBeKilled")}), folder_of_rainbow(tmp_path)
    with started(tmp_path, path) as process:
        wait_for(process, (tmp_path / "reached").exists)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "results" / "tiny.csv").exists()
    run_in_processes(tmp_path, path)
    check_second_part(folder, tmp_path / "results" / "tiny.csv")


def check_second_part(folder, table):
    """:param folder: of a run of 2000 steps that was interrupted after its first checkpoint, and went on"""
    first, second = parts(folder)
    assert (first.start, second.start) == (0, 520)  # a rollout has 40 steps
    assert list(pd.read_csv(table)["step"]) == list(range(400, 2001, 400))
    (monitor,) = second.folder.glob("*monitor.csv")
    played = pd.read_csv(monitor, skiprows=1)["l"].sum()
    assert 2000 - second.start - 500 < played <= 2000 - second.start
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
def test_a_run_that_broke_off_goes_on_from_its_checkpoint(tmp_path):
    path = suite_file(tmp_path, **{**TRAINING, **interrupted(tmp_path, "BreakOff")})
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        run(tmp_path, path)
    assert not (tmp_path / "results" / "tiny.csv").exists()
    run(tmp_path, path)
    check_second_part(folder_of_rainbow(tmp_path), tmp_path / "results" / "tiny.csv")


@pytest.mark.slow
def test_a_run_that_broke_off_is_evaluated_at_its_end(tmp_path):
    path = suite_file(tmp_path, **{**EVALUATION, "evaluations": 1, **interrupted(tmp_path, "BreakOff")})
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        run(tmp_path, path)
    run(tmp_path, path)
    assert [part.start for part in parts(folder_of_rainbow(tmp_path))] == [0, 520]
    rows = pd.read_csv(tmp_path / "results" / "tiny.csv")
    assert rows[["step", "episodes"]].to_numpy().tolist() == [[2000, 3]]


@pytest.mark.slow
@pytest.mark.parametrize("fields", [TRAINING, {**EVALUATION, "evaluations": 1}], ids=["training", "evaluation"])
def test_a_run_killed_after_its_last_step_is_done(tmp_path, fields):
    contenders = dict(Rainbow=dict(algo="rainbow", entry=ENTRY))
    path = suite_file(tmp_path, **{**fields, "seeds": [0]}, checkpoint=400, contenders=contenders)
    run(tmp_path, path)
    table, (steps,) = tmp_path / "results" / "tiny.csv", fields["steps"].values()
    rows = table.read_text()
    table.unlink()
    folder = folder_of_rainbow(tmp_path)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / f"checkpoint_{steps}_steps.zip").touch()
    run(tmp_path, path)
    assert table.read_text() == rows
    assert [part.start for part in parts(folder)] == [0]


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path):
    contenders = dict(Rainbow=dict(algo="rainbow", entry=ENTRY))
    path = suite_file(tmp_path, **{**TRAINING, "seeds": [0]}, contenders=contenders)
    checkpoints = folder_of_rainbow(tmp_path) / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "checkpoint_800_steps.zip").touch()
    (checkpoints.parent / "settings.yml").write_text("CartPole-v1: {gamma: 0.5}")
    run(tmp_path, path)
    assert [part.start for part in parts(checkpoints.parent)] == [0]


@pytest.mark.slow
def test_an_interrupted_run_is_none(tmp_path):
    path = suite_file(tmp_path, **{**TRAINING, "steps": {"CartPole-v1": 2_000_000}})
    with started(tmp_path, path) as process:
        wait_for(process, lambda: list(tmp_path.rglob("*monitor.csv")))
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=600)
    assert process.returncode != 0
    assert not (tmp_path / "results" / "tiny.csv").exists()


@pytest.mark.slow
def test_a_run_that_fails_leaves_the_others_alone(tmp_path, capsys):
    """Each in a process of its own."""
    contenders = {"Broken": dict(algo="rainbow", entry={**ENTRY, "gamma": 7}), "DQN": dict(algo="dqn", entry=ENTRY)}
    with pytest.raises(SystemExit, match="1 of 2 runs failed"):
        run_in_processes(tmp_path, suite_file(tmp_path, **EVALUATION, contenders=contenders))
    assert "gamma=7" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "results" / "tiny.csv")["algo"]) == {"DQN"}


def test_a_part_ends_where_the_next_one_starts(tmp_path):
    suite = Suite(suite_file(tmp_path, **{**TRAINING, "window": 10, "steps": {"CartPole-v1": 30}}))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "parts.yml").write_text("[0, 12]")
    for number, lengths in ((1, [5, 6, 7]), (2, [8, 10])):
        folder = tmp_path / "run" / "rainbow" / f"CartPole-v1_{number}"
        folder.mkdir(parents=True)
        lines = ["#{}", "r,l,t", *(f"{100 * number + length},{length},0" for length in lengths)]
        (folder / "0.monitor.csv").write_text("\n".join(lines) + "\n")
    rows = rows_of(suite, Run("Rainbow", "CartPole-v1", 0), tmp_path / "run")
    assert rows[["step", "return_mean", "episodes"]].to_numpy().tolist() == [[10, 105, 1], [20, 157, 2], [30, 210, 1]]


def test_episodes_of_several_environments_end_at_steps_of_all(tmp_path):
    """Environments that step together, of which each has a monitor."""
    suite = Suite(suite_file(tmp_path, **{**TRAINING, "window": 10, "steps": {"CartPole-v1": 30}}))
    folder = tmp_path / "run" / "rainbow" / "CartPole-v1_1"
    folder.mkdir(parents=True)
    (tmp_path / "run" / "parts.yml").write_text("[0]")
    for rank, lengths in enumerate(([5, 2, 8], [3, 4])):  # ends at 10, 14, 30, and at 6, 14
        lines = ["#{}", "r,l,t", *(f"{100 * rank + length},{length},0" for length in lengths)]
        (folder / f"{rank}.monitor.csv").write_text("\n".join(lines) + "\n")
    rows = rows_of(suite, Run("Rainbow", "CartPole-v1", 0), tmp_path / "run")
    expected = [[10, (5 + 103) / 2, 2], [20, (2 + 104) / 2, 2], [30, 8, 1]]
    assert rows[["step", "return_mean", "episodes"]].to_numpy().tolist() == expected


@pytest.mark.parametrize("option", ["--algos", "--envs", "--seeds"])
def test_names_that_a_suite_has_not(tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        run(tmp_path, suite_file(tmp_path, **TRAINING), option, "7")
    assert f"{option} 7: suite tiny has" in capsys.readouterr().err


def test_suites_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="suite=minata does not exist: use one of ablation"):
        Suite.named("minata")
    with pytest.raises(ValueError, match=r"unknown fields \['sedes'\]"):
        Suite(suite_file(tmp_path, **TRAINING, sedes=[1]))
    with pytest.raises(ValueError, match="checkpoint=100 in"):
        Suite(suite_file(tmp_path, **EVALUATION, checkpoint=100))
    with pytest.raises(ValueError, match="measure=guess"):
        Suite(suite_file(tmp_path, **{**TRAINING, "measure": "guess"}))
    with pytest.raises(ValueError, match=r"unknown fields of A \['env'\]: use \['algo', 'changes', 'entry', 'envs'\]"):
        Suite(suite_file(tmp_path, **TRAINING, contenders=dict(A=dict(algo="dqn", env=["CartPole-v1"]))))
    with pytest.raises(ValueError, match=r"unknown envs of A \['CartPole-v0'\]: use \['CartPole-v1'\]"):
        Suite(suite_file(tmp_path, **TRAINING, contenders=dict(A=dict(algo="dqn", envs=["CartPole-v0"]))))


@pytest.mark.parametrize("name", names())
def test_published_suites_have_settings_for_all_and_rows_that_fit(name):
    suite = Suite.named(name)
    for algo, env_id in suite.pairs():
        assert suite.settings(algo, env_id)["n_timesteps"] == suite.steps[env_id]
    atari = [env_id for env_id in suite.steps if "NoFrameskip" in env_id or env_id.startswith("ALE/")]
    assert suite.frame_skip == (4 if atari else 1)  # without which its progress counts frames
    assert suite.description
    Results(suite, BENCHMARK / "results")  # whose settings are still those of the suite


def test_a_suite_extends_another(tmp_path):
    suite_file(tmp_path, **TRAINING)
    (tmp_path / "longer.yml").write_text("extends: tiny\nsteps: {CartPole-v1: 5000}\n")
    suite = Suite(tmp_path / "longer.yml")
    assert suite.steps == {"CartPole-v1": 5000} and suite.window == 400
    assert suite.settings("DQN", "CartPole-v1")["n_timesteps"] == 5000


def test_a_suite_that_extends_another_adds_contenders_to_its(tmp_path):
    contenders = {"A": dict(algo="dqn", entry=ENTRY), "B": dict(algo="dqn", entry=ENTRY)}
    suite_file(tmp_path, **TRAINING, contenders=contenders)
    added = {"B": dict(algo="dqn", entry=ENTRY, changes=dict(train_freq=3)), "C": dict(algo="qrdqn", entry=ENTRY)}
    (tmp_path / "wider.yml").write_text(yaml.safe_dump(dict(extends="tiny", contenders=added)))
    suite = Suite(tmp_path / "wider.yml")
    assert suite.contenders == {"A": contenders["A"], **added}


def test_changes_to_all_contenders_come_before_those_to_one(tmp_path):
    contenders = {"A": dict(algo="dqn", entry=ENTRY), "B": dict(algo="dqn", entry=ENTRY, changes=dict(train_freq=3))}
    suite = Suite(suite_file(tmp_path, **TRAINING, contenders=contenders, changes=dict(train_freq=2, n_envs=8)))
    found = [suite.settings(algo, "CartPole-v1") for algo in "AB"]
    assert [(each["train_freq"], each["n_envs"]) for each in found] == [(2, 8), (3, 8)]


def test_a_contender_may_be_for_some_environments(tmp_path):
    contenders = {"A": dict(algo="dqn", entry=ENTRY), "B": dict(algo="dqn", entry=ENTRY, envs=["Acrobot-v1"])}
    fields = {**TRAINING, "steps": {"CartPole-v1": 1200, "Acrobot-v1": 800}, "seeds": [0]}
    suite = Suite(suite_file(tmp_path, **fields, contenders=contenders))
    assert set(suite.runs()) == {Run("A", "CartPole-v1", 0), Run("A", "Acrobot-v1", 0), Run("B", "Acrobot-v1", 0)}


def test_epsilon_falls_after_the_start_as_in_dopamine():
    schedule = EpsilonSchedule(start=20, end=270, final_eps=0.01, total_timesteps=500)
    at = {step: schedule(1 - step / 500) for step in (0, 20, 145, 270, 500)}
    assert at == pytest.approx({0: 1.0, 20: 1.0, 145: 0.505, 270: 0.01, 500: 0.01})
