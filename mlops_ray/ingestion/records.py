"""Records of text files: where each begins and ends, and which physical lines and bytes are its own.

A record of a delimited file ends with a line, but for lines within quotes (RFC 4180). A quote opens a quoted field
where a field begins; elsewhere it is a character like any other. Where what follows a closing quote is neither a
delimiter, a second quote, nor the end of the line, the record is malformed, and so is one whose quote never closes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

BLOCK_BYTES = 8 << 20
# A longer one tells of a quote that never closes, or of a file that is none of lines. What it would take to find the
# end of it is unbounded, so that all the rest of the file is set aside, in pieces of this size.
MAX_RECORD_BYTES = 16 << 20

_LF, _CR = 10, 13


@dataclass(frozen=True)
class Structure:
    """What gives a text its records. width: bytes of a code unit; little: of several, whether the lowest comes first.

    quote: None where lines are records. cr_ends: whether a carriage return without a line feed ends a line.
    """

    delimiter: str = ","
    quote: str | None = None
    cr_ends: bool = False
    width: int = 1
    little: bool = True

    def units(self, content: bytes, last: bool) -> bytes:
        """A byte for each code unit: its own where it is ASCII. last: half a unit at the end is one, if no good one."""
        if self.width == 1:
            return content
        count = len(content) // self.width
        if last and len(content) % self.width:
            count, content = count + 1, content + b"\xff" * self.width
        units = np.frombuffer(content, f"{'<' if self.little else '>'}u{self.width}", count)
        return np.where(units < 128, units, 128).astype(np.uint8).tobytes()


@dataclass(frozen=True)
class Records:
    """Consecutive records of a file: the bytes of each, its first line (counted from 1) and how many lines it has.

    bad: cannot be split into columns. blank: an empty line. As arrays of one length.
    """

    raw: pa.LargeBinaryArray
    line: np.ndarray
    lines: np.ndarray
    bad: np.ndarray
    blank: np.ndarray

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, which: slice | np.ndarray) -> "Records":
        raw = self.raw[which] if isinstance(which, slice) else self.raw.filter(pa.array(which))
        return Records(raw, self.line[which], self.lines[which], self.bad[which], self.blank[which])

    def content(self) -> bytes:
        """The bytes of all records."""
        _, offsets, data = self.raw.buffers()
        if not len(self.raw) or data is None:
            return b""
        ends = np.frombuffer(offsets, np.int64)[self.raw.offset :][: len(self.raw) + 1]
        return memoryview(data)[ends[0] : ends[-1]].tobytes()


def read_records(stream: Any, structure: Structure, rest: bytes = b"") -> Iterator[Records]:
    """All records of a stream, a bounded number of bytes at a time; nothing is left out and nothing comes twice.

    rest: what was read of the stream before.
    """
    line, last = 1, False
    while not last:
        block = stream.read(BLOCK_BYTES)
        content, last = rest + block, not block
        units = np.frombuffer(structure.units(content, last), np.uint8)
        line_ends = _line_ends(units, structure, last)
        ends, bad = _record_ends(units, line_ends, structure, last)
        long = np.diff(ends, prepend=0) * structure.width > MAX_RECORD_BYTES
        whole = int(long.argmax()) if long.any() else len(ends)
        if whole:
            lines = np.diff(np.searchsorted(line_ends, ends[:whole], side="right"), prepend=0)
            blank = np.isin(units[np.append(0, ends[: whole - 1])], (_LF, _CR))
            raw = _cut(content, ends[:whole] * structure.width)
            yield Records(raw, line + np.cumsum(lines) - lines, lines, bad[:whole], blank)
            line += int(lines.sum())
            content = content[int(ends[whole - 1]) * structure.width :]
        rest = content
        if len(rest) > MAX_RECORD_BYTES:
            yield from _pieces(rest, stream, line, structure)
            return


def _cut(content: bytes, ends: np.ndarray) -> pa.LargeBinaryArray:
    """The pieces of `content` between these ends; the last one may lie behind half a code unit."""
    offsets = np.minimum(np.concatenate([[0], ends]), len(content)).astype(np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    return pa.Array.from_buffers(pa.large_binary(), len(ends), buffers)


def _pieces(rest: bytes, stream: Any, line: int, structure: Structure) -> Iterator[Records]:
    """All that is left of a file, as malformed pieces of whole lines, or of parts where a line itself is too long."""
    enough = MAX_RECORD_BYTES + structure.width  # the unit after a carriage return tells whether it ends a line
    while True:
        block = stream.read(BLOCK_BYTES) if len(rest) < enough else b""
        rest += block
        if len(rest) < enough and block:
            continue
        last = len(rest) < enough
        if last and not rest:
            return
        ends = _line_ends(np.frombuffer(structure.units(rest, last), np.uint8), structure, last) * structure.width
        inside = ends[ends <= MAX_RECORD_BYTES]
        size = len(rest) if last else int(inside[-1]) if len(inside) else MAX_RECORD_BYTES
        lines = np.array([len(ends) if last else len(inside)])
        raw = pa.array([rest[:size]], pa.large_binary())
        yield Records(raw, np.array([line]), lines, np.array([True]), np.array([False]))
        line, rest = line + int(lines[0]), rest[size:]


def _line_ends(data: np.ndarray, structure: Structure, last: bool) -> np.ndarray:
    """The positions after each physical line; the end of the file ends one, too."""
    ends = np.flatnonzero(data == _LF) + 1
    if structure.cr_ends and len(returns := np.flatnonzero(data == _CR)):
        followed = returns[returns + 1 < len(data)]
        alone = followed[data[followed + 1] != _LF] + 1
        ends = np.sort(np.concatenate([ends, alone])) if len(alone) else ends
    if last and len(data) and (not len(ends) or ends[-1] != len(data)):
        ends = np.append(ends, len(data))
    return ends.astype(np.int64)


def _record_ends(
    data: np.ndarray, line_ends: np.ndarray, structure: Structure, last: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The positions after each record that is whole, and which of them are malformed."""
    quotes = np.flatnonzero(data == ord(structure.quote)) if structure.quote else np.array([], np.int64)
    if not len(quotes):
        return line_ends, np.zeros(len(line_ends), bool)
    if not _orderly(data, quotes, structure):
        return _record_ends_one_by_one(data.tobytes(), structure, last)
    # Where all quotes are in order, those before a line end are an even number if it is outside of them.
    ends = line_ends[np.searchsorted(quotes, line_ends) % 2 == 0]
    bad = np.zeros(len(ends), bool)
    if last and len(quotes) % 2:
        ends, bad = np.append(ends, len(data)), np.append(bad, True)
    return ends, bad


