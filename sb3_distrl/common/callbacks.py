"""Callbacks for training."""

from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_distrl.common.model import ValueModel
from sb3_distrl.validation import check_at_least


def steps_of(checkpoint: Path) -> int:
    """:return: the model's environment steps in a checkpoint of :class:`RollingCheckpointCallback`"""
    return int(checkpoint.name.removesuffix("_steps.zip").rpartition("_")[2])


def _checkpoints(folder: str | Path, name_prefix: str) -> list[Path]:
    """:return: oldest first"""
    found = Path(folder).glob(f"{name_prefix}_*_steps.zip")
    own = [path for path in found if path.name.removeprefix(f"{name_prefix}_").removesuffix("_steps.zip").isdecimal()]
    return sorted(own, key=steps_of)


def latest_checkpoint(folder: str | Path, name_prefix: str = "checkpoint") -> Path | None:
    """
    :param folder: of a :class:`RollingCheckpointCallback`
    :param name_prefix: of its files
    :return: the checkpoint with the most steps, or ``None`` if there is none yet
    """
    checkpoints = _checkpoints(folder, name_prefix)
    return checkpoints[-1] if checkpoints else None


class RollingCheckpointCallback(BaseCallback):
    """
    Save checkpoints for exact resuming, ``<name_prefix>_<steps>_steps.zip``, and keep the last ones.

    They are saved when training ends, and between rollouts, when no step is half done: with ``train_freq=4``, up to 4
    vectorised steps late. An old one is deleted once a new one is complete. Weights that are not finite are not saved:
    training ends with a ValueError, and earlier checkpoints stay.

    :param save_freq: environment steps, over all environments, between checkpoints
    :param folder: where to save them
    :param name_prefix: of the files
    :param keep: how many to keep
    :param verbose: 1 prints each checkpoint's path
    :raises ValueError: for arguments out of range
    """

    model: ValueModel

    def __init__(
        self, save_freq: int, folder: str | Path, name_prefix: str = "checkpoint", keep: int = 2, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        check_at_least("save_freq", save_freq, 1, "use a number of environment steps")
        check_at_least("keep", keep, 1, "use the number of checkpoints to keep")
        self.save_freq, self.folder, self.name_prefix, self.keep = save_freq, Path(folder), name_prefix, keep

    def _init_callback(self) -> None:
        if not isinstance(self.model, ValueModel):
            raise ValueError(
                f"model={type(self.model).__name__} cannot be resumed exactly: use sb3_distrl's algorithms, or SB3's "
                "CheckpointCallback."
            )
        for left_over in self.folder.glob(f".{self.name_prefix}_*_steps.zip.tmp"):  # of a killed process
            left_over.unlink()

    def _on_training_start(self) -> None:
        self.last_saved = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps - self.last_saved >= self.save_freq:
            self._save()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.model.num_timesteps > self.last_saved:
            self._save()

    def _save(self) -> None:
        path = self.folder / f"{self.name_prefix}_{self.model.num_timesteps}_steps.zip"
        self.model.save_checkpoint(path)
        self.last_saved = self.model.num_timesteps
        if self.verbose:
            print(f"Saved {path}")
        for old in _checkpoints(self.folder, self.name_prefix)[: -self.keep]:
            old.unlink()
