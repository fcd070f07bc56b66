"""Gradient steps are taken only where what leads to them is finite, so that weights always are."""

import math

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_distrl.common.loss import Samples

LARGE_LOSS = 1e8  # from here on the gradients are measured on each step; with smaller losses their norm does not overflow


def reading_waits(optimizer: th.optim.Optimizer, device: th.device) -> bool:
    """
    :param optimizer: that takes the gradient steps
    :param device: of the losses
    :return: whether to leave the decision to the device, as reading a number would wait for it, and the optimizer can skip a
        step by itself
    """
    return device.type == "cuda" and bool(optimizer.defaults.get("fused"))


def step_where_finite(optimizer: th.optim.Optimizer, seen: dict[str, th.Tensor]) -> th.Tensor:
    """
    Take a gradient step, unless one of the numbers is not finite; nothing is read from the device.

    :param optimizer: a fused one, which skips a step as torch's ``GradScaler`` has it do
    :param seen: scalars by name
    :return: 1 if it was skipped, else 0
    """
    skipped = 1.0 - th.stack(list(seen.values())).isfinite().all().float()
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
    return skipped


def first_not_finite(seen: dict[str, th.Tensor]) -> str | None:
    """
    :param seen: scalars by name
    :return: the first that is not finite, such as ``loss=nan``
    """
    numbers = ((name, value.item()) for name, value in seen.items())
    return next((f"{name}={number}" for name, number in numbers if not math.isfinite(number)), None)


def largest(values: PyTorchObs) -> float:
    """
    :param values: shape [B, ...], for each key
    :return: the largest absolute value
    """
    parts = values.values() if isinstance(values, dict) else [values]
    return max(part.abs().max().item() for part in parts)


def refusal(what: str, network: th.nn.Module, learning_rate: float, batch: Samples | None = None) -> ValueError:
    """
    :param what: was seen, and when
    :param network: that has not been changed
    :param learning_rate: of the gradient step
    :param batch: that it was seen on, where it is still there
    :return: an error that says why a gradient step was not taken, and what to do
    """
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        return ValueError(f"{what}, as the weights are not finite: load the model from a file or checkpoint with finite ones.")
    size = ""
    if batch is not None:
        obs = max(largest(batch.observations), largest(batch.next_observations))
        size = f"The batch has observations up to {obs:.3g} and rewards up to {largest(batch.rewards):.3g}. "
    return ValueError(
        f"{what}. The step was not taken, and the weights are finite. {size}Clip or normalise the environment's observations "
        f"and rewards, e.g. by VecNormalize; if they are small, lower learning_rate={learning_rate:.3g} or set max_grad_norm."
    )
