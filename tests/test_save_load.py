"""Saving and loading: nothing is lost, nothing drifts, and what sb3-contrib's QRDQN saved is welcome."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from tests.common.envs import KINDS, vec_env
from tests.common.settings import ALGORITHMS, SETTINGS, SMALL, Setting, assert_same_parameters, make, snapshot


def some_observations(env: VecEnv, n: int = 10) -> list[Any]:
    env.action_space.seed(0)
    seen = [env.reset()]
    for _ in range(n):
        seen.append(env.step(np.array([env.action_space.sample() for _ in range(env.num_envs)]))[0])
    return seen


def assert_same_predictions(one: Any, other: Any, env: VecEnv) -> None:
    """Of models, or of policies."""
    for obs in some_observations(env):
        assert np.array_equal(one.predict(obs, deterministic=True)[0], other.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize("name", ["Rainbow", "DQN", "IQN", "IQN with all", "QRDQN", "QRDQN with all"])
def test_save_and_load(name: str, tmp_path: Path) -> None:
    model = make(SETTINGS[name], vec_env(n_envs=2))
    model.learn(80)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec_env(n_envs=2), device="cpu")
    assert_same_parameters(snapshot(model), snapshot(loaded))
    assert_same_predictions(model, loaded, vec_env(n_envs=2))
    for name in ("double_q", "prioritized", "n_steps", "alpha", "gamma", "policy_kwargs"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert type(loaded.replay_buffer) is type(model.replay_buffer)
    for name in ("n_steps", "gamma", "alpha", "buffer_size", "n_envs"):
        assert getattr(loaded.replay_buffer, name) == getattr(model.replay_buffer, name), name
    moments, loaded_moments = (each.policy.optimizer.state_dict()["state"] for each in (model, loaded))
    assert moments.keys() == loaded_moments.keys() != set()
    assert all(th.equal(moments[key]["exp_avg"], loaded_moments[key]["exp_avg"]) for key in moments)
    before = snapshot(loaded)
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 144 and loaded._n_updates > model._n_updates
    assert any(not th.equal(value, before[key]) for key, value in snapshot(loaded).items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_load_to_predict(name: str, kind: str, tmp_path: Path) -> None:
    """The policy, too, saved alone."""
    model = make(ALGORITHMS[name], kind=kind)
    model.learn(28)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    assert loaded.env is None
    assert_same_parameters(snapshot(model), snapshot(loaded))
    assert_same_predictions(model, loaded, model.env)
    obs = model.env.reset()
    assert loaded.predict(obs)[0].shape == (1,)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy", device="cpu")
    assert_same_parameters(model.policy.state_dict(), policy.state_dict())
    assert_same_predictions(model.policy, policy, model.env)


@pytest.mark.parametrize("name", ["IQN with all", "DQN", "C51"])
def test_policy_alone_keeps_its_settings(name: str, tmp_path: Path) -> None:
    model = make(SETTINGS[name], policy_kwargs=dict(net_arch=[5, 6], activation_fn=th.nn.Tanh))
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy", device="cpu")
    assert policy.net_kwargs == model.policy.net_kwargs
    assert str(policy.q_net) == str(model.policy.q_net)
    assert_same_parameters(model.policy.state_dict(), policy.state_dict())
    if name == "IQN with all":
        assert (policy.n_quantiles, policy.n_target_quantiles, policy.q_net.n_eval_quantiles) == (7, 5, 4)
    if name == "C51":
        assert th.equal(policy.q_net.support, model.q_net.support)


@pytest.mark.parametrize("name", ["Rainbow", "DQN", "IQN with all", "QRDQN"])
def test_get_and_set_parameters(name: str, tmp_path: Path) -> None:
    model = make(SETTINGS[name])
    model.learn(40)
    other = make(SETTINGS[name], seed=1)
    other.set_parameters(model.get_parameters())
    assert_same_parameters(snapshot(model), snapshot(other))
    assert_same_predictions(model, other, vec_env())

    model.save(tmp_path / "model")
    third = make(SETTINGS[name], seed=2)
    third.set_parameters(tmp_path / "model")
    assert_same_parameters(snapshot(model), snapshot(third))
    incomplete = model.get_parameters()
    del incomplete["policy.optimizer"]
    with pytest.raises(ValueError, match="do not match"):
        third.set_parameters(incomplete)


@pytest.mark.parametrize(("name", "n_envs"), [("Rainbow", 1), ("IQN", 4), ("QRDQN", 1), ("QRDQN", 4)])
def test_load_with_another_environment(name: str, n_envs: int, tmp_path: Path) -> None:
    model = make(ALGORITHMS[name], vec_env(n_envs=2))
    model.learn(40)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec_env(n_envs=n_envs, first_id=40), device="cpu")
    assert loaded.n_envs == loaded.replay_buffer.n_envs == n_envs
    loaded.learn(80)
    assert loaded.replay_buffer.observations[0, 0, 0] == 40
    assert loaded.num_timesteps == 80 and loaded._n_updates > model._n_updates
    with pytest.raises(ValueError, match=r"[Oo]bservation space"):
        type(model).load(tmp_path / "model", env=vec_env("image"))


@pytest.mark.parametrize("kind", ["box", "dict"])
@pytest.mark.parametrize("name", ["Rainbow", "IQN", "QRDQN with all"])
def test_replay_buffer(name: str, kind: str, tmp_path: Path) -> None:
    model = make(SETTINGS[name], vec_env(kind, 2), kind=kind)
    model.learn(80)
    model.save_replay_buffer(tmp_path / "buffer")
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec_env(kind, 2), device="cpu")
    assert loaded.replay_buffer.size() == 0
    loaded.load_replay_buffer(tmp_path / "buffer")
    ours, theirs = model.replay_buffer, loaded.replay_buffer
    assert type(ours) is type(theirs)
    assert (ours.pos, ours.size(), ours.max_priority) == (theirs.pos, theirs.size(), theirs.max_priority)
    assert np.array_equal(ours.tree.masses, theirs.tree.masses)
    for name in ("actions", "rewards", "dones"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    batch = theirs.sample(50)
    assert batch.indices.max() < 80
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.replay_buffer.size() == 40 + 20


ROUNDS, STEPS = 5, 37
COUNTS = ["num_timesteps", "_n_updates", "_n_calls", "_gradient_steps_due", "_total_timesteps"]
SETTINGS_THAT_MUST_NOT_DRIFT = [
    *("target_update_interval", "n_steps", "gamma", "alpha", "batch_size", "learning_starts", "buffer_size", "train_freq"),
    *("gradient_steps", "replay_ratio", "exploration_initial_eps", "exploration_final_eps", "exploration_fraction"),
    *("beta_initial", "beta_final", "beta_fraction", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs"),
]


def state_of(model: Any) -> dict[str, Any]:
    state = {name: getattr(model, name) for name in COUNTS + SETTINGS_THAT_MUST_NOT_DRIFT}
    state["learning rate"] = model.policy.optimizer.param_groups[0]["lr"]
    state["schedule"] = [model.lr_schedule(progress) for progress in (1.0, 0.5, 0.0)]
    state["epsilon"] = model.exploration_rate
    state["epsilons"] = [model.exploration_schedule(progress) for progress in (1.0, 0.5, 0.0)]
    state["beta"] = model.beta
    state["adam's eps"] = model.policy.optimizer.param_groups[0]["eps"]
    state["adam's steps"] = sorted(int(each["step"]) for each in model.policy.optimizer.state_dict()["state"].values())
    return state


class TargetUpdates:
    """Counts, as a callback, the steps at which the target network was found changed."""

    def __init__(self, model: Any) -> None:
        self.steps: list[int] = []
        self.last = self.copy(model)

    def copy(self, model: Any) -> th.Tensor:
        return th.cat([parameter.detach().ravel() for parameter in model.q_net_target.parameters()])

    def __call__(self, local_vars: dict[str, Any], global_vars: dict[str, Any]) -> bool:
        model = local_vars["self"]
        now = self.copy(model)
        if not th.equal(now, self.last):
            self.steps.append(model.num_timesteps)
        self.last = now
        return True


DRIFTING = dict(
    learning_rate=LinearSchedule(1e-3, 1e-4, 1.0),
    exploration_initial_eps=0.9,
    exploration_final_eps=0.1,
    exploration_fraction=0.9,
    prioritized=True,
    beta_final=0.9,
    n_steps=3,
)


@pytest.mark.parametrize(
    ("name", "replay_ratio", "n_envs"), [("Rainbow", None, 1), ("IQN", 0.3, 3), ("QRDQN", None, 3), ("QRDQN", 0.3, 1)]
)
def test_rounds_of_loading_and_learning(name: str, replay_ratio: float | None, n_envs: int, tmp_path: Path) -> None:
    kwargs = {**DRIFTING, "replay_ratio": replay_ratio}
    uninterrupted = make(ALGORITHMS[name], vec_env(n_envs=n_envs), **kwargs)
    first = make(ALGORITHMS[name], vec_env(n_envs=n_envs), **kwargs)
    settings = {key: getattr(first, key) for key in SETTINGS_THAT_MUST_NOT_DRIFT}
    first.save(tmp_path / "model")
    updates, loaded_updates = TargetUpdates(uninterrupted), TargetUpdates(first)
    for i in range(ROUNDS):
        uninterrupted.learn(STEPS, reset_num_timesteps=False, callback=updates)
        model = type(first).load(tmp_path / "model", env=vec_env(n_envs=n_envs), device="cpu")
        model.learn(STEPS, reset_num_timesteps=False, callback=loaded_updates)
        model.save(tmp_path / "model")
        assert state_of(model) == state_of(uninterrupted), f"after round {i + 1}"
    assert settings == {key: getattr(model, key) for key in SETTINGS_THAT_MUST_NOT_DRIFT}
    assert model.num_timesteps >= ROUNDS * STEPS and model._n_updates > 15
    assert len(updates.steps) > 4 and loaded_updates.steps == updates.steps


@pytest.mark.parametrize("name", ALGORITHMS)
def test_setup_model_twice(name: str) -> None:
    setting = ALGORITHMS[name]
    model = make(setting._replace(kwargs={**setting.kwargs, "n_steps": 3}))
    model.learn(40)
    before, buffer = state_of(model), model.replay_buffer
    contents = buffer.observations.copy(), buffer.tree.masses.copy()
    model._setup_model()
    after = state_of(model)
    for fresh in ("learning rate", "adam's steps"):  # the networks and the optimizer are made anew
        before.pop(fresh), after.pop(fresh)
    assert before == after
    assert model.replay_buffer is buffer
    assert np.array_equal(buffer.observations, contents[0]) and np.array_equal(buffer.tree.masses, contents[1])
    assert model.n_steps == buffer.n_steps == 3


CONTRIB = {**SMALL, "policy_kwargs": dict(net_arch=[16], n_quantiles=9)}


def contrib_model(kind: str = "box", **kwargs: Any) -> sb3_contrib.QRDQN:
    policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(kind, "MlpPolicy")
    return sb3_contrib.QRDQN(policy, vec_env(kind, 2), **{**CONTRIB, **kwargs})


def by_our_names(theirs: Any, ours: Any) -> dict[str, th.Tensor]:
    """:return: sb3-contrib's parameters, which are in the same order"""
    return dict(zip(snapshot(ours), snapshot(theirs).values(), strict=True))


