"""Raw files are read so that every line and byte is accounted for; the reference is Python's csv module."""

import contextlib
import csv
import gzip
import io
import json
import re
import tracemalloc
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray import Column, Source
from mlops_ray.errors import DataError
from mlops_ray.ingestion import records
from mlops_ray.ingestion.csv_rows import read_csv
from mlops_ray.ingestion.json_rows import read_json_lines
from mlops_ray.ingestion.parquet_rows import rows_of_batches
from mlops_ray.ingestion.raw_rows import RawRows
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.sources import find_files
from mlops_ray.use_case.source import WIDE_ENCODINGS

COLUMNS = (Column("a", "text", nullable=True), Column("b", "text", nullable=True))
SOURCE = Source(path="*", columns=COLUMNS)


@dataclass(frozen=True)
class Read:
    """All stretches of a file together."""

    rows: list[dict[str, object]]
    places: list[tuple[int, int, bytes]]
    malformed: list[tuple[int, int, bytes]]
    header_lines: int
    blank_lines: int


def together(stretches: Iterator[RawRows]) -> Read:
    found = list(stretches)
    return Read(
        [row for one in found for row in one.frame.to_dicts()],
        [row for one in found for row in one.places.rows()],
        [row for one in found for row in one.malformed.rows()],
        sum(one.header_lines for one in found),
        sum(one.blank_lines for one in found),
    )


def read_text(content: bytes, source: Source = SOURCE, block: int = 1 << 20) -> Read:
    with patch.object(records, "BLOCK_BYTES", block):
        return together(read_csv(io.BytesIO(content), source))


def read(folder: Path, name: str, content: bytes, source: Source = SOURCE) -> Read:
    (folder / name).write_bytes(content)
    (file,) = find_files(str(folder), "numbers", Source(path=name, columns=COLUMNS))
    return together(read_file(file, source))


# --- the reference: csv.reader finds the ends of records, and strictly read says which are good


@dataclass(frozen=True)
class Expected:
    rows: list[list[str]]
    malformed: list[tuple[int, int, bytes]]
    blank_lines: int


