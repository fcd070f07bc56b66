"""bfloat16, torch.compile, and layouts of memory: nearly the same numbers, and models that can be saved and copied."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.acceleration import check_compiler
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.gradient_steps import clip_gradients, preprocess
from sb3_distrl.common.loss import Loss
from sb3_distrl.common.model import ValueModel
from sb3_distrl.common.policies import channels_last
from sb3_distrl.qrdqn import MlpPolicy
from sb3_distrl.qrdqn.policies import QRDQNNetwork
from tests.common.batches import B, hand_made_batch, scramble
from tests.common.envs import CountingEnv, vec_env
from tests.common.settings import SETTINGS, make, snapshot

ALGORITHMS = [Rainbow, IQN, QRDQN]
# Without noise and drawn fractions, so that compiled and eager passes see the same; cpw is inverted numerically
COMPILED = [("Double DQN", "bf16", "mean"), ("C51", "float32", "mean"), ("QRDQN with all", "float32", "cpw")]


@pytest.fixture(scope="module")
def compiler() -> None:
    try:
        check_compiler(th.device("cpu"))
    except ValueError as error:
        pytest.skip(f"torch.compile does not work here: {error}")


def needs_compiler(test: Any) -> Any:
    return pytest.mark.slow(pytest.mark.usefixtures("compiler")(test))


def loss_of(model: Any, batch: Any) -> Loss:
    th.manual_seed(3)
    return model.loss(batch, (1 - batch.dones) * batch.discounts)


# bfloat16


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Rainbow", "image"), ("IQN with all", "box"), ("QRDQN", "dict"), ("QRDQN with all", "box"), ("Noisy DQN", "box")],
)
def test_bf16_loss_is_that_of_float32(name: str, kind: str) -> None:
    """Means over batches within 1%: each value has 8 bits."""
    model = make(SETTINGS[name], kind=kind, learning_starts=60, n_steps=3)
    model.learn(60)  # random actions
    model.gradient_step(model.sample(32))
    float32, bf16 = [], []
    for _ in range(10):
        batch = model.sample(32)
        for precision, losses in (("float32", float32), ("bf16", bf16)):
            model.precision = precision
            loss = loss_of(model, batch)
            assert loss.losses.dtype == loss.priorities.dtype == loss.q_values.dtype == th.float32
            losses.append(float(loss.losses.detach().mean()))
    assert float32 != bf16, "the passes are in another precision"
    assert np.mean(bf16) == pytest.approx(np.mean(float32), rel=0.01)


@pytest.mark.parametrize("name", ["Rainbow", "IQN with all", "QRDQN"])
def test_bf16_keeps_parameters_in_float32(name: str, tmp_path: Path) -> None:
    model = make(SETTINGS[name], precision="bf16")
    before = snapshot(model)
    model.learn(80)
    optimizer = model.policy.optimizer.state_dict()["state"]
    tensors = [*snapshot(model).values(), *(each["exp_avg"] for each in optimizer.values())]
    assert {tensor.dtype for tensor in tensors} == {th.float32}
    assert any(not th.equal(value, before[key]) for key, value in snapshot(model).items())
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    assert loaded.precision == "bf16"
    assert type(model).load(tmp_path / "model", precision="float32").precision == "float32"
    obs = model.env.reset()
    assert loaded.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unknown_precision(algorithm: type[ValueAlgorithm]) -> None:
    with pytest.raises(ValueError, match="precision='fp16' is unknown: use one of float32, bf16"):
        make(algorithm, precision="fp16")


def test_precision_that_the_device_lacks() -> None:
    with pytest.raises(ValueError, match="precision='bf16' is not available on device=meta: use precision='float32'"):
        make(Rainbow, precision="bf16", device="meta")


# torch.compile


def gradients(model: Any) -> list[th.Tensor]:
    return [parameter.grad.clone() for parameter in model.q_net.parameters()]


@needs_compiler
@pytest.mark.parametrize(("name", "precision", "risk"), COMPILED)
def test_compiled_loss_is_the_loss(name: str, precision: str, risk: str) -> None:
    """One gradient step on the same batch by two models with the same parameters."""
    arguments = dict(learning_starts=100, precision=precision, risk=risk)
    eager, compiled = (scramble(make(SETTINGS[name], compile=flag, **arguments), seed=15, scale=0.5) for flag in (False, True))
    for model in (eager, compiled):
        model.learn(20)
        model.gradient_step(hand_made_batch())
    tolerance = dict(rtol=1e-4, atol=1e-5) if precision == "float32" else dict(rtol=0.1, atol=0.1)
    for one, other in zip(gradients(eager), gradients(compiled), strict=True):
        th.testing.assert_close(one, other, **tolerance)
    eager_metrics, compiled_metrics = eager._metrics.values(), compiled._metrics.values()
    assert compiled_metrics == pytest.approx(eager_metrics, rel=1e-4 if precision == "float32" else 0.05)


@needs_compiler
@pytest.mark.parametrize(("name", "kind"), [("Rainbow", "image"), ("IQN with all", "box"), ("QRDQN with all", "dict")])
def test_compiled_models_learn(name: str, kind: str, tmp_path: Path) -> None:
    model = make(SETTINGS[name], vec_env(kind), kind=kind, compile=True)
    before = snapshot(model)
    model.learn(60)
    online = [key for key in before if "target" not in key]
    assert online and all(not th.equal(snapshot(model)[key], before[key]) for key in online if "extractor" not in key)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec_env(kind))
    assert loaded.compile
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded._n_updates > model._n_updates
    assert not type(model).load(tmp_path / "model", compile=False).compile


def test_risk_is_read_as_any_attribute() -> None:
    """The compiler of torch 2.11 takes a ``__get__`` that looks into ``vars(model)`` for an endless recursion."""
    assert not hasattr(type(vars(ValueModel)["risk"]), "__get__")


@needs_compiler
def test_compiled_draws_follow_the_seed_and_are_fresh() -> None:
    losses = []
    for seed in (1, 1, 2):
        model = scramble(make(Rainbow, learning_starts=100, compile=True), seed=15, scale=0.5)
        model.learn(20)  # so that the buffer holds the indices of the batch
        th.manual_seed(seed)
        steps = []
        for _ in range(3):
            model._metrics = type(model._metrics)()
            model.gradient_step(hand_made_batch())
            steps.append(model._metrics.values()["loss"])
        losses.append(steps)
    assert losses[0] == losses[1] != losses[2]


@needs_compiler
def test_a_copy_trains_its_own_networks() -> None:
    model = make(Rainbow, CountingEnv(), compile=True, batch_size=B)
    model.learn(40)
    other = copy.deepcopy(model)
    before, copied = snapshot(model), snapshot(other)
    other.train(2, batch_size=B)
    assert all(th.equal(value, before[name]) for name, value in snapshot(model).items())
    assert any(not th.equal(value, copied[name]) for name, value in snapshot(other).items())


@needs_compiler
def test_models_share_what_is_compiled() -> None:
    """Whoever trains many models in one process, as Optuna does, compiles once."""
    code = """
