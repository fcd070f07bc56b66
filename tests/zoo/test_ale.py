"""``--vec-env ale``: Atari games on ale-py's own vector environment, instead of the wrappers of the entry."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage, is_vecenv_wrapped

from sb3_distrl.envs import AtariVecEnv
from tests.zoo.conftest import Command

Config = Callable[[str], list[str]]
BREAKOUT = "BreakoutNoFrameskip-v4"
WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
ENTRY = (
    "atari: {{policy: CnnPolicy, n_timesteps: 500, n_envs: 2, buffer_size: 600, learning_starts: 100, train_freq: 20, "
    "batch_size: 8, {more}}}"
)


def made(env: Any) -> AtariVecEnv:
    """:return: the environment, which nothing stacks or transposes once more"""
    assert not is_vecenv_wrapped(env, VecFrameStack) and not is_vecenv_wrapped(env, VecTransposeImage)
    assert isinstance(env.unwrapped, AtariVecEnv)
    return env.unwrapped


@pytest.mark.slow
def test_training_and_evaluation(command: Command, config: Config) -> None:
    entry = config(ENTRY.format(more=f"frame_stack: 4, env_wrapper: [{WRAPPER}]"))
    evaluate = ["--eval-freq", "400", "--eval-episodes", "1", "--n-eval-envs", "2"]
    command.train("rainbow", "--vec-env", "ale", *entry, *evaluate, env=BREAKOUT)
    assert command.model.num_timesteps >= 500 and command.model._n_updates > 0
    env, eval_env = made(command.model.env), made(command.experiment.callbacks[0].eval_env)
    assert (env.num_envs, eval_env.num_envs) == (2, 2)
    assert env.observation_space.shape == eval_env.observation_space.shape == (4, 84, 84)
    folder = Path("logs", "rainbow", f"{BREAKOUT}_1")
    assert (folder / "evaluations.npz").exists()
    assert len(load_results(str(folder))) > 0 and len(list(folder.glob("*.monitor.csv"))) == 2  # none of the evaluation
    saved = yaml.load((folder / BREAKOUT / "config.yml").read_text(), Loader=yaml.UnsafeLoader)
    assert saved["env_wrapper"] == [WRAPPER] and saved["frame_stack"] == 4  # with which the other commands can watch it
    command("enjoy", "--algo", "rainbow", "--env", BREAKOUT, "-f", "logs", "-n", "20", "--no-render", "--device", "cpu")


def test_arguments_of_the_wrapper_reach_it(command: Command, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: list[dict[str, Any]] = []
    build = AtariVecEnv.__init__

    def watched(self: AtariVecEnv, *args: Any, **kwargs: Any) -> None:
        arguments.append(kwargs)
        build(self, *args, **kwargs)

    monkeypatch.setattr(AtariVecEnv, "__init__", watched)
    wrapper = f"[{{{WRAPPER}: {{screen_size: 50, terminal_on_life_loss: false}}}}]"
    entry = config(ENTRY.format(more=f"frame_stack: 2, env_wrapper: {wrapper}"))
    evaluation = ["--eval-env-kwargs", "repeat_action_probability:0.0"]
    experiment = command.prepare("dqn", "--vec-env", "ale", *entry, *evaluation, env="ALE/Breakout-v5")
    env = made(command.model.env)
    assert env.observation_space.shape == (2, 50, 50) and not env.terminal_on_life_loss
    assert made(experiment.create_envs(3, eval_env=True)).num_envs == 3
    training, evaluating = arguments
    assert training["env_kwargs"] == {"frameskip": 1}  # which is saved, for SB3's wrapper in the other commands
    assert evaluating["env_kwargs"] == {"frameskip": 1, "repeat_action_probability": 0.0}


@pytest.mark.parametrize("stack", ["", "frame_stack: null,"])
def test_without_a_stack_observations_are_single_frames(stack: str, command: Command, config: Config) -> None:
    command.prepare("dqn", "--vec-env", "ale", *config(ENTRY.format(more=f"{stack} env_wrapper: {WRAPPER}")), env=BREAKOUT)
    assert command.model.env.observation_space.shape == (1, 84, 84)


def test_seeds(command: Command, config: Config) -> None:
    entry = config(ENTRY.format(more=f"frame_stack: 4, env_wrapper: {WRAPPER}"))
    experiment = command.prepare("dqn", "--vec-env", "ale", *entry, env=BREAKOUT)
    assert made(experiment.create_envs(2))._seeds == [3, 4]


def test_trials_use_it_too(command: Command, config: Config) -> None:
    entry = config(ENTRY.format(more=f"frame_stack: 4, env_wrapper: {WRAPPER}"))
    experiment = command.prepare("rainbow", "--vec-env", "ale", "-optimize", *entry, env=BREAKOUT)
    made(experiment.create_envs(1, no_log=True))
    made(experiment.create_envs(n_envs=1, eval_env=True))
    assert not list(Path().rglob("*.monitor.csv"))[1:]  # but of what rl-zoo3 makes to see the action space


@pytest.mark.parametrize(
    ("env", "more", "message"),
    [
        ("CartPole-v1", "", "--vec-env ale plays Atari games only, not CartPole-v1: use dummy or subproc"),
        (BREAKOUT, "frame_stack: 4", r"replaces env_wrapper=\S*AtariWrapper alone, .* env_wrapper=\[\]: change it"),
        (BREAKOUT, f"env_wrapper: [{WRAPPER}, rl_zoo3.wrappers.TimeFeatureWrapper]", "rl_zoo3.wrappers.TimeFeatureWrapper"),
        (BREAKOUT, f"env_wrapper: {WRAPPER}, monitor_kwargs: {{info_keywords: [lives]}}", "without monitor_kwargs"),
        (BREAKOUT, f"env_wrapper: {WRAPPER}, env_kwargs: {{mode: 4}}", r"env_kwargs=\{'mode': 4\} cannot be given"),
    ],
)
def test_mistakes(env: str, more: str, message: str, command: Command, config: Config, capsys: Any) -> None:
    entry = ENTRY.format(more=more).replace("atari:", "CartPole-v1:" if env == "CartPole-v1" else "atari:")
    with pytest.raises(SystemExit):
        command.train("dqn", "--vec-env", "ale", *config(entry), env=env)
    assert re.search(message, capsys.readouterr().err)


def test_other_types_are_as_before(command: Command, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        command.train("dqn", "--vec-env", "threads")
    assert re.search("'?dummy'?, '?subproc'?, '?ale'?", capsys.readouterr().err)
    command.prepare("rainbow", "--vec-env", "dummy")
    assert not isinstance(command.model.env.unwrapped, AtariVecEnv)