def expected(content: bytes, source: Source) -> Expected:
    """What `content`, without header and byte order mark, must give."""
    text = content.decode(source.encoding, "surrogateescape")
    lines = re.findall(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z", text)
    options = {"delimiter": source.delimiter, "quotechar": source.quote}
    if source.quote is None:
        options["quoting"] = csv.QUOTE_NONE
    rows, malformed, blank, done = [], [], 0, 0
    reader = csv.reader(lines, **options)  # type: ignore[arg-type]
    for _ in reader:
        own = lines[done : reader.line_num]
        raw = "".join(own).encode(source.encoding, "surrogateescape")
        place = (done + 1, len(own), raw)
        done = reader.line_num
        try:
            raw.decode(source.encoding)
            (fields,) = csv.reader(own, **options, strict=True)  # type: ignore[arg-type]
        except (csv.Error, UnicodeDecodeError):
            malformed.append(place)
            continue
        if not fields:
            blank += 1
        elif len(fields) != len(source.columns):
            malformed.append(place)
        else:
            rows.append(fields)
    return Expected(rows, malformed, blank)


dialects = st.sampled_from([(",", '"'), (";", '"'), ("\t", "'"), ("|", None), (".", "|"), ("^", "]")])
encodings = st.sampled_from(["utf-8", "latin-1", "cp1252", "utf-16-le", "utf-16-be", "utf-32-le", "shift_jis"])


@st.composite
def dirty_files(draw: st.DrawFn) -> tuple[Source, bytes]:
    (delimiter, quote), encoding = draw(dialects), draw(encodings)
    if encoding == "shift_jis" and delimiter + (quote or "") in ("|", ".|", "^]"):
        encoding = "utf-8"
    source = Source("*", COLUMNS, delimiter=delimiter, quote=quote, encoding=encoding, header=False)
    sign = quote or '"'
    tidy = [f"x{delimiter}y\n", f"{sign}x\n{sign}{sign}{delimiter}{sign}{delimiter}y\r\n", f"{delimiter}{sign}{sign}\n"]
    parts = [*tidy, "a", " ", "ü" if encoding != "shift_jis" else "ソ", "\x00", sign, delimiter, "\n", "\r\n", "\r"]
    content = "".join(draw(st.lists(st.sampled_from(parts), max_size=40))).encode(encoding)
    if encoding in ("utf-8", "cp1252"):
        content = content.replace(b" ", draw(st.sampled_from([b" ", b"\xff" if encoding == "utf-8" else b"\x81"])))
    return source, content


@settings(max_examples=300, deadline=None)
@given(dirty_files(), st.integers(4, 60))
def test_rows_and_lines_are_those_of_the_csv_module(file: tuple[Source, bytes], block: int) -> None:
    source, content = file
    found, right = read_text(content, source, block), expected(content, source)
    assert [list(row.values()) for row in found.rows] == right.rows
    assert found.malformed == right.malformed
    assert found.blank_lines == right.blank_lines


@settings(max_examples=150, deadline=None)
@given(dirty_files(), st.integers(4, 60), st.integers(4, 40))
def test_every_line_and_byte_belongs_to_one_record_or_is_blank(
    file: tuple[Source, bytes], block: int, longest: int
) -> None:
    source, content = file
    with patch.object(records, "MAX_RECORD_BYTES", longest // 4 * 4):
        found = read_text(content, source, block)
    text = content.decode(source.encoding, "surrogateescape")
    lines = re.findall(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z", text)
    places = sorted([*found.places, *found.malformed], key=lambda place: place[0])
    assert sum(count for _, count, _ in places) + found.blank_lines == len(lines)
    blanks = {number for number, line in enumerate(lines, 1) if not line.strip("\r\n")}
    inside = {line + n for line, count, _ in places for n in range(max(count, 1))}
    assert {*range(1, len(lines) + 1)} - inside <= blanks
    rest, width = content, WIDE_ENCODINGS.get(source.encoding, 1)
    for _, _, raw in places:  # in the file's order, with nothing but line ends between
        at = next(at for at in range(0, len(rest) + 1, width) if rest.startswith(raw, at))
        assert not rest[:at].decode(source.encoding).strip("\r\n")
        rest = rest[at + len(raw) :]
    assert not rest.decode(source.encoding).strip("\r\n")
    assert all(len(raw) <= max(longest // 4 * 4, 4) for _, _, raw in places)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), max_size=8)] * 2)), dialects, encodings)
def test_what_the_csv_module_writes_is_read_as_it_was(
    rows: list[tuple[str, str]], dialect: tuple[str, str | None], encoding: str
) -> None:
    delimiter, quote = dialect
    quote = quote or '"'
    if encoding == "shift_jis":
        delimiter, quote = ",", '"'
    source = Source("*", COLUMNS, delimiter=delimiter, quote=quote, encoding=encoding)
    rows = [row for row in rows if can_be_written("".join(row), encoding)]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quotechar=quote, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    mark = "\ufeff".encode(encoding) if encoding.startswith("utf") else b""
    found = read_text(mark + file.getvalue().encode(encoding), source, block=64)
    assert [tuple(row.values()) for row in found.rows] == rows
    assert (found.malformed, found.header_lines, found.blank_lines) == ([], 1, 0)


def can_be_written(text: str, encoding: str) -> bool:
    try:
        return text.encode(encoding).decode(encoding) == text
    except UnicodeError:
        return False


def test_a_quote_that_never_closes_sets_its_stretch_aside() -> None:
    found = read_text(b'a,b\n1,"ab\n2,cd\n3,ef\n')
    assert (found.rows, found.header_lines) == ([], 1)
    assert found.malformed == [(2, 3, b'1,"ab\n2,cd\n3,ef\n')]


def test_a_stray_quote_costs_no_more_than_the_records_that_it_touches() -> None:
    found = read_text(b'a,b\n1,"ab\n2,"cd"\n3,ef\n')
    assert found.rows == [{"a": "3", "b": "ef"}]
    assert found.malformed == [(2, 2, b'1,"ab\n2,"cd"\n')]


def test_a_line_feed_in_a_quoted_value_at_the_border_of_blocks_stays() -> None:
    for border in range(1, 40):
        found = read_text(b'a,b\n1,"x\r\ny"\r\n2,"\r\n\r\n"\r\n', block=border)
        assert found.rows == [{"a": "1", "b": "x\r\ny"}, {"a": "2", "b": "\r\n\r\n"}]


def test_a_block_of_malformed_lines_only() -> None:
    found = read_text(b"a,b\n1,2\n" + b"3\n" * 50, block=16)
    assert (len(found.rows), len(found.malformed)) == (1, 50)


def test_an_endless_quote_takes_bounded_memory() -> None:
    size = 64 << 20

    class Endless(io.RawIOBase):
        left = size

        def read(self, count: int = -1) -> bytes:
            if self.left == size:
                self.left -= 8
                return b'a,b\n1,"x'
            count = min(count, self.left)
            self.left -= count
            return (b"2,some text of a row\n" * (count // 21 + 1))[:count]

    total, peak_pieces = 0, 0
    with patch.object(records, "MAX_RECORD_BYTES", 1 << 20), patch.object(records, "BLOCK_BYTES", 1 << 19):
        tracemalloc.start()
        for stretch in read_csv(Endless(), SOURCE):
            total += sum(len(raw) for raw in stretch.malformed["raw"])
            peak_pieces = max(peak_pieces, stretch.malformed.height)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (total, peak_pieces) == (size - 4, 1)
    assert peak < 16 << 20


def test_nulls_are_not_decided_here() -> None:
    found = read_text(b'a,b\nNA,""\nnull, x \n')
    assert found.rows == [{"a": "NA", "b": ""}, {"a": "null", "b": " x "}]


def test_a_file_without_header_takes_the_order_of_the_contract() -> None:
    found = read_text(b"1;2\n3;4", Source("*", COLUMNS, delimiter=";", header=False))
    assert [row["b"] for row in found.rows] == ["2", "4"]


def test_columns_that_the_contract_does_not_name_are_left_out_and_still_counted() -> None:
    found = read_text(b"b,z,a\n1,2,3\n1,2\n")
    assert found.rows == [{"a": "3", "b": "1"}]
    assert found.malformed == [(3, 1, b"1,2\n")]


def test_columns_without_names_are_no_concern_of_the_contract() -> None:
    assert read_text(b"a,,b,,x,x\n1,2,3,4,5,6\n").rows == [{"a": "1", "b": "3"}]


def test_where_a_column_is_missing_all_others_are_given() -> None:
    assert read_text(b"a,B\n1,2\n").rows == [{"a": "1", "B": "2"}]


def test_csv_with_byte_order_mark_windows_lines_and_gzip(tmp_path: Path) -> None:
    found = read(tmp_path, "x.CSV.gz", gzip.compress(b"\xef\xbb\xbfa,b\r\n1,x\r\n"))
    assert (found.rows, found.malformed) == ([{"a": "1", "b": "x"}], [])


def test_half_a_unit_at_the_end_of_utf_16_is_not_lost() -> None:
    content = "a,b\n1,2\n3,4".encode("utf-16")
    found = read_text(content + b"\x00", Source("*", COLUMNS, encoding="utf-16"))
    assert len(found.rows) == 1
    assert found.malformed[0][2] == "3,4".encode("utf-16-le") + b"\x00"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b""),
        ("x.csv", b"\n\n"),
        ("x.csv", b"a,a\n1,2\n"),
        ("x.csv", b'a,"b\n1,2\n'),
        ("x.csv", "a,b\n1,2\n".encode("utf-16")),
        ("x.csv", b"\xffa,b\n1,2\n"),
        ("x.csv.gz", b"no gzip"),
        ("x.csv.gz", gzip.compress(b"a,b\n1,2\n" * 9999)[:-20]),
        ("x.parquet", b"PAR"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=rf"File {name} cannot be read"):
        read(tmp_path, name, content)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"a,b\n1,2\n")
    (file,) = find_files(str(tmp_path), "numbers", SOURCE)
    (tmp_path / "x.csv").write_bytes(b"a,b\n1,3\n")
    with pytest.raises(DataError, match=r"x\.csv was changed"):
        together(read_file(file, SOURCE))


# --- JSON lines


def read_lines(content: bytes, source: Source = SOURCE, block: int = 1 << 20) -> Read:
    with patch.object(records, "BLOCK_BYTES", block):
        return together(read_json_lines(io.BytesIO(content), source))


def test_json_values_are_texts_as_they_are_written() -> None:
    found = read_lines(b'{"a": 1.50, "b": true, "c": 3}\n{"a": 12345678901234567890123, "b": [1.0, {"x": "y"}]}\n')
    assert found.rows == [{"a": "1.50", "b": "true"}, {"a": "12345678901234567890123", "b": '[1.0, {"x": "y"}]'}]


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": ', b"[1]", b"7", b"null", b'{"a": 1, "a": 2}', b'{"b": {"x": 1, "x": 2}}', b'{"a": "\\ud83d"}',
        b'{"\\ud83d": 1}', b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": "\xff"}', b'{"a": 1} {"a": 2}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_line_that_is_no_good_object_is_malformed(line: bytes) -> None:
    found = read_lines(b'{"a": "x"}\n' + line + b'\n\n{"b": "\\ud83d\\ude00"}')
    assert found.rows == [{"a": "x", "b": None}, {"a": None, "b": "😀"}]
    assert (found.malformed, found.blank_lines) == ([(2, 1, line + b"\n")], 1)


def test_a_value_in_objects_of_json_is_a_column_by_its_path() -> None:
    names = ("a.b", "a.c.d", "x", "a.e", "q.r", "s.t.u")
    source = Source(columns=tuple(Column(name, "text", nullable=True) for name in names), path="*", key=("x",))
    line = b'{"a":{"b":1.50,"c":{"d":[1, 2]},"f":3},"x":{"k": 1.0},"a.e":7,"z":1,"q":null,"s":{"t.u":"\\u00e9"}}'
    found = read_lines(line, source)
    assert found.rows == [{"a.b": "1.50", "a.c.d": "[1, 2]", "x": '{"k": 1.0}', "a.e": "7", "q.r": None, "s.t.u": "é"}]
    (stretch,) = read_json_lines(io.BytesIO(line), source)
    assert stretch.more == {"z", "a.f"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), json_values)), st.integers(1, 50), st.booleans())
def test_json_lines_keep_values_and_lines(rows: list[dict[str, object]], block: int, plain: bool) -> None:
    texts = [json.dumps(row, ensure_ascii=plain) for row in rows]
    found = read_lines("\r\n".join(texts).encode(errors="surrogatepass"), block=block)
    good = [row for row in rows if can_be_written(json.dumps(row, ensure_ascii=False), "utf-8")]
    assert len(found.rows) == len(good)
    assert len(found.malformed) == len(rows) - len(good)
    for row, given_ in zip(found.rows, good, strict=True):
        for name in ("a", "b"):
            value = given_.get(name)
            assert row[name] == (
                value if value is None or isinstance(value, str) else json.dumps(value, **ASCII[plain])
            )


ASCII = {True: {"ensure_ascii": True}, False: {"ensure_ascii": False}}


# --- Parquet


def test_parquet_keeps_its_types_and_an_absent_nullable_column_is_null(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1, 2], "z": [1, 2]}).write_parquet(tmp_path / "x.parquet")
    (file,) = find_files(str(tmp_path), "numbers", SOURCE)
    stretch = next(read_file(file, SOURCE))
    assert stretch.frame.to_dict(as_series=False) == {"a": [1, 2], "b": [None, None]}
    assert stretch.frame.schema["a"] == pl.Int64
    assert stretch.places["line"].to_list() == [1, 2]


