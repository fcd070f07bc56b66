"""Traps 1, 3 and 12: noise follows ``deterministic``, and epsilon and noise are drawn for each environment."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn import functional as F

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.networks import NoisyLinear
from tests.common.envs import vec_env
from tests.common.settings import make

NOISY: dict[type[ValueAlgorithm], dict[str, Any]] = {Rainbow: {}, IQN: dict(noisy=True, dueling=True)}
NO_EPSILON = dict(exploration_initial_eps=0.0, exploration_final_eps=0.0)
N_ACTIONS = 20


def noisy_model(algorithm: type[ValueAlgorithm], n_envs: int = 1, **kwargs: Any) -> Any:
    policy_kwargs = dict(noisy_std=2.0, **NOISY[algorithm])
    env = vec_env(n_envs=n_envs, n_actions=N_ACTIONS)
    return make(algorithm, env, policy_kwargs=policy_kwargs, **{**NO_EPSILON, **kwargs})


def observations(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("algorithm", NOISY)
def test_noise_follows_deterministic_not_train_mode(algorithm: type[ValueAlgorithm], training: bool) -> None:
    model = noisy_model(algorithm)
    obs = observations(50)
    obs_tensor = th.as_tensor(obs)
    model.policy.set_training_mode(training)
    with th.no_grad():
        noisy = [model.policy._predict(obs_tensor, deterministic=False) for _ in range(5)]
        greedy = [model.policy._predict(obs_tensor, deterministic=True) for _ in range(5)]
    assert all(not th.equal(noisy[0], other) for other in noisy[1:])
    assert all(th.equal(greedy[0], other) for other in greedy[1:])
    # predict() puts the policy in eval mode
    for _ in range(5):
        assert not np.array_equal(model.predict(obs)[0], greedy[0].numpy())
        assert np.array_equal(model.predict(obs, deterministic=True)[0], greedy[0].numpy())
        assert not model.policy.training


@pytest.mark.parametrize("algorithm", NOISY)
def test_deterministic_uses_the_means(algorithm: type[ValueAlgorithm]) -> None:
    model = noisy_model(algorithm)
    before = model.predict(observations(50), deterministic=True)[0]
    with th.no_grad():
        for name, parameter in model.policy.named_parameters():
            if "sigma" in name:
                parameter.mul_(1000.0)
    assert np.array_equal(model.predict(observations(50), deterministic=True)[0], before)


class SeeMode(BaseCallback):
    """Keeps whether the policy was in train mode at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.training: set[bool] = set()

    def _on_step(self) -> bool:
        self.training.add(self.model.policy.training)
        return True


@pytest.mark.parametrize("algorithm", NOISY)
def test_noise_explores_while_collecting(algorithm: type[ValueAlgorithm]) -> None:
    """No update is made, so that the greedy actions stay what they are; those that were taken differ by noise alone."""
    model = noisy_model(algorithm, learning_starts=0, train_freq=1000)
    callback = SeeMode()
    model.learn(100, callback=callback)
    assert callback.training == {False}, "SB3 collects in eval mode"
    taken = model.replay_buffer.actions[:100].ravel()
    greedy, _ = model.predict(model.replay_buffer.observations[:100, 0], deterministic=True)
    assert (taken != greedy).mean() > 0.3


def prefer(model: Any, action: int) -> None:
    """Make ``action`` the greedy one, whatever the observation."""
    with th.no_grad():
        if isinstance(model, QRDQN):
            model.q_net.head.stream.layers[-1].bias.view(-1, N_ACTIONS)[:, action] = 1000.0
        else:
            model.q_net.head.stream.layers[-1].bias[action] = 1000.0


EPSILON_GREEDY: dict[type[ValueAlgorithm], dict[str, Any]] = {
    Rainbow: dict(noisy=False, dueling=False, distributional=False),
    IQN: {},
    QRDQN: {},
}