# SB3 has no n-step returns for Dict observations
@pytest.mark.parametrize(("kind", "n_steps"), [("box", 1), ("box", 3), ("image", 1), ("image", 3), ("dict", 1)])
def test_what_sb3_contrib_saved(kind: str, n_steps: int, tmp_path: Path) -> None:
    theirs = contrib_model(kind, n_steps=n_steps)
    theirs.learn(80)
    theirs.save(tmp_path / "model")
    ours = QRDQN.load(tmp_path / "model", env=vec_env(kind, 2), device="cpu")
    assert_same_parameters(by_our_names(theirs, ours), snapshot(ours))
    assert_same_predictions(theirs, ours, vec_env(kind, 2))
    assert not ours.prioritized and not ours.double_q
    assert ours.n_steps == n_steps and ours.replay_buffer_class is theirs.replay_buffer_class
    if n_steps == 3:
        assert type(ours.replay_buffer) is NStepReplayBuffer and ours.replay_buffer.n_steps == 3
    assert (ours.num_timesteps, ours._n_updates, ours._n_calls) == (theirs.num_timesteps, theirs._n_updates, theirs._n_calls)
    assert ours.policy.optimizer.param_groups[0]["eps"] == theirs.policy.optimizer.param_groups[0]["eps"] == 0.01 / 8
    n_updates = ours._n_updates
    ours.learn(80, reset_num_timesteps=False)
    assert ours._n_updates == n_updates + 10
    assert any(not th.equal(value, snapshot(ours)[name]) for name, value in by_our_names(theirs, ours).items())

    ours.save(tmp_path / "ours")
    again = QRDQN.load(tmp_path / "ours", env=vec_env(kind, 2), device="cpu")
    assert_same_parameters(snapshot(ours), snapshot(again))


