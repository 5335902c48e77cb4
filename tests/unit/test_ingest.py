"""Every record is accepted, repaired, quarantined or not yet known, whatever files and partitions it came in."""

import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts, ContentDigest, digest_each_row
from mlops_ray.config import load_settings
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.ingestion import judged, records
from mlops_ray.ingestion.counting import PLACES, NamedPiece, count_partition, write_accepted
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.judged import judge_file, key_of
from mlops_ray.ingestion.kept_files import begin_use, end_use
from mlops_ray.ingestion.quarantine import refusals
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.snapshot import Snapshot, SourceCounts, load_snapshot, sum_counts
from mlops_ray.ingestion.sources import SourceFile, find_all_files, find_files
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.training.candidates import GradientBoosting

AS_OF, DAY = datetime(2025, 6, 1, tzinfo=UTC), timedelta(days=1)
SOURCE = Source(
    path="*.csv",
    columns=(Column("id", "integer", nullable=True), Column("at", "timestamp"), Column("note", "text", nullable=True)),
    key=("id",),
    known_at=pl.col("at"),
)


@dataclass(frozen=True)
class Ingested:
    counts: SourceCounts
    accepted: pl.DataFrame
    quarantined: pl.DataFrame
    digests: tuple[str, str]
    errors: list[str]


def ingested(folder: Path, source: Source = SOURCE, partitions: int = 1, order: int | None = None) -> Ingested:
    """As `ingest` does, without Ray: pieces in any order, in so many partitions."""
    artifacts, files = Artifacts(f"{folder}/.state"), find_files(str(folder), "numbers", source)
    known = [judge_file(artifacts, file, source, key_of(file, repr(source))) for file in files]
    pieces = [NamedPiece(file.name, piece) for file, one in zip(files, known, strict=True) for piece in one.pieces]
    if order is not None:
        random.Random(order).shuffle(pieces)
    parts = [count_partition(artifacts, source, pieces, AS_OF, number, partitions) for number in range(partitions)]
    summaries, out, refused = zip(*parts, strict=True)
    if pieces:
        numbered = list(enumerate(one.piece for one in pieces))
        write_accepted(artifacts, numbered, ("accepted.parquet",), pl.DataFrame(schema=PLACES), *out)
    return Ingested(
        sum_counts([one.counts for one in summaries]),
        artifacts.read_table("accepted.parquet") if pieces else pl.DataFrame(),
        pl.concat(refused).sort("file", "line"),
        (
            sum((one.accepted for one in summaries), ContentDigest()).hex(),
            sum((one.quarantined for one in summaries), ContentDigest()).hex(),
        ),
        [one.error[1] for one in known if one.error],
    )


def write(folder: Path, *rows: str, name: str = "x.csv", header: str = "id,at,note") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join((header, *rows)) + "\n", newline="")
    return folder


MAY, JULY = "2025-05-01T00:00:00Z", "2025-07-01T00:00:00Z"


def expect_balance(counts: SourceCounts) -> None:
    assert counts.rows_in == counts.accepted + counts.repaired + counts.quarantined + counts.not_yet_known


def test_quarantine_gives_back_the_bytes_and_the_place_of_each_refused_record(tmp_path: Path) -> None:
    content = f'id,at,note\r\n1,{MAY},"a\r\nb"\r\n\r\nx,{MAY},"ü ""q"""\r\n2,{MAY}\r\n1,{MAY},"a\r\nb"\r\n3,"{MAY}'
    (tmp_path / "x.csv").write_bytes(content.encode("latin-1"))
    found = ingested(tmp_path, replace(SOURCE, encoding="latin-1"))
    assert found.quarantined.rows() == [
        ("x.csv", 5, 1, "id:not_integer", f'x,{MAY},"ü ""q"""\r\n'.encode("latin-1")),
        ("x.csv", 6, 1, "malformed", f"2,{MAY}\r\n".encode()),
        ("x.csv", 7, 2, "duplicate_key", f'1,{MAY},"a\r\nb"\r\n'.encode()),
        ("x.csv", 9, 1, "malformed", f'3,"{MAY}'.encode()),
    ]
    assert (found.counts.lines.header, found.counts.lines.blank, found.counts.lines.accepted) == (1, 1, 2)


