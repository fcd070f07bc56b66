"""Risk measures as attributes of a model."""

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sb3_distrl.functional import as_distortion

Kept = TypeVar("Kept")


class RiskMeasure(Generic[Kept]):
    """
    An attribute set to the name of a risk measure, or to a distortion, and kept as a distortion. It is stored in the
    instance's ``__dict__``, where SB3 saves and restores attributes, and is read from there: torch.compile may not trace a
    ``__get__``, so only type checkers see one.

    :param optional: whether ``None`` is allowed
    """

    def __init__(self, optional: bool = False) -> None:
        self.optional = optional

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    if TYPE_CHECKING:

        def __get__(self, model: Any, owner: type | None = None) -> Kept: ...

    def __set__(self, model: Any, risk: str | Kept) -> None:
        allowed = self.optional and risk is None
        vars(model)[self.name] = None if allowed else as_distortion(risk, self.name)  # type: ignore[arg-type]
