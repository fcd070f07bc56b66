"""The scripts that measure replay buffers run, without any of the peers, and find what they should."""

from pathlib import Path

import pytest

from tests.test_scripts import run_script

pytestmark = pytest.mark.slow


def test_speed(tmp_path: Path) -> None:
    output = tmp_path / "speed.md"
    sizes = ["--index-capacity", "2000", "--capacity", "400", "--whole-capacity", "400", "--cold-mb", "1"]
    printed = run_script("replay speed", *sizes, "--rounds", "3", "--gradient-steps", "1", "--output", str(output))
    assert output.read_text() in printed
    assert "| sb3_distrl without numba |" in printed
    ours = [line for line in printed.splitlines() if line.startswith("| sb3_distrl, ") and line.endswith("| yes |")]
    assert len(ours) == 4  # with and without optimize_memory_usage, one environment and eight
    assert all(line.count("| yes ") == 6 for line in ours)
    assert "A gradient step of Rainbow takes" in printed


def test_memory(tmp_path: Path) -> None:
    output, saved = tmp_path / "memory.md", tmp_path / "buffer"
    arguments = ["--steps", "400", "--n-envs", "2", "--output", str(output), "--save", str(saved)]
    printed = run_script("replay memory", *arguments)
    assert "400 of 400 transitions can be drawn" in printed
    assert "gives the same sample: True" in printed
    assert saved.exists()


def test_memory_compared(tmp_path: Path) -> None:
    output = tmp_path / "memory.md"
    output.write_text("# Memory\n\n## Resident memory\n\nkept\n")
    arguments = ["--steps", "2000", "--n-envs", "2", "--capacity", "400", "--output", str(output)]
    printed = run_script("replay memory", "--compare", *arguments)
    assert "1,536 transitions compared, all identical: True" in printed
    text = output.read_text()
    assert "\n## Resident memory\n\nkept\n\n## The same as without it\n" in text
