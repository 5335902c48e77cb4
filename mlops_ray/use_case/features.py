"""Feature: one input of a model."""

from dataclasses import dataclass
from typing import Literal

from mlops_ray.errors import UseCaseError

FeatureKind = Literal["number", "category"]


@dataclass(frozen=True)
class Feature:
    """One input of a model. A category has `categories`, in the order of their codes (see training.encoding)."""

    name: str
    kind: FeatureKind
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise UseCaseError("A feature has an empty name. Give the column that it is made of a name.")
