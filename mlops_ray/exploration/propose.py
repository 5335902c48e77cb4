"""Propose: a first `Source` from files, ready to run, with what was seen beside each line."""

import codecs
import csv
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, isfinite, log10
from typing import Any

from mlops_ray.artifacts import locate
from mlops_ray.exploration.explore import StartRay
from mlops_ray.exploration.key import find_key
from mlops_ray.exploration.profile import ColumnProfile, Profile, profile_of
from mlops_ray.exploration.scan import raw_partitions, scan
from mlops_ray.exploration.sketches import LONGEST_TEXT
from mlops_ray.exploration.suspicion import shown
from mlops_ray.ingestion.reading import MAX_FLOAT32
from mlops_ray.ingestion.sources import SourceFile, file_format, find_files
from mlops_ray.use_case import Column, Source
from mlops_ray.use_case.column import NULL_TEXTS, ColumnType, normal_form

_HEAD_BYTES = 1 << 16
_DELIMITERS = ",;\t|"
_MOST_CHOICES = 12
_ROWS_OF_A_CHOICE = 20
# Words among numbers are no numbers, rather than codes, if at most this share of the values are words, there are more
# different values than these, and this share of the words is known one by one.
_WORDS_AMONG_NUMBERS, _FEWEST_NUMBERS, _KNOWN_WORDS = 0.2, 50, 0.9
# A limit is put so much beyond what was seen, as a share of the range, and then to a round number.
_BEYOND = 0.5
_YEARS_1990_TO_2100_S = 631_152_000, 4_102_444_800
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_LIKE_A_TIME = re.compile(r"time|date|stamp|_at$|_on$|^ts$|_ts$", re.IGNORECASE)


@dataclass(frozen=True)
class Proposal:
    """A source and the reasons for each column of it; `code` is the Python file that declares it.

    remarks: by column, what was seen; `notes`: what somebody has to decide.
    """

    name: str
    source: Source
    profile: Profile
    remarks: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def code(self) -> str:
        return code_of([self])


def propose(data: str, name: str, pattern: str, start_ray: StartRay = lambda: None) -> Proposal:
    """A source for files below `data`, by what all of them hold. Raises DataError if there are none to read."""
    files = find_files(data, name, Source(pattern, ()))
    text = _how_text_is_written(files[0])
    bare = Source(pattern, (), **text)
    found = scan(raw_partitions(files, bare), sum(file.size for file in files), start_ray)
    profile = profile_of(name, found.whole(), found.unreadable, found.seconds)
    columns, remarks, notes = [], {}, [*found.unreadable.values()]
    if profile.malformed:
        notes.append(f"{profile.malformed:,} records could not be split into columns and will be quarantined.")
    for column in profile.columns:
        if why := _cannot_be_declared(column, profile):
            notes.append(why)
            continue
        declared, remark = _column(column, profile)
        if declared.type == "text" and (note := _mostly_numbers(column)):
            notes.append(note)
        columns.append(declared)
        remarks[column.name] = remark
    source = replace(bare, columns=tuple(columns))
    key = find_key(files, source, profile)
    if not key:
        notes.append("No few columns tell all rows apart: say what identifies a row, or leave the key out.")
    moments = [column.name for column in columns if column.type == "timestamp"]
    if moments:
        notes.append(f"When does a row become known? If it is {moments[0]}: known_at=pl.col({moments[0]!r}).")
    return Proposal(name, replace(source, key=key), profile, remarks, tuple(notes))


def code_of(proposals: Sequence[Proposal]) -> str:
    """One Python file that declares all of them."""
    parts = [
        '"""Sources as proposed from their files. Look at each remark before you rely on it."""',
        "",
        "from mlops_ray import Column, Source",
        "",
    ]
    for one in proposals:
        parts += ["", *source_lines(one)]
    return "\n".join(parts) + "\n"


def source_lines(one: Proposal, more: Mapping[str, str] | None = None) -> list[str]:
    """The code that declares one of them. more: code of further arguments of the source."""
    source, blank = one.source, Source(one.source.path, ())
    lines = [f"# {len(one.profile.columns)} columns, {one.profile.rows:,} rows."]
    lines += [f"# {_one_line(note)}" for note in one.notes]
    lines += [f"{_identifier(one.name)} = Source(", f"    path={quoted(source.path)},"]
    for field in ("delimiter", "quote", "encoding", "header"):
        if getattr(source, field) != getattr(blank, field):
            lines.append(f"    {field}={quoted(getattr(source, field))},")
    lines += [f"    key={quoted(source.key)},"] if source.key else []
    lines += ["    columns=("]
    for column in source.columns:
        lines.append(f"        # {_one_line(one.remarks[column.name])}")
        lines.append(f"        {_declaration(column)},")
    return [*lines, "    ),", *(f"    {name}={code}," for name, code in (more or {}).items()), ")"]


