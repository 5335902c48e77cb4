"""Parts of which documents are made."""

from typing import Any

from mlops_ray.serving.http import MAX_BODY_BYTES, MAX_ORDER_BYTES
from mlops_ray.serving.validation import MAX_ROWS

TEXT = {"type": "string"}
UUID = {"type": "string", "format": "uuid"}
COUNT = {"type": "integer", "minimum": 0}
REASON = {"type": "string", "maxLength": 2_000}
VERSION_NUMBER = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
REVISION = {
    "type": "integer", "minimum": 0, "maximum": 2**31 - 1, "description": "Of what was live when the caller looked."
}  # fmt: skip
_WITH_ROWS = ("Ask", "Infer", "Labels", "Push")
_LIMITED = {
    True: f"UTF-8 JSON, at most {MAX_BODY_BYTES:,} bytes and {MAX_ROWS:,} rows.",
    False: f"UTF-8 JSON, at most {MAX_ORDER_BYTES:,} bytes.",
}


def operation_of(name: str, summary: str, answer: str, body: str | None = None) -> dict[str, Any]:
    responses = {"200": answer_of(answer, "The answer"), "default": answer_of("Error", "What is wrong, and where")}
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses}
    if body:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}}
        operation["requestBody"] = {
            "required": True,
            "description": _LIMITED[body in _WITH_ROWS],
            "content": content,
        }
    return operation


def answer_of(schema: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def document_of(title: str, version: str, paths: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
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


def object_of(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def one_or_many(schema: str) -> dict[str, Any]:
    row = {"$ref": f"#/components/schemas/{schema}"}
    return {"anyOf": [row, {**list_of(row), "minItems": 1, "maxItems": MAX_ROWS}]}


SHARED = {
    "Document": {"type": "object"},
    "Error": object_of({"error": TEXT, "field": {"type": ["string", "null"]}, "request_id": UUID}),
}
