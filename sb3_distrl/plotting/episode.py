"""Figures and films of an episode with its distributions of returns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from matplotlib import animation
from matplotlib.figure import Figure
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.distribution import ValueDistribution
from sb3_distrl.plotting.density import FONT, draw_rows, limits_of, names_of
from sb3_distrl.validation import check_at_least

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}


class EpisodeStep(NamedTuple):
    """A state of an episode: its frame and distributions, the action taken there, and the sum of rewards before."""

    frame: np.ndarray  # uint8, shape [H, W, 3]
    distribution: ValueDistribution  # values of shape [A, Z]
    action: int
    score: float


def record_episode(
    model: ValueAlgorithm,
    env: gymnasium.Env | VecEnv,
    max_steps: int = 1000,
    deterministic: bool = True,
    seed: int | None = None,
) -> list[EpisodeStep]:
    """
    Play an episode and record it.

    :param model: model that acts, by its ``risk``
    :param env: a single environment, made with ``render_mode="rgb_array"``
    :param max_steps: maximum number of steps
    :param deterministic: as in ``predict``
    :param seed: seed of the environment
    :return: the states of the episode
    :raises ValueError: if the environment does not render images, or there are several
    """
    check_at_least("max_steps", max_steps, 1, "use the number of steps to record")
    venv = model._wrap_env(env, verbose=0, monitor_wrapper=False)
    if venv.num_envs != 1:
        raise ValueError(f"env has {venv.num_envs} environments: use one.")
    if venv.render_mode != "rgb_array":
        raise ValueError(f"env has render_mode={venv.render_mode}: make it with render_mode='rgb_array'.")
    if seed is not None:
        venv.seed(seed)
    obs: Any = venv.reset()
    moments: list[EpisodeStep] = []
    score = 0.0
    while len(moments) < max_steps:
        actions, _ = model.predict(obs, deterministic=deterministic)
        single = {key: value[0] for key, value in obs.items()} if isinstance(obs, dict) else obs[0]
        frame = np.array(venv.get_images()[0])
        moments.append(EpisodeStep(frame, model.predict_distribution(single), int(actions[0]), score))
        obs, rewards, dones, _ = venv.step(actions)
        score += float(rewards[0])
        if dones[0]:
            break
    return moments


def _check(moments: Sequence[EpisodeStep], action_names: Sequence[str] | None) -> list[str]:
    """:return: a name for each action"""
    if not moments:
        raise ValueError("moments=[] is empty: use what record_episode returned.")
    return names_of(len(moments[0].distribution.values), action_names)


def plot_film_strip(moments: Sequence[EpisodeStep], action_names: Sequence[str] | None = None, columns: int = 4) -> Figure:
    """
    Draw evenly spaced states of an episode, with the distributions below the frames.

    :param moments: states from :func:`record_episode`
    :param action_names: a name for each action
    :param columns: number of states to draw
    :return: a figure, to save with ``savefig``
    :raises ValueError: for an empty episode, or if the number of names is not the number of actions
    """
    check_at_least("columns", columns, 1, "use the number of states to show")
    names = _check(moments, action_names)
    steps = np.unique(np.linspace(0, len(moments) - 1, columns).round().astype(int))
    height, width = moments[0].frame.shape[:2]
    size = 2.3 * height / width
    figure = Figure(figsize=(1.5 + 2.4 * len(steps), 0.9 + size + 0.6 * len(names)), layout="constrained")
    ratios = [size, *(0.6 for _ in names)]
    axes = figure.subplots(1 + len(names), len(steps), squeeze=False, height_ratios=ratios)
    limits = limits_of(moments[step].distribution for step in steps)
    for column, step in enumerate(steps):
        moment = moments[step]
        axes[0, column].imshow(moment.frame)
        axes[0, column].axis("off")
        axes[0, column].set_title(f"step {step}", fontsize=FONT)
        draw_rows(list(axes[1:, column]), moment.distribution, names if column == 0 else None, limits, moment.action)
        if column == 0:  # the names label all columns, so none is marked as chosen
            for row, name in enumerate(names):
                axes[1 + row, 0].set_ylabel(name, fontweight="normal")
    figure.supxlabel("return from here on; strong colour: the action taken; black: means", fontsize=FONT)
    return figure


def save_film(
    moments: Sequence[EpisodeStep],
    path: str | Path,
    action_names: Sequence[str] | None = None,
    fps: int = 10,
    every: int = 1,
    dpi: int = 90,
) -> None:
    """
    Save an episode as a film, with the distributions beside the frames.

    :param moments: states from :func:`record_episode`
    :param path: .gif or .mp4 file to write; the latter needs the program ffmpeg
    :param action_names: a name for each action
    :param fps: frames per second
    :param every: steps of the episode for each frame of the film
    :param dpi: pixels per inch; the film is 6.5 inches wide
    :raises ValueError: for another suffix, an empty episode, or if the number of names is not the number of actions
    """
    path = Path(path)
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"path={path} must end with one of {', '.join(WRITERS)}.")
    if not animation.writers.is_available(writer):
        raise ValueError(f"path={path} needs the program {writer}, which was not found: install it, or write a .gif.")
    check_at_least("fps", fps, 1, "use the number of frames per second")
    check_at_least("every", every, 1, "use 1 for a frame of each step")
    names = _check(moments, action_names)
    limits = limits_of(moment.distribution for moment in moments)

    figure = Figure(figsize=(6.5, max(2.6, 0.8 + 0.6 * len(names))), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1, 1.25])[0]
    picture = left.subplots()
    picture.axis("off")
    image = picture.imshow(moments[0].frame)
    rows = list(right.subplots(len(names), 1, squeeze=False)[:, 0])

    def show(step: int) -> None:
        moment = moments[step]
        image.set_data(moment.frame)
        picture.set_title(f"step {step}, score {moment.score:.0f}", fontsize=FONT)
        draw_rows(rows, moment.distribution, names, limits, moment.action)
        rows[-1].set_xlabel("return from here on", fontsize=FONT)

    steps = range(0, len(moments), every)
    film = animation.FuncAnimation(figure, show, frames=steps, init_func=lambda: None, cache_frame_data=False)
    film.save(path, writer=writer, fps=fps, dpi=dpi)
