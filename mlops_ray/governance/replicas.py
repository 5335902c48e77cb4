"""Replicas: what each last said of itself, and when by the database's clock.

Reports come every second from each replica, so they do not take the audit log's lock (`ControlStore.reporting`).
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, delete, func, insert, select, update

from mlops_ray.governance.control_store import ControlStore, database_now, now_within, since_begin_s
from mlops_ray.governance.events import SYSTEM, record
from mlops_ray.governance.requests import Requests
from mlops_ray.governance.schema import as_far_as_there
from mlops_ray.governance.tables import SCHEMA_REVISION, replicas
from mlops_ray.governance.versions import VersionRef

FRESH = timedelta(seconds=15)
FORGOTTEN_AFTER, MISSED_FOR = timedelta(minutes=10), timedelta(days=1)


@dataclass(frozen=True)
class Loading:
    """seconds: for how long a replica has tried so far, on its own clock. trouble: what kept it the last time."""

    seconds: float
    trouble: str = ""


@dataclass(frozen=True)
class Unmoved:
    """What a replica answered and shared storage does not have yet.

    disk: names the one on which it lies, "" where that cannot be said; all replicas of a node share one. seconds: the
    age of the oldest, 0 for none, when that was looked at: `at_s`, by `time.monotonic`.
    """

    disk: str = ""
    seconds: float = 0.0
    at_s: float = field(default_factory=time.monotonic, compare=False)

    @property
    def seconds_now(self) -> float:
        """The age that the oldest has by now, if it was not moved meanwhile."""
        return self.seconds + time.monotonic() - self.at_s


@dataclass(frozen=True)
class Replica:
    """What a replica last said of itself. loaded: ready to answer; loading: not yet; failed: never here, and why.

    serving: the version that answers here, None before the first has loaded. step: the step of a rollout to which
    `counters` (see serving.counters) belong. requests: since it began. seen_at, left_at: by the database's clock; a
    replica that ended in good order has left, and what it counted still counts.
    """

    id: str
    node: str
    revision: int
    loaded: tuple[VersionRef, ...] = ()
    loading: Mapping[VersionRef, Loading] = field(default_factory=dict)
    failed: Mapping[VersionRef, str] = field(default_factory=dict)
    serving: VersionRef | None = None
    step: str = ""
    counters: Mapping[str, Any] = field(default_factory=dict)
    unmoved: Unmoved = field(default_factory=Unmoved)
    requests: Requests = field(default_factory=Requests)
    seen_at: datetime | None = None
    left_at: datetime | None = None

    def is_alive(self, now: datetime) -> bool:
        """Whether it spoke within `FRESH` and has not left."""
        return self.left_at is None and self.seen_at is not None and now - self.seen_at <= FRESH


@dataclass(frozen=True)
class Heard:
    """What replicas said until `now`, which the database's clock shows."""

    replicas: Sequence[Replica]
    now: datetime

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.is_alive(self.now)]


def report(store: ControlStore, use_case: str, replica: Replica) -> None:
    """Store what a replica says of itself."""
    _write(store, use_case, replica, has_left=False)


def leave(store: ControlStore, use_case: str, replica: Replica) -> None:
    """The last word of a replica that ends in good order: nobody waits for it any more."""
    _write(store, use_case, replica, has_left=True)


def forget_silent(store: ControlStore, use_case: str, step: str) -> None:
    """Forget the replicas that were silent for `FORGOTTEN_AFTER`, but for those that counted for `step`, the one of the
    rollout that runs ("" for none): what happened in it counts to its end. The last one heard of on a disk, if it did
    not leave, is kept for a day: it says what may be missing of the ledger, also if nobody was there to see it."""
    others = replicas.alias()
    newest = select(func.max(others.c.seen_at)).where(others.c.disk == replicas.c.disk).scalar_subquery()
    with store.reporting() as connection:
        now = database_now(connection)
        silent = (replicas.c.use_case == use_case) & (replicas.c.seen_at < now - FORGOTTEN_AFTER)
        counts = (replicas.c.step != "") & (replicas.c.step == step)
        left = (replicas.c.disk == "") | replicas.c.left_at.is_not(None)
        told = left | (replicas.c.seen_at < newest) | (replicas.c.seen_at < now - MISSED_FOR)
        connection.execute(delete(replicas).where(silent & ~counts & told))


