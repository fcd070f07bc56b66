"""Gradient steps that cannot be taken: weights stay finite, and the error says what was seen."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common import gradient_steps
from sb3_distrl.common.algorithm import LOG_EVERY, ValueAlgorithm
from tests.common.envs import CountingEnv
from tests.common.settings import SETTINGS, assert_same_parameters, make, record, snapshot

ALGORITHMS = [Rainbow, IQN, QRDQN]
LARGEST = float(np.finfo(np.float32).max)


class Outlier(CountingEnv):
    """One observation, at the given step, is as large as given."""

    def __init__(self, value: float = LARGEST, at: int = 45) -> None:
        super().__init__()
        self.value, self.left = value, at

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, *rest = super().step(action)
        self.left -= 1
        if self.left == 0:
            obs[:] = self.value
        return obs, *rest


def all_finite(model: Any) -> bool:
    state = [part for parts in model.policy.optimizer.state.values() for part in parts.values()]
    return all(tensor.isfinite().all() for tensor in (*model.policy.state_dict().values(), *state))


@pytest.mark.parametrize(
    ("algorithm", "prioritized", "max_grad_norm"),
    [(Rainbow, True, None), (IQN, False, 10.0), *((QRDQN, *each) for each in product([False, True], [None, 10.0]))],
)
def test_one_observation_of_the_largest_float32(
    algorithm: type[ValueAlgorithm], prioritized: bool, max_grad_norm: float | None
) -> None:
    kwargs = dict(prioritized=prioritized, max_grad_norm=max_grad_norm, train_freq=1, batch_size=16)
    model = make(algorithm, Outlier(), **kwargs)
    with pytest.raises(ValueError, match=r"^(loss|grad_norm)=(nan|inf) is not finite in gradient step \d+\. ") as caught:
        model.learn(2000)
    message = str(caught.value)
    assert "The step was not taken, and the weights are finite" in message
    assert "observations up to 3.4e+38 and rewards up to 0.0" in message and "learning_rate=0.001" in message
    assert all_finite(model) and model.num_timesteps < 2000
    before = snapshot(model)
    model.replay_buffer.reset()
    model.learn(40)  # the environment is sound again
    assert all_finite(model) and any(not th.equal(value, before[name]) for name, value in snapshot(model).items())


EXPONENTS = [(QRDQN, th.nn.ReLU, exponent) for exponent in range(2, 39, 4)]
EXPONENTS += [(algorithm, th.nn.Tanh, exponent) for algorithm in ALGORITHMS for exponent in (18, 38)]


@pytest.mark.parametrize(("algorithm", "activation_fn", "exponent"), EXPONENTS)
def test_weights_and_moments_are_finite_whatever_is_observed(
    algorithm: type[ValueAlgorithm], activation_fn: type[th.nn.Module], exponent: int
) -> None:
    """Also where the loss is finite, and only its gradients, or their squares in Adam, are not."""
    model = make(algorithm, Outlier(10.0**exponent, at=8), max_grad_norm=None, policy_kwargs=dict(activation_fn=activation_fn))
    model.learn(20)
    for _ in range(10):
        try:
            model.train(1, batch_size=16)
        except ValueError as error:
            assert "is not finite in gradient step" in str(error)
        assert all_finite(model)


def broken_loss(model: Any, steps: set[int], **values: float) -> None:
    """
    :param model: any
    :param steps: calls of the loss, from 0, whose results are changed
    :param values: what the first of them is multiplied by, by the name of the result
    """
    algorithm, calls = type(model), iter(range(10**6))

    def changed(self: Any, batch: Any, bootstrap: th.Tensor) -> Any:
        result = algorithm.loss(self, batch, bootstrap)
        if next(calls) in steps:
            for name, value in values.items():
                factors = th.ones(len(batch.rewards))
                factors[0] = value
                result = result._replace(**{name: getattr(result, name) * factors})
        return result

    model.__class__ = type(algorithm.__name__, (algorithm,), dict(loss=changed))


def filled(algorithm: type[ValueAlgorithm] = QRDQN, **kwargs: Any) -> Any:
    model = make(algorithm, **kwargs)
    model.learn(20)
    return model


def train_both(models: list[Any], gradient_steps: int) -> None:
    """On the same batches, to the same parameters."""
    random_state = np.random.get_state(), th.get_rng_state()
    for model in models:
        np.random.set_state(random_state[0])
        th.set_rng_state(random_state[1])
        model.train(gradient_steps, batch_size=8)
    assert_same_parameters(*(snapshot(model) for model in models))


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        (dict(losses=math.nan), "loss=nan"),
        (dict(losses=math.inf), "loss=inf"),
        (dict(losses=1e25), "grad_norm=inf"),
        (dict(priorities=math.nan), "priorities=nan"),
        (dict(priorities=math.inf), "priorities=inf"),
    ],
)
@pytest.mark.parametrize(("algorithm", "max_grad_norm"), [(Rainbow, 10.0), (IQN, None), (QRDQN, None), (QRDQN, 10.0)])
def test_the_step_is_not_taken(
    algorithm: type[ValueAlgorithm], max_grad_norm: float | None, values: dict[str, float], seen: str
) -> None:
    """Neither the weights nor the moments of the optimizer, nor the priorities change; the next step is like any other."""
    models = [filled(algorithm, prioritized=True, max_grad_norm=max_grad_norm) for _ in range(2)]
    broken_loss(models[0], {3}, **values)
    train_both(models, 3)
    with pytest.raises(ValueError, match=rf"^{seen} is not finite in gradient step 4\. The step was not taken"):
        models[0].train(5, batch_size=8)
    assert [model._n_updates for model in models] == [3, 3]
    train_both(models, 4)
    buffers = [model.replay_buffer for model in models]
    assert buffers[0].tree.masses.tobytes() == buffers[1].tree.masses.tobytes()


@pytest.mark.parametrize("name", ["Rainbow", "IQN", "QRDQN", "QRDQN with all"])
def test_steps_that_the_device_skips(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes at the step itself; the error comes with the priorities, or with the metrics."""
    monkeypatch.setattr(gradient_steps, "reading_waits", lambda *_: True)
    model = filled(SETTINGS[name])
    broken_loss(model, {3}, losses=math.nan, priorities=math.nan)
    model.train(3, batch_size=8)
    before = snapshot(model)
    if model.prioritized:
        with pytest.raises(ValueError, match=r"^priorities=nan is not finite in gradient step 4\. The step was not taken"):
            model.train(1, batch_size=8)
        assert_same_parameters(snapshot(model), before)
        return
    model.train(1, batch_size=8)
    assert_same_parameters(snapshot(model), before)
    model.train(LOG_EVERY - 5, batch_size=8)
    assert all_finite(model) and any(not th.equal(value, before[key]) for key, value in snapshot(model).items())
    with pytest.raises(ValueError, match=r"^Losses or gradients were not finite in 1\.0% of the last 100 gradient steps\. "):
        model.train(1, batch_size=8)
    model.train(LOG_EVERY, batch_size=8)  # it is told once
    recorder = record(model)
    model.dump_logs()
    assert "train/loss" in recorder.lines[-1] and "train/skipped" not in recorder.lines[-1]


