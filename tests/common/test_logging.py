"""What is logged, and that logging waits for nothing on each gradient step."""

import csv
import inspect
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch as th
from stable_baselines3.common.logger import configure

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import LOG_EVERY, NORM_EVERY, ValueAlgorithm
from sb3_distrl.common.metrics import RunningMetrics
from tests.common.settings import SETTINGS, expected_updates, make, record

COMMON = {
    "train/loss",
    "train/q_mean",
    "train/grad_norm",
    "train/n_updates",
    "train/learning_rate",
    "rollout/exploration_rate",
}
PRIORITIZED = {"train/beta", "train/weight_mean"}


def expected_names(model: Any) -> set[str]:
    names = COMMON | (PRIORITIZED if model.prioritized else set())
    categorical = {"train/clipped_mass", "train/target_min", "train/target_max"}
    return names | (categorical if getattr(model.q_net, "distributional", False) else set())


@pytest.mark.parametrize("name", SETTINGS)
def test_csv_has_all_columns(name: str, tmp_path: Path) -> None:
    model = make(SETTINGS[name])
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(100, log_interval=4)
    model.logger.close()
    with open(tmp_path / "progress.csv") as file:
        lines = list(csv.DictReader(file))
    assert lines and expected_names(model) <= set(lines[-1])
    train = {key for key in lines[-1] if key.startswith("train/")}
    assert train == {key for key in expected_names(model) if key.startswith("train/")}
    assert all(math.isfinite(float(lines[-1][key])) for key in expected_names(model))
    assert 1 < int(lines[-1]["train/n_updates"]) <= model._n_updates


@pytest.mark.parametrize("name", ["Rainbow", "DQN", "IQN with all", "QRDQN"])
def test_values_are_plain_numbers(name: str) -> None:
    model = make(SETTINGS[name], exploration_fraction=0.5)
    recorder = record(model)
    model.learn(100)
    last = recorder.lines[-1]
    for key in expected_names(model) - {"train/n_updates"}:
        assert type(last[key]) is float, key
    assert type(last["train/n_updates"]) is int
    assert last["train/grad_norm"] > 0 and last["train/loss"] > 0
    if model.prioritized:
        assert 0 < last["train/weight_mean"] <= 1
        assert 0.4 < last["train/beta"] < 1.0


@pytest.mark.parametrize(("train_freq", "log_interval", "total"), [(4, 1, 60), (1, 1000, LOG_EVERY + 20)])
def test_logged_values_are_means_since_the_last_log(train_freq: int, log_interval: int, total: int) -> None:
    """However many gradient steps lie between two logs."""
    model = make(SETTINGS["Prioritized DQN"], learning_starts=10, train_freq=train_freq)
    losses: list[float] = []
    gradient_step = model.gradient_step

    def keep(batch: Any) -> None:
        with th.no_grad():
            loss = model.loss(batch, (1 - batch.dones) * batch.discounts)
        losses.append(float((loss.losses * batch.weights.squeeze(1)).mean()))
        gradient_step(batch)

    model.gradient_step = keep
    recorder = record(model)
    model.learn(total, log_interval=log_interval)
    model.dump_logs()
    counts = [line.get("train/n_updates", 0) for line in recorder.lines]
    assert counts[-1] == len(losses) == expected_updates(total, 1, train_freq, learning_starts=10)
    for line, before, now in zip(recorder.lines, [0, *counts], counts, strict=False):
        if now > before:
            assert line["train/loss"] == pytest.approx(sum(losses[before:now]) / (now - before), rel=1e-5)


def test_metrics_of_some_gradient_steps() -> None:
    """Means over the steps that had them, and ends of ranges."""
    metrics = RunningMetrics()
    for step in range(5):
        some = {"norm": th.tensor(float(step))} if step % 2 == 0 else {}
        metrics.add(
            {"loss": th.tensor(step + 1.0), "a_min": th.tensor(3.0 - step), "a_max": th.tensor(-abs(step - 2.0)), **some}
        )
    assert metrics.values() == {"loss": 3.0, "a_min": -1.0, "a_max": 0.0, "norm": 2.0}
    assert RunningMetrics().values() == {}


def test_gradients_are_measured_now_and_then_where_they_are_not_clipped() -> None:
    model = make(QRDQN, max_grad_norm=None, learning_starts=20)
    model.learn(20)
    model.train(NORM_EVERY + 1, batch_size=8)
    assert model._metrics.counts["grad_norm"] == 2 and model._metrics.counts["loss"] == NORM_EVERY + 1
    model.max_grad_norm = 10.0
    model.train(3, batch_size=8)
    assert model._metrics.counts["grad_norm"] == 5


