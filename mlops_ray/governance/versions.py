"""Versions as the control store knows them: the digests of their parts, who made them, the gates they did not pass."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Row, insert, select, update

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.tables import versions

_LARGEST = 2**31 - 1  # what the databases' type of a version's number holds


@dataclass(frozen=True)
class VersionRef:
    """A registered version and the digest of its sealed model."""

    version: int
    digest: str


@dataclass(frozen=True)
class Evidence:
    """SHA-256 digests of what people judge: sealed model, evaluation, bill of materials ("" where there is none)."""

    model: str
    evaluation: str
    materials: str = ""


@dataclass(frozen=True)
class RegisteredVersion:
    """author: the name of the principal that registered it, author_id: which one that is, None in older rows.

    failed_gates: names of the gates that keep it from going live. retired_at: since when nothing can be begun with it,
    None for a version in use.
    """

    use_case: str
    version: int
    evidence: Evidence
    author: str
    failed_gates: tuple[str, ...]
    registered_at: datetime
    retired_at: datetime | None = None
    author_id: str | None = None

    @property
    def ref(self) -> VersionRef:
        return VersionRef(self.version, self.evidence.model)

    def expect_in_use(self) -> None:
        """Raise ForbiddenError if it was retired."""
        if self.retired_at is not None:
            raise ForbiddenError(
                f"Version {self.version} of {self.use_case} was retired at {self.retired_at:%Y-%m-%d %H:%M:%S} UTC. "
                f"Take another version, or register the model again."
            )


class GateOutcome(Protocol):
    """What a gate of a use case found; see `evaluation.gates.GateResult`."""

    @property
    def name(self) -> str: ...
    @property
    def passed(self) -> bool: ...
    @property
    def blocks(self) -> bool: ...
    @property
    def value(self) -> float | None: ...
    @property
    def limit(self) -> float | None: ...
    @property
    def sentence(self) -> str: ...


def record_version(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    version: int,
    evidence: Evidence,
    gates: Iterable[GateOutcome] = (),
    payload: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> RegisteredVersion:
    """Record a registered version, with `version.registered` and an event for each gate. `actor` is its author.

    Asked again for the same version and model it returns what stands. Raises ConflictError if another model was
    registered under this number.
    """
    outcomes = list(gates)
    expect_name(use_case)
    with store.transaction() as connection:
        now = now or database_now(connection)
        known = find(connection, use_case, version)
        if known is not None:
            if known.evidence.model != evidence.model:
                raise ConflictError(
                    f"Version {version} of {use_case} was registered with the model {known.evidence.model}, not "
                    f"{evidence.model}. Register the model as a new version."
                )
            return known
        failed = failed_gates(outcomes)
        made = RegisteredVersion(use_case, version, evidence, actor.name, failed, now, author_id=actor.id or None)
        _insert(connection, made)
        subject = f"{use_case}@{version}"
        record(connection, "version.registered", actor, subject, use_case, after=asdict(made), payload=payload, now=now)
        _record_gates(connection, actor, made, outcomes, now)
    return made


def failed_gates(outcomes: Iterable[GateOutcome]) -> tuple[str, ...]:
    """Names of those that keep a version from going live."""
    return tuple(gate.name for gate in outcomes if gate.blocks and not gate.passed)


def measure_again(
    connection: Connection,
    actor: Actor,
    before: RegisteredVersion,
    evidence: Evidence,
    outcomes: Iterable[GateOutcome],
    reason: str,
    payload: Mapping[str, Any],
    now: datetime,
) -> RegisteredVersion:
    """Let other results of the gates count, inside the caller's transaction; see `measurements.record_measurement`.

    The events of the results before stay.
    """
    found = list(outcomes)
    after = replace(before, evidence=evidence, failed_gates=failed_gates(found))
    this = (versions.c.use_case == before.use_case) & (versions.c.version == before.version)
    values = {"evaluation_digest": evidence.evaluation, "failed_gates": list(after.failed_gates)}
    connection.execute(update(versions).where(this).values(values))
    record(
        connection,
        "version.measured",
        actor,
        f"{before.use_case}@{before.version}",
        before.use_case,
        before=asdict(before),
        after=asdict(after),
        payload=payload,
        reason=reason,
        now=now,
    )
    _record_gates(connection, actor, after, found, now)
    return after


def _record_gates(
    connection: Connection, actor: Actor, version: RegisteredVersion, outcomes: Iterable[GateOutcome], now: datetime
) -> None:
    for gate in outcomes:
        kind = "gate.passed" if gate.passed else "gate.failed"
        measured = {"gate": gate.name, "value": gate.value, "limit": gate.limit, "blocks": gate.blocks}
        subject = f"{version.use_case}@{version.version}"
        record(connection, kind, actor, subject, version.use_case, payload=measured, reason=gate.sentence, now=now)


def retire(
    connection: Connection, actor: Actor, version: RegisteredVersion, reason: str, payload: Mapping[str, Any]
) -> RegisteredVersion:
    """Take a version out of use for good, inside the caller's transaction; see `live.retire`."""
    version.expect_in_use()
    retired = replace(version, retired_at=database_now(connection))
    this = (versions.c.use_case == version.use_case) & (versions.c.version == version.version)
    connection.execute(update(versions).where(this).values(retired_at=retired.retired_at))
    record(
        connection,
        "version.retired",
        actor,
        f"{version.use_case}@{version.version}",
        version.use_case,
        before=asdict(version),
        after=asdict(retired),
        payload=payload,
        reason=reason,
        now=retired.retired_at,
    )
    return retired


