"""Layout: how the values of a refused record stand in its bytes, for who has the record and not its source."""

import csv
import io
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import msgspec

from mlops_ray.artifacts import Artifacts
from mlops_ray.use_case.column import TRIMMED

_FILE = "_layouts.json"  # who reads a folder of Parquet passes over names that begin with _


@dataclass(frozen=True)
class Layout:
    """names: of the columns of delimited text, in order. Without them a record is one object of JSON: a line of JSON
    lines, or a row of what has typed columns."""

    encoding: str = "utf-8"
    names: tuple[str, ...] = ()
    delimiter: str = ","
    quote: str | None = '"'

    def split(self, raw: bytes) -> dict[str, str | None] | None:
        """The values of a record by their columns, as texts; None if it cannot be split into those."""
        try:
            text = raw.decode(self.encoding)
            return self._delimited(text) if self.names else _object(text)
        except (ValueError, RecursionError, csv.Error, msgspec.MsgspecError):
            return None

    def _delimited(self, text: str) -> dict[str, str | None] | None:
        stream = io.StringIO(text, newline="")
        how: dict[str, Any] = {"quoting": csv.QUOTE_NONE if self.quote is None else csv.QUOTE_MINIMAL, "strict": True}
        rows = list(csv.reader(stream, delimiter=self.delimiter, quotechar=self.quote, **how))
        if len(rows) != 1 or len(rows[0]) != len(self.names):
            return None
        return dict(zip(self.names, rows[0], strict=True))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "names": tuple(value["names"])})


def write_layouts(artifacts: Artifacts, layouts: Mapping[str, Layout], *place: str) -> None:
    """Keep the layout of each file's records beside the refused ones in a folder."""
    artifacts.write_json({file: asdict(layout) for file, layout in layouts.items()}, *place, _FILE)


def read_layouts(artifacts: Artifacts, *place: str) -> dict[str, Layout]:
    """By the name of the file; empty where none were kept."""
    found = artifacts.read_json(*place, _FILE) or {}
    return {file: Layout.from_json(value) for file, value in found.items()}


def is_same_value(given: str | None, value: str) -> bool:
    """Whether a value of a raw record is what the contract keeps as `value`: the same text in its normal form, or the
    same number."""
    if given is None:
        return False
    texts = [unicodedata.normalize("NFKC", text).strip(TRIMMED) for text in (given, value)]
    if texts[0] == texts[1]:
        return True
    try:
        return float(texts[0]) == float(texts[1])
    except ValueError:
        return False


def _object(text: str) -> dict[str, str | None] | None:
    found = msgspec.json.decode(text)
    if not isinstance(found, dict):
        return None
    return {name: None if value is None else str(value) for name, value in found.items()}
