"""The tables of a snapshot, as whoever wants its rows elsewhere reads them: Parquet files, byte for byte."""

from mlops_ray.artifacts import Artifacts
from mlops_ray.catalogue.records import expect_use_case
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, record
from mlops_ray.ingestion.snapshot import MANIFEST, SNAPSHOTS, Snapshot, expect_kept, load_snapshot


def find_snapshot(artifacts: Artifacts, use_case: str, digest: str) -> Snapshot:
    """The snapshot of a use case whose digest begins so. Raises ConfigurationError unless there is exactly one,
    DataError if it was retired."""
    expect_use_case(artifacts, use_case)
    names = [entry.name for entry in artifacts.entries(SNAPSHOTS, use_case)]
    begin_so = [name for name in names if digest and name.startswith(digest)]
    fitting = [name for name in begin_so if artifacts.read_json(SNAPSHOTS, use_case, name, MANIFEST) is not None]
    if len(fitting) != 1:
        listed = ", ".join(name[:12] for name in names) or "none"
        raise ConfigurationError(
            f"{len(fitting)} snapshots of {use_case!r} begin with {digest!r}. There are: {listed}."
        )
    expect_kept(artifacts, use_case, fitting[0])
    return load_snapshot(artifacts, use_case, fitting[0])


def tables_of(artifacts: Artifacts, snapshot: Snapshot) -> dict[str, list[str]]:
    """The names of the tables of each source."""
    return {source: [one.name for one in artifacts.entries(*snapshot.place(source))] for source in snapshot.counts}


def hand_out(
    artifacts: Artifacts, store: ControlStore, actor: Actor, use_case: str, digest: str, source: str, name: str
) -> bytes:
    """A table of a snapshot as a Parquet file, with the event `data.read`. Raises as `find_snapshot`, and
    ConfigurationError if there is none of this name."""
    snapshot = find_snapshot(artifacts, use_case, digest)
    tables = tables_of(artifacts, snapshot)
    if name not in tables.get(source, ()):
        raise ConfigurationError(f"Snapshot {snapshot.digest[:12]} has no table {name!r} of a source {source!r}.")
    content = artifacts.read_bytes(*snapshot.place(source), name)
    with store.transaction() as connection:
        payload = {"source": source, "table": name, "bytes": len(content)}
        record(connection, "data.read", actor, f"{use_case}@{snapshot.digest[:12]}", use_case, payload=payload)
    return content
