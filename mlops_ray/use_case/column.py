"""Column: one column of a source, how its values are read, and what they must satisfy."""

import difflib
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import polars as pl

from mlops_ray.errors import UseCaseError
from mlops_ray.tasks.declared import is_writable

ColumnType = Literal["text", "integer", "number", "boolean", "timestamp"]

DTYPES: Mapping[ColumnType, pl.DataType] = {
    "text": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "timestamp": pl.Datetime("us", "UTC"),
}
NULL_TEXTS = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None")

# What a text is trimmed of, at both ends: Unicode's White_Space, and what has no width but makes another text (byte
# order mark, zero-width space, word joiner). Written out, as Python and Rust mean different things by "whitespace".
TRIMMED = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff\u200b\u2060"
)

_SAMPLE = datetime(2001, 2, 3, 16, 5, 6)
_OFFSETS = ("%z", "%:z", "%::z", "%#z", "%+")


@dataclass(frozen=True)
class Column:
    """One column of a source: how its values are read, and what they must satisfy.

    A value that cannot be read as `type`, is null without `nullable`, or breaks `choices` or `pattern`, puts its row
    into quarantine. A number outside `minimum..maximum` does too, unless `out_of_range` repairs it, to null ("null") or
    to the nearer limit ("clip"); and so does a moment outside the years 1900 to 2199, or a number beyond what a model
    holds (float32).

    How texts are read (a value of any type is judged as the text that a CSV file would hold):
    null_texts: texts that mean null, beside the empty one. Default: none for a text, as "NA" is Namibia; for the
        other types, which these could not be, NA, N/A, NaN, nan, null, NULL and None.
    format: of timestamps, as strftime writes it (`%d/%m/%Y %H:%M`). ISO 8601 with an offset is read in any case, and
        without one beside a format that does not write a day like it.
    time_zone: of timestamps that name none, such as "Europe/Berlin". Without it they are refused.
    clock_change: what such a timestamp means in the hour that comes twice or never: a `reason` to refuse it, the
        `earliest` or the `latest` of the moments that the offsets before and after the change make of it.
    unit: of timestamps that are numbers, counted from 1970. Without it a number is no timestamp.
    decimal_comma: whether `1,5` is written for 1.5. thousands: what may stand between groups of three digits.
    text_form: the normal form of texts, trimmed: `nfc`, `nfkc`, which also makes full-width letters plain, or `exact`:
        as they come.
    replace: texts that stand for others, in their normal form: `(("N.Y.", "NY"),)`. `choices` and `pattern` judge what
        comes of it.
    pattern: what the whole text must match, in the syntax of Rust's regex crate, which is polars'.

    default: the value of a row that has none. Like every repair it is counted, and made of requests as of files.

    `outcome` marks what is known only after the fact: such a column can make labels and histories, but is never
    offered to a model as a feature of its own row. `closed` says that the values seen in training are all there are:
    the endpoint refuses any other. `personal` marks what tells of a person: the ledger of predictions leaves the
    column out, or keeps a keyed hash of it, by which equal values still join.

    Raises UseCaseError where the declaration contradicts itself.
    """

    name: str
    type: ColumnType
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    out_of_range: Literal["quarantine", "null", "clip"] = "quarantine"
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    outcome: bool = False
    closed: bool = False
    personal: Literal["omit", "hash"] | None = None
    null_texts: tuple[str, ...] | None = None
    format: str | None = None
    time_zone: str | None = None
    clock_change: Literal["reason", "earliest", "latest"] = "reason"
    unit: Literal["s", "ms", "us", "ns"] | None = None
    decimal_comma: bool = False
    thousands: str | None = None
    text_form: Literal["nfc", "nfkc", "exact"] = "nfc"
    replace: tuple[tuple[str, str], ...] = ()
    default: str | float | bool | None = None

    def __post_init__(self) -> None:
        self._check_words()
        self._check_types_of_options()
        for limit in (self.minimum, self.maximum):
            if limit is not None and (not isinstance(limit, int | float) or not math.isfinite(limit)):
                raise self._wrong(f"the limit {limit!r} is not a number")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise self._wrong(f"minimum {self.minimum} is above maximum {self.maximum}")
        if self.out_of_range == "null" and not self.nullable:
            raise self._wrong('out_of_range="null" makes nulls, so the column must be nullable')
        if self.out_of_range == "clip" and self.type == "timestamp":
            raise self._wrong('out_of_range="clip" is of numbers; a moment that is wrong has no nearer one')
        if self.pattern is not None:
            self._check_pattern(self.pattern)
        self._check_texts()
        self._check_repairs()
        self._check_number_signs()
        self._check_times()

    @property
    def dtype(self) -> pl.DataType:
        return DTYPES[self.type]

    @property
    def nulls(self) -> tuple[str, ...]:
        """All texts that mean null: the empty one, and those declared or of the type."""
        if self.null_texts is None:
            return ("",) if self.type == "text" else ("", *NULL_TEXTS)
        return "", *self.null_texts

    @property
    def whole_pattern(self) -> str | None:
        """The pattern for the whole text."""
        return None if self.pattern is None else rf"\A(?:{self.pattern})\z"

    @property
    def format_has_offset(self) -> bool:
        return self.format is not None and any(offset in self.format for offset in _OFFSETS)

    def written(self, number: str) -> str:
        """The text for a number that JSON writes as `number`: with a comma, where the column's texts have one."""
        return number.replace(".", ",") if self.decimal_comma else number

    def _wrong(self, what: str) -> UseCaseError:
        return UseCaseError(f"Column {self.name!r}: {what}.")

    def _check_words(self) -> None:
        known = {
            "type": get_args(ColumnType),
            "out_of_range": ("quarantine", "null", "clip"),
            "personal": (None, "omit", "hash"),
            "clock_change": ("reason", "earliest", "latest"),
            "unit": (None, "s", "ms", "us", "ns"),
            "text_form": ("nfc", "nfkc", "exact"),
        }
        if not isinstance(self.name, str) or not self.name:
            raise UseCaseError(f"Column {self.name!r}: the name must be a text, and not empty.")
        for field, words in known.items():
            if (given := getattr(self, field)) not in words:
                raise self._wrong(f"{field} {given!r} is unknown; {_known(given, words)}")

    def _check_types_of_options(self) -> None:
        allowed: dict[str, tuple[ColumnType, ...]] = {
            "minimum": ("integer", "number"),
            "maximum": ("integer", "number"),
            "out_of_range": ("integer", "number", "timestamp"),
            "choices": ("text",),
            "closed": ("text",),
            "pattern": ("text",),
            "text_form": ("text",),
            "replace": ("text",),
            "default": ("text", "integer", "number", "boolean"),
            "format": ("timestamp",),
            "time_zone": ("timestamp",),
            "clock_change": ("timestamp",),
            "unit": ("timestamp",),
            "decimal_comma": ("integer", "number"),
            "thousands": ("integer", "number"),
        }
        for field, types in allowed.items():
            if getattr(self, field) != type(self).__dataclass_fields__[field].default and self.type not in types:
                raise self._wrong(f"{field} belongs to columns of type {' or '.join(types)}, not {self.type}")
        for field in ("choices", "null_texts"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, tuple) and all(isinstance(text, str) for text in value)):
                raise self._wrong(f"{field} {value!r} must be a tuple of texts")

    def _check_pattern(self, pattern: str) -> None:
        for text in (pattern, self.whole_pattern):
            try:
                pl.Series([""]).str.contains(str(text))
            except pl.exceptions.PolarsError as error:
                why = " ".join(str(error).split("This error occurred")[0].split())
                raise self._wrong(f"pattern {pattern!r} cannot be compiled for a whole text ({why})") from None

    def _check_texts(self) -> None:
        for text in (*self.choices, *(self.null_texts or ())):
            if not is_writable(text):
                raise self._wrong(f"{text!r} has half of a character. Write it whole")
            if text != normal_form(text, self.text_form):
                raise self._wrong(f"{text!r} is not how texts are read: trimmed, in the form {self.text_form}")
        values = {"true", "false"} if self.type == "boolean" else set(self.choices)
        if both := values & set(self.nulls):
            raise self._wrong(f"{min(both)!r} is a value and means null")
        if self.choices and len(set(self.choices)) < len(self.choices):
            raise self._wrong("choices name a text twice")

    def _check_repairs(self) -> None:
        given = [pair[0] for pair in self.replace]
        for text in (part for pair in self.replace for part in pair):
            if text != normal_form(text, self.text_form):
                raise self._wrong(f"replace: {text!r} is not how texts are read: trimmed, in the form {self.text_form}")
        if twice := {text for text in given if given.count(text) > 1}:
            raise self._wrong(f"replace says twice what {min(twice)!r} stands for")
        if chained := {new for _, new in self.replace} & set(given):
            raise self._wrong(f"replace: {min(chained)!r} is replaced, and stands for another; say what both become")
        if meant := {*self.choices, *self.nulls} & set(given):
            raise self._wrong(f"replace: {min(meant)!r} is a choice or means null")
        if self.default is None:
            return
        if self.nullable:
            raise self._wrong("default leaves no value null, so the column is not nullable")
        kinds: Mapping[str, type | tuple[type, ...]] = {
            "text": str,
            "integer": int,
            "number": (int, float),
            "boolean": bool,
        }
        is_kind = isinstance(self.default, kinds[self.type]) and isinstance(self.default, bool) == (
            self.type == "boolean"
        )
        if not is_kind or (isinstance(self.default, float) and not math.isfinite(self.default)):
            raise self._wrong(f"default {self.default!r} is no {self.type}")
        if isinstance(self.default, str):
            self._check_default_text(self.default)
        elif (
            not (-math.inf if self.minimum is None else self.minimum)
            <= self.default
            <= (math.inf if self.maximum is None else self.maximum)
        ):
            raise self._wrong(f"default {self.default!r} is outside {self.minimum} to {self.maximum}")

    def _check_default_text(self, text: str) -> None:
        if text in self.nulls or text != normal_form(text, self.text_form):
            raise self._wrong(f"default {text!r} means null, or is not how texts are read")
        if self.choices and text not in self.choices:
            raise self._wrong(f"default {text!r} is not one of the choices")
        if self.whole_pattern is not None and not pl.Series([text]).str.contains(self.whole_pattern).item():
            raise self._wrong(f"default {text!r} does not fit the pattern {self.pattern!r}")

    def _check_number_signs(self) -> None:
        sign = self.thousands
        if sign is not None and (len(sign) != 1 or sign.isalnum() or sign in "+-"):
            raise self._wrong(f"thousands {sign!r} must be one character, and no digit, letter or sign")
        if sign == ("," if self.decimal_comma else "."):
            raise self._wrong(f"thousands {sign!r} is the decimal sign as well")

    def _check_times(self) -> None:
        if self.time_zone is not None:
            if unknown := unknown_time_zone(self.time_zone):
                raise self._wrong(unknown)
        elif self.clock_change != "reason":
            raise self._wrong("clock_change says how local times are read, so time_zone must be given")
        if self.format is None:
            return
        if self.unit is not None:
            raise self._wrong("format and unit are both given; a number could be read in two ways")
        if not self.format_has_offset and self.time_zone is None:
            raise self._wrong(f"format {self.format!r} has no offset (%z), so time_zone must be given")
        self._check_format(self.format)

    def _check_format(self, format_: str) -> None:
        """A format must give back the day that it wrote, and never read a text of ISO 8601 as another moment."""
        sample = pl.Series([_SAMPLE.replace(tzinfo=UTC) if self.format_has_offset else _SAMPLE])
        try:
            written = sample.dt.to_string(format_)
            read = written.str.to_datetime(format_, strict=False, time_unit="us").item()
        except pl.exceptions.PolarsError:
            read = None
        if read is None or read.date() != _SAMPLE.date() or "%s" in format_:
            raise self._wrong(f"format {format_!r} does not tell a day that can be read back; see chrono's strftime")
        try:
            iso = datetime.fromisoformat(written.item())
        except ValueError:
            return
        meant = read if self.format_has_offset else pl.Series([read]).dt.replace_time_zone(self.time_zone).item()
        if iso.tzinfo is not None and iso != meant:
            raise self._wrong(f"format {format_!r} reads texts of ISO 8601 as other moments")


