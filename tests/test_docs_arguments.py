"""The tables of arguments in docs/ have all arguments of the algorithms, with their defaults."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from sb3_distrl import IQN, QRDQN, Rainbow

DOCS = Path(__file__).parent.parent / "docs"
ROW = re.compile(r"^\| `(\w+)` \| (?:`([^`]+)`)? *\|", re.MULTILINE)


@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_arguments(algorithm: Any) -> None:
    page = (DOCS / f"{algorithm.__name__.lower()}.md").read_text()
    _, _, section = page.partition("## All arguments\n")
    table = {name: ast.literal_eval(value) if value else inspect.Parameter.empty for name, value in ROW.findall(section)}
    parameters = inspect.signature(algorithm).parameters
    assert table == {name: parameter.default for name, parameter in parameters.items() if not name.startswith("_")}
