"""
Ape-X against SubprocVecEnv: speed of collecting and learning, cost of actors, and capacity of the learner.

For each number of actors, with one environment each, Rainbow with SubprocVecEnv and ApeXRainbow take turns, each in its own
process:

- collecting, with the network acting and no gradient steps: environment steps per second, and CPU seconds of all processes per
  1,000 transitions, which do not depend on the number of cores;
- training with a gradient step for every 4 transitions: environment steps per second;
- Ape-X alone, learner and actors each as fast as they can: gradient steps per second.

The learner is also measured without actors, with a replay buffer that was filled before. The first seconds of each are left
out. The time that the learner takes for each transition and for sending weights is measured as well; from it the report
computes how many actors the learner could serve.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import datetime
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch as th
from shared import make_env, processor, versions
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import SubprocVecEnv
from tqdm import tqdm

from sb3_distrl import Rainbow
from sb3_distrl.distributed import ApeXRainbow

RESULTS = Path(__file__).parent / "results"

SETTINGS: dict[str, dict[str, Any]] = {
    "CartPole-v1": dict(policy="MlpPolicy", batch_size=64, policy_kwargs=dict(net_arch=[128, 128], v_min=0.0, v_max=100.0)),
    "PongNoFrameskip-v4": dict(policy="CnnPolicy", batch_size=32, buffer_size=100_000),
}
COMMON: dict[str, Any] = dict(learning_starts=200, target_update_interval=8000, buffer_size=100_000, seed=0, device="cpu")
WARM_UP, SECONDS = 2.0, 5.0  # of each measurement
COLLECT, TRAIN, LEARN = 1e-6, 0.25, 1e3  # gradient steps per transition: none, Rainbow's, or as many as there is time for
BEYOND = """
## Beyond one learner's time

With a batch of B transitions for each gradient step and g gradient steps/s, the learner's time goes to g steps and to what R
transitions/s from all actors take: R times the microseconds above. Where that is too much, the replay would be cut into S
shards in processes of their own, each with 1/S of the actors: a shard keeps frames and the tree of its transitions, and tells
the learner the total of its masses with each message. For a batch the learner draws how many transitions come from each shard,
a multinomial with the totals, asks for them, and sends priorities back. Weights need only the totals and the masses of what
was drawn, so that sampling stays in proportion to priority; the learner's time then depends on B and g, and no longer on R.
"""
PAPER = (256, 360, 1000)  # actors
PAPER_RATE = 139.0 / 4  # transitions/s of an actor with one core (Horgan et al. 2018, appendix C: 139 frames/s)


class Stopwatch(BaseCallback):
    """Ends the training after the warm-up and the measurement, and keeps what was counted between them."""

    def __init__(self) -> None:
        super().__init__()
        self.begin: tuple[float, ...] | None = None

    def counts(self) -> tuple[float, ...]:
        """:return: time, transitions, gradient steps, CPU seconds of all processes"""
        cpu = sum(cpu_seconds(process) for process in (psutil.Process(), *psutil.Process().children(recursive=True)))
        return time.perf_counter(), self.num_timesteps, self.model._n_updates, cpu  # type: ignore[attr-defined]

    def _on_training_start(self) -> None:
        self.start: float | None = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        now = time.perf_counter()
        if self.num_timesteps > COMMON["learning_starts"]:
            self.start = self.start or now
            if self.begin is None and now - self.start > WARM_UP:
                self.begin = self.counts()
                for stopwatch in getattr(self.model, "stopwatches", {}).values():
                    stopwatch.clear()
            elif self.begin is not None and now - self.begin[0] > SECONDS:
                self.end = self.counts()
                self.model._total_timesteps = self.num_timesteps  # a rollout may never come back to SB3's loop otherwise
                raise Measured


class Measured(Exception):
    """The measurement is complete."""


def cpu_seconds(process: psutil.Process) -> float:
    """:return: what a process has used, 0 if it has ended"""
    try:
        return sum(process.cpu_times()[:2])
    except psutil.Error:
        return 0.0


class TimedApeX(ApeXRainbow):
    """Keeps how long the learner's dealings with actors take."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.stopwatches: dict[str, list[tuple[float, int]]] = {"insert": [], "weights": []}
        super().__init__(*args, **kwargs)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if self._intake is not None and not hasattr(self._intake, "timed"):
            self._intake.timed = True  # type: ignore[attr-defined]
            insert, publish = self._intake.insert, self._intake.actors.publish

            def timed_insert(actor: int, report: Any, *args: Any) -> bool:
                start = time.perf_counter()
                going_on = insert(actor, report, *args)
                self.stopwatches["insert"].append((time.perf_counter() - start, report.block.rewards.size))
                self.wire = report.block.nbytes() / report.block.rewards.size
                return going_on

            def timed_publish(weights: Any) -> None:
                start = time.perf_counter()
                publish(weights)
                self.stopwatches["weights"].append((time.perf_counter() - start, 1))

            self._intake.insert = timed_insert  # type: ignore[assignment, method-assign]
            self._intake.actors.publish = timed_publish  # type: ignore[method-assign]
        return super().collect_rollouts(*args, **kwargs)

    def _weights(self) -> Any:
        start = time.perf_counter()
        weights = super()._weights()
        self.stopwatches["weights"].append((time.perf_counter() - start, 0))
        return weights


