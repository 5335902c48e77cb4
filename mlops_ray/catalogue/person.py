"""A person, or any entity, as rows and files have it: a column and the text of its value."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from mlops_ray.errors import ConfigurationError
from mlops_ray.ingestion.layout import Layout, is_same_value
from mlops_ray.predictions.value import is_value
from mlops_ray.use_case.column import TRIMMED

_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "latin-1")


@dataclass(frozen=True)
class Person:
    """entity: the column, as sources and requests name it. value: as the contract keeps it, as text."""

    entity: str
    value: str

    @classmethod
    def of(cls, entity: str, value: str) -> "Person":
        """Raises ConfigurationError for a value or a column without a character."""
        value = unicodedata.normalize("NFC", value).strip(TRIMMED)
        if not entity or not value:
            raise ConfigurationError("Say whose rows: --entity COLUMN=VALUE, such as passenger=123.")
        return cls(entity, value)

    def rows(self, frame: pl.DataFrame, columns: Iterable[str]) -> pl.Series:
        """Of each row whether it is theirs by one of the columns (see `is_value`)."""
        found = pl.Series([False]).new_from_index(0, frame.height)
        for name in columns:
            found |= is_value(frame[name], self.value)
        return found

    def has_record(self, raw: bytes, layout: Layout | None) -> bool:
        """Whether a refused record is theirs: by its column; by the value as a word anywhere in it where the record
        could not be split into columns, or the value is hardly anything else. layout: None where nobody knows it."""
        values = None if layout is None or self._is_distinct else layout.split(raw)
        return self.is_in(raw) if values is None else is_same_value(values.get(self.entity), self.value)

    def is_in(self, content: bytes) -> bool:
        """Whether the value stands in some bytes as a word, in one of the usual encodings."""
        return any(pattern.search(content) for pattern in self._patterns)

    def is_named_in(self, content: bytes) -> bool:
        """As `is_in`, but of a value that may be a number of anything only behind the column's name."""
        return self.is_in(content) if self._is_distinct else bool(self._named.search(content))

    @property
    def _is_distinct(self) -> bool:
        """Whether the value is no number and no short word, which many things can be called."""
        return len(self.value) >= 4 and not self.value.isdigit()

    @cached_property
    def _patterns(self) -> list[re.Pattern[bytes]]:
        texts = {self.value.encode(name, errors="ignore") for name in _ENCODINGS}
        return [re.compile(rb"(?<![\w])" + re.escape(one) + rb"(?![\w])") for one in texts if one]

    @cached_property
    def _named(self) -> re.Pattern[bytes]:
        name, value = (re.escape(text.encode()) for text in (self.entity, self.value))
        return re.compile(name + rb'[\\"\s]*:[\\"\s]*' + value + rb"(?![\w])")
