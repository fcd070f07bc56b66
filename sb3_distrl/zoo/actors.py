"""Ape-X with rl-zoo3's environments and monitor files."""

import copy
import importlib
import time
from pathlib import Path

from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.envs import register_minatar


class ActorEnvMaker:
    """Makes the ``n_envs`` environments of an actor, in its process, as rl-zoo3 would make them."""

    def __init__(self, experiment: ExperimentManager, n_envs: int) -> None:
        self.experiment = copy.copy(experiment)
        self.experiment.callbacks = []  # they have the evaluation environments
        self.experiment.verbose = 0
        self.n_envs = n_envs

    def __call__(self) -> VecEnv:
        register_minatar()
        for package in self.experiment.args.gym_packages:
            importlib.import_module(package)
        return self.experiment.create_envs(self.n_envs, no_log=True)  # the learner writes the monitor file


class ActorMonitorCallback(BaseCallback):
    """Writes the episodes of all actors to the run's folder, for rl-zoo3's plots."""

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
