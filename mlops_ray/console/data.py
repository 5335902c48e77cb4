"""Data: what the snapshots of a use case hold, what was refused and why, and the profile of each source.

Columns that tell of a person are never shown, whoever looks: neither what they hold nor records that they are part of.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import polars as pl
from starlette.requests import Request
from starlette.responses import Response

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.console.beside import ReadBeside
from mlops_ray.console.page import Refused, Viewer, in_thread, page, page_with_style
from mlops_ray.console.rendering import made_elsewhere
from mlops_ray.errors import ConfigurationError, IntegrityError, MlopsRayError
from mlops_ray.exploration.compare import compare
from mlops_ray.exploration.kept import kept_profiles
from mlops_ray.exploration.page import profile_html
from mlops_ray.exploration.profile import ColumnProfile, Profile
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.versions import expect_name
from mlops_ray.ingestion.quarantine import refusals
from mlops_ray.ingestion.snapshot import Snapshot, load_snapshot, retired
from mlops_ray.show.document import with_style

COLUMNS, RECORDS, MAX_RECORD = 20, 20, 200
BARS = 1_000  # on a page of a profile, of which one is 200 bytes with its row in the table
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Refusals:
    """What a source refused: records by place and reasons, `raw` with their bytes. hidden: why there are no bytes."""

    source: str
    sentence: str
    records: Sequence[dict[str, Any]]
    more: int
    hidden: str


class Catalogues(ReadBeside[dict[str, Any]]):
    """What there is of a use case, as `mlops-ray data list` has it. What others share of it is found in their records,
    of which there may be thousands."""

    again_s = 30.0

    def __init__(self, artifacts: Artifacts, store: ControlStore):
        super().__init__("catalogues", lambda use_case: _listed(artifacts, store, use_case))


class DataPages:
    def __init__(self, settings: Settings, store: ControlStore, threads: ThreadPoolExecutor):
        self._artifacts, self._threads = Artifacts(settings.artifacts), threads
        self._catalogues = Catalogues(self._artifacts, store)

    async def listed(self, request: Request, viewer: Viewer) -> Response:
        use_case = _case(request, viewer)

        def made() -> Response:
            return page("data", viewer, use_case=use_case, found=self._catalogues.of([use_case]).get(use_case))

        return await in_thread(self._threads, made)

    async def show(self, request: Request, viewer: Viewer) -> Response:
        use_case, digest = _case(request, viewer), _digest(request)
        return await in_thread(self._threads, partial(self._shown, viewer, use_case, digest))

    async def profile(self, request: Request, viewer: Viewer) -> Response:
        use_case, digest, source = _case(request, viewer), _digest(request), request.path_params["source"]
        asked, accepts = request.query_params.get("from", "0"), request.headers.get("accept-encoding", "")
        start = int(asked) if re.fullmatch(r"[0-9]{1,6}", asked) else 0
        return await in_thread(self._threads, partial(self._profiled, viewer, accepts, use_case, digest, source, start))

    def _shown(self, viewer: Viewer, use_case: str, digest: str) -> Response:
        snapshot = self._snapshot(use_case, digest)
        reads = viewer.may("audit", use_case)
        parts = [self._refused(snapshot, source, reads) for source in snapshot.counts]
        profiles = kept_profiles(self._artifacts, use_case, digest) or {}
        return page(
            "snapshot", viewer, snapshot=snapshot, refused=parts, profiles=profiles,
            retired=retired(self._artifacts, use_case, digest), moved=self._moved(snapshot, profiles),
        )  # fmt: skip

    def _refused(self, snapshot: Snapshot, source: str, reads: bool) -> Refusals:
        counts = vars(snapshot.counts[source])
        sentence = (refusals({source: counts}) or [f"{source}: none of {counts['rows_in']:,} rows quarantined"])[0]
        hidden = "" if reads else "Who audits the use case sees the records: they may be of persons."
        if snapshot.personal is None or snapshot.personal.get(source):
            hidden = "The records are not shown: columns of this source tell of a person, or it is not known."
        if not counts["quarantined"]:
            return Refusals(source, sentence, (), 0, "")
        try:
            found = snapshot.quarantine(self._artifacts, source)
        except (MlopsRayError, OSError, pl.exceptions.PolarsError) as error:
            return Refusals(source, sentence, (), 0, f"The records cannot be read: {type(error).__name__}.")
        rows = [row | {"raw": "" if hidden else _text(row["raw"])} for row in found.head(RECORDS).iter_rows(named=True)]
        return Refusals(source, sentence, rows, found.height - len(rows), hidden)

    def _moved(self, snapshot: Snapshot, profiles: dict[str, Profile]) -> list[str]:
        """How its data are other than those of the snapshot before, as the ingest said it."""
        before = self._before(snapshot)
        earlier = kept_profiles(self._artifacts, snapshot.use_case, before.digest) if before else None
        if before is None or earlier is None:
            return []
        return [
            f"{source}: {sentence}"
            for source, profile in profiles.items()
            if source in earlier and snapshot.personal is not None and before.personal is not None
            for sentence in compare(
                _impersonal(earlier[source], [*snapshot.personal[source], *before.personal.get(source, ())]),
                _impersonal(profile, [*snapshot.personal[source], *before.personal.get(source, ())]),
            ).sentences()
        ]

    def _before(self, snapshot: Snapshot) -> Snapshot | None:
        found = (entry.name for entry in self._artifacts.entries("snapshots", snapshot.use_case))
        others = []
        for name in found:
            with suppress(IntegrityError):
                others.append(load_snapshot(self._artifacts, snapshot.use_case, name))
        return max((one for one in others if one.as_of < snapshot.as_of), key=lambda one: one.as_of, default=None)

    def _profiled(self, viewer: Viewer, accepts: str, use_case: str, digest: str, source: str, start: int) -> Response:
        snapshot = self._snapshot(use_case, digest)
        profile = (kept_profiles(self._artifacts, use_case, digest) or {}).get(source)
        if profile is None:
            raise Refused(404, f"No profile of {source[:63]!a} was kept with this snapshot.")
        known = snapshot.personal is not None
        told = _impersonal(profile, snapshot.personal.get(source, ()) if snapshot.personal else ())
        shown = replace(told, columns=_of_one_page(told.columns[start:]) if known else ())
        return page_with_style(
            "profile", viewer, accepts, snapshot=snapshot, source=source, known=known, columns=told.columns,
            start=start, end=start + len(shown.columns), step=COLUMNS, hidden=len(profile.columns) - len(told.columns),
            made=made_elsewhere(with_style(profile_html(shown))),
        )  # fmt: skip

    def _snapshot(self, use_case: str, digest: str) -> Snapshot:
        try:
            return load_snapshot(self._artifacts, use_case, digest)
        except IntegrityError:
            raise Refused(404, f"There is no snapshot {digest[:12]} of {use_case}.") from None


def _listed(artifacts: Artifacts, store: ControlStore, use_case: str) -> dict[str, Any]:
    # Imported where it is needed: it takes a second, and few ever ask.
    from mlops_ray.catalogue.catalogue import catalogue

    try:
        return catalogue(artifacts, store, datetime.now(UTC), use_case).shown()
    except ConfigurationError:  # nothing of it was ever ingested
        return {"snapshots": [], "nothing_in_use_needs": []}


def _case(request: Request, viewer: Viewer) -> str:
    use_case: str = request.path_params["use_case"]
    viewer.expect_look(use_case)
    expect_name(use_case)  # it becomes part of a path
    return use_case


def _digest(request: Request) -> str:
    digest: str = request.path_params["digest"]
    if not _DIGEST.fullmatch(digest):
        raise Refused(404, "That is no digest of a snapshot.")
    return digest


def _impersonal(profile: Profile, personal: Sequence[str]) -> Profile:
    return replace(profile, columns=tuple(one for one in profile.columns if one.name not in personal))


def _of_one_page(columns: Sequence[ColumnProfile]) -> tuple[ColumnProfile, ...]:
    """At least one of them, and no more than a page may weigh."""
    drawn, shown = 0, list[ColumnProfile]()
    for column in columns[:COLUMNS]:
        drawn += len(column.coverage.volume) if column.coverage else len(column.histogram)
        if shown and drawn > BARS:
            break
        shown.append(column)
    return tuple(shown)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace").rstrip()[:MAX_RECORD]
