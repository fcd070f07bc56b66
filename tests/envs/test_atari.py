"""AtariVecEnv plays what SB3's AtariWrapper and VecFrameStack play; what differs is what its docstring says."""

from itertools import pairwise
from typing import Any

import ale_py
import cv2
import numpy as np
import pytest

from sb3_distrl.envs import AtariVecEnv
from tests.envs.atari import BREAKOUT, PONG, play, sb3

FROM_ALE = ("lives", "episode_frame_number", "frame_number")

# The same as SB3

# With the greatest difference of pixels, and the share of those that differ
COMPARED: dict[str, tuple[str, dict[str, Any], int, float]] = {
    "breakout": (BREAKOUT, {}, 0, 0.0),
    "pong": (PONG, {}, 16, 0.003),
    "v5": ("ALE/Breakout-v5", dict(env_kwargs=dict(frameskip=1, repeat_action_probability=0.0)), 0, 0.0),
    "games": (BREAKOUT, dict(terminal_on_life_loss=False, clip_reward=False, n_stack=3), 0, 0.0),
    "rewards": ("SeaquestNoFrameskip-v4", dict(clip_reward=False, frame_skip=5), 20, 0.01),
    "clipped": ("SeaquestNoFrameskip-v4", dict(frame_skip=2, screen_size=50), 20, 0.01),
    "every frame": ("FreewayNoFrameskip-v4", dict(frame_skip=1), 0, 0.0),  # which has no FIRE
    "all actions": (BREAKOUT, dict(env_kwargs=dict(full_action_space=True)), 0, 0.0),
    "time limit": (BREAKOUT, dict(env_kwargs=dict(max_num_frames_per_episode=400), terminal_on_life_loss=False), 0, 0.0),
}


LONG = ("breakout", "pong")  # 2000 steps instead of 600
QUICK = ("v5", "time limit")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COMPARED]


@pytest.mark.parametrize("name", NAMES)
def test_it_plays_as_sb3_does(name: str, tmp_path) -> None:
    env_id, kwargs, greatest, share = COMPARED[name]
    n_steps = 2000 if name in LONG else 600
    theirs = sb3(env_id, n_envs=2, monitor_dir=str(tmp_path / "sb3"), **kwargs)
    ours = AtariVecEnv(env_id, n_envs=2, seed=0, noop_max=0, monitor_dir=str(tmp_path / "ours"), **kwargs)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    ends = dict.fromkeys(("life", "game", "limit"), 0)
    n_different = 0
    for our, their in zip(play(ours, n_steps), play(theirs, n_steps), strict=True):
        compare = [(our[0], their[0])]
        if our[1] is not None:
            np.testing.assert_array_equal(our[1], their[1])
            np.testing.assert_array_equal(our[2], their[2])
            assert our[1].dtype == their[1].dtype and our[2].dtype == their[2].dtype
            for i, (info, their_info) in enumerate(zip(our[3], their[3], strict=True)):
                assert info.keys() == their_info.keys()
                assert all(info[key] == their_info[key] for key in (*FROM_ALE, "TimeLimit.truncated"))
                if "episode" in info:
                    assert all(info["episode"][key] == their_info["episode"][key] for key in "rl")
                if our[2][i]:
                    end = "limit" if info["TimeLimit.truncated"] else "game" if "episode" in info else "life"
                    ends[end] += 1
                    if end != "game":  # whose last frames ale-py leaves out
                        compare.append((info["terminal_observation"], their_info["terminal_observation"]))
        for observation, their_observation in compare:
            assert observation.shape == their_observation.shape and observation.dtype == np.uint8
            difference = np.abs(observation.astype(int) - their_observation)
            assert difference.max() <= greatest
            n_different += (difference > 0).sum() / difference.size
    assert n_different <= share * n_steps
    assert (n_different > 0) == (greatest > 0)  # the docstring says that they differ
    assert (ends["life"] > 0) == (name in ("breakout", "v5", "rewards", "clipped", "all actions"))
    assert (ends["game"] > 0) == (name not in ("time limit", "every frame", "clipped"))
    assert (ends["limit"] > 0) == (name == "time limit")
    ours.close(), theirs.close()
    for i in range(2):  # files with the returns and lengths of games, beside times
        files = [(tmp_path / name / f"{i}.monitor.csv").read_text().splitlines() for name in ("ours", "sb3")]
        games = [[line.rpartition(",")[0] for line in lines[1:]] for lines in files]
        assert games[0] == games[1] and len(games[0]) > (ends["game"] > 0)


def test_pixels_are_maxima_in_grayscale() -> None:
    """Which is all that differs from SB3."""
    env = AtariVecEnv(PONG, noop_max=0)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path("pong"))
    ale.reset_game()

    def step(action: int) -> np.ndarray:
        frames = []
        for _ in range(4):
            ale.act(ale.getMinimalActionSet()[action])
            frames.append(ale.getScreenGrayscale())
        return cv2.resize(np.maximum(*frames[2:]), (84, 84), interpolation=cv2.INTER_AREA)

    step(1)
    expected = step(2)
    observation, actions = env.reset(), np.random.default_rng(0).integers(0, 6, (200, 1))
    for action in actions:
        np.testing.assert_array_equal(observation[0, -1], expected)
        observation, *_ = env.step(action)
        expected = step(int(action[0]))


