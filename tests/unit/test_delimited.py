"""Delimited files that a caller names: what each is, by its own ending."""

import pytest

from mlops_ray.batch.delimited import is_delimited, source_of


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [
        ("rows.csv", ","),
        ("rows.TXT", ","),
        ("ROWS.TSV.GZ", "\t"),
        ("export.tsv_2025/rows.csv", ","),
        ("rows.parquet", None),
        ("rows.tsv/rows", None),
    ],
)
def test_a_file_is_what_its_own_ending_says(name: str, delimiter: str | None) -> None:
    assert is_delimited(name) == (delimiter is not None)
    if delimiter is not None:
        assert source_of(name).delimiter == delimiter
