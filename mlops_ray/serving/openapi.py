"""The OpenAPI 3.1 document of a model, made from the same schema that validation is compiled from."""

import re
from typing import Any, Literal

from mlops_ray.ingestion.reading import limits
from mlops_ray.predictions.labels import ROW, key_columns
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.http import MAX_BODY_BYTES
from mlops_ray.serving.inference_protocol import OUTPUT_TYPES
from mlops_ray.serving.json_body import MAX_TEXT
from mlops_ray.serving.rows import integer_limits
from mlops_ray.serving.tensors import NUMERIC_TYPES
from mlops_ray.serving.validation import MAX_ROWS, feature_column
from mlops_ray.use_case import Column

# What callers send is described as this system writes it; other writings that the contract reads are accepted, too.
_MOMENT = {"type": "string", "format": "date-time", "pattern": r"^(19|20|21)\d\d-"}
# In the first and the last year it depends on the offset whether a moment lies within 1900 to 2199.
_ASKED_MOMENT = {**_MOMENT, "pattern": r"^(19(0[1-9]|[1-9]\d)|20\d\d|21([0-8]\d|9[0-8]))-"}
# Patterns that mean the same to Rust, ECMAScript and Python: plain characters, groups, sets of plain characters.
_PLAIN = r"[A-Za-z0-9 _,:;@#%=~/!-]|\\[.()\[\]{}+*?^$|/]"
_SET = r"\[(?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_ .,:;@/])+-?\]"
_TIMES = r"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??"
_SAME_EVERYWHERE = re.compile(rf"(?:\((?:\?:)?|\||(?:{_PLAIN}|{_SET}|\))(?:{_TIMES})?)*")

_TEXT = {"type": "string"}


def openapi_of_model(schema: ModelSchema, name: str, version: str) -> dict[str, Any]:
    """The document of one model; its paths begin with `/v2/models/<name>`."""
    prefix = f"/v2/models/{name}"
    paths = {
        **_paths_of_protocol(prefix, "", version),
        **_paths_of_protocol(f"{prefix}/versions/{{version}}", "_of_version", version),
        f"{prefix}/openapi.json": {"get": _operation("openapi", "This document", "Document")},
        f"{prefix}/predict": {
            "post": _operation("predict", f"Probability of {schema.label}, by keys or by features", "Prediction", "Ask")
            | {"parameters": [_version_parameter("header", version)]}
        },
        f"{prefix}/labels": {
            "post": _operation("labels", f"What is true of {schema.label}, by request or by keys", "Accepted", "Labels")
        },
        f"{prefix}/rollout": {
            "get": _operation("rollout", "What is live, and how far a rollout is", "Rollout"),
            "post": _operation("start_rollout", "Let a registered version in, step by step", "Rollout", "Start"),
        },
        f"{prefix}/rollout/promote": {
            "post": _operation("promote", "Make the rollout's version champion now", "Rollout", "Target")
        },
        f"{prefix}/rollout/rollback": {
            "post": _operation("roll_back", "Let an earlier champion answer everything", "Rollout", "Target")
        },
    }
    return _document(f"{name} (mlops_ray)", version, paths, _schemas_of_model(schema))


def _paths_of_protocol(prefix: str, suffix: str, version: str) -> dict[str, Any]:
    """The Open Inference Protocol, and two of Triton's extensions; below a version's path of that version."""
    infer = _operation(
        f"infer{suffix}",
        "Predictions over the Open Inference Protocol v2, from features; the binary tensor extension is understood "
        "(Inference-Header-Content-Length)",
        "Inference",
        "Infer",
    )
    paths = {
        prefix: {
            "get": _operation(f"describe{suffix}", "The model's tensors (Open Inference Protocol v2)", "Metadata")
        },
        f"{prefix}/ready": {"get": _operation(f"ready{suffix}", "Whether the model takes requests", "Ready")},
        f"{prefix}/config": {"get": _operation(f"config{suffix}", "The tensors in Triton's words", "Document")},
        f"{prefix}/stats": {"get": _operation(f"stats{suffix}", "Counts of the replica that answers", "Document")},
        f"{prefix}/infer": {"post": infer},
    }
    for path in paths.values():
        for operation in path.values():
            operation["parameters"] = [_version_parameter("path" if suffix else "header", version)]
    return paths


def _version_parameter(where: Literal["path", "header"], version: str) -> dict[str, Any]:
    """Which version to ask; by default the champion, or the canary that the request falls to."""
    return {
        "name": "version" if where == "path" else "x-model-version",
        "in": where,
        "required": where == "path",
        "schema": {"enum": [version]},
        "description": "The champion; for who operates also the version that a rollout lets in.",
    }


