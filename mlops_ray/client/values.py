"""Values as they travel: paths of models, and rows of a user's own types as JSON has them."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from mlops_ray.errors import ConfigurationError, DataError

Row = Mapping[str, Any]
Rows = Row | Sequence[Row]


def model_path(name: str, what: str) -> str:
    """Raises ConfigurationError for what cannot be the name of a model, and could lead elsewhere on the server."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise ConfigurationError(f"{name[:40]!a} is no name of a model: a-z, 0-9 and _, at most 63 characters.")
    return f"/v2/models/{name}/{what}"


def plain(value: Any) -> Any:
    """The value as JSON has it: datetimes as RFC 3339, NaN and NaT (how pandas writes what is missing) as null.

    Raises DataError for a datetime without a zone, and for bytes.
    """
    if isinstance(value, datetime | np.datetime64) and value != value:  # NaT
        return None
    if isinstance(value, np.datetime64):
        raise DataError(f"{value!r} has no time zone. Give a datetime with one, such as datetime.UTC.")
    if isinstance(value, bytes | bytearray):
        raise DataError(f"{bytes(value[:20])!r} is bytes, which JSON does not have. Decode them to text.")
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise DataError(f"Datetime {value.isoformat()} has no time zone. Add one, such as datetime.UTC.")
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and math.isnan(value) else value
