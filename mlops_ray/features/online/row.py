"""What an online store knows of one row at one moment."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class OnlineRow:
    """`values` has every feature of the service by name, None where there is none for one of these reasons.

    missing: nothing was known at the moment: the store has no value, an empty one, or only one from after the moment.
    expired: the value was older than its view's ttl.
    """

    values: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
