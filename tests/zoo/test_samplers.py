"""What is sampled can be trained with, is affordable, and can be had again from a trial's parameters."""

from typing import Any

import optuna
import pytest
import rl_zoo3.exp_manager
import rl_zoo3.utils
import yaml
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial
from rl_zoo3.utils import ALGOS, SimpleLinearSchedule

from sb3_distrl.zoo.entries import Mergeable, hyperparams_file
from sb3_distrl.zoo.samplers import CONVERTERS, NET_ARCHS, SAMPLERS

NAMES = ["rainbow", "iqn", "qrdqn"]
N_TRIALS = 200
SEED = 0

PARAMS = {
    "learning_rate": 2e-3,
    "lr_schedule": "linear",
    "one_minus_gamma": 0.01,
    "batch_size_pow": 6,
    "n_steps": 3,
    "target_update_interval": 100,
    "replay_ratio": 0.25,
    "net_arch": "small",
}
EPSILON_GREEDY = {"exploration_fraction": 0.1, "exploration_final_eps": 0.01, "double_q": True, "prioritized": False}
FIXED = {
    "rainbow": {**PARAMS, "noisy_std": 0.5, "n_atoms": 51, "alpha": 0.5},
    "iqn": {**PARAMS, **EPSILON_GREEDY, "n_quantiles": 16},
    "qrdqn": {**PARAMS, **EPSILON_GREEDY, "n_quantiles": 30},
}


class Named:
    """A trial that knows its policy, as those of ``Experiment`` do."""

    def __init__(self, trial: optuna.Trial, policy: str) -> None:
        self._trial, self.policy = trial, policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


def sampled(algo: str, policy: str = "MlpPolicy") -> list[tuple[optuna.Trial, dict[str, Any]]]:
    """:return: trials, and what was sampled in each"""
    study = optuna.create_study(sampler=RandomSampler(seed=SEED))
    trials = [study.ask() for _ in range(N_TRIALS)]
    return [(trial, SAMPLERS[algo](Named(trial, policy), 0, 1, {})) for trial in trials]


def entry(algo: str) -> dict[str, Any]:
    """:return: of CartPole-v1, with what a model takes"""
    path = hyperparams_file(algo)
    if path.is_file():
        hyperparams = yaml.safe_load(path.read_text())["CartPole-v1"]
    else:  # rl-zoo3's
        hyperparams = dict(policy="MlpPolicy", n_timesteps=100, learning_rate=1e-3, gradient_steps=128, train_freq=256)
    hyperparams.pop("n_timesteps")
    hyperparams.pop("learning_rate")
    return hyperparams


@pytest.mark.parametrize("algo", NAMES)
def test_what_is_sampled_constructs(algo: str) -> None:
    for _, hyperparams in sampled(algo)[::20]:
        merged = Mergeable(entry(algo))
        of_entry = dict(merged.get("policy_kwargs", {}))
        merged.update(hyperparams)
        model = ALGOS[algo](env="CartPole-v1", device="cpu", **merged)
        for name, value in hyperparams["policy_kwargs"].items():
            assert model.policy_kwargs[name] == value
        for name in of_entry.keys() - hyperparams["policy_kwargs"].keys():
            assert model.policy_kwargs[name] == of_entry[name]
        for name in hyperparams.keys() - {"policy_kwargs", "learning_rate"}:
            assert getattr(model, name) == hyperparams[name], name
        start = hyperparams["learning_rate"]
        assert model.lr_schedule(1.0) == (start.initial_value if isinstance(start, SimpleLinearSchedule) else start)
        if algo == "rainbow":
            assert (model.policy_kwargs["v_min"], model.policy_kwargs["v_max"]) == (0.0, 100.0)