def test_rows_that_are_not_known_yet_have_a_count_of_their_own(tmp_path: Path) -> None:
    found = ingested(write(tmp_path, f"1,{MAY},a", f"2,{JULY},b", f"3,{JULY},b", f"x,{MAY},b"))
    assert (found.counts.accepted, found.counts.not_yet_known, found.counts.quarantined) == (1, 2, 1)
    assert found.counts.reasons == {"id:not_integer": 1}
    assert found.counts.lines.not_yet_known == 2
    expect_balance(found.counts)


def test_what_is_not_known_yet_changes_nothing(tmp_path: Path) -> None:
    before = ingested(write(tmp_path / "a", f"1,{MAY},a"))
    after = ingested(write(tmp_path / "b", f"1,{MAY},a", f"1,{JULY},b"))
    assert before.digests == after.digests


def test_a_key_that_is_missing_has_a_reason_of_its_own(tmp_path: Path) -> None:
    found = ingested(write(tmp_path, *[f",{MAY},a"] * 100, f"1,{MAY},a"))
    assert found.counts.reasons == {"id:missing_key": 100}
    assert found.counts.accepted == 1


def test_a_file_with_malformed_rows_only(tmp_path: Path) -> None:
    write(tmp_path, f"1,{MAY},a")
    found = ingested(write(tmp_path, "a", "b", name="y.csv"))
    assert (found.counts.accepted, found.counts.reasons) == (1, {"malformed": 2})


@pytest.mark.parametrize("partitions", [2, 9])
def test_partitions_may_be_empty(tmp_path: Path, partitions: int) -> None:
    write(tmp_path, f"1,{MAY},a")
    assert ingested(tmp_path, partitions=partitions).digests == ingested(tmp_path).digests


def test_a_row_delivered_twice_is_one_row(tmp_path: Path) -> None:
    write(tmp_path, f"1,{MAY},a", name="b.csv")
    found = ingested(write(tmp_path, f" 1,{MAY},a ", name="a.csv"))
    assert found.counts.accepted + found.counts.repaired == 1
    assert found.quarantined["file"].to_list() == ["b.csv"]
    assert found.counts.reasons == {"duplicate_key": 1}


CORRECTED = (f"1,{MAY},old", f"1,{MAY.replace('-01T', '-03T')},new", f"2,{MAY},x")


def test_of_rows_that_contradict_each_other_none_counts_by_default(tmp_path: Path) -> None:
    found = ingested(write(tmp_path, *CORRECTED))
    assert found.accepted["id"].to_list() == [2]
    assert found.counts.reasons == {"conflicting_key": 2}


@pytest.mark.parametrize(("keep", "note"), [("last", "new"), ("first", "old")])
def test_a_correction_counts_where_the_source_says_so(tmp_path: Path, keep: str, note: str) -> None:
    source = replace(SOURCE, keep=keep, keep_by="at")  # type: ignore[arg-type]
    found = ingested(write(tmp_path, *CORRECTED), source)
    assert found.accepted.sort("id")["note"].to_list() == [note, "x"]
    assert found.counts.reasons == {"duplicate_key": 1}


def test_of_two_last_rows_that_differ_none_counts(tmp_path: Path) -> None:
    found = ingested(write(tmp_path, *CORRECTED, f"1,{MAY.replace('-01T', '-03T')},other"), replace(
        SOURCE, keep="last", keep_by="at"
    ))  # fmt: skip
    assert found.counts.reasons == {"conflicting_key": 2, "duplicate_key": 1}
    assert found.accepted["id"].to_list() == [2]


def winners(rows: list[tuple[int, int | None, str]], keep: str | None) -> tuple[list[tuple[int, int | None, str]], int]:
    """The rule once more, a key at a time; and how many rows conflict."""
    accepted, conflicts = [], 0
    for key in {row[0] for row in rows}:
        rivals = [row for row in rows if row[0] == key]
        values = [row[1] for row in rivals if row[1] is not None]
        if keep and values:
            best = max(values) if keep == "last" else min(values)
            rivals = [row for row in rivals if row[1] == best]
        if len(set(rivals)) == 1:
            accepted.append(rivals[0])
        else:
            conflicts += len(rivals)
    return sorted(accepted, key=str), conflicts


