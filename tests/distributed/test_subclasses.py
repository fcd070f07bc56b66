"""Subclasses of users: actors compute with their losses, and with their fields."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch as th

from sb3_distrl import Rainbow
from sb3_distrl.common.gradient_steps import evaluate, preprocess
from sb3_distrl.distributed import ApeX, ApeXQRDQN, ApeXRainbow
from sb3_distrl.distributed.worker import RolloutWorker
from tests.distributed.models import NETWORKS, make_model, spec_of


class Bonus:
    """Adds to each priority what the action taken is worth, and has fields that cannot be pickled."""

    def __init__(self, *args, scale=2.0, **kwargs):
        self.scale = scale
        self.worth = np.array([10.0, 20.0])
        self.of_init = threading.Lock()
        super().__init__(*args, **kwargs)

    def _setup_model(self):
        super()._setup_model()
        self.of_setup = threading.Lock()
        self.module = th.nn.Linear(1, 1).to(self.device)

    def _check_arguments(self):
        super()._check_arguments()
        if self.scale <= 0:
            raise ValueError(f"scale={self.scale} must be positive: use 2.")

    def loss(self, batch, bootstrap):
        assert self.of_init and self.of_setup
        loss = super().loss(batch, bootstrap)
        worth = th.from_numpy(self.worth)[batch.actions.flatten()]
        bias = self.module.bias.detach().abs()
        return loss._replace(priorities=self.scale * loss.priorities + worth + 1000 * bias)

    def _excluded_save_params(self):
        return [*super()._excluded_save_params(), "of_init", "of_setup"]

    def _get_torch_save_params(self):
        modules, variables = super()._get_torch_save_params()
        return [*modules, "module"], variables


class OfApeXRainbow(Bonus, ApeXRainbow):
    pass


class OwnAlgorithm(Bonus, Rainbow):
    pass


class OfOwnAlgorithm(ApeX, OwnAlgorithm):
    pass


class OfApeXQRDQN(Bonus, ApeXQRDQN):
    pass


for cls in (OfApeXRainbow, OfOwnAlgorithm):
    NETWORKS[cls] = dict(NETWORKS[ApeXRainbow], noisy=False)
NETWORKS[OfApeXQRDQN] = NETWORKS[ApeXQRDQN]


@pytest.mark.parametrize("cls", [OfApeXRainbow, OfOwnAlgorithm, OfApeXQRDQN])
def test_priorities_are_those_of_the_overridden_loss(cls):
    """With the fields that it has: of an argument, of __init__, of _setup_model, and a module with its parameters."""
    model = make_model(cls, scale=3.0, envs_per_actor=2, learning_starts=0, prioritized=True)
    model.worth[1] = 30.0  # changed since
    report = RolloutWorker(spec_of(model), 1).collect(model._weights())
    model.replay_buffer.add_block(np.arange(2), report.block)
    indices = (np.arange(10)[:, None] * 4 + np.arange(2)).reshape(-1)
    batch = preprocess(model.q_net, model.replay_buffer.transitions(indices))
    expected = evaluate(model, batch).priorities.detach().numpy()
    np.testing.assert_allclose(report.block.priorities.reshape(-1), expected, rtol=1e-5)
    bias = 1000 * abs(model.module.bias.item())
    assert expected.min() >= 10 + bias > 10 and expected.max() >= 30 + bias


@pytest.mark.parametrize("cls", [OfApeXRainbow, OfOwnAlgorithm])
def test_a_subclass_learns_is_saved_and_goes_on(cls, tmp_path):
    with pytest.raises(ValueError, match="scale=-1 must be positive"):
        make_model(cls, scale=-1)
    model = make_model(cls, scale=3.0)
    model.learn(200)
    assert model._n_updates == 35 and model.replay_buffer.max_priority > 10
    assert not model.is_actor and "policy.optimizer" in model.get_parameters()
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env="CartPole-v1")
    assert loaded.scale == 3.0
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 260


def test_what_an_actor_does_not_do():
    """Hooks of a subclass are called in actors, too, which say what they are; their networks and epsilon are given."""

    class Hooks(ApeXRainbow):
        steps = 0

        def _on_step(self):
            super()._on_step()
            self.steps += 1

    NETWORKS[Hooks] = NETWORKS[ApeXRainbow]
    model = make_model(Hooks, target_update_interval=2, learning_starts=0)
    worker = RolloutWorker(spec_of(model), 0)
    weights = model._weights()
    worker.collect(weights)
    actor = worker.model
    assert type(actor) is Hooks and actor.is_actor and not model.is_actor
    assert actor.steps == 10 and actor.exploration_rate.tolist() == [0.4]
    assert actor.num_timesteps == 10 and actor.replay_buffer.buffer_size == 10 and actor.env.num_envs == 1
    for name, tensor in actor.q_net_target.state_dict().items():
        assert np.array_equal(tensor.numpy(), weights.target[name])
    assert "policy.optimizer" not in actor.get_parameters()


def test_fields_arrive_as_they_are():
    """Though SB3 saves them as JSON, in which keys are strings, and which has no tuples."""
    model = make_model()
    model.fields = {1: (2, 3)}
    worker = RolloutWorker(spec_of(model), 0)
    worker.collect(None)
    assert worker.model.fields == {1: (2, 3)}


def test_what_cannot_be_pickled_is_named():
    model = make_model()
    model.secret = threading.Lock()
    with pytest.raises(ValueError, match=r"secret=.* of ApeXRainbow cannot be pickled .*_excluded_save_params"):
        model.learn(100)
    assert model._intake is None


def test_what_cannot_be_unpickled_is_an_error():
    """SB3 would leave it out with a warning, and the actor would compute without it."""

    def fail():
        raise RuntimeError("no such device")

    class Field:
        def __reduce__(self):
            return fail, ()

    model = make_model()
    model.field = Field()
    with pytest.raises(UserWarning, match=r"(?s)Could not deserialize object field.*no such device"):
        model.learn(100)


IN_MAIN = """
import torch as th
from sb3_distrl.distributed import ApeXRainbow
from tests.distributed.models import NETWORKS, make_model

class Mine(ApeXRainbow):
    def loss(self, batch, bootstrap):
        loss = super().loss(batch, bootstrap)
        return loss._replace(priorities=th.full_like(loss.priorities, 7.0))

NETWORKS[Mine] = NETWORKS[ApeXRainbow]
model = make_model(Mine, learning_starts=1000)
model.learn(40)
print(model.replay_buffer.max_priority)
"""


@pytest.mark.slow
def test_a_class_of_main():
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", IN_MAIN], capture_output=True, text=True)
    assert run.stdout == "7.000001\n", run.stderr
