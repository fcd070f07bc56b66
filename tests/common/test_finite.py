"""What is not finite is neither saved nor handed on, and replaces no file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_distrl import QRDQN, Rainbow
from sb3_distrl.common.callbacks import RollingCheckpointCallback
from tests.common.envs import vec_env
from tests.common.settings import ALGORITHMS, make

BAD = [float("nan"), float("inf"), -float("inf")]
WAYS = ["save", "save_checkpoint"]


def spoil(tensor: th.Tensor, value: float) -> None:
    with th.no_grad():
        tensor.view(-1)[-1] = value


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", ["q_net", "q_net_target"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_weights_that_are_not_finite_are_not_saved(name: str, network: str, way: str, tmp_path: Path) -> None:
    model = make(ALGORITHMS[name])
    model.learn(40)
    getattr(model, way)(tmp_path / "file")
    former = (tmp_path / "file.zip").read_bytes()
    weights = list(getattr(model, network).parameters())[-1]
    key = next(key for key, parameter in model.policy.named_parameters() if parameter is weights)
    sound = weights.detach().clone()
    message = (
        f"^The weights {key} are not finite after {model._n_updates} gradient steps, and the model is not saved, so "
        "existing files are unchanged: lower the learning rate, or clip rewards and observations"
    )
    for value in BAD:
        spoil(weights, value)
        with pytest.raises(ValueError, match=message):
            getattr(model, way)(tmp_path / "file")
        assert [path.name for path in tmp_path.iterdir()] == ["file.zip"]
        assert (tmp_path / "file.zip").read_bytes() == former
    with th.no_grad():
        weights.copy_(sound)
    getattr(model, way)(tmp_path / "file")


def test_large_weights_are_saved(tmp_path: Path) -> None:
    """Their sum is infinite."""
    model = make(Rainbow)
    with th.no_grad():
        next(model.q_net.parameters()).fill_(3e38)
    model.save(tmp_path / "model")


class Masked(FlattenExtractor):
    """With a mask, as of attention."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.register_buffer("mask", th.tensor([0.0, -float("inf")]))


def test_buffers_may_be_infinite_but_must_be_numbers(tmp_path: Path) -> None:
    model = make(Rainbow, policy_kwargs=dict(features_extractor_class=Masked))
    model.save(tmp_path / "model")
    loaded = Rainbow.load(tmp_path / "model", env=vec_env())
    spoil(loaded.q_net.features_extractor.mask, float("nan"))
    with pytest.raises(ValueError, match=r"q_net\.features_extractor\.mask are not finite"):
        loaded.save(tmp_path / "model")


@pytest.mark.parametrize("way", WAYS)
def test_an_optimizer_that_is_broken_is_not_saved(way: str, tmp_path: Path) -> None:
    """Weights stay where they are for good, as an infinite second moment divides each step."""
    model = make(QRDQN)
    model.learn(40)
    name, parameter = next(model.policy.named_parameters())
    spoil(model.policy.optimizer.state[parameter]["exp_avg_sq"], float("inf"))
    message = rf"^The optimizer's exp_avg_sq of {name} is not finite after .* model\.policy\.save\(\) saves the networks alone"
    with pytest.raises(ValueError, match=message):
        getattr(model, way)(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    model.policy.save(tmp_path / "policy")


class Diverge(BaseCallback):
    """Makes weights infinite at a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.num_timesteps == self.at:
            spoil(next(self.model.q_net_target.parameters()), float("inf"))
        return True


@pytest.mark.parametrize("at", [70, 118])
def test_rolling_checkpoints_keep_the_good_ones(at: int, tmp_path: Path) -> None:
    """In the middle and, with the last one, at the end of a training."""
    model = make(Rainbow, learning_starts=1000)
    callback = CallbackList([Diverge(at), RollingCheckpointCallback(30, tmp_path, keep=2)])
    with pytest.raises(ValueError, match="are not finite"):
        model.learn(120, callback=callback)
    names = sorted(path.name for path in tmp_path.iterdir())
    steps = {70: (32, 64), 118: (64, 96)}[at]
    assert names == [f"checkpoint_{number}_steps.zip" for number in steps]
    for name in names:
        Rainbow.load_checkpoint(tmp_path / name, env=vec_env())


@pytest.mark.parametrize("kind", ["box", "dict"])
@pytest.mark.parametrize("part", ["obs_rms", "ret_rms"])
def test_statistics_that_are_not_finite_are_not_saved(part: str, kind: str, tmp_path: Path) -> None:
    keys = dict(norm_obs_keys=["vector"]) if kind == "dict" else {}
    model = make(QRDQN, VecNormalize(vec_env(kind), **keys), kind=kind)
    model.save_checkpoint(tmp_path / "checkpoint")
    former = (tmp_path / "checkpoint.zip").read_bytes()
    statistics = getattr(model.env, part)
    statistics = statistics["vector"] if isinstance(statistics, dict) else statistics
    statistics.var = np.full_like(statistics.var, np.nan)
    with pytest.raises(ValueError, match=rf"^VecNormalize's {part} is not finite, and no checkpoint is saved"):
        model.save_checkpoint(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint.zip").read_bytes() == former


def test_statistics_of_rewards_alone(tmp_path: Path) -> None:
    model = make(QRDQN, VecNormalize(vec_env(), norm_obs=False))
    model.learn(40)
    model.save_checkpoint(tmp_path / "checkpoint")
    env = VecNormalize(vec_env(), norm_obs=False)
    QRDQN.load_checkpoint(tmp_path / "checkpoint", env=env)
    assert env.ret_rms.var == model.env.ret_rms.var
