"""Imports point one way, and the heavy optional packages stay where they belong."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_distrl

ROOT = Path(sb3_distrl.__file__).parent

# What each part may import of the package; nothing but itself where it says nothing
LEAF = {"functional", "checks"}
BASE = {*LEAF, "networks", "buffers"}
ALGORITHMS = {"rainbow", "iqn", "qrdqn"}
ALL = {*BASE, "envs", "common", *ALGORITHMS, ""}
ALLOWED = {
    "checks": set(),
    "envs": set(),
    "functional": {"checks"},
    "networks": LEAF,
    "buffers": LEAF,
    "common": BASE,
    **{name: {*BASE, "common"} for name in ALGORITHMS},
    **{name: ALL for name in ("distributed", "plotting")},
    "zoo": {*ALL, "distributed", "plotting"},
    "": ALGORITHMS,  # sb3_distrl/__init__.py
}
# The only parts that import these
OPTIONAL = {
    "ale_py": {"envs"},
    "numba": {"buffers"},
    "ray": {"distributed"},
    "rl_zoo3": {"zoo"},
    "optuna": {"zoo"},
    "matplotlib": {"plotting", "zoo"},
}


def part_of(module):
    """:return: e.g. "buffers" of sb3_distrl.buffers.sum_tree"""
    return (*module.split("."), "")[1]


def module_of(path):
    return ".".join(("sb3_distrl", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports_of(source, module, is_package=False):
    """:return: absolute names of all modules that the source imports, anywhere in it"""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -(node.level - is_package) or None] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # from sb3_distrl import buffers: a part, not the face of the package
            is_part = {alias.name for alias in node.names} & ALLOWED.keys() if name == "sb3_distrl" else set()
            names |= {f"{name}.{part}" for part in is_part}
            if len(is_part) < len(node.names):
                names.add(name)
    return names


def offences(source, module, is_package=False):
    """:return: the imports of a module that the architecture forbids"""
    part, wrong = part_of(module), set()
    for name in imports_of(source, module, is_package):
        root = name.split(".")[0]
        if root == "sb3_distrl":
            if part_of(name) not in {part, *ALLOWED[part]}:
                wrong.add(name)
        elif root in OPTIONAL and part not in OPTIONAL[root]:
            wrong.add(name)
        elif part == "functional" and root != "torch" and root not in sys.stdlib_module_names:
            wrong.add(name)
    return wrong


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_point_one_way(path):
    assert part_of(module_of(path)) in ALLOWED, "a new part of the package: say here what it may import"
    wrong = offences(path.read_text(), module_of(path), path.name == "__init__.py")
    assert not wrong, f"{path.relative_to(ROOT)} must not import {wrong}"


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("sb3_distrl.functional.a", "import torch.nn as nn\nimport math\nfrom sb3_distrl.functional.b import c", set()),
        ("sb3_distrl.functional.a", "import numpy", {"numpy"}),
        ("sb3_distrl.functional.a", "from stable_baselines3 import DQN", {"stable_baselines3"}),
        ("sb3_distrl.networks.a", "from sb3_distrl.buffers import x", {"sb3_distrl.buffers"}),
        ("sb3_distrl.networks.a", "from ..functional import x\nfrom . import b\nfrom .. import checks", set()),
        ("sb3_distrl.buffers.a", "def f():\n    from ..common.b import x", {"sb3_distrl.common.b"}),
        ("sb3_distrl.common.a", "from sb3_distrl import IQN", {"sb3_distrl"}),
        ("sb3_distrl.common.a", "import sb3_distrl.rainbow.policies", {"sb3_distrl.rainbow.policies"}),
        ("sb3_distrl.iqn.a", "from sb3_distrl import rainbow, buffers", {"sb3_distrl.rainbow"}),
        ("sb3_distrl.iqn.a", "import ray", {"ray"}),
        ("sb3_distrl.distributed.a", "import ray.util\nfrom sb3_distrl import Rainbow", set()),
        ("sb3_distrl.zoo.a", "import rl_zoo3, optuna\nimport ray", {"ray"}),
        ("sb3_distrl.checks", "from sb3_distrl.functional import x", {"sb3_distrl.functional"}),
    ],
)
def test_the_check_itself(module, source, wrong):
    assert offences(source, module) == wrong


def test_relative_imports_of_a_package_start_at_itself():
    assert offences("from .a import b\nfrom ..common import c", "sb3_distrl.iqn", is_package=True) == set()
    assert offences("from ..iqn import c", "sb3_distrl.common", is_package=True) == {"sb3_distrl.iqn"}


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


def test_importing_the_package_imports_nothing_heavy():
    """Nor does it try to, beyond what Stable-Baselines3 and sb3-contrib do by themselves."""
    run = subprocess.run([sys.executable, "-c", ATTEMPTS], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    before, added, path = json.loads(run.stdout)
    assert Path(path).parent == ROOT and "sb3_distrl" in added
    assert "torch" in before  # the watch sees
    assert not set(added) & OPTIONAL.keys()
