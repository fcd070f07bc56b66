"""Gradient steps, taken only if the loss and its gradients are finite, so that weights always are."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_distrl.common.acceleration import compiled
from sb3_distrl.common.loss import Loss, Samples
from sb3_distrl.common.policies import ValueNetwork, optimizers_of

if TYPE_CHECKING:
    from sb3_distrl.common.algorithm import ValueAlgorithm

SKIPPED = "gradient steps skipped"  # name of the metric that tells of it
LARGE_LOSS = 1e8  # from here on gradient norms are checked in each step; with smaller losses they do not overflow


class NotFinite(Exception):
    """Names a number that is not finite, such as ``loss=nan``."""


def reading_waits(optimizer: th.optim.Optimizer, device: th.device) -> bool:
    """
    :return: whether the device decides if a step is taken: reading a number would wait, and the optimizer can skip steps
        itself
    """
    return device.type == "cuda" and all(group.get("fused") for group in optimizer.param_groups)


def preprocess(network: ValueNetwork, batch: Samples) -> Samples:
    """Preprocess the observations of a batch, once for all passes, and outside of compiled code."""
    obs, next_obs = network.preprocess_batch(batch.observations), network.preprocess_batch(batch.next_observations)
    return batch._replace(observations=obs, next_observations=next_obs)  # type: ignore[arg-type]


def evaluate(model: ValueAlgorithm, batch: Samples) -> Loss:
    """:return: the algorithm's loss of a preprocessed batch, compiled if ``model.compile``"""
    discounts = model.gamma if batch.discounts is None else batch.discounts
    loss = compiled(type(model).loss, model.device.type) if model.compile else type(model).loss
    result = loss(model, batch, (1 - batch.dones) * discounts)
    for name in ("losses", "priorities", "q_values"):
        if getattr(result, name).shape != batch.rewards.shape[:1]:
            raise ValueError(
                f"{name} of the loss of {type(model).__name__} has shape {tuple(getattr(result, name).shape)}: give one for "
                f"each of the {len(batch.rewards)} samples."
            )
    return result


def gradient_step(model: ValueAlgorithm, batch: Samples, measure_norm: bool) -> dict[str, th.Tensor]:
    """
    Minimise the algorithm's loss of a preprocessed batch, weighted by importance sampling, and update the priorities, unless
    the loss, its gradients or the priorities are not finite.

    :param measure_norm: whether to log the norm of the gradients even if clipping does not need it
    :return: scalars to log; where the device decides, ``SKIPPED`` is 1 for a skipped step
    :raises ValueError: if the step was not taken, unless the device decides
    """
    losses, priorities, q_values, metrics, extra = evaluate(model, batch)
    if model.prioritized:
        weights = batch.weights.squeeze(1)  # type: ignore[union-attr]
        loss = (weights * losses).mean()
        metrics = {**metrics, "weight_mean": weights.mean()}
    else:
        loss = losses.mean()
    further = further_gradients(model.policy, extra)
    optimizers = [model.policy.optimizer, *(getattr(model.policy, name) for name in extra)]
    on_device = all(reading_waits(optimizer, loss.device) for optimizer in optimizers)
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    seen = {"loss": loss.detach(), **({"priorities": priorities.max()} if model.prioritized else {})}
    large = not on_device and not loss.item() < LARGE_LOSS
    if large or measure_norm or model.max_grad_norm is not None:
        seen["grad_norm"] = clip_gradients(model.q_net, model.max_grad_norm)
        metrics = {**metrics, "grad_norm": seen["grad_norm"]}
    for name, gradients in further.items():  # not clipped
        seen[name] = extra[name].detach()
        seen[f"grad_norm of {name}"] = th.nn.utils.get_total_norm(list(gradients.values()))
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
    try:
        if on_device:
            metrics = {**metrics, SKIPPED: step_where_finite(optimizers, seen)}
        else:
            check_seen(seen)
            for optimizer in optimizers:
                optimizer.step()
        if model.prioritized:
            priorities = priorities.cpu()  # the buffer needs them there anyway
            if on_device:
                check_seen({"priorities": priorities.max()})
    except NotFinite as error:
        what = f"{error} is not finite in gradient step {model._n_updates + 1}"
        raise refusal(what, model.q_net, model.policy.optimizer.param_groups[0]["lr"], batch) from None
    if model.prioritized:
        model.replay_buffer.update_priorities(batch.indices, priorities)  # type: ignore[attr-defined, union-attr]
    return {**metrics, "loss": loss, "q_mean": q_values.mean()}


