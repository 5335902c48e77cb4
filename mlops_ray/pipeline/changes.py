"""Changes: where two canonical values differ (see pipeline.fingerprint), by name and in short."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlops_ray.artifacts import digest_json

_SHOWN = 60


@dataclass(frozen=True)
class Change:
    """What is another than it was: its name from outside to inside, and short texts of both values."""

    name: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.name}: {self.old} → {self.new}"


def changes(old: Any, new: Any, name: str = "") -> Iterator[Change]:
    """Where two canonical values differ, as deep inside as they have the same parts."""
    if old == new:
        return
    before, after = _parts(old), _parts(new)
    if before is None or after is None:
        yield Change(name, _short(old), _short(new))
        return
    common = [part for part in before if part in after]
    if common != [part for part in after if part in before]:
        yield Change(f"{name}, order", ", ".join(before), ", ".join(after))
    for part in dict.fromkeys((*before, *after)):
        inner = f"{name}.{part}" if name else part
        if part not in after:
            yield Change(inner, _short(before[part]), "nothing")
        elif part not in before:
            yield Change(inner, "nothing", _short(after[part]))
        else:
            yield from changes(before[part], after[part], inner)


def _parts(value: Any) -> dict[str, Any] | None:
    """The named parts of a canonical value; None where it has none."""
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        return {str(key): part for key, part in value.items()} if isinstance(value, dict) else None
    kind, *rest = value
    if kind == "mapping":
        return {str(key) if isinstance(key, str | int) else digest_json(key)[:8]: part for key, part in rest}
    if kind == "object" and isinstance(rest[-1], list) and rest[-1][:1] == ["mapping"]:
        inner = _parts(rest[-1]) or {}
        return {"class": rest[0], **inner}
    if kind in ("list", "tuple"):
        return _named(rest)
    if kind in ("class", "function", "partial", "method", "module"):
        found: dict[str, Any] = {}
        for at, part in enumerate(rest):
            found |= part if isinstance(part, dict) else {f"{kind} {at}" if at else "name": part}
        return found
    return None


def _named(parts: Sequence[Any]) -> dict[str, Any]:
    """The elements of a list by their own names where each has one, as columns and candidates do."""
    names = [str((_parts(part) or {}).get("name", "")) if isinstance(part, list) else "" for part in parts]
    if all(names) and len(set(names)) == len(names):
        return dict(zip(names, parts, strict=True))
    return {str(at): part for at, part in enumerate(parts)}


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2 and value[0] in ("timedelta", "float", "bytes"):
        value = value[1]
    if isinstance(value, list) and value[:1] == ["datetime"]:
        value = value[1]
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) == 64 and " " not in text:
        return text[:12]
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 10]}… ({digest_json(value)[:8]})"
