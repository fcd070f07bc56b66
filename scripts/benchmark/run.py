"""Run a suite with sb3-distrl train: one thread per run, one run per core; runs that are in the results are skipped."""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from shared import ROOT
from tqdm import tqdm

from benchmark.results import Results, rows_of
from benchmark.suite import Run, Suite, names
from benchmark.training import steps_done, train


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


def main(arguments: list[str]) -> None:
    """:param arguments: of the command line"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", help=f"{', '.join(names())}, or a YAML file like theirs")
    parser.add_argument("--algos", nargs="+", help="only these contenders")
    parser.add_argument("--envs", nargs="+", help="only these environments")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these seeds")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: the number of cores")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark", help="folder for logs and models")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder for the tables")
    args = parser.parse_args(arguments)
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
        failed: list[Run] = []
        try:
            for future in completed(futures, bar, suite, folder):
                run, reason = futures[future], future.exception()
                if reason is None:
                    results.add(run, rows_of(suite, run, folder / run.folder), future.result())
                else:
                    failed.append(run)
                    tqdm.write(str(reason))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        raise SystemExit(f"{len(failed)} of {len(runs)} runs failed; the others are in {results.table}")