import torch
import torch._dynamo.utils as dynamo
from tests.common.settings import make
from sb3_distrl import QRDQN, Rainbow
torch.compiler.set_stance(force_backend="eager")  # which guards in the same way
for algorithm in (Rainbow, QRDQN):
    counts = []
    for _ in range(10):  # torch compiles 8 times anew
        make(algorithm, kind="image", compile=True).learn(24)
        counts.append(dynamo.counters["stats"]["unique_graphs"])
    assert counts == counts[:1] * 10, counts
assert not dynamo.counters["graph_break"], dynamo.counters["graph_break"]
counts = []
for i in range(12):
    make(QRDQN, compile=True, policy_kwargs=dict(net_arch=[8 + i] * (1 + i % 3), n_quantiles=3 + i)).learn(24)
    counts.append(dynamo.counters["stats"]["unique_graphs"])
assert len(set(counts)) > 9, counts
"""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "W1" not in result.stderr and "ackend compiler" not in result.stderr


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("g++ is missing\nand more")

    monkeypatch.setattr("sb3_distrl.common.acceleration.compiled", fail)
    message = r"^compile=True does not work for device=cpu here \(g\+\+ is missing\): use compile=False, or install"
    with pytest.raises(ValueError, match=message):
        make(Rainbow, compile=True)


@pytest.mark.slow
def test_no_compiler(tmp_path: Path) -> None:
    code = """
