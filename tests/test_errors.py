"""User mistakes raise a ValueError that names the argument, its value and the remedy."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.common.envs import BrokenEnv, CountingEnv, vec_env
from tests.common.settings import make

ALGORITHMS = [Rainbow, IQN, QRDQN]
NAN = math.nan


class OtherActions(CountingEnv):
    def __init__(self, action_space: spaces.Space) -> None:
        super().__init__()
        self.action_space = action_space


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize(
    "action_space",
    [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)],
    ids=lambda space: str(space),
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_action_space(algorithm: type[ValueAlgorithm], action_space: spaces.Space, vectorized: bool) -> None:
    env: Any = OtherActions(action_space)
    if vectorized:
        env = DummyVecEnv([lambda: OtherActions(action_space)])
    with pytest.raises(ValueError, match=r"^env has action_space=.*Discrete.*: discretise"):
        make(algorithm, env)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_vector_environments_of_gymnasium(algorithm: type[ValueAlgorithm], tmp_path: Path) -> None:
    vector = gym.make_vec("CartPole-v1", num_envs=3)
    message = r"^env=.* is a vector environment of Gymnasium.* use its VecEnv, e\.g\. make_vec_env\(.*n_envs=3\)"
    with pytest.raises(ValueError, match=message):
        make(algorithm, vector)
    model = make(algorithm, "CartPole-v1")
    with pytest.raises(ValueError, match=message):
        model.set_env(vector)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        algorithm.load(tmp_path / "model", env=vector)


def test_action_space_of_a_registered_environment() -> None:
    with pytest.raises(ValueError, match=r"action_space=Box.*discretise"):
        Rainbow("MlpPolicy", "Pendulum-v1")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_steps", 0, "n_steps=0 must be at least 1: use 1"),
        ("n_steps", -2, "n_steps=-2 must be at least 1: use 1"),
        ("n_steps", 2.5, "n_steps=2.5 must be a whole number: use 1"),
        ("n_steps", "3", "n_steps='3' must be a number: use 1"),
        ("n_steps", True, "n_steps=True must be a number: use 1"),
        ("alpha", -0.1, "alpha=-0.1 must be in [0, 1]: use 0.5, or prioritized=False"),
        ("alpha", 100, "alpha=100 must be in [0, 1]: use 0.5, or prioritized=False"),
        ("alpha", math.inf, "alpha=inf must be in [0, 1]: use 0.5, or prioritized=False"),
        ("alpha", NAN, "alpha=nan must be"),
        ("alpha", "0.5", "alpha='0.5' must be a number: use 0.5, or prioritized=False"),
        ("batch_size", 0, "batch_size=0 must be at least 1: use"),
        ("batch_size", 8.5, "batch_size=8.5 must be a whole number: use"),
        ("batch_size", np.array([8]), "batch_size=array([8]) must be a number: use"),
        ("buffer_size", math.inf, "buffer_size=inf must be a whole number: use"),
        ("buffer_size", "1e6", "buffer_size='1e6' must be a number: use"),
        ("buffer_size", None, "buffer_size=None must be a number: use"),
        ("learning_starts", 0.5, "learning_starts=0.5 must be a whole number: use"),
        ("learning_rate", "1e-4", "learning_rate='1e-4' must be a number: use"),
        ("learning_rate", -0.1, "learning_rate=-0.1 must be at least 0: use"),
        ("gradient_steps", 0.5, "gradient_steps=0.5 must be a whole number: use e.g. 1, or replay_ratio"),
        ("gradient_steps", np.bool_(True), f"gradient_steps={np.bool_(True)!r} must be a number: use"),
        ("train_freq", 0.5, "train_freq=0.5 must be a whole number: use"),
        ("train_freq", 0, "train_freq=0 must be at least 1: use"),
        ("train_freq", (1.5, "episode"), "train_freq=1.5 must be a whole number: use"),
        ("train_freq", "4", "train_freq='4' must be a number: use"),
        ("target_update_interval", -1, "target_update_interval=-1 must be at least 0: use"),
        ("target_update_interval", NAN, "target_update_interval=nan must be a whole number: use"),
        ("max_grad_norm", "10", "max_grad_norm='10' must be a number: use"),
        ("max_grad_norm", NAN, "max_grad_norm=nan must be at least 0: use"),
        ("seed", 0.5, "seed=0.5 must be a whole number: use"),
        ("gamma", -0.1, "gamma=-0.1 must be in [0, 1]: use"),
        ("gamma", 1.1, "gamma=1.1 must be in [0, 1]: use"),
        ("gamma", NAN, "gamma=nan must be in [0, 1]: use"),
        ("tau", -0.1, "tau=-0.1 must be in [0, 1]: use"),
        ("tau", 1.5, "tau=1.5 must be in [0, 1]: use"),
        ("gamma", True, "gamma=True must be a number: use"),
        ("beta_initial", -0.1, "beta_initial=-0.1 must be in [0, 1]: the paper uses 0.4"),
        ("beta_initial", 1.1, "beta_initial=1.1 must be in [0, 1]: the paper uses 0.4"),
        ("beta_final", -0.1, "beta_final=-0.1 must be in [0, 1]: the paper uses 1"),
        ("beta_final", 1.1, "beta_final=1.1 must be in [0, 1]: the paper uses 1"),
        ("beta_fraction", 0.0, "beta_fraction=0.0 must be in (0, 1]: use 1"),
        ("beta_fraction", 1.5, "beta_fraction=1.5 must be in (0, 1]: use 1"),
        ("exploration_fraction", -0.1, "exploration_fraction=-0.1 must be in [0, 1]: use"),
        ("exploration_fraction", 2.0, "exploration_fraction=2.0 must be in [0, 1]: use"),
        ("exploration_initial_eps", -0.1, "exploration_initial_eps=-0.1 must be in [0, 1]: it is a probability"),
        ("exploration_initial_eps", 1.1, "exploration_initial_eps=1.1 must be in [0, 1]: it is a probability"),
        ("exploration_final_eps", -0.1, "exploration_final_eps=-0.1 must be in [0, 1]: it is a probability"),
        ("exploration_final_eps", NAN, "exploration_final_eps=nan must be in [0, 1]: it is a probability"),
        ("replay_ratio", 0.0, "replay_ratio=0.0 must be positive: use gradient steps per transition"),
        ("replay_ratio", -1.0, "replay_ratio=-1.0 must be positive: use gradient steps per transition"),
        ("replay_ratio", NAN, "replay_ratio=nan must be positive: use gradient steps per transition"),
        ("replay_ratio", "1", "replay_ratio='1' must be a number: use gradient steps per transition"),
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_arguments(algorithm: type[ValueAlgorithm], name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(algorithm, **{name: value})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("name", "value"), [("gamma", 0.0), ("gamma", 1.0), ("alpha", 0.0), ("alpha", 1.0), ("n_steps", 20)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_arguments_at_their_ends(algorithm: type[ValueAlgorithm], name: str, value: float) -> None:
    model = make(algorithm, prioritized=True, **{name: value})
    model.learn(40)
    assert model._n_updates > 0


@pytest.mark.parametrize(
    ("algorithm", "policy_kwargs", "message"),
    [
        (Rainbow, dict(v_min=1.0, v_max=1.0), "v_min=1.0 must be less than v_max=1.0: set both"),
        (Rainbow, dict(v_min=2.0, v_max=1.0), "v_min=2.0 must be less than v_max=1.0: set both"),
        (Rainbow, dict(v_min=NAN), "v_min=nan must be less than v_max=10.0: set both"),
        (Rainbow, dict(v_max=math.inf), "v_max=inf"),
        (Rainbow, dict(v_min=-math.inf), "v_min=-inf"),
        (Rainbow, dict(v_min="0"), "v_min='0' must be a number: set v_min and v_max to the range of your returns"),
        (
            Rainbow,
            dict(v_min=1e8, v_max=1e8 + 1),
            "v_min=100000000.0 and v_max=100000001.0 are too close for n_atoms=11",
        ),
        (
            Rainbow,
            dict(v_min=1e6, v_max=1e6 + 3),
            "v_min=1000000.0 and v_max=1000003.0 are too close for n_atoms=11",
        ),
        (Rainbow, dict(v_min=-3e38, v_max=3e38), "v_min=-3e+38 and v_max=3e+38 are too large for float32: set"),
        (Rainbow, dict(v_min=0.0, v_max=1e39), "v_min=0.0 and v_max=1e+39 are too large for float32: set"),
        (Rainbow, dict(v_min=1e39, v_max=1.001e39), "v_min=1e+39 and v_max=1.001e+39 are too large for float32: set"),
        (Rainbow, dict(n_atoms=10.5), "n_atoms=10.5 must be a whole number: the paper uses 51"),
        (Rainbow, dict(n_atoms="51"), "n_atoms='51' must be a number: the paper uses 51"),
        (Rainbow, dict(noisy_std="0.5"), "noisy_std='0.5' must be a number: use e.g. 0.5, or noisy=False"),
        (IQN, dict(n_quantiles=6.5), "n_quantiles=6.5 must be a whole number: the paper uses 64"),
        (IQN, dict(n_target_quantiles=True), "n_target_quantiles=True must be a number: the paper uses 64"),
        (IQN, dict(n_eval_quantiles=1.5), "n_eval_quantiles=1.5 must be a whole number: use e.g. 32"),
        (IQN, dict(n_cos="6"), "n_cos='6' must be a number: use"),
        (QRDQN, dict(n_quantiles=6.5), "n_quantiles=6.5 must be a whole number: the paper uses 200"),
        (QRDQN, dict(n_quantiles="200"), "n_quantiles='200' must be a number: the paper uses 200"),
        *[
            (algorithm, dict(net_arch=net_arch), f"net_arch={message}: use a list of numbers of units, such as [64, 64]")
            for algorithm in ALGORITHMS
            for net_arch, message in (
                ([16.5], "16.5 must be a whole number"),
                ([16, 0], "0 must be at least 1"),
                ("[64]", "'[64]' is not a list"),
                (64, "64 is not a list"),
                (dict(qf=[64]), "{'qf': [64]} is not a list"),
            )
        ],
        (Rainbow, dict(n_atoms=1), "n_atoms=1 is not enough for a distribution: use"),
        (Rainbow, dict(n_atoms=0), "n_atoms=0 is not enough for a distribution: use"),
        (Rainbow, dict(noisy_std=0.0), "noisy_std=0.0 must be positive: use e.g. 0.5, or noisy=False"),
        (Rainbow, dict(noisy_std=-1.0), "noisy_std=-1.0 must be positive: use e.g. 0.5, or noisy=False"),
        (IQN, dict(noisy=True, noisy_std=-1.0), "noisy_std=-1.0 must be positive: use e.g. 0.5, or noisy=False"),
        (IQN, dict(n_quantiles=0), "n_quantiles=0 must be at least 1: the paper uses 64"),
        (IQN, dict(n_target_quantiles=0), "n_target_quantiles=0 must be at least 1: the paper uses 64"),
        (IQN, dict(n_eval_quantiles=0), "n_eval_quantiles=0 must be at least 1: use"),
        (IQN, dict(n_cos=0), "n_cos=0 must be at least 1: use"),
        (QRDQN, dict(n_quantiles=0), "n_quantiles=0 must be at least 1: the paper uses 200"),
    ],
)
def test_arguments_of_policies(algorithm: type[ValueAlgorithm], policy_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(algorithm, policy_kwargs=policy_kwargs)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("kappa", [-1.0, NAN])
def test_kappa(kappa: float) -> None:
    with pytest.raises(ValueError, match=r"^kappa=.* must be at least 0: use 1, or 0 for quantile regression"):
        make(IQN, kappa=kappa)


@pytest.mark.parametrize("gradient_steps", [2, -1, 0])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_replay_ratio_with_gradient_steps(algorithm: type[ValueAlgorithm], gradient_steps: int) -> None:
    message = rf"gradient_steps={gradient_steps} and replay_ratio=0.25 contradict each other: set only one"
    with pytest.raises(ValueError, match=message):
        make(algorithm, replay_ratio=0.25, gradient_steps=gradient_steps)


@pytest.mark.parametrize("buffer_class", [ReplayBuffer, NStepReplayBuffer, DictReplayBuffer])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_buffer_without_priorities(algorithm: type[ValueAlgorithm], buffer_class: type[ReplayBuffer]) -> None:
    message = (
        rf"replay_buffer_class={buffer_class.__name__} has no priorities: use prioritized=False, or replay_buffer_class=None"
    )
    with pytest.raises(ValueError, match=message):
        kind = "dict" if buffer_class is DictReplayBuffer else "box"
        make(algorithm, kind=kind, prioritized=True, n_steps=1, replay_buffer_class=buffer_class)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_buffer_without_n_steps(algorithm: type[ValueAlgorithm]) -> None:
    for buffer_class in (ReplayBuffer, HerReplayBuffer):  # which take no n_steps
        name = buffer_class.__name__
        message = (
            rf"n_steps=3 is not known to replay_buffer_class={name}: use replay_buffer_class=None for ours, or n_steps=1\.$"
        )
        with pytest.raises(ValueError, match=message):
            make(algorithm, prioritized=False, n_steps=3, replay_buffer_class=buffer_class)
    with pytest.raises(ValueError, match="n_steps=3 is not known to replay_buffer_class=NStepReplayBuffer"):
        make(
            algorithm,
            prioritized=False,
            n_steps=3,
            replay_buffer_class=NStepReplayBuffer,
            replay_buffer_kwargs=dict(n_steps=5),
        )
    with pytest.raises(ValueError, match=r"n_steps=1 .*NStepReplayBuffer"):  # whose own default is 3
        make(algorithm, prioritized=False, n_steps=1, replay_buffer_class=NStepReplayBuffer)
    kwargs = dict(n_steps=3, gamma=0.99)
    model = make(algorithm, prioritized=False, n_steps=3, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=kwargs)
    model.learn(40)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_buffer_settings_that_contradict_the_algorithm(algorithm: type[ValueAlgorithm]) -> None:
    for kwargs, message in (
        (dict(n_steps=5), r"^n_steps=3 .*leave n_steps out of replay_buffer_kwargs"),
        (dict(gamma=0.5), r"^gamma=0\.99 .*leave gamma out of replay_buffer_kwargs"),
        (dict(beta=0.5), r"^replay_buffer_kwargs has beta=0\.5, .*set beta_initial and beta_final"),
    ):
        with pytest.raises(ValueError, match=message):
            make(algorithm, n_steps=3, prioritized=True, replay_buffer_kwargs=kwargs)
    with pytest.raises(ValueError, match=r"^gamma=0\.9 is not known to replay_buffer_class=NStepReplayBuffer"):
        kwargs = dict(n_steps=3)  # gamma is 0.99 there
        make(
            algorithm,
            gamma=0.9,
            n_steps=3,
            prioritized=False,
            replay_buffer_class=NStepReplayBuffer,
            replay_buffer_kwargs=kwargs,
        )
    agreeing = dict(n_steps=3, gamma=0.9, priority_eps=1e-3)
    model = make(algorithm, n_steps=3, gamma=0.9, prioritized=True, replay_buffer_kwargs=agreeing)
    assert model.replay_buffer.priority_eps == 1e-3
    model.learn(40)


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["box", "dict"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("reward", r"^reward={} is not finite in float32: fix the environment"),
        ("obs", r"^next_obs{}={{}} is not finite in float32: fix the environment"),
        ("reset", r"^obs{}={{}} is not finite in float32: fix the environment"),
    ],
)
def test_what_is_not_finite(what: str, message: str, kind: str, value: float) -> None:
    env = BrokenEnv(what, value, kind, after=20)
    model = make(QRDQN, env, kind=kind)
    key = r"\['vector'\]" if kind == "dict" else ""
    with pytest.raises(ValueError, match=message.format(key).format(value) if what != "reward" else message.format(value)):
        model.learn(100)
    assert model.num_timesteps == (1 if what == "reset" else 21)


@pytest.mark.parametrize("what", ["reward", "obs", "reset"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_not_finite_with_each_algorithm(algorithm: type[ValueAlgorithm], what: str) -> None:
    """In one of several environments, and from the first step on by the policy."""
    broken = DummyVecEnv([CountingEnv, lambda: BrokenEnv(what, NAN)])
    model = make(algorithm, broken, learning_starts=0)
    with pytest.raises(ValueError, match="nan is not finite in float32: fix the environment"):
        model.learn(200)


@pytest.mark.parametrize("what", ["reward", "obs"])
def test_what_is_not_finite_behind_vec_normalize(what: str) -> None:
    model = make(QRDQN, VecNormalize(DummyVecEnv([lambda: BrokenEnv(what, NAN)])))
    with pytest.raises(ValueError, match="nan is not finite in float32: fix the environment"):
        model.learn(100)


class NanAtTheEnd(CountingEnv):
    """Its final observations are not finite."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        if terminated or truncated:
            obs[2] = NAN
        return obs, reward, terminated, truncated, info