def measure(env_id: str, kind: str, n: int, ratio: float) -> dict[str, float]:
    """
    :param env_id: name of an environment
    :param kind: "apex", "subproc" or "alone"
    :param n: actors, or processes of SubprocVecEnv, with one environment each
    :param ratio: gradient steps per transition
    :return: what was measured
    """
    th.set_num_threads(1)
    settings = {**COMMON, **SETTINGS[env_id]}
    policy = settings.pop("policy")
    model: Any
    if kind == "apex":
        make = partial(make_env, env_id, 0)
        waiting = dict(cpus_per_actor=min(1.0, (os.cpu_count() or 1) / n), tolerance=10**9 if ratio == LEARN else None)
        model = TimedApeX(policy, make, n_actors=n, replay_ratio=ratio, **waiting, **settings)
    else:
        envs = make_env(env_id, 0, n_envs=n, vec_env_cls=SubprocVecEnv if n > 1 or kind == "subproc" else None)
        model = Rainbow(policy, envs, replay_ratio=ratio, train_freq=1, **settings)
    if kind == "alone":
        model.learning_starts, model.gradient_steps = 10_000, 0  # random actions, which are only collected
        model.learn(2_000)
        return learner_alone(model)
    stopwatch = Stopwatch()
    try:
        model.learn(10**9, callback=stopwatch, log_interval=10**9)
    except Measured:
        pass
    seconds, transitions, updates, cpu = np.subtract(stopwatch.end, stopwatch.begin)  # type: ignore[arg-type]
    found = dict(steps=transitions / seconds, updates=updates / seconds, cpu=1000 * cpu / max(transitions, 1))
    if kind == "apex":
        for name, times in model.stopwatches.items():
            found[name] = sum(t for t, _ in times) / max(sum(count for _, count in times), 1)
        found["wire"] = model.wire
    return found


def learner_alone(model: Rainbow) -> dict[str, float]:
    """
    :param model: with transitions in its replay buffer
    :return: its gradient steps per second
    """
    for seconds in (WARM_UP / 2, SECONDS):
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            model.gradient_step(model.sample(model.batch_size))
            done += 1
        rate = done / (time.perf_counter() - start)
    return dict(updates=rate)


