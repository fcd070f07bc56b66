"""Exported models, through torch.export, torch.jit.trace and both exporters to ONNX, against predict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces

from sb3_distrl import IQN
from tests.common.batches import scramble
from tests.common.envs import KINDS
from tests.common.settings import SETTINGS, make

RISKS = ["cvar:0.25", "wang:-0.75", "power:-2", "cpw", "norm"]
NETWORKS = {  # of other settings, they are the same
    "Rainbow": ["Rainbow", "DQN", "Dueling DQN", "Noisy DQN", "C51"],
    "IQN": ["IQN", "IQN with all"],
    "QRDQN": ["QRDQN"],
}
BATCHES = (1, 5, 64)
BATCH = {0: "batch"}

Observations = Any  # arrays, or a dict of them
Run = Callable[[Observations], list[np.ndarray]]


def observations_of(model: Any, n: int, seed: int = 0) -> Observations:
    """:return: n observations of the model's space, as its environments give them"""
    space = model.observation_space
    space.seed(seed)
    drawn = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: differing(np.stack([each[key] for each in drawn])) for key in space}
    return differing(np.stack(drawn))


def differing(obs: np.ndarray) -> np.ndarray:
    """:return: images from bright to black, as networks see no difference between images of noise; others as they are"""
    return np.stack([image // (i + 1) for i, image in enumerate(obs)]) if obs.dtype == np.uint8 else obs


def tensors(obs: Observations) -> Any:
    return {key: th.as_tensor(value) for key, value in obs.items()} if isinstance(obs, dict) else th.as_tensor(obs)


def dynamic(obs: Observations, batch: Any) -> Any:
    """:return: the sizes that may vary, for the one argument of a policy"""
    return ({key: batch for key in obs} if isinstance(obs, dict) else batch,)


def run_module(module: Any) -> Run:
    return lambda obs: [output.numpy() for output in module(tensors(obs))]


def run_onnx(file: Path) -> Run:
    session = onnxruntime.InferenceSession(file)
    return lambda obs: session.run(None, obs if isinstance(obs, dict) else {"observation": obs})


def by_torch_export(policy: th.nn.Module, obs: Observations, folder: Path) -> Run:
    shapes = dynamic(obs, {0: th.export.Dim("batch")})
    return run_module(th.export.export(policy, (tensors(obs),), dynamic_shapes=shapes).module())


def by_trace(policy: th.nn.Module, obs: Observations, folder: Path) -> Run:
    return run_module(th.jit.trace(policy, (tensors(obs),)))


def onnx_arguments(obs: Observations) -> dict[str, Any]:
    """A dict at the end of the arguments would be taken for keywords."""
    args = (tensors(obs), {}) if isinstance(obs, dict) else (tensors(obs),)
    return dict(args=args, input_names=list(obs) if isinstance(obs, dict) else ["observation"])


def by_onnx(policy: th.nn.Module, obs: Observations, folder: Path) -> Run:
    file = folder / "policy.onnx"
    shapes = dynamic(obs, BATCH)
    th.onnx.export(policy, f=file, dynamo=True, dynamic_shapes=shapes, verbose=False, **onnx_arguments(obs))
    return run_onnx(file)


def by_older_onnx(policy: th.nn.Module, obs: Observations, folder: Path) -> Run:
    file = folder / "policy.onnx"
    arguments = onnx_arguments(obs)
    with th.no_grad():
        outputs = [f"output {i}" for i in range(len(policy(tensors(obs))))]
    axes = {name: BATCH for name in [*arguments["input_names"], *outputs]}
    th.onnx.export(policy, f=file, dynamo=False, output_names=outputs, dynamic_axes=axes, **arguments)
    return run_onnx(file)


SLOW_EXPORTERS = [pytest.param(exporter, marks=pytest.mark.slow) for exporter in (by_torch_export, by_onnx)]


def assert_like_predict(model: Any, run: Callable[[Observations], tuple[np.ndarray, np.ndarray]]) -> None:
    """
    Compare actions and values; where two actions are equally good, as far as float32 goes, either will do.

    :param model: not yet exported
    :param run: the exported model, of observations
    """
    clear = []
    for n in BATCHES:
        obs = observations_of(model, n, seed=n)
        actions, values = run(obs)
        expected, (chosen, _) = model.q_values(obs), model.predict(obs, deterministic=True)
        assert actions.shape == (n,) and values.shape == expected.shape
        tolerance = 1e-4 * np.abs(expected).max()
        assert np.allclose(values, expected, rtol=0, atol=tolerance)
        second, best = np.sort(expected, axis=1)[:, -2:].T
        clear.append(best - second > 2 * tolerance)
        assert np.array_equal(actions[clear[-1]], chosen[clear[-1]])
    assert np.concatenate(clear).mean() > 0.5 and expected.std(axis=0).max() > 50 * tolerance, "else this would say little"


def spread_out(name: str, kind: str = "box", **kwargs: Any) -> Any:
    """:return: a model whose distributions are wide, and different for all actions"""
    return scramble(make(SETTINGS[name], kind=kind, **kwargs), seed=5, scale=0.5 if kind == "box" else 0.1)


@pytest.mark.parametrize("exporter", [by_trace, by_older_onnx, *SLOW_EXPORTERS])
@pytest.mark.parametrize(("name", "kind"), [("Rainbow", "image"), ("IQN", "dict"), ("QRDQN", "box")])
def test_every_exporter(name: str, kind: str, exporter: Callable[..., Run], tmp_path: Path) -> None:
    model = spread_out(name, kind, risk="cvar:0.25")
    assert_like_predict(model, exporter(model.greedy_policy(), observations_of(model, 2), tmp_path))


@pytest.mark.parametrize(
    ("name", "kind"), [("Rainbow", "multidiscrete"), ("IQN", "multibinary"), *(("QRDQN", kind) for kind in KINDS)]
)
def test_every_kind_of_observation(name: str, kind: str, tmp_path: Path) -> None:
    model = spread_out(name, kind)
    assert_like_predict(model, by_older_onnx(model.greedy_policy(), observations_of(model, 2), tmp_path))


class Several(th.nn.Module):
    """
    Several policies, exported together, as each export takes seconds.

    :param policies: of the same observations
    """

    def __init__(self, policies: list[th.nn.Module]) -> None:
        super().__init__()
        self.policies = th.nn.ModuleList(policies)

    def forward(self, observations: th.Tensor) -> list[th.Tensor]:
        return [output for policy in self.policies for output in policy(observations)]


@pytest.mark.parametrize("exporter", [by_older_onnx, SLOW_EXPORTERS[1]])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_and_risk_measure(name: str, exporter: Callable[..., Run], tmp_path: Path) -> None:
    models = [spread_out(name, risk=risk) for risk in RISKS]
    models += [spread_out(each) for each in NETWORKS[name]]
    run = exporter(Several([model.greedy_policy() for model in models]), observations_of(models[0], 2), tmp_path)
    for i, model in enumerate(models):
        assert_like_predict(model, lambda obs, i=i: run(obs)[2 * i : 2 * i + 2])
    obs = observations_of(models[0], 64)
    assert len({model.predict(obs, deterministic=True)[0].tobytes() for model in models[: len(RISKS)]}) > 1, "risk counts"


def test_the_policy_is_the_model_of_then() -> None:
    model = spread_out("IQN", risk="cvar:0.25")
    obs = observations_of(model, 64)
    policy, expected = model.greedy_policy(), model.q_values(obs)
    model.learn(60)
    model.risk = "mean"
    assert np.array_equal(run_module(policy)(obs)[1], expected)
    assert not np.allclose(model.q_values(obs, risk="cvar:0.25"), expected)
    assert model.q_net.head.stream.layers[-1].weight.requires_grad, "the model's own parameters stay trainable"


@pytest.mark.slow
def test_values_are_those_of_predict_to_the_bit(tmp_path: Path) -> None:
    """Where nothing has to be put together from ONNX's operators."""
    for risk in ("cvar:0.25", "cpw"):
        model = spread_out("Rainbow", risk=risk)
        obs = observations_of(model, 64)
        actions, values = by_torch_export(model.greedy_policy(), observations_of(model, 2), tmp_path)(obs)
        assert np.array_equal(values, model.q_values(obs)), risk
        assert np.array_equal(actions, model.predict(obs, deterministic=True)[0])


class WithDropout(th.nn.Module):
    """An activation that differs in training."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        return th.nn.functional.dropout(x.relu(), 0.5, self.training)


def test_the_policy_is_in_evaluation_mode() -> None:
    model = make(IQN, policy_kwargs=dict(activation_fn=WithDropout))
    model.policy.set_training_mode(True)
    policy, obs = model.greedy_policy(), observations_of(model, 5)
    assert model.q_net.training
    assert np.array_equal(run_module(policy)(obs)[1], model.q_values(obs))