def test_final_observation_that_is_not_finite() -> None:
    model = make(QRDQN, NanAtTheEnd())
    with pytest.raises(ValueError, match=r"^next_obs=nan is not finite"):
        model.learn(100)
    assert model.num_timesteps == 5


def test_diverged_priorities() -> None:
    model = make(QRDQN, prioritized=True)
    model.learn(40)
    next(iter(model.q_net.parameters())).data.fill_(NAN)
    with pytest.raises(ValueError, match=r"^loss=nan is not finite in gradient step 6, as the weights are not finite: load"):
        model.learn(40, reset_num_timesteps=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_buffer_of_other_environments(algorithm: type[ValueAlgorithm], tmp_path: Path) -> None:
    model = make(algorithm, vec_env(n_envs=2))
    model.learn(40)
    model.save_replay_buffer(tmp_path / "buffer")
    other = make(algorithm, vec_env(n_envs=3))
    other.load_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match=r"replay buffer has n_envs=2, the environment 3: load the model with"):
        other.learn(40)


def test_loaded_buffer_without_priorities(tmp_path: Path) -> None:
    uniform = make(Rainbow, prioritized=False, n_steps=1, replay_buffer_class=ReplayBuffer)
    uniform.learn(40)
    uniform.save_replay_buffer(tmp_path / "buffer")
    model = make(Rainbow)
    model.load_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match="ReplayBuffer has no priorities"):
        model.learn(40)


def test_mlp_policy_with_dict_observations() -> None:
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        Rainbow("MlpPolicy", CountingEnv("dict"))


def test_unknown_policy_argument() -> None:
    with pytest.raises(TypeError, match="n_atomz"):
        make(Rainbow, policy_kwargs=dict(n_atomz=51))


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="Policy MlpPolcy unknown"):
        Rainbow("MlpPolcy", "CartPole-v1")