def unknown_time_zone(name: str) -> str | None:
    """What is wrong with the name of a time zone, and which may be meant; None if nothing is."""
    try:
        pl.Series([_SAMPLE]).dt.replace_time_zone(name)
        ZoneInfo(name)  # polars takes offsets, too, by which no schedule can be due
    except (pl.exceptions.PolarsError, ZoneInfoNotFoundError, ValueError, OSError):
        names = _known(name, tuple(sorted(available_timezones())))
        return f"time_zone {name!r} is unknown; give its IANA name, such as 'Etc/GMT-2' for +02:00; {names}"
    return None


def normal_form(text: str, form: Literal["nfc", "nfkc", "exact"] = "nfc") -> str:
    """The text as the contract reads it; see `Column.text_form`."""
    if form == "exact":
        return text
    return unicodedata.normalize("NFC" if form == "nfc" else "NFKC", text).strip(TRIMMED)


def _known(given: object, words: tuple[str | None, ...]) -> str:
    """The words that may be given, the nearest first; the nearest alone where there are many."""
    texts = [word for word in words if word is not None]
    near = difflib.get_close_matches(str(given), texts, n=1, cutoff=0.5) or [
        word for word in texts if word.startswith(str(given))
    ]
    hint = f"did you mean {near[0]!r}? " if near else ""
    return hint + (f"Known: {', '.join(texts)}" if len(texts) < 20 else f"{len(texts)} zones are known")
