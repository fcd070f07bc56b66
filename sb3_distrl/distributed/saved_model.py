"""Send a model to another process."""

import io
import warnings
from typing import Any, NamedTuple, TypeVar

import cloudpickle
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import is_json_serializable

Model = TypeVar("Model", bound=BaseAlgorithm)


class SavedModel(NamedTuple):
    """
    A model as saved by SB3, with its class, which may not be importable where it is loaded.

    ``exact`` has the attributes that SB3 saves as JSON, which turns tuples into lists and keys into strings.
    """

    algorithm: type[BaseAlgorithm]
    file: bytes
    exact: dict[str, Any]

    @classmethod
    def of(cls, model: BaseAlgorithm, exclude: list[str]) -> "SavedModel":
        """Save a model without these attributes; a ValueError names one that cannot be pickled."""
        file = io.BytesIO()
        try:
            model.save(file, exclude)
        except Exception as error:
            for name in sorted(vars(model).keys() - {*exclude, *model._excluded_save_params()}):
                if not _can_be_saved(vars(model)[name]):
                    raise ValueError(
                        f"{name}={vars(model)[name]} of {type(model).__name__} cannot be pickled ({error}): list it in "
                        "_excluded_save_params(), and set it in __init__ or _setup_model, which actors call, too."
                    ) from error
            raise
        exact = {name: value for name, value in vars(model).items() if is_json_serializable(value)}
        return cls(type(model), file.getvalue(), exact)

    def load(self) -> BaseAlgorithm:
        """Load the model on the CPU; raise a UserWarning where SB3 would leave out an attribute."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Could not deserialize object")
            return self.algorithm.load(io.BytesIO(self.file), device="cpu", custom_objects=self.exact)


def _can_be_saved(value: Any) -> bool:
    try:
        return is_json_serializable(value) or bool(cloudpickle.dumps(value))
    except Exception:  # whatever its __reduce__ raises
        return False
