"""Feature: one input of a model."""

from dataclasses import dataclass
from typing import Literal

FeatureKind = Literal["number", "category"]


@dataclass(frozen=True)
class Feature:
    """One input of a model. A category has `categories`, in the order of their codes (see training.encoding)."""

    name: str
    kind: FeatureKind
    categories: tuple[str, ...] = ()
