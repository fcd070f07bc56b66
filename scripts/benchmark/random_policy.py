"""Mean returns of uniformly random actions, for the ``normalise`` field of a suite."""

import argparse

import gymnasium
import numpy as np
from tqdm import trange

from benchmark.suite import Suite, names


def mean_return(env_id: str, episodes: int) -> float:
    """
    :param env_id: name of an environment
    :param episodes: how many
    :return: mean return of their random actions
    """
    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    returns = np.zeros(episodes)
    for episode in trange(episodes, desc=env_id):
        env.reset(seed=0 if episode == 0 else None)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            returns[episode] += float(reward)
            over = terminated or truncated
    return float(returns.mean())


def main(arguments: list[str]) -> None:
    """:param arguments: of the command line"""
    parser = argparse.ArgumentParser(prog="benchmark random_policy", description=__doc__)
    parser.add_argument("suite", help=f"{', '.join(names())}, or a YAML file like theirs")
    parser.add_argument("--episodes", type=int, default=1000)
    args = parser.parse_args(arguments)
    for env_id in Suite.named(args.suite).steps:
        print(f"{env_id}: {mean_return(env_id, args.episodes):.3f}")
