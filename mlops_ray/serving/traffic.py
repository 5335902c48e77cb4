"""Traffic: what a replica does with requests: which version answers, and which sees them besides."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from mlops_ray.governance.live import Live, Step, VersionRef
from mlops_ray.serving.served_version import ServedVersion

# A canary that takes ten times as long as the champion is given up, but not within a second: on a busy machine anything
# takes that long at times.
PATIENCE, LEAST_PATIENCE_S = 10, 1.0


@dataclass(frozen=True)
class Traffic:
    """What is done with requests from `revision` on.

    candidate: the version of the rollout, if loaded here; step: its part; salt: names the rollout; sticky: the request
    column that decides, None where the request id does. patience_s: how long a caller may wait for the candidate.
    """

    revision: int
    ref: VersionRef
    champion: ServedVersion
    candidate: ServedVersion | None = None
    step: Step | None = None
    salt: str = ""
    sticky: str | None = None
    patience_s: float = LEAST_PATIENCE_S

    def takes(self, key: str) -> bool:
        """Whether `key` falls to the candidate: the same everywhere and throughout a rollout, whose steps only add
        to it. In another rollout it is others."""
        return self.step is not None and share_of(key, self.salt) < self.step.share


def traffic_of(
    state: Live, held: Mapping[VersionRef, ServedVersion], before: Traffic, champion_median_s: float | None
) -> Traffic:
    """What to do while `state` is live with the versions that are held here; a champion that is not yet leaves what
    answered before in its place. champion_median_s: of its answers so far."""
    ref, champion = before.ref, before.champion
    if state.champion and state.champion in held:
        ref, champion = state.champion, held[state.champion]
    rollout = state.rollout
    if rollout is None:
        return Traffic(state.revision, ref, champion)
    return Traffic(
        state.revision,
        ref,
        champion,
        held.get(rollout.version),
        rollout.current,
        rollout.id,
        rollout.plan.sticky,
        max(LEAST_PATIENCE_S, PATIENCE * (champion_median_s or 0.0)),
    )


def share_of(key: str, salt: str) -> float:
    """Where a key falls between 0 and 1."""
    return int.from_bytes(hashlib.blake2b(f"{salt}/{key}".encode(), digest_size=8).digest()) / 2**64