def list_versions(store: ControlStore, use_case: str) -> list[RegisteredVersion]:
    """All that were recorded for a use case, by number; those that were retired as well."""
    expect_name(use_case)
    query = select(versions).where(versions.c.use_case == use_case).order_by(versions.c.version)
    with store.reading() as connection:
        return [_version(row) for row in connection.execute(query)]


def find(connection: Connection, use_case: str, version: int) -> RegisteredVersion | None:
    if not 0 < version <= _LARGEST:
        return None
    query = select(versions).where(versions.c.use_case == use_case, versions.c.version == version)
    row = connection.execute(query).first()
    return None if row is None else _version(row)


def registered_with(connection: Connection, use_case: str, model_digest: str) -> list[RegisteredVersion]:
    """Each version of a use case that these bytes were registered as."""
    query = select(versions).where(versions.c.use_case == use_case, versions.c.model_digest == model_digest)
    return [_version(row) for row in connection.execute(query.order_by(versions.c.version))]


def expect(connection: Connection, use_case: str, version: int) -> RegisteredVersion:
    """Raises ConfigurationError, naming what there is, if the version was not recorded."""
    expect_name(use_case)
    found = find(connection, use_case, version)
    if found is None:
        query = select(versions.c.version).where(versions.c.use_case == use_case).order_by(versions.c.version)
        numbers = ", ".join(map(str, connection.execute(query).scalars())) or "none"
        raise ConfigurationError(f"{use_case} has no version {version}; registered are: {numbers}.")
    return found


def _insert(connection: Connection, made: RegisteredVersion) -> None:
    connection.execute(
        insert(versions).values(
            use_case=made.use_case,
            version=made.version,
            model_digest=made.evidence.model,
            evaluation_digest=made.evidence.evaluation,
            materials_digest=made.evidence.materials,
            author=made.author,
            author_id=made.author_id,
            failed_gates=list(made.failed_gates),
            registered_at=made.registered_at,
        )
    )


def _version(row: Row[Any]) -> RegisteredVersion:
    return RegisteredVersion(
        row.use_case,
        row.version,
        Evidence(row.model_digest, row.evaluation_digest, row.materials_digest),
        row.author,
        tuple(row.failed_gates),
        row.registered_at,
        row.retired_at,
        row.author_id,
    )


def expect_name(use_case: str) -> None:
    """Raise ConfigurationError for what cannot be the name of a use case: no database sees it, and no log."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", use_case):
        shown = use_case if len(use_case) <= 40 else f"{use_case[:40]}…"
        raise ConfigurationError(f"{shown!r} is no name of a use case: a-z, 0-9 and _, at most 63 characters.")
