"""Pictures of distributions: what they show, that files are what they seem, and mistakes."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Figure as LoggedFigure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_distrl import IQN
from sb3_distrl.common.distribution import ValueDistribution
from sb3_distrl.envs import RiskyCrossing
from sb3_distrl.plotting import (
    EpisodeStep,
    ValueDistributionCallback,
    plot_distribution,
    plot_film_strip,
    plot_spread,
    record_episode,
    save_film,
)
from sb3_distrl.plotting.density import density_of, limits_of
from tests.common.envs import CountingEnv, vec_env
from tests.common.settings import ALGORITHMS, SETTINGS, make, record

NAMES = ["bridge", "road"]


class PictureEnv(CountingEnv):
    """A counting environment with pictures."""

    render_mode = "rgb_array"

    def render(self) -> np.ndarray:
        return np.full((4, 5, 3), self.steps, np.uint8)


def distribution(*shape: int, seed: int = 0) -> ValueDistribution:
    return ValueDistribution(np.random.default_rng(seed).normal(size=shape), np.full(shape, 1 / shape[-1]))


@pytest.fixture(scope="module")
def moments() -> list[EpisodeStep]:
    model = make(IQN, RiskyCrossing(), policy_kwargs=dict(net_arch=[8]))
    return record_episode(model, RiskyCrossing(render_mode="rgb_array"), 30, deterministic=False, seed=3)


def drawn(figure: Figure, tmp_path: Path) -> np.ndarray:
    """:return: the figure as a user sees it, bytes"""
    figure.savefig(tmp_path / "figure.png")
    return np.asarray(Image.open(tmp_path / "figure.png").convert("RGB"))


def test_density_integrates_to_one() -> None:
    values, probabilities = np.array([-3.0, 0.0, 0.0, 0.0, 1.0, 5.0]), np.array([0.1, 0.2, 0.1, 0.2, 0.3, 0.1])
    x = np.linspace(-6, 8, 20_001)
    density = density_of(values, probabilities, x, 0.1)
    assert (density >= 0).all() and np.trapezoid(density, x) == pytest.approx(1, abs=1e-3)
    # The atom between two equal ones is a spike; these two are spread over 1.5 to the left and 0.5 to the right
    near = (density * (np.abs(x) < 0.1)).sum() * (x[1] - x[0])
    assert near == pytest.approx(0.1 + 0.2 * 0.1 / 1.5 + 0.2 * 0.1 / 0.5, abs=0.02)


def test_one_state(tmp_path: Path) -> None:
    dist = distribution(2, 9)
    figure = plot_distribution(dist, NAMES, chosen=1, title="here")
    assert [ax.get_ylabel() for ax in figure.axes] == ["bridge", "\u25b6 road"]
    lines = [ax.get_lines()[0].get_xdata()[0] for ax in figure.axes]
    assert lines == pytest.approx(dist.mean())
    assert "return" in figure.axes[-1].get_xlabel()
    low, high = figure.axes[0].get_xlim()
    assert low < dist.values.min() and dist.values.max() < high
    assert len(np.unique(drawn(figure, tmp_path).reshape(-1, 3), axis=0)) > 10


def test_atoms_without_probability_do_not_widen_the_axis() -> None:
    dist = ValueDistribution(np.array([[-100.0, 0.0, 1.0, 100.0]]), np.array([[0.0, 0.5, 0.5, 0.0]]))
    assert limits_of([dist]) == pytest.approx((-0.06, 1.06))


@pytest.mark.parametrize("n_quantiles", [1000, 2000])
def test_any_number_of_quantiles(n_quantiles: int, tmp_path: Path) -> None:
    quantiles = np.linspace(0, 10, n_quantiles)[None].repeat(2, axis=0).astype(np.float32)
    dist = ValueDistribution(quantiles, np.full_like(quantiles, 1 / n_quantiles))
    assert limits_of([dist]) == pytest.approx((-0.6, 10.6), abs=0.05)
    drawn(plot_distribution(dist, NAMES), tmp_path)
    drawn(plot_spread([0, 10], [dist, dist]), tmp_path)


def test_the_axis_shows_all_but_the_last_tails() -> None:
    many = np.full((1, 400), 5e-4)
    many[0, 200] += 1 - many.sum()
    low, high = limits_of([ValueDistribution(np.arange(400.0)[None], many)])
    assert low < 5 and high > 394, "atoms with little probability each, but together much"


def test_certain_returns_have_an_axis_too(tmp_path: Path) -> None:
    drawn(plot_distribution(ValueDistribution(np.full((2, 4), 3.0), np.full((2, 4), 0.25))), tmp_path)


@pytest.mark.parametrize("n_actions", [1, 7])
def test_any_number_of_actions(n_actions: int, tmp_path: Path) -> None:
    dists = [distribution(n_actions, 5, seed=seed) for seed in range(3)]
    drawn(plot_distribution(dists[0]), tmp_path)
    drawn(plot_spread([0, 10, 20], dists), tmp_path)


def test_an_episode_is_that_of_the_model(moments: list[EpisodeStep]) -> None:
    model = make(IQN, RiskyCrossing(), policy_kwargs=dict(net_arch=[8]))
    played = record_episode(model, RiskyCrossing(render_mode="rgb_array"), 30, seed=3)
    assert moments[0].score == 0 and len(moments) <= 30
    first = model.predict_distribution(np.int64(0))
    assert np.array_equal(played[0].distribution.values, first.values)
    assert played[0].action == model.predict(np.int64(0), deterministic=True)[0]
    assert played[0].frame.shape == (96, 160, 3)
    rewards = np.diff([moment.score for moment in played])
    assert set(rewards) <= {-5.0, -10.0}


@pytest.mark.parametrize("kind", ["image", "dict"])
def test_episodes_of_images_and_dicts(kind: str) -> None:
    model = make(ALGORITHMS["QRDQN"], kind=kind)
    played = record_episode(model, PictureEnv(kind), 20)
    assert [int(moment.frame[0, 0, 0]) for moment in played] == list(range(len(played)))
    assert 5 <= len(played) <= 8 and played[0].distribution.values.shape == (3, 9)


def test_film_strip(moments: list[EpisodeStep], tmp_path: Path) -> None:
    figure = plot_film_strip(moments, NAMES, columns=3)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    n = len(moments)
    assert titles == [f"step {step}" for step in sorted({0, round((n - 1) / 2), n - 1})]
    drawn(figure, tmp_path)
    assert len(plot_film_strip(moments[:1], NAMES).axes) == 3  # fewer moments than columns


def test_film(moments: list[EpisodeStep], tmp_path: Path) -> None:
    save_film(moments, tmp_path / "film.gif", NAMES, fps=5, every=2)
    film = Image.open(tmp_path / "film.gif")
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    assert film.info["duration"] == 200 and 1 < len(frames) <= (len(moments) + 1) // 2
    assert not np.array_equal(frames[0], frames[-1])


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda moments, path: save_film(moments, path / "film.avi"), r"film.avi must end with one of .gif, .mp4"),
        (lambda moments, path: save_film([], path / "film.gif"), r"moments=\[\] is empty"),
        (lambda moments, path: save_film(moments, path / "film.gif", every=0), "every=0 must be at least 1"),
        (lambda moments, path: save_film(moments, path / "film.gif", ["one"]), r"action_names=\['one'\] must be 2"),
        (lambda moments, path: plot_film_strip(moments, columns=0), "columns=0 must be at least 1"),
        (lambda moments, path: plot_distribution(distribution(4, 2, 9)), r"shape \(4, 2, 9\).*single observation"),
        (lambda moments, path: plot_distribution(distribution(2, 9), ["a", "b", "c"]), "must be 2 names, one for each"),
        (lambda moments, path: plot_spread([1], []), "steps has 1 and distributions 0"),
        (lambda moments, path: record_episode(make(IQN), vec_env(), 0), "max_steps=0"),
        (lambda moments, path: record_episode(make(IQN), vec_env(), 5), "render_mode=None.*rgb_array"),
        (lambda moments, path: record_episode(make(IQN), vec_env(n_envs=2), 5), "env has 2 environments"),
        (lambda moments, path: ValueDistributionCallback(0), "freq=0 must be at least 1"),
    ],
)
def test_mistakes(draw: Any, says: str, moments: list[EpisodeStep], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        draw(moments, tmp_path)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_callback_logs_what_the_model_says(name: str) -> None:
    model = make(ALGORITHMS[name], vec_env(n_envs=2))
    recorder = record(model)
    callback = ValueDistributionCallback(20)
    obs = model.env.reset()
    callback.observations = obs.copy()
    before = model.predict_distribution(obs)
    model.learn(100, callback=callback, log_interval=1)
    assert callback.steps == [0, 20, 40, 60, 80, 100]
    assert np.array_equal(callback.distributions[0].values, before.values[0])
    model.dump_logs()
    after = model.predict_distribution(obs)
    callback._log()
    model.dump_logs()
    greedy = after.mean().argmax(axis=1)
    line = recorder.lines[-1]
    assert line["distribution/spread"] == pytest.approx(float(after.std()[[0, 1], greedy].mean()), rel=1e-5)
    assert line["distribution/mean"] == pytest.approx(float(after.mean()[[0, 1], greedy].mean()), rel=1e-5)
    figures = [line["distribution/figure"] for line in recorder.lines if "distribution/figure" in line]
    assert figures and all(isinstance(figure, LoggedFigure) for figure in figures)
    assert isinstance(plot_spread(callback.steps, callback.distributions), Figure)


def test_callback_takes_the_first_observations() -> None:
    model = make(IQN, vec_env(n_envs=3))
    callback = ValueDistributionCallback(1000)
    model.learn(30, callback=callback)
    assert callback.observations[:, 0].tolist() == [0, 1, 2] and callback.observations[:, 2].tolist() == [0, 0, 0]


def test_tensorboard_has_the_figure(tmp_path: Path) -> None:
    model = make(IQN, tensorboard_log=str(tmp_path))
    model.learn(60, callback=ValueDistributionCallback(20), log_interval=1)
    events = EventAccumulator(str(tmp_path / "IQN_1")).Reload()
    assert "distribution/figure" in events.Tags()["images"]
    assert {"distribution/spread", "distribution/mean"} <= set(events.Tags()["scalars"])


def test_callback_needs_distributions() -> None:
    with pytest.raises(ValueError, match="model=DQN has no distributions"):
        DQN("MlpPolicy", gym.make("CartPole-v1"), buffer_size=10).learn(1, callback=ValueDistributionCallback(1))
    with pytest.raises(ValueError, match="distributional=False"):
        make(SETTINGS["DQN"]).learn(10, callback=ValueDistributionCallback(1))
