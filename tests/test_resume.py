"""Going on exactly where one has stopped, in another process, whatever happened to the first one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch as th

from tests.common.resuming import RESUMED, STEPS, new_env, new_model
from tests.common.settings import assert_same_parameters, snapshot

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow  # test_checkpoints.py does the same within a process


def run(task: str, folder: Path) -> None:
    command = [sys.executable, "-m", "tests.common.resuming", task, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_going_on_in_another_process_is_going_on_in_the_same(tmp_path: Path) -> None:
    expected, before = {}, {}
    for name, n_envs in RESUMED.items():
        model = new_model(name, n_envs)
        model.learn(STEPS)
        model.save(tmp_path / f"{name}.model")
        model.save_replay_buffer(tmp_path / f"{name}.buffer")
        model.save_checkpoint(tmp_path / f"{name}.checkpoint")
        before[name] = snapshot(model)
        env = new_env(name, n_envs)
        if name.endswith("normalised"):  # the statistics stay
            env.obs_rms, env.ret_rms = model.env.obs_rms, model.env.ret_rms
        model.set_env(env)
        model.learn(STEPS, reset_num_timesteps=False)
        expected[name] = snapshot(model)
    run("resume", tmp_path)
    for name in RESUMED:
        ways = ["from_checkpoint"] if name.endswith("normalised") else ["from_checkpoint", "from_files"]
        for way in ways:
            assert_same_parameters(th.load(tmp_path / f"{name}.{way}"), expected[name])
        assert any(not th.equal(value, before[name][key]) for key, value in expected[name].items()), "it learned"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_in_the_middle_of_a_save(tmp_path: Path) -> None:
    run("kill", tmp_path)
