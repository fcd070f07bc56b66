"""Rollouts stopped by a callback."""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import TrainFreq


class StoppableFreq(TrainFreq):
    """A rollout's ``train_freq``: setting ``stopped`` ends the rollout after the current step."""

    stopped = False

    @property
    def frequency(self) -> int:  # type: ignore[override]
        return 0 if self.stopped else self[0]


class StopAfterStoring(BaseCallback):
    """
    A callback that stops a rollout only after the current step has been stored and counted.

    SB3's loop returns as soon as a callback says so, and loses the transition: with ``StopTrainingOnMaxEpisodes``, the last
    reward of the last episode.
    """

    def __init__(self, callback: BaseCallback, train_freq: StoppableFreq) -> None:
        super().__init__()
        self.callback, self.train_freq = callback, train_freq

    def on_rollout_start(self) -> None:
        self.callback.on_rollout_start()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        self.callback.update_locals({**locals_, "callback": self.callback})

    def on_step(self) -> bool:
        if not self.callback.on_step():
            self.train_freq.stopped = True
        return True

    def _on_step(self) -> bool:
        raise NotImplementedError

    def on_rollout_end(self) -> None:
        if not self.train_freq.stopped:  # SB3 does not call it when a rollout is stopped
            self.callback.on_rollout_end()
