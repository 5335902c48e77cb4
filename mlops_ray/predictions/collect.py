"""Collect: write-ahead files whose writer has closed them, or is dead, become segments on shared storage."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.predictions.ids import moment_of
from mlops_ray.predictions.segments import Pause, decode_records, named_for, write_segment
from mlops_ray.predictions.tombstones import leave_out_erased
from mlops_ray.predictions.wal import SUFFIX, FrameReader, remove_unnamed, sync_folder, taken_over

DAMAGED = ".damaged"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collected:
    """What one round did. `problem`: why files stayed where they are, None if none had to."""

    files: int = 0
    rows: int = 0
    damaged_frames: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Lag:
    """What shared storage does not have yet; without trouble no file is older than one rotation and a few seconds."""

    files: int
    bytes: int
    oldest_age_s: float


def collect_leftovers(root: Path, artifacts: Artifacts, pause: Pause | None = None) -> Collected:
    """Convert every write-ahead file below `root` that nobody holds, for all use cases, and delete it.

    Killed at any point nothing is lost, and nothing is double: a segment has the name of its file, so that a second
    conversion replaces the first, and the file goes last. Of two collectors one converts. A file with damaged frames
    is kept beside, as `.damaged`. Where storage does not take a segment the file stays for the next round.
    pause: see `decode_records`.
    """
    return collect_files(root, lambda path, content: _convert(path, content, artifacts, pause))


def collect_files(root: Path, convert: Callable[[Path, bytes], Collected]) -> Collected:
    """Hand every write-ahead file in the folders below `root` that nobody holds to `convert`, which removes it.

    What `convert` raises is the `problem`; the file stays.
    """
    done = Collected()
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        remove_unnamed(folder)
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            done = _add(done, _collect(path, convert))
    return done


def lag_of(folder: Path, now: datetime) -> Lag:
    """The lag of one use case's folder of write-ahead files."""
    files, size, oldest = 0, 0, now
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size
            files += 1
            oldest = min(oldest, moment_of(path.stem) or now)
    return Lag(files, size, (now - oldest).total_seconds())


def _collect(path: Path, convert: Callable[[Path, bytes], Collected]) -> Collected:
    with taken_over(path) as content:
        if content is None:
            return Collected()
        try:
            return convert(path, content)
        # One file that cannot be stored must not keep the others; a panic of polars is no Exception.
        except (Exception, pl.exceptions.PanicException) as error:
            return Collected(problem=f"{path}: {type(error).__name__}: {error}")


def _convert(path: Path, content: bytes, artifacts: Artifacts, pause: Pause | None) -> Collected:
    frames = FrameReader(content)
    decoded = decode_records(frames, pause)
    for number, frame in enumerate(decoded.frames):
        # Versions whose columns differ make a segment each.
        segment_id = named_for(path.stem if number == 0 else f"{path.stem}-{number}", frame)
        to_disk(write_segment(artifacts, path.parent.name, segment_id, frame))
        leave_out_erased(artifacts, path.parent.name, segment_id, frame)
    damaged = frames.damaged + decoded.damaged
    put_away(path, damaged)
    return Collected(1, sum(frame.height for frame in decoded.frames), damaged)


def to_disk(url: str) -> None:
    """Wait until a file is on the disk, where it lies on one: what it was made from is removed next."""
    if url.startswith("/"):
        with open(url, "rb") as stream:
            os.fsync(stream.fileno())
        sync_folder(Path(url).parent)


def put_away(path: Path, damaged: int) -> None:
    """Remove a file that was converted, or keep it aside if some of its frames could not be."""
    if damaged:
        _logger.error("%s: %d damaged frames; kept as %s%s", path, damaged, path.name, DAMAGED)
        os.replace(path, path.with_name(f"{path.name}{DAMAGED}"))
    else:
        path.unlink()


def _add(left: Collected, right: Collected) -> Collected:
    return Collected(
        left.files + right.files,
        left.rows + right.rows,
        left.damaged_frames + right.damaged_frames,
        left.problem or right.problem,
    )
