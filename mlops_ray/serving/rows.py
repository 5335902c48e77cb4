"""Rows that callers send, judged by the rules of their columns, as the rows of files are."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
import polars as pl
from msgspec import Meta
from pydantic_core import SchemaError, SchemaValidator
from pydantic_core.core_schema import str_schema

from mlops_ray.ingestion.moments import END, FIRST
from mlops_ray.ingestion.reading import limits, null_values, read_column
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.json_body import MAX_TEXT, struct_of, too_long
from mlops_ray.use_case import Column
from mlops_ray.use_case.column import TRIMMED

_LOCAL = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
_OFFSET = r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"  # Python takes 99 minutes for an hour and 39
MOMENT = Annotated[str, Meta(pattern=rf"\A{_LOCAL}{_OFFSET}\Z")]
INTEGERS = -(2**63), 2**63 - 1

_HELD_TEXTS = 10_000


class ColumnReader:
    """Reads the values that callers send for one column.

    Most callers send values as this system would write them: `canonical` reads those alone, without a data frame.
    It takes nothing that the contract would refuse, repair or read differently. `judged` asks the contract.
    repaired: counts, by column, values that the contract repaired; None where nobody asks.
    """

    def __init__(self, column: Column, repaired: Counter[str] | None = None):
        self.column, self._repaired = column, repaired
        self.canonical_type = canonical_type(column)
        self._check = _canonical_check(column)
        self._decoder = msgspec.json.Decoder(list[self.canonical_type])  # type: ignore[name-defined]

    @property
    def is_checked(self) -> bool:
        """Whether `canonical` does anything with values of its type."""
        return self._check is not None

    def canonical(self, values: Sequence[Any]) -> Sequence[Any] | None:
        """Values of `canonical_type` as the contract would read them; None if one must be judged."""
        return values if self._check is None else self._check(values)

    def judged(self, values: Sequence[msgspec.Raw], fields: Sequence[str]) -> Sequence[Any]:
        """Any values of JSON, read and repaired by the contract; `fields` are their names.

        Raises HttpError 400 for the first value that is refused, with its field and the reason, `column:what`.
        """
        try:
            canonical = self.canonical(self._decoder.decode(b"[" + b",".join(values) + b"]"))
        except msgspec.ValidationError:
            canonical = None
        if canonical is not None:
            return canonical  # The contract takes a millisecond for a column, and most columns need none.
        texts = [_text(bytes(value), self.column) for value in values]
        for text, field in zip(texts, fields, strict=True):
            if text is not None and len(text) > MAX_TEXT:  # what is nested, and a number, is a text of its column, too
                raise too_long(text, field)
        return judge_series(self.column, pl.Series(texts, dtype=pl.String), fields, self._repaired).to_list()


class RowReader:
    """The same for rows: structs with a field for each column."""

    def __init__(self, columns: Sequence[Column], repaired: Counter[str] | None = None):
        self._readers = [ColumnReader(column, repaired) for column in columns]
        self._checked = [(position, reader) for position, reader in enumerate(self._readers) if reader.is_checked]
        self.canonical_type = struct_of("row", {r.column.name: r.canonical_type for r in self._readers})
        self.any_type = struct_of("row", {r.column.name: msgspec.Raw for r in self._readers})

    def canonical(self, rows: Sequence[Any]) -> list[tuple[Any, ...]] | None:
        """The values of rows of `canonical_type`; None if one of them must be judged."""
        if not rows:
            return []
        columns: list[Sequence[Any]] = list(_columns(rows))
        for position, reader in self._checked:  # of most columns the type says all there is to say
            read = reader.canonical(columns[position])
            if read is None:
                return None
            columns[position] = read
        return list(zip(*columns, strict=True))

    def judged(self, rows: Sequence[Any], fields: Sequence[str]) -> list[tuple[Any, ...]]:
        """The values of rows of `any_type`; `fields` are the rows' names. Raises HttpError 400 as a column does."""
        columns = [
            reader.judged(given, [f"{field}.{reader.column.name}" for field in fields])
            for reader, given in zip(self._readers, _columns(rows), strict=True)
        ]
        return list(zip(*columns, strict=True))


def _columns(rows: Sequence[Any]) -> list[tuple[Any, ...]]:
    return list(zip(*(msgspec.structs.astuple(row) for row in rows), strict=True))


def judge_series(
    column: Column, given: pl.Series, fields: Sequence[str], repaired: Counter[str] | None = None
) -> pl.Series:
    """Values of any type, read and repaired by the contract; gives the column's type. repaired: see `ColumnReader`.

    Raises HttpError 400 for the first value that is refused, naming its field and the reason, `column:what`.
    """
    reading = read_column(column, given, "The request")
    refused = {int(flags.arg_true()[0]): what for what, flags in reversed(list(reading.reasons.items()))}
    if refused:
        row = min(refused)
        raise HttpError(400, f"{fields[row]}: {_why(column, refused[row], given[row])}.", fields[row])
    if repaired is not None and (values := sum(int(flags.sum()) for flags in reading.repairs.values())):
        repaired[column.name] += values
    return reading.value


def canonical_type(column: Column) -> Any:
    """The type of a column's values in canonical JSON."""
    type_ = _present_type(column)
    return type_ | None if column.nullable else type_