def in_a_process(*arguments: Any) -> dict[str, float]:
    """:return: what :func:`measure` returns"""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).parent), "scaling", "--measure", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{arguments} failed:\n{run.stderr[-3000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def median(results: list[dict[str, float]], name: str) -> float:
    """:return: over rounds"""
    return float(np.median([result[name] for result in results]))


def ratio(a: list[dict[str, float]], b: list[dict[str, float]], name: str) -> float:
    """:return: median over rounds of the ratios within a round"""
    return float(np.median([x[name] / y[name] for x, y in zip(a, b, strict=True)]))


def report(env_id: str, counts: list[int], found: dict[tuple, list[dict[str, float]]]) -> str:
    """
    :param env_id: name of the environment
    :param counts: of actors
    :param found: by kind, number and ratio
    :return: Markdown
    """
    columns = ["collecting, steps/s", "CPU s per 1,000 transitions", "training, steps/s"]
    lines = [
        "",
        f"## {env_id}",
        "",
        f"| actors | {' | '.join(f'{c}: Ape-X | SubprocVecEnv' for c in columns)} | learner kept |",
    ]
    lines.append("|---:" * 8 + "|")
    for n in counts:
        cells = [str(n)]
        for r, name in ((COLLECT, "steps"), (COLLECT, "cpu"), (TRAIN, "steps")):
            apex, subproc = found["apex", n, r], found["subproc", n, r]
            cells += [f"{median(apex, name):,.2f} ({ratio(apex, subproc, name):.2f})", f"{median(subproc, name):,.2f}"]
        cells.append(f"{ratio(found['apex', n, LEARN], found['alone', 1, LEARN], 'updates'):.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    every = [result for (kind, *_), results in found.items() if kind == "apex" for result in results]
    learning = [result for (kind, _, r), results in found.items() if (kind, r) == ("apex", LEARN) for result in results]
    insert, weights = median(every, "insert"), median(learning, "weights")
    lines += [
        "",
        f"In brackets: times SubprocVecEnv. The learner without actors does {median(found['alone', 1, LEARN], 'updates'):.1f} "
        "gradient steps/s; kept is the share of them that it does while actors send as fast as they can.",
        "",
        f"A transition takes {median(every, 'wire'):,.0f} bytes on the wire before compression, and {1e6 * insert:.1f} "
        f"microseconds of the learner; sending weights {1e3 * weights:.1f} ms, once for all actors.",
        "",
        f"On paper, with actors of {PAPER_RATE:.0f} transitions/s as in Horgan et al. 2018, each on a core of its own: "
        + "; ".join(f"{n:,} actors take {n * PAPER_RATE * insert:.0%} of the learner's time" for n in PAPER)
        + ", and "
        + "; ".join(f"{n * PAPER_RATE * median(every, 'wire') / 1e6:,.0f} MB/s" for n in PAPER)
        + " of the network.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Ape-X against SubprocVecEnv.")
    parser.add_argument("--envs", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--actors", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="a line for the results")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.md")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure:
        env_id, kind, n, ratio_ = args.measure
        print(json.dumps(measure(env_id, kind, int(n), float(ratio_))))
        return

    load = os.getloadavg()[0]
    both = [(kind, r) for r in (COLLECT, TRAIN) for kind in ("apex", "subproc")]
    jobs = [("alone", 1, LEARN), *((kind, n, r) for n in args.actors for kind, r in (*both, ("apex", LEARN)))]
    text = f"""# Ape-X against SubprocVecEnv

Written by `scripts/apex/scaling.py`, whose docstring says what is measured and how; medians of {args.rounds} rounds of
{SECONDS:.0f} seconds each.

- {versions("sb3-distrl", "stable-baselines3", "ray", "torch", "gymnasium", "ale-py", "numpy")}
- {processor()}, {os.cpu_count()} cores; {datetime.date.today()}; load of the machine when it began: {load:.1f}
{f"- {args.note}{chr(10)}" if args.note else ""}
"""
    with tqdm(total=len(jobs) * args.rounds * len(args.envs), unit="measurement") as bar:
        for env_id in args.envs:
            found: dict[tuple, list[dict[str, float]]] = {job: [] for job in jobs}
            for _ in range(args.rounds):
                for job in jobs:
                    found[job].append(in_a_process(env_id, *job))
                    bar.update()
            raw = {f"{kind}, {n}, {r:g} gradient steps per transition": results for (kind, n, r), results in found.items()}
            args.output.with_name(f"{args.output.stem}_{env_id}.json").write_text(json.dumps(raw, indent=1) + "\n")
            text += report(env_id, args.actors, found)
            args.output.write_text(text)
    text += BEYOND
    args.output.write_text(text)
    print(text)
