"""The document of the small application that owns `/v2`."""

from typing import Any

from mlops_ray.serving.http import MAX_BODY_BYTES
from mlops_ray.serving.openapi.administration import SCHEMAS as ADMINISTRATION
from mlops_ray.serving.openapi.administration import paths_of_administration
from mlops_ray.serving.openapi.columns import MOMENT
from mlops_ray.serving.openapi.data import SCHEMAS as DATA
from mlops_ray.serving.openapi.data import paths_of_data
from mlops_ray.serving.openapi.parts import (
    REASON,
    REVISION,
    SHARED,
    TEXT,
    UUID,
    VERSION_NUMBER,
    answer_of,
    document_of,
    list_of,
    object_of,
    operation_of,
)
from mlops_ray.serving.openapi.records import SCHEMAS as RECORDS
from mlops_ray.serving.openapi.records import paths_of_records

_DIGEST = {"type": "string", "maxLength": 64}
_VERSION = object_of(
    {
        "model": TEXT,
        "version": VERSION_NUMBER,
        "reason": REASON,
        "digest": {"anyOf": [_DIGEST, {"type": "null"}]},
        "revision": {"anyOf": [REVISION, {"type": "null"}]},
        "condition": REASON,
        "approval": {"anyOf": [{"type": "string", "maxLength": 64}, {"type": "null"}]},
    },
    optional=("reason", "digest", "revision", "condition", "approval"),
)
_TIME = {"type": "string", "format": "date-time"}
_LINEAGE_QUESTION = object_of(
    {"of": {"type": "string", "maxLength": 200}, "near": {"anyOf": [MOMENT, {"type": "null"}]}}, optional=("near",)
)
_EVIDENCE = object_of({"model": TEXT, "evaluation": TEXT, "materials": TEXT})
_REGISTERED = object_of(
    {
        "use_case": TEXT,
        "version": {"type": "integer"},
        "evidence": _EVIDENCE,
        "author": TEXT,
        "failed_gates": list_of(TEXT),
        "registered_at": _TIME,
        "retired_at": {"anyOf": [_TIME, {"type": "null"}]},
        "author_id": {"type": ["string", "null"]},
    }
)
_MAYBE = {"type": ["string", "null"]}
_ASSENTS = list_of(
    object_of(
        {
            "name": TEXT, "id": _MAYBE, "at": _TIME, "reason": TEXT, "condition": TEXT, "for_name": _MAYBE,
            "for_id": _MAYBE,
        }
    )
)  # fmt: skip
_REPORTS = list_of(
    object_of({"name": TEXT, "digest": TEXT, "bytes": {"type": "integer"}, "by": TEXT, "by_id": _MAYBE, "at": _TIME})
)
_APPROVAL = object_of(
    {
        "id": UUID,
        "use_case": TEXT,
        "version": {"type": "integer"},
        "evidence": _EVIDENCE,
        "author": TEXT,
        "state": {"enum": ["requested", "approved", "rejected", "revoked", "expired"]},
        "requested_by": TEXT,
        "requested_at": _TIME,
        "expires_at": _TIME,
        "break_glass": {"type": "boolean"},
        "decided_by": {"type": ["string", "null"]},
        "decided_at": {"anyOf": [_TIME, {"type": "null"}]},
        "reason": TEXT,
        **{f"{who}_id": {"type": ["string", "null"]} for who in ("author", "requested_by", "decided_by")},
        "assents": _ASSENTS,
        "reports": _REPORTS,
    }
)
_CHANGE = object_of(
    {
        "id": UUID,
        "use_case": TEXT,
        "policy": {"type": ["object", "null"]},
        "gates": {"anyOf": [list_of(TEXT), {"type": "null"}]},
        "state": {"enum": ["requested", "in_force", "rejected"]},
        "requested_by": TEXT,
        "requested_by_id": _MAYBE,
        "requested_at": _TIME,
        "expires_at": _TIME,
        "assents": _ASSENTS,
        "decided_by": _MAYBE,
        "decided_by_id": _MAYBE,
        "decided_at": {"anyOf": [_TIME, {"type": "null"}]},
        "reason": TEXT,
        "monitoring": {"type": ["object", "null"]},
    }
)
_DELEGATION = object_of(
    {
        "id": UUID,
        **dict.fromkeys(("use_case", "giver", "giver_id", "taker", "taker_id", "role"), TEXT),
        "given_at": _TIME,
        "until": _TIME,
        "ended_at": {"anyOf": [_TIME, {"type": "null"}]},
        "reason": TEXT,
    }
)
_NAME, _ID = {"type": "string", "maxLength": 200}, {"type": "string", "maxLength": 64}
_BODIES_OF_APPROVERS = {
    "Id": object_of({"id": _ID, "reason": REASON}, optional=("reason",)),
    "NewDelegation": object_of(
        {"model": _NAME, "to": {"type": "string", "maxLength": 500}, "until": MOMENT, "reason": REASON}
    ),
    "NewReport": object_of(
        {
            "model": _NAME,
            "version": VERSION_NUMBER,
            "name": _NAME,
            "content": {"type": "string", "contentEncoding": "base64", "pattern": "^([A-Za-z0-9+/]{4})*$"},
        }
    ),
    "ReportQuestion": object_of({"model": _NAME, "version": VERSION_NUMBER, "digest": _DIGEST}),
}