def openapi_of_server(version: str) -> dict[str, Any]:
    """The document of the small application that owns `/v2`."""
    paths = {
        "/v2": {"get": _operation("server", "Name, version and extensions of the server", "Server")},
        "/v2/health/live": {"get": {**_operation("live", "Whether the server runs", "Live"), "security": []}},
        "/v2/health/ready": {
            "get": _operation("server_ready", "200 if all models take requests, 503 if not", "ServerReady")
        },
        "/v2/openapi.json": {"get": _operation("openapi", "This document", "Document")},
        "/v2/repository/index": {
            "post": _operation("repository_index", "The models that the caller may see", "Repository", "Index")
        },
        **_paths_of_approvals(),
        **_paths_of_versions(),
    }
    paths["/v2/health/ready"]["get"]["responses"]["503"] = _answer("ServerReady", "A model is not ready")
    schemas = {
        "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
        "Index": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        "Repository": _list(_object(dict.fromkeys(("name", "version", "state", "reason"), _TEXT))),
        "Live": _object({"live": {"type": "boolean"}}),
        "ServerReady": _object({"ready": {"type": "boolean"}, "not_ready": _list(_TEXT)}),
        "Version": _VERSION,
        "Approval": _APPROVAL,
        "Approvals": _object({"approvals": _list(_APPROVAL)}),
        "Rollout": {"type": "object"},
        "LineageQuestion": _LINEAGE_QUESTION,
        "RegisteredVersion": _REGISTERED,
        **_SHARED,
    }
    return _document("mlops_ray", version, paths, schemas)


def _paths_of_approvals() -> dict[str, Any]:
    prefix = "/v2/approvals"
    approval, version = "Approval", "Version"
    return {
        prefix: {"get": _operation("approvals", "Requests and verdicts, the newest first", "Approvals")},
        f"{prefix}/request": {"post": _operation("request", "Ask for a version's approval", approval, version)},
        f"{prefix}/approve": {"post": _operation("approve", "Approve what was asked for", approval, version)},
        f"{prefix}/reject": {"post": _operation("reject", "Refuse what was asked for", approval, version)},
        f"{prefix}/revoke": {"post": _operation("revoke", "Take an approval back", approval, version)},
        f"{prefix}/break-glass": {
            "post": _operation("break_glass", "Promote now and ask for approval afterwards", "Rollout", version)
        },
    }


def _paths_of_versions() -> dict[str, Any]:
    what = "Everything behind an endpoint, a version or a prediction, back to the raw files"
    return {
        "/v2/versions/lineage": {"post": _operation("lineage", what, "Document", "LineageQuestion")},
        "/v2/versions/retire": {
            "post": _operation("retire", "Take a version out of use for good", "RegisteredVersion", "Version")
        },
    }


def _schemas_of_model(schema: ModelSchema) -> dict[str, Any]:
    keys = _object({column.name: _column(column) for column in schema.request_columns})
    features = _object({feature.name: _column(feature_column(schema, feature)) for feature in schema.features})
    when = f"{schema.event_time} minus {schema.lead_time_s:g} s"
    as_of = {
        **_ASKED_MOMENT,
        "description": f"The moment as of which features are read, at most {when}. Default: now, whenever that is.",
    }
    return {
        "Keys": keys,
        "Features": features,
        "Ask": {
            "oneOf": [
                _object({"keys": _one_or_many("Keys"), "as_of": as_of}, optional=("as_of",)),
                _object({"features": _one_or_many("Features"), "as_of": as_of}, optional=("as_of",)),
            ]
        },
        "Prediction": _object(
            {
                "model": _TEXT,
                "version": _TEXT,
                "request_id": _UUID,
                "as_of": _MOMENT,
                "predictions": _list(_row_answer(when)),
                "degraded": {"const": True, "description": "The online store was down; its features count as missing."},
            },
            optional=("degraded",),
        ),
        "Infer": _infer_request(schema),
        "Inference": _object(
            {
                "model_name": _TEXT,
                "model_version": _TEXT,
                "id": _TEXT,
                "outputs": _list(_output_tensor()),
                "parameters": _object({"request_id": _UUID}),
            },
            optional=("parameters",),
        ),
        "Labels": _object({"labels": {**_list(_label(schema)), "minItems": 1, "maxItems": MAX_ROWS}}),
        "Accepted": _object(
            {"model": _TEXT, "request_id": _UUID, **dict.fromkeys(("accepted", "by_keys", "withdrawn"), _COUNT)}
        ),
        "Metadata": _object(
            {
                "name": _TEXT,
                "versions": _list(_TEXT),
                "platform": _TEXT,
                "inputs": _list(_TENSOR_METADATA),
                "outputs": _list(_TENSOR_METADATA),
            }
        ),
        "Ready": _object({"name": _TEXT, "ready": {"type": "boolean"}}),
        "Start": _object({"version": _VERSION_NUMBER, "revision": _REVISION, "plan": _PLAN}, optional=("plan",)),
        "Target": _object({"to": _VERSION_NUMBER, "revision": _REVISION, "reason": _TEXT}, optional=("reason",)),
        "Rollout": {"type": "object"},
        **_SHARED,
    }