def test_a_value_in_structs_of_parquet_is_a_column_by_its_path(tmp_path: Path) -> None:
    users = [{"age": 5, "home": {"city": "x"}}, None, {"age": None, "home": None}]
    table = pa.table({"user": users, "user.name": ["a", "b", "c"], "z": [1, 2, 3]})
    pq.write_table(table, tmp_path / "x.parquet")
    columns = tuple(Column(f"user.{name}", "text", nullable=True) for name in ("age", "home.city", "name", "none"))
    source = Source(path="*", columns=columns)
    (file,) = find_files(str(tmp_path), "numbers", source)
    for stretch in (next(read_file(file, source)), next(rows_of_batches(iter(table.to_batches()), source))):
        assert stretch.frame.select(column.name for column in columns).rows() == [
            (5, "x", "a", None), (None, None, "b", None), (None, None, "c", None),
        ]  # fmt: skip


class Pickled(pa.ExtensionType):
    def __init__(self) -> None:
        super().__init__(pa.binary(), "ray.data.arrow_pickled_object")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Pickled":
        return cls()


@pytest.mark.parametrize("registered", [True, False])
def test_a_parquet_column_of_pickled_objects_is_named(tmp_path: Path, registered: bool) -> None:
    storage = pa.array([b"x"], pa.binary())
    with contextlib.suppress(pa.ArrowKeyError):  # by Ray, if a test before used it
        pa.register_extension_type(Pickled())
    try:
        pq.write_table(pa.table({"a": pa.ExtensionArray.from_storage(Pickled(), storage)}), tmp_path / "x.parquet")
        if not registered:
            pa.unregister_extension_type("ray.data.arrow_pickled_object")
        (file,) = find_files(str(tmp_path), "numbers", SOURCE)
        with pytest.raises(DataError, match=r"File x\.parquet cannot be read: its column a has the extension type"):
            next(read_file(file, SOURCE))
    finally:
        if registered:
            pa.unregister_extension_type("ray.data.arrow_pickled_object")


