"""Records of windows as earlier releases wrote them, when there was yes and no alone."""

from collections.abc import Mapping
from typing import Any

import msgspec

_METRICS = ("roc_auc", "log_loss", "brier")


def decode(content: bytes, type: Any) -> Any:
    """What has records of windows in it, of this release or of one before. Raises msgspec.MsgspecError."""
    try:
        return msgspec.msgpack.decode(content, type=type)
    except msgspec.ValidationError:
        renewed = _renewed(msgspec.msgpack.decode(content))
        return msgspec.msgpack.decode(msgspec.msgpack.encode(renewed), type=type)


def _renewed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renewed(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    found = {name: _renewed(one) for name, one in value.items()}
    if "confusion" in found and "metric" not in found:
        return {**found, "metric": "roc_auc", "value": found["roc_auc"]}
    if "slice" in found and "metrics" not in found:
        return {
            **found, "about": {"positive": found["positive"]}, "metrics": {name: found[name] for name in _METRICS}
        }  # fmt: skip
    return found
