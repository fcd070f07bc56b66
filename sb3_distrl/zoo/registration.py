"""Registration of this library's algorithms, environments and hyperparameters with rl-zoo3."""

import sys

import rl_zoo3.hyperparams_opt
import rl_zoo3.utils
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from sb3_distrl.distributed import ApeXIQN, ApeXQRDQN, ApeXRainbow
from sb3_distrl.envs import register_minatar
from sb3_distrl.networks import DataEfficientConv, MinAtarConv, NatureConv
from sb3_distrl.zoo.samplers import CONVERTERS, SAMPLERS

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "rainbow": Rainbow,
    "iqn": IQN,
    "qrdqn": QRDQN,
    "apex-rainbow": ApeXRainbow,
    "apex-iqn": ApeXIQN,
    "apex-qrdqn": ApeXQRDQN,
}

# Names available in YAML strings such as "dict(features_extractor_class=MinAtarConv)"
NAMES = {
    cls.__name__: cls
    for cls in (DataEfficientConv, MinAtarConv, NatureConv, PrioritizedDictReplayBuffer, PrioritizedReplayBuffer)
}


def register() -> None:
    """See :func:`sb3_distrl.zoo.register`."""
    rl_zoo3.utils.ALGOS.update(ALGORITHMS)
    rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER.update(SAMPLERS)
    rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER.update(CONVERTERS)
    register_minatar()
    _drop_incomplete("rl_zoo3.exp_manager", "ExperimentManager")
    from sb3_distrl.zoo.experiment import Experiment

    for name, module in sys.modules.copy().items():
        if name == "__main__" or name.partition(".")[0] == "rl_zoo3":
            if getattr(module, "ExperimentManager", None) is Experiment.__base__:
                module.ExperimentManager = Experiment  # type: ignore[attr-defined]
    for name in ("rl_zoo3.exp_manager", "rl_zoo3.utils"):  # they evaluate YAML files and command lines
        vars(sys.modules[name]).update(NAMES)


def _drop_incomplete(name: str, last: str) -> None:
    """Drop a module that is still being imported (it has no ``last`` yet), so that the next import is complete."""
    if name in sys.modules and not hasattr(sys.modules[name], last):
        del sys.modules[name]