def heard(store: ControlStore, use_case: str) -> Heard:
    """All replicas heard of lately, dead ones and those that left among them."""
    with store.reporting(write=False) as connection:
        rows = connection.execute(select(replicas).where(replicas.c.use_case == use_case)).mappings()
        return Heard([_replica(row) for row in rows], database_now(connection))


def count_alive(store: ControlStore, use_case: str) -> int:
    with store.reporting(write=False) as connection:
        since = database_now(connection) - FRESH
        alive = (replicas.c.use_case == use_case) & (replicas.c.seen_at >= since) & replicas.c.left_at.is_(None)
        return int(connection.execute(select(func.count()).select_from(replicas).where(alive)).scalar_one())


def schemas_alive(store: ControlStore) -> Counter[tuple[str, str]]:
    """How many replicas are alive of each use case and schema that their software was made for; "" where that does not
    say. It reads an older schema, too."""
    with store.reporting(write=False) as connection:
        since = database_now(connection) - FRESH
        alive = as_far_as_there(connection, replicas).where(replicas.c.seen_at >= since, replicas.c.left_at.is_(None))
        return Counter((row.use_case, row.schema_revision or "") for row in connection.execute(alive))


def record_load_failure(
    store: ControlStore,
    use_case: str,
    version: VersionRef,
    replica_id: str,
    why: str,
    serving: VersionRef | None = None,
) -> None:
    """For a version that a replica cannot use; who cares is told through the event. serving: what answers there."""
    with store.transaction() as connection:
        payload = {"replica": replica_id, "digest": version.digest, "serving": serving and asdict(serving)}
        subject = f"{use_case}@{version.version}"
        record(connection, "version.load_failed", SYSTEM, subject, use_case=use_case, payload=payload, reason=why)


def _write(store: ControlStore, use_case: str, replica: Replica, has_left: bool) -> None:
    said = {
        "use_case": use_case,
        "node": replica.node,
        "revision": replica.revision,
        "loaded": [_pair(ref) for ref in replica.loaded],
        "loading": [[*_pair(ref), one.seconds, one.trouble] for ref, one in replica.loading.items()],
        "failed": [[*_pair(ref), why] for ref, why in replica.failed.items()],
        "serving": replica.serving and _pair(replica.serving),
        "step": replica.step,
        "counters": dict(replica.counters),
        "disk": replica.unmoved.disk,
        "requests": replica.requests.to_json(),
        "schema_revision": SCHEMA_REVISION,
    }
    with store.reporting() as connection:
        now = now_within(connection)
        any_unmoved = replica.unmoved.seconds > 0
        unmoved_s = replica.unmoved.seconds_now + since_begin_s(connection) if any_unmoved else 0.0
        values = said | {"unmoved_s": unmoved_s, "seen_at": now, "left_at": now if has_left else None}
        if connection.execute(update(replicas).where(replicas.c.id == replica.id).values(values)).rowcount == 0:
            connection.execute(insert(replicas).values(id=replica.id, **values))


def _pair(ref: VersionRef) -> list[Any]:
    return [ref.version, ref.digest]


def _replica(row: RowMapping) -> Replica:
    """A replica of the version before said digests alone: it holds no version that anybody could wait for."""
    return Replica(
        id=row["id"],
        node=row["node"],
        revision=row["revision"],
        loaded=tuple(VersionRef(*said) for said in row["loaded"] if isinstance(said, list)),
        loading={VersionRef(version, digest): Loading(*how) for version, digest, *how in row["loading"]},
        failed={VersionRef(*said[:2]): said[2] for said in row["failed"] if isinstance(said, list)},
        serving=VersionRef(*row["serving"]) if row["serving"] else None,
        step=row["step"],
        counters=row["counters"],
        unmoved=Unmoved(row["disk"], row["unmoved_s"] or 0.0),
        requests=Requests.from_json(row["requests"]),
        seen_at=row["seen_at"],
        left_at=row["left_at"],
    )
