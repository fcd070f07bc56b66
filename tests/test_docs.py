"""
The blocks of the README and of docs/ run as they are printed: in order, page by page, each page in an empty folder.

Blocks of ``python`` share the names of their page. One that begins with a comment such as ``# my_envs.py`` is also written
to that file, and so is one of ``yaml``. Files that a page includes run first. Of blocks of ``bash``, the commands of
sb3-distrl run, in this process. Other languages, and blocks without one, do not run.

What takes long is shortened: ``learn(20_000)``, ``total_timesteps``, ``learning_starts``, ``n_eval_episodes``, and the
options ``-n``, ``--n-trials`` and ``--eval-episodes`` are lowered to the numbers in CAPS and OPTION_CAPS, and ``train``
without ``-n`` is given one. Before a block, ``<!-- shorten: range(5_000) -> range(300) -->`` replaces other text of it (one
comment for each), and ``<!-- skip: next "needs a GPU" -->`` leaves it out.
"""

import re
import shlex
from pathlib import Path
from unittest import SkipTest

import pytest
from sybil import Document, Example
from sybil.parsers.myst import CodeBlockParser, SkipParser
from sybil.parsers.rest import CodeBlockParser as RestCodeBlockParser

from tests.zoo.commands import in_process

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs" / "own_algorithm.rst"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
STEPS = 300  # environment steps
CAPS = {
    r"(?:\.learn\(|\btotal_timesteps=)": STEPS,
    r"\blearning_starts=": STEPS // 3,
    r"\bn_eval_episodes=": 2,
}
OPTION_CAPS = {"-n": STEPS, "--n-timesteps": STEPS, "--n-trials": 2, "--eval-episodes": 2}
SHORTEN = re.compile(r"<!-- shorten: (.+?) -> (.*?) -->")
COMMENTS = re.compile(r"(?:<!--(?:(?!-->).)*-->\s*)+\Z", re.DOTALL)
INCLUDED = re.compile(r"^\.\. literalinclude:: (\S+)$", re.MULTILINE)
FILE_NAME = re.compile(r"# (\w+\.(?:py|yml))\n")
RELATIVE = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")  # links of the README


def shortened(example: Example) -> str:
    """:return: the block with fewer steps"""
    source = str(example.parsed)
    for pattern, cap in CAPS.items():
        source = re.sub(rf"({pattern})([0-9][0-9_]*)", lambda found, cap=cap: f"{found[1]}{min(int(found[2]), cap)}", source)
    comments = COMMENTS.search(example.document.text, 0, example.start)
    for printed, tested in SHORTEN.findall(comments[0] if comments else ""):
        assert printed in source, f"line {example.line} has no {printed}"
        source = source.replace(printed, tested)
    return source


def shorter(arguments: list[str]) -> list[str]:
    """:return: the command line with fewer steps"""
    given = list(arguments)
    for i, option in enumerate(given[:-1]):
        if option in OPTION_CAPS:
            given[i + 1] = str(min(int(float(given[i + 1])), OPTION_CAPS[option]))
    if given[0] == "train" and not {"-n", "--n-timesteps"} & set(given):
        given += ["-n", str(STEPS)]
    return given


def run_python(example: Example) -> None:
    """Run a block with the names of its page, and the page's line numbers in tracebacks."""
    source = shortened(example)
    if named := FILE_NAME.match(source):
        Path(named[1]).write_text(source)
    lines = "\n" * (example.line + example.parsed.line_offset)
    exec(compile(lines + source, example.path, "exec"), example.namespace)


def run_bash(example: Example) -> None:
    """Run the commands of sb3-distrl; ``PYTHONPATH=.`` before them is so in the test anyway."""
    for line in shortened(example).replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("PYTHONPATH=. "), comments=True)
        if words[:1] == ["sb3-distrl"]:
            in_process(Path.cwd(), *shorter(words[1:]))


def write_yaml(example: Example) -> None:
    """Write a block that begins with the name of a file."""
    if named := FILE_NAME.match(example.parsed):
        Path(named[1]).write_text(example.parsed)


LANGUAGES = {"python": run_python, "bash": run_bash, "yaml": write_yaml}


def parse(page: Path) -> Document:
    """:return: the page with its blocks"""
    markdown = page.suffix == ".md"
    parser = CodeBlockParser if markdown else RestCodeBlockParser
    parsers = [parser(language, evaluator) for language, evaluator in LANGUAGES.items()]
    return Document.parse(str(page), *parsers, *([SkipParser()] if markdown else []))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    document = parse(page)
    document.namespace["__name__"] = "__main__"
    for included in INCLUDED.findall(document.text):
        exec((page.parent / included).read_text(), document.namespace)
    for example in document:
        try:
            example.evaluate()
        except SkipTest:
            pass


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_of_the_repository_that_pages_link_to_exist(page: Path) -> None:
    text = page.read_text()
    paths = [link.split(")")[0].split("#")[0] for link in text.split("](source:")[1:]]
    if page.parent == ROOT:
        paths += RELATIVE.findall(text)
    for path in paths:
        assert (ROOT / path).exists(), f"{page.name} links to {path}"
