"""What a study leaves behind can be read, and trained with."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial
from rl_zoo3.utils import ALGOS
from torch import nn

from sb3_distrl.zoo.entries import Mergeable, evaluated
from sb3_distrl.zoo.samplers import CONVERTERS, SAMPLERS
from sb3_distrl.zoo.study import SHOWN_TRIALS, entry, report, write_report
from tests.zoo.conftest import QUICK, Command

ENTRY: dict[str, Any] = dict(
    policy="MlpPolicy",
    n_timesteps=900,
    learning_starts=20,
    buffer_size=1000,
    policy_kwargs=dict(v_min=-1.0, v_max=7.0, activation_fn=nn.Tanh, optimizer_kwargs=dict(eps=1e-8, fused=True)),
)
PLOTS = {"history", "importance", "parallel", "slices"}


def study_of(n_trials: int, value: Callable[[optuna.Trial], float], algo: str = "rainbow", name: str = "a") -> optuna.Study:
    """:return: trials with the parameters of an algorithm"""
    made = optuna.create_study(study_name=name, direction="maximize", sampler=RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        SAMPLERS[algo](trial, 0, 1, {})
        scores = [value(trial) - 1, value(trial) + 1]
        trial.set_user_attr("seeds", [5, 6])
        trial.set_user_attr("scores", scores)
        return sum(scores) / 2

    made.optimize(objective, n_trials=n_trials)
    return made


def rate(trial: optuna.Trial) -> float:
    return 1000 * trial.params["learning_rate"]


def number(trial: optuna.Trial) -> float:
    return float(trial.number)


def best(study: optuna.Study, algo: str = "rainbow") -> dict[str, Any]:
    """:return: hyperparameters of the best trial"""
    hyperparams = Mergeable(ENTRY)
    hyperparams.update(CONVERTERS[algo](study.best_trial.params))
    return hyperparams


def shown_trials(text: str) -> list[int]:
    return [int(row) for row in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)]


def test_a_study_is_reported(tmp_path: Path) -> None:
    study = study_of(12, rate)
    for state in (TrialState.PRUNED, TrialState.FAIL):
        study.add_trial(create_trial(state=state))
    study.set_user_attr("command", "sb3-distrl train --optimize")
    files = write_report(study, tmp_path / "deep" / "report_a.b", "rainbow", "CartPole-v1", 1500, best(study), plots=True)
    names = {f"report_a.b{end}" for end in (".md", ".yml", *(f"_{plot}.html" for plot in PLOTS))}
    assert {path.name for path in files} == names
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {*names, "plotly.min.js"}, "nothing temporary stays"

    text = files[0].read_text()
    assert "# Study a: rainbow on CartPole-v1" in text and "sb3-distrl train --optimize" in text
    assert "12 complete, 1 pruned, 1 fail trials of 1,500 steps" in text and "mean over 2 seeds" in text
    ranked = sorted(study.trials[:12], key=lambda trial: -trial.value)
    assert shown_trials(text) == [trial.number for trial in ranked[:SHOWN_TRIALS]]
    row = next(line for line in text.splitlines() if line.startswith(f"| {study.best_trial.number} |"))
    assert f"| {study.best_value:.1f} | {study.best_value - 1:.1f}, {study.best_value + 1:.1f} |" in row
    for name, value in study.best_params.items():
        assert f"{name} {value:.3g}" in row if isinstance(value, float) else f"{name} {value}" in row
    weights = {name: float(weight) for name, weight in re.findall(r"^\| (\w+) \| (\d\.\d\d) \|$", text, flags=re.MULTILINE)}
    assert weights.keys() == study.best_params.keys() and list(weights.values()) == sorted(weights.values(), reverse=True)
    assert max(weights, key=lambda name: weights[name]) == "learning_rate"
    assert 0.9 < sum(weights.values()) < 1.1

    for path in files[2:]:
        page = path.read_text()
        assert 'src="plotly.min.js"' in page and "https://cdn" not in page
        assert len(page) < 1e6, "plotly is there once"


def test_negative_scores_and_zero_are_ranked() -> None:
    values = [-5.0, 0.0, -7.0, 3.0]
    study = study_of(4, lambda trial: values[trial.number])
    assert shown_trials(report(study, {}, "rainbow", "CartPole-v1", 9)) == [3, 1, 0, 2]


@pytest.mark.parametrize("n_trials", [1, 2])
def test_few_trials_tell_no_importance(n_trials: int, tmp_path: Path) -> None:
    study = study_of(n_trials, lambda trial: 4.0)
    files = write_report(study, tmp_path / "report", "rainbow", "CartPole-v1", 9, best(study), plots=True)
    assert {path.name for path in files} == {
        "report.md",
        "report.yml",
        *(f"report_{plot}.html" for plot in PLOTS - {"importance"}),
    }
    assert "importance" not in files[0].read_text()


def test_no_plots_where_none_are_wanted(tmp_path: Path) -> None:
    study = study_of(3, number)
    write_report(study, tmp_path / "report", "rainbow", "CartPole-v1", 9, best(study), plots=False)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.yml"}


def test_trials_without_scores_of_seeds() -> None:
    """Of a study that rl-zoo3 has begun."""
    study = study_of(0, number)
    study.add_trial(create_trial(value=1.0, params={}, distributions={}))
    text = report(study, {}, "rainbow", "CartPole-v1", 9)
    assert "| 0 | 1.0 |  |  |" in text and "mean over 1 seed of" in text
    assert yaml.safe_load(entry(study, "CartPole-v1", ENTRY))["CartPole-v1"]["n_timesteps"] == 900


@pytest.mark.parametrize("algo", SAMPLERS)
def test_the_entry_loads_and_constructs(algo: str, tmp_path: Path) -> None:
    study = study_of(3, number, algo)
    hyperparams = best(study, algo)
    if algo != "rainbow":
        del hyperparams["policy_kwargs"]["v_min"], hyperparams["policy_kwargs"]["v_max"]
    if algo == "qrdqn":
        del hyperparams["policy_kwargs"]["activation_fn"]  # so that nothing needs Python
    text = entry(study, "CartPole-v1", hyperparams)
    assert text.startswith("# Trial 2 of study a: 2.0, mean over seeds [5, 6].\n")
    loaded = yaml.safe_load(text)["CartPole-v1"]
    assert isinstance(loaded["policy_kwargs"], dict if algo == "qrdqn" else str)
    assert evaluated(loaded["policy_kwargs"]) == hyperparams["policy_kwargs"]
    assert {**loaded, "policy_kwargs": None} == {**hyperparams, "policy_kwargs": None}
    assert list(loaded) == list(hyperparams)
    rate = str(loaded.pop("learning_rate")).removeprefix("lin_")
    policy_kwargs = evaluated(loaded.pop("policy_kwargs"))
    del loaded["n_timesteps"]
    model = ALGOS[algo](env="CartPole-v1", learning_rate=float(rate), policy_kwargs=policy_kwargs, device="cpu", **loaded)
    assert model.batch_size == 2 ** study.best_params["batch_size_pow"]
    assert model.policy_kwargs["optimizer_kwargs"] == {"eps": 1e-8, "fused": True}


TUNING = [
    "-optimize",
    "-n",
    "60",
    "--n-evaluations",
    "1",
    "--eval-episodes",
    "1",
    "--n-startup-trials",
    "9",
    "--pruner",
    "none",
]


@pytest.mark.parametrize(("algo", "plots"), [("rainbow", True), ("dqn", False)])
def test_a_study_is_trained_from(algo: str, plots: bool, command: Command, capsys: Any) -> None:
    arguments = ["--n-trials", "3", "--study-name", "mine", "--n-seeds", "2", *([] if plots else ["--no-optim-plots"])]
    command.train(algo, *TUNING, *arguments, **QUICK)
    folder = Path("logs", algo)
    assert bool(list(folder.glob("*.html"))) == (folder / "plotly.min.js").is_file() == plots
    study = command.experiment.study
    assert study.study_name == "mine" and len(study.trials) == 3
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    printed = capsys.readouterr().out
    told = re.search(r"sb3-distrl (train .*--conf-file (\S+))", printed)
    assert told and told[2] == str(folder / "report_CartPole-v1_mine.yml")
    assert (folder / "report_CartPole-v1_mine.md").is_file()

    loaded = yaml.safe_load(Path(told[2]).read_text())["CartPole-v1"]
    assert loaded["n_timesteps"] == 60 and loaded["learning_starts"] == 20
    command(*told[1].split(), "--seed", "1", "--eval-freq", "-1", "--device", "cpu")
    model = command.model
    steps = model.num_timesteps
    assert 60 <= steps < 60 + model.train_freq.frequency
    assert (
        model.batch_size == study.best_trial.user_attrs["batch_size"] and model.gamma == study.best_trial.user_attrs["gamma"]
    )
    assert (
        model.policy_kwargs["net_arch"]
        == {
            "rainbow": {"small": [64, 64], "medium": [128, 128], "big": [256, 256]},
            "dqn": {"small": [64, 64], "medium": [256, 256], "big": [400, 300]},
        }[algo][study.best_params["net_arch"]]
    )
    if algo == "rainbow":
        assert (model.policy_kwargs["v_max"], model.policy_kwargs["optimizer_kwargs"]) == (100.0, {"eps": 1e-8})
        assert model.replay_ratio == study.best_params["replay_ratio"]


WRITER = """
import sys
from pathlib import Path
from sb3_distrl.common.files import atomic_write
for i in range(100):
    with atomic_write(Path(sys.argv[1]), shared=True) as temporary:
        temporary.write_text(sys.argv[2] * 200_000)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="files that are open cannot be replaced there")
def test_files_are_whole_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], env=environment) for letter in "ab"]
    seen = set()
    try:
        while any(writer.poll() is None for writer in writers):
            if path.exists():
                text = path.read_text()
                assert len(text) == 200_000 and len(set(text)) == 1
                seen.add(text[0])
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert [writer.returncode for writer in writers] == [0, 0] and seen
    assert list(tmp_path.iterdir()) == [path]
