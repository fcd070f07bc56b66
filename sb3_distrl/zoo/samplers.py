"""
Samplers of hyperparameters for Optuna, as in rl-zoo3.

Their ranges keep trials affordable on a CPU. Rainbow's ``v_min`` and ``v_max`` are never sampled: they must cover the returns
of the environment, and stay as in the YAML entry.
"""

from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3.utils import SimpleLinearSchedule

Hyperparams = dict[str, Any]
Converter = Callable[[Hyperparams], Hyperparams]

NET_ARCHS = {"small": [64, 64], "medium": [128, 128], "big": [256, 256]}
POLICY_PARAMS = ("net_arch", "noisy_std", "n_atoms", "n_quantiles")  # parameters of a trial that are policy_kwargs


def convert(params: Hyperparams) -> Hyperparams:
    """:return: a YAML entry from a trial's parameters; ``policy_kwargs`` have only sampled ones"""
    hyperparams = {name: value for name, value in params.items() if name not in POLICY_PARAMS}
    hyperparams["gamma"] = 1 - hyperparams.pop("one_minus_gamma")
    hyperparams["batch_size"] = 2 ** hyperparams.pop("batch_size_pow")
    if hyperparams.pop("lr_schedule") == "linear":
        hyperparams["learning_rate"] = f"lin_{hyperparams['learning_rate']}"
    hyperparams["gradient_steps"] = 1  # replaced by replay_ratio
    policy_kwargs = {name: params[name] for name in POLICY_PARAMS if name in params}
    if "net_arch" in policy_kwargs:
        policy_kwargs["net_arch"] = list(NET_ARCHS[policy_kwargs["net_arch"]])
    return {**hyperparams, "policy_kwargs": policy_kwargs}


def convert_iqn(params: Hyperparams) -> Hyperparams:
    """Like :func:`convert`, with as many target quantiles as quantiles, as in the paper."""
    hyperparams = convert(params)
    hyperparams["policy_kwargs"]["n_target_quantiles"] = params["n_quantiles"]
    return hyperparams


def suggest(trial: optuna.Trial) -> None:
    """Suggest parameters of all algorithms; ``trial.policy``, if any, is the policy's name."""
    images = "Cnn" in str(getattr(trial, "policy", ""))
    trial.suggest_float("learning_rate", 3e-5, 3e-3, log=True)
    trial.suggest_categorical("lr_schedule", ["constant", "linear"])
    one_minus_gamma = trial.suggest_float("one_minus_gamma", 0.001, 0.03, log=True)
    batch_size_pow = trial.suggest_int("batch_size_pow", 5, 6 if images else 7)
    trial.suggest_int("n_steps", 1, 10, log=True)
    trial.suggest_int("target_update_interval", 50, 10_000, log=True)
    trial.suggest_categorical("replay_ratio", [0.125, 0.25, 0.5])
    if not images:  # convolutions keep the papers' hidden layer
        trial.suggest_categorical("net_arch", list(NET_ARCHS))
    trial.set_user_attr("gamma", 1 - one_minus_gamma)  # rl-zoo3 also sets and shows these
    trial.set_user_attr("batch_size", 2**batch_size_pow)


def suggest_epsilon_greedy(trial: optuna.Trial) -> None:
    """Suggest epsilon-greedy exploration, and components of Rainbow that are off by default."""
    trial.suggest_float("exploration_fraction", 0.02, 0.5, log=True)
    trial.suggest_float("exploration_final_eps", 0.005, 0.1, log=True)
    trial.suggest_categorical("double_q", [False, True])
    trial.suggest_categorical("prioritized", [False, True])


def suggest_rainbow(trial: optuna.Trial) -> None:
    suggest(trial)
    trial.suggest_float("noisy_std", 0.05, 0.7, log=True)
    trial.suggest_categorical("n_atoms", [21, 51, 101])
    trial.suggest_float("alpha", 0.2, 0.8)


def suggest_iqn(trial: optuna.Trial) -> None:
    suggest(trial)
    suggest_epsilon_greedy(trial)
    trial.suggest_categorical("n_quantiles", [8, 16, 32])


def suggest_qrdqn(trial: optuna.Trial) -> None:
    suggest(trial)
    suggest_epsilon_greedy(trial)
    trial.suggest_int("n_quantiles", 10, 100, step=10)


def sampler(suggest: Callable[[optuna.Trial], None], converter: Converter) -> Callable[..., Hyperparams]:
    """:return: a sampler for rl-zoo3, which suggests parameters and converts them to hyperparameters"""

    def sample(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Hyperparams:
        suggest(trial)
        hyperparams = converter(trial.params)
        learning_rate = hyperparams["learning_rate"]
        if isinstance(learning_rate, str):
            hyperparams["learning_rate"] = SimpleLinearSchedule(learning_rate.removeprefix("lin_"))
        return hyperparams

    return sample


CONVERTERS: dict[str, Converter] = {"rainbow": convert, "iqn": convert_iqn, "qrdqn": convert}
SAMPLERS = {
    "rainbow": sampler(suggest_rainbow, CONVERTERS["rainbow"]),
    "iqn": sampler(suggest_iqn, CONVERTERS["iqn"]),
    "qrdqn": sampler(suggest_qrdqn, CONVERTERS["qrdqn"]),
}
