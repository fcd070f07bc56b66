"""Experiments: which settings they use, going on with them, and trials of a study; with rl-zoo3's own command line."""

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch as th
import yaml
from optuna.pruners import NopPruner, ThresholdPruner
from optuna.trial import FixedTrial, TrialState
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sb3_distrl.zoo.experiment import Experiment
from sb3_distrl.zoo.samplers import SAMPLERS
from tests.zoo.conftest import ALWAYS, QUICK, Command
from tests.zoo.test_samplers import FIXED

Config = Callable[[str], list[str]]


class Watch(BaseCallback):
    """
    Keeps what is seen of a training, as a YAML file can ask for it; a name of its own, since rl-zoo3 makes the callback.

    :param interrupt_at: step of a single Ctrl-C
    """

    steps: list[tuple[int, Any]]
    models: list[Any]

    def __init__(self, interrupt_at: int | None = None) -> None:
        super().__init__()
        self.interrupt_at = interrupt_at

    def _on_training_start(self) -> None:
        self.models.append(self.model)

    def _on_step(self) -> bool:
        rate = self.model.policy.optimizer.param_groups[0]["lr"]
        seen = (rate, getattr(self.model, "exploration_rate", None), getattr(self.model, "beta", None))
        self.steps.append((self.num_timesteps, seen))
        if self.num_timesteps == self.interrupt_at:
            raise KeyboardInterrupt
        return True


WATCH = f"{__name__}.Watch"


@pytest.fixture(autouse=True)
def watch() -> Iterator[type[Watch]]:
    Watch.steps, Watch.models = [], []
    yield Watch
    del Watch.steps, Watch.models


def saved(folder: str, name: str, env: str = "CartPole-v1") -> Any:
    return yaml.load(Path("logs", folder, env, name).read_text(), Loader=yaml.UnsafeLoader)


# Entries

ENTRIES = """
CartPole-v1: {policy: MlpPolicy, n_timesteps: 30, learning_starts: 10, train_freq: 2, batch_size: 11}
default: {policy: MlpPolicy, n_timesteps: 30, learning_starts: 10, train_freq: 2, batch_size: 12}
atari: {policy: CnnPolicy, n_timesteps: 30, buffer_size: 9, batch_size: 13}
minatar: {policy: MlpPolicy, n_timesteps: 30, batch_size: 16}
other: {policy: MlpPolicy, n_timesteps: 30, learning_starts: 10, train_freq: 2, batch_size: 14}
"""


@pytest.mark.parametrize(
    ("env", "arguments", "batch_size", "note"),
    [
        ("CartPole-v1", [], 11, None),
        ("Acrobot-v1", [], 12, "default"),
        ("PongNoFrameskip-v4", [], 13, "atari"),
        ("MinAtar/Breakout-v1", [], 16, "minatar"),
        ("MinAtar/Breakout-v1", ["--entry", "default"], 12, "default"),
        ("CartPole-v1", ["--entry", "other"], 14, "other"),
        ("Acrobot-v1", ["--entry", "CartPole-v1"], 11, "CartPole-v1"),
        ("CartPole-v1", ["-params", "batch_size:15"], 15, None),
    ],
)
@pytest.mark.parametrize("algo", ["iqn", "dqn"])
def test_the_entry_is_chosen(
    algo: str, env: str, arguments: list[str], batch_size: int, note: str, command: Command, config: Config, capsys: Any
) -> None:
    command.prepare(algo, *arguments, *config(ENTRIES), env=env)
    assert command.model.batch_size == batch_size
    name = env.replace("/", "-")
    assert saved(f"{algo}/{name}_1", "config.yml", name)["batch_size"] == batch_size
    notes = re.findall("Using the entry '(.*)'", capsys.readouterr().out)
    assert notes == ([note] if note else [])


def test_this_librarys_file_is_the_default(command: Command) -> None:
    assert command.prepare("rainbow").config.endswith("hyperparams/rainbow.yml")
    assert command.model.policy_kwargs["v_max"] == 100.0


