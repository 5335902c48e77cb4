"""Lines: what exploration found, for a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlops_ray.exploration.profile import Profile
from mlops_ray.show.text import printable

if TYPE_CHECKING:
    from mlops_ray.exploration.explore import Exploration

_COLUMNS, _SHOWN = 60, 12


def profile_lines(profile: Profile) -> Iterator[str]:
    """Without the files that cannot be read: `Profile.unreadable` has their sentences."""
    yield printable(f"{profile.name}: {profile.rows:,} rows, {len(profile.columns):,} columns, {profile.seconds:.1f} s")
    if profile.malformed or profile.refused:
        yield f"{profile.malformed:,} malformed, {profile.refused:,} refused by the contract"
    for column in profile.columns[:_COLUMNS]:
        line = f"  {column.name:24} {column.type:10} {column.missing_share:6.1%} missing  {column.different:>9,} values"
        if column.percentiles:
            line += f"  {column.minimum:g} to {column.maximum:g}"
        yield printable(line)


def exploration_lines(found: "Exploration") -> Iterator[str]:
    """The profile, and what to look at first."""
    yield from profile_lines(found.profile)
    for one in found.suspicions[:_SHOWN]:
        yield printable(f"{one.column} ({one.kind.replace('_', ' ')}): {one.reason}")
    if len(found.suspicions) > _SHOWN:
        yield f"{len(found.suspicions) - _SHOWN} more; the page and the JSON have all."
