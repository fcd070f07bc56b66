"""Run a suite with sb3-distrl train: a thread for each run, a run for each core; what is in the results is not run again."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import yaml
from benchmark.results import Results, rows_of
from benchmark.suite import Run, Suite, names
from settings import ROOT
from tqdm import tqdm


N_EVAL_ENVS = 20


def command(suite: Suite, run: Run, folder: Path) -> list[str]:
    """
    :param suite: the suite
    :param run: one of its runs
    :param folder: for its files
    :return: the command line that trains it
    """
    algo, steps = suite.contenders[run.algo]["algo"], suite.steps[run.env_id]
    line = [sys.executable, "-m", "sb3_distrl.zoo", "train", "--algo", algo, "--env", run.env_id, "--seed", str(run.seed)]
    line += ["--conf-file", str(folder / "settings.yml"), "-f", str(folder), "--num-threads", "1", "--verbose", "0"]
    if suite.measure == "evaluation":
        line += ["--eval-freq", str(steps // suite.evaluations), "--eval-episodes", str(suite.episodes)]
        return [*line, "--n-eval-envs", str(min(N_EVAL_ENVS, suite.episodes))]
    return [*line, "--eval-freq", "-1"]


def train(suite: Suite, run: Run, folder: Path) -> float:
    """
    :param suite: the suite
    :param run: one of its runs
    :param folder: for its files; what an interrupted run has left is deleted
    :return: seconds that it took
    :raises RuntimeError: if it failed
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "settings.yml").write_text(yaml.safe_dump({run.env_id: suite.settings(run.algo, run.env_id)}))
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        code = subprocess.run(command(suite, run, folder), stdout=log, stderr=log, env=environment).returncode
    if code:
        raise RuntimeError(
            f"{run} failed: see {folder / 'log.txt'}, which ends with\n{(folder / 'log.txt').read_text()[-2000:]}"
        )
    return time.perf_counter() - start


def steps_done(suite: Suite, folder: Path) -> int:
    """
    :param suite: the suite
    :param folder: of a run
    :return: its environment steps in episodes that have ended
    """
    steps = 0
    for path in folder.glob("*/*/*monitor.csv"):
        lines = path.read_text().splitlines()[2:]
        steps += sum(int(fields[1]) for fields in (line.split(",") for line in lines) if len(fields) == 3)
    return steps // suite.frame_skip


def completed(futures: dict[Future[float], Run], bar: tqdm, suite: Suite, folder: Path) -> Iterator[Future[float]]:
    """
    :param futures: of running and waiting runs
    :param bar: counts the steps of all
    :param suite: the suite
    :param folder: of its runs
    :return: the futures, as they complete
    """
    waiting, finished = set(futures), 0
    while waiting:
        done, waiting = wait(waiting, timeout=5, return_when=FIRST_COMPLETED)
        finished += sum(suite.steps[futures[future].env_id] for future in done)
        running = [futures[future] for future in waiting if future.running()]
        bar.n = finished + sum(steps_done(suite, folder / run.folder) for run in running)
        bar.refresh()
        yield from done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", help=f"{', '.join(names())}, or a YAML file like theirs")
    parser.add_argument("--algos", nargs="+", help="only these contenders")
    parser.add_argument("--envs", nargs="+", help="only these environments")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these seeds")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: as many as cores")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark", help="folder for logs and models")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder for the tables")
    args = parser.parse_args()
    try:
        suite = Suite.named(args.suite)
        results = Results(suite, args.results)
        for name, given, there in (
            ("algos", args.algos, suite.contenders),
            ("envs", args.envs, suite.steps),
            ("seeds", args.seeds, suite.seeds),
        ):
            unknown = set(given or ()) - set(there)
            if unknown:
                raise ValueError(
                    f"--{name} {' '.join(map(str, unknown))}: suite {suite.name} has {', '.join(map(str, there))}."
                )
    except ValueError as error:
        parser.error(str(error))
    wanted = [
        run
        for run in suite.runs()
        if run.algo in (args.algos or suite.contenders)
        and run.env_id in (args.envs or suite.steps)
        and run.seed in (args.seeds or suite.seeds)
    ]
    runs = [run for run in wanted if run not in results]
    print(f"{suite.name}: {len(wanted)} runs, {len(wanted) - len(runs)} of them done", flush=True)
    folder = args.runs / suite.name
    with ThreadPoolExecutor(args.processes) as pool, tqdm(total=sum(suite.steps[r.env_id] for r in runs), unit="step") as bar:
        futures = {pool.submit(train, suite, run, folder / run.folder): run for run in runs}
        try:
            for future in completed(futures, bar, suite, folder):
                run, seconds = futures[future], future.result()
                results.add(run, rows_of(suite, run, folder / run.folder), seconds)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


if __name__ == "__main__":
    main()
