"""Golden requests: what callers could have sent when the model was sealed, with all that must come of it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlops_ray.errors import IntegrityError

Value = float | int | str | bool | None


@dataclass(frozen=True)
class GoldenRequest:
    """One question about one row, and its way to the answer.

    body: the JSON text of the question, by keys and with its `as_of`. online: what the online store answered, by
    feature. features: the model's inputs that followed, None where missing. answer: the numbers that were answered.
    """

    body: str
    online: Mapping[str, Value]
    features: Mapping[str, Value]
    answer: tuple[float, ...]

    def to_json(self, output: str) -> dict[str, Any]:
        """output: the name of the answer, `Task.output`."""
        asked = {"body": self.body, "online": dict(self.online), "features": dict(self.features)}
        return {**asked, output: self.answer[0] if len(self.answer) == 1 else list(self.answer)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "GoldenRequest":
        """Raises IntegrityError if parts are missing or unknown."""
        try:
            (output,) = value.keys() - {"body", "online", "features"}
            answer = value[output]
            numbers = tuple(answer) if isinstance(answer, list) else (float(answer),)
            return cls(value["body"], value["online"], value["features"], numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"golden.json of the sealed model does not fit this version: {error!r}.") from error
