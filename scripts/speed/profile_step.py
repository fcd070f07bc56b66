"""Time of a gradient step by operation: the ten most expensive ones, by torch's profiler, on Atari-shaped data."""

import argparse
from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from shared import ALGORITHMS, machine
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_distrl.common.algorithm import ValueAlgorithm


class Noise(gymnasium.Env):
    """Stacks of frames of noise."""

    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(6)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.frames = self.np_random.integers(0, 256, (4, 84, 84), dtype=np.uint8)
        return self.frames, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        new = self.np_random.integers(0, 256, (1, 84, 84), dtype=np.uint8)
        self.frames = np.concatenate([self.frames[1:], new])
        return self.frames, 0.0, False, bool(self.np_random.random() < 0.002), {}


def filled(algo: str, transitions: int, **kwargs: Any) -> ValueAlgorithm:
    """
    :param algo: name of the algorithm
    :param transitions: of noise, in its replay buffer
    :param kwargs: of the algorithm
    :return: a model that is ready to train
    """
    env = DummyVecEnv([Noise])
    sizes = dict(buffer_size=transitions, learning_starts=transitions, gradient_steps=0)
    model = ALGORITHMS[algo]("CnnPolicy", env, device="cpu", **sizes, **kwargs)  # type: ignore[arg-type]
    model.learn(transitions)
    return model


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", default="rainbow", choices=sorted(ALGORITHMS))
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--prioritized", action="store_true", help="for iqn and qrdqn, which are not by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--transitions", type=int, default=2_000)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args(arguments)

    th.set_num_threads(args.threads)
    kwargs: dict[str, Any] = dict(precision=args.precision, compile=args.compile)
    if args.prioritized:
        kwargs["prioritized"] = True
    model = filled(args.algo, args.transitions, **kwargs)
    model.train(5, 32)
    with th.profiler.profile() as profile:
        model.train(args.steps, 32)
    events = [event for event in profile.key_averages() if event.self_cpu_time_total > 0]
    total = sum(event.self_cpu_time_total for event in events)
    print(f"{machine()}; {args.algo}, {args.precision}{', compiled' if args.compile else ''}, {args.threads} thread(s)")
    print(f"{total / args.steps / 1000:.1f} ms of CPU per gradient step of 32 transitions, under the profiler")
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:10]:
        share, calls = event.self_cpu_time_total / total, event.count / args.steps
        print(f"{share:6.1%}  {event.self_cpu_time_total / args.steps / 1000:6.2f} ms  {calls:6.1f} calls  {event.key}")