def quoted(value: Any) -> str:
    """The code of a value, texts in the quotes that formatters prefer."""
    if isinstance(value, tuple):
        return f"({', '.join(map(quoted, value))}{',' if len(value) == 1 else ''})"
    text = repr(value)
    return f'"{text[1:-1]}"' if text[:1] == "'" and '"' not in text else text


def _declaration(column: Column) -> str:
    blank = Column(column.name, column.type)
    options = [
        f"{name}={quoted(getattr(column, name))}"
        for name in Column.__dataclass_fields__
        if name not in ("name", "type") and getattr(column, name) != getattr(blank, name)
    ]
    return f"Column({', '.join([quoted(column.name), quoted(column.type), *options])})"


def _identifier(name: str) -> str:
    found = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "source"
    return f"source_{found}" if found[0].isdigit() or keyword.iskeyword(found) else found


def _one_line(text: str) -> str:
    """For a comment: nothing in it ends the line."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _cannot_be_declared(column: ColumnProfile, profile: Profile) -> str | None:
    if not column.name:
        return "A column without a name is left out: give it one in the header."
    if column.name.startswith("__"):
        return f"Column {shown(column.name)} is left out: names that begin with __ are the framework's."
    return None


def _column(column: ColumnProfile, profile: Profile) -> tuple[Column, str]:
    """What a column is declared as, and what was seen of it."""
    nullable = column.values < column.rows or column.rows < profile.rows - profile.malformed
    remark = _seen(column)
    kinds = {kind for kind in column.kinds if kind != "null_text"}
    if not kinds:
        return Column(column.name, "text", nullable=True, null_texts=_null_texts(column)), f"{remark}; never a value"
    if kinds <= {"integer"}:
        if (unit := _since_1970(column)) is not None:
            return Column(column.name, "timestamp", nullable, unit=unit), f"{remark}; counted from 1970, by its name"
        if kinds == {"integer"} and _is_flag(column):
            return Column(column.name, "boolean", nullable), f"{remark}; only 0 and 1"
        low, high = _limits(column)
        return Column(column.name, "integer", nullable, low, high), remark
    if (signs := _signs(kinds)) is not None:
        low, high = (None, None) if "decimal_comma" in signs else _limits(column)
        declared = Column(column.name, _number_type(column), nullable, low, high, **signs)
        return declared, f"{remark}{_asked(column, kinds)}"
    if words := _words_among_numbers(column):
        signs = _signs(kinds - {"text"}) or {}
        declared = Column(column.name, _number_type(column), nullable=True, null_texts=(*NULL_TEXTS, *words), **signs)
        said = ", ".join(map(shown, words))
        return declared, f"{remark}; {said} among the numbers: read as null, other words will be quarantined"
    if kinds == {"boolean"} or (kinds <= {"boolean", "integer"} and _is_flag(column)):
        return Column(column.name, "boolean", nullable), remark
    if kinds == {"timestamp"}:
        return Column(column.name, "timestamp", nullable), remark
    if kinds <= {"timestamp", "local_time"}:
        ask = "some texts name no zone: is it UTC?"
        return Column(column.name, "timestamp", nullable, time_zone="UTC", clock_change="latest"), f"{remark}; {ask}"
    if (format_ := _format(column)) is not None:
        others = [name for name, rows in column.formats.items() if rows == column.formats[format_] and name != format_]
        ask = f"; {', '.join(others)} would fit as well" if others else ""
        declared = Column(column.name, "timestamp", nullable, format=format_, time_zone="UTC", clock_change="latest")
        iso = column.values - column.kinds["text"]
        also = f"; {iso:,} of them as ISO 8601 has it" if iso else ""
        return declared, f"{remark}{also}; is it UTC?{ask}"
    return _text(column, nullable, remark, kinds)


def _signs(kinds: set[str]) -> dict[str, Any] | None:
    """The signs of numbers, as arguments of a column; None where not all are numbers of one way to write them."""
    if kinds <= {"integer", "number"}:
        return {}
    if kinds <= {"integer", "number", "thousands"}:
        return {"thousands": ","}
    return {"decimal_comma": True, "thousands": "."} if kinds <= {"integer", "thousands", "decimal_comma"} else None


def _number_type(column: ColumnProfile) -> ColumnType:
    return "number" if not column.whole or {"number", "decimal_comma"} & set(column.kinds) else "integer"


def _asked(column: ColumnProfile, kinds: set[str]) -> str:
    """What to ask of how a column of numbers is written, and of how great they are."""
    said = ""
    if "decimal_comma" in kinds:
        said = "; decimal comma"
    elif "thousands" in kinds:
        said = "; is 1,234 meant for 1234, as it is read, or for 1.234?"
    great = max(abs(column.minimum or 0), abs(column.maximum or 0)) > MAX_FLOAT32
    return f"{said}; beyond {MAX_FLOAT32:.3g}, which models compute with, rows will be quarantined" if great else said


def _words_among_numbers(column: ColumnProfile) -> tuple[str, ...]:
    """Words that stand for "no number" in a column of many different numbers; none where they are more than a few, or
    have digits themselves, as codes do."""
    texts, numbers = column.kinds.get("text", 0), set(column.kinds) - {"text", "null_text"}
    if not texts or _signs(numbers) is None:
        return ()
    words = {value: rows for value, rows in column.top if value not in NULL_TEXTS and not _like_a_number(value)}
    few = texts <= _WORDS_AMONG_NUMBERS * column.values and len(words) <= _MOST_CHOICES
    known = sum(words.values()) >= _KNOWN_WORDS * texts and not any(map(str.isdigit, "".join(words)))
    return tuple(words) if few and known and column.different > _FEWEST_NUMBERS else ()


def _mostly_numbers(column: ColumnProfile) -> str | None:
    """What to do where texts make a column of numbers one of texts."""
    texts, words = column.kinds.get("text", 0), [value for value, _ in column.top if not _like_a_number(value)]
    few = 0 < texts <= _WORDS_AMONG_NUMBERS * column.values
    if not few or column.different <= _FEWEST_NUMBERS or "digits" in column.kinds:
        return None
    such = f", such as {', '.join(map(shown, words[:2]))}" if words else ""
    return (
        f"{shown(column.name)} is taken for a text, as {texts:,} of its {column.values:,} values are no numbers{such}: "
        f"clean them, and it is a number."
    )


def _like_a_number(value: str) -> bool:
    return any(character.isdigit() for character in value) and not any(character.isalpha() for character in value)


def _text(column: ColumnProfile, nullable: bool, remark: str, kinds: set[str]) -> tuple[Column, str]:
    nulls = _null_texts(column)
    if column.null_texts and not nulls:
        remark += "; words such as NA are taken for values: are they?"
        nullable = column.missing > 0
    if kinds != {"text"}:
        said = ", ".join(f"{column.kinds[kind]:,} {kind}" for kind in sorted(kinds))
        remark += f"; of several kinds ({said})" if len(kinds) > 1 else ""
    if "digits" in kinds:
        remark += "; a number would not keep its leading zeros, or all of its digits"
    names = [value for value, _ in column.top if value not in (nulls or ())]
    exact = column.top_exact and column.different_exact and len(names) == column.different
    each = column.values / max(1, column.different)
    whole = column.longest is not None and column.longest <= LONGEST_TEXT
    few = exact and whole and 1 < column.different <= _MOST_CHOICES and each >= _ROWS_OF_A_CHOICE
    if few and all(normal_form(name) == name for name in names):
        return (
            Column(column.name, "text", nullable, choices=tuple(sorted(names)), null_texts=nulls),
            f"{remark}; another value will be quarantined",
        )
    return Column(column.name, "text", nullable, pattern=_pattern(column), null_texts=nulls), remark


def _null_texts(column: ColumnProfile) -> tuple[str, ...] | None:
    """Words for null among the texts: none of the other values looks like them, so that they are no values."""
    words = [value for value, _ in column.top if value in NULL_TEXTS]
    if not words:
        return None
    others = [value for value, _ in column.top if value not in NULL_TEXTS]
    alike = any(len(value) == len(word) and value.isupper() == word.isupper() for word in words for value in others)
    return None if alike and column.type == "text" else tuple(sorted(words))


def _pattern(column: ColumnProfile) -> str | None:
    """A pattern of plain characters and lengths, where the texts are short and of these alone."""
    kinds = set(column.characters)
    if "other" in kinds or column.untidy or not kinds or column.longest is None or column.longest > 24:
        return None
    shortest = 1 if column.longest - (column.shortest or 0) > 2 else max(1, column.shortest or 1)
    length = f"{{{shortest}}}" if shortest == column.longest else f"{{{shortest},{column.longest}}}"
    return f"[{''.join(sorted(kinds))}]{length}"


def _limits(column: ColumnProfile) -> tuple[float | None, float | None]:
    """Round limits beyond what was seen; 0 stays the least where nothing is below."""
    low, high = column.minimum, column.maximum
    if low is None or high is None or not (isfinite(low) and isfinite(high)):
        return None, None
    room = (high - low) * _BEYOND or max(abs(high), 1.0)
    least = 0 if low >= 0 and low - room < 0 else _round(low - room, floor)
    most = 0 if high <= 0 and high + room > 0 else _round(high + room, ceil)
    if column.type == "integer":
        least, most = floor(least), ceil(most)
    return (least, most) if abs(least) < 2**53 and abs(most) < 2**53 else (None, None)


def _round(value: float, towards: Callable[[float], int]) -> float:
    if value == 0:
        return 0
    step = 10.0 ** (floor(log10(abs(value))) - 1)
    if step == 0:  # of the least floats
        return value
    found = towards(value / step) * step
    return int(found) if step >= 1 else float(f"{found:.3g}")


def _is_flag(column: ColumnProfile) -> bool:
    return column.minimum == 0 and column.maximum == 1 and column.different == 2


def _since_1970(column: ColumnProfile) -> Any:
    if not _LIKE_A_TIME.search(column.name) or column.minimum is None or column.maximum is None:
        return None
    first, end = _YEARS_1990_TO_2100_S
    fitting = (unit for unit, per in _UNITS.items() if first * per <= column.minimum and column.maximum < end * per)
    return next(fitting, None)


def _format(column: ColumnProfile) -> str | None:
    """The first format of dates that reads all texts but those of ISO 8601, which are read beside it."""
    texts = column.kinds.get("text", 0)
    if not texts or set(column.kinds) - {"text", "null_text", "timestamp", "local_time"}:
        return None
    return next((name for name, rows in column.formats.items() if rows == texts), None)


def _seen(column: ColumnProfile) -> str:
    parts = [f"{column.missing_share:.1%} missing" if column.missing_share else "never missing"]
    about = "" if column.different_exact else "about "
    parts.append(f"{about}{column.different:,} different")
    one_way = "digits" not in column.kinds and not {"thousands", "decimal_comma"} <= set(column.kinds)
    if column.percentiles and one_way:
        low, high = column.percentiles[1], column.percentiles[99]
        parts.append(f"{column.minimum:g} to {column.maximum:g}, 98 % from {low:g} to {high:g}")
        middle = high - low
        if middle > 0 and (column.maximum - column.minimum) > 10 * middle:  # type: ignore[operator]
            parts.append("an end lies far out: is it right?")
    if column.coverage is not None:
        parts.append(f"{column.coverage.first:%Y-%m-%d %H:%M} to {column.coverage.last:%Y-%m-%d %H:%M} UTC")
    if column.type == "text" and column.top:
        parts.append(f"such as {', '.join(shown(value) for value, _ in column.top[:3])}")
    return ", ".join(parts)


def _how_text_is_written(file: SourceFile) -> dict[str, Any]:
    """Delimiter and encoding of a text file, from its beginning."""
    format_, compression = file_format(file.name)
    if format_ == "parquet":
        return {}
    filesystem, path = locate(file.url)
    with filesystem.open_input_stream(path, compression=compression) as stream:
        head: bytes = stream.read(_HEAD_BYTES)
    encoding = _encoding(head)
    given: dict[str, Any] = {} if encoding == "utf-8" else {"encoding": encoding}
    if format_ == "delimited":
        delimiter = _delimiter(head.decode(encoding, "replace"))
        given |= {} if delimiter == "," else {"delimiter": delimiter}
    return given


def _encoding(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252" if not set(head) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "latin-1"
    return "utf-8"


def _delimiter(head: str) -> str:
    """The sign that divides the first lines into equally many parts, the most."""
    lines = [line for line in head.splitlines()[:50] if line.strip()][: -1 if len(head) >= _HEAD_BYTES else None]

    def parts(sign: str) -> tuple[bool, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=sign)]
        return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0

    return max(_DELIMITERS, key=parts) if lines else ","
