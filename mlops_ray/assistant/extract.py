"""Extracts: of what the server answers, the part that an assistant gets: bounded, and without what a person is in."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlops_ray.errors import ConfigurationError

MOST_CHARACTERS = 16_000
_LONGEST_TEXT = 500
_LONGEST_LIST = 50
_OF = re.compile(r"[a-z][a-z0-9_]{0,62}(@[1-9][0-9]{0,8})?")
_GATE = ("gate", "value", "limit", "blocks")
_LINEAGE = (
    "owner", "purpose", "limits", "digest", "candidate", "parameters", "metric", "training_set", "training_rows",
    "feature_service", "feature_rows", "snapshot", "rows", "contract", "as_of", "code_version", "code_dirty",
    "framework", "lock_file", "python", "platform",
)  # fmt: skip


def page_of(name: str, items: Sequence[Any], skip: int) -> dict[str, Any]:
    """As many of `items` from `skip` on as fit MOST_CHARACTERS, under `name`, with `total` and what to ask next."""
    if skip < 0:
        raise ConfigurationError(f"skip is {skip}. Give 0, or what `next` has said.")
    shown, used = list[Any](), 0
    for item in items[skip:]:
        short = shortened(item)
        used += len(repr(short))
        if shown and used > MOST_CHARACTERS:
            break
        shown.append(short)
    found: dict[str, Any] = {name: shown, "total": len(items)}
    end = skip + len(shown)
    return found | ({"next": f"There are more: call again with skip={end}."} if end < len(items) else {})


def shortened(value: Any) -> Any:
    """With texts of at most 500 characters and lists of at most 50 items, each with what was left out."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else f"{value[:_LONGEST_TEXT]}… ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {**_few((shortened(str(key)), shortened(one)) for key, one in value.items())}
    if isinstance(value, Sequence):
        short = [shortened(one) for one in value[:_LONGEST_LIST]]
        return short if len(value) <= _LONGEST_LIST else [*short, f"… ({len(value)} in all)"]
    return value


def _few(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    found = list(pairs)
    left = {"…": f"{len(found)} in all"} if len(found) > _LONGEST_LIST else {}
    return dict(found[:_LONGEST_LIST]) | left


def expect_endpoint_or_version(of: str) -> None:
    """Raise ConfigurationError for anything else: a prediction is about somebody."""
    if not _OF.fullmatch(of):
        raise ConfigurationError(f"{ascii(of)[:60]} names neither an endpoint (flights) nor a version (flights@7).")


def lineage_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is behind a version. Left out are values that a column may have: those of slices and in sentences of gates;
    of files and trials there are numbers."""
    record = found["lineage"]
    metrics = {name: one for name, one in record["evaluation"].items() if isinstance(one, Mapping) and "value" in one}
    return {
        "version": f"{found['use_case']}@{found['version']}",
        "registered": _event(found["registered"]),
        "gates": [
            {"result": one["type"], **{part: one["payload"].get(part) for part in _GATE}} for one in found["gates"]
        ],
        "approvals": [_event(one) for one in found["approvals"]],
        "deployments": found["deployments"],
        "erased_since": found["erased"],
        "metrics_on_test_period": metrics,
        "vulnerabilities": record["vulnerabilities"].get("sentence"),
        "trials": len(record["trials"]),
        "source_files": {source: len(files) for source, files in record["source_files"].items()},
        **{name: record[name] for name in _LINEAGE},
    }


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    return {name: event.get(name) for name in ("time", "type", "actor", "reason")}
