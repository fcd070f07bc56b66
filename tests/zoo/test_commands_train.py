"""From training to pictures with one agent: each command of ``sb3-distrl`` that works on a folder of runs."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sb3_distrl import Rainbow
from tests.zoo.commands import PYTHON, Running, in_process, mistake, python, saved, sb3_distrl

AGENT = ("--algo", "rainbow", "--env", "CartPole-v1")
SMALL = ("learning_starts:100", "train_freq:20", "gradient_steps:2", "buffer_size:10000")
SHORT = ("--eval-freq", "200", "--eval-episodes", "2", "-params", *SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """:return: working directory with two runs of rainbow, as long as each other, and one of iqn"""
    path = tmp_path_factory.mktemp("runs")
    train = ("train", *AGENT, "-n", "600")
    printed = in_process(path, *train, "--seed", "1", "--save-freq", "200", "--save-replay-buffer", *SHORT)
    assert "Saving replay buffer" in printed
    in_process(path, *train, "--seed", "2", "--save-freq", "400", *SHORT)
    in_process(path, "train", "--algo", "iqn", "--env", "CartPole-v1", "-n", "400", "--seed", "1", *SHORT)
    return path


def run_of(folder: Path, number: int, algo: str = "rainbow") -> Path:
    """
    :param folder: working directory
    :param number: of the run
    :param algo: name of the algorithm
    :return: where the run is
    """
    return folder / "logs" / algo / f"CartPole-v1_{number}"


@pytest.mark.slow
def test_what_is_installed_is_what_runs(tmp_path: Path) -> None:
    file = Path(python("import sb3_distrl; print(sb3_distrl.__file__)", tmp_path))
    checkout = Path(__file__).resolve().parents[2]
    if sys.executable == PYTHON:
        assert file.is_relative_to(checkout)
    else:
        assert "site-packages" in file.parts and not file.is_relative_to(checkout / "sb3_distrl")


def test_train_leaves_what_users_of_rl_zoo3_expect(folder: Path) -> None:
    run = run_of(folder, 1)
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert names == {
        "CartPole-v1/args.yml",
        "CartPole-v1/config.yml",
        "CartPole-v1/command.txt",
        "CartPole-v1.zip",
        "best_model.zip",
        "evaluations.npz",
        "0.monitor.csv",
        "replay_buffer.pkl",
        "rl_model_200_steps.zip",
        "rl_model_400_steps.zip",
        "rl_model_600_steps.zip",
    }
    assert saved(run / "CartPole-v1.zip")["num_timesteps"] == 600
    assert np.load(run / "evaluations.npz")["timesteps"].tolist() == [200, 400, 600]
    command = (run / "CartPole-v1" / "command.txt").read_text()
    assert "train --algo rainbow --env CartPole-v1 -n 600" in command
    config = yaml.safe_load((run / "CartPole-v1" / "config.yml").read_text())
    assert config["learning_starts"] == 100  # from the command line
    assert config["policy_kwargs"]["v_max"] == 100.0  # from the YAML entry


def test_help_lists_own_options(tmp_path: Path) -> None:
    printed = in_process(tmp_path, "--help")
    for name in ("train", "enjoy", "record_video", "all_plots", "push_to_hub", "load_from_hub"):
        assert f"  {name} " in printed
    printed = in_process(tmp_path, "train", "--help")
    assert "--entry ENTRY" in printed and "--n-seeds N_SEEDS" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [("-f", "logs", "--exp-id", "1"), ("-f", "logs", "--exp-id", "1", "--load-best", "-P")],
    ids=["last", "best with progress bar"],
)
def test_enjoy(folder: Path, options: tuple[str, ...]) -> None:
    printed = in_process(folder, "enjoy", *AGENT, *options, "--no-render", "-n", "300")
    assert "Episode Reward" in printed or "Mean reward" in printed
    assert ("best_model.zip" in printed) == ("--load-best" in options)


@pytest.mark.slow  # each environment has a process
def test_enjoy_a_checkpoint_with_more_environments(folder: Path) -> None:
    options = ("-f", "logs", "--exp-id", "1", "--load-checkpoint", "400", "--no-render", "-n", "30", "--n-envs", "2")
    assert "rl_model_400_steps.zip" in in_process(folder, "enjoy", *AGENT, *options)


def test_record_video(folder: Path) -> None:
    in_process(folder, "record_video", *AGENT, "-f", "logs", "--exp-id", "2", "-n", "40")
    videos = list((run_of(folder, 2) / "videos").glob("*.mp4"))
    assert len(videos) == 1 and videos[0].stat().st_size > 1000


def test_record_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Of the last and the best model and one checkpoint; ffmpeg is that of imageio-ffmpeg where there is no other. The processes
    that it starts for the videos run in this one.
    """

    in_a_process, videos = subprocess.call, []

    def call(command: list[str], *args: Any, **kwargs: Any) -> int:
        if command[:4] != [sys.executable, "-m", "sb3_distrl.zoo", "record_video"]:
            return in_a_process(command, *args, **kwargs)
        videos.append(in_process(folder, *command[3:]))
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    printed = in_process(folder, "record_training", *AGENT, "-f", "logs", "--exp-id", "2", "-n", "20", "--gif")
    made = run_of(folder, 2) / "videos"
    names = sorted(path.name.split("-")[0] for path in made.glob("*.mp4"))
    assert names == ["best", "checkpoint", "final", "training.mp4"], printed
    assert len(videos) == 3, "this library's record_video, of each model"
    assert (made / "training.gif").read_bytes().startswith(b"GIF8")


