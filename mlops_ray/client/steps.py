"""Steps: what a method of the clients asks, one call after another, whichever of the two carries it out."""

from collections.abc import Generator
from typing import Any, TypeVar
from urllib.parse import urlencode

from mlops_ray.client.exchange import Call

PAGE = 1_000  # the most that a server gives at a time

T = TypeVar("T")
Steps = Generator[Call, Any, T]
"""Yields a call, is sent the answer's content, or has the error thrown into it, and returns what the method does."""


def only(call: Call) -> Steps[dict[str, Any]]:
    """The answer to one call."""
    return dict((yield call))


def all_pages(path: str, name: str) -> Steps[list[dict[str, Any]]]:
    """What stands under `name` in all pages of a list."""
    found, after = list[dict[str, Any]](), ""
    while True:
        page = yield Call(f"{path}?{urlencode({'limit': PAGE, 'after': after})}", method="GET")
        found += page[name]
        if page["next"] is None:
            return found
        after = page["next"]
