"""The document of a model."""

from dataclasses import replace
from typing import Any, Literal

from mlops_ray.predictions.labels import ROW, key_columns, label_column
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.json_body import MAX_TEXT
from mlops_ray.serving.openapi.columns import ASKED_MOMENT, MOMENT, schema_of_column
from mlops_ray.serving.openapi.parts import (
    COUNT,
    REASON,
    REVISION,
    SHARED,
    TEXT,
    UUID,
    VERSION_NUMBER,
    document_of,
    list_of,
    object_of,
    one_or_many,
    operation_of,
)
from mlops_ray.serving.tensors import NUMERIC_TYPES
from mlops_ray.serving.validation import MAX_EXPLAINED, MAX_ROWS, feature_column
from mlops_ray.tasks.task import Task

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
    "steps": list_of(object_of(_STEP)),
    "rules": object_of(_RULES, optional=tuple(_RULES)),
    "sticky": {"type": ["string", "null"]},
    "automatic": {"type": "boolean"},
}
_PLAN = object_of(_PLAN_PARTS, optional=tuple(_PLAN_PARTS))
# Keys and fields of a view, which the definitions in the registry tell.
_PUSHED_ROW = {
    "type": "object",
    "properties": {"event_timestamp": MOMENT},
    "required": ["event_timestamp"],
    "additionalProperties": {"type": ["number", "string", "boolean", "null"], "maxLength": MAX_TEXT},
}
_TENSOR_METADATA = object_of({"name": TEXT, "datatype": TEXT, "shape": list_of({"type": "integer"})})
_JSON_TYPES = {"FP32": "number", "BOOL": "boolean", "BYTES": "string"}


def openapi_of_model(schema: ModelSchema, name: str, version: str) -> dict[str, Any]:
    """The document of one model; its paths begin with `/v2/models/<name>`."""
    prefix = f"/v2/models/{name}"
    answered = next(iter(schema.task.row_schema)).capitalize()
    paths = {
        **_paths_of_protocol(prefix, "", version),
        **_paths_of_protocol(f"{prefix}/versions/{{version}}", "_of_version", version),
        f"{prefix}/openapi.json": {"get": operation_of("openapi", "This document", "Document")},
        f"{prefix}/predict": {
            "post": operation_of(
                "predict", f"{answered} of {schema.label}, by keys or by features", "Prediction", "Ask"
            )
            | {"parameters": [_version_parameter("header", version)]}
        },
        f"{prefix}/labels": {
            "post": operation_of(
                "labels", f"What is true of {schema.label}, by request or by keys", "Accepted", "Labels"
            )
        },
        f"{prefix}/features": {
            "post": operation_of("push", "Fresh feature values of a view, online from now on", "Pushed", "Push")
        },
        f"{prefix}/rollout": {
            "get": operation_of("rollout", "What is live, and how far a rollout is", "Rollout"),
            "post": operation_of("start_rollout", "Let a registered version in, step by step", "Rollout", "Start"),
        },
        f"{prefix}/rollout/pause": {
            "post": operation_of("pause", "Let the rollout go no step on by itself", "Rollout", "Target")
        },
        f"{prefix}/rollout/resume": {
            "post": operation_of("resume", "Let the rollout go on by itself again", "Rollout", "Target")
        },
        f"{prefix}/rollout/promote": {
            "post": operation_of("promote", "Make the rollout's version champion now", "Rollout", "Target")
        },
        f"{prefix}/rollout/rollback": {
            "post": operation_of("roll_back", "Let an earlier champion answer everything", "Rollout", "Target")
        },
    }
    return document_of(f"{name} (mlops_ray)", version, paths, _schemas_of_model(schema))


