"""A suite of runs: which algorithms train on which environments, with which settings and seeds, and what is measured."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rl_zoo3
import yaml

from sb3_distrl.zoo import register
from sb3_distrl.zoo.entries import Loader, Mergeable, evaluated, hyperparams_file, plain, read_entries

FOLDER = Path(__file__).resolve().parent
register()  # names that hyperparameter files use
MEASURES = ("evaluation", "training")
FIELDS = {
    *("measure", "evaluations", "episodes", "window", "frame_skip", "last", "seeds", "steps", "contenders"),
    *("checkpoint", "reference", "normalise", "common", "changes"),
}
OF_CONTENDERS = {"algo", "entry", "changes", "envs"}


@dataclass(frozen=True)
class Run:
    """
    One training.

    :param algo: name of the contender
    :param env_id: name of the environment
    :param seed: seed
    """

    algo: str
    env_id: str
    seed: int

    @property
    def folder(self) -> Path:
        """:return: for its files, below that of the suite"""
        return Path(self.algo.replace(" ", "_"), self.env_id.replace("/", "-"), str(self.seed))


def read(path: Path) -> dict[str, Any]:
    """
    :param path: of a suite
    :return: its fields, and those of the suite that it extends
    """
    fields = yaml.load(path.read_text(), Loader)
    base = fields.pop("extends", None)
    if base is None:
        return fields
    extended = read(path.with_name(f"{base}.yml"))
    contenders = {**extended["contenders"], **fields.get("contenders", {})}
    return {**extended, **fields, "contenders": contenders}


def check_known(complaint: str, found: Iterable[str], known: Iterable[str]) -> None:
    """
    :param complaint: how the message begins
    :param found: names that a file has
    :param known: names that it may have
    :raises ValueError: if there are others
    """
    unknown = set(found) - set(known)
    if unknown:
        raise ValueError(f"{complaint} {sorted(unknown)}: use {sorted(known)}.")


def respelled(settings: dict[str, Any]) -> dict[str, Any]:
    """
    :param settings: hyperparameters, as an entry of a YAML file
    :return: the same, equal for equal values: there are many ways to write ``policy_kwargs``
    """
    return {**settings, "policy_kwargs": evaluated(settings.get("policy_kwargs"))}


class Suite:
    """
    A file of ``suites/``: comments at its beginning that describe it, and these fields:

    - ``measure``: ``evaluation`` by separate episodes, or ``training`` for those of the training itself
    - ``evaluations``, ``episodes``: how many evaluations, at equal distances, of how many episodes (``evaluation``)
    - ``window``: steps whose episodes are averaged (``training``)
    - ``frame_skip``: frames of a step, where the monitor counts frames; 1 by default
    - ``last``: steps at the end whose mean is the final score; the last row by default
    - ``checkpoint``: steps between checkpoints, from which an interrupted run goes on; none by default (``training``,
      or one evaluation, at the end)
    - ``seeds``, and ``steps`` of each environment
    - ``reference``: ``source``, and ``scores`` of contenders and environments: lowest accepted ones, or lowest and highest
    - ``normalise``: ``source``, and ``scores`` of environments that count as 0 and as 1
    - ``extends``: name of a suite beside this one, whose fields hold where this one has none, and whose contenders take part
    - ``common``: for YAML anchors
    - ``changes`` to the hyperparameters of all contenders
    - ``contenders``: by name, each with ``algo`` as on the command line; ``entry``, the name of one in the algorithm's
      hyperparameter file (by default that of the environment) or hyperparameters; ``changes`` to it; ``envs``, if not all

    :param path: YAML file
    :raises ValueError: for a file that is not a suite
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        fields = read(path)
        check_known(f"{path} has unknown fields", fields, FIELDS)
        self.measure: str = fields["measure"]
        if self.measure not in MEASURES:
            raise ValueError(f"measure={self.measure} in {path}: use one of {MEASURES}.")
        self.evaluations: int = fields.get("evaluations", 0)
        self.episodes: int = fields.get("episodes", 0)
        self.window: int = fields.get("window", 0)
        self.frame_skip: int = fields.get("frame_skip", 1)
        self.last: int = fields.get("last", 0)
        self.checkpoint: int = fields.get("checkpoint", 0)
        if self.checkpoint and self.evaluations > 1:  # SB3's EvalCallback counts from where a training goes on
            raise ValueError(
                f"checkpoint={self.checkpoint} in {path} would move the evaluations: use evaluations: 1, measure: training, "
                "or no checkpoint."
            )
        self.seeds: list[int] = fields["seeds"]
        self.steps: dict[str, int] = fields["steps"]
        self.contenders: dict[str, dict[str, Any]] = fields["contenders"]
        for algo, contender in self.contenders.items():
            check_known(f"{path} has unknown fields of {algo}", contender, OF_CONTENDERS)
            check_known(f"{path} has unknown envs of {algo}", contender.get("envs", ()), self.steps)
        self.changes: dict[str, Any] = fields.get("changes", {})
        self.reference: dict[str, Any] = fields.get("reference", {})
        normalise = fields.get("normalise", {})
        self.normalise: dict[str, list[float]] = normalise.get("scores", {})
        self.normalise_source: str = normalise.get("source", "")
        comments = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
        self.description = [line.removeprefix("#").strip() for line in comments]

    @classmethod
    def named(cls, name: str) -> "Suite":
        """
        :param name: of a file in ``suites/``, or a path
        :return: the suite
        :raises ValueError: if there is none
        """
        path = Path(name) if name.endswith(".yml") else FOLDER / "suites" / f"{name}.yml"
        if not path.is_file():
            raise ValueError(f"suite={name} does not exist: use one of {', '.join(names())}, or a YAML file like theirs.")
        return cls(path)

    def runs(self) -> list[Run]:
        """:return: all runs, seed by seed, so that each further sitting adds a seed to all"""
        return [Run(algo, env_id, seed) for seed in self.seeds for algo, env_id in self.pairs()]

    def pairs(self) -> list[tuple[str, str]]:
        """:return: contender and environment of each run, environment by environment"""
        return [
            (algo, env_id)
            for env_id in self.steps
            for algo, contender in self.contenders.items()
            if env_id in contender.get("envs", self.steps)
        ]

    def settings(self, algo: str, env_id: str) -> dict[str, Any]:
        """
        :param algo: name of a contender
        :param env_id: name of an environment
        :return: its hyperparameters, as an entry of a YAML file, with the suite's number of steps
        """
        contender = self.contenders[algo]
        entry = contender.get("entry", env_id)
        if isinstance(entry, str):
            own = hyperparams_file(contender["algo"])
            path = own if own.is_file() else Path(rl_zoo3.__file__).parent / "hyperparams" / own.name
            entry = read_entries(str(path))[entry]
        settings = Mergeable(entry)
        settings.update(self.changes)
        settings.update(contender.get("changes", {}))
        settings["n_timesteps"] = self.steps[env_id]
        return plain(settings)


def names() -> list[str]:
    """:return: of all suites"""
    return sorted(path.stem for path in (FOLDER / "suites").glob("*.yml"))
