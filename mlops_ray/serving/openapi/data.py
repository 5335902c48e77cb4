"""What the document of the server says of snapshots, and of erasing a person."""

from typing import Any

from mlops_ray.serving.openapi.parts import COUNT, REASON, TEXT, list_of, object_of, operation_of

_NAME, _DIGEST = {"type": "string", "maxLength": 200}, {"type": "string", "maxLength": 64}
_SNAPSHOT = {"use_case": _NAME, "digest": _DIGEST}
_TABLE = {**_SNAPSHOT, "source": _NAME, "name": _NAME}
_WORK = {"id": _DIGEST}
_PARQUET = {"application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}}}

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


def paths_of_readings() -> dict[str, Any]:
    """How a use case stands, for people and their assistants."""
    said = {
        "versions": "The versions of a use case, the newest first",
        "alarms": "The alarms of a use case and their states",
        "drift": "What monitoring has seen, in sentences",
        "data/profile": "The newest profile of the data, without values of personal columns",
    }
    name = {"versions": "versions", "alarms": "alarms", "drift": "drift", "data/profile": "profile"}
    return {
        f"/v2/{path}": {"get": _asked(name[path], what, "Document", {"use_case": _NAME})} for path, what in said.items()
    }


def paths_of_data() -> dict[str, Any]:
    """Snapshots, and what goes on for longer than a request: its answer is `running` until it has ended."""
    table = _asked("table", "A table of a snapshot, as Parquet", "Document", _TABLE)
    table["responses"]["200"]["content"] = _PARQUET
    kept, names = "What is kept of the data, and what it costs", "The names of a snapshot's tables, by source"
    erase = "Erase a person's rows from all that was made of the data, and say what is not reached"
    return {
        "/v2/data/snapshots": {"get": _asked("snapshots", kept, "Catalogue", {"use_case": _NAME}, required=False)},
        "/v2/data/snapshot": {"get": _asked("snapshot", "A snapshot, and what depends on it", "Document", _SNAPSHOT)},
        "/v2/data/tables": {"get": _asked("tables", names, "Tables", _SNAPSHOT)},
        "/v2/data/table": {"get": table},
        "/v2/data/retire": {
            "post": operation_of("retire_snapshot", "Delete the rows of a snapshot", "Work", "Retirement")
        },
        "/v2/data/erase": {"post": operation_of("erase", erase, "Work", "Erasure")},
        "/v2/data/work": {"get": _asked("work", "How what was begun goes, by the id of its request", "Work", _WORK)},
    }


def _asked(name: str, summary: str, answer: str, query: dict[str, Any], required: bool = True) -> dict[str, Any]:
    """query: what stands behind the path."""
    parameters = [{"name": one, "in": "query", "required": required, "schema": schema} for one, schema in query.items()]
    return operation_of(name, summary, answer) | {"parameters": parameters}
