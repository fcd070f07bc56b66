"""Hyperparameters as rl-zoo3 has them: read from YAML, merged, and written so that they can be read again."""

import importlib
import importlib.util
import math
import re
from pathlib import Path
from typing import Any

import rl_zoo3.exp_manager
import yaml
from torch import nn

import sb3_distrl

Hyperparams = dict[str, Any]


class Loader(yaml.SafeLoader):
    """Plain YAML, where 1e-4 is a number, as in YAML 1.2, and not text, as in YAML 1.1, which PyYAML reads."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def hyperparams_file(algo: str) -> Path:
    """
    :param algo: name of an algorithm
    :return: this library's YAML file for it, which may not exist: in the wheel, or in a checkout
    """
    package = Path(sb3_distrl.__file__).parent
    folder = package / "hyperparams" if (package / "hyperparams").is_dir() else package.parent / "hyperparams"
    return folder / f"{algo}.yml"


def read_entries(config: str) -> dict[str, Hyperparams]:
    """
    :param config: YAML file, Python file or module, as rl-zoo3's ``--conf-file``
    :return: hyperparameters by environment
    :raises ValueError: if there are none
    """
    if config.endswith((".yml", ".yaml", ".py")) and not Path(config).is_file():
        raise ValueError(f"conf_file={config} does not exist: name a YAML file, a Python file or a module.")
    if config.endswith((".yml", ".yaml")):
        entries = yaml.load(Path(config).read_text(), Loader)
    elif config.endswith(".py"):
        variables: dict[str, Any] = {}
        exec(Path(config).read_text(), variables)
        entries = variables.get("hyperparams")
    else:
        if not importlib.util.find_spec(config):
            raise ValueError(f"conf_file={config} cannot be imported: name a YAML file, a Python file or a module.")
        entries = importlib.import_module(config).hyperparams
    if not isinstance(entries, dict):
        raise ValueError(f"conf_file={config} has no hyperparameters: it must map environments to them.")
    return entries


def evaluated(policy_kwargs: str | Hyperparams | None) -> Hyperparams:
    """
    :param policy_kwargs: as in an entry: Python for a dict, with the names that rl-zoo3 knows, or a dict
    :return: the dict
    """
    if isinstance(policy_kwargs, str):
        return eval(policy_kwargs, vars(rl_zoo3.exp_manager))
    return policy_kwargs or {}


class Mergeable(Hyperparams):
    """Hyperparameters whose ``update`` keeps those ``policy_kwargs`` that the new ones do not name."""

    def copy(self) -> "Mergeable":
        return Mergeable(self)

    def update(self, other: Hyperparams) -> None:  # type: ignore[override]
        """:param other: hyperparameters that take precedence"""
        policy_kwargs = evaluated(self.get("policy_kwargs"))
        super().update(other)
        if "policy_kwargs" in other:
            self["policy_kwargs"] = {**policy_kwargs, **evaluated(other["policy_kwargs"])}


def expression(value: Any) -> str:
    """
    :param value: of plain types and classes
    :return: Python for it, as rl-zoo3 evaluates it
    """
    if isinstance(value, dict):
        if all(isinstance(name, str) and name.isidentifier() for name in value):
            return f"dict({', '.join(f'{name}={expression(item)}' for name, item in value.items())})"
        return f"{{{', '.join(f'{expression(name)}: {expression(item)}' for name, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(expression(item) for item in value)}]"
    if isinstance(value, tuple):
        return f"({''.join(f'{expression(item)}, ' for item in value)})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, type):
        name = value.__name__
        if vars(rl_zoo3.exp_manager).get(name) is value:
            return name
        if getattr(nn, name, None) is value:
            return f"nn.{name}"
        return f"get_class_by_name({value.__module__ + '.' + value.__qualname__!r})"
    return repr(value)


def plain(hyperparams: Hyperparams) -> Hyperparams:
    """
    :param hyperparams: with classes among the arguments of policy and replay buffer
    :return: the same as an entry of a YAML file, for anyone to load safely
    """
    entry = dict(hyperparams)
    for name, value in entry.items():
        try:
            yaml.safe_dump(value)
        except yaml.representer.RepresenterError:
            entry[name] = expression(value)
    return entry
