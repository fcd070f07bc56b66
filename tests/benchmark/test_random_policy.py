"""Mean returns of random actions, where they are known."""

from pathlib import Path
from typing import Any

import gymnasium
import pytest
from benchmark import random_policy

from tests.benchmark.suites import TRAINING, suite_file


class Doubling(gymnasium.Env):
    """Episode n, of two steps, has a return of 20,000 n."""

    observation_space = gymnasium.spaces.Discrete(1)
    action_space = gymnasium.spaces.Discrete(2)
    episode = steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        self.episode += 1
        self.steps = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return 0, 10_000.0 * self.episode, False, self.steps == 2, {}


def test_means_are_printed_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MountainCar is never solved by chance: -200 are its 200 steps."""
    gymnasium.register("Doubling-v0", Doubling)
    path = suite_file(tmp_path, **{**TRAINING, "steps": {"Doubling-v0": 100, "MountainCar-v0": 100}})
    random_policy.main([str(path), "--episodes", "3"])
    assert capsys.readouterr().out == "Doubling-v0: 40000.000\nMountainCar-v0: -200.000\n"
