"""The id of a request: the caller's, so that a retry keeps it, or a new UUIDv7, whose time finds its records."""

import re
import time
from collections.abc import Mapping

from mlops_ray.predictions.ids import uuid7_at

HEADER = b"x-request-id"
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The id in `headers` if it is a UUID, in its canonical form; a new UUIDv7 otherwise."""
    return canonical(headers.get(HEADER, b"")) or new_id()


def new_id() -> str:
    return uuid7_at(time.time_ns() // 1_000_000)


def canonical(given: bytes) -> str | None:
    """A UUID in its canonical form; None for anything else."""
    if not given:
        return None
    lower = given.lower()
    return lower.decode() if _UUID.fullmatch(lower) else None
