"""More columns: what the files of a source have that its contract does not name, and what of that is new."""

from collections.abc import Mapping, Sequence

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import IntegrityError
from mlops_ray.ingestion.snapshot import Snapshot, last_snapshot


def columns_of_last_ingest(artifacts: Artifacts, use_case: str) -> Mapping[str, Sequence[str]]:
    """By source, what the files of the last ingest had; nothing where there was none."""
    try:
        return last_snapshot(artifacts, use_case).more
    except IntegrityError:
        return {}


def new_columns(snapshot: Snapshot, before: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for each source whose files have columns that none had before."""
    found = {name: sorted(set(more) - set(before[name])) for name, more in snapshot.more.items() if name in before}
    return [
        f"{name}: its files have columns that none had before, and that the contract does not name: {', '.join(new)}."
        for name, new in found.items()
        if new
    ]
