"""Verify: a backup is read and compared with what was written, and what is damaged stands in no later one's way."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mlops_ray.operations.backup.content import Content, Problem
from mlops_ray.operations.backup.manifest import Manifest
from mlops_ray.operations.backup.place import DAMAGED, Place, shown

_AT_ONCE = 8


@dataclass(frozen=True)
class Verified:
    """problems: in sentences. set_aside: of how many files the content was moved to `damaged/`. not_set_aside: why that
    of others was not, empty if there are none."""

    problems: tuple[str, ...]
    set_aside: int
    not_set_aside: str

    @property
    def next_step(self) -> str:
        if self.not_set_aside:
            return f"Damaged content was left where it is, and later backups rely on it: {self.not_set_aside}."
        if self.set_aside:
            return f"Damaged content was moved to {DAMAGED}/; the next backup copies it anew where it still is."
        return "The next backup copies it anew where it still is."


def verify(place: Place, manifest: Manifest) -> Verified:
    """Read all of a backup, and set damaged content aside: backups share content, which they know by name and size."""
    content, aside, left = Content(place.files), 0, ""
    found = list(problems(content, manifest))
    for one in found:
        if not one.damaged:
            continue
        try:
            content.set_aside(one.item.sha256)
            aside += 1
        except OSError as error:
            left = f"{shown(place.root)} cannot be written: {error}"
    return Verified(tuple(one.said for one in found), aside, left)


def problems(content: Content, manifest: Manifest) -> Iterator[Problem]:
    """What of a backup is not there as it was written, by reading all of it."""
    distinct = {one.sha256: one for one in manifest.items if one.here}
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        yield from (one for one in threads.map(content.problem, distinct.values()) if one)