keyed_rows = st.lists(
    st.tuples(st.integers(0, 3), st.none() | st.integers(0, 2), st.sampled_from(["a", "b"])), min_size=1, max_size=14
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keyed_rows, st.sampled_from([None, "first", "last"]), st.integers(1, 5), st.randoms())
def test_which_row_counts_depends_neither_on_files_nor_on_partitions(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, int | None, str]],
    keep: str | None,
    partitions: int,
    chance: random.Random,
) -> None:
    columns = (Column("id", "integer"), Column("version", "integer", nullable=True), Column("note", "text"))
    source = Source("*.csv", columns, key=("id",), keep=keep, keep_by=keep and "version")  # type: ignore[arg-type]
    lines = [",".join("" if value is None else str(value) for value in row) for row in rows]
    right, conflicts = winners(rows, keep)
    found = []
    for arrangement in range(2):
        folder = tmp_path_factory.mktemp("files")
        shuffled = chance.sample(lines, len(lines))
        for number, part in enumerate((shuffled[::2], shuffled[1::2])):
            write(folder, *part, name=f"{number}.csv", header="id,version,note")
        found.append(ingested(folder, source, partitions if arrangement else 1, order=arrangement))
    for one in found:
        assert sorted(one.accepted.rows(), key=str) == right
        assert one.counts.reasons.get("conflicting_key", 0) == conflicts
        expect_balance(one.counts)
    assert found[0].digests[0] == found[1].digests[0]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([
    f"1,{MAY},a\n", f"2,{MAY},b\r\n", f"2,{MAY},c\n", f"3,{JULY},a\n", "\n", "\r\n", "x\n", f'4,{MAY},"q\n\n"\n',
    f'4,{MAY},"q\n\n"z\n', f",{MAY},\n", f'5,{MAY}, x\r', '"', "6,"]), max_size=15), st.integers(1, 3))  # fmt: skip
def test_lines_balance_and_every_refused_byte_is_given_back(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], partitions: int
) -> None:
    folder, content = tmp_path_factory.mktemp("files"), "id,at,note\n" + "".join(parts)
    (folder / "x.csv").write_bytes(content.encode())
    found = ingested(folder, SOURCE, partitions)
    lines = content.replace("\r\n", "\n").replace("\r", "\n")
    count = lines.count("\n") + (not lines.endswith("\n"))
    told = found.counts.lines
    assert told.header + told.blank + told.accepted + told.quarantined + told.not_yet_known == count
    expect_balance(found.counts)
    assert ingested(folder, SOURCE).digests == found.digests
    # Taken out of the file, the refused records leave a file of which nothing is refused, with the same accepted rows.
    rest = content.encode()
    for raw in sorted(found.quarantined["raw"], key=len, reverse=True):
        assert raw in rest
    kept = rest
    for line, raw in found.quarantined.sort("line", descending=True).select("line", "raw").rows():
        at = starts_of_lines(content)[line - 1]
        assert kept[at : at + len(raw)] == raw
        kept = kept[:at] + kept[at + len(raw) :]
    (folder / "x.csv").write_bytes(kept)
    again = ingested(folder, SOURCE)
    assert again.counts.quarantined == 0
    assert again.digests[0] == found.digests[0]


def starts_of_lines(content: str) -> list[int]:
    file = io.StringIO(content, newline="")
    starts, at = [], 0
    for line in file:
        starts.append(at)
        at += len(line.encode())
    return starts


