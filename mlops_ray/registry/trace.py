"""Traces: from an endpoint, a prediction or a version, everything back to the raw files, in one call."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

import msgspec
import polars as pl

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError, IntegrityError
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.erased_rows import erased_from
from mlops_ray.governance.events import Event, read_events
from mlops_ray.governance.history import Deployment, changes, deployments
from mlops_ray.governance.live import live
from mlops_ray.predictions.answers import types_of_answers
from mlops_ray.predictions.reader import Ledger, around
from mlops_ray.predictions.segments import FOLDER as LEDGER
from mlops_ray.registry.lineage import FOLDER, Lineage
from mlops_ray.registry.models import find_version, lineage_copy
from mlops_ray.show.graph import STYLE as GRAPH_STYLE
from mlops_ray.show.shown import Shown

IMPORTED = "imported"
"""In the payload of `version.registered`: what the version was where it came from, an `Origin`, and its `bundle`."""
_NAME = r"[a-z][a-z0-9_]{0,62}"
_VERSION = re.compile(rf"({_NAME})@([1-9][0-9]{{0,8}})")
_REQUEST = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_APPROVALS = (
    "approval.requested",
    "approval.approved",
    "approval.rejected",
    "approval.revoked",
    "approval.expired",
    "break_glass",
    "version.measured",
    "version.retired",
)
_GATES = ("gate.passed", "gate.failed")


@dataclass(frozen=True, repr=False)
class Trace(Shown):
    """Everything behind an endpoint, a prediction or a version.

    prediction: what the ledger has of it, None unless one was asked for. deployments: of the version, or of every
    version of the endpoint if that was asked for. registered, gates, approvals: events; what people decided otherwise
    (a broken glass, measuring or retiring it) is among the approvals. record: the digest of `lineage`. erased: what was
    erased since from the snapshot or the training set that it names, in sentences.
    """

    asked: str
    use_case: str
    version: int
    prediction: Mapping[str, Any] | None
    registered: Mapping[str, Any]
    gates: tuple[Mapping[str, Any], ...]
    approvals: tuple[Mapping[str, Any], ...]
    deployments: tuple[Deployment, ...]
    record: str
    lineage: Lineage
    erased: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_plain))
        return found

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """What `to_json` gave. Raises IntegrityError if it was written by another version."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise IntegrityError(f"A trace cannot be read: {error}. Use the release of the server.") from None

    @property
    def title(self) -> str:
        return f"{self.use_case}, version {self.version}"

    _style = GRAPH_STYLE

    def _html(self) -> str:
        from mlops_ray.registry.trace_page import trace_html

        return trace_html(self)

    def _text(self) -> str:
        from mlops_ray.registry.trace_tree import trace_text

        return trace_text(self)


def read_lineage(settings: Settings, use_case: str, version: int) -> tuple[str, Lineage]:
    """Digest and record of a registered version, from the control store or, where that knows nothing, from MLflow.

    Raises ConfigurationError if there is no such version, IntegrityError if the record is not what was registered.
    """
    store = open_store(settings)
    try:
        registered = _registration(store, use_case, version)
        if registered is None:
            _expect_unknown_to(store, use_case, version)
        return _recorded(settings, registered, use_case, version)
    finally:
        store.close()


def trace(
    settings: Settings, thing: str, near: datetime | None = None, among: Callable[[str], bool] = lambda use_case: True
) -> Trace:
    """What is behind `thing`: an endpoint (`flights`, its champion), a version (`flights@7`), or a request's id.

    near: about when the request was; without it, an id that does not say so itself, as a UUIDv7 mostly does, takes
    longer. among: the use cases in whose ledgers a request is looked for; the others are not read.
    Raises ConfigurationError for what is neither of these or does not exist, DataError for a request that the ledger
    does not hold, IntegrityError if a record was changed.
    """
    store = open_store(settings)
    try:
        if _REQUEST.fullmatch(thing.lower()):
            use_case, version, prediction = _prediction(settings, thing.lower(), near, among)
            return _trace(settings, store, thing, use_case, version, prediction)
        if found := _VERSION.fullmatch(thing):
            return _trace(settings, store, thing, found[1], int(found[2]), None)
        if re.fullmatch(_NAME, thing):
            champion = live(store, thing).champion
            if champion is None:
                raise ConfigurationError(f"{thing} has no champion. Give a version of it, such as {thing}@1.")
            return _trace(settings, store, thing, thing, champion.version, None)
    finally:
        store.close()
    raise ConfigurationError(
        f"{shown(thing)} is neither an endpoint (flights), nor a version (flights@7), nor a request's id (a UUID)."
    )


def erased_since(settings: Settings, lineage: Lineage) -> tuple[str, ...]:
    """What was erased from the snapshot or the training set of a version since it was made, in sentences."""
    case, snapshot, training_set = lineage.use_case, lineage.snapshot, lineage.training_set
    found = erased_from(Artifacts(settings.artifacts), case, snapshot, training_set)
    return tuple(
        f"{one.sentence}: {one.snapshots.get(f'{case}/{snapshot}', 0):,} of its snapshot, "
        f"{one.training_sets.get(f'{case}/{training_set}', 0):,} of its training set"
        for one in found
    )