def clip_gradients(network: th.nn.Module, max_norm: float | None) -> th.Tensor:
    """:return: the norm of all gradients before they are scaled down to ``max_norm``, if larger; ``None`` leaves them"""
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    norm = th.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    # Scaling is another pass over the memory, skipped if not needed; on CUDA, reading the norm would wait for it
    if max_norm is not None and (norm.device.type == "cuda" or norm > max_norm):
        th.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def further_gradients(policy: th.nn.Module, extra: dict[str, th.Tensor]) -> dict[str, dict[th.nn.Parameter, th.Tensor]]:
    """
    :return: the gradients of each further loss with respect to the parameters of its optimizer; no ``grad`` is changed
    :raises ValueError: for a loss without an optimizer
    """
    found: dict[str, dict[th.nn.Parameter, th.Tensor]] = {}
    for name, loss in extra.items():
        if name not in optimizers_of(policy):
            remedy = "return it from further_optimizers() of the policy"
            raise ValueError(f"extra={name!r} of the loss is not an optimizer of the policy: {remedy}.")
        parameters = [parameter for group in getattr(policy, name).param_groups for parameter in group["params"]]
        gradients = th.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        found[name] = {p: gradient for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    return found


def step_where_finite(optimizers: list[th.optim.Optimizer], seen: dict[str, th.Tensor]) -> th.Tensor:
    """
    Take a gradient step unless one of the numbers is not finite, without reading from the device.

    :param optimizers: fused ones, which skip a step in the same way as for torch's ``GradScaler``
    :param seen: scalars by name
    :return: 1 if the step was skipped, else 0
    """
    skipped = 1.0 - th.stack(list(seen.values())).isfinite().all().float()
    for optimizer in optimizers:
        optimizer.found_inf = skipped  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]
    return skipped


def check_seen(seen: dict[str, th.Tensor]) -> None:
    """:raises NotFinite: naming the first scalar that is not finite"""
    for name, value in seen.items():
        if not math.isfinite(number := value.item()):
            raise NotFinite(f"{name}={number}")


def largest(values: PyTorchObs) -> float:
    """:return: the largest absolute value"""
    parts = values.values() if isinstance(values, dict) else [values]
    return max(part.abs().max().item() for part in parts)


def refusal(what: str, network: th.nn.Module, learning_rate: float, batch: Samples | None = None) -> ValueError:
    """
    :param what: was seen, and when
    :param batch: where it was seen, if still available
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


def skipped_steps(model: ValueAlgorithm, share: float, steps: int) -> ValueError:
    """:return: an error about the share of the last ``steps`` gradient steps that the optimizer skipped"""
    what = f"Losses or gradients were not finite in {share:.1%} of the last {steps} gradient steps"
    return refusal(what, model.q_net, model.policy.optimizer.param_groups[0]["lr"])


def warn_of_no_gradient_step(model: ValueAlgorithm, total_timesteps: int) -> None:
    """Explain why ``learn()`` did no gradient step, unless none was requested."""
    if not model._num_timesteps_at_start < model.num_timesteps >= model._total_timesteps:
        return  # stopped early
    if model.num_timesteps <= model.learning_starts and model.gradient_steps != 0:
        reason = f"learning_starts={model.learning_starts} environment steps come before the first"
        remedy = "a smaller learning_starts or a larger total_timesteps"
    elif model.replay_ratio is not None and model.steps_due() == 0:
        reason = f"replay_ratio={model.replay_ratio} asks for less than one after learning_starts={model.learning_starts}"
        remedy = "a larger replay_ratio or total_timesteps"
    else:
        return
    warnings.warn(
        f"learn(total_timesteps={total_timesteps}) ended without a gradient step, as {reason}: use {remedy}.", stacklevel=3
    )