def _orderly(data: np.ndarray, quotes: np.ndarray, structure: Structure) -> bool:
    """Whether every other quote opens a field, and those between close one or are one half of a doubled quote."""
    around = np.array([_LF, _CR, ord(structure.delimiter), ord(structure.quote or "")], np.uint8)
    opening, closing = quotes[::2], quotes[1::2]
    opening, closing = opening[opening > 0], closing[closing < len(data) - 1]
    return bool(np.isin(data[opening - 1], around).all() and np.isin(data[closing + 1], around).all())


def _record_ends_one_by_one(units: bytes, structure: Structure, last: bool) -> tuple[np.ndarray, np.ndarray]:
    strict, lenient = _patterns(structure)
    ends, bad, position = [], [], 0
    while position < len(units):
        match = strict.match(units, position)
        good = match is not None
        match = match or lenient.match(units, position)
        end = match.end() if match else len(units)
        # At the end of a block, what follows is not known yet.
        if not last and (match is None or (end == len(units) and units[-1] != _LF)):
            break
        ends.append(end)
        bad.append(not good)
        position = end
    return np.array(ends, np.int64), np.array(bad, bool)


def _patterns(structure: Structure) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """What matches a record, and what matches one with text after a closing quote. Without backtracking (`++`)."""
    quote, delimiter = re.escape(structure.quote or ""), re.escape(structure.delimiter)
    quoted, bare = rf"{quote}(?:[^{quote}]++|{quote}{quote})*+{quote}", rf"(?!{quote})[^{delimiter}\r\n]*+"
    after = rf"[^{delimiter}\r\n]*+"
    fields = (f"(?:{quoted}|{bare})", f"(?:{quoted}{after}|{bare})")
    strict, lenient = (rf"{field}(?:{delimiter}{field})*+(?:\r\n|\n|\r|\Z)".encode() for field in fields)
    return re.compile(strict), re.compile(lenient)