def use_case_named(thing: str) -> str | None:
    """The use case that an endpoint (`flights`) or a version (`flights@7`) names; None for anything else."""
    if found := _VERSION.fullmatch(thing):
        return found[1]
    return thing if re.fullmatch(_NAME, thing) else None


def parse_version(text: str) -> tuple[str, int]:
    """Use case and number of `flights@7`. Raises ConfigurationError for anything else."""
    found = _VERSION.fullmatch(text)
    if not found:
        raise ConfigurationError(f"{shown(text)} does not name a version. Example: flights@7.")
    return found[1], int(found[2])


def shown(text: str) -> str:
    """A stranger's text in a message: short, and without what would command a terminal."""
    return ascii(text if len(text) <= 60 else f"{text[:60]}…")


def _trace(settings: Settings, store: ControlStore, asked: str, use_case: str, version: int, prediction: Any) -> Trace:
    registered = _registration(store, use_case, version)
    if registered is None:
        _expect_unknown_to(store, use_case, version)
    record, lineage = _recorded(settings, registered, use_case, version)
    if "@" in asked or prediction:  # nothing served it before it was registered
        since = changes(store, use_case, registered.seq if registered else 0)
        served = tuple(one for one in deployments(since) if one.version == version)
    else:
        served = deployments(changes(store, use_case))
    gates, approvals = (
        tuple(_event(event) for event in read_events(store, 0, use_case, types, f"{use_case}@{version}"))
        for types in (_GATES, _APPROVALS)
    )
    return Trace(
        asked,
        use_case,
        version,
        prediction,
        _event(registered) if registered else {},
        gates,
        approvals,
        served,
        record,
        lineage,
        erased_since(settings, lineage),
    )


def _registration(store: ControlStore, use_case: str, version: int) -> Event | None:
    found = read_events(store, 0, use_case, ["version.registered"], f"{use_case}@{version}", 1)
    return found[0] if found else None


def _expect_unknown_to(store: ControlStore, use_case: str, version: int) -> None:
    """Raise ConfigurationError if the control store knows other versions: then MLflow need not be asked for this one.

    A store that knows none may be a new one, whose versions only MLflow remembers.
    """
    known = [event.subject.partition("@")[2] for event in read_events(store, 0, use_case, ["version.registered"])]
    if known:
        raise ConfigurationError(f"{use_case} has no version {version}; registered are: {', '.join(known)}.")


def _recorded(settings: Settings, registered: Event | None, use_case: str, version: int) -> tuple[str, Lineage]:
    if registered is not None and registered.payload.get("lineage"):
        digest = str(registered.payload["lineage"])
        value = Artifacts(settings.artifacts).read_json(FOLDER, use_case, f"{digest}.json")
        sealed = (registered.after or {}).get("evidence", {}).get("model")
    else:
        found = find_version(settings, use_case, version)
        digest, value, sealed = found.lineage, None, found.digest
        if not digest:
            raise IntegrityError(f"Version {version} of {use_case} was registered without a lineage record.")
    if value is None:
        value = lineage_copy(settings, use_case, version)
    if digest_json(value) != digest:
        raise IntegrityError(
            f"The lineage record of {use_case}@{version} was changed: its digest is {digest_json(value)}, but {digest} "
            f"was registered. Restore the file {FOLDER}/{use_case}/{digest}.json below {settings.artifacts}."
        )
    lineage = Lineage.from_json(value)
    if sealed and lineage.digest != sealed:
        raise IntegrityError(f"The lineage record of {use_case}@{version} is about another model, {lineage.digest}.")
    return digest, lineage


def _prediction(
    settings: Settings, request_id: str, near: datetime | None, among: Callable[[str], bool]
) -> tuple[str, int, dict[str, Any]]:
    window = around(near) if near else (None, None)
    for use_case in [entry.name for entry in Artifacts(settings.artifacts).entries(LEDGER) if among(entry.name)]:
        rows = Ledger(settings, use_case).find(request_id, *window)
        answered = rows.filter(pl.col("route") != "shadow")
        if answered.height:
            first = answered.row(0, named=True)
            answered = answered.filter((pl.col("time") == first["time"]) & (pl.col("version") == first["version"]))
            names = ("request_id", "time", "as_of", "version", "route", "latency_s")
            shown_values = {name: first[name] for name in names}
            given = (name for name in types_of_answers([answered]) if answered[name].null_count() == 0)
            shown_values |= {name: answered[name].to_list() for name in given}
            return use_case, int(first["version"]), shown_values
    raise DataError(
        f"No ledger holds the request {request_id}. An answer is in it up to {settings.ledger_rotate_s:g} s after it "
        f"was given; if it is older, look at another settings file or state folder."
    )


def _event(event: Event) -> dict[str, Any]:
    value = event.to_json()
    names = ("seq", "id", "time", "type", "severity", "actor", "roles", "subject", "reason", "after", "payload", "hash")
    return {name: value[name] for name in names}


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
