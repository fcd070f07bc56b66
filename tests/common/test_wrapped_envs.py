"""Wrappers around VecNormalize change observations that it knows only as they were before."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_distrl import IQN, QRDQN, Rainbow
from tests.common.envs import SIDE, CountingEnv, vec_env

ALGORITHMS = [Rainbow, IQN, QRDQN]


class ColourEnv(CountingEnv):
    """Images with three channels, last, that are all different."""

    def __init__(self, env_id=0):
        super().__init__("image", env_id)
        self.observation_space = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

    def _observation(self, kind):
        image = super()._observation(kind)
        return np.concatenate([image, image + 1, image[::-1] + 2], axis=-1)


def images():
    return DummyVecEnv([lambda env_id=env_id: ColourEnv(env_id) for env_id in range(2)])


def trained(algorithm, env, policy="CnnPolicy", steps=30):
    kwargs = dict(learning_starts=10, buffer_size=200, seed=0, replay_ratio=0.25, train_freq=1, optimize_memory_usage=False)
    return algorithm(policy, env, policy_kwargs=dict(net_arch=[8]), **kwargs).learn(steps)


def assert_same(model, expected):
    ours, theirs = model.replay_buffer, expected.replay_buffer
    for name in ("observations", "next_observations", "rewards", "dones", "timeouts"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.dones.any(), "true final observations are among them"
    assert np.array_equal(ours.rewards[:5, 0], np.float32([-0.05, -0.03, -0.01, 0.01, 0.03])), "they are not normalised"
    weights = zip(model.policy.state_dict().values(), expected.policy.state_dict().values(), strict=True)
    assert model._n_updates > 0 and all(th.equal(a, b) for a, b in weights)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_images_with_channels_last_whose_rewards_are_normalised(algorithm):
    """SB3 puts VecTransposeImage around VecNormalize, where it belongs inside. What is learnt is the same."""
    model = trained(algorithm, VecNormalize(images(), norm_obs=False))
    assert isinstance(model.env, VecTransposeImage)
    assert_same(model, trained(algorithm, VecNormalize(VecTransposeImage(images()), norm_obs=False)))


def test_frames_that_are_stacked_around_it():
    model = trained(QRDQN, VecFrameStack(VecNormalize(vec_env(n_envs=2), norm_obs=False), 3), "MlpPolicy")
    assert_same(model, trained(QRDQN, VecNormalize(VecFrameStack(vec_env(n_envs=2), 3), norm_obs=False), "MlpPolicy"))


def test_what_was_normalised_cannot_be_known_before_it_was():
    message = r"^obs has shape \(2, 3\) and should have \(2, 9\): .* belong inside VecNormalize, not around it"
    with pytest.raises(ValueError, match=message):
        trained(QRDQN, VecFrameStack(VecNormalize(vec_env(n_envs=2)), 3), "MlpPolicy")
    spaces_of_parts = dict(norm_obs_keys=["vector"])
    message = r"^obs\['image'\] has shape \(2, 36, 36, 1\) and should have \(2, 1, 36, 36\): .*inside VecNormalize"
    with pytest.raises(ValueError, match=message):
        trained(QRDQN, VecNormalize(vec_env("dict", n_envs=2), **spaces_of_parts), "MultiInputPolicy")
    trained(QRDQN, VecNormalize(VecTransposeImage(vec_env("dict", n_envs=2)), **spaces_of_parts), "MultiInputPolicy")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_observations_of_a_wrong_shape_have_no_distribution(algorithm):
    model = algorithm("MlpPolicy", vec_env(n_envs=2), buffer_size=10, policy_kwargs=dict(net_arch=[8]))
    for act in (model.predict_distribution, lambda obs: model.predict(obs, deterministic=True)):
        for shape in [(3, 2), (6,), (2, 3, 1), (1, 1, 3)]:
            with pytest.raises(ValueError, match="shape"):
                act(np.zeros(shape, np.float32))