@pytest.mark.parametrize("name", ["Rainbow", "IQN", "QRDQN"])
def test_either_way_learns_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for waits in (False, True):
        monkeypatch.setattr(gradient_steps, "reading_waits", lambda *_, waits=waits: waits)
        model = make(SETTINGS[name])
        model.learn(40)
        seen.append(snapshot(model))
    assert_same_parameters(*seen)


@pytest.mark.parametrize("optimizer_class", [th.optim.RMSprop, th.optim.SGD])
def test_with_other_optimizers(optimizer_class: type[th.optim.Optimizer]) -> None:
    model = filled(policy_kwargs=dict(optimizer_class=optimizer_class))
    broken_loss(model, {2}, losses=math.inf)
    with pytest.raises(ValueError, match=r"^loss=inf is not finite in gradient step 3"):
        model.train(5, batch_size=8)
    assert all_finite(model)


@pytest.mark.parametrize("prioritized", [False, True])
def test_weights_that_are_not_finite_already(prioritized: bool) -> None:
    model = filled(prioritized=prioritized)
    next(iter(model.q_net.parameters())).data.fill_(math.nan)
    message = r"^loss=nan is not finite in gradient step 1, as the weights are not finite: load the model from a file"
    with pytest.raises(ValueError, match=message):
        model.train(1, batch_size=8)


def test_reduced_precision() -> None:
    model = make(QRDQN, Outlier(at=8), precision="bf16", max_grad_norm=None)
    model.learn(20)
    with pytest.raises(ValueError, match="is not finite in gradient step"):
        model.train(100, batch_size=16)
    assert all_finite(model)


def test_an_optimizer_that_is_not_fused_any_more_decides_on_the_host() -> None:
    """Its state of a file, such as one of sb3-contrib's, replaces the groups that say how it computes."""
    weights = [th.nn.Parameter(th.ones(2))]
    fused, plain = th.optim.Adam(weights, fused=True), th.optim.Adam(weights, fused=False)
    cuda = th.device("cuda")
    assert gradient_steps.reading_waits(fused, cuda) and not gradient_steps.reading_waits(plain, cuda)
    fused.load_state_dict(plain.state_dict())
    assert fused.defaults["fused"] and not gradient_steps.reading_waits(fused, cuda)


def test_skipped_steps_are_told_of_at_the_end_of_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device decides, and training ends before the next log."""
    monkeypatch.setattr(gradient_steps, "reading_waits", lambda *_: True)
    model = make(QRDQN, CountingEnv(), prioritized=False, learning_starts=10)
    monkeypatch.setattr(gradient_steps, "step_where_finite", lambda *_: th.ones(()))
    with pytest.raises(ValueError, match=r"^Losses or gradients were not finite in 100\.0% of the last \d+ gradient steps"):
        model.learn(20, log_interval=1000)
