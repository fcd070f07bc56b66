"""Is Adam's eps small compared with the gradients? Their root mean squares, from a saved model's optimizer, against eps."""

import argparse
from pathlib import Path
from typing import Any, cast

import torch as th
from shared import machine, write_report
from stable_baselines3.common.save_util import load_from_zip_file

NONE = 1e-8  # gradients below are mostly of units that have died


def gradients(path: Path) -> tuple[th.Tensor, float, float]:
    """
    :param path: of a model of SB3 or of this library that was trained with Adam
    :return: root mean squares of the gradients of all parameters, as Adam estimates them, shape [parameters]; its eps; its
        learning rate
    :raises ValueError: for a model without Adam's estimates
    """
    _, params, _ = load_from_zip_file(path, load_data=False, device="cpu")
    optimizer = cast(dict[str, Any], params["policy.optimizer"])
    states, (group,) = optimizer["state"].values(), optimizer["param_groups"]
    if not states or any("exp_avg_sq" not in state for state in states) or "betas" not in group:
        raise ValueError(f"{path} has no estimates of Adam: name a model that was trained with it.")
    _, beta = group["betas"]
    squares = [(state["exp_avg_sq"] / (1 - beta ** float(state["step"]))).flatten() for state in states]
    return th.cat(squares).sqrt(), group["eps"], group["lr"]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="name and path of each")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file")
    args = parser.parse_args(arguments)
    lines = ["# Adam's eps and the gradients", "", machine(), ""]
    lines += [
        "Root mean square of each parameter's gradients, by which Adam divides, in the final model of a training. A parameter "
        "where it is far below eps moves at a fraction of the learning rate.",
        "",
        f"| model | learning rate | eps | median over parameters | median speed | parameters below eps | below {NONE:g} |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for model in args.models:
        name, _, path = model.partition("=")
        if not Path(path).is_file():
            parser.error(f"models: {model} names no file: use NAME=PATH.zip.")
        try:
            sizes, eps, learning_rate = gradients(Path(path))
        except ValueError as error:
            parser.error(str(error))
        speed = (sizes / (sizes + eps)).median()
        below, none = ((sizes < size).float().mean() for size in (eps, NONE))
        shares = f"{speed:.2g} | {below:.0%} | {none:.0%}"
        lines.append(f"| {name} | {learning_rate:g} | {eps:g} | {sizes.median():.2g} | {shares} |")
    lines += [
        "",
        "Median speed: of sqrt(v) / (sqrt(v) + eps), to which eps slows a parameter; 1 is not at all. Parameters below "
        f"{NONE:g} are mostly those of units that have died: a rectifier that is off for all inputs has no gradient.",
    ]
    report = "\n".join(lines) + "\n"
    write_report(report, args.output)
