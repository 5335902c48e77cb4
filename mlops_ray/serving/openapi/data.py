"""What the document of the server says of snapshots, and of erasing a person."""

from typing import Any

from mlops_ray.serving.openapi.parts import COUNT, REASON, TEXT, list_of, object_of, operation_of

_NAME, _DIGEST = {"type": "string", "maxLength": 200}, {"type": "string", "maxLength": 64}
_SNAPSHOT = {"use_case": _NAME, "digest": _DIGEST}
_TABLE = {**_SNAPSHOT, "source": _NAME, "name": _NAME}
_WORK = {"id": _DIGEST}
PARQUET_CONTENT = {"application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}}}

SCHEMAS: dict[str, Any] = {
    "Catalogue": object_of(
        {
            "snapshots": list_of({"type": "object"}),
            "nothing_in_use_needs": list_of(TEXT),
            "bytes": COUNT,
            "byte_days": {"type": "number"},
            "counted": TEXT,
        }
    ),
    "Tables": object_of({"digest": TEXT, "tables": {"type": "object", "additionalProperties": list_of(TEXT)}}),
    "Retirement": object_of(
        {
            "use_case": _NAME,
            "digest": _DIGEST,
            "reason": REASON,
            "force": {"type": "array", "items": _NAME, "maxItems": 100},
        },
        optional=("force",),
    ),
    "Erasure": object_of(
        {
            "entity": _NAME,
            "value": {"type": "string", "maxLength": 2_000},
            "reason": REASON,
            "dry_run": {"type": "boolean"},
        },
        optional=("reason", "dry_run"),
    ),
    "Work": object_of(
        {"id": TEXT, "state": {"enum": ["running", "done"]}, "result": {"type": ["object", "null"]}},
    ),
}


def paths_of_data() -> dict[str, Any]:
    """Snapshots, and what goes on for longer than a request: its answer is `running` until it has ended."""
    table = asked("table", "A table of a snapshot, as Parquet", "Document", _TABLE)
    table["responses"]["200"]["content"] = PARQUET_CONTENT
    kept, names = "What is kept of the data, and what it costs", "The names of a snapshot's tables, by source"
    erase = "Erase a person's rows from all that was made of the data, and say what is not reached"
    return {
        "/v2/data/snapshots": {"get": asked("snapshots", kept, "Catalogue", {}, {"use_case": _NAME})},
        "/v2/data/snapshot": {"get": asked("snapshot", "A snapshot, and what depends on it", "Document", _SNAPSHOT)},
        "/v2/data/tables": {"get": asked("tables", names, "Tables", _SNAPSHOT)},
        "/v2/data/table": {"get": table},
        "/v2/data/retire": {
            "post": operation_of("retire_snapshot", "Delete the rows of a snapshot", "Work", "Retirement")
        },
        "/v2/data/erase": {"post": operation_of("erase", erase, "Work", "Erasure")},
        "/v2/data/work": {"get": asked("work", "How what was begun goes, by the id of its request", "Work", _WORK)},
    }


def asked(
    name: str, summary: str, answer: str, query: dict[str, Any], optional: dict[str, Any] | None = None
) -> dict[str, Any]:
    """query, optional: what stands behind the path."""
    parameters = [
        {"name": one, "in": "query", "required": one in query, "schema": schema}
        for one, schema in {**query, **(optional or {})}.items()
    ]
    return operation_of(name, summary, answer) | {"parameters": parameters}