def integer_limits(column: Column) -> tuple[int, int]:
    """The least and the greatest integer of a column; they have 64 bits."""
    low, high = limits(column)
    return (
        INTEGERS[0] if low is None else max(INTEGERS[0], math.ceil(low)),
        INTEGERS[1] if high is None else min(INTEGERS[1], math.floor(high)),
    )


def _present_type(column: Column) -> Any:
    match column.type:
        case "text" if column.choices:
            return Literal[column.choices]
        case "text":
            return Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
        case "integer":
            low, high = integer_limits(column)
            return Annotated[int, Meta(ge=low, le=high)]
        case "number":
            least, greatest = limits(column)
            return Annotated[float, Meta(ge=least, le=greatest)]
        case "boolean":
            return bool
        case "timestamp":
            return MOMENT


_Check = Callable[[Sequence[Any]], Sequence[Any] | None]


def _canonical_check(column: Column) -> _Check | None:
    """What is left to check, and to convert, of values of the canonical type; gives None where one is not canonical."""
    nulls = null_values(column)
    if nulls is not None and column.type == "timestamp":
        nulls = nulls.filter((nulls >= FIRST) & (nulls < END))
    named = set() if nulls is None else set(nulls.to_list())
    match column.type:
        case "text":
            return AcceptedTexts(column).all
        case "timestamp":
            return lambda values: _moments(values, named)
        case "integer" | "number" if named:
            return lambda values: values if named.isdisjoint(values) else None
        case _:
            return None


class AcceptedTexts:
    """Which texts the contract accepts as they are. What can be said of a text without it is: it takes as long as all
    the rest of a request."""

    def __init__(self, column: Column):
        self._column, self._fits = column, _fits(column)
        self._repaired = frozenset([*column.nulls, *dict(column.replace)])
        self._choices = frozenset(column.choices)
        self._known: set[str | None] = {None}

    def all(self, texts: Sequence[str | None]) -> Sequence[str | None] | None:
        """The texts, if each is accepted as it is; else None. Nulls are passed over."""
        unknown = [text for text in texts if text not in self._known and not self._is_plain(text)]
        return texts if not unknown or self._accepts(unknown) else None

    def _accepts(self, texts: Sequence[str | None]) -> bool:
        given = pl.Series(texts, dtype=pl.String)
        reading = read_column(self._column, given, "The request")
        if reading.reasons or not reading.value.equals(given):
            return False
        if len(self._known) > _HELD_TEXTS:
            self._known = {None}
        self._known.update(texts)
        return True

    def _is_plain(self, text: str | None) -> bool:
        """Whether the text is surely accepted: in the normal form, neither null nor replaced, a value that is known."""
        return (
            text is not None
            and text.isascii()
            and text == text.strip(TRIMMED)
            and text not in self._repaired
            and (not self._choices or text in self._choices)
            and (self._fits is None or self._fits(text))
        )


def _fits(column: Column) -> Callable[[str], bool] | None:
    """Whether a text fits the column's pattern, by the engine that polars has too (Rust's `regex`); Python's own
    differs in what it takes. None without a pattern."""
    if column.whole_pattern is None:
        return None
    try:
        return SchemaValidator(str_schema(pattern=column.whole_pattern, regex_engine="rust-regex")).isinstance_python
    except SchemaError:  # another limit of size: ask the contract each time
        return lambda text: False


def _moments(texts: Sequence[str | None], null: set[Any]) -> list[datetime | None] | None:
    found = [None if text is None else _moment(text) for text in texts]
    if any(moment is None and text is not None for moment, text in zip(found, texts, strict=True)):
        return None
    return None if null and not null.isdisjoint(found) else found


def _moment(text: str) -> datetime | None:
    """The moment in UTC of a text that has the form of `MOMENT`; None if there is none, or too far away."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            return None
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if FIRST <= moment < END else None


def _text(json: bytes, column: Column) -> str | None:
    """A JSON value as the text that a file of JSON lines is read into: what is no text stays as it is written."""
    if json == b"null":
        return None
    if json.startswith(b'"'):
        return msgspec.json.decode(json, type=str)
    text = json.decode()
    return text if text.startswith(("{", "[")) else column.written(text)


def _why(column: Column, what: str, given: Any) -> str:
    """What is wrong with a value, in words, and the contract's code for it."""
    value = repr(given) if len(repr(given)) < 100 else f"{given!r:.80}..."
    match what:
        case "missing":
            said = "a value must be given"
        case "not_a_choice":
            said = f"{value} is not one of the known values"
        case "pattern":
            said = f"{value} does not fit the pattern {column.pattern}"
        case "out_of_range" if column.type == "timestamp":
            said = f"{value} is outside the years {FIRST.year} to {END.year - 1}"
        case "out_of_range":
            low, high = integer_limits(column) if column.type == "integer" else limits(column)
            said = f"{value} is outside {low} to {high}"
        case "ambiguous_time":
            said = f"{value} comes twice in {column.time_zone}; give the offset"
        case "nonexistent_time":
            said = f"{value} does not exist in {column.time_zone}"
        case "not_timestamp":
            said = f"{value} is not a timestamp (ISO 8601 with an offset is always one)"
        case _:
            said = f"{value} is not of type {column.type}"
    return f"{said} ({column.name}:{what})"