def openapi_of_server(version: str) -> dict[str, Any]:
    """The document of the small application that owns `/v2`."""
    paths = {
        "/v2": {"get": operation_of("server", "Name, version and extensions of the server", "Server")},
        "/v2/health/live": {"get": {**operation_of("live", "Whether the server runs", "Live"), "security": []}},
        "/v2/health/ready": {
            "get": operation_of("server_ready", "200 if all models take requests, 503 if not", "ServerReady")
        },
        "/v2/openapi.json": {"get": operation_of("openapi", "This document", "Document")},
        "/v2/repository/index": {
            "post": operation_of("repository_index", "The models that the caller may see", "Repository", "Index")
        },
        **_paths_of_approvals(),
        **_paths_of_approvers(),
        **_paths_of_versions(),
        **paths_of_administration(),
        **paths_of_data(),
        **paths_of_records(),
    }
    paths["/v2/health/ready"]["get"]["responses"]["503"] = answer_of("ServerReady", "A model is not ready")
    schemas = {
        "Server": object_of({"name": TEXT, "version": TEXT, "extensions": list_of(TEXT)}),
        "Index": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        "Repository": list_of(object_of(dict.fromkeys(("name", "version", "state", "reason"), TEXT))),
        "Live": object_of({"live": {"type": "boolean"}}),
        "ServerReady": object_of({"ready": {"type": "boolean"}, "not_ready": list_of(TEXT)}),
        "Version": _VERSION,
        "Approval": _APPROVAL,
        "Approvals": object_of({"approvals": list_of(_APPROVAL)}),
        "Change": _CHANGE,
        "Changes": object_of({"changes": list_of(_CHANGE)}),
        "Delegation": _DELEGATION,
        "Delegations": object_of({"delegations": list_of(_DELEGATION)}),
        "Report": object_of({"digest": TEXT, "content": TEXT}),
        **_BODIES_OF_APPROVERS,
        "Rollout": {"type": "object"},
        "LineageQuestion": _LINEAGE_QUESTION,
        "RegisteredVersion": _REGISTERED,
        **ADMINISTRATION,
        **DATA,
        **RECORDS,
        **SHARED,
    }
    return document_of("mlops_ray", version, paths, schemas)


def _paths_of_approvals() -> dict[str, Any]:
    prefix = "/v2/approvals"
    approval, version = "Approval", "Version"
    return {
        prefix: {"get": operation_of("approvals", "Requests and verdicts, the newest first", "Approvals")},
        f"{prefix}/request": {"post": operation_of("request", "Ask for a version's approval", approval, version)},
        f"{prefix}/approve": {"post": operation_of("approve", "Approve what was asked for", approval, version)},
        f"{prefix}/reject": {"post": operation_of("reject", "Refuse what was asked for", approval, version)},
        f"{prefix}/revoke": {"post": operation_of("revoke", "Take an approval back", approval, version)},
        f"{prefix}/break-glass": {
            "post": operation_of("break_glass", "Promote now and ask for approval afterwards", "Rollout", version)
        },
    }


def _paths_of_approvers() -> dict[str, Any]:
    prefix = "/v2/approvals"
    change, given = "Change", "Delegation"
    attach = operation_of("attach_report", "Attach a file to a request for approval", "Approval", "NewReport")
    attach["requestBody"]["description"] = f"UTF-8 JSON, at most {MAX_BODY_BYTES:,} bytes."
    return {
        f"{prefix}/rules": {"get": operation_of("rules", "Changes of policies, gates and monitoring", "Changes")},
        f"{prefix}/rules/approve": {"post": operation_of("approve_rules", "Agree to a change of rules", change, "Id")},
        f"{prefix}/rules/reject": {"post": operation_of("reject_rules", "Refuse a change of rules", change, "Id")},
        f"{prefix}/delegations": {
            "get": operation_of("delegations", "Who may approve in whose place, the newest first", "Delegations"),
            "post": operation_of("delegate", "Let somebody approve in your place for a time", given, "NewDelegation"),
        },
        f"{prefix}/delegations/end": {"post": operation_of("end_delegation", "Take the right back", given, "Id")},
        f"{prefix}/reports": {"post": attach},
        f"{prefix}/reports/read": {
            "post": operation_of("read_report", "A file that was attached, as base64", "Report", "ReportQuestion")
        },
    }


def _paths_of_versions() -> dict[str, Any]:
    what = "Everything behind an endpoint, a version or a prediction, back to the raw files"
    return {
        "/v2/versions/lineage": {"post": operation_of("lineage", what, "Document", "LineageQuestion")},
        "/v2/versions/retire": {
            "post": operation_of("retire", "Take a version out of use for good", "RegisteredVersion", "Version")
        },
    }
