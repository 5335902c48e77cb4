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
    seen, parts = "What monitoring measured, window by window", "From when to when each part of the ledger is"
    kept = {
        "versions": ("versions", "The last registered versions, newest first", "ListedVersions"),
        "alarms": ("alarms", "The alarms of a use case and their states", "Document"),
        "drift": ("drift", "What monitoring has seen, in sentences", "Document"),
        "data/profile": ("profile", "The newest profile of the data, without values of personal columns", "Document"),
    }
    return {
        **{f"/v2/{path}": {"get": asked(*said, {"use_case": _NAME})} for path, said in kept.items()},
        "/v2/drift/windows": {"get": asked("drift_windows", seen, "Document", {"use_case": _NAME}, windows)},
        "/v2/ledger/parts": {"get": asked("ledger_parts", parts, "LedgerParts", {"use_case": _NAME}, span)},
        "/v2/ledger/part": {"get": part},
    }
