"""A choice between a short, risky way and a long, safe one, with known distributions of returns."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ENV_ID = "RiskyCrossing-v0"
MAX_EPISODE_STEPS = 100
GO_ON, TURN = 0, 1
ACTION_NAMES = ("go on: the bridge", "turn: the road")  # at the start

# States, and their rows and columns on the map
START, HOME, WATER = 0, 11, 12
BRIDGE, ROAD = (1, 2, 3), (4, 5, 6, 7, 8, 9, 10)
PLACES = {START: (0, 0), 1: (0, 1), 2: (0, 2), 3: (0, 3), HOME: (0, 4)}
PLACES |= dict(zip(ROAD, [(1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4), (1, 4)], strict=True))
N_STATES, ROWS, COLUMNS = 13, 3, 5

# Rewards, in negative minutes
STEP = -5.0  # on the bridge, or for turning round
SMOOTH, JAM = -5.0, -10.0  # each step on the road; equally likely
SWIM = -75.0  # blown into the water
GUST = 0.1  # probability, in each step that starts on the bridge

CELL = 32  # pixels
SKY, WOOD, GREY = (240, 240, 240), (204, 160, 110), (150, 150, 150)
BLUE, GREEN, ORANGE = (86, 180, 233), (0, 158, 115), (213, 94, 0)

Outcome = tuple[float, int, float]  # probability, next state, reward


def outcomes(state: int, action: int) -> list[Outcome]:
    """:return: the possible outcomes of action 0 or 1 in a state from 0 to 10"""
    if state == START:
        return [(1.0, BRIDGE[0], STEP)] if action == GO_ON else _road(ROAD[0])
    if action == TURN:
        return [(1.0, state, STEP)]
    if state in BRIDGE:
        return [(GUST, WATER, SWIM), (1 - GUST, HOME if state == BRIDGE[-1] else state + 1, STEP)]
    return _road(state + 1)  # HOME follows the last state of the road


def _road(next_state: int) -> list[Outcome]:
    return [(0.5, next_state, SMOOTH), (0.5, next_state, JAM)]


def return_distribution(state: int, action: int, gamma: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute the exact distribution of the return after an action, if the agent goes on (action 0) from then on.

    :param state: state, from 0 to 10
    :param action: 0 or 1
    :param gamma: discount factor
    :return: values in ascending order, in minutes, and their probabilities, both of shape [Z]
    """
    masses: dict[float, float] = {}
    for probability, next_state, reward in outcomes(state, action):
        rest = {0.0: 1.0}
        if next_state not in (HOME, WATER):
            rest = dict(zip(*(part.tolist() for part in return_distribution(next_state, GO_ON, gamma)), strict=True))
        for value, mass in rest.items():
            total = round(reward + gamma * value, 9)
            masses[total] = masses.get(total, 0.0) + probability * mass
    values = sorted(masses)
    return np.array(values), np.array([masses[value] for value in values])


class RiskyCrossing(gymnasium.Env):
    """
    The way home over a bridge or round a lake. Rewards are negative minutes; with ``gamma=1`` so are returns.

    At the start, action 0 takes the bridge: four steps of 5 minutes, but in each of the last three a gust blows the agent into
    the water with probability 0.1, which costs 75 minutes and ends the episode. Action 1 takes the road: eight steps of 5 or
    10 minutes, equally likely. Later, action 0 goes on, and action 1 turns round, which costs 5 minutes.

    The bridge takes 37.5 minutes on average and 85 in the worst 25% of cases, the road 60 and 69. After the start, turning
    round is always worse, so every policy that maximises an increasing risk measure goes on. The distributions of returns at
    the start are therefore the same for all such policies, and those learned by maximising the mean are also correct for a
    risk-averse policy. In general this does not hold.

    The observation is the place: 0 is the start, 1 to 3 the bridge, 4 to 10 the road, 11 home, 12 the water.

    :param render_mode: "rgb_array" or ``None``
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Discrete(N_STATES)
        self.action_space = spaces.Discrete(2)
        self.state = self.fell_from = START

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = START
        return np.int64(self.state), {}

    def step(self, action: int) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        possible = outcomes(self.state, int(action))
        chosen = self.np_random.choice(len(possible), p=[probability for probability, _, _ in possible])
        _, next_state, reward = possible[chosen]
        if next_state == WATER:
            self.fell_from = self.state
        self.state = next_state
        return np.int64(self.state), reward, self.state in (HOME, WATER), False, {}

    def render(self) -> np.ndarray | None:
        """:return: with ``render_mode="rgb_array"``, the map as a uint8 image of shape [96, 160, 3]"""
        if self.render_mode != "rgb_array":
            return None
        cells = np.full((ROWS, COLUMNS, 3), BLUE, dtype=np.uint8)
        for state, place in PLACES.items():
            cells[place] = WOOD if state in BRIDGE else GREEN if state == HOME else SKY if state == START else GREY
        image = cells.repeat(CELL, axis=0).repeat(CELL, axis=1)
        image[::CELL] = image[:, ::CELL] = 255
        row, column = (1, PLACES[self.fell_from][1]) if self.state == WATER else PLACES[self.state]
        rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
        center = (row + 0.5) * CELL, (column + 0.5) * CELL
        image[(rows - center[0]) ** 2 + (columns - center[1]) ** 2 < (0.32 * CELL) ** 2] = ORANGE
        return image


gymnasium.register(ENV_ID, entry_point=f"{__name__}:RiskyCrossing", max_episode_steps=MAX_EPISODE_STEPS)