@pytest.mark.parametrize(("kind", "n_steps"), [("box", 1), ("box", 3), ("dict", 1)])
def test_what_sb3_contrib_saved_goes_on_with_priorities(kind: str, n_steps: int, tmp_path: Path) -> None:
    theirs = contrib_model(kind, n_steps=n_steps)
    theirs.learn(80)
    theirs.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"replay_buffer_class=.* has no priorities.*replay_buffer_class=None"):
        QRDQN.load(tmp_path / "model", env=vec_env(kind, 2), prioritized=True)
    ours = QRDQN.load(
        tmp_path / "model", env=vec_env(kind, 2), device="cpu", prioritized=True, double_q=True, replay_buffer_class=None
    )
    assert type(ours.replay_buffer) is (PrioritizedDictReplayBuffer if kind == "dict" else PrioritizedReplayBuffer)
    assert ours.n_steps == ours.replay_buffer.n_steps == n_steps
    assert_same_parameters(by_our_names(theirs, ours), snapshot(ours))
    ours.learn(120)
    masses = ours.replay_buffer.tree[np.arange(120)]
    assert len(np.unique(masses)) > 20, "priorities are updated"
    assert ours.replay_buffer.alpha == 0.5


@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_arguments_given_to_load(algorithm: Any, tmp_path: Path) -> None:
    make(Setting(algorithm, dict(n_steps=1, prioritized=False), {})).save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=vec_env(), n_steps=5, prioritized=True, alpha=0.7, gamma=0.8)
    buffer = loaded.replay_buffer
    assert (buffer.n_steps, buffer.alpha, buffer.gamma) == (5, 0.7, 0.8)
    with pytest.raises(ValueError, match="n_steps=0"):
        algorithm.load(tmp_path / "model", env=vec_env(), n_steps=0)
    uniform = algorithm.load(tmp_path / "model", env=vec_env(), replay_buffer_class=ReplayBuffer)
    uniform.learn(60)
    assert type(uniform.replay_buffer) is ReplayBuffer
