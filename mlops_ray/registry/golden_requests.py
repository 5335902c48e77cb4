"""Golden requests: what callers could have sent when the model was sealed, with all that must come of it again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlops_ray.errors import IntegrityError

Value = float | int | str | bool | None


@dataclass(frozen=True)
class GoldenRequest:
    """One question about one row, and its way to the answer.

    body: the JSON text of the question, by keys and with its `as_of`. online: what the online store answered, by
    feature. features: the model's inputs that followed, None where missing. probability: the answer.
    """

    body: str
    online: Mapping[str, Value]
    features: Mapping[str, Value]
    probability: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "GoldenRequest":
        """Raises IntegrityError if parts are missing or unknown."""
        try:
            return cls(**value)
        except TypeError as error:
            raise IntegrityError(f"golden.json of the sealed model does not fit this version: {error}.") from error
