"""How a retraining is started: what the governor wants, whoever does it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

Phase = Literal["new", "running", "ended"]


@dataclass(frozen=True)
class Order:
    """What to run. submission: the id under which it is started: the same one is never started twice."""

    submission: str
    retraining: str
    as_of: datetime


class Launcher(Protocol):
    def phase(self, submission: str) -> Phase:
        """How far the submission is; `new` if nobody has heard of it. Raises UnavailableError if nobody answers."""
        ...

    def start(self, order: Order) -> None:
        """Start it, if that did not happen yet, and return at once."""
        ...

    def stop(self, submission: str) -> None:
        """Have a submission that runs, or waits to run, end without a result."""
        ...