@pytest.mark.parametrize("algo", NAMES)
def test_they_are_had_again_from_the_parameters(algo: str) -> None:
    """But for schedules: a YAML file says them in words, which rl-zoo3 understands."""
    schedules = set()
    for trial, hyperparams in sampled(algo):
        again = CONVERTERS[algo](dict(trial.params))
        yaml.safe_dump(again)
        understood = rl_zoo3.exp_manager.ExperimentManager._preprocess_schedules(dict(again))["learning_rate"]
        schedule = hyperparams["learning_rate"]
        schedules.add(type(schedule))
        if isinstance(schedule, SimpleLinearSchedule):
            assert isinstance(again["learning_rate"], str) and again["learning_rate"].startswith("lin_")
            assert [understood(left) for left in (1.0, 0.25)] == [schedule(left) for left in (1.0, 0.25)]
            assert (schedule(1.0), schedule(0.5), schedule(0.0)) == (start := trial.params["learning_rate"], start / 2, 0)
        else:
            assert understood(0.3) == schedule == trial.params["learning_rate"]
        assert {**again, "learning_rate": schedule} == hyperparams
        assert trial.user_attrs == {"gamma": hyperparams["gamma"], "batch_size": hyperparams["batch_size"]}
    assert schedules == {SimpleLinearSchedule, float}


@pytest.mark.parametrize("algo", NAMES)
def test_the_parameters_mean_what_they_say(algo: str) -> None:
    trial = FixedTrial(FIXED[algo])
    hyperparams = SAMPLERS[algo](trial, 0, 1, {})
    assert trial.params == FIXED[algo], "nothing more and nothing less is sampled"
    expected = {name: FIXED[algo][name] for name in ("n_steps", "target_update_interval", "replay_ratio")}
    expected |= {"gamma": 0.99, "batch_size": 64, "gradient_steps": 1}
    if algo == "rainbow":
        policy_kwargs = {"net_arch": [64, 64], "noisy_std": 0.5, "n_atoms": 51}
        expected |= {"alpha": 0.5}
    else:
        policy_kwargs = {"net_arch": [64, 64], "n_quantiles": FIXED[algo]["n_quantiles"]}
        expected |= EPSILON_GREEDY
    if algo == "iqn":
        policy_kwargs["n_target_quantiles"] = 16
    assert hyperparams.pop("learning_rate")(1.0) == 2e-3
    assert hyperparams == {**expected, "policy_kwargs": policy_kwargs}


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
@pytest.mark.parametrize("algo", NAMES)
def test_what_is_sampled_is_affordable_and_in_range(algo: str, policy: str) -> None:
    images = policy == "CnnPolicy"
    archs, batch_sizes = set(), set()
    for _, hyperparams in sampled(algo, policy):
        policy_kwargs = hyperparams["policy_kwargs"]
        assert not {"v_min", "v_max"} & {*policy_kwargs, *hyperparams}
        assert 3e-5 <= getattr(hyperparams["learning_rate"], "initial_value", hyperparams["learning_rate"]) <= 3e-3
        assert 0.97 <= hyperparams["gamma"] <= 0.999
        assert 1 <= hyperparams["n_steps"] <= 10
        assert hyperparams["replay_ratio"] <= 0.5
        assert policy_kwargs.get("n_quantiles", 1) <= {"qrdqn": 100, "iqn": 32, "rainbow": 1}[algo]
        assert policy_kwargs.get("n_target_quantiles") == (policy_kwargs["n_quantiles"] if algo == "iqn" else None)
        assert policy_kwargs.get("n_atoms", 1) <= 101
        archs.add(str(policy_kwargs.get("net_arch")))
        batch_sizes.add(hyperparams["batch_size"])
    assert batch_sizes == ({32, 64} if images else {32, 64, 128})
    assert archs == ({"None"} if images else {str(arch) for arch in NET_ARCHS.values()})


def test_the_networks_of_trials_are_their_own() -> None:
    first, second = (CONVERTERS["iqn"](FIXED["iqn"])["policy_kwargs"]["net_arch"] for _ in range(2))
    first.append(7)
    assert second == NET_ARCHS["small"] == [64, 64]
