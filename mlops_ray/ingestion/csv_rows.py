"""Rows of delimited files: records split into columns by pyarrow, a stretch of whole records at a time."""

import codecs
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv

from mlops_ray.ingestion.layout import Layout
from mlops_ray.ingestion.raw_rows import RawRows, UnreadableError, places
from mlops_ray.ingestion.records import Records, Structure, read_records
from mlops_ray.use_case import Source
from mlops_ray.use_case.source import WIDE_ENCODINGS

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_csv(stream: Any, source: Source) -> Iterator[RawRows]:
    """The rows of a delimited file, as texts; of its columns those that the contract names.

    Raises UnreadableError if the header cannot be read or names a column twice.
    """
    encoding, head = text_encoding(stream, source.encoding)
    structure = structure_of(encoding, source.delimiter, source.quote, cr_ends=True)
    splitter = _Splitter(source, encoding)
    for records in read_records(stream, structure, head):
        yield splitter.split(records)
    if not splitter.names:
        raise UnreadableError("it has no header line")


def read_head(stream: Any, source: Source, has_header: bool) -> bytes:
    """The bytes of a text file before its first record: a byte order mark, where one is needed, and the header.

    Raises UnreadableError if there is none.
    """
    encoding, head = text_encoding(stream, source.encoding)
    marks = {name: mark for mark, name in _BYTE_ORDER_MARKS}
    mark = marks.get(encoding, b"") if encoding in WIDE_ENCODINGS else b""
    if not has_header:
        return mark
    records = read_records(stream, structure_of(encoding, source.delimiter, source.quote, cr_ends=True), head)
    found = next((block[~block.blank] for block in records if not block.blank.all()), None)
    if found is None:
        raise UnreadableError("it has no header line")
    return mark + found[:1].content()


def text_encoding(stream: Any, declared: str) -> tuple[str, bytes]:
    """The encoding with its byte order, and what was read of the stream to learn it, without a byte order mark.

    Raises UnreadableError if a mark contradicts what is declared.
    """
    encoding, head = codecs.lookup(declared).name.removesuffix("-sig"), stream.read(4)
    # The mark of utf-32 begins with that of utf-16: what the source says comes first.
    marks = sorted(_BYTE_ORDER_MARKS, key=lambda one: not one[1].startswith(encoding))
    mark, name = next(((mark, name) for mark, name in marks if head.startswith(mark)), (b"", encoding))
    if not name.startswith(encoding):
        raise UnreadableError(f"it begins as {name} does, and the source says {declared}")
    return (f"{name}-le" if name in ("utf-16", "utf-32") else name), head[len(mark) :]


def structure_of(encoding: str, delimiter: str, quote: str | None, cr_ends: bool) -> Structure:
    return Structure(delimiter, quote, cr_ends, WIDE_ENCODINGS.get(encoding, 1), not encoding.endswith("be"))


class _Splitter:
    """Splits records into columns. names: of the columns in the file; empty until the header was met."""

    def __init__(self, source: Source, encoding: str):
        self._source, self._encoding = source, encoding
        self.names = [] if source.header else [column.name for column in source.columns]

    def split(self, records: Records) -> RawRows:
        header_lines = 0
        blank_lines = int(records.lines[records.blank].sum())
        records = records[~records.blank]
        if not self.names and len(records):
            self.names = self._header(records[:1])
            header_lines, records = int(records.lines[0]), records[1:]
        frame, bad = self._frame(records)
        more = frozenset(self.names) - {column.name for column in self._source.columns}
        layout = Layout(self._encoding, tuple(self.names), self._source.delimiter, self._source.quote)
        return RawRows(frame, places(records[~bad]), places(records[bad]), header_lines, blank_lines, more, layout)

    def _header(self, record: Records) -> list[str]:
        if record.bad[0]:
            raise UnreadableError("in its header a quote never closes, or text follows one that does")
        try:
            text = record.content().decode(self._encoding)
        except UnicodeDecodeError:
            raise UnreadableError(f"its header is not {self._encoding}") from None
        width = self._parse(text.encode(), None)[0].num_columns
        cells = self._parse(text.encode(), [f"\0{number}" for number in range(width)])[0]
        names = [name.strip() for name in cells.to_pylist()[0].values()]
        if twice := [column.name for column in self._source.columns if names.count(column.name) > 1]:
            raise UnreadableError(f"its header names a column twice: {', '.join(twice)}")
        # Others may: exports have nameless columns.
        return [name if names.count(name) == 1 else f"{name}:{place}" for place, name in enumerate(names, 1)]

    def _frame(self, records: Records) -> tuple[pl.DataFrame, np.ndarray]:
        """The columns of the records, and which of the records have none."""
        bad = records.bad.copy()
        content = self._utf8(records, bad)
        table, wrong = self._parse(content, self.names)
        good = np.flatnonzero(~bad)
        if table.num_rows + len(wrong) == len(good):
            bad[good[wrong]] = True
        else:
            table = self._parse_one_by_one(records, bad)
        return pl.DataFrame(pl.from_arrow(table)), bad

    def _utf8(self, records: Records, bad: np.ndarray) -> bytes:
        """The bytes of the good records as UTF-8; those that are not in the source's encoding become bad."""
        content = (records[~bad] if bad.any() else records).content()
        try:
            text = content.decode(self._encoding)
        except UnicodeDecodeError:
            for position, value in enumerate(records.raw.to_pylist()):
                bad[position] |= not can_be_decoded(value, self._encoding)
            content = records[~bad].content()
            text = content.decode(self._encoding)
        return content if self._encoding == "utf-8" else text.encode()

    def _parse(self, content: bytes, names: list[str] | None) -> tuple[pa.Table, np.ndarray]:
        """The columns, and the positions of the records that have more or fewer."""
        wrong: list[int] = []

        def set_aside(row: pacsv.InvalidRow) -> str:
            wrong.append(row.number - 1)
            return "skip"

        wanted = [column.name for column in self._source.columns if column.name in (names or ())]
        if not wanted or len(wanted) < len(self._source.columns):
            # All, so that the contract can tell what there is in place of what is missing; or because none is declared.
            wanted = names or []
        schema = [(name, pa.large_string()) for name in wanted]
        if not content:
            return pa.schema(schema).empty_table(), np.array(wrong, np.int64)
        # One block: at the border between two, pyarrow 25 loses a line feed that belongs to a quoted value.
        table = pacsv.read_csv(
            pa.py_buffer(content),
            pacsv.ReadOptions(
                use_threads=False, block_size=len(content) + 1, column_names=names, autogenerate_column_names=not names
            ),
            pacsv.ParseOptions(
                delimiter=self._source.delimiter,
                quote_char=self._source.quote or False,
                newlines_in_values=self._source.quote is not None,
                invalid_row_handler=set_aside,
            ),
            pacsv.ConvertOptions(
                column_types=dict(schema),
                include_columns=wanted,
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        return table, np.array(wrong, np.int64)

    def _parse_one_by_one(self, records: Records, bad: np.ndarray) -> pa.Table:
        """For what pyarrow takes for another number of records than we do: then each is judged alone."""
        tables = [self._parse(b"", self.names)[0]]
        for position in np.flatnonzero(~bad):
            text = records.raw[int(position)].as_py().decode(self._encoding)
            table, wrong = self._parse(text.encode(), self.names)
            bad[position] = table.num_rows != 1 or len(wrong) > 0
            tables += [] if bad[position] else [table]
        return pa.concat_tables(tables)


def can_be_decoded(value: bytes, encoding: str) -> bool:
    """Whether bytes are text in an encoding."""
    try:
        value.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
