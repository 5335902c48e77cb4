"""What the document of the server says of versions, drift and predictions that are read."""

from typing import Any

from mlops_ray.serving.openapi.data import PARQUET_CONTENT, asked
from mlops_ray.serving.openapi.parts import list_of, object_of

_NAME = {"type": "string", "maxLength": 200}
_MOMENT = {"type": "string", "format": "date-time"}

SCHEMAS: dict[str, Any] = {
    "ListedVersions": object_of({"versions": list_of({"type": "object"})}),
    "LedgerParts": object_of({"parts": list_of({**list_of(_MOMENT), "minItems": 2, "maxItems": 2})}),
}


def paths_of_records() -> dict[str, Any]:
    span = {"start": _MOMENT, "end": _MOMENT}
    windows = {"windows": {"type": "integer", "minimum": 1, "maximum": 500}}
    columns = {"columns": {"type": "string", "maxLength": 20_000}}
    rows = "Predictions of a part of the ledger, as Parquet"
    part = asked("ledger_part", rows, "Document", {"use_case": _NAME, **span}, columns)
    part["responses"]["200"]["content"] = PARQUET_CONTENT
    listed, drift = "The last registered versions, newest first", "What monitoring saw of an endpoint"
    parts = "From when to when each part of the ledger is"
    return {
        "/v2/versions": {"get": asked("versions", listed, "ListedVersions", {"use_case": _NAME})},
        "/v2/drift": {"get": asked("drift", drift, "Document", {"use_case": _NAME}, windows)},
        "/v2/ledger/parts": {"get": asked("ledger_parts", parts, "LedgerParts", {"use_case": _NAME}, span)},
        "/v2/ledger/part": {"get": part},
    }
