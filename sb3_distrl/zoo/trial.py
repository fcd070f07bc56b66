"""A trial of a study whose score is the mean over several seeds."""

from typing import Any

import numpy as np
import optuna


class TrialOfSeed:
    """
    A trial as one of several seeds sees it: what it reports is the mean over the seeds so far.

    :param trial: the trial
    :param scores: of the seeds before
    :param last_step: of the reports of the seeds before
    :param policy: name of the policy, for the samplers
    """

    def __init__(self, trial: optuna.Trial, scores: list[float], last_step: int, policy: str) -> None:
        self._trial, self._scores, self._first_step = trial, list(scores), last_step
        self.last_step = last_step
        self.policy = policy
        self.number = f"{trial.number}_seed_{len(scores)}" if scores else trial.number  # names the folder of its logs

    def report(self, value: float, step: int) -> None:
        """
        :param value: mean return of an evaluation
        :param step: number of the evaluation, from 1
        """
        mean = float(np.mean([*self._scores, value]))
        self.last_step = self._first_step + step
        self._trial.report(mean, self.last_step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)
