"""Raw files are read so that every row is either split into columns or kept as text."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from mlops_ray import Column, Source
from mlops_ray.errors import DataError
from mlops_ray.ingestion.sources import find_files, read_file

SOURCE = Source(path="*.*", columns=(Column("a", "integer"),))


def read(folder: Path, name: str, content: bytes) -> tuple[pl.DataFrame, list[str]]:
    (folder / name).write_bytes(content)
    (file,) = find_files(str(folder), "numbers", Source(path=name, columns=SOURCE.columns))
    stretches = list(read_file(file))
    frames = [stretch.frame for stretch in stretches]
    return pl.concat(frames), [text for stretch in stretches for text in stretch.malformed]


def test_csv_rows_of_the_wrong_length_are_kept_as_text(tmp_path: Path) -> None:
    frame, malformed = read(tmp_path, "x.csv", b'a,b\n1,x\n2\n"3","y\nz"\n5,6,7\n')
    assert frame.to_dicts() == [{"a": "1", "b": "x"}, {"a": "3", "b": "y\nz"}]
    assert malformed == ["2", "5,6,7"]


def test_csv_rows_that_are_not_utf8_are_kept_as_text(tmp_path: Path) -> None:
    frame, malformed = read(tmp_path, "x.csv", b"a,b\n1,x\n2,\xff\xfe\n")
    assert frame["a"].to_list() == ["1"]
    assert malformed == ["2,��"]


def test_csv_with_byte_order_mark_windows_lines_and_gzip(tmp_path: Path) -> None:
    frame, malformed = read(tmp_path, "x.csv.gz", gzip.compress(b"\xef\xbb\xbfa,b\r\n1,x\r\n"))
    assert (frame.to_dicts(), malformed) == ([{"a": "1", "b": "x"}], [])


def test_json_lines_that_are_not_json_are_kept_as_text(tmp_path: Path) -> None:
    frame, malformed = read(tmp_path, "x.jsonl", b'{"a": 1}\n{"a": \n\n[1]\n{"a": "2"}\n')
    assert frame["a"].to_list() == ["1", "2"]
    assert malformed == ['{"a":', "[1]"]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1, 2]}).write_parquet(tmp_path / "x.parquet")
    (file,) = find_files(str(tmp_path), "numbers", SOURCE)
    assert next(read_file(file)).frame.schema == {"a": pl.Int64}


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.csv", b""), ("x.csv", b"\n\n"), ("x.csv", b"a,a\n1,2\n"), ("x.csv.gz", b"no gzip"), ("x.parquet", b"PAR")],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=rf"File {name} cannot be read"):
        read(tmp_path, name, content)


def test_a_header_without_rows_gives_no_rows(tmp_path: Path) -> None:
    frame, malformed = read(tmp_path, "x.csv", b"a,b\n")
    assert (frame.height, frame.columns, malformed) == (0, ["a", "b"], [])


def test_a_source_without_files_and_an_unknown_ending_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Source numbers: no file matches"):
        find_files(str(tmp_path), "numbers", SOURCE)
    (tmp_path / "x.xls").touch()
    with pytest.raises(DataError, match=r"cannot read .*x\.xls"):
        find_files(str(tmp_path), "numbers", SOURCE)
