"""Erased rows: which snapshots, training sets and raw files had rows of somebody who was erased, and when.

A record is `erased_rows/<id>.json` below the artifact root. It does not say whose they were: of the value it has a
digest, and while the erasure is not finished the salt of that, by which it is found again and completed.
"""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from mlops_ray.artifacts import Artifacts

FOLDER = "erased_rows"
_LAST = "last_erasure.json"


@dataclass(frozen=True)
class ErasedRows:
    """entity: the name of the column. at: when it began, in RFC 3339. event: its number in the audit log, None until it
    is finished. snapshots, training_sets, features: the number of rows by `use_case/digest` (`use_case/view/digest`).
    raw_files: the SHA-256 of raw files that have the rows. models: `use_case@version` of all that were trained on them.
    """

    id: str
    entity: str
    digest: str
    salt: str | None
    at: str
    event: int | None
    snapshots: Mapping[str, int]
    training_sets: Mapping[str, int]
    features: Mapping[str, int]
    raw_files: tuple[str, ...]
    models: tuple[str, ...]

    @property
    def sentence(self) -> str:
        told = f"event {self.event}" if self.event is not None else "not finished: run `mlops-ray data erase` again"
        return f"rows of a person ({self.entity}) were erased at {self.at[:19]}Z ({told})"

    def is_about(self, entity: str, value: str) -> bool:
        return self.salt is not None and (self.entity, self.digest) == (entity, salted(self.salt, value))

    def shown(self) -> dict[str, Any]:
        """As JSON, without the salt."""
        return {name: value for name, value in asdict(self).items() if name != "salt"}

    def plus(self, other: "ErasedRows") -> "ErasedRows":
        """This record with what another run of the same erasure has found beside it."""
        return replace(
            self,
            snapshots=_most(self.snapshots, other.snapshots),
            training_sets=_most(self.training_sets, other.training_sets),
            features=_most(self.features, other.features),
            raw_files=tuple(sorted({*self.raw_files, *other.raw_files})),
            models=tuple(sorted({*self.models, *other.models})),
        )


def new_record(entity: str, value: str, now: datetime) -> ErasedRows:
    """Of an erasure that has found nothing yet."""
    salt = secrets.token_hex(16)
    return ErasedRows(
        secrets.token_hex(8), entity, salted(salt, value), salt, now.isoformat(), None, {}, {}, {}, (), ()
    )


def salted(salt: str, value: str) -> str:
    return hashlib.sha256(f"{salt}{value}".encode()).hexdigest()


def write_erased(artifacts: Artifacts, record: ErasedRows) -> None:
    artifacts.write_json(asdict(record), FOLDER, f"{record.id}.json")


def begin_erasing(artifacts: Artifacts) -> None:
    """Say that rows are looked for, to be erased, from now on.

    Whoever writes rows that it has read before looks whether `last_erasure` is the same afterwards: if it is not, what
    it wrote may be what was looked for, and must not stay. If it is, all was written before the next look, which
    finds it.
    """
    artifacts.write_json({"id": secrets.token_hex(16)}, _LAST)


def last_erasure(artifacts: Artifacts) -> str:
    """What tells one look from the next; "" if nobody was ever erased."""
    found = artifacts.read_json(_LAST)
    return str(found["id"]) if found else ""


def erased_rows(artifacts: Artifacts) -> list[ErasedRows]:
    """All erasures, in the order in which they began."""
    found = [artifacts.read_json(FOLDER, entry.name) for entry in artifacts.entries(FOLDER)]
    lists = ("raw_files", "models")
    records = [ErasedRows(**one | {name: tuple(one[name]) for name in lists}) for one in found if one]
    return sorted(records, key=lambda one: one.at)


def erased_from(artifacts: Artifacts, use_case: str, snapshot: str, training_set: str = "") -> list[ErasedRows]:
    """The erasures that took rows out of a snapshot, or out of a training set."""
    return [
        one
        for one in erased_rows(artifacts)
        if f"{use_case}/{snapshot}" in one.snapshots or f"{use_case}/{training_set}" in one.training_sets
    ]


def _most(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {name: max(first.get(name, 0), second.get(name, 0)) for name in sorted({*first, *second})}