def test_a_time_limit_within_a_step() -> None:
    """SB3 breaks off after 202 frames; here the step is played to its end, and shown."""
    env = AtariVecEnv(BREAKOUT, noop_max=0, env_kwargs=dict(max_num_frames_per_episode=202), terminal_on_life_loss=False)
    whole = AtariVecEnv(BREAKOUT, noop_max=0, terminal_on_life_loss=False)
    steps, reference = play(env, 60), play(whole, 60)
    (end,) = [i for i, step in enumerate(steps) if step[2] is not None and step[2][0]][:1]
    info = steps[end][3][0]
    assert end == (204 - 8) // 4 and info["TimeLimit.truncated"] and info["episode"]["l"] == 204
    np.testing.assert_array_equal(info["terminal_observation"], reference[end][0][0])
    assert not steps[end][0][0, :-1].any()  # a new game


def test_a_life_lost_at_the_time_limit_is_terminal() -> None:
    lost = next(step[3][0] for step in play(AtariVecEnv(BREAKOUT, noop_max=0), 100)[1:] if step[2][0])
    kwargs: dict[str, Any] = dict(env_kwargs=dict(max_num_frames_per_episode=lost["episode_frame_number"]))
    for env in (AtariVecEnv(BREAKOUT, noop_max=0, **kwargs), sb3(BREAKOUT, **kwargs)):
        info = next(step[3][0] for step in play(env, 100)[1:] if step[2][0])
        assert info["episode"]["l"] == lost["episode_frame_number"] and info["TimeLimit.truncated"] is False


def test_the_limit_is_that_of_the_registered_environment() -> None:
    assert AtariVecEnv(BREAKOUT)._max_frames == AtariVecEnv("ALE/Breakout-v5")._max_frames == 108_000


def test_terminal_observations_are_not_the_first_of_the_next() -> None:
    n_ends = 0
    steps = play(AtariVecEnv(BREAKOUT, n_envs=3, seed=0), 300)
    for before, (observations, _, dones, infos) in pairwise(steps):
        for i in range(3):
            assert ("terminal_observation" in infos[i]) == dones[i]
            if dones[i]:
                n_ends += 1
                final = infos[i]["terminal_observation"]
                np.testing.assert_array_equal(final[:-1], before[0][i, 1:])
                assert not np.array_equal(final, observations[i]) and not observations[i, :-1].any()
    assert n_ends > 20


@pytest.mark.slow
def test_a_game_that_ends_in_the_opening_is_followed_by_another() -> None:
    """With 150 frames per step a last life is often lost while FIRE is pressed."""
    env = AtariVecEnv(BREAKOUT, noop_max=0, frame_skip=150)
    receive, returns = env._receive, [0]

    def watched(i: int) -> tuple:
        result = receive(i)
        returns[-1] += result[1]
        if result[2]:
            returns.append(0)
        return result

    env._receive = watched  # type: ignore[method-assign]
    n_told, untold, before = 0, 0, (5, True)
    for _, _, dones, infos in play(env, 200)[1:]:
        info = infos[0]
        assert info["episode_frame_number"] < 5000 and (before[1] or dones[0] or info["lives"] == before[0])
        if "episode" in info:
            while info["episode"]["r"] != returns[n_told + untold]:  # of a game whose end nobody was told
                assert returns[n_told + untold] > 0
                untold += 1
            n_told += 1
        before = (info["lives"], dones[0])
    assert n_told > 5 and untold > 0


# Chance


def first_frames(n_resets: int, **kwargs: Any) -> np.ndarray:
    """:return: number of frames before the first step, of each reset"""
    env = AtariVecEnv("FreewayNoFrameskip-v4", n_envs=4, **kwargs)
    numbers = []
    for _ in range(n_resets):
        env.reset()
        numbers.append([info["episode_frame_number"] - 4 for info in env.step(np.zeros(4))[3]])
    return np.array(numbers)


@pytest.mark.slow
def test_no_ops() -> None:
    numbers = first_frames(12, noop_max=5, seed=3)
    assert set(numbers.flat) == {0, 1, 2, 3, 4}
    assert len(np.unique(numbers, axis=1).T) == 4  # each game its own
    np.testing.assert_array_equal(numbers, first_frames(12, noop_max=5, seed=3))
    assert not np.array_equal(numbers, first_frames(12, noop_max=5, seed=9))
    assert not first_frames(2, noop_max=0).any()


def test_games_without_fire_begin_at_once_and_the_others_after_two_steps() -> None:
    env = AtariVecEnv(BREAKOUT, noop_max=0)
    env.reset()
    assert env.step(np.zeros(1))[3][0]["episode_frame_number"] == 12


@pytest.mark.parametrize(
    ("env_id", "kwargs", "sticky"),
    [
        (BREAKOUT, {}, False),
        pytest.param("BreakoutNoFrameskip-v0", {}, True, marks=pytest.mark.slow),
        ("ALE/Breakout-v5", {}, True),
        pytest.param("ALE/Breakout-v5", dict(env_kwargs=dict(repeat_action_probability=0.0)), False, marks=pytest.mark.slow),
        (BREAKOUT, dict(action_repeat_probability=0.25), True),
        pytest.param(BREAKOUT, dict(env_kwargs=dict(repeat_action_probability=0.25)), True, marks=pytest.mark.slow),
    ],
)
def test_sticky_actions_and_seeds(env_id: str, kwargs: dict[str, Any], sticky: bool) -> None:
    first, second, third = ([step[0] for step in play(AtariVecEnv(env_id, 2, seed, 0, **kwargs), 100)] for seed in (7, 7, 900))
    np.testing.assert_array_equal(first, second)
    assert np.array_equal(first, third) == (not sticky)


def test_seeds_of_any_size_and_once() -> None:
    env = AtariVecEnv(BREAKOUT, n_envs=2, seed=2**32 - 1)
    first = env.reset()
    env.seed(2**32 - 1)
    np.testing.assert_array_equal(env.reset(), first)
    assert env._seeds == [None, None]
