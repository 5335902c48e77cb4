"""What the document of the server says of keys, persons, subscriptions, the audit log, the inventory and monitoring."""

from typing import Any

from mlops_ray.governance.events import SEVERITIES
from mlops_ray.governance.principals import ROLES
from mlops_ray.serving.keys import MAX_PAGE, PAGE
from mlops_ray.serving.openapi.columns import MOMENT
from mlops_ray.serving.openapi.parts import COUNT, REASON, TEXT, UUID, answer_of, list_of, object_of, operation_of

_TIME = {"type": "string", "format": "date-time"}
_ROLES = list_of({"enum": list(ROLES)})
_MAYBE_TEXT, _MAYBE_NUMBER = {"type": ["string", "null"]}, {"type": ["integer", "null"]}


def _maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _text(longest: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": longest}


_KEY = object_of(
    {
        "id": TEXT,
        "name": TEXT,
        "roles": _ROLES,
        "use_cases": list_of(TEXT),
        "person": TEXT,
        "development": {"type": "boolean"},
        "requests_per_s": {"type": ["number", "null"]},
        "created_at": _TIME,
        "expires_at": _maybe(_TIME),
        "revoked_at": _maybe(_TIME),
    }
)
_WAITING = object_of({"events": COUNT, "oldest": _TIME, "error": TEXT})
_SUBSCRIPTION = object_of(
    {
        "id": TEXT,
        "use_case": _MAYBE_TEXT,
        "types": list_of(TEXT),
        "minimum_severity": {"enum": list(SEVERITIES)},
        "channel": TEXT,
        "created_at": _TIME,
        "created_by": TEXT,
        "paused_at": _maybe(_TIME),
        "waiting": _maybe(_WAITING),
    }
)
_DEFINITION = object_of(
    {
        **dict.fromkeys(("use_case", "digest", "changed_by", "reason"), TEXT),
        "revision": COUNT,
        "definition": _maybe({"type": "object"}),
        "changed_by_id": _MAYBE_TEXT,
        "changed_at": _TIME,
    }
)
_ENTRY = object_of(
    {
        **dict.fromkeys(("use_case", "owner", "purpose", "tier", "approval", "reviewed_by"), TEXT),
        **dict.fromkeys(("live_version", "newest_version"), _MAYBE_NUMBER),
        **dict.fromkeys(("live_since", "registered_at", "reviewed_at", "next_review_at"), _maybe(_TIME)),
        "review_every_s": {"type": ["number", "null"]},
        "open_alarms": COUNT,
        "overdue": {"type": "boolean"},
    }
)
_RESULT = {"type": "object", "properties": {"ok": {"type": "boolean"}, "checked": COUNT, "problem": _MAYBE_TEXT}}
_SECRET = {"type": "string", "description": "Said here once, and stored nowhere."}
_AFTER = {"name": "after", "in": "query", "schema": _text(600), "description": "`next` of the page before."}
_LIMIT = {
    "name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE},
}  # fmt: skip

SCHEMAS: dict[str, Any] = {
    "Key": _KEY,
    "Keys": object_of({"keys": list_of(_KEY), "next": _MAYBE_TEXT}),
    "Persons": object_of(
        {
            "persons": list_of(
                object_of({"person": TEXT, "names": list_of(TEXT), "keys": list_of(TEXT), "roles": _ROLES})
            ),
            "next": _MAYBE_TEXT,
        }
    ),
    "KeyMade": object_of({"key": _KEY, "secret": _SECRET}),
    "NewKey": object_of(
        {
            "name": _text(600),
            "roles": {"type": "array", "items": _text(600), "maxItems": 20},
            "use_cases": {"type": "array", "items": _text(600), "maxItems": 1_000},
            "expires_at": _maybe(MOMENT),
            "requests_per_s": {"type": ["number", "null"]},
            "person": _maybe(_text(600)),
            "oidc_sub": _maybe(_text(600)),
        },
        optional=("use_cases", "expires_at", "requests_per_s", "person", "oidc_sub"),
    ),
    "Rotation": object_of({"key": _text(600), "until": MOMENT, "reason": REASON}),
    "Revocation": object_of({"key": _text(600), "reason": REASON}),
    "Subscription": _SUBSCRIPTION,
    "Subscriptions": object_of({"subscriptions": list_of(_SUBSCRIPTION), "next": _MAYBE_TEXT}),
    "SubscriptionMade": object_of({"subscription": _SUBSCRIPTION, "secret": _SECRET}),
    "NewSubscription": object_of(
        {
            "channel": _text(2_000),
            "use_case": _maybe(_text(200)),
            "types": {"type": "array", "items": TEXT, "maxItems": 200},
            "minimum_severity": {"enum": list(SEVERITIES)},
            "secret": {**_text(2_000), "description": "env:NAME or file:/path on the server; needs the role admin."},
        },
        optional=("use_case", "types", "minimum_severity", "secret"),
    ),
    "OfSubscription": object_of({"id": _text(100), "reason": REASON}, optional=("reason",)),
    "Taken": object_of({"taken": {"type": "boolean"}, "event": _maybe(UUID), "error": TEXT}),
    "Events": object_of({"events": list_of({"type": "object"}), "next": {"type": ["integer", "null"]}}),
    "Definition": _DEFINITION,
    "Definitions": object_of({"definitions": list_of(_DEFINITION)}),
    "NewDefinition": object_of(
        {
            "model": _text(200),
            "definition": _maybe({"type": "object"}),
            "revision": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
            "reason": REASON,
        }
    ),
    "Inventory": object_of({"use_cases": list_of(_ENTRY)}),
    "Review": object_of({"use_case": _text(200), "reason": REASON}),
    "Reviewed": object_of({"use_case": TEXT, "reviewed_at": _TIME, "reviewed_by": TEXT}),
    "Silence": object_of(
        {"use_case": _text(200), "alarm": _text(200) | {"minLength": 1}, "until": _TIME, "reason": REASON}
    ),
    "Silenced": object_of({"alarm": TEXT, "use_case": TEXT, "silenced_until": _TIME}),
    "Verification": object_of(
        {
            "began_at": _TIME,
            "state": {"enum": ["running", "done", "failed"]},
            "result": _maybe(_RESULT),
            "error": TEXT,
        },
        optional=("error",),
    ),
}


def paths_of_administration() -> dict[str, Any]:
    """Keys and persons, subscriptions, the audit log, the inventory, alarms, monitoring."""
    made, of, changed = "SubscriptionMade", "OfSubscription", "Subscription"
    return {
        "/v2/keys": {"get": _paged("keys", "Every key ever made, the oldest first", "Keys")},
        "/v2/keys/create": {"post": operation_of("create_key", "Make a key", "KeyMade", "NewKey")},
        "/v2/keys/rotate": {
            "post": operation_of("rotate_key", "Make another key of the same rights", "KeyMade", "Rotation")
        },
        "/v2/keys/revoke": {"post": operation_of("revoke_key", "End a key", "Key", "Revocation")},
        "/v2/persons": {"get": _paged("persons", "Everybody who ever had a key", "Persons")},
        "/v2/subscriptions": {
            "get": _paged("subscriptions", "Who is told of what, and what waits for them", "Subscriptions")
        },
        "/v2/subscriptions/create": {"post": operation_of("subscribe", "Send events", made, "NewSubscription")},
        "/v2/subscriptions/pause": {"post": operation_of("pause", "Let what is wanted wait", changed, of)},
        "/v2/subscriptions/resume": {"post": operation_of("resume", "Send what waits", changed, of)},
        "/v2/subscriptions/end": {"post": operation_of("unsubscribe", "Send nothing more", changed, of)},
        "/v2/subscriptions/test": {"post": operation_of("test", "Send an event that never happened, now", "Taken", of)},
        "/v2/inventory": {"get": operation_of("inventory", "All use cases, and how they stand", "Inventory")},
        "/v2/inventory/review": {
            "post": operation_of("review", "Say that somebody looked at a use case", "Reviewed", "Review")
        },
        "/v2/alarms/silence": {
            "post": operation_of("silence", "Let nobody act on an alarm for a time", "Silenced", "Silence")
        },
        "/v2/monitoring": {"get": operation_of("monitoring", "How predictions are watched, and were", "Definitions")},
        "/v2/monitoring/set": {"post": _set_monitoring()},
        "/v2/audit/events": {"get": _events()},
        "/v2/audit/verification": {
            "get": operation_of("verification", "How the last verification went, or goes", "Verification"),
            "post": operation_of("verify", "Check all events, anchors and tables", "Verification"),
        },
    }


def _paged(name: str, summary: str, answer: str) -> dict[str, Any]:
    return operation_of(name, summary, answer) | {"parameters": [_AFTER, _LIMIT]}


def _set_monitoring() -> dict[str, Any]:
    found = operation_of("set_monitoring", "Watch predictions so from now on", "Definition", "NewDefinition")
    found["responses"]["202"] = answer_of("Change", "Somebody else has to approve it first")
    return found


def _events() -> dict[str, Any]:
    wanted = {
        "after": {"type": "integer", "minimum": 0, "maximum": 2**62},
        "use_case": _text(200),
        "types": {**_text(2_000), "description": "With commas between."},
        "subject": _text(600),
    }
    parameters = [{"name": name, "in": "query", "schema": schema} for name, schema in wanted.items()]
    return operation_of("events", "Events in their order", "Events") | {"parameters": [*parameters, _LIMIT]}
