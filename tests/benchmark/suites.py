"""Suites of little work."""

import time
from pathlib import Path

import yaml
from stable_baselines3.common.callbacks import BaseCallback

ENTRY = dict(policy="MlpPolicy", learning_starts=100, buffer_size=1000, train_freq=40, policy_kwargs=dict(net_arch=[8]))
TRAINING = dict(measure="training", window=400, seeds=[0, 3], steps={"CartPole-v1": 1200})


def suite_file(folder, name="tiny", **fields):
    """
    :param folder: where it is written
    :param name: of the suite
    :param fields: in place of, or beside, two contenders
    :return: path of a suite's file
    """
    fields = {"contenders": {"Rainbow": dict(algo="rainbow", entry=ENTRY), "DQN": dict(algo="dqn", entry=ENTRY)}, **fields}
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(fields))
    return path


class WaitToBeKilled(BaseCallback):
    """
    Waits for the end of the process, the first time.

    :param step: environment step at which it waits
    :param reached: file that says that it does; where there is one, it does nothing
    """

    def __init__(self, step: int, reached: str) -> None:
        super().__init__()
        self.step, self.reached = step, Path(reached)

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step and not self.reached.exists():
            self.reached.touch()
            time.sleep(3600)
        return True


class BreakOff(BaseCallback):
    """
    Ends the training with an exit status, the first time.

    :param step: environment step at which it does
    :param reached: file that says that it does; where there is one, it does nothing
    """

    def __init__(self, step: int, reached: str) -> None:
        super().__init__()
        self.step, self.reached = step, Path(reached)

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step and not self.reached.exists():
            self.reached.touch()
            raise SystemExit(3)
        return True