def _row_answer(when: str) -> dict[str, Any]:
    """Of one row. What follows the prediction is only there where there is something to say."""
    parts: dict[str, Any] = {
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
        "prediction": {"type": "boolean"},
        "missing_features": {**_list(_TEXT), "description": "Features of which the store knew no value as of as_of."},
        "expired_features": {**_list(_TEXT), "description": "Features whose value was too old to count as of as_of."},
        "late": {"const": True, "description": f"It was asked later than the model learned to: after {when}."},
    }
    return _object(parts, optional=("missing_features", "expired_features", "late"))


def _column(column: Column) -> dict[str, Any]:
    described = _present(column)
    return {"anyOf": [described, {"type": "null"}]} if column.nullable else described


def _present(column: Column) -> dict[str, Any]:
    match column.type:
        case "text" if column.choices:
            return {"enum": list(column.choices)}
        case "text":
            return {"type": "string", "minLength": 1, **_pattern(column)}
        case "integer":
            low, high = integer_limits(column)
            return {"type": "integer", "minimum": low, "maximum": high}
        case "number":
            least, greatest = limits(column)
            return {"type": "number", "minimum": least, "maximum": greatest}
        case "boolean":
            return {"type": "boolean"}
        case "timestamp":
            return _ASKED_MOMENT


def _pattern(column: Column) -> dict[str, str]:
    """The pattern, if it means the same to who reads the document; `(?!\\n)`, as Python's `$` lets a line feed pass."""
    if column.pattern is None or not _SAME_EVERYWHERE.fullmatch(column.pattern):
        return {}
    return {"pattern": f"^(?:{column.pattern})$(?!\\n)"}


def _infer_request(schema: ModelSchema) -> dict[str, Any]:
    value = {"type": ["number", "string", "boolean", "null"]}
    size = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    none = {"type": "null"}
    parts = {
        "binary_data_size": {"anyOf": [size, none]},
        "binary_data": {"type": ["boolean", "null"]},
        "content_type": {"type": ["string", "null"]},
        "shared_memory_region": none,
        "classification": none,
    }
    parameters = {"anyOf": [{"type": "object", "properties": parts}, none]}
    of_request = {"type": "object", "properties": {"binary_data_output": {"type": ["boolean", "null"]}}}
    tensor = {
        "name": {"enum": [feature.name for feature in schema.features]},
        "shape": {"type": "array", "items": size, "minItems": 1, "maxItems": 2},
        "datatype": {"enum": [*NUMERIC_TYPES, "BOOL", "BYTES"]},
        "parameters": parameters,
        "data": {"anyOf": [_list({"anyOf": [value, _list(value)]}), {"type": "null"}]},
    }
    output = {"name": {"enum": list(OUTPUT_TYPES)}, "parameters": parameters}
    return _object(
        {
            "inputs": {**_list(_object(tensor, optional=("parameters", "data"))), "minItems": 1},
            "id": {"anyOf": [{"type": "string", "maxLength": MAX_TEXT}, none]},
            "parameters": {"anyOf": [of_request, none]},
            "outputs": {"anyOf": [_list(_object(output, optional=("parameters",))), none]},
        },
        optional=("id", "parameters", "outputs"),
    )


def _label(schema: ModelSchema) -> dict[str, Any]:
    """By request id and row, or by entities and event time. null withdraws a label; the last one known holds."""
    told = {"label": {"type": ["boolean", "null"]}, "known_at": _ASKED_MOMENT}
    row = {"type": "integer", "minimum": 0, "maximum": ROW.maximum}
    by_request = _object({"request_id": _UUID, "row": row, **told}, optional=("row", "known_at"))
    columns = {column.name: _column(column) for column in key_columns(schema)}
    by_keys = _object({"keys": _object(columns), **told}, optional=("known_at",))
    return {"oneOf": [by_request, by_keys]} if columns else by_request


