"""An actor by itself: what it sends is what its environments did, with the priorities that the learner would have computed."""

import copy
import random
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.atari_wrappers import ClipRewardEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_distrl.buffers import PrioritizedReplayBuffer, RowArray
from sb3_distrl.common.gradient_steps import evaluate, preprocess
from sb3_distrl.distributed import ApeXIQN
from sb3_distrl.distributed.envs import ActorEnvs, make_envs
from sb3_distrl.distributed.worker import RolloutWorker, epsilon_ladder
from tests.common.envs import KINDS, POLICIES, make_env
from tests.distributed.envs import MESSAGE, misbehaving
from tests.distributed.models import CLASSES, make_model, spec_of


def test_the_ladder_of_epsilons():
    """Horgan et al. 2018, section 4.1, with the paper's numbers for three environments."""
    assert epsilon_ladder(3, 0.4, 7).tolist() == pytest.approx([0.4, 0.4**4.5, 0.4**8])
    assert epsilon_ladder(1, 0.4, 7).tolist() == pytest.approx([0.4**4.5])  # as the one in the middle of three
    assert np.all(np.diff(epsilon_ladder(360, 0.4, 7)) < 0)


def test_each_environment_explores_by_its_rung():
    """Also where an actor has several, and the same ones after a restart."""
    spec = spec_of(make_model(n_actors=3, envs_per_actor=2, learning_starts=0))
    expected = epsilon_ladder(6, 0.4, 7).reshape(3, 2)
    for index in range(3):
        worker = RolloutWorker(spec, index, incarnation=5)
        worker.collect(None)
        assert worker.model.exploration_rate.tolist() == expected[index].tolist()
    model = make_model(ApeXIQN, envs_per_actor=2, learning_starts=0, block_steps=500, buffer_size=4000)
    worker = RolloutWorker(spec_of(model, epsilons=np.array([[0.0, 1.0]] * 2)), 0)
    actions = worker.collect(None).block.actions[..., 0]  # [T, E]
    assert set(actions[:, 0]) != set(actions[:, 1]) or abs(actions[:, 0].mean() - 0.5) > 0.2
    assert 0.4 < actions[:, 1].mean() < 0.6


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_priorities_are_those_of_the_algorithms_loss(cls, n_steps):
    """What the learner's own networks say of the same n-step transitions, in the same order."""
    kwargs = dict(policy_kwargs=dict(make_model(cls).policy_kwargs, noisy=False)) if cls.__name__ == "ApeXRainbow" else {}
    model = make_model(cls, n_steps=n_steps, envs_per_actor=3, learning_starts=0, **kwargs)
    worker = RolloutWorker(spec_of(model), 1)
    with th.no_grad():
        for parameter in model.q_net_target.parameters():  # not the online network's
            parameter += 0.1
    report = worker.collect(model._weights())
    model.replay_buffer.add_block(np.arange(3), report.block)
    indices = (np.arange(10)[:, None] * 6 + np.arange(3)).reshape(-1)
    batch = preprocess(model.q_net, model.replay_buffer.transitions(indices))
    assert n_steps == 1 or len(set(batch.discounts.flatten().tolist())) > 1
    if cls.__name__ == "ApeXIQN":
        return_of_seed = []
        for _ in range(300):  # its fractions are drawn
            return_of_seed.append(evaluate(model, batch).priorities.detach().numpy())
        low, high = np.min(return_of_seed, axis=0), np.max(return_of_seed, axis=0)
        found = report.block.priorities.reshape(-1)
        assert ((found > 0.5 * low) & (found < 2 * high)).all()
        return
    expected = evaluate(model, batch).priorities.detach().numpy()
    np.testing.assert_allclose(report.block.priorities.reshape(-1), expected, rtol=1e-5, atol=1e-6)
    masses = model.replay_buffer.tree[indices]
    np.testing.assert_allclose(masses, (expected + 1e-6) ** model.alpha, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_what_the_environments_did(kind):
    """Whatever is observed: rows of the learner's buffer equal those of a buffer that was given each step."""
    policy = POLICIES.get(kind, "MlpPolicy")
    model = make_model(env=make_env(kind), policy=policy, envs_per_actor=2, learning_starts=1000, policy_kwargs={})
    long = make_model(env=make_env(kind), policy=policy, envs_per_actor=2, block_steps=40, policy_kwargs={})
    worker, twin = (RolloutWorker(spec_of(each, random_steps=1000), 0) for each in (model, long))
    direct = type(model.replay_buffer)(
        2 * 100, model.observation_space, model.action_space, "cpu", 2, model.replay_buffer.optimize_memory_usage,
        n_steps=model.n_steps, gamma=model.gamma, alpha=model.alpha,
    )  # fmt: skip
    for _ in range(4):
        model.replay_buffer.add_block(np.arange(2), worker.collect(None).block)
    block = twin.collect(None).block  # the same steps, in one
    direct.add_block(np.arange(2), block)
    model.replay_buffer.check_valid()
    assert block.dones.any() and block.timeouts.any() and not block.timeouts.all()
    rows, envs = np.divmod(np.arange(80), 2)
    ours = model.replay_buffer.transitions(rows * model.n_envs + envs)
    theirs = direct.transitions(np.arange(80))
    for name in ("actions", "rewards", "dones", "discounts"):
        assert th.equal(getattr(ours, name), getattr(theirs, name)), name
    for name in ("observations", "next_observations"):
        a, b = getattr(ours, name), getattr(theirs, name)
        pairs = [(a[key], b[key]) for key in a] if isinstance(a, dict) else [(a, b)]
        assert all(th.equal(x, y) for x, y in pairs), name


class Surprise(PrioritizedReplayBuffer):
    row_arrays: ClassVar = {**PrioritizedReplayBuffer.row_arrays, "surprise": RowArray(np.float32)}

    def row_values(self, obs, next_obs, action, reward, done, infos):
        return {**super().row_values(obs, next_obs, action, reward, done, infos), "surprise": reward + np.asarray(done)}


def test_what_a_subclass_of_the_buffer_keeps_comes_with_the_blocks():
    model = make_model(envs_per_actor=2, learning_starts=1000, block_steps=20, replay_buffer_class=Surprise)
    report = RolloutWorker(spec_of(model, random_steps=1000), 0).collect(None)
    model.check_report(report)
    model.replay_buffer.add_block(np.arange(2), report.block)
    buffer = model.replay_buffer
    assert isinstance(buffer, Surprise) and buffer.dones.any()
    assert np.array_equal(buffer.surprise[:20, :2], buffer.rewards[:20, :2] + buffer.dones[:20, :2])


def test_random_numbers_are_the_actors_own():
    """The learner's are as if there was no actor; two actors draw different ones, and so does the next incarnation."""
    spec = spec_of(make_model())
    random.seed(5), np.random.seed(5), th.manual_seed(5)
    expected = random.random(), np.random.rand(), th.rand(1).item()
    random.seed(5), np.random.seed(5), th.manual_seed(5)
    blocks = [RolloutWorker(spec, *which).collect(None).block for which in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert (random.random(), np.random.rand(), th.rand(1).item()) == expected
    first, again, other, restarted = (block.observations.observations.tobytes() for block in blocks)
    assert first == again and first != other and first != restarted


def test_versions_of_weights_never_go_backwards():
    model = make_model()
    worker = RolloutWorker(spec_of(model), 0)
    old = copy.deepcopy(model._weights())
    with th.no_grad():
        for parameter in model.q_net.parameters():
            parameter += 1
    new = model._weights()._replace(version=7)
    assert worker.collect(new).version == 7
    report = worker.collect(old)
    assert report.version == 7 and not report.first
    for name, tensor in worker.model.q_net.state_dict().items():
        assert np.array_equal(tensor.numpy(), new.online[name])


def test_random_actions_come_first():
    """As many over all actors as learning_starts says, and none again after a restart or when training goes on."""
    model = make_model(n_actors=3, learning_starts=100)
    assert spec_of(model).random_steps == 34
    model.num_timesteps = 70
    model._setup_learn(1000, reset_num_timesteps=False)
    assert model._start_actors().spec.random_steps == 10
    spec = spec_of(make_model(n_actors=1, learning_starts=500, block_steps=400), epsilons=np.zeros((1, 1)))
    for steps, random_part in ((0, True), (500, False)):
        worker = RolloutWorker(spec, 0, steps=steps)
        with th.no_grad():
            actions = worker.collect(None).block.actions
        assert (0.3 < actions.mean() < 0.7) or not random_part
        assert worker.model.num_timesteps == steps + 400


def test_stacked_frames_travel_once():
    """From vectorised wrappers, too: at most 1.2 frames for each transition."""

    def make():
        envs = DummyVecEnv([lambda: ClipRewardEnv(Frames()) for _ in range(2)])
        return VecFrameStack(envs, 4)

    model = make_model(env=make, policy="CnnPolicy", block_steps=50, buffer_size=1000, policy_kwargs={})
    assert model.n_envs == 4 and model.observation_space.shape == (4, 84, 84)
    block = RolloutWorker(spec_of(model), 0).collect(None).block
    assert 84 * 84 < block.nbytes() / block.rewards.size < 1.2 * 84 * 84


class Frames(gymnasium.Env):
    """Noise of the size of Atari's frames, in long episodes."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.frame(), {}

    def frame(self):
        return self.np_random.integers(0, 256, (84, 84, 1), dtype=np.uint8)

    def step(self, action):
        return self.frame(), 1.0, False, False, {}


def test_what_actors_can_make_environments_of():
    assert make_envs("CartPole-v1", None).num_envs == 1
    assert make_envs(lambda: gymnasium.make("CartPole-v1"), 3).num_envs == 3
    assert make_envs(lambda: make_vec_env("CartPole-v1", 4), None).num_envs == 4
    mistakes = {
        "cannot be made by each actor": (gymnasium.make("CartPole-v1"), None),
        "makes a int": (lambda: 3, None),
        "envs_per_actor=3, but env makes a VecEnv of 2": (lambda: make_vec_env("CartPole-v1", 2), 3),
        "VecNormalize": (lambda: VecNormalize(make_vec_env("CartPole-v1", 2)), None),
    }
    for message, (source, n_envs) in mistakes.items():
        with pytest.raises(ValueError, match=message):
            make_envs(source, n_envs)
    with pytest.raises(ValueError, match="n_actors=0 must be at least 1"):
        ActorEnvs("CartPole-v1", 0, None)
    with pytest.raises(AttributeError, match="actors' processes"):
        ActorEnvs("CartPole-v1", 1, None).env_method("render")


def test_episodes_are_told_of_with_their_step():
    spec = spec_of(make_model(envs_per_actor=2, block_steps=100, learning_starts=1000))
    report = RolloutWorker(spec, 0).collect(None)
    ends = {(int(step), int(env)) for step, env in np.argwhere(report.block.dones)}
    assert len(ends) > 4 and {(episode.step, episode.env) for episode in report.episodes} == ends
    lengths = sum(episode.info["episode"]["l"] for episode in report.episodes)
    assert lengths <= 200 and report.first


@pytest.mark.parametrize(
    "what, says",
    [
        ("exception", MESSAGE),
        ("nan reward", "reward=nan is not finite"),
        ("nan obs", "obs=nan is not finite"),
        ("wrong shape", "shape"),
    ],
)
def test_an_environment_that_fails_is_an_exception_of_its_actor(what, says, tmp_path):
    """Which a collector replaces (test_ray.py), whatever the exception is."""
    model = make_model(env=misbehaving(what, tmp_path, after=5))
    with pytest.raises((ConnectionResetError, ValueError), match=says):
        RolloutWorker(spec_of(model), 0).collect(None)
