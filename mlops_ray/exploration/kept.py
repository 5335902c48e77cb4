"""Kept profiles: that of each snapshot lies beside it, so that the next ingest can say what has changed."""

from collections.abc import Callable
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.exploration.compare import compare
from mlops_ray.exploration.explore import profile_table
from mlops_ray.exploration.profile import Profile
from mlops_ray.governance.erased_rows import last_erasure
from mlops_ray.ingestion.snapshot import Snapshot

_FILE, _LATEST = "profile.json", "latest_profiles"


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
