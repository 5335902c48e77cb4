"""Delimited files that a caller names, read as ingestion reads those of a source."""

import os

from mlops_ray.use_case import Column, Source

_KINDS = (".csv", ".tsv", ".txt")


def is_delimited(name: str) -> bool:
    """Whether a file is delimited text, by its ending; capital letters and .gz behind it are as good."""
    return _kind(name) in _KINDS


def source_of(name: str, columns: tuple[Column, ...] = ()) -> Source:
    """How a delimited file is written: .tsv with tabs, the others with commas. Without columns all of them are read."""
    return Source(name, columns, delimiter="\t" if _kind(name) == ".tsv" else ",")


def _kind(name: str) -> str:
    return os.path.splitext(name.lower().removesuffix(".gz"))[1]