CASE = UseCase(
    name="numbers",
    sources={"numbers": replace(SOURCE, derived={"day": pl.col("at").dt.truncate("1d")})},
    entities=("id",),
    event_time="at",
    label=Label("x", value=pl.col("note") == "a", known_at=pl.col("at")),
    candidates=(GradientBoosting(),),
)
some_lines = st.lists(st.sampled_from([
    f"1,{MAY},a", f"1,{MAY},b", f"2,{MAY},b", f"2,{JULY},b", f" 4,{MAY}, x ", "x", f",{MAY},n", f",{JULY},"
]), max_size=6)  # fmt: skip
deliveries = st.lists(
    st.tuples(st.sampled_from("abc"), st.none() | some_lines, st.sampled_from([AS_OF, AS_OF + 60 * DAY, None])),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries, st.sampled_from([None, "first", "last"]))
def test_what_is_ingested_file_by_file_is_what_is_ingested_at_once(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, list[str] | None, datetime | None]],
    keep: Literal["first", "last"] | None,
) -> None:
    """Files come, change and go between ingests, and so does the moment: each ingest is that of an empty state."""
    folder = tmp_path_factory.mktemp("incremental")
    source = replace(CASE.sources["numbers"], keep=keep, keep_by=keep and "at")
    case = replace(CASE, sources={"numbers": source})
    write(folder / "data", f"9,{MAY},z", name="always.csv")
    for number, (name, lines, as_of) in enumerate(steps):
        if lines is None:
            (folder / f"data/{name}.csv").unlink(missing_ok=True)
        else:
            write(folder / "data", *lines, name=f"{name}.csv")
        found = [whole_ingest(case, folder / "data", folder / state, as_of) for state in ("kept", f"new-{number}")]
        assert found[0] == found[1]
        expect_balance(found[0][0].counts["numbers"])


def whole_ingest(case: UseCase, data: Path, state: Path, as_of: datetime | None) -> tuple[Snapshot, Any, Any]:
    places = load_settings(state=str(state), data=str(data))
    files = find_all_files(places, case.sources, remember=False)
    snapshot, artifacts = (
        ingest(case, places, as_of, "code", {"numbers": "contract"}, files),
        Artifacts(places.artifacts),
    )
    read = load_snapshot(artifacts, case.name, snapshot.digest)
    assert read == snapshot
    rows = [read.tables(artifacts)["numbers"], read.quarantine(artifacts, "numbers")]
    assert rows[0].height == read.counts["numbers"].accepted + read.counts["numbers"].repaired
    assert digest_each_row(rows[0]).hex() == read.content["numbers"]["accepted"]
    assert digest_each_row(rows[1]).hex() == read.content["numbers"]["quarantined"]
    return read, *(sorted(table.rows(), key=str) for table in rows)


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def reader(file: SourceFile, source: Source) -> Any:
        read.append(file.name)
        return read_file(file, source)

    monkeypatch.setattr(judged, "read_file", reader)
    write(tmp_path / "data", f"1,{MAY},a", name="1.csv")
    write(tmp_path / "data", f"2,{MAY},a", name="2.csv")
    whole_ingest(CASE, tmp_path / "data", tmp_path, AS_OF)
    assert sorted(read) == ["1.csv", "2.csv"]
    (tmp_path / "data/2.csv").rename(tmp_path / "data/renamed.csv")
    write(tmp_path / "data", f"3,{MAY},a", name="3.csv")
    whole_ingest(CASE, tmp_path / "data", tmp_path, AS_OF)
    assert sorted(read) == ["1.csv", "2.csv", "3.csv"]
    # What is lost of what was kept is read again, and so is all under another contract.
    next(iter(tmp_path.glob("artifacts/judged/*/accepted-00000.parquet"))).unlink()
    whole_ingest(CASE, tmp_path / "data", tmp_path, AS_OF)
    assert len(read) == 4
    ingest(CASE, load_settings(state=str(tmp_path), data=str(tmp_path / "data")), AS_OF, "code", {"numbers": "other"})
    assert len(read) == 7


def edit_a_value(folder: Path) -> None:
    table = folder / "accepted-00000.parquet"
    pl.read_parquet(table).with_columns(pl.lit("forged").alias("note")).write_parquet(table)


def cut(folder: Path) -> None:
    table = folder / "accepted-00000.parquet"
    table.write_bytes(table.read_bytes()[:-20])


