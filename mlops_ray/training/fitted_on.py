"""On what a model is fitted: all rows in memory, all rows a block at a time, or a sample, as memory allows."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlops_ray.errors import ConfigurationError
from mlops_ray.features.blocks import block_rows
from mlops_ray.use_case import Candidate, LargeCandidate

# Of a value while a version is fitted and judged with all rows in memory: as a column, in copies that are filtered and
# sorted, and in the matrix.
_BYTES_WHILE_WHOLE = 40
# A block of time is read beside what the candidate holds, by a process that takes something before it has read a row.
_READING_BYTES = 1 << 30
_FEWEST_ROWS = 1_000


@dataclass(frozen=True)
class FittedOn:
    """rows: of how many the model is fitted to, `of` all that there are. memory_bytes: by which it was decided."""

    way: Literal["whole", "blocks", "sample"]
    rows: int
    of: int
    memory_bytes: int

    @property
    def words(self) -> str:
        given = f"as {self.memory_bytes / 1e9:.1f} GB of memory do not hold them at once"
        if self.way == "blocks":
            return f"all {self.of:,} rows, a block at a time, {given}"
        if self.way == "sample":
            return f"a sample of {self.rows:,} of {self.of:,} rows, evenly in time, {given}"
        return f"all {self.of:,} rows in memory"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"words": self.words}


def is_whole(rows: int, features: int, memory_bytes: int) -> bool:
    """Whether so many rows are held in memory at once while a version is fitted and judged."""
    return rows * _whole_bytes(features) <= memory_bytes


def fitted_on(candidate: Candidate, rows: int, features: int, memory_bytes: int) -> FittedOn:
    """Decide by size alone, so that the same rows and memory always give the same.

    Raises ConfigurationError where not even a sample, or a block, fits.
    """
    if is_whole(rows, features, memory_bytes):
        return FittedOn("whole", rows, rows, memory_bytes)
    block_rows(features, memory_bytes)  # which says what is too small
    room = memory_bytes - _READING_BYTES
    if isinstance(candidate, LargeCandidate) and candidate.bytes_for(rows, features) <= room:
        return FittedOn("blocks", rows, rows, memory_bytes)
    fitting = memory_bytes // 2 // _whole_bytes(features)
    if fitting < _FEWEST_ROWS:
        raise ConfigurationError(
            f"{memory_bytes / 1e6:.0f} MB of memory hold {fitting:,} of {rows:,} rows with {features} features, too "
            f"few to fit {candidate.name} to (at least {_FEWEST_ROWS:,}). Give the step evaluate more memory."
        )
    return FittedOn("sample", min(rows, fitting), rows, memory_bytes)


def _whole_bytes(features: int) -> int:
    return (features + 8) * _BYTES_WHILE_WHOLE
