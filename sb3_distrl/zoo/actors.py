"""Training with actors through rl-zoo3, which makes environments itself and hands them to the algorithm."""

import copy
import importlib
import time
from pathlib import Path

from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.distributed import ApeX
from sb3_distrl.zoo import register


def has_actors(algo: str) -> bool:
    """
    :param algo: name of an algorithm
    :return: whether actors step its environments
    """
    return issubclass(ALGOS[algo], ApeX)


class ActorEnvMaker:
    """
    Makes the environments of an actor, in whatever process it is, as rl-zoo3 would make them for an algorithm without actors.

    :param experiment: that knows how
    :param n_envs: of each actor
    """

    def __init__(self, experiment: ExperimentManager, n_envs: int) -> None:
        self.experiment = copy.copy(experiment)
        self.experiment.callbacks = []  # which have environments for evaluation
        self.experiment.verbose = 0
        self.n_envs = n_envs

    def __call__(self) -> VecEnv:
        """:return: environments that write no files: the learner does"""
        register()
        for package in self.experiment.args.gym_packages:
            importlib.import_module(package)
        return self.experiment.create_envs(self.n_envs, no_log=True)


class MonitorOfActors(BaseCallback):
    """
    Write the episodes of all actors where rl-zoo3's plots look for those of a training.

    :param folder: of the run
    :param env_id: name of the environment
    """

    def __init__(self, folder: str, env_id: str) -> None:
        super().__init__()
        self.path, self.env_id = Path(folder) / "0.monitor.csv", env_id

    def _on_training_start(self) -> None:
        self.start = time.time()
        self.writer = ResultsWriter(str(self.path), header={"t_start": self.start, "env_id": self.env_id})

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                episode = info["episode"]
                self.writer.write_row({"r": episode["r"], "l": episode["l"], "t": round(time.time() - self.start, 6)})
        return True

    def _on_training_end(self) -> None:
        self.writer.close()
