"""rl-zoo3 knows what this library brings, whichever way it is asked, and as often as it is asked."""

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import rl_zoo3.enjoy
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import rl_zoo3.train
import rl_zoo3.utils
import sb3_contrib
import yaml

import sb3_distrl
from sb3_distrl.zoo import register
from sb3_distrl.zoo.experiment import Experiment
from sb3_distrl.zoo.registration import NAMES
from sb3_distrl.zoo.samplers import CONVERTERS, SAMPLERS
from tests.zoo.conftest import ALWAYS, QUICK, Command

ROOT = Path(sb3_distrl.__file__).parent.parent
OURS = {"rainbow": sb3_distrl.Rainbow, "iqn": sb3_distrl.IQN, "qrdqn": sb3_distrl.QRDQN}


def python(*arguments: str) -> str:
    """:return: what a new Python prints, which finds this library as the tests do"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_registering_twice_is_registering_once() -> None:
    register()
    modules = [rl_zoo3.exp_manager, rl_zoo3.train, rl_zoo3.enjoy]
    before = [dict(vars(module)) for module in modules]
    known = (dict(rl_zoo3.utils.ALGOS), len(gymnasium.registry))
    register()
    assert [dict(vars(module)) for module in modules] == before
    assert (rl_zoo3.utils.ALGOS, len(gymnasium.registry)) == known
    for module in modules:
        assert module.ExperimentManager is Experiment
    assert Experiment.__mro__[1].__name__ == "ExperimentManager"


class Importer:
    """Imports a module when it is collected, as the finalisers of some environments do."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        sys.modules[f"{__name__}.{id(self)}"] = sys


def test_modules_may_be_imported_meanwhile() -> None:
    """By garbage collection, which happens anywhere."""
    before, threshold = set(sys.modules), gc.get_threshold()
    try:
        for number in range(300):
            Importer()
            gc.set_threshold(number + 5)
            register()
    finally:
        gc.set_threshold(*threshold)
        gc.collect()
        for name in set(sys.modules) - before:
            del sys.modules[name]


def test_all_dictionaries_have_them() -> None:
    for name, algorithm in OURS.items():
        assert rl_zoo3.ALGOS[name] is rl_zoo3.utils.ALGOS[name] is rl_zoo3.exp_manager.ALGOS[name] is algorithm
        assert rl_zoo3.train.ALGOS[name] is rl_zoo3.enjoy.ALGOS[name] is algorithm
        assert rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER[name] is SAMPLERS[name]
        assert rl_zoo3.exp_manager.HYPERPARAMS_CONVERTER[name] is CONVERTERS[name]
    assert rl_zoo3.ALGOS["tqc"] is sb3_contrib.TQC, "others stay"
    assert set(rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER) > {"dqn", "ppo", *OURS}


@pytest.mark.parametrize("module", [rl_zoo3.exp_manager, rl_zoo3.utils], ids=["yaml", "command line"])
def test_names_are_evaluated(module: Any) -> None:
    for name in ("MinAtarConv", "DataEfficientConv", "NatureConv", "PrioritizedReplayBuffer", "PrioritizedDictReplayBuffer"):
        assert eval(name, vars(module)) is NAMES[name]


def test_minatar_is_registered() -> None:
    assert gymnasium.spec("MinAtar/Breakout-v1").entry_point == "sb3_distrl.envs.minatar:make_minatar"


def test_rl_zoo3s_train_uses_it(command: Command) -> None:
    settings = [f"{name}:{value!r}" for name, value in QUICK.items()]
    command.plain(rl_zoo3.train.ExperimentManager, "--algo", "rainbow", "-n", "60", *ALWAYS, "-params", *settings)
    assert type(command.experiment) is Experiment
    assert type(command.model) is sb3_distrl.Rainbow and command.model.num_timesteps == 60
    config = yaml.safe_load(Path("logs/rainbow/CartPole-v1_1/CartPole-v1/config.yml").read_text())
    assert config["policy_kwargs"]["v_max"] == 100.0


SETTINGS = [f"{name}:{value!r}" for name, value in QUICK.items()]
TRAIN = ["--algo", "rainbow", "--env", "CartPole-v1", "-n", "300", *ALWAYS, "-params", *SETTINGS]
PLAY = ["--algo", "rainbow", "--env", "CartPole-v1", "-f", "logs", "--no-render", "-n", "20"]


@pytest.mark.slow
def test_custom_envs_is_enough_for_rl_zoo3s_own_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which some import the module of experiments first, so that it is registered in the middle of its import."""
    monkeypatch.chdir(tmp_path)
    Path("custom_envs.py").write_text("from sb3_distrl.zoo import register\n\nregister()\n")
    assert "Log path: logs/rainbow/CartPole-v1_1" in python("-m", "rl_zoo3.train", *TRAIN)
    assert "v_max" in Path("logs/rainbow/CartPole-v1_1/CartPole-v1/config.yml").read_text(), "this library's settings"
    assert "Loading logs/rainbow/CartPole-v1_1/CartPole-v1.zip" in python("-m", "rl_zoo3.enjoy", *PLAY)
    python("-m", "rl_zoo3.record_video", *PLAY)
    assert list(Path("logs/rainbow/CartPole-v1_1/videos").glob("*.mp4"))
    python("-m", "rl_zoo3.train", *TRAIN, "-n", "40", "-i", "logs/rainbow/CartPole-v1_1/CartPole-v1.zip")
    model = sb3_distrl.Rainbow.load("logs/rainbow/CartPole-v1_2/CartPole-v1.zip", device="cpu")
    assert model.num_timesteps == 340


FIRST = """
import {first}
import rl_zoo3.exp_manager, rl_zoo3.train, rl_zoo3.enjoy, sys
from rl_zoo3.exp_manager import ExperimentManager
if {explicit}:
    from sb3_distrl.zoo import register
    register()
import sb3_distrl.zoo.experiment as ours
assert rl_zoo3.exp_manager is sys.modules["rl_zoo3.exp_manager"] is sys.modules[ours.ExperimentManager.__module__]
assert rl_zoo3.exp_manager.ExperimentManager is ExperimentManager is ours.Experiment
assert rl_zoo3.train.ExperimentManager is rl_zoo3.enjoy.ExperimentManager is ours.Experiment
assert ours.Experiment.__mro__[2] is object
assert {{"rainbow", "iqn"}} <= rl_zoo3.ALGOS.keys() and rl_zoo3.ALGOS["qrdqn"].__module__.startswith("sb3_distrl")
assert rl_zoo3.exp_manager.MinAtarConv
import gymnasium
gymnasium.spec("CartPoleNoVel-v1"), gymnasium.spec("MinAtar/Breakout-v1")
print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "explicit"),
    [
        ("rl_zoo3.exp_manager", False),
        ("rl_zoo3.import_envs", False),
        ("rl_zoo3.exp_manager", True),
        ("sb3_distrl.zoo.registration", True),
    ],
)
def test_any_order_of_imports(first: str, explicit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered by custom_envs.py, or afterwards, which also reaches what has been imported into the main module."""
    monkeypatch.chdir(tmp_path)
    if not explicit:
        Path("custom_envs.py").write_text("from sb3_distrl.zoo import register\n\nregister()\n")
    Path("script.py").write_text(FIRST.format(first=first, explicit=explicit))
    assert python("script.py") == "fine\n"


def test_importing_the_package_does_not_import_rl_zoo3() -> None:
    script = "import sys, sb3_distrl.zoo, sb3_distrl.zoo.cli; print({'rl_zoo3', 'optuna', 'plotly'} & set(sys.modules))"
    assert python("-c", script) == "set()\n"
