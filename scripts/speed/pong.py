"""A short run of PongNoFrameskip-v4 with CnnPolicy: it runs, learns, evaluates, saves and loads; steps/s and memory."""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch as th
from shared import ALGORITHMS, load_settings, machine, make_env
from stable_baselines3.common.evaluation import evaluate_policy

ENV = "PongNoFrameskip-v4"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", default="rainbow", choices=["rainbow", "iqn"])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--buffer-size", type=int, default=50_000)
    parser.add_argument("--learning-starts", type=int, default=5_000)
    parser.add_argument("--games", type=int, default=2, help="evaluation games; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    settings = load_settings(args.algo, ENV)
    del settings["n_timesteps"]
    settings.update(buffer_size=args.buffer_size, learning_starts=args.learning_starts, seed=args.seed)
    algorithm = ALGORITHMS[args.algo]
    model = algorithm(env=make_env(ENV, args.seed), **settings)

    start = time.perf_counter()
    gradient_steps, model.gradient_steps = model.gradient_steps, 0  # these steps are only collected
    model.learn(args.learning_starts, progress_bar=True)
    model.gradient_steps = gradient_steps
    collected = time.perf_counter()
    model.learn(args.steps - args.learning_starts, reset_num_timesteps=False, progress_bar=True)
    learned = time.perf_counter()
    model.logger.dump(model.num_timesteps)

    eval_env = make_env(ENV, args.seed + 1000, evaluation=True)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.zip")
        loaded = algorithm.load(Path(folder) / "model.zip")
    obs = eval_env.reset()
    assert isinstance(obs, np.ndarray)
    same = bool((loaded.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all())

    print(machine() + f", {th.get_num_threads()} threads")
    print(f"{args.algo}: {model.num_timesteps} steps, {model._n_updates} gradient steps")
    print(f"collecting {args.learning_starts / (collected - start):.0f} steps/s before learning starts")
    print(f"learning {(args.steps - args.learning_starts) / (learned - collected):.1f} steps/s")
    print(f"loaded model acts the same: {same}")
    if args.games:
        mean, std = evaluate_policy(model, eval_env, n_eval_episodes=args.games)
        print(f"evaluation {mean:.1f} +- {std:.1f} over {args.games} games")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
