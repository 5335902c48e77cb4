"""Identifiers that carry their moment (UUIDv7, RFC 9562), so that a name says when it was made."""

import os
from datetime import UTC, datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION, _VARIANT = 0x7 << 76, 0x2 << 62
_RANDOM = (1 << 80) - 1 - (0xF << 76) - (0x3 << 62)


def uuid7_at(moment_ms: int, seed: bytes | None = None) -> str:
    """A UUIDv7 of a moment in milliseconds since 1970; the same for the same `seed` of at least 10 bytes."""
    random = int.from_bytes((seed if seed is not None else os.urandom(10))[:10], "big") & _RANDOM
    digits = f"{moment_ms << 80 | _VERSION | _VARIANT | random:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def moment_of(uuid: str) -> datetime | None:
    """The moment (UTC, milliseconds) in a UUIDv7; None for any other text.

    Of an id that a caller made it is a hint where to look first, and decides nothing: an order's id is of when the
    order was made, and one in 64 random ids looks like a UUIDv7 of some millennium.
    """
    digits = uuid.replace("-", "")
    if len(uuid) != 36 or len(digits) != 32 or digits[12] != "7" or digits[16] not in "89abAB":
        return None
    try:
        return datetime.fromtimestamp(int(digits[:12], 16) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def microseconds(moment: datetime) -> int:
    """Whole microseconds since 1970."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