@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_beta_and_epsilon_follow_their_schedules(algorithm: type[ValueAlgorithm]) -> None:
    model = make(
        algorithm,
        prioritized=True,
        beta_initial=0.2,
        beta_final=0.8,
        beta_fraction=0.5,
        exploration_initial_eps=0.9,
        exploration_final_eps=0.1,
        exploration_fraction=0.25,
    )
    recorder = record(model)
    assert model.beta == pytest.approx(0.2)
    model.learn(200, log_interval=1)
    for line in recorder.lines:
        # The log of an episode comes after its last step, at which epsilon was set
        progress = line["time/total_timesteps"] / 200
        assert line["rollout/exploration_rate"] == pytest.approx(0.9 - 0.8 * min(progress / 0.25, 1.0))
        if "train/beta" in line:
            assert line["train/beta"] == pytest.approx(0.2 + 0.6 * min(progress / 0.5, 1.0))
    assert model.beta == pytest.approx(0.8)


def test_beta_reaches_the_buffer() -> None:
    model = make(Rainbow, beta_initial=0.3, beta_final=0.9)
    betas = []
    sample = model.replay_buffer.sample

    def keep(*args: Any, **kwargs: Any) -> Any:
        betas.append(kwargs["beta"])
        return sample(*args, **kwargs)

    model.replay_buffer.sample = keep
    model.learn(100)
    steps = range(24, 101, 4)
    assert betas == pytest.approx([0.3 + 0.6 * step / 100 for step in steps])


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("name", ["Rainbow", "DQN", "IQN with all", "QRDQN"])
def test_nothing_is_read_from_the_device_on_each_gradient_step(
    name: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, losses are looked at before each step; where that would wait for the device, nothing is."""
    monkeypatch.setattr("sb3_distrl.common.gradient_steps.reading_waits", lambda *_: waits)
    model = make(SETTINGS[name])
    model.learn(30)
    callers: Counter[str] = Counter()

    def spy(method: str) -> None:
        original = getattr(th.Tensor, method)

        def counting(self: th.Tensor, *args: Any) -> Any:
            # torch's own optimizers read their step counter, which lives on the CPU
            caller = sys._getframe(1).f_globals["__name__"]
            if not caller.startswith("torch."):
                callers[f"{caller}: {method}"] += 1
            return original(self, *args)

        monkeypatch.setattr(th.Tensor, method, counting)

    for method in ("item", "tolist", "__float__", "__int__", "__bool__", "__format__"):
        spy(method)
    assert th.ones(1).item() == 1.0 and callers.pop("tests.common.test_logging: item") == 1, "the spy sees us"
    model.dump_logs()
    callers.clear()
    model.train(gradient_steps=LOG_EVERY - 1, batch_size=8)
    looks = {
        # At the norm, on a CPU alone
        "sb3_distrl.common.gradient_steps: __bool__": LOG_EVERY - 1 if model.max_grad_norm is not None else 0,
        # At the priorities, which the buffer takes to the CPU anyway
        "sb3_distrl.common.gradient_steps: item": LOG_EVERY - 1 if model.prioritized else 0,
    }
    if waits:
        assert callers == +Counter(looks)
    else:
        assert callers.keys() <= {*looks, "sb3_distrl.common.algorithm: item"}
    model.train(gradient_steps=1, batch_size=8)
    for look in (*looks, "sb3_distrl.common.algorithm: item"):
        callers.pop(look, 0)
    assert callers.pop("sb3_distrl.common.metrics: tolist") == 1, "one transfer for all metrics"
    assert not callers


@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_learn_has_a_budget(algorithm: type[ValueAlgorithm]) -> None:
    assert inspect.signature(algorithm.learn).parameters["total_timesteps"].default == 50_000_000
    model = make(algorithm, gym.make("CartPole-v1"), learning_starts=190, policy_kwargs={})
    steps = iter(range(200))
    model.learn(callback=lambda *_: next(steps) < 199)
    assert model.num_timesteps == 200
    assert model._total_timesteps == 50_000_000


@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_tensorboard_run_has_the_name_of_the_algorithm(algorithm: type[ValueAlgorithm]) -> None:
    names = []
    model = make(algorithm)
    setup_learn = model._setup_learn
    model._setup_learn = lambda *args, **kwargs: names.append(args[3]) or setup_learn(*args, **kwargs)
    model.learn(4)
    model.learn(4, tb_log_name="mine")
    assert names == [algorithm.__name__, "mine"]
