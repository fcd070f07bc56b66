"""The algorithms and switch settings that the suites run over."""

from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter, Logger

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.common.envs import POLICIES, vec_env

SMALL: dict[str, Any] = dict(
    buffer_size=500,
    learning_starts=20,
    batch_size=8,
    learning_rate=1e-3,
    train_freq=4,
    target_update_interval=30,
    device="cpu",
    seed=0,
)
SMALL_NETS: dict[type[ValueAlgorithm], dict[str, Any]] = {
    Rainbow: dict(net_arch=[16], n_atoms=11),
    IQN: dict(net_arch=[16], n_quantiles=7, n_target_quantiles=5, n_eval_quantiles=4, n_cos=6),
    QRDQN: dict(net_arch=[16], n_quantiles=9),
}


class Setting(NamedTuple):
    """An algorithm with arguments of its constructor and of its policy."""

    algorithm: type[ValueAlgorithm]
    kwargs: dict[str, Any]
    policy_kwargs: dict[str, Any]


PLAIN = dict(double_q=False, prioritized=False, n_steps=1)
PLAIN_NET = dict(dueling=False, noisy=False, distributional=False)

ALGORITHMS = {
    "Rainbow": Setting(Rainbow, {}, {}),
    "IQN": Setting(IQN, {}, {}),
    "QRDQN": Setting(QRDQN, {}, {}),
}
SETTINGS = {
    **ALGORITHMS,
    "DQN": Setting(Rainbow, PLAIN, PLAIN_NET),
    "Double DQN": Setting(Rainbow, {**PLAIN, "double_q": True}, PLAIN_NET),
    "Dueling DQN": Setting(Rainbow, PLAIN, {**PLAIN_NET, "dueling": True}),
    "Prioritized DQN": Setting(Rainbow, {**PLAIN, "prioritized": True}, PLAIN_NET),
    "Noisy DQN": Setting(Rainbow, PLAIN, {**PLAIN_NET, "noisy": True}),
    "n-step DQN": Setting(Rainbow, {**PLAIN, "n_steps": 3}, PLAIN_NET),
    "C51": Setting(Rainbow, PLAIN, {**PLAIN_NET, "distributional": True}),
    "IQN with all": Setting(IQN, dict(double_q=True, prioritized=True, n_steps=3), dict(dueling=True, noisy=True)),
    "QRDQN with all": Setting(QRDQN, dict(double_q=True, prioritized=True, n_steps=3), {}),
}


def make(setting: Setting | type[ValueAlgorithm], env: Any = None, kind: str = "box", **kwargs: Any) -> Any:
    """
    :param setting: one of ``SETTINGS``, or an algorithm
    :param env: environment; ``None`` makes one
    :param kind: of observations, for the policy and the environment
    :param kwargs: arguments that differ from the setting and from ``SMALL``
    :return: a small model
    """
    if not isinstance(setting, Setting):
        setting = Setting(setting, {}, {})
    policy_kwargs = {**SMALL_NETS[setting.algorithm], **setting.policy_kwargs, **kwargs.pop("policy_kwargs", {})}
    arguments = {**SMALL, **setting.kwargs, **kwargs, "policy_kwargs": policy_kwargs}
    return setting.algorithm(POLICIES.get(kind, "MlpPolicy"), vec_env(kind) if env is None else env, **arguments)


class Recorder(KVWriter):
    """Keeps every line that the logger writes, with its values as they came."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.lines.append(dict(key_values))

    def close(self) -> None:
        pass


def record(model: BaseAlgorithm) -> Recorder:
    """
    :param model: a model before ``learn``
    :return: what it will log
    """
    recorder = Recorder()
    model.set_logger(Logger(folder=None, output_formats=[recorder]))
    return recorder


def logged(model: BaseAlgorithm) -> dict[str, Any]:
    """
    :param model: a model that has learnt
    :return: what it has to log now
    """
    recorder = record(model)
    model.dump_logs()
    return recorder.lines[-1]


def snapshot(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """
    :param model: any
    :return: a copy of all parameters of its policy
    """
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same_parameters(one: dict[str, th.Tensor], other: dict[str, th.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert th.equal(value, other[name]), name


def expected_updates(total: int, n_envs: int = 1, train_freq: int = 4, learning_starts: int = 20) -> int:
    """
    :param total: of ``learn``
    :param n_envs: environments
    :param train_freq: vectorised steps of a rollout
    :param learning_starts: steps before the first update
    :return: gradient steps that SB3's counting implies, one after each rollout
    """
    per_rollout = train_freq * n_envs
    rollouts = -(-total // per_rollout)
    return sum(k * per_rollout > learning_starts for k in range(1, rollouts + 1))
