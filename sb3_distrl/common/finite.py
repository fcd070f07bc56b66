"""What must be finite before it is saved or handed on."""

from typing import Any

import numpy as np
import torch as th

from sb3_distrl.common.policies import optimizers_of

REMEDY = "lower the learning rate, or clip rewards and observations"


def _is_finite(tensor: th.Tensor) -> bool:
    # What is not finite stays so in a sum, which is quicker; so may be a sum of finite numbers
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def check_weights(network: th.nn.Module, n_updates: int, consequence: str) -> None:
    """
    :param network: its parameters must be finite, its buffers must be numbers: a mask may be infinite
    :param n_updates: gradient steps so far
    :param consequence: of weights that are not, after a comma
    :raises ValueError: naming the first weights that are not
    """
    parameters = {name for name, _ in network.named_parameters()}
    for name, tensor in network.state_dict().items():
        if not _is_finite(tensor) and (name in parameters or tensor.isnan().any()):
            raise ValueError(f"The weights {name} are not finite after {n_updates} gradient steps, {consequence}: {REMEDY}.")


def check_model(policy: Any, n_updates: int) -> None:
    """
    :param policy: to be saved, with its optimizer: infinite moments of a gradient stop the training of its weights for good
    :param n_updates: gradient steps so far
    :raises ValueError: naming what is not finite
    """
    not_saved = "and the model is not saved, so that former files stay as they are"
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
    """
    :param statistics: of VecNormalize, by name: a RunningMeanStd, or a dict of them
    :raises ValueError: naming those that are not finite
    """
    for name, value in statistics.items():
        for each in value.values() if isinstance(value, dict) else [value]:
            if not (np.isfinite(each.mean).all() and np.isfinite(each.var).all()):
                raise ValueError(
                    f"VecNormalize's {name} is not finite, and no checkpoint is saved, so that former files stay as they are: "
                    "fix the environment, which returned an observation or reward that is not."
                )
