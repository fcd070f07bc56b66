"""
Files of earlier versions load, act and train on.

``tests/saved`` holds what 0.1.0 saved after 100 or 200 steps of CartPole, and in ``expected.npz`` what the models said at the
observations ``obs``; ``contrib_qrdqn.zip`` is of sb3-contrib 2.9.2.
"""

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.distributed import ApeXRainbow

SAVED = Path(__file__).parent / "saved"
MODELS = {
    "rainbow": Rainbow,
    "iqn": IQN,
    "qrdqn": QRDQN,
    "apex_rainbow": ApeXRainbow,
    "contrib_qrdqn": QRDQN,
}
CHECKPOINTS = ("rainbow", "iqn", "qrdqn")


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(SAVED / "expected.npz"))


@pytest.mark.parametrize("name", MODELS)
def test_models_predict_what_they_did(name, expected):
    model = MODELS[name].load(SAVED / f"{name}.zip", device="cpu")
    obs = expected["obs"]
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], expected[f"{name}/actions"])
    distribution = model.predict_distribution(obs)
    values = np.sort(expected[f"{name}/values"], axis=-1)
    np.testing.assert_allclose(distribution.values, values, rtol=1e-4, atol=1e-5)
    if f"{name}/probabilities" in expected:
        np.testing.assert_allclose(distribution.probabilities, expected[f"{name}/probabilities"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_train_on(name):
    env = make_vec_env("CartPole-v1", n_envs=2, seed=1)
    model = MODELS[name].load_checkpoint(SAVED / f"{name}.zip", env, device="cpu")
    assert model.replay_buffer.size() == 50
    model.replay_buffer.check_valid()
    updates = model._n_updates
    model.learn(40, reset_num_timesteps=False)
    assert model.num_timesteps == 240
    assert model._n_updates > updates


def test_a_replay_buffer_holds_what_it_did(expected):
    env = make_vec_env("CartPole-v1", n_envs=2, seed=1)
    model = Rainbow.load(SAVED / "rainbow.zip", env=env, device="cpu")
    model.load_replay_buffer(SAVED / "rainbow_buffer.pkl")
    np.testing.assert_array_equal(model.replay_buffer.rewards, expected["buffer/rewards"])
    np.testing.assert_array_equal(model.replay_buffer.observations, expected["buffer/observations"])