def test_identifiers_and_json_of_parquet_are_texts(tmp_path: Path) -> None:
    one = uuid.UUID("019cabcd-0000-7000-8000-00000000000a")
    table = {
        "a": pa.array([one.bytes, None], pa.uuid()),
        "b": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"x": 1}', None])),
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    (file,) = find_files(str(tmp_path), "numbers", SOURCE)
    found = together(read_file(file, SOURCE)).rows
    assert found == [{"a": str(one), "b": '{"x": 1}'}, {"a": None, "b": None}]


def test_a_damaged_parquet_column_is_named(tmp_path: Path) -> None:
    table = pa.table({"a": ["x" * 50] * 500, "b": [str(number) for number in range(500)]})
    pq.write_table(table, tmp_path / "x.parquet", compression="gzip", use_dictionary=False)
    column = pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(0).column(1)
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle : middle + 40] = b"\0" * 40
    (tmp_path / "x.parquet").write_bytes(content)
    (file,) = find_files(str(tmp_path), "numbers", SOURCE)
    with pytest.raises(DataError, match=r"its column b is damaged"):
        together(read_file(file, SOURCE))


def test_a_parquet_row_of_which_a_text_is_not_utf8_is_malformed(tmp_path: Path) -> None:
    texts = pa.array([b"x", b"\xff", None]).cast(pa.large_binary()).view(pa.large_string())
    pq.write_table(pa.table({"a": texts, "b": pa.array(["u", "v", "w"]).dictionary_encode()}), tmp_path / "x.parquet")
    (file,) = find_files(str(tmp_path), "numbers", SOURCE)
    found = together(read_file(file, SOURCE))
    assert found.rows == [{"a": "x", "b": "u"}, {"a": None, "b": "w"}]
    assert found.malformed == [(2, 0, rb'{"a": "\\xff", "b": "v"}')]