@pytest.mark.parametrize("algorithm", EPSILON_GREEDY)
def test_epsilon_is_drawn_for_each_environment(algorithm: type[ValueAlgorithm]) -> None:
    env = vec_env(n_actions=N_ACTIONS)
    model = make(algorithm, env, policy_kwargs=EPSILON_GREEDY[algorithm])
    prefer(model, 7)
    obs = observations(1000)
    shares = {}
    for epsilon in (0.0, 0.1, 0.5, 1.0):
        model.exploration_rate = epsilon
        calls = [model.predict(obs)[0] for _ in range(10)]
        # A random action is another one in 19 of 20 cases
        shares[epsilon] = [(actions != 7).mean() * N_ACTIONS / (N_ACTIONS - 1) for actions in calls]
        assert np.array_equal(model.predict(obs, deterministic=True)[0], np.full(1000, 7))
    assert shares[0.0] == [0.0] * 10
    assert shares[0.1] == pytest.approx([0.1] * 10, abs=0.04)  # 4 standard deviations
    assert shares[0.5] == pytest.approx([0.5] * 10, abs=0.07)
    assert shares[1.0] == pytest.approx([1.0] * 10, abs=0.04)
    model.exploration_rate = 0.5
    single = np.array([model.predict(obs[0])[0] for _ in range(300)])
    assert (single != 7).mean() == pytest.approx(0.475, abs=0.12)


@pytest.mark.parametrize("algorithm", EPSILON_GREEDY)
def test_some_environments_of_a_step_explore(algorithm: type[ValueAlgorithm]) -> None:
    model = make(
        algorithm,
        vec_env(n_envs=16, n_actions=N_ACTIONS),
        policy_kwargs=EPSILON_GREEDY[algorithm],
        exploration_initial_eps=0.5,
        exploration_final_eps=0.5,
        learning_starts=0,
        train_freq=1000,
        target_update_interval=1000,
    )
    prefer(model, 7)
    model.exploration_rate = 0.5  # SB3 sets it after the first step
    model.learn(16 * 20)
    explored = (model.replay_buffer.actions[:20, :, 0] != 7).sum(axis=1)
    assert explored.min() > 0 and explored.max() < 16


@pytest.mark.parametrize("algorithm", NOISY)
def test_each_environment_has_its_own_noise(algorithm: type[ValueAlgorithm]) -> None:
    model = noisy_model(algorithm, n_envs=16)
    equal = np.repeat(observations(1), 64, axis=0)
    steps = [model.predict(equal)[0] for _ in range(3)]
    for actions in steps:
        assert len(np.unique(actions)) > 5
    assert not np.array_equal(steps[0], steps[1]) and not np.array_equal(steps[1], steps[2])
    assert len(np.unique(model.predict(equal, deterministic=True)[0])) == 1


@pytest.mark.parametrize("double_q", [False, True])
@pytest.mark.parametrize("algorithm", NOISY)
def test_networks_draw_noise_independently(algorithm: type[ValueAlgorithm], double_q: bool) -> None:
    """With zero weight sigmas and unit bias sigmas, what a layer adds to its mean is the noise of its outputs."""
    model = noisy_model(algorithm, double_q=double_q, learning_starts=100)
    model.learn(50)
    draws: dict[str, list[th.Tensor]] = {"online": [], "target": []}
    handles = []
    for name, network in (("online", model.q_net), ("target", model.q_net_target)):
        for layer in network.modules():
            if isinstance(layer, NoisyLinear):
                layer.weight_sigma.data.zero_()
                layer.bias_sigma.data.fill_(1.0)

        def keep(module: NoisyLinear, inputs: tuple[Any, ...], output: th.Tensor, name: str = name) -> None:
            noise = (output - F.linear(inputs[0], module.weight, module.bias)).detach().reshape(-1, module.out_features)
            assert noise.std(dim=0).max() < 1e-5, "one draw for the whole batch"
            draws[name].append(noise[0])

        handles.append(network.head.stream.layers[0].register_forward_hook(keep))
    model.gradient_step(model.sample(8))
    for handle in handles:
        handle.remove()

    # Rainbow evaluates the target network once, IQN once for choosing and once for evaluating
    target_passes = 1 if algorithm is Rainbow or double_q else 2
    assert (len(draws["online"]), len(draws["target"])) == (1 + double_q, target_passes)
    passes = draws["online"] + draws["target"]
    for i, one in enumerate(passes):
        assert one.abs().min() > 1e-4, "noise is on"
        for other in passes[i + 1 :]:
            assert (one - other).abs().max() > 0.1
