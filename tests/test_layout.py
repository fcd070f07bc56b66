"""What importing the package imports, and how long its files may be. pyproject.toml says which part may import which."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_distrl

ROOT = Path(sb3_distrl.__file__).parent
OPTIONAL = {"ale_py", "numba", "ray", "rl_zoo3", "optuna", "matplotlib"}  # what only some parts may import
LONGEST = 350  # lines of a file

FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST, f"{path.relative_to(ROOT)} has {lines} lines: does it hold two ideas?"


def test_the_version_is_cited() -> None:
    citation = (ROOT.parent / "CITATION.cff").read_text()
    assert f"\nversion: {sb3_distrl.__version__}\n" in citation


def test_type_checkers_read_the_package():
    """They take packages without this file for untyped; what they say of users' code is in user_types.py."""
    assert (ROOT / "py.typed").is_file()


ATTEMPTS = """
import json, sys

class Watch:
    seen = set()
    def find_spec(self, name, path=None, target=None):
        self.seen.add(name.partition(".")[0])  # asked for, whether installed or not

sys.meta_path.insert(0, Watch())
import stable_baselines3, sb3_contrib
before = set(Watch.seen)
import sb3_distrl
print(json.dumps([sorted(before), sorted(Watch.seen - before), sb3_distrl.__file__]))
"""


def test_importing_the_package_imports_nothing_heavy() -> None:
    """Nor does it try to, beyond what Stable-Baselines3 and sb3-contrib do by themselves."""
    run = subprocess.run([sys.executable, "-c", ATTEMPTS], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    before, added, path = json.loads(run.stdout)
    assert Path(path).parent == ROOT and "sb3_distrl" in added
    assert "torch" in before  # the watch sees
    assert not set(added) & OPTIONAL


@pytest.mark.parametrize(
    "module, former, current",
    [
        ("functional", "of_actions", "gather_actions"),
        ("networks", "HIDDEN", "DEFAULT_NET_ARCH"),
        ("plotting", "Moment", "EpisodeStep"),
    ],
)
def test_former_names_are_still_there(module: str, former: str, current: str) -> None:
    package = importlib.import_module(f"sb3_distrl.{module}")
    with pytest.warns(DeprecationWarning, match=f"{former} is now called {current}"):
        assert getattr(package, former) is getattr(package, current)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(package, "nothing")  # noqa: B009
