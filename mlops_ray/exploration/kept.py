"""Kept profiles: that of each snapshot lies beside it, so that the next ingest can say what has changed."""

from collections.abc import Callable, Mapping
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.exploration.compare import compare
from mlops_ray.exploration.explore import profile_table
from mlops_ray.exploration.profile import Profile
from mlops_ray.governance.erased_rows import last_erasure
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.use_case import Source
from mlops_ray.use_case.personal import tells_of_a_person

_FILE, _LATEST, _OPEN = "profile.json", "latest_profiles", "open_columns"


def keep_profile(artifacts: Artifacts, snapshot: Snapshot, start_ray: Callable[[], Any] = lambda: None) -> list[str]:
    """Write the profile of every source beside the snapshot, once; sentences on what is other than in the one before.

    start_ray: called where a table is more than one task's.
    """
    latest = artifacts.read_json(_LATEST, f"{snapshot.use_case}.json")
    if latest is not None and latest["digest"] == snapshot.digest:
        return []
    profiles = kept_profiles(artifacts, snapshot.use_case, snapshot.digest)
    if profiles is None:
        profiles = profile_again(artifacts, snapshot, start_ray)
    before = kept_profiles(artifacts, snapshot.use_case, latest["digest"]) if latest else None
    artifacts.write_json({"digest": snapshot.digest}, _LATEST, f"{snapshot.use_case}.json")
    return [
        f"{name}: {sentence}"
        for name, profile in profiles.items()
        if before is not None and name in before
        for sentence in compare(before[name], profile).sentences()
    ]


def profile_again(
    artifacts: Artifacts, snapshot: Snapshot, start_ray: Callable[[], Any] = lambda: None
) -> dict[str, Profile]:
    """Write the profile of every source beside the snapshot, of the rows that are there now: where somebody is erased
    meanwhile, of those that are left."""
    while True:
        began = last_erasure(artifacts)
        profiles = {
            source: profile_table(source, artifacts.url(*snapshot.place(source)), start_ray)
            for source in snapshot.counts
        }
        content = {name: one.to_json() for name, one in profiles.items()}
        artifacts.write_json(content, "snapshots", snapshot.use_case, snapshot.digest, _FILE)
        if last_erasure(artifacts) == began:
            return profiles


def kept_profiles(artifacts: Artifacts, use_case: str, digest: str) -> dict[str, Profile] | None:
    """The profile of each source of a snapshot; None if none was kept."""
    found = artifacts.read_json("snapshots", use_case, digest, _FILE)
    return None if found is None else {name: Profile.from_json(value) for name, value in found.items()}


def latest_profiles(artifacts: Artifacts, use_case: str) -> tuple[str, dict[str, Profile]] | None:
    """The digest of the snapshot that was profiled last, and the profile of each source; None if there is none."""
    latest = artifacts.read_json(_LATEST, f"{use_case}.json")
    found = kept_profiles(artifacts, use_case, latest["digest"]) if latest else None
    return None if latest is None or found is None else (latest["digest"], found)


def declare_open_columns(artifacts: Artifacts, use_case: str, sources: Mapping[str, Source]) -> None:
    """Remember of which columns values may be shown beside a profile: those that are declared, are not personal, and
    have no name as those have that tell of a person."""
    found = {
        name: [one.name for one in source.columns if one.personal is None and not tells_of_a_person(one.name)]
        for name, source in sources.items()
    }
    artifacts.write_json(found, _OPEN, f"{use_case}.json")


def open_columns(artifacts: Artifacts, use_case: str) -> dict[str, list[str]]:
    """The names of those columns by source; none where nothing was declared yet."""
    found: dict[str, list[str]] = artifacts.read_json(_OPEN, f"{use_case}.json") or {}
    return found
