"""What a protocol requires and hyperparameters cannot express."""

from dataclasses import dataclass

from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback


@dataclass(frozen=True)
class EpsilonSchedule:
    """
    :param start: environment step at which epsilon begins to fall from 1
    :param end: step at which it ends
    :param final_eps: where it ends
    :param total_timesteps: of the training
    """

    start: int
    end: int
    final_eps: float
    total_timesteps: int

    def __call__(self, progress_remaining: float) -> float:
        step = (1.0 - progress_remaining) * self.total_timesteps
        fallen = min(max((step - self.start) / (self.end - self.start), 0.0), 1.0)
        return 1.0 - fallen * (1.0 - self.final_eps)


class EpsilonAfterStart(BaseCallback):
    """
    Epsilon falls from 1, and only once learning has started, as in Dopamine (``linearly_decaying_epsilon``).

    :param decay_steps: environment steps over which it falls
    :param final_eps: where it ends
    """

    model: DQN

    def __init__(self, decay_steps: int, final_eps: float) -> None:
        super().__init__()
        self.decay_steps, self.final_eps = decay_steps, final_eps

    def _on_training_start(self) -> None:
        start = self.model.learning_starts
        schedule = EpsilonSchedule(start, start + self.decay_steps, self.final_eps, self.model._total_timesteps)
        self.model.exploration_schedule = schedule

    def _on_step(self) -> bool:
        return True