def test_plot_train(folder: Path) -> None:
    printed = in_process(folder, "plot_train", "-a", "rainbow", "-e", "CartPole-v1", "-f", "logs", "-w", "5")
    picture = folder / "plot_train_Training_Episodic_Reward.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and f"Saved {picture.name}" in printed


def test_all_plots_and_plot_from_file(folder: Path) -> None:
    printed = in_process(folder, "all_plots", "-a", "rainbow", "-e", "CartPole-v1", "-f", "logs", "-o", "results")
    assert (folder / "all_plots_Results_CartPole-v1.png").read_bytes().startswith(b"\x89PNG")
    assert "RAINBOW" in printed
    results = pickle.loads((folder / "results.pkl").read_bytes())
    assert list(results["CartPole-v1"]) == ["RAINBOW-logs"]
    assert len(results["CartPole-v1"]["RAINBOW-logs"]["last_evals"]) == 2

    in_process(folder, "plot_from_file", "-i", "results", "-b", "-l", "Rainbow")
    assert (folder / "plot_from_file_Results_CartPole-v1.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "plot_from_file_Sensitivity_box_plot.png").is_file()


def test_plot_from_file_needs_two_runs(folder: Path) -> None:
    in_process(folder, "all_plots", "-a", "iqn", "-e", "CartPole-v1", "-f", "logs", "-o", "single")
    printed = mistake(folder, "plot_from_file", "-i", "single")
    assert "plot_from_file needs at least two runs of each algorithm" in printed


def test_go_on_with_the_replay_buffer(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_of(folder, 1), run_of(tmp_path, 1))
    agent = "logs/rainbow/CartPole-v1_1/CartPole-v1.zip"
    printed = in_process(tmp_path, "train", *AGENT, "-i", agent, "-n", "200", "--eval-freq", "-1", "--save-replay-buffer")
    assert "Loading replay buffer" in printed and "Resuming after 600 steps, for 200 more" in printed
    run = run_of(tmp_path, 2)
    before, after = saved(run_of(tmp_path, 1) / "CartPole-v1.zip"), saved(run / "CartPole-v1.zip")
    assert after["num_timesteps"] == 800 and after["_n_updates"] == before["_n_updates"] + 200 // 20 * 2
    assert after["learning_starts"] == 100  # of the run, not of the YAML entry
    model = Rainbow.load(run / "CartPole-v1.zip")
    model.load_replay_buffer(run / "replay_buffer.pkl")
    assert model.replay_buffer.size() == 800


def test_normalised_observations(tmp_path: Path) -> None:
    train = ("train", *AGENT, "-n", "300", "--eval-freq", "150", "--eval-episodes", "1")
    in_process(tmp_path, *train, "-params", "normalize:True", *SMALL)
    run = run_of(tmp_path, 1)
    assert (run / "CartPole-v1" / "vecnormalize.pkl").is_file()
    enjoy = ("enjoy", *AGENT, "-f", "logs", "--no-render", "-n", "50", "--load-best")
    assert "Loading running average" in in_process(tmp_path, *enjoy)
    printed = in_process(tmp_path, *train, "-i", str(run / "CartPole-v1.zip"))
    assert "Loading saved VecNormalize stats" in printed
    assert "replay starts empty" in printed  # as it was not saved
    assert saved(run_of(tmp_path, 2) / "CartPole-v1.zip")["num_timesteps"] == 600


@pytest.mark.slow
@pytest.mark.parametrize("vec_env, n_workers", [("dummy", 0), ("subproc", 2)])
def test_interrupted_training_is_saved(tmp_path: Path, vec_env: str, n_workers: int) -> None:
    options = ("--vec-env", vec_env, "--save-freq", "400", "--eval-freq", "-1", "-n", "1000000", "--save-replay-buffer")
    command = Running(tmp_path, "train", *AGENT, *options, "-params", "n_envs:2", *SMALL)
    run = run_of(tmp_path, 1)
    try:
        command.wait_for(lambda: list(run.glob("rl_model_*_steps.zip")))
        command.interrupt(n_workers)
        assert command.process.returncode == 0, command.printed
    finally:
        command.close()
    assert "Traceback" not in command.printed, command.printed
    assert 400 <= saved(run / "CartPole-v1.zip")["num_timesteps"] < 1_000_000
    assert (run / "replay_buffer.pkl").is_file()
    in_process(tmp_path, "enjoy", *AGENT, "-f", "logs", "--no-render", "-n", "20")
    printed = in_process(tmp_path, "train", *AGENT, "-n", "64", "--eval-freq", "-1", "-i", str(run / "CartPole-v1.zip"))
    assert "Loading replay buffer" in printed
    assert "interrupt" in command.printed.lower(), command.printed  # so that nobody takes the agent for a finished one


@pytest.mark.slow
def test_the_script_trains_and_plays_in_processes_of_its_own(tmp_path: Path) -> None:
    """With what is installed: its settings, its algorithms, and the command by its name."""
    assert "  train " in sb3_distrl(tmp_path, "--help", script=True)
    train = ("train", *AGENT, "-n", "300", "--eval-freq", "150", "--eval-episodes", "1", "-params", *SMALL)
    sb3_distrl(tmp_path, *train, script=True)
    assert saved(run_of(tmp_path, 1) / "CartPole-v1.zip")["policy_kwargs"]["v_max"] == 100.0  # of the YAML entry
    assert "Mean reward" in sb3_distrl(tmp_path, "enjoy", *AGENT, "--no-render", "-n", "300")
    sb3_distrl(tmp_path, "record_training", *AGENT, "-f", "logs", "-n", "20")
    assert (run_of(tmp_path, 1) / "videos" / "training.mp4").stat().st_size > 1000