from tests.common.settings import make
from sb3_distrl import Rainbow
try:
    make(Rainbow, compile=True)
except ValueError as error:
    print(error)
"""
    # As where there is no compiler, and nothing that was compiled before
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "compile=True does not work for device=cpu" in result.stdout, result.stderr
    assert "use compile=False, or install" in result.stdout


# Gradients and memory


@pytest.mark.parametrize("max_norm", [None, 0.5, 100.0])
def test_gradients_are_clipped_as_torch_does(max_norm: float | None) -> None:
    networks = [scramble(make(QRDQN), seed=4, scale=1.0).q_net for _ in range(2)]
    for network in networks:
        (3 * network(th.ones(2, 3)).sum()).backward()
    expected = th.nn.utils.clip_grad_norm_(networks[1].parameters(), th.inf if max_norm is None else max_norm)
    assert th.equal(clip_gradients(networks[0], max_norm), expected) and expected > 1
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None) and (one.grad is None or th.equal(one.grad, other.grad))


class Viewing(BaseFeaturesExtractor):
    """As many people write it: ``view`` needs convolutions whose results lie channels first."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, 8 * 7 * 7)
        self.convolution = th.nn.Conv2d(1, 8, 5, 5)

    def forward(self, x: th.Tensor) -> th.Tensor:
        x = th.relu(self.convolution(x))
        return x.view(x.size(0), -1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_images_lie_channels_last_for_convolutions_that_we_know(algorithm: type[ValueAlgorithm]) -> None:
    for extractor in (None, Viewing):
        policy_kwargs = {} if extractor is None else dict(features_extractor_class=extractor)
        model = make(algorithm, vec_env("image"), kind="image", learning_starts=40, policy_kwargs=policy_kwargs)
        model.learn(60)
        raw, channels = model.replay_buffer.sample(4).observations, th.randint(0, 255, (4, 3, 36, 36), dtype=th.uint8)
        batch = preprocess(model.q_net, model.replay_buffer.sample(4)._replace(observations=raw, next_observations=channels))
        assert th.equal(batch.observations, raw.float() / 255) and th.equal(channels_last(channels), channels)
        assert (batch.next_observations.stride(1) == 1) == (extractor is None)


class Shifted(QRDQNNetwork):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shift = th.nn.Parameter(th.zeros(3, 1))

    def outputs(self, *args: Any, **kwargs: Any) -> th.Tensor:
        return super().outputs(*args, **kwargs) + self.shift


class ShiftedPolicy(MlpPolicy):
    network_class = Shifted


def test_networks_of_ones_own_are_trained_as_they_are() -> None:
    model = QRDQN(ShiftedPolicy, vec_env("discrete"), learning_starts=20, buffer_size=100, policy_kwargs=dict(n_quantiles=5))
    model.learn(60)
    assert model.q_net.shift.grad is not None and model.q_net.shift.abs().min() > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_gradients_are_not_mapped_anew() -> None:
    """Page faults of a process's gradient steps, with gradients of 8 MB for each of four layers."""
    code = """
import resource, statistics
from tests.common.settings import make
from sb3_distrl import Rainbow
model = make(Rainbow, policy_kwargs=dict(net_arch=[1024, 2048]), learning_starts=20)
model.learn(20)
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model.train(2, batch_size=8)
    faults.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 2)
print(statistics.median(faults))
"""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 500  # thousands, where freed memory goes back to the system
