"""What `add` is given has the shapes of the spaces: nothing is reshaped into place but single numbers."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from tests.buffers.naive_replay import ACTIONS

N_ENVS = 2
SPACES = {
    "vector": spaces.Box(-1, 1, (3,), np.float32),
    "image": spaces.Box(0, 255, (4, 6, 5), np.uint8),
    "number": spaces.Box(-9, 9, (), np.float32),
    "one": spaces.Box(-9, 9, (1,), np.float32),
    "discrete": spaces.Discrete(8),
    "multidiscrete": spaces.MultiDiscrete([2, 3, 9]),
    "multibinary": spaces.MultiBinary(7),
}


def make_buffer(space, n_envs=N_ENVS, optimize=False, actions=ACTIONS, **kwargs):
    buffer_class = PrioritizedDictReplayBuffer if isinstance(space, spaces.Dict) else PrioritizedReplayBuffer
    return buffer_class(8 * n_envs, space, actions, "cpu", n_envs, optimize, **kwargs)


def samples(space, n):
    return np.array([space.sample() for _ in range(n)])


def transition(space, n_envs=N_ENVS, actions=ACTIONS):
    """:return: arguments of add, by name"""
    obs, next_obs = samples(space, n_envs), samples(space, n_envs)
    numbers = dict(reward=np.arange(n_envs, dtype=np.float32), done=np.arange(n_envs) % 2 == 1, infos=[{}] * n_envs)
    return dict(obs=obs, next_obs=next_obs, action=samples(actions, n_envs), **numbers)


def refused(buffer, message, **arguments):
    with pytest.raises(ValueError, match=message):
        buffer.add(**arguments)
    assert buffer.size() == 0


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("which", ["obs", "next_obs"])
@pytest.mark.parametrize(
    ("kind", "change", "found"),
    [
        ("image", lambda obs: np.moveaxis(obs, 1, -1), r"\(2, 6, 5, 4\)"),  # channels last
        ("image", lambda obs: obs.swapaxes(0, 1), r"\(4, 2, 6, 5\)"),
        ("image", lambda obs: obs.reshape(2, -1), r"\(2, 120\)"),
        ("image", lambda obs: obs[0], r"\(4, 6, 5\)"),
        ("vector", lambda obs: obs.T, r"\(3, 2\)"),
        ("vector", lambda obs: obs.reshape(-1), r"\(6,\)"),
        ("vector", lambda obs: obs[:1], r"\(1, 3\)"),
        ("vector", lambda obs: obs[:, :1], r"\(2, 1\)"),
        ("vector", lambda obs: obs[..., None], r"\(2, 3, 1\)"),
        ("multidiscrete", lambda obs: obs.T, r"\(3, 2\)"),
        ("multibinary", lambda obs: obs.T, r"\(7, 2\)"),
        ("discrete", lambda obs: obs[None], r"\(1, 2\)"),
        ("discrete", lambda obs: np.eye(8)[obs], r"\(2, 8\)"),
        ("number", lambda obs: obs[:1], r"\(1,\)"),
    ],
)
def test_observations_of_a_wrong_shape(kind, change, found, which, optimize):
    space = SPACES[kind]
    arguments = transition(space)
    arguments[which] = change(arguments[which])
    shape = {"discrete": (1,), "number": ()}.get(kind, space.shape)
    expected = str((N_ENVS, *shape)).replace("(", r"\(").replace(")", r"\)")
    refused(make_buffer(space, optimize=optimize), rf"^{which} has shape {found} and should have {expected}", **arguments)


def test_parts_of_a_dict():
    space = spaces.Dict({"image": SPACES["image"], "place": SPACES["discrete"]})
    parts = {key: samples(part, N_ENVS) for key, part in space.spaces.items()}
    arguments = dict(transition(SPACES["discrete"]), obs=parts, next_obs=parts)
    buffer = make_buffer(space)
    last = dict(parts, image=np.moveaxis(parts["image"], 1, -1))
    refused(
        buffer,
        r"^next_obs\['image'\] has shape \(2, 6, 5, 4\) and should have \(2, 4, 6, 5\)",
        **{**arguments, "next_obs": last},
    )
    refused(buffer, r"^obs has keys \['image'\] and should have \['image', 'place'\]", **{**arguments, "obs": {"image": last}})
    refused(buffer, "^obs is a ndarray and should be a dict", **{**arguments, "obs": parts["image"]})
    refused(make_buffer(SPACES["image"]), "^obs is a dict and should be an array", **arguments)
    buffer.add(**arguments)
    assert buffer.size() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(action=np.zeros((1, 2), int)), r"^action has shape \(1, 2\) and should have \(2,\)"),
        (dict(action=np.zeros(3, int)), r"^action has shape \(3,\)"),
        (dict(action=np.zeros((2, 2), int)), r"^action has shape \(2, 2\)"),
        (dict(reward=np.zeros((1, 2))), r"^reward has shape \(1, 2\) and should have \(2,\)"),
        (dict(reward=np.zeros(1)), r"^reward has shape \(1,\)"),
        (dict(reward=0.0), r"^reward has shape \(\)"),
        (dict(done=np.zeros(1, bool)), r"^done has shape \(1,\) and should have \(2,\)"),
        (dict(done=np.zeros((2, 2), bool)), r"^done has shape \(2, 2\)"),
        (dict(infos=[{}]), r"^infos has shape \(1,\) and should have \(2,\)"),
        (dict(infos={"TimeLimit.truncated": True}), "^infos is a dict and should be a list"),
    ],
)
def test_actions_rewards_and_ends_of_a_wrong_shape(changes, message):
    refused(make_buffer(SPACES["vector"]), message, **{**transition(SPACES["vector"]), **changes})


def test_actions_of_more_than_one_number():
    """As they are, or as SB3's buffers keep them, in a row."""
    actions = spaces.Box(-1, 1, (2, 3), np.float32)
    buffer = make_buffer(SPACES["vector"], actions=actions)
    arguments = transition(SPACES["vector"], actions=actions)
    action = arguments["action"]
    refused(
        buffer, r"^action has shape \(2, 3, 2\) and should have \(2, 2, 3\)", **{**arguments, "action": action.swapaxes(1, 2)}
    )
    buffer.add(**arguments)
    buffer.add(**{**arguments, "action": action.reshape(2, 6)})
    assert np.array_equal(buffer.actions[:2], np.stack([action.reshape(2, 6)] * 2))


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("n_envs", [1, 2, 3])
@pytest.mark.parametrize("kind", ["number", "one", "discrete"])
def test_single_numbers_come_with_an_axis_of_their_own_or_without(kind, n_envs, optimize):
    """VecEnvs differ in it. What comes out has one shape."""
    buffer = make_buffer(SPACES[kind], n_envs, optimize)
    numbers = np.arange(4 * n_envs).reshape(4, n_envs)
    for step, shape in enumerate([(n_envs,), (n_envs, 1), (n_envs,)]):
        obs, next_obs, action, reward = (
            part.reshape(shape) for part in (numbers[step], numbers[step + 1], *[numbers[step]] * 2)
        )
        buffer.add(obs, next_obs, action % 4, reward, np.zeros(shape, bool), [{}] * n_envs)
    buffer.check_valid()
    assert not buffer.timeouts[:2].any(), "the episodes go on"
    batch = buffer.sample(6 * n_envs)
    shape = () if kind == "number" else (1,)
    assert batch.observations.shape == (6 * n_envs, *shape) and batch.actions.shape == batch.rewards.shape == (6 * n_envs, 1)
    assert batch.observations.flatten().tolist() == batch.rewards.flatten().tolist()
    assert (batch.next_observations - batch.observations == n_envs).all()
    assert set(batch.rewards.flatten().tolist()) == set(range(3 * n_envs))


def test_a_single_environment_may_come_without_its_axis():
    """As in SB3, and as a demonstration has it: there is no other environment to mistake it for."""
    buffer, twin = (make_buffer(SPACES["image"], 1) for _ in range(2))
    arguments = transition(SPACES["image"], 1)
    twin.add(**arguments)
    buffer.add(arguments["obs"][0], arguments["next_obs"][0], arguments["action"][0], 0.0, False, [{}])
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        assert np.array_equal(getattr(buffer, name), getattr(twin, name)), name
    refused(make_buffer(SPACES["image"], 1), "^obs has shape", **{**arguments, "obs": np.moveaxis(arguments["obs"][0], 0, -1)})
