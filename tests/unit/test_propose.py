"""A proposed source takes what its files hold, says what was seen, and can be run as it is."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops_ray.exploration.propose import Proposal, propose
from mlops_ray.ingestion.contract import REASON, judge_rows
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.sources import find_files
from mlops_ray.use_case import Column, Source, load_use_case

ROOT = Path(__file__).parents[2]
SOURCES = {"flights": "flights_*.csv", "weather": "weather_*.csv", "planes": "planes.csv"}


def declared(one: Proposal) -> Source:
    """The source of the written file, as Python runs it."""
    names: dict[str, Any] = {}
    exec(one.code, names)
    found = next(value for value in names.values() if isinstance(value, Source))
    assert found == one.source
    return found


def judged(data: Path, source: Source) -> pl.DataFrame:
    """Every row of the files with its reason; malformed ones too."""
    frames = []
    for file in find_files(str(data), "x", source):
        for raw in read_file(file, source):
            frames.append(judge_rows(raw.frame, source, file.name).select(pl.exclude("__known_at")))
            frames.append(raw.malformed.with_columns(pl.lit("malformed").alias(REASON)).select(REASON))
    return pl.concat(frames, how="diagonal")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sys

    sys.path.insert(0, str(ROOT / "use_cases"))
    from flights_raw_data import write_raw_data

    folder = tmp_path_factory.mktemp("raw")
    write_raw_data(folder)
    return folder


@pytest.mark.parametrize("name", SOURCES)
def test_the_raw_flights_go_in_whole_under_the_proposed_sources(raw: Path, name: str) -> None:
    source = declared(propose(str(raw), name, SOURCES[name]))
    rows = judged(raw, source)
    by_hand = load_use_case(str(ROOT / "use_cases" / "flights.py")).sources[name]
    assert rows[REASON].null_count() == rows.height
    assert judged(raw, by_hand)[REASON].null_count() == rows.height  # as the contract written by hand refuses none
    assert rows.select(source.key).n_unique() == rows.height
    assert _differences(by_hand, source) == DIFFERENCES[name]


def _differences(by_hand: Source, proposed: Source) -> list[str]:
    found = [] if by_hand.key == proposed.key else [f"key {proposed.key}"]
    found += [f"known_at {proposed.known_at}"] if by_hand.known_at is not None else []
    more = [column.name for column in proposed.columns if by_hand.column(column.name) is None]
    found += [f"more columns: {', '.join(more)}"] if more else []
    for column in by_hand.columns:
        other = proposed.column(column.name)
        assert other is not None
        found += [
            f"{column.name}.{field} {getattr(other, field)!r}"
            for field in Column.__dataclass_fields__
            if getattr(column, field) != getattr(other, field)
        ]
    return found


# What a person adds or decides: outcomes, what is closed, when a row becomes known, and limits by what can be.
DIFFERENCES: dict[str, list[str]] = {
    "flights": [
        "key ('carrier', 'flight', 'time_hour')",
        "known_at None",
        "more columns: year, month, day, dep_time, sched_dep_time, arr_time, sched_arr_time, distance, hour",
        "minute.maximum 89",
        "carrier.pattern '[0-9A-Z]{2}'",
        "flight.minimum 0",
        "flight.maximum 13000",
        "tailnum.pattern '[0-9A-Z]{1,6}'",
        "dest.closed False",
        "dep_delay.minimum -720",
        "dep_delay.maximum 2000",
        "dep_delay.outcome False",
        "arr_delay.minimum -770",
        "arr_delay.maximum 2000",
        "arr_delay.outcome False",
        "air_time.minimum 0",
        "air_time.maximum 1100",
        "air_time.outcome False",
    ],
    "planes": [
        "more columns: type, manufacturer, model, engines, speed, engine",
        "tailnum.pattern '[0-9A-Z]{5,6}'",
        "year.minimum 1900",
        "year.maximum 2100",
        "year.out_of_range 'quarantine'",
        "seats.nullable False",
        "seats.minimum 0",
        "seats.maximum 680",
    ],
    "weather": [
        "known_at None",
        "more columns: year, month, day, hour, dewp",
        "temp.minimum 0",
        "temp.maximum 150",
        "humid.maximum 150",
        "wind_dir.type 'integer'",
        "wind_dir.maximum 540",
        "wind_speed.maximum 1600",
        "wind_speed.out_of_range 'quarantine'",
        "wind_gust.maximum 93",
        "wind_gust.out_of_range 'quarantine'",
        "precip.nullable False",
        "precip.maximum 1.9",
        "pressure.minimum 950",
        "visib.nullable False",
        "visib.maximum 15",
    ],
}


def proposed(folder: Path, content: bytes, name: str = "x.csv") -> Proposal:
    (folder / name).write_bytes(content)
    return propose(str(folder), "x", name)


def test_how_the_text_is_written_is_seen(tmp_path: Path) -> None:
    lines = ["Näme;Preis;Tag"] + [f"Zürich {n};{n}.234,5{n % 10};{n:02}.11.2024" for n in range(10, 31)]
    one = proposed(tmp_path, "\n".join(lines).encode("cp1252"))
    source = declared(one)
    assert (source.delimiter, source.encoding) == (";", "cp1252")
    price, day = source.columns[1:]
    assert (price.type, price.decimal_comma, price.thousands) == ("number", True, ".")
    assert (day.type, day.format) == ("timestamp", "%d.%m.%Y")
    assert "is it UTC?" in one.code
    assert judged(tmp_path, source)[REASON].null_count() == 21


def test_a_word_for_null_is_one_only_where_it_looks_like_no_value(tmp_path: Path) -> None:
    countries = ["NA", "US", "DE", "FR", "GB", "IT", "ES", "NL", "SE", "NO"] * 3
    rows = [f"{country},{'NA' if at % 5 == 0 else f'N{at:04}X'}" for at, country in enumerate(countries)]
    one = proposed(tmp_path, ("country,tail\n" + "\n".join(rows) + "\n").encode())
    country, tail = one.source.columns
    assert (country.null_texts, country.nullable) == (None, False)
    assert (tail.null_texts, tail.nullable) == (("NA",), True)
    assert "are they?" in one.remarks["country"]
    assert judged(tmp_path, declared(one))[REASON].null_count() == 30


def test_words_among_many_numbers_are_nulls_and_codes_stay_texts(tmp_path: Path) -> None:
    lines = ["price,code,few"]
    lines += [
        f"{['unknown', 'inf', '-'][n // 15 % 3] if n % 15 < 1 else n / 4},{n}{'B' if n % 7 else ''},{n % 5 or 'x'}"
        for n in range(3_000)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    source = declared(propose(str(tmp_path), "rows", "rows.csv"))
    price, code, few = source.columns
    assert (price.type, code.type, few.type) == ("number", "text", "text")
    assert {"unknown", "inf", "-", "NaN"} <= set(price.null_texts or ())
    rows = judged(tmp_path, source)
    assert (rows[REASON].null_count(), rows["price"].null_count()) == (3_000, 200)


def test_days_that_two_people_wrote_are_moments(tmp_path: Path) -> None:
    rows = "\n".join(f"{n % 28 + 1:02}.01.2025" if n % 3 else f"2025-01-{n % 28 + 1:02}" for n in range(90))
    one = proposed(tmp_path, f"day\n{rows}\n".encode())
    (day,) = one.source.columns
    assert (day.type, day.format) == ("timestamp", "%d.%m.%Y")
    assert "30 of them as ISO 8601 has it" in one.remarks["day"]
    found = judged(tmp_path, declared(one))
    assert (found[REASON].null_count(), found["day"].n_unique()) == (90, 28)


def test_numbers_with_units_among_them_are_said_to_be_texts(tmp_path: Path) -> None:
    rows = "\n".join(f"{n} sqm" if n % 50 == 0 else f"{n / 4}" for n in range(2_000))
    one = proposed(tmp_path, f"area\n{rows}\n".encode())
    assert one.source.columns[0].type == "text"
    assert [note for note in one.notes if note.startswith("'area' is taken for a text, as 40 of its 2,000 values")]


def test_numbers_that_count_from_1970_are_moments_by_their_name(tmp_path: Path) -> None:
    rows = "\n".join(f"{1_735_689_600_000 + n},{1_735_689_600 + n},{n % 2}" for n in range(40))
    one = proposed(tmp_path, f"seen_at,amount,flag\n{rows}\n".encode())
    seen, amount, flag = one.source.columns
    assert (seen.type, seen.unit) == ("timestamp", "ms")
    assert (amount.type, flag.type) == ("integer", "boolean")
    assert declared(one).key in (("amount",), ("seen_at",))


def test_hostile_names_and_values_stay_texts_of_the_written_file(tmp_path: Path) -> None:
    name = "a'\"); import os  # \\\u2028x"
    pl.DataFrame({name: ["\n')); raise SystemExit #"] * 30, "__ours": [1] * 30}).write_parquet(tmp_path / "x.parquet")
    pl.DataFrame({name: ["\n')); raise SystemExit #"] * 30}).write_parquet(tmp_path / "y.parquet")
    source = declared(propose(str(tmp_path), "class", "y.parquet"))
    assert source.columns[0].name == name
    assert judged(tmp_path, source)[REASON].null_count() == 30


def test_a_column_without_values_or_of_several_kinds_is_a_text(tmp_path: Path) -> None:
    rows = "\n".join(f",{n if n % 2 else 'x'}" for n in range(40))
    one = proposed(tmp_path, f"never,mixed\n{rows}\n".encode())
    never, mixed = declared(one).columns
    assert (never.type, never.nullable, mixed.type) == ("text", True, "text")
    assert "of several kinds" in one.remarks["mixed"]
    assert judged(tmp_path, one.source)[REASON].null_count() == 40


def the_column(folder: Path, values: list[str]) -> tuple[Column, str, pl.DataFrame]:
    """The proposed column of these texts, what is said of it, and the rows as it reads them; none is refused."""
    one = proposed(folder, "\n".join(["x,other", *(f'"{value}",{at}' for at, value in enumerate(values))]).encode())
    rows = judged(folder, declared(one))
    assert rows[REASON].null_count() == len(values)
    return one.source.columns[0], one.remarks["x"], rows


def test_digits_that_a_number_would_not_keep_are_texts(tmp_path: Path) -> None:
    for values in (
        [f"94001118992231974284{n:02}" for n in range(50)],
        [str(2**63 - 25 + n) for n in range(50)],
        ["00501", "0501", "01001", "99950"],
    ):
        column, remark, rows = the_column(tmp_path, values)
        assert column.type == "text"
        assert "a number would not keep" in remark
        assert rows["x"].to_list() == values


def test_ids_of_64_bits_without_a_sign_stay_different(tmp_path: Path) -> None:
    ids = pl.Series("x", [2**64 - 1 - n for n in range(50)], dtype=pl.UInt64)
    ids.to_frame().write_parquet(tmp_path / "x.parquet")
    one = propose(str(tmp_path), "x", "x.parquet")
    assert (one.source.columns[0].type, one.source.key) == ("text", ("x",))
    assert judged(tmp_path, one.source)["x"].to_list() == ids.cast(pl.String).to_list()


def test_commas_before_three_digits_are_taken_for_thousands_and_asked_about(tmp_path: Path) -> None:
    column, remark, rows = the_column(tmp_path, ["5,390", "517", "1,234,567"] * 9)
    assert (column.type, column.thousands, rows["x"][:3].to_list()) == ("integer", ",", [5390, 517, 1234567])
    assert "or for 1.234?" in remark
    column, _, rows = the_column(tmp_path, ["5,390.50", "517.25", "1,234"] * 9)
    assert (column.type, column.thousands, rows["x"][:3].to_list()) == ("number", ",", [5390.5, 517.25, 1234])
    column, _, rows = the_column(tmp_path, ["5,390", "5,39", "0,123"] * 9)
    assert (column.type, column.decimal_comma, rows["x"][:3].to_list()) == ("number", True, [5.39, 5.39, 0.123])


def test_long_texts_with_one_beginning_are_different_values_and_no_choices(tmp_path: Path) -> None:
    column, _, rows = the_column(tmp_path, ["a" * 250 + "x", "a" * 250 + "y"] * 40)
    assert column.choices == ()
    assert rows["x"].n_unique() == 2
    profile = propose(str(tmp_path), "x", "x.csv").profile.column("x")
    assert profile is not None
    assert [rows for _, rows in profile.top] == [40, 40]


@pytest.mark.parametrize("unit", ["e-13", "e-15", "e-300", "e-323"])
def test_limits_of_small_numbers_lie_beyond_what_was_seen(tmp_path: Path, unit: str) -> None:
    column, _, _ = the_column(tmp_path, [f"{n}{unit}" for n in range(1, 60)])
    assert column.maximum is not None
    assert 59 < column.maximum / float(f"1{unit}") < 200


def test_numbers_beyond_what_models_compute_with_are_told(tmp_path: Path) -> None:
    one = proposed(tmp_path, "\n".join(["x", *(f"{n}e38" for n in range(1, 30))]).encode())
    assert "beyond 3.4e+38, which models compute with, rows will be quarantined" in one.remarks["x"]


def test_white_space_alone_is_null_as_the_contract_has_it(tmp_path: Path) -> None:
    column, _, rows = the_column(tmp_path, ["a", "  ", "b", "\u200b"] * 9)
    assert (column.nullable, rows["x"].null_count()) == (True, 18)
