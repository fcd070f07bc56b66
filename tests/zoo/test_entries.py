"""Hyperparameters are merged without losses, and written so that rl-zoo3 reads the same again."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rl_zoo3.exp_manager
import torch as th
import yaml
from torch import nn

from sb3_distrl import IQN, Rainbow
from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.networks import MinAtarConv
from sb3_distrl.zoo import register
from sb3_distrl.zoo.entries import Mergeable, evaluated, expression, hyperparams_file, plain, read_entries

register()


def understood(text: str) -> Any:
    """:return: what rl-zoo3 makes of it"""
    return eval(text, vars(rl_zoo3.exp_manager))


@pytest.mark.parametrize("old", [dict(net_arch=[64], v_max=9.0), "dict(net_arch=[64], v_max=9.0)"])
@pytest.mark.parametrize("new", [dict(net_arch=[32], n_atoms=21), "dict(net_arch=[32], n_atoms=21)"])
def test_policy_kwargs_are_merged(old: Any, new: Any) -> None:
    hyperparams = Mergeable(policy_kwargs=old, gamma=0.9, replay_buffer_kwargs=dict(a=1), n_steps=2)
    hyperparams.update(dict(policy_kwargs=new, gamma=0.8, replay_buffer_kwargs=dict(b=2)))
    assert hyperparams == dict(
        policy_kwargs=dict(net_arch=[32], n_atoms=21, v_max=9.0), gamma=0.8, replay_buffer_kwargs=dict(b=2), n_steps=2
    )


@pytest.mark.parametrize("nothing", [None, {}, "dict()", "missing"])
def test_policy_kwargs_of_one_side_only(nothing: Any) -> None:
    empty = {} if nothing == "missing" else dict(policy_kwargs=nothing)
    some = dict(policy_kwargs=dict(net_arch=[64]))
    for old, new in ((empty, some), (some, empty)):
        hyperparams = Mergeable(old)
        hyperparams.update(new)
        assert hyperparams == some


def test_what_is_merged_does_not_change_what_it_came_from() -> None:
    old, new = dict(policy_kwargs=dict(net_arch=[64])), dict(policy_kwargs=dict(n_atoms=21))
    hyperparams = Mergeable(old)
    copy = hyperparams.copy()
    copy.update(new)
    assert type(copy) is Mergeable
    assert copy == dict(policy_kwargs=dict(net_arch=[64], n_atoms=21))
    assert hyperparams == old == dict(policy_kwargs=dict(net_arch=[64]))
    assert new == dict(policy_kwargs=dict(n_atoms=21))


def test_evaluated_knows_rl_zoo3s_names_and_ours() -> None:
    text = "dict(activation_fn=nn.Tanh, optimizer_class=th.optim.SGD, features_extractor_class=MinAtarConv)"
    expected = dict(activation_fn=nn.Tanh, optimizer_class=th.optim.SGD, features_extractor_class=MinAtarConv)
    assert evaluated(text) == expected
    assert evaluated(expected) == expected
    assert evaluated(None) == {}


VALUES = [
    1e-8,
    None,
    True,
    "it's",
    [1, [2.5, None]],
    (1, "episode"),
    nn.ReLU,
    nn.Tanh,
    MinAtarConv,
    PrioritizedReplayBuffer,
    th.optim.RMSprop,
    Rainbow,
    date,
    [nn.ReLU, nn.ELU],
    (nn.ReLU, 3),
    dict(a=dict(b=[nn.ReLU, dict(c=None)], d=0.1), e=(1, 2)),
    {"lr": 1e-5, "a-b": 2, 3: "x"},
    {},
    [],
    (),
    (nn.ReLU,),
    float("inf"),
    dict(low=float("-inf")),
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_expressions_are_understood(value: Any) -> None:
    again = understood(expression(value))
    assert again == value and type(again) is type(value)


ENTRY = dict(
    policy="MlpPolicy",
    n_timesteps=50000,
    learning_rate="lin_0.001",
    gamma=0.99,
    tiny=1e-08,
    max_grad_norm=None,
    double_q=True,
    env_wrapper=[{"stable_baselines3.common.atari_wrappers.AtariWrapper": {"frame_skip": 4}}],
)
WITH_CLASSES = dict(
    policy_kwargs=dict(
        net_arch=[64, 64],
        activation_fn=nn.ReLU,
        features_extractor_class=MinAtarConv,
        optimizer_class=th.optim.RMSprop,
        optimizer_kwargs=dict(eps=1e-8, betas=(0.9, 0.999)),
        normalize_images=False,
        noisy_std=None,
    ),
    replay_buffer_class=PrioritizedReplayBuffer,
    replay_buffer_kwargs=dict(alpha=0.5),
)


def test_plain_entries_stay_and_others_are_understood() -> None:
    loaded = yaml.safe_load(yaml.safe_dump(plain({**ENTRY, **WITH_CLASSES}), sort_keys=False))
    assert list(loaded) == [*ENTRY, *WITH_CLASSES]
    assert {name: loaded[name] for name in ENTRY} == ENTRY
    assert loaded["replay_buffer_kwargs"] == WITH_CLASSES["replay_buffer_kwargs"]
    for name in ("policy_kwargs", "replay_buffer_class"):
        assert isinstance(loaded[name], str)
        assert understood(loaded[name]) == WITH_CLASSES[name]
    assert plain(loaded) == loaded


def test_a_model_is_made_of_what_was_plain() -> None:
    loaded = yaml.safe_load(yaml.safe_dump(plain(WITH_CLASSES)))
    policy_kwargs = understood(loaded["policy_kwargs"])
    del policy_kwargs["features_extractor_class"], policy_kwargs["noisy_std"], policy_kwargs["optimizer_kwargs"]["betas"]
    model = IQN(
        "MlpPolicy",
        "CartPole-v1",
        policy_kwargs=policy_kwargs,
        replay_buffer_class=understood(loaded["replay_buffer_class"]),
        device="cpu",
    )
    assert isinstance(model.policy.optimizer, th.optim.RMSprop)
    assert isinstance(model.replay_buffer, PrioritizedReplayBuffer)


def test_plain_leaves_its_argument_alone() -> None:
    hyperparams = dict(policy_kwargs=dict(activation_fn=nn.ReLU))
    assert isinstance(plain(hyperparams)["policy_kwargs"], str)
    assert hyperparams == dict(policy_kwargs=dict(activation_fn=nn.ReLU))


def test_numbers_of_numpy_become_readable() -> None:
    loaded = yaml.safe_load(yaml.safe_dump(plain(dict(policy_kwargs=dict(v_max=np.float64(2.5), n_atoms=np.int64(21))))))
    assert understood(loaded["policy_kwargs"]) == dict(v_max=2.5, n_atoms=21)


@pytest.mark.parametrize("algo", ["rainbow", "iqn"])
def test_hyperparams_files_are_found(algo: str) -> None:
    assert "CartPole-v1" in yaml.safe_load(hyperparams_file(algo).read_text())
    assert hyperparams_file(algo).name == f"{algo}.yml"


def test_hyperparams_file_of_rl_zoo3s_algorithms_is_not_ours() -> None:
    assert not hyperparams_file("ppo").is_file()


def test_hyperparams_file_of_a_wheel_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sb3_distrl").mkdir()
    monkeypatch.setattr("sb3_distrl.__file__", str(tmp_path / "sb3_distrl" / "__init__.py"))
    assert hyperparams_file("iqn") == tmp_path / "hyperparams" / "iqn.yml"  # of a checkout
    (tmp_path / "sb3_distrl" / "hyperparams").mkdir()
    assert hyperparams_file("iqn") == tmp_path / "sb3_distrl" / "hyperparams" / "iqn.yml"


YAML = "CartPole-v1:\n  gamma: 0.5\n"
PYTHON = "from torch import nn\nhyperparams = {'CartPole-v1': dict(gamma=0.5)}\n"


@pytest.mark.parametrize(("file", "text"), [("own.yml", YAML), ("own.yaml", YAML), ("own.py", PYTHON), ("own_module", PYTHON)])
def test_entries_are_read(file: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path(file if "." in file else f"{file}.py").write_text(text)
    assert read_entries(file) == {"CartPole-v1": {"gamma": 0.5}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1e-05", 1e-5), ("2E6", 2e6), ("-1e+3", -1e3), ("1.5e-4", 1.5e-4), ("lin_1e-4", "lin_1e-4"), ("12", 12)],
)
def test_numbers_without_a_point_are_numbers(text: str, value: float | str, tmp_path: Path) -> None:
    """PyYAML alone takes 1e-4 for text, which rl-zoo3 takes for a schedule."""
    file = tmp_path / "own.yml"
    file.write_text(f"CartPole-v1: {{learning_rate: {text}}}\n")
    assert read_entries(str(file)) == {"CartPole-v1": {"learning_rate": value}}
    assert type(read_entries(str(file))["CartPole-v1"]["learning_rate"]) is type(value)
