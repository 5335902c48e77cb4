"""Manifest: what a backup holds, each file by the digest of its content, and what it does not hold."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from mlops_ray.errors import ConfigurationError, IntegrityError

FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Item:
    """A file. path: where it belongs, `artifacts/…` below the artifact root. modified_ns: by the clock of its storage,
    0 where it is not known. here: whether the backup has its content, or only this digest of it."""

    path: str
    sha256: str
    bytes: int
    modified_ns: int = 0
    here: bool = True


@dataclass(frozen=True)
class Manifest:
    """made_at: when the copying began, by the control store's clock, RFC 3339. schema, events, last_hash: of the
    control store at the point. roots: where `artifacts` and `state` were. databases: by name its kind. predictions: by
    use case until when all that was answered is in it. not_in_it: what is not, in sentences."""

    made_at: str
    release: str
    schema: str
    events: int
    last_hash: str
    roots: Mapping[str, str]
    databases: Mapping[str, str]
    predictions: Mapping[str, str]
    not_in_it: tuple[str, ...]
    items: tuple[Item, ...] = field(repr=False)

    def to_bytes(self) -> bytes:
        plain = {name: value for name, value in asdict(self).items() if name != "items"}
        items = [[one.path, one.sha256, one.bytes, one.modified_ns, one.here] for one in self.items]
        return json.dumps({"format": FORMAT, **plain, "items": items}, indent=1, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes, name: str) -> "Manifest":
        """Raises ConfigurationError for one of another format, IntegrityError for what is none."""
        try:
            told = json.loads(content)
            format = told.pop("format")
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise IntegrityError(f"The manifest of backup {name} is damaged: {error!r}. Use another backup.") from None
        if format != FORMAT:
            raise ConfigurationError(
                f"Backup {name} has format {format!r}, and this release reads {FORMAT}. Restore it with the release "
                f"that made it."
            )
        try:
            if set(told) != {one.name for one in fields(cls)}:
                raise ValueError(f"it has the fields {', '.join(sorted(told))}")
            items = tuple(_item(*one) for one in told.pop("items"))
            _expect_kinds(told)
            if not {"artifacts", "state"} <= set(told["roots"]):
                raise ValueError("its roots are not those of the artifacts and the state")
            return cls(**told | {"not_in_it": tuple(told["not_in_it"]), "items": items})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IntegrityError(f"The manifest of backup {name} is damaged: {error}. Use another backup.") from None

    def below(self, folder: str) -> list[Item]:
        """The items whose path begins with a folder."""
        return [one for one in self.items if one.path.startswith(f"{folder}/")]

    def find(self, path: str) -> Item | None:
        return next((one for one in self.items if one.path == path), None)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _expect_kinds(told: dict[str, Any]) -> None:
    for name in ("made_at", "release", "schema", "last_hash"):
        if not isinstance(told[name], str):
            raise ValueError(f"{name} is no text")
    if not isinstance(told["events"], int):
        raise ValueError("events is no number")
    for name in ("roots", "databases", "predictions"):
        if not isinstance(told[name], dict) or not all(isinstance(one, str) for one in told[name].values()):
            raise ValueError(f"{name} is no mapping of texts")
    if datetime.fromisoformat(told["made_at"]).tzinfo is None:
        raise ValueError(f"made_at {told['made_at']!r} has no time zone")


def _item(path: Any, sha256: Any, bytes: Any, modified_ns: Any, here: Any) -> Item:
    """A manifest that somebody made must not write outside of the place that is restored into."""
    parts = path.split("/")
    if path.startswith("/") or {"", ".", ".."} & set(parts) or "\0" in path or not _SHA256.fullmatch(sha256):
        raise ValueError(f"{path!r} is no path of a backup, or {sha256!r} no SHA-256")
    return Item(path, sha256, int(bytes), int(modified_ns), bool(here))