@pytest.mark.parametrize("algo", ["rainbow", "dqn"])
def test_hyperparameters_of_the_command_line_replace_those_of_the_entry(algo: str, command: Command, config: Config) -> None:
    """Each as a whole, as in rl-zoo3."""
    entry = config("CartPole-v1: {policy: MlpPolicy, n_timesteps: 9, policy_kwargs: {net_arch: [8]}}")
    command.prepare(algo, *entry, policy_kwargs=dict(normalize_images=False))
    assert "net_arch" not in command.model.policy_kwargs and command.model.policy_kwargs["normalize_images"] is False


def test_what_is_saved_is_what_was_said(command: Command) -> None:
    """Although rl-zoo3 adds gamma to the settings of VecNormalize, which would no longer follow that of a trial."""
    command.prepare("rainbow", normalize=dict(norm_reward=False), gamma=0.9)
    assert command.model.env.gamma == 0.9 and not command.model.env.norm_reward
    assert saved("rainbow/CartPole-v1_1", "config.yml")["normalize"] == {"norm_reward": False}


def test_an_unknown_entry_suggests_the_nearest(command: Command, config: Config, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        command.train("iqn", "--entry", "cartpole-v1", *config(ENTRIES))
    assert "entry=cartpole-v1" in (error := capsys.readouterr().err)
    assert "Did you mean CartPole-v1?" in error and "CartPole-v1, default, atari, minatar, other" in error


def test_no_entry_names_the_remedy(command: Command, config: Config, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        command.train("iqn", *config("Other-v0: {}"), env="Acrobot-v1")
    assert re.search("not found for iqn-Acrobot-v1 in .*own.yml: add an entry Acrobot-v1", capsys.readouterr().err)


def test_a_module_of_hyperparameters_is_not_changed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    settings = "policy='MlpPolicy', n_timesteps=9, env_kwargs=dict(sutton_barto_reward=True), policy_kwargs=dict(net_arch=[8])"
    Path("own_settings.py").write_text(f"hyperparams = {{'CartPole-v1': dict({settings})}}")
    for _ in range(2):
        experiment = command.prepare("iqn", "-conf", "own_settings", "--env-kwargs", "sutton_barto_reward:True")
        assert experiment.env_kwargs == {"sutton_barto_reward": True} and command.model.policy_kwargs["net_arch"] == [8]


# Arguments of environments

SUTTON_BARTO = """
CartPole-v1:
  {policy: MlpPolicy, n_timesteps: 50, env_kwargs: {sutton_barto_reward: true, max_episode_steps: 7}}
"""
UNLIKE = "sutton_barto_reward:False"


@pytest.mark.parametrize(
    ("arguments", "training", "evaluation"),
    [
        ([], (True, 7), (True, 7)),
        (["--env-kwargs", UNLIKE], (False, 7), (False, 7)),
        (["--eval-env-kwargs", UNLIKE], (True, 7), (False, 7)),
        (["--env-kwargs", UNLIKE, "--eval-env-kwargs", "max_episode_steps:5"], (False, 7), (False, 5)),
    ],
)
@pytest.mark.parametrize("algo", ["rainbow", "dqn"])
def test_env_kwargs_reach_both_environments(
    algo: str, arguments: list[str], training: Any, evaluation: Any, command: Command, config: Config
) -> None:
    experiment = command.prepare(algo, *config(SUTTON_BARTO), *arguments)
    evaluating = experiment.create_envs(1, eval_env=True)
    for env, expected in ((command.model.env, training), (evaluating, evaluation)):
        made = env.envs[0]
        assert (made.unwrapped._sutton_barto_reward, made.spec.max_episode_steps) == expected
    as_dict = dict(zip(("sutton_barto_reward", "max_episode_steps"), training, strict=True))
    assert saved(f"{algo}/CartPole-v1_1", "config.yml")["env_kwargs"] == as_dict
    assert saved(f"{algo}/CartPole-v1_1", "args.yml")["env_kwargs"] == as_dict


def test_trials_use_the_env_kwargs_too(command: Command, config: Config) -> None:
    experiment = command.prepare("rainbow", *config(SUTTON_BARTO), "-optimize")
    for eval_env in (False, True):
        assert experiment.create_envs(1, eval_env=eval_env, no_log=True).envs[0].unwrapped._sutton_barto_reward


@pytest.mark.parametrize("env_kwargs", ["", "env_kwargs: null", "env_kwargs: {}"])
def test_without_env_kwargs_none_are_saved(env_kwargs: str, command: Command, config: Config) -> None:
    command.prepare("rainbow", *config(f"CartPole-v1: {{policy: MlpPolicy, n_timesteps: 9, {env_kwargs}}}"))
    assert "env_kwargs" not in saved("rainbow/CartPole-v1_1", "config.yml")
    assert saved("rainbow/CartPole-v1_1", "args.yml")["env_kwargs"] is None


# Atari's frames

WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
ONCE = "{env} skips 4 frames and AtariWrapper 4: using frameskip=1"
WARNING = "Warning: {env} skips 4 frames and AtariWrapper 4: leave frameskip out of env_kwargs."


@pytest.mark.parametrize(
    ("env", "wrapper", "arguments", "frameskip", "note"),
    [
        ("ALE/Pong-v5", f"[{WRAPPER}]", [], 1, ONCE),
        ("ALE/Pong-v5", WRAPPER, [], 1, ONCE),
        ("ALE/Pong-v5", f"[{{{WRAPPER}: {{frame_skip: 3}}}}]", [], 1, ONCE.replace("Wrapper 4", "Wrapper 3")),
        ("ALE/Pong-v5", f"[{{{WRAPPER}: {{frame_skip: 1}}}}]", [], 4, None),
        ("ALE/Pong-v5", "null", [], 4, None),
        ("ALE/Pong-v5", f"[{WRAPPER}]", ["--env-kwargs", "frameskip:4"], 4, WARNING),
        ("ALE/Pong-v5", f"[{WRAPPER}]", ["--env-kwargs", "frameskip:1"], 1, None),
        ("PongNoFrameskip-v4", f"[{WRAPPER}]", [], 1, None),
    ],
)
def test_frames_are_skipped_once(
    env: str, wrapper: str, arguments: list[str], frameskip: int, note: str, command: Command, config: Config, capsys: Any
) -> None:
    entry = config(f"atari: {{policy: CnnPolicy, n_timesteps: 9, env_wrapper: {wrapper}}}")
    experiment = command.prepare("iqn", *entry, *arguments, "-optimize", env=env)
    for eval_env in (False, True):
        made = experiment.create_envs(1, eval_env=eval_env, no_log=True).envs[0]
        assert made.unwrapped._frameskip == frameskip
    printed = capsys.readouterr().out
    assert (note.format(env=env) if note else "AtariWrapper 4") in printed or note is None
    assert ("frameskip" in printed.replace("'frameskip'", "").replace("frameskip:", "")) == bool(note)
    assert ("env_kwargs" in experiment.saved_hyperparams) == (note is not None or bool(arguments))


def test_wrappers_may_be_classes(command: Command) -> None:
    """In Python files, rl-zoo3 takes them too."""
    entry = "dict(policy='CnnPolicy', n_timesteps=9, buffer_size=9, env_wrapper=[AtariWrapper])"
    Path("own.py").write_text(f"from {WRAPPER.rpartition('.')[0]} import AtariWrapper\nhyperparams = dict(atari={entry})")
    assert command.prepare("iqn", "-conf", "own.py", env="ALE/Pong-v5").env_kwargs == {"frameskip": 1}


def test_frameskip_is_saved_for_the_other_commands(command: Command, config: Config) -> None:
    entry = config(f"atari: {{policy: CnnPolicy, n_timesteps: 9, buffer_size: 9, env_wrapper: {WRAPPER}}}")
    command.prepare("iqn", *entry, env="ALE/Pong-v5")
    for name in ("config.yml", "args.yml"):
        assert saved("iqn/ALE-Pong-v5_1", name, "ALE-Pong-v5")["env_kwargs"] == {"frameskip": 1}


# Trials of a study

STORAGE = "study.log"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A study of two trials; the arguments that name it."""
    monkeypatch.chdir(tmp_path)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(STORAGE))
    made = optuna.create_study(study_name="a", storage=storage, direction="maximize")
    for batch_size_pow in (5, 6):
        made.enqueue_trial({**FIXED["rainbow"], "batch_size_pow": batch_size_pow})
    made.optimize(lambda trial: SAMPLERS["rainbow"](trial, 0, 1, {})["batch_size"], n_trials=2)
    return ["--storage", STORAGE, "--study-name", "a"]


@pytest.mark.parametrize(("trial", "batch_size"), [("0", 32), ("1", 64)])
def test_settings_of_a_trial(trial: str, batch_size: int, study: list[str], command: Command) -> None:
    command.prepare("rainbow", *study, "--trial-id", trial, target_update_interval=77)
    model = command.model
    assert (model.batch_size, model.n_steps, model.target_update_interval) == (batch_size, 3, 77)
    expected = dict(net_arch=[64, 64], noisy_std=0.5, n_atoms=51, v_min=0.0, v_max=100.0)
    assert model.policy_kwargs.items() >= expected.items(), "those of the entry stay"
    assert model.lr_schedule(0.5) == 1e-3
    config = saved("rainbow/CartPole-v1_1", "config.yml")
    assert config["batch_size"] == batch_size and config["policy_kwargs"].items() >= expected.items()


def test_without_a_trial_the_entry_counts(study: list[str], command: Command) -> None:
    command.prepare("rainbow", *study)
    assert command.model.batch_size == 64 and command.model.policy_kwargs["net_arch"] == [128, 128]


@pytest.mark.parametrize("trial", ["2", "-1", "-3"])
def test_trials_out_of_range(trial: str, study: list[str], command: Command, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        command.prepare("rainbow", *study, f"--trial-id={trial}")
    assert f"trial_id={trial} is not a trial with parameters of study a" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "message"), [("b", "study_name=b is not in storage"), ("a", "trial_id=2")])
def test_trials_that_say_nothing(name: str, message: str, study: list[str], command: Command, capsys: Any) -> None:
    """Of a study that is not there, or a trial that failed before anything was sampled."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(STORAGE))
    optuna.load_study(study_name="a", storage=storage).add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
    with pytest.raises(SystemExit):
        command.prepare("rainbow", "--storage", STORAGE, "--study-name", name, "--trial-id", "2")
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["--storage", STORAGE], ["--study-name", "a"]])
def test_trials_need_their_study(given: list[str], study: list[str], command: Command, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        command.prepare("rainbow", *given, "--trial-id", "0")
    assert "trial_id=0 needs a study: give --storage and --study-name" in capsys.readouterr().err


# Going on

STEPS, INTERRUPT_AT = 200, 100
DRIFTING = dict(
    **{**QUICK, "batch_size": 17},
    n_timesteps=STEPS,
    learning_rate="lin_0.01",
    exploration_initial_eps=0.9,
    exploration_final_eps=0.1,
    exploration_fraction=0.95,
    prioritized=True,
    alpha=0.3,
    beta_initial=0.1,
    beta_final=0.9,
    beta_fraction=0.8,
    policy_kwargs=dict(net_arch=[16], n_quantiles=4, n_target_quantiles=4, n_eval_quantiles=4),
    callback=WATCH,
)
INTERRUPTED = {**DRIFTING, "callback": [{WATCH: {"interrupt_at": INTERRUPT_AT}}]}
AGENT = "logs/{algo}/CartPole-v1_1/CartPole-v1.zip"


def agent(algo: str) -> list[str]:
    return ["-i", AGENT.format(algo=algo)]


def test_an_interrupted_run_does_what_is_left(command: Command, watch: type[Watch], capsys: Any) -> None:
    """With its own settings; learning rate, epsilon and beta are at each step what they are without the interruption."""
    command.train("iqn", "-f", "whole", **DRIFTING)
    whole, watch.steps = watch.steps, []
    model = command.train("iqn", "--save-replay-buffer", **INTERRUPTED)
    assert model.num_timesteps == INTERRUPT_AT
    capsys.readouterr()
    model = command.train("iqn", *agent("iqn"))
    assert (model.num_timesteps, model._total_timesteps) == (STEPS, STEPS)
    late = slice(INTERRUPT_AT, INTERRUPT_AT + QUICK["train_freq"])  # what SB3 updates after the callback was not
    assert [step for step, _ in watch.steps] == list(range(1, STEPS + 1))
    del watch.steps[late], whole[late]
    assert watch.steps == whole
    rates, epsilons, betas = np.array([seen for _, seen in whole]).T
    for drifting in (rates[QUICK["learning_starts"] + 2 :], epsilons, betas):
        assert len(np.unique(drifting)) > 70, "there is something to see"
    assert (model.batch_size, model.alpha, model.policy_kwargs["net_arch"]) == (17, 0.3, [16])
    assert model.replay_buffer.size() == STEPS - 1, "all but the step of the interruption"
    printed = capsys.readouterr().out
    assert f"Resuming after {INTERRUPT_AT} steps, for {STEPS - INTERRUPT_AT} more" in printed
    assert "Loading replay buffer" in printed and "replay starts empty" not in printed
    settings = [saved(f"iqn/CartPole-v1_{run}", "config.yml") for run in (1, 2)]
    assert settings[0] == settings[1]


@pytest.mark.parametrize(("seed", "goes_on"), [("5", False), ("-1", True)])
def test_a_seed_that_is_given_is_taken(seed: str, goes_on: bool, command: Command) -> None:
    """Without one, rl-zoo3 draws one: that is not asked for, and the random generators go on."""
    command.train("iqn", **INTERRUPTED)
    expected = np.random.rand()
    command.prepare("iqn", *agent("iqn"), "--seed", seed)
    assert command.model.seed == (None if goes_on else 5)
    command.model._setup_learn(10, reset_num_timesteps=False)
    assert (np.random.rand() == expected) == goes_on


def test_a_checkpoint_goes_on_too(command: Command, capsys: Any) -> None:
    command.train("iqn", "--save-freq", "60", **DRIFTING)
    model = command.train("iqn", "-i", "logs/iqn/CartPole-v1_1/rl_model_60_steps.zip")
    assert (model.num_timesteps, model._total_timesteps) == (STEPS, STEPS)
    assert "Resuming after 60 steps, for 140 more" in capsys.readouterr().out


def test_a_checkpoint_with_its_replay_goes_on_too(command: Command, capsys: Any) -> None:
    """The whole of it in one file, as RollingCheckpointCallback saves it."""
    rolling = {"sb3_distrl.common.callbacks.RollingCheckpointCallback": dict(save_freq=60, folder="checkpoints", keep=9)}
    command.train("iqn", **{**DRIFTING, "callback": [rolling]})
    path = min(Path("checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    done = int(path.stem.split("_")[1])
    assert 60 <= done < STEPS
    model = command.train("iqn", "-i", str(path), **DRIFTING)
    assert (model.num_timesteps, model._total_timesteps) == (STEPS, STEPS)
    assert model.replay_buffer.size() == STEPS
    printed = capsys.readouterr().out
    assert f"Resuming after {done} steps, for {STEPS - done} more" in printed and "replay starts empty" not in printed


@pytest.mark.parametrize(
    ("settings", "arguments", "total"),
    [
        (DRIFTING, [], 2 * STEPS),  # finished: as many as its settings say
        (DRIFTING, ["-n", "40"], STEPS + 40),
        (INTERRUPTED, ["-n", "40"], INTERRUPT_AT + 40),
    ],
)
@pytest.mark.parametrize("algo", ["iqn", "qrdqn"])
def test_steps_are_added(
    algo: str, settings: dict[str, Any], arguments: list[str], total: int, command: Command, watch: type[Watch]
) -> None:
    policy_kwargs = dict(net_arch=[16], n_quantiles=4)
    command.train(algo, **{**settings, "policy_kwargs": policy_kwargs})
    done = watch.steps[-1][0]
    watch.steps = []
    model = command.train(algo, *agent(algo), *arguments)
    assert (model.num_timesteps, model._total_timesteps) == (total, total)
    assert [step for step, _ in watch.steps] == list(range(done + 1, total + 1))
    progress = 1 - (total - 2) / total  # at the last gradient steps
    rate, _, beta = watch.steps[-1][1]
    assert 0.0 <= rate <= 0.01 * progress + 1e-12 and beta == 0.9


def test_without_its_replay_buffer_a_warning_is_printed(command: Command, capsys: Any) -> None:
    command.train("iqn", **INTERRUPTED)
    capsys.readouterr()
    model = command.train("iqn", *agent("iqn"))
    assert "replay starts empty: train with --save-replay-buffer" in capsys.readouterr().out
    assert model.replay_buffer.pos == STEPS - INTERRUPT_AT


def test_going_on_with_other_settings(command: Command, config: Config) -> None:
    """Files, entries and hyperparameters that are named take precedence over those of the run."""
    command.train("iqn", **INTERRUPTED)
    command.prepare("iqn", *agent("iqn"), *config(ENTRIES))
    assert command.model.batch_size == 11
    command.prepare("iqn", *agent("iqn"), *config(ENTRIES), "--entry", "other")
    assert command.model.batch_size == 14
    command.prepare("iqn", *agent("iqn"), "--entry", "CartPole-v1")
    assert (command.model.batch_size, command.model.train_freq.frequency) == (64, 256)
    command.prepare("iqn", *agent("iqn"), "-params", "batch_size:18")
    assert command.model.batch_size == 18 and command.model.train_freq.frequency == 2
    Path("logs/iqn/CartPole-v1_1/CartPole-v1/config.yml").unlink()
    command.prepare("iqn", *agent("iqn"))
    assert (command.model.batch_size, command.model.train_freq.frequency) == (64, 256)


def test_going_on_keeps_env_kwargs(command: Command, config: Config) -> None:
    command.train("iqn", *config(SUTTON_BARTO), "--env-kwargs", "max_episode_steps:9", n_timesteps=30)
    command.prepare("iqn", *agent("iqn"))
    assert command.model.env.envs[0].spec.max_episode_steps == 9
    assert command.model.env.envs[0].unwrapped._sutton_barto_reward


PLAIN: dict[str, dict[str, Any]] = {
    "dqn": dict(QUICK, n_timesteps=60, batch_size=17),
    "ppo": dict(n_timesteps=64, n_steps=32, batch_size=16, n_envs=1, learning_rate="lin_0.01", clip_range=0.2),
}


@pytest.mark.parametrize("with_file", [False, True])
@pytest.mark.parametrize("algo", PLAIN)
def test_rl_zoo3s_algorithms_go_on_as_in_rl_zoo3(algo: str, with_file: bool, command: Command, config: Config) -> None:
    command.train(algo, **PLAIN[algo])
    settings = {"CartPole-v1": dict(PLAIN[algo], policy="MlpPolicy", batch_size=8)}
    arguments = ["-n", "64", *(config(yaml.safe_dump(settings)) if with_file else [])]
    command.train(algo, *agent(algo), *arguments)
    ours, our_settings = command.model, saved(f"{algo}/CartPole-v1_2", "config.yml")

    theirs: list[Any] = []

    class Plain(Experiment.__base__):  # type: ignore[name-defined, misc]
        def learn(self, model: Any) -> None:
            theirs.append(model)
            super().learn(model)

    command.plain(Plain, "--algo", algo, *ALWAYS, *agent(algo), *arguments)
    for name in ("num_timesteps", "_total_timesteps", "batch_size", "n_envs", "gamma", "n_steps"):
        assert getattr(ours, name) == getattr(theirs[0], name), name
    for name, value in ours.policy.state_dict().items():
        assert th.equal(value, theirs[0].policy.state_dict()[name])
    assert our_settings == dict(saved(f"{algo}/CartPole-v1_3", "config.yml"))


# Trials

EVALUATIONS = 2
TRIAL_STEPS = 60
TUNING = ["-optimize", "-n", str(TRIAL_STEPS), "--n-evaluations", str(EVALUATIONS), "--eval-episodes", "1"]
DQN = {
    "one_minus_gamma": 0.01,
    "batch_size_pow": 4,
    "learning_rate": 1e-3,
    "train_freq": 2,
    "subsample_steps": 2,
    "exploration_final_eps": 0.1,
    "exploration_fraction": 0.2,
    "target_update_interval": 10,
    "net_arch": "small",
}
TRIALS = {**{algo: {**FIXED[algo], "learning_rate": 3e-3} for algo in FIXED}, "dqn": DQN}


def score(experiment: Any, algo: str, pruner: Any = None) -> optuna.trial.FrozenTrial:
    """:return: the trial of fixed parameters"""
    study = optuna.create_study(direction="maximize", pruner=pruner or NopPruner())
    study.enqueue_trial(TRIALS[algo])
    study.optimize(experiment.objective, n_trials=1)
    assert study.trials[0].params == TRIALS[algo]
    return study.trials[0]


def evaluations(folder: str) -> list[float]:
    return np.load(Path(folder, "evaluations.npz"))["results"].mean(1).tolist()


@pytest.mark.parametrize("algo", TRIALS)
def test_a_trial_is_scored_by_its_seeds(algo: str, command: Command) -> None:
    experiment = command.prepare(algo, *TUNING, "--n-seeds", "2", "--optimization-log-path", "trials", **QUICK)
    trial = score(experiment, algo)
    first, second = evaluations("trials/trial_0"), evaluations("trials/trial_0_seed_1")
    assert len(first) == len(second) == EVALUATIONS and first != second
    assert trial.user_attrs["seeds"] == [3, 4]
    assert trial.user_attrs["scores"] == [first[-1], second[-1]]
    assert trial.value == np.mean([first[-1], second[-1]])
    means = [first[0], first[1], *(np.mean([first[-1], value]) for value in second)]
    assert trial.intermediate_values == dict(zip(range(1, 2 * EVALUATIONS + 1), means, strict=True))

    # Each seed for itself
    experiment.optimization_log_path = None
    experiment.n_seeds = 1
    for seed, expected in zip((3, 4), trial.user_attrs["scores"], strict=True):
        experiment.seed = seed
        assert score(experiment, algo).user_attrs == {**trial.user_attrs, "seeds": [seed], "scores": [expected]}
    assert experiment.n_seeds == 1 and experiment.seed == 4, "the experiment stays as it was"


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("train_freq", [4, 32])
def test_no_step_is_reported_twice(n_envs: int, train_freq: int, command: Command) -> None:
    """Also where runs are longer than asked for, or evaluations more frequent, by rounding."""
    settings = {**QUICK, "train_freq": train_freq, "n_envs": n_envs}
    experiment = command.prepare("iqn", *TUNING, "--n-evaluations", "4", "--n-seeds", "2", **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*already reported.*")
        trial = score(experiment, "iqn")
    steps = sorted(trial.intermediate_values)
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize(("warmup", "seen"), [(1, 1), (EVALUATIONS + 1, EVALUATIONS + 1)])
def test_bad_trials_are_pruned_with_any_seed(warmup: int, seen: int, command: Command) -> None:
    experiment = command.prepare("iqn", *TUNING, "--n-seeds", "2", **QUICK)
    trial = score(experiment, "iqn", ThresholdPruner(lower=1000.0, n_warmup_steps=warmup))
    assert trial.state == TrialState.PRUNED
    assert len(trial.intermediate_values) == seen and "scores" not in trial.user_attrs


OF_ENTRY = dict(net_arch=[8], optimizer_kwargs=dict(eps=1e-3, fused=True))
SUPPORT = dict(v_min=0.0, v_max=100.0)


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("algo", TRIALS)
def test_what_is_not_sampled_stays(algo: str, as_text: bool, command: Command, config: Config, watch: type[Watch]) -> None:
    """Also with two seeds, and although models may change the arguments that they are given."""
    of_entry = {**OF_ENTRY, **(SUPPORT if algo == "rainbow" else {})}
    text = f"dict(activation_fn=nn.Tanh, **{of_entry})" if as_text else of_entry
    entry = config(yaml.safe_dump({"CartPole-v1": dict(policy="MlpPolicy", n_timesteps=50, policy_kwargs=text)}))
    experiment = command.prepare(algo, *TUNING, "--n-seeds", "2", *entry, callback=WATCH, learning_starts=20)
    score(experiment, algo)
    sampled = HYPERPARAMS_SAMPLER[algo](FixedTrial(TRIALS[algo]), 0, 1, {"using_her_replay_buffer": False})
    expected = {**of_entry, **({"activation_fn": nn.Tanh} if as_text else {}), **sampled.pop("policy_kwargs")}
    assert len(watch.models) == 2
    for model in watch.models:
        assert model.policy_kwargs.items() >= expected.items()
        assert model.policy.optimizer.defaults["eps"] == 1e-3
        assert model.learning_starts == 20
        assert (model.batch_size, model.gradient_steps) == (sampled["batch_size"], sampled["gradient_steps"])
        assert getattr(model, "replay_ratio", None) == sampled.get("replay_ratio")
    assert experiment._hyperparams["policy_kwargs"]["net_arch"] == [8]


def test_samplers_know_the_policy(command: Command, config: Config) -> None:
    entry = config(f"atari: {{policy: CnnPolicy, n_timesteps: 9, env_wrapper: {WRAPPER}}}")
    arguments = ["-n", "4", "--n-evaluations", "1", "--env-kwargs", "max_episode_steps:5"]
    settings = dict(buffer_size=100, learning_starts=200)
    experiment = command.prepare("iqn", *TUNING, *arguments, *entry, env="PongNoFrameskip-v4", **settings)
    study = optuna.create_study(direction="maximize")
    study.optimize(experiment.objective, n_trials=1)
    assert "learning_rate" in study.trials[0].params and "net_arch" not in study.trials[0].params


# Studies

STUDY = [*TUNING, "--n-trials", "3", "--no-optim-plots", "--pruner", "none", "--n-startup-trials", "2"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_study(command: Command) -> None:
    studies = []
    for seed in ("5", "5", "6"):
        th.rand(3)  # whatever came before
        command.train("iqn", *STUDY, "--n-seeds", "2", "--seed", seed, **QUICK)
        studies.append([(trial.params, trial.intermediate_values) for trial in command.experiment.study.trials])
        seeds = [trial.user_attrs["seeds"] for trial in command.experiment.study.trials]
        assert seeds == [[int(seed), int(seed) + 1]] * 3
    assert studies[0] == studies[1] != studies[2]


def test_processes_of_a_study_propose_different_trials(command: Command) -> None:
    stored = [*STUDY, "--storage", STORAGE, "--study-name", "a", "--n-trials", "1"]
    for _ in range(2):
        command.train("iqn", *stored, **QUICK)
    first, second = command.experiment.study.trials
    assert first.params != second.params


def test_a_study_that_others_have_finished_is_reported(command: Command, capsys: Any) -> None:
    stored = [*STUDY, "--storage", STORAGE, "--study-name", "a", "--max-total-trials", "1"]
    for _ in range(2):
        for file in Path("logs").rglob("report_*"):
            file.unlink()
        command.train("iqn", *stored, **QUICK)
        assert Path("logs/iqn/report_CartPole-v1_a.md").is_file()
    assert command.experiment.study is None, "no trial of its own"


def test_trials_in_threads(command: Command) -> None:
    command.train("iqn", *STUDY, "--n-seeds", "2", "--n-jobs", "2", **QUICK)
    trials = command.experiment.study.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert all(sorted(trial.intermediate_values) == [1, 2, 3, 4] for trial in trials)
    assert all(trial.user_attrs["seeds"] == [3, 4] for trial in trials)


@pytest.mark.parametrize("stored", [[], ["--storage", STORAGE, "--study-name", "a"]])
def test_a_study_without_a_completed_trial(stored: list[str], command: Command, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(Experiment, "_create_pruner", lambda *_: ThresholdPruner(lower=1000.0))
    for _ in range(1 + bool(stored)):  # the second time, there is nothing to do
        with pytest.raises(SystemExit):
            command.train("iqn", *STUDY, "--max-total-trials", "2", *stored, **QUICK)
        assert "No trial was completed: use more --n-trials" in capsys.readouterr().err
    assert not list(Path("logs").rglob("report_*"))


def test_mistakes_of_settings_are_named(command: Command, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        command.train("iqn", *STUDY, beta_initial=2.0)
    assert "beta_initial=2.0 must be in [0, 1]" in capsys.readouterr().err.splitlines()[-1]
