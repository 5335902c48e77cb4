"""Disk: the name of the folder in which a node keeps answers until they lie on shared storage."""

import uuid
from contextlib import suppress
from pathlib import Path

from mlops_ray.artifacts import partial_name

_FILE = "disk"


def disk_of(root: Path) -> str:
    """The name of a folder of write-ahead files, made the first time; it stays whoever works there later.

    Raises OSError if the folder cannot be written.
    """
    file = root / _FILE
    with suppress(FileNotFoundError):
        return file.read_text()
    root.mkdir(parents=True, exist_ok=True)
    partial = root / partial_name(_FILE)
    partial.write_text(uuid.uuid4().hex)
    try:
        with suppress(FileExistsError):  # another process was faster: its name counts
            file.hardlink_to(partial)
    finally:
        partial.unlink()
    return file.read_text()
