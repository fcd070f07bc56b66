"""Checks that models and statistics are finite before they are saved or handed on."""

from typing import Any

import numpy as np
import torch as th

from sb3_distrl.common.policies import optimizers_of

REMEDY = "lower the learning rate, or clip rewards and observations"


def _is_finite(tensor: th.Tensor) -> bool:
    # The sum is faster, and finite only if all numbers are; but a sum of finite numbers may overflow
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def check_weights(network: th.nn.Module, n_updates: int, consequence: str) -> None:
    """
    Check that parameters are finite, and buffers not NaN: a mask may be infinite.

    :param consequence: ends the error message
    :raises ValueError: naming the first weights that are not
    """
    parameters = {name for name, _ in network.named_parameters()}
    for name, tensor in network.state_dict().items():
        if not _is_finite(tensor) and (name in parameters or tensor.isnan().any()):
            raise ValueError(f"The weights {name} are not finite after {n_updates} gradient steps, {consequence}: {REMEDY}.")


def check_model(policy: Any, n_updates: int) -> None:
    """
    :raises ValueError: naming what is not finite of the weights and the optimizers' state: infinite moments of a gradient
        would stop the training of its weights for good
    """
    not_saved = "and the model is not saved, so existing files are unchanged"
    check_weights(policy, n_updates, not_saved)
    names = {parameter: name for name, parameter in policy.named_parameters()}
    states = (item for optimizer in optimizers_of(policy).values() for item in optimizer.state.items())
    for parameter, state in states:
        for key, value in state.items():
            if isinstance(value, th.Tensor) and not _is_finite(value):
                raise ValueError(
                    f"The optimizer's {key} of {names.get(parameter, 'a parameter')} is not finite after {n_updates} gradient "
                    f"steps, {not_saved}: {REMEDY}. model.policy.save() saves the networks alone."
                )


def check_statistics(statistics: dict[str, Any]) -> None:
    """:raises ValueError: naming VecNormalize's statistics that are not finite"""
    for name, value in statistics.items():
        for each in value.values() if isinstance(value, dict) else [value]:
            if not (np.isfinite(each.mean).all() and np.isfinite(each.var).all()):
                raise ValueError(
                    f"VecNormalize's {name} is not finite, and no checkpoint is saved, so existing files are unchanged: fix "
                    "the environment, which returned an observation or reward that is not."
                )
