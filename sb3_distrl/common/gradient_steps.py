"""Gradient steps are taken only where what leads to them is finite, so that weights always are."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_distrl.common.acceleration import clip_gradients
from sb3_distrl.common.loss import Samples

if TYPE_CHECKING:
    from sb3_distrl.common.algorithm import ValueAlgorithm

LARGE_LOSS = 1e8  # from here on the gradients are measured on each step; with smaller losses their norm does not overflow


class NotFinite(Exception):
    """Names the number that is not finite, such as ``loss=nan``."""


def reading_waits(optimizer: th.optim.Optimizer, device: th.device) -> bool:
    """
    :param optimizer: that takes the gradient steps
    :param device: of the losses
    :return: whether to leave the decision to the device, as reading a number would wait for it, and the optimizer can skip a
        step by itself
    """
    return device.type == "cuda" and all(group.get("fused") for group in optimizer.param_groups)


def take_step(
    optimizer: th.optim.Optimizer,
    network: th.nn.Module,
    loss: th.Tensor,
    seen: dict[str, th.Tensor],
    max_grad_norm: float | None,
    measure: bool,
) -> dict[str, th.Tensor]:
    """
    Take a gradient step, unless the loss, its gradients, or something else that was seen is not finite.

    :param optimizer: of the network
    :param network: whose gradients are clipped
    :param loss: scalar
    :param seen: other scalars that must be finite, by name
    :param max_grad_norm: how long all gradients may be together; ``None`` leaves them as they are
    :param measure: whether the norm of the gradients is wanted, where it is not needed
    :return: metrics: the norm, if it was measured, and, where the device decides, 1 for a step that was ``skipped``
    :raises NotFinite: where reading does not wait for the device, if the step was not taken
    """
    on_device = reading_waits(optimizer, loss.device)
    optimizer.zero_grad()
    loss.backward()
    seen, metrics = {"loss": loss.detach(), **seen}, {}
    large = not on_device and not loss.item() < LARGE_LOSS
    if large or measure or max_grad_norm is not None:
        seen["grad_norm"] = metrics["grad_norm"] = clip_gradients(network, max_grad_norm)
    if on_device:
        metrics["skipped"] = step_where_finite(optimizer, seen)
    else:
        check_seen(seen)
        optimizer.step()
    return metrics


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


def check_seen(seen: dict[str, th.Tensor]) -> None:
    """
    :param seen: scalars by name
    :raises NotFinite: naming the first that is not finite
    """
    for name, value in seen.items():
        if not math.isfinite(number := value.item()):
            raise NotFinite(f"{name}={number}")


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


def warn_of_no_gradient_step(model: ValueAlgorithm, total_timesteps: int, due: int) -> None:
    """
    Say why training has done no gradient step, unless none was asked for.

    :param model: whose training has just ended
    :param total_timesteps: of ``learn()``
    :param due: gradient steps that ``replay_ratio`` asks for now
    """
    if model.num_timesteps <= model.learning_starts and model.gradient_steps != 0:
        reason = f"learning_starts={model.learning_starts} environment steps come before the first"
        remedy = "a smaller learning_starts or a larger total_timesteps"
    elif model.replay_ratio is not None and due == 0:
        reason = f"replay_ratio={model.replay_ratio} asks for less than one after learning_starts={model.learning_starts}"
        remedy = "a larger replay_ratio or total_timesteps"
    else:
        return
    warnings.warn(
        f"learn(total_timesteps={total_timesteps}) has ended without a gradient step, as {reason}: use {remedy}.", stacklevel=3
    )
