"""The scripts that the README names run as it says."""

import subprocess
import sys
from pathlib import Path

from sb3_distrl import Rainbow

ROOT = Path(__file__).resolve().parent.parent


def run_script(name: str, *arguments: str) -> str:
    """
    :param name: of a file in scripts/
    :param arguments: of its command line
    :return: what it printed
    """
    command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_demo_trains_evaluates_saves_and_draws(tmp_path: Path) -> None:
    printed = run_script("demo.py", "--steps", "1500", "--output", str(tmp_path))
    folder = tmp_path / "rainbow-CartPole-v1"
    model = Rainbow.load(folder / "model.zip")
    assert model.num_timesteps >= 1500 and model._n_updates > 0
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "Its mean return over 100 fresh episodes" in printed
    assert "What to run next" in printed


def test_pong_from_pixels() -> None:
    printed = run_script("pong.py", "--steps", "200", "--buffer-size", "400", "--learning-starts", "160", "--games", "0")
    assert "200 steps, 10 gradient steps" in printed
    assert "loaded model acts the same: True" in printed