def _paths_of_protocol(prefix: str, suffix: str, version: str) -> dict[str, Any]:
    """The Open Inference Protocol, and two of Triton's extensions; below a version's path of that version."""
    infer = operation_of(
        f"infer{suffix}",
        "Predictions over the Open Inference Protocol v2, from features; the binary tensor extension is understood "
        "(Inference-Header-Content-Length)",
        "Inference",
        "Infer",
    )
    paths = {
        prefix: {
            "get": operation_of(f"describe{suffix}", "The model's tensors (Open Inference Protocol v2)", "Metadata")
        },
        f"{prefix}/ready": {"get": operation_of(f"ready{suffix}", "Whether the model takes requests", "Ready")},
        f"{prefix}/config": {"get": operation_of(f"config{suffix}", "The tensors in Triton's words", "Document")},
        f"{prefix}/stats": {"get": operation_of(f"stats{suffix}", "Counts of the replica that answers", "Document")},
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


# Of whatever model it is.
_SCHEMAS: dict[str, Any] = {
    "Accepted": object_of(
        {"model": TEXT, "request_id": UUID, **dict.fromkeys(("accepted", "by_keys", "withdrawn"), COUNT)}
    ),
    "Push": object_of({"view": TEXT, "rows": {**list_of(_PUSHED_ROW), "minItems": 1, "maxItems": MAX_ROWS}}),
    "Pushed": object_of(
        {
            "model": TEXT,
            "request_id": UUID,
            "view": TEXT,
            "digest": TEXT,
            "projects": list_of(TEXT),
            **dict.fromkeys(("rows", "written", "older"), COUNT),
        }
    ),
    "Ready": object_of({"name": TEXT, "ready": {"type": "boolean"}}),
    "Start": object_of(
        {"version": VERSION_NUMBER, "revision": REVISION, "plan": _PLAN, "reason": REASON},
        optional=("plan", "reason"),
    ),
    "Target": object_of({"to": VERSION_NUMBER, "revision": REVISION, "reason": REASON}, optional=("reason",)),
    "Rollout": {"type": "object"},
}


def _schemas_of_model(schema: ModelSchema) -> dict[str, Any]:
    keys = object_of({column.name: schema_of_column(column) for column in schema.request_columns})
    columns = {feature.name: feature_column(schema, feature) for feature in schema.features}
    features = object_of({name: schema_of_column(column) for name, column in columns.items()})
    when = f"{schema.event_time} minus {schema.lead_time_s:g} s"
    as_of = {
        **ASKED_MOMENT,
        "description": f"The moment as of which features are read, at most {when}. Default: now, whenever that is.",
    }
    explain = {
        "type": "boolean",
        "description": f"Whether each answer comes with its reasons; of at most {MAX_EXPLAINED} rows.",
    }
    beside = {"as_of": as_of, "explain": explain}
    return {
        "Keys": keys,
        "Features": features,
        "Ask": {
            "oneOf": [
                object_of({"keys": one_or_many("Keys"), **beside}, optional=tuple(beside)),
                object_of({"features": one_or_many("Features"), **beside}, optional=tuple(beside)),
            ]
        },
        "Prediction": object_of(
            {
                "model": TEXT,
                "version": TEXT,
                "request_id": UUID,
                "as_of": MOMENT,
                "predictions": list_of(_row_answer(schema.task, when)),
                "degraded": {"const": True, "description": "The online store was down; its features count as missing."},
            },
            optional=("degraded",),
        ),
        "Infer": _infer_request(schema),
        "Inference": object_of(
            {
                "model_name": TEXT,
                "model_version": TEXT,
                "id": TEXT,
                "outputs": list_of(_output_tensor(schema.task)),
                "parameters": object_of({"request_id": UUID}),
            },
            optional=("parameters",),
        ),
        "Labels": object_of({"labels": {**list_of(_label(schema)), "minItems": 1, "maxItems": MAX_ROWS}}),
        "Metadata": object_of(
            {
                "name": TEXT,
                "versions": list_of(TEXT),
                "platform": TEXT,
                "inputs": list_of(_TENSOR_METADATA),
                "outputs": list_of(_output_metadata(schema.task)),
            }
        ),
        **_SCHEMAS,
        **SHARED,
    }


def _row_answer(task: Task, when: str) -> dict[str, Any]:
    """Of one row. What follows the prediction is only there where there is something to say."""
    parts: dict[str, Any] = {
        **task.row_schema,
        "missing_features": {**list_of(TEXT), "description": "Features of which the store knew no value as of as_of."},
        "expired_features": {**list_of(TEXT), "description": "Features whose value was too old to count as of as_of."},
        "late": {"const": True, "description": f"It was asked later than the model learned to: after {when}."},
    }
    reasons = object_of(
        {
            "scale": {"const": task.additive_scale},
            "base": {"type": "number", "description": "The mean answer to the rows sealed with the model."},
            "contributions": {"type": "object", "additionalProperties": {"type": "number"}},
            "error": {"type": "number", "minimum": 0, "description": "The largest of a contribution."},
        }
    )
    parts["reasons"] = {"anyOf": [reasons, {"type": "null"}], "description": "Only where `explain` was asked for."}
    parts["reasons_missing"] = {**TEXT, "description": "Why reasons that were asked for are null."}
    return object_of(parts, optional=tuple(parts.keys() - task.row_schema.keys()))


def _infer_request(schema: ModelSchema) -> dict[str, Any]:
    value = {"type": ["number", "string", "boolean", "null"], "maxLength": MAX_TEXT}
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
        "data": {"anyOf": [list_of({"anyOf": [value, list_of(value)]}), {"type": "null"}]},
    }
    output = {"name": {"enum": list(schema.task.output_types)}, "parameters": parameters}
    return object_of(
        {
            "inputs": {**list_of(object_of(tensor, optional=("parameters", "data"))), "minItems": 1},
            "id": {"anyOf": [{"type": "string", "maxLength": MAX_TEXT}, none]},
            "parameters": {"anyOf": [of_request, none]},
            "outputs": {"anyOf": [list_of(object_of(output, optional=("parameters",))), none]},
        },
        optional=("id", "parameters", "outputs"),
    )


def _label(schema: ModelSchema) -> dict[str, Any]:
    """By request id and row, or by entities and event time. null withdraws a label; the last one known holds."""
    told = {"label": _told(schema.task), "known_at": ASKED_MOMENT}
    row = {"type": "integer", "minimum": 0, "maximum": ROW.maximum}
    by_request = object_of({"request_id": UUID, "row": row, **told}, optional=("row", "known_at"))
    columns = {column.name: schema_of_column(column) for column in key_columns(schema)}
    by_keys = object_of({"keys": object_of(columns), **told}, optional=("known_at",))
    return {"oneOf": [by_request, by_keys]} if columns else by_request


def _output_metadata(task: Task) -> dict[str, Any]:
    if not task.parts:
        return _TENSOR_METADATA
    parts: dict[str, Any] = {**_TENSOR_METADATA["properties"], "parameters": object_of({"of": list_of(TEXT)})}
    return object_of(parts, optional=("parameters",))


def _told(task: Task) -> dict[str, Any]:
    plain = schema_of_column(replace(label_column(task), nullable=False))
    if "enum" in plain:
        return {"enum": [*plain["enum"], None]}
    return {**plain, "type": [plain["type"], "null"]}


def _output_tensor(task: Task) -> dict[str, Any]:
    parts = {
        "name": {"enum": list(task.output_types)},
        "datatype": {"enum": list(task.output_types.values())},
        "shape": list_of({"type": "integer"}),
        "data": list_of({"type": [_JSON_TYPES[datatype] for datatype in task.output_types.values()]}),
        "parameters": object_of({"binary_data_size": {"type": "integer"}}),
    }
    return object_of(parts, optional=("data", "parameters"))
