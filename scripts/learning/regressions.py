"""Does learning still work? Training runs of seconds or a minute or two, and what they return when something is broken."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from shared import load_settings, machine, make_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from tqdm import tqdm

from sb3_distrl import Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.rainbow import rainbow

LENGTH = 12
SAFE = (0.3, 0.14)  # at once
PAYOFF = (0.5, 1.0)  # at the end of each corridor
PROBABILITY = (1.0, 0.1)  # of the payoff


class Corridors(gymnasium.Env):
    """
    Two corridors, of which one is entered at random. At its entrance, action 0 ends the episode with a safe reward; action 1,
    and afterwards both actions, lead to its end, where the first one pays more than it was safe to take, and the second one
    rarely pays much, but less on average.

    To go down the first, values must come back along the corridor unharmed. To stay out of the second, the rare payoff, which
    prioritized replay samples more often, must not count more often. The observation of the last step is that of the cell
    where it was taken, so that values that go on after the end are wrong.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (2 * LENGTH,), np.float32)
        self.action_space = spaces.Discrete(2)

    def observation(self, corridor: int, cell: int) -> np.ndarray:
        """:return: one-hot, shape [2 * LENGTH]"""
        observation = np.zeros(2 * LENGTH, np.float32)
        observation[corridor * LENGTH + cell] = 1.0
        return observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.corridor, self.cell = int(self.np_random.integers(2)), 0
        return self.observation(self.corridor, 0), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation = self.observation(self.corridor, self.cell)
        if self.cell == 0 and action == 0:
            return observation, SAFE[self.corridor], True, False, {}
        if self.cell == LENGTH - 1:
            paid = self.np_random.random() < PROBABILITY[self.corridor]
            return observation, PAYOFF[self.corridor] * paid, True, False, {}
        self.cell += 1
        return self.observation(self.corridor, self.cell), 0.0, False, False, {}


def expected_return(model: Rainbow) -> float:
    """
    :param model: trained in Corridors
    :return: of its greedy policy
    """
    env = Corridors()
    entrances = np.stack([env.observation(corridor, 0) for corridor in range(2)])
    actions, _ = model.predict(entrances, deterministic=True)
    return float(np.mean(np.where(actions == 0, SAFE, np.multiply(PAYOFF, PROBABILITY))))


def learn_corridors(seed: int) -> float:
    """
    :param seed: seed
    :return: expected return of Rainbow's greedy policy, with all six components
    """
    policy_kwargs = dict(net_arch=[32], n_atoms=17, v_min=-1.0, v_max=1.0, optimizer_kwargs=dict(eps=1e-8))
    model = Rainbow(
        "MlpPolicy",
        make_vec_env(Corridors, n_envs=8),  # and a large batch: fewer and larger steps take less time
        learning_rate=LinearSchedule(4e-3, 0.0, 1.0),
        buffer_size=8000,
        learning_starts=500,
        train_freq=1,
        batch_size=128,
        target_update_interval=100,
        beta_initial=1.0,
        policy_kwargs=policy_kwargs,
        seed=seed,
    )
    return expected_return(model.learn(8000))


def learn_cartpole(seed: int) -> float:
    """
    :param seed: seed
    :return: mean return of 100 episodes of Rainbow after 20,000 steps, with the settings of hyperparams/ otherwise
    """
    settings = load_settings("rainbow", "CartPole-v1")
    del settings["n_timesteps"]
    model = Rainbow(env=make_env("CartPole-v1", seed), seed=seed, **settings).learn(20_000)
    mean, _ = evaluate_policy(model, make_env("CartPole-v1", seed + 1000, n_envs=20), n_eval_episodes=100)
    assert isinstance(mean, float)
    return mean


# What could be broken


def without_ends(batch: Any) -> Any:
    """:return: the batch as if episodes had no end"""
    return batch._replace(dones=th.zeros_like(batch.dones))


def without_weights(batch: Any) -> Any:
    """:return: the batch without importance-sampling weights"""
    return batch._replace(weights=th.ones_like(batch.weights))


def lower_neighbour(target_atoms: th.Tensor, probs: th.Tensor, support: th.Tensor) -> th.Tensor:
    """:return: projection that gives all mass to the atom below"""
    position = (target_atoms.clamp(support[0], support[-1]) - support[0]) / (support[1] - support[0])
    return th.zeros_like(probs).scatter_add_(1, position.floor().long(), probs)


def loses_mass(target_atoms: th.Tensor, probs: th.Tensor, support: th.Tensor) -> th.Tensor:
    """:return: projection by floor and ceil, which loses the mass that falls exactly on an atom"""
    position = (target_atoms.clamp(support[0], support[-1]) - support[0]) / (support[1] - support[0])
    lower, upper = position.floor(), position.ceil()
    mass = th.zeros_like(probs).scatter_add_(1, lower.long(), probs * (upper - position))
    return mass.scatter_add_(1, upper.long(), probs * (position - lower))


SAMPLE = ValueAlgorithm.sample
MUTATIONS: dict[str, tuple[Any, str, Any]] = {
    "target: no ends": (ValueAlgorithm, "sample", lambda self, size: without_ends(SAMPLE(self, size))),
    "weight: none": (ValueAlgorithm, "sample", lambda self, size: without_weights(SAMPLE(self, size))),
    "projection: lower neighbour": (rainbow, "project_categorical", lower_neighbour),
    "projection: loses mass": (rainbow, "project_categorical", loses_mass),
}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """:param name: of a mutation to train with, or None"""
    if name is None:
        yield
    else:
        with patch.object(*MUTATIONS[name]):
            yield


class Check(NamedTuple):
    """
    :param learn: from a seed to a return
    :param bound: that the return exceeds
    :param catches: mutations that stay below it
    """

    learn: Callable[[int], float]
    bound: float
    catches: tuple[str, ...]


CHECKS = {
    "Corridors": Check(learn_corridors, 0.31, tuple(MUTATIONS)),  # 0.32 for both decisions right, 0.30 or less otherwise
    "CartPole-v1, 20,000 steps": Check(learn_cartpole, 130.0, ("target: no ends",)),  # which the others leave as good as it is
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, help="Markdown file")
    args = parser.parse_args(arguments)
    th.set_num_threads(1)
    lines = ["# What learning needs, and what breaks it", "", machine(), ""]
    lines += [
        "Returns of Rainbow as it is, and with something broken in it, for each seed. CI asks for more than the bound.",
        "",
    ]
    lines += [f"| environment | bound | broken | {' | '.join(f'seed {seed}' for seed in args.seeds)} |"]
    lines += ["|---|---:|---|" + "---:|" * len(args.seeds)]
    for (env_id, check), broken in tqdm([(item, name) for item in CHECKS.items() for name in (None, *item[1].catches)]):
        with mutated(broken):
            returns = " | ".join(f"{check.learn(seed):.3g}" for seed in args.seeds)
        lines.append(f"| {env_id} | {check.bound:g} | {broken or 'nothing'} | {returns} |")
        print(lines[-1], flush=True)
    if args.output:
        args.output.write_text("\n".join(lines) + "\n")
