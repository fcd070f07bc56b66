"""Processes that share the results of a suite."""

import multiprocessing
import time

import pandas as pd
import pytest
import yaml
from benchmark.results import COLUMNS, Results
from benchmark.suite import Run, Suite
from filelock import Timeout
from shared import locked

from tests.benchmark.suites import TRAINING, suite_file

fork = multiprocessing.get_context("fork")


def add_rows(results, algo, seeds, ready):
    ready.wait()
    for seed in seeds:
        row = dict(algo=algo, env="CartPole-v1", seed=seed, step=400, return_mean=1.0, return_std=0.0, episodes=1)
        results.add(Run(algo, "CartPole-v1", seed), pd.DataFrame([row])[COLUMNS], seconds=1.0)


def test_processes_that_share_a_suite_lose_no_rows(tmp_path):
    suite = Suite(suite_file(tmp_path, **TRAINING))
    seeds, ready = range(20), fork.Barrier(2)
    adding = [
        fork.Process(target=add_rows, args=(Results(suite, tmp_path / "results"), algo, seeds, ready))
        for algo in ("DQN", "Rainbow")
    ]
    for process in adding:
        process.start()
    for process in adding:
        process.join()
    assert [process.exitcode for process in adding] == [0, 0]
    rows = pd.read_csv(tmp_path / "results" / "tiny.csv")
    expected = [(algo, seed) for algo in ("DQN", "Rainbow") for seed in seeds]
    assert list(zip(rows["algo"], rows["seed"], strict=True)) == expected
    (origin,) = yaml.safe_load((tmp_path / "results" / "tiny.yml").read_text())["origins"]
    assert all(set(origin["seconds"][algo]["CartPole-v1"]) == set(seeds) for algo in ("DQN", "Rainbow"))


def hold_the_lock(path, held):
    with locked(path):
        held.set()
        time.sleep(3600)


def test_a_process_killed_while_it_writes_does_not_block_the_others(tmp_path):
    results = Results(Suite(suite_file(tmp_path, **TRAINING)), tmp_path / "results")
    held = fork.Event()
    owner = fork.Process(target=hold_the_lock, args=(results.table, held))
    owner.start()
    assert held.wait(300)
    with pytest.raises(Timeout):
        locked(results.table).acquire(blocking=False)
    owner.kill()
    owner.join()
    add_rows(results, "DQN", [0], fork.Barrier(1))
    assert Run("DQN", "CartPole-v1", 0) in results
