"""Entries of hyperparameter files: reading as in rl-zoo3, merging, and writing."""

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
from sb3_distrl.validation import nearest

Hyperparams = dict[str, Any]


class Loader(yaml.SafeLoader):
    """Safe YAML where 1e-4 is a number, as in YAML 1.2; in PyYAML's YAML 1.1 it is a string."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def hyperparams_file(algo: str) -> Path:
    """:return: this library's YAML file for an algorithm, in the wheel or a checkout; it may not exist"""
    package = Path(sb3_distrl.__file__).parent
    folder = package / "hyperparams" if (package / "hyperparams").is_dir() else package.parent / "hyperparams"
    return folder / f"{algo}.yml"


def read_entries(config: str) -> dict[str, Hyperparams]:
    """:return: hyperparameters by environment, from a YAML file, Python file or module, as rl-zoo3's ``--conf-file``"""
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
        raise ValueError(f"conf_file={config} has no hyperparameters: it must map environments to hyperparameters.")
    return entries


def read_entry(config: str, algo: str, env_id: str, is_atari: bool, entry: str | None = None) -> Hyperparams:
    """:return: the entry of a file for an environment: its own, its family's or ``default``, unless ``entry`` is given"""
    entries = read_entries(config)
    if entry is None:
        family = "atari" if is_atari else "minatar" if env_id.startswith("MinAtar/") else "default"
        found = [name for name in (env_id, family, "default") if name in entries]
        if not found:
            raise ValueError(f"Hyperparameters not found for {algo}-{env_id} in {config}: add an entry {env_id}.")
        entry = found[0]
    elif entry not in entries:
        raise ValueError(f"entry={entry} is not in {config}.{nearest(entry, entries)} It has {', '.join(entries)}.")
    if entry != env_id:
        print(f"Using the entry '{entry}'")
    if not isinstance(entries[entry], dict):
        raise ValueError(f"Entry {entry} of {config} is empty: give it hyperparameters.")
    return entries[entry]


def evaluated(policy_kwargs: str | Hyperparams | None) -> Hyperparams:
    """:return: the ``policy_kwargs`` of an entry as a dict; a string is Python code with the names that rl-zoo3 knows"""
    if isinstance(policy_kwargs, str):
        return eval(policy_kwargs, vars(rl_zoo3.exp_manager))
    return policy_kwargs or {}


class Mergeable(Hyperparams):
    """Hyperparameters whose ``update`` merges ``policy_kwargs``."""

    def copy(self) -> "Mergeable":
        return Mergeable(self)

    def update(self, other: Hyperparams) -> None:  # type: ignore[override]
        policy_kwargs = evaluated(self.get("policy_kwargs"))
        super().update(other)
        if "policy_kwargs" in other:
            self["policy_kwargs"] = {**policy_kwargs, **evaluated(other["policy_kwargs"])}


def expression(value: Any) -> str:
    """:return: Python code for a value of built-in types and classes, for rl-zoo3 to evaluate"""
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
    """:return: the hyperparameters as a safe YAML entry: arguments with classes become Python code"""
    entry = dict(hyperparams)
    for name, value in entry.items():
        try:
            yaml.safe_dump(value)
        except yaml.representer.RepresenterError:
            entry[name] = expression(value)
    return entry
