"""Steps: what a method of the clients asks, one call after another, whichever of the two carries it out."""

from collections.abc import Generator
from typing import Any, TypeVar

from mlops_ray.client.exchange import Call

T = TypeVar("T")
Steps = Generator[Call, Any, T]
"""Yields a call, is sent the answer's content, or has the error thrown into it, and returns what the method does."""


def only(call: Call) -> Steps[dict[str, Any]]:
    """The answer to one call."""
    return dict((yield call))
