"""Trap 16: target mass that is clipped at the ends of the support is logged, and warned of once."""

import re
import warnings
from pathlib import Path

import pytest

from sb3_distrl import Rainbow
from tests.common.envs import vec_env
from tests.common.settings import make, record

NARROW = dict(v_min=-0.02, v_max=0.02)  # rewards go from -0.05 to 0.05
RANGE = re.compile(r"targets from (\S+) to (\S+) were seen")


def test_warns_once_with_the_range_seen(tmp_path: Path) -> None:
    model = make(Rainbow, policy_kwargs=NARROW, n_steps=1, train_freq=1)
    recorder = record(model)
    with pytest.warns(UserWarning, match="outside .v_min, v_max. = .-0.02, 0.02.") as caught:
        model.learn(200, log_interval=16)  # the warning comes with the first log, after about 84 updates
    assert len(caught) == 1
    found = RANGE.search(str(caught[0].message))
    assert found is not None
    low, high = (float(end) for end in found.groups())
    assert low == pytest.approx(-0.05 - 0.99 * 0.02, rel=0.01)
    assert high == pytest.approx(0.05 + 0.99 * 0.02, rel=0.01)
    assert "v_min" in str(caught[0].message) and "policy_kwargs" in str(caught[0].message), "it names the remedy"
    assert 0.2 < recorder.lines[-1]["train/clipped_mass"] < 1.0

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(80)
        model.save(tmp_path / "model")
        loaded = Rainbow.load(tmp_path / "model", env=vec_env())
        recorder = record(loaded)
        loaded.learn(80)
    assert recorder.lines[-1]["train/clipped_mass"] > 0.2


def test_loaded_model_warns_if_it_had_no_reason_before(tmp_path: Path) -> None:
    make(Rainbow, policy_kwargs=NARROW).save(tmp_path / "model")
    loaded = Rainbow.load(tmp_path / "model", env=vec_env())
    with pytest.warns(UserWarning, match="outside"):
        loaded.learn(200)


def test_no_warning_where_the_support_fits() -> None:
    model = make(Rainbow, policy_kwargs=dict(v_min=-1.0, v_max=1.0, n_atoms=51))
    recorder = record(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(200)
    logged = [line["train/clipped_mass"] for line in recorder.lines if "train/clipped_mass" in line]
    assert len(logged) > 5 and all(0.0 <= share < 0.05 for share in logged)


def test_warns_without_episodes_that_end() -> None:
    """Logs are written at the ends of episodes; where there are none, every 100 gradient steps will do."""
    model = make(Rainbow, policy_kwargs=NARROW, train_freq=1)
    with pytest.warns(UserWarning, match="outside"):
        model.learn(125, log_interval=1_000_000)