def edit_a_count(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"accepted": 1', '"accepted": 2'))


@pytest.mark.parametrize(
    "damage",
    [
        edit_a_value,
        cut,
        edit_a_count,
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("{}"),
        lambda folder: (folder / "refused-00000.parquet").write_bytes(b""),
    ],
    ids=["edited value", "cut", "edited count", "no JSON", "another format", "empty"],
)
def test_what_is_kept_of_a_file_and_was_changed_is_as_good_as_absent_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    write(tmp_path / "data", f"1,{MAY},a", name="1.csv")
    expected = whole_ingest(CASE, tmp_path / "data", tmp_path, AS_OF)
    (folder,) = tmp_path.glob("artifacts/judged/*")
    damage(folder)
    shutil.rmtree(tmp_path / "artifacts/snapshots")
    assert whole_ingest(CASE, tmp_path / "data", tmp_path, AS_OF) == expected
    assert f"{folder}/" in caplog.text
    assert "is judged again" in caplog.text
    caplog.clear()
    whole_ingest(CASE, tmp_path / "data", tmp_path, AS_OF)
    assert "judged again" not in caplog.text


def test_what_no_ingest_uses_any_more_goes_after_a_day_and_never_what_another_use_case_uses(tmp_path: Path) -> None:
    artifacts, begun = Artifacts(str(tmp_path)), datetime(2030, 1, 1, tzinfo=UTC)
    for key in ("a", "b", "c", "killed"):
        artifacts.write_json({}, "judged", key, "part.json")

    def there() -> list[str]:
        return [entry.name for entry in artifacts.entries("judged")]

    begin_use(artifacts, "trains", ["c"], begun)
    begin_use(artifacts, "flights", ["a", "b"], begun)
    end_use(artifacts, "flights", ["a", "b"], begun)
    end_use(artifacts, "flights", ["a"], begun + DAY / 2)
    assert there() == ["a", "b", "c", "killed"], "not at once: another ingest may be about to use it"
    end_use(artifacts, "flights", ["a"], begun + DAY)
    assert there() == ["a", "b", "c"], "unused for a day"
    begin_use(artifacts, "trains", ["b"], begun + DAY)
    end_use(artifacts, "flights", ["a"], begun + 3 * DAY)
    assert there() == ["a", "b", "c"], "what an ingest that runs needs, and what its last one did"
    end_use(artifacts, "flights", ["a"], begun + 40 * DAY)
    end_use(artifacts, "flights", ["a"], begun + 41 * DAY)
    assert there() == ["a"], "of a use case that is not ingested any more"


def test_an_ingest_says_what_it_uses(tmp_path: Path) -> None:
    write(tmp_path / "data", f"1,{MAY},a", name="1.csv")
    whole_ingest(CASE, tmp_path / "data", tmp_path, AS_OF)
    (kept,) = tmp_path.glob("artifacts/judged/*")
    found = Artifacts(f"{tmp_path}/artifacts").read_json("judged_use", f"{CASE.name}.json")
    assert found is not None
    assert found["keys"] == [kept.name]


@pytest.mark.parametrize(
    "change",
    [
        {"columns": (replace(SOURCE.columns[0], minimum=1), *SOURCE.columns[1:])},
        {"known_at": pl.col("at") + DAY},
        {"derived": {"day": pl.col("at").dt.truncate("1d")}},
        {"encoding": "latin-1"},
        {"key": ()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_file_is_judged_again_where_its_source_says_something_else(change: dict[str, Any]) -> None:
    assert contract(replace(SOURCE, **change)) != contract(SOURCE)
    assert contract(replace(SOURCE)) == contract(SOURCE)


def test_a_file_in_several_pieces_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{number},{MAY},{'note' * 10}" for number in range(300)]
    whole = ingested(write(tmp_path, *lines, "x", lines[7]))
    monkeypatch.setattr(judged, "PIECE_BYTES", 1_000)
    monkeypatch.setattr(records, "BLOCK_BYTES", 2_000)
    shutil.rmtree(tmp_path / ".state")
    parts = ingested(tmp_path, partitions=3)
    assert len(list(tmp_path.glob(".state/judged/*/accepted-*.parquet"))) > 3
    assert (parts.counts, parts.digests) == (whole.counts, whole.digests)
    assert parts.accepted.equals(whole.accepted)


def test_of_files_that_are_alike_each_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "data", name=f"{name}.csv", header="id")
    with pytest.raises(DataError, match=r"(?s)File a\.csv: column at.*File b\.csv: column at"):
        whole_ingest(CASE, tmp_path / "data", tmp_path, AS_OF)
    for name in ("a", "b"):
        write(tmp_path / "data", f"1,{MAY},x", name=f"{name}.csv")
    found, _, refused = whole_ingest(CASE, tmp_path / "data", tmp_path, AS_OF)
    assert (found.counts["numbers"].accepted, [row[0] for row in refused]) == (1, ["b.csv"])


def test_errors_of_the_contract_are_told_with_the_file(tmp_path: Path) -> None:
    write(tmp_path, "1", name="a.csv", header="id")
    (tmp_path / "b.csv").write_bytes(b"")
    found = ingested(tmp_path)
    assert len(found.errors) == 2
    assert "File a.csv: column at" in found.errors[0]
    assert "File b.csv cannot be read" in found.errors[1]


def test_a_duplicate_in_a_parquet_file_has_its_row_and_its_values(tmp_path: Path) -> None:
    at = datetime(2025, 5, 1, tzinfo=UTC)
    pl.DataFrame({"id": [1, 1, None], "at": [at] * 3, "note": ["a", "a", "ü"]}).write_parquet(tmp_path / "x.parquet")
    found = ingested(tmp_path, replace(SOURCE, path="*.parquet"))
    assert found.quarantined.select("line", "lines", "reason").rows() == [
        (2, 0, "duplicate_key"),
        (3, 0, "id:missing_key"),
    ]
    assert [json.loads(raw)["note"] for raw in found.quarantined["raw"]] == ["a", "ü"]


def test_the_end_of_the_step_tells_reasons_and_warns_above_a_share(tmp_path: Path) -> None:
    good = [f"{number},{MAY},a" for number in range(200)]
    few = ingested(write(tmp_path / "few", *good, f"x,{MAY},a")).counts
    many = ingested(write(tmp_path / "many", *good, *["x"] * 50, f"x,{MAY},a")).counts
    told = refusals({"few": vars(few), "many": vars(many)})
    assert told[0] == "few: 1 of 201 rows quarantined (id:not_integer 1)"
    assert told[1].startswith("warning: many: 51 of 251 rows quarantined (malformed 50, id:not_integer 1), 20.3%")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "utf-9"}, "encoding 'utf-9' is unknown"),
        ({"encoding": "base64"}, "encoding 'base64' is unknown"),
        ({"encoding": "iso2022_jp"}, "lines and columns cannot be told"),
        ({"encoding": "gbk", "delimiter": "|"}, "lines and columns cannot be told"),
        ({"delimiter": ";;"}, "delimiter ';;' must be one ASCII character"),
        ({"delimiter": "§"}, "one ASCII character"),
        ({"quote": "\n"}, "one ASCII character"),
        ({"quote": ","}, "are both"),
        ({"keep": "last"}, "go together"),
        ({"keep_by": "at"}, "go together"),
        ({"keep": "last", "keep_by": "at", "key": ()}, "go together"),
        ({"keep": "newest", "keep_by": "at"}, "Give 'first', 'last' or None"),
        ({"keep": "last", "keep_by": "when"}, "keep_by 'when' is not a column"),
        ({"key": ("nr",)}, "key 'nr' is not a column"),
        ({"path": "/data/*.csv"}, "must lie below the data folder"),
        ({"path": "../*.csv"}, "must lie below the data folder"),
        ({"derived": {"note": pl.lit(1)}}, "declared twice"),
        ({"derived": {"__line": pl.lit(1)}}, "begin with __"),
    ],
)
def test_a_source_that_cannot_be_read_so_is_refused_at_declaration(change: dict[str, object], message: str) -> None:
    with pytest.raises(UseCaseError, match=message):
        replace(SOURCE, **change)  # type: ignore[arg-type]
