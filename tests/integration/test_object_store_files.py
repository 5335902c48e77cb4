"""Raw files and artifacts in an object store: options in the URL hold for every file, whatever its name."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import boto3
import polars as pl
import pytest
from moto.server import ThreadedMotoServer

from mlops_ray import Column, Source
from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.ingestion import file_digests, shared_tables, writing
from mlops_ray.ingestion.file_digests import FileDigests
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.sources import find_files
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.reader import rows_between, rows_of_request
from mlops_ray.predictions.segments import KEY, read_between, read_segment, segments
from mlops_ray.predictions.table import LedgerTable
from tests.unit.test_catalogue import ingested, month, rows_of
from tests.unit.test_compaction import NAME, NOON, write

SOURCE = Source("**/*.csv", (Column("a", "integer"),))
NAMES = ["x.csv", "two words.csv", "50%20 off #1 (ü)?.csv", "deep er/y+z&=.csv"]


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with files, as the options that lead to it; the environment knows nothing of the server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    store = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
    store.create_bucket(Bucket="lake")
    for name in NAMES:
        store.put_object(Bucket="lake", Key=f"raw data/{name}", Body=b"a\n1\n")
    store.put_object(Bucket="lake", Key="raw data/.hidden/z.csv", Body=b"a\n1\n")
    yield f"?region=us-east-1&endpoint_override=127.0.0.1:{port}&scheme=http"
    server.stop()


@pytest.mark.parametrize("folder", ["s3://lake/raw data", "s3://lake/raw%20data/"])
def test_files_of_any_name_are_found_and_read_with_the_options_of_the_url(lake: str, folder: str) -> None:
    files = find_files(folder + lake, "x", SOURCE)
    assert [file.name for file in files] == sorted(NAMES)
    assert all(file.url.endswith(lake) for file in files)
    assert [row for file in files for one in read_file(file, SOURCE) for row in one.frame["a"]] == ["1"] * 4


def test_an_object_is_hashed_once_until_it_changes(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now, digests = file_digests.time.time, FileDigests()
    monkeypatch.setattr(file_digests.time, "time", lambda: now() + 60)
    first = find_files("s3://lake/raw data" + lake, "x", SOURCE, digests)
    monkeypatch.setattr(file_digests, "_sha256", lambda *_: "read again")
    assert find_files("s3://lake/raw data" + lake, "x", SOURCE, digests) == first


def test_a_ledger_is_compacted_searched_and_erased_there(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "elsewhere-1")  # what the URL says counts
    artifacts = Artifacts(f"s3://lake/some%20artifacts{lake}")
    ids = [one for minute in range(4) for one in write(artifacts, NOON + timedelta(minutes=minute))]
    assert compact(artifacts, NAME, lambda segment: True).rows == 200
    ids += write(artifacts, NOON + timedelta(minutes=5))
    start, end = NOON - timedelta(hours=1), NOON + timedelta(hours=1)
    for request_id in (ids[70], ids[-1]):
        assert rows_of_request(artifacts, NAME, request_id, start, end)["request_id"].to_list() == [request_id]
    assert compact(artifacts, NAME, lambda segment: True).rows == 50
    assert segments(artifacts, NAME) == []
    found = pl.concat(rows_between(artifacts, NAME, start, end), how="diagonal_relaxed")
    assert sorted(found["request_id"]) == ids
    LedgerTable(artifacts, NAME).erase(lambda name, kind: name == f"{KEY}carrier", "AA")
    assert rows_between(artifacts, NAME, start, end) == []


def test_an_artifact_root_may_have_options_too(lake: str) -> None:
    artifacts = Artifacts("s3://lake/art efacts" + lake)
    url = artifacts.write_table(pl.DataFrame({"a": [1]}), "tables", "one part.parquet")
    artifacts.write_json({"n": 1}, "record.json")
    artifacts.share(("record.json",), ("also", "record.json"))
    assert artifacts.read_json("also", "record.json") == {"n": 1}
    assert artifacts.read_table("tables").height == 1
    assert artifacts.read_json("record.json") == {"n": 1}
    assert url == f"s3://lake/art efacts/tables/one%20part.parquet{lake}"


def test_a_bucket_that_does_not_exist_is_named(lake: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Source x: .*s3://nowhere"):
        find_files("s3://nowhere/raw" + lake, "x", SOURCE)


def test_of_two_who_create_a_file_one_does(lake: str) -> None:
    artifacts = Artifacts(f"s3://lake/some%20artifacts{lake}")
    assert artifacts.create_bytes(b"one", "state", "000000000001")
    assert not artifacts.create_bytes(b"two", "state", "000000000001")
    assert artifacts.read_bytes("state", "000000000001") == b"one"


def repeated_month(settings: Settings, number: int) -> None:
    """One of its rows comes twice, so that its table is not what was judged of its file."""
    month(settings, number)
    file = Path(settings.data, f"visits_{number}.csv")
    file.write_text(file.read_text() + file.read_text().splitlines()[1] + "\n")


def test_a_table_that_did_not_change_is_copied_by_the_store_and_one_that_was_damaged_is_not(
    lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw").mkdir()
    settings = Settings(state=str(tmp_path), data=str(tmp_path / "raw"), artifacts=f"s3://lake/kept{lake}")
    artifacts, really, written = Artifacts(settings.artifacts), writing.write_accepted, list[str]()

    def noted(artifacts: Artifacts, pieces: object, name: tuple[str, ...], *out: pl.DataFrame) -> str:
        written.append(name[-1])
        return really(artifacts, pieces, name, *out)  # type: ignore[arg-type]

    monkeypatch.setattr(writing, "write_accepted", noted)
    monkeypatch.setattr(shared_tables, "TABLE_BYTES", 1)
    repeated_month(settings, 1)
    first = ingested(settings)
    repeated_month(settings, 2)
    assert rows_of(settings, ingested(settings)) == 80
    assert len(written) == 2  # one a month
    artifacts.write_bytes(b"damaged", *first.place("visits"), written[0])
    artifacts.delete("last_ingest")
    artifacts.write_json({"digest": first.digest}, "last_ingest", "visits.json")
    repeated_month(settings, 3)
    assert rows_of(settings, ingested(settings)) == 120
    assert sorted(written[2:]) == sorted({*written[2:]})
    assert written[0] in written[2:]


def test_of_two_abandoned_the_one_that_is_old_enough_is_deleted(lake: str) -> None:
    artifacts = Artifacts(f"s3://lake/root{lake}")
    artifacts.write_bytes(b"x", "fits", "flights", "one", "epoch")
    artifacts.delete_abandoned(timedelta(days=7), "fits", "flights")
    assert artifacts.read_bytes("fits", "flights", "one", "epoch") == b"x"
    artifacts.delete_abandoned(timedelta(seconds=-5), "fits", "flights")
    assert artifacts.entries("fits", "flights") == []


def test_credentials_that_are_changed_in_the_environment_are_those_of_the_next_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is kept of a client, on both ways to an object store."""
    with asked_by() as (port, names):
        artifacts = Artifacts(f"s3://lake/a?region=us-east-1&endpoint_override=127.0.0.1:{port}&scheme=http")
        for name in ("first", "second"):
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", name)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            assert artifacts.read_json("settings.json") is None
            assert artifacts.create_bytes(b"{}", "settings.json")
            assert set(names) == {name}
            names.clear()


