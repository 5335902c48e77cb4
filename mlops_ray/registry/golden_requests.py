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

    def to_json(self) -> dict[str, Any]:
        """One number as `probability`, which is all that servers of before know, more as `answer`."""
        asked = {"body": self.body, "online": dict(self.online), "features": dict(self.features)}
        one = len(self.answer) == 1
        return {**asked, **({"probability": self.answer[0]} if one else {"answer": list(self.answer)})}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "GoldenRequest":
        """Raises IntegrityError if parts are missing or unknown."""
        parts = dict(value)
        try:
            answer = (parts.pop("probability"),) if "probability" in parts else tuple(parts.pop("answer"))
            return cls(**parts, answer=answer)
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"golden.json of the sealed model does not fit this version: {error}.") from error
