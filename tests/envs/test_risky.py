"""RiskyCrossing, and the returns that it says are exact."""

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from sb3_distrl.envs import RiskyCrossing
from sb3_distrl.envs.risky import GO_ON, HOME, N_STATES, START, TURN, WATER, outcomes, return_distribution


def cvar(values: np.ndarray, level: float) -> float:
    return float(np.sort(values)[: round(level * len(values))].mean())


def episode(env: gymnasium.Env, first_action: int) -> float:
    env.reset()
    _, total, terminated, truncated, _ = env.step(first_action)
    while not terminated:
        assert not truncated
        _, reward, terminated, truncated, _ = env.step(GO_ON)
        total += reward
    return total


def test_is_an_environment_and_is_registered() -> None:
    env = gymnasium.make("sb3_distrl.envs:RiskyCrossing-v0", render_mode="rgb_array")
    assert isinstance(env.unwrapped, RiskyCrossing)
    check_env(env.unwrapped)


def test_the_bridge_by_hand() -> None:
    values, probabilities = return_distribution(START, GO_ON)
    assert values.tolist() == [-90, -85, -80, -20]
    assert probabilities == pytest.approx([0.081, 0.09, 0.1, 0.729])
    values, _ = return_distribution(START, GO_ON, gamma=0.9)
    fallen = [-5 - 4.5 - 4.05 - 0.729 * 75, -5 - 4.5 - 0.81 * 75, -5 - 0.9 * 75]
    assert values.tolist() == pytest.approx(sorted([*fallen, -5 * (1 + 0.9 + 0.81 + 0.729)]))


def test_the_road_by_hand() -> None:
    """Eight fair coins."""
    values, probabilities = return_distribution(START, TURN)
    assert values.tolist() == list(range(-80, -39, 5))
    assert probabilities * 2**8 == pytest.approx([1, 8, 28, 56, 70, 56, 28, 8, 1])


@pytest.mark.parametrize("action", [GO_ON, TURN])
def test_returns_of_episodes(action: int) -> None:
    env = gymnasium.make("RiskyCrossing-v0")
    env.reset(seed=action)
    returns = np.array([episode(env, action) for _ in range(2000)])
    values, probabilities = return_distribution(START, action)
    shares = np.array([(returns == value).mean() for value in values])
    assert shares.sum() == 1
    assert np.abs(shares - probabilities).max() < 4 * np.sqrt(0.25 / 2000)


def test_mean_and_cvar_disagree_as_the_docstring_says() -> None:
    rows = [return_distribution(START, action) for action in (GO_ON, TURN)]
    means = [float(values @ probabilities) for values, probabilities in rows]
    draws = [np.repeat(values, np.round(probabilities * 256_000).astype(int)) for values, probabilities in rows]
    assert means == pytest.approx([-37.52, -60], abs=0.01)
    assert [cvar(each, 0.25) for each in draws] == pytest.approx([-85.04, -68.67], abs=0.01)


@pytest.mark.parametrize("state", [state for state in range(1, N_STATES) if state not in (HOME, WATER)])
def test_turning_round_is_dominated(state: int) -> None:
    """Outcome by outcome: the same returns, five minutes later."""
    assert outcomes(state, TURN) == [(1.0, state, -5.0)]
    (later, same), (values, probabilities) = (return_distribution(state, action) for action in (TURN, GO_ON))
    assert later.tolist() == (values - 5).tolist() and same == pytest.approx(probabilities)


def test_pictures_show_where_one_is() -> None:
    env = RiskyCrossing(render_mode="rgb_array")
    env.reset(seed=0)
    seen = [env.render()]
    for _ in range(3):
        env.step(TURN if len(seen) == 1 else GO_ON)
        seen.append(env.render())
    assert all(picture.shape == (96, 160, 3) and picture.dtype == np.uint8 for picture in seen)
    assert len({picture.tobytes() for picture in seen}) == 4
    env.state, env.fell_from = WATER, 2
    assert env.render().tobytes() not in {picture.tobytes() for picture in seen}
    assert RiskyCrossing().render() is None