def test_a_wide_table_takes_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    table = pl.DataFrame({f"column_{number}": range(20_000) for number in range(40)})
    content = BytesIO()
    table.write_parquet(content, compression="uncompressed", row_group_size=10_000)
    with asked_by(content.getvalue()) as (port, names):
        artifacts = Artifacts(f"s3://lake/a?region=us-east-1&endpoint_override=127.0.0.1:{port}&scheme=http")
        assert artifacts.read_rows(pl.Series([3, 15_000]), "table.parquet").rows() == [(3,) * 40, (15_000,) * 40]
        few, found = len(names), read_segment(artifacts.url("table.parquet"))
        assert found.equals(table)
        names.clear()
        assert read_between(artifacts.url("table.parquet"), "column_0", 5, 6).rows() == [(5,) * 40, (6,) * 40]
    assert few <= 6
    assert len(names) <= 4


def test_a_small_object_is_one_message_in_whichever_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with asked_by() as (port, names):
        artifacts = Artifacts(f"s3://lake/a?region=us-east-1&endpoint_override=127.0.0.1:{port}&scheme=http")
        artifacts.write_json({"a": 1}, "x", "y", "settings.json")
        artifacts.write_bytes(b"a", "x", "z", "bytes")
        artifacts.write_table(pl.DataFrame({"a": [1]}), "w", "table.parquet")
        artifacts.share(("w", "table.parquet"), ("w", "also.parquet"))
    assert len(names) == 4


@contextmanager
def asked_by(content: bytes = b"") -> Iterator[tuple[int, list[str]]]:
    """An object store that has nothing, or `content` by every name, and takes everything: its port, and the key id of
    each request."""
    names: list[str] = []

    class Store(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", "")):
                first, last = int(asked[1]), int(asked[2])
                self.answer(206, content[first : last + 1], f"bytes {first}-{last}/{len(content)}")
            else:
                self.answer(200 if content else 404, content)

        def do_HEAD(self) -> None:
            self.answer(200 if content else 404, content)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.answer(200)

        def answer(self, status: int, body: bytes = b"", range_: str = "") -> None:
            names.append(self.headers["authorization"].partition("Credential=")[2].partition("/")[0])
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header("last-modified", "Sun, 29 Nov 2026 10:00:00 GMT")
            if range_:
                self.send_header("content-range", range_)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield server.server_port, names
    finally:
        server.shutdown()
        server.server_close()