def _output_tensor() -> dict[str, Any]:
    parts = {
        "name": {"enum": list(OUTPUT_TYPES)},
        "datatype": {"enum": list(OUTPUT_TYPES.values())},
        "shape": _list({"type": "integer"}),
        "data": _list({"type": ["number", "boolean"]}),
        "parameters": _object({"binary_data_size": {"type": "integer"}}),
    }
    return _object(parts, optional=("data", "parameters"))


def _operation(name: str, summary: str, answer: str, body: str | None = None) -> dict[str, Any]:
    responses = {"200": _answer(answer, "The answer"), "default": _answer("Error", "What is wrong, and where")}
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses}
    if body:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}}
        operation["requestBody"] = {
            "required": True,
            "description": f"UTF-8 JSON, at most {MAX_BODY_BYTES:,} bytes and {MAX_ROWS:,} rows.",
            "content": content,
        }
    return operation


def _answer(schema: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _document(title: str, version: str, paths: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "security": [{"bearer": []}],
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or an OIDC token (JWT)."}
            },
        },
    }


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _one_or_many(schema: str) -> dict[str, Any]:
    row = {"$ref": f"#/components/schemas/{schema}"}
    return {"anyOf": [row, {**_list(row), "minItems": 1, "maxItems": MAX_ROWS}]}


_STEP = {
    "route": {"enum": ["shadow", "canary"]},
    "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "hold_s": {"type": "number", "minimum": 0},
}
_RULES = {
    "min_requests": {"type": "integer", "minimum": 0},
    "max_error_rate": {"type": "number", "minimum": 0, "maximum": 1},
    "max_latency_ratio": {"type": "number", "exclusiveMinimum": 0},
    "max_disagreement": {"type": ["number", "null"], "minimum": 0},
}
_PLAN_PARTS = {
    "steps": _list(_object(_STEP)),
    "rules": _object(_RULES, optional=tuple(_RULES)),
    "sticky": {"type": ["string", "null"]},
    "automatic": {"type": "boolean"},
}
_PLAN = _object(_PLAN_PARTS, optional=tuple(_PLAN_PARTS))
_UUID = {"type": "string", "format": "uuid"}
_COUNT = {"type": "integer", "minimum": 0}
_DIGEST = {"type": "string", "maxLength": 64}
_VERSION_NUMBER = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
_REVISION = {
    "type": "integer", "minimum": 0, "maximum": 2**31 - 1, "description": "Of what was live when the caller looked."
}  # fmt: skip
_VERSION = _object(
    {
        "model": _TEXT,
        "version": _VERSION_NUMBER,
        "reason": {"type": "string", "maxLength": 2000},
        "digest": {"anyOf": [_DIGEST, {"type": "null"}]},
        "revision": {"anyOf": [_REVISION, {"type": "null"}]},
    },
    optional=("reason", "digest", "revision"),
)
_TIME = {"type": "string", "format": "date-time"}
_LINEAGE_QUESTION = _object(
    {"of": {"type": "string", "maxLength": 200}, "near": {"anyOf": [_MOMENT, {"type": "null"}]}}, optional=("near",)
)
_EVIDENCE = _object({"model": _TEXT, "evaluation": _TEXT, "materials": _TEXT})
_REGISTERED = _object(
    {
        "use_case": _TEXT,
        "version": {"type": "integer"},
        "evidence": _EVIDENCE,
        "author": _TEXT,
        "failed_gates": _list(_TEXT),
        "registered_at": _TIME,
        "retired_at": {"anyOf": [_TIME, {"type": "null"}]},
    }
)
_APPROVAL = _object(
    {
        "id": _UUID,
        "use_case": _TEXT,
        "version": {"type": "integer"},
        "evidence": _EVIDENCE,
        "author": _TEXT,
        "state": {"enum": ["requested", "approved", "rejected", "revoked", "expired"]},
        "requested_by": _TEXT,
        "requested_at": _TIME,
        "expires_at": _TIME,
        "break_glass": {"type": "boolean"},
        "decided_by": {"type": ["string", "null"]},
        "decided_at": {"anyOf": [_TIME, {"type": "null"}]},
        "reason": _TEXT,
    }
)
_TENSOR_METADATA = _object({"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"})})
_SHARED = {
    "Document": {"type": "object"},
    "Error": _object({"error": _TEXT, "field": {"type": ["string", "null"]}, "request_id": _UUID}),
}
