"""The pages about data: what was refused and why, profiles, and that nobody's personal columns are on them."""

import html
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.main import app
from mlops_ray.exploration.compare import compare
from mlops_ray.exploration.kept import kept_profiles
from mlops_ray.exploration.profile import profile_of
from mlops_ray.ingestion.snapshot import Snapshot
from tests.console_data import PERSON, ingest_twice
from tests.console_server import HOSTILE, ConsoleServer, console, whole
from tests.unit.test_profile import sketched

DATA = "/console/use-cases/flights/data"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConsoleServer, list[Snapshot]]]:
    """Column names and values that would run, if they could."""
    with console(tmp_path_factory.mktemp("state")) as server:
        yield server, ingest_twice(server.settings, HOSTILE, HOSTILE)


def texts(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page)))


def test_rows_and_refusals_are_the_commands(hostile: tuple[ConsoleServer, list[Snapshot]]) -> None:
    server, (first, last) = hostile
    browser = server.browser("root")
    state = server.settings.state
    listed = json.loads(CliRunner().invoke(app, ["data", "list", "flights", "--json", "--state", state]).stdout)
    overview = texts(whole(browser, DATA).text)
    for one in listed["snapshots"]:
        assert f"{one['digest'][:12]} {one['as_of'][:10]}" in overview
        assert f"UTC {one['rows']:,} {one['bytes']:,} " in overview
    page = texts(browser.get(f"{DATA}/{last.digest}").text)
    for source, one in last.counts.items():
        counts = (one.rows_in, one.accepted, one.repaired, one.quarantined, one.not_yet_known)
        assert f" {source} {' '.join(f'{count:,}' for count in counts)} " in page
    assert "trips: 4 of 604 rows quarantined" in page
    assert "malformed 1" in page
    assert "trips_1.csv 402 " in page
    artifacts = Artifacts(server.settings.artifacts)
    before, after = (kept_profiles(artifacts, "flights", one.digest) or {} for one in (first, last))
    moved = compare(before["trips"], after["trips"]).sentences()
    assert moved
    assert all(f"trips: {sentence}".replace("\u202e", "\ufffd") in page for sentence in moved)


def test_a_profile_says_what_was_kept(hostile: tuple[ConsoleServer, list[Snapshot]]) -> None:
    server, (_, last) = hostile
    kept = (kept_profiles(Artifacts(server.settings.artifacts), "flights", last.digest) or {})["trips"]
    page = texts(server.browser("bob").get(f"{DATA}/{last.digest}/profile/trips").text)
    assert f"{kept.rows:,} rows {len(kept.columns):,} columns" in page
    for column in kept.columns:
        assert f"{column.missing_share:.1%} missing" in page
        assert f"{column.different:,} different" in page
    assert "The same as a table" in page


def test_no_page_shows_a_column_of_persons(hostile: tuple[ConsoleServer, list[Snapshot]]) -> None:
    server, found = hostile
    for who in ("root", "audrey", "ann", "bob"):
        for snapshot in found:
            for path in (f"{DATA}/{snapshot.digest}", f"{DATA}/{snapshot.digest}/profile/guests", DATA):
                page = server.browser(who).get(path).text
                assert PERSON not in page
                assert ">guest<" not in page
                assert ">initial<" not in page
    shown = server.browser("root").get(f"{DATA}/{found[1].digest}/profile/guests").text
    assert "2 columns tell of a person and are not shown" in shown
    assert ">bag<" in shown


def test_a_snapshot_that_does_not_say_what_is_personal_shows_no_values(tmp_path: Path) -> None:
    with console(tmp_path) as server:
        *_, last = ingest_twice(server.settings)
        file = next(Path(server.settings.state).rglob(f"{last.digest}/manifest.json"))
        manifest = json.loads(file.read_text())
        del manifest["personal"]
        file.write_text(json.dumps(manifest))
        browser = server.browser("root")
        for source in ("trips", "guests"):
            page = browser.get(f"{DATA}/{last.digest}/profile/{source}").text
            assert "did not say which columns" in page
            assert "B12" not in page
            assert PERSON not in page
        page = browser.get(f"{DATA}/{last.digest}").text
        assert "not a time" not in page
        assert PERSON not in page


def test_records_are_for_who_audits(hostile: tuple[ConsoleServer, list[Snapshot]]) -> None:
    server, (_, last) = hostile
    for who, sees in (("root", True), ("audrey", True), ("ann", False), ("bob", False)):
        page = server.browser(who).get(f"{DATA}/{last.digest}").text
        assert ("1999,not a time" in page) == sees, who
    for who in ("eve", "foreign"):
        for path in (DATA, f"{DATA}/{last.digest}", f"{DATA}/{last.digest}/profile/trips"):
            assert server.browser(who).get(path).status_code == 403


def test_names_and_values_become_no_part_of_the_page(hostile: tuple[ConsoleServer, list[Snapshot]]) -> None:
    server, found = hostile
    browser = server.browser("root")
    for snapshot in found:
        for path in (f"{DATA}/{snapshot.digest}", f"{DATA}/{snapshot.digest}/profile/trips"):
            answer = browser.get(path)
            assert answer.status_code == 200
            assert "<img" not in answer.text
            assert "\u202e" not in answer.text
            assert "&lt;img src=x onerror=alert(1)&gt;" in answer.text
            assert "script-src 'self'" in answer.headers["content-security-policy"]
            assert len(answer.content) < 300_000


@pytest.mark.parametrize(
    "path",
    ["..%2f..", "a" * 64, "A" * 64, f"{'0' * 64}/profile/trips", "x/profile/..%2f..", f"{'0' * 63}/profile/x"],
)
def test_a_snapshot_that_is_not_there_is_not_found(hostile: tuple[ConsoleServer, list[Snapshot]], path: str) -> None:
    assert hostile[0].browser("root").get(f"{DATA}/{path}").status_code == 404


def test_a_use_case_without_data_says_so(hostile: tuple[ConsoleServer, list[Snapshot]]) -> None:
    answer = whole(hostile[0].browser("root"), DATA.replace("flights", "trains"))
    assert (answer.status_code, "Nothing of it was ingested" in answer.text) == (200, True)
    profile = hostile[0].browser("root").get(f"{DATA}/{hostile[1][0].digest}/profile/nothing")
    assert (profile.status_code, "No profile of" in profile.text) == (404, True)


def test_a_profile_of_many_moments_is_divided_into_pages_that_weigh_little(tmp_path: Path) -> None:
    with console(tmp_path) as server:
        *_, last = ingest_twice(server.settings)
        start = datetime(2024, 1, 1, tzinfo=UTC)
        moments = {f"at_{n}": [start + timedelta(days=d * (n + 1)) for d in range(390)] for n in range(30)}
        profile = profile_of("trips", sketched(pl.DataFrame(moments)))
        content = {"trips": profile.to_json()}
        Artifacts(server.settings.artifacts).write_json(content, "snapshots", "flights", last.digest, "profile.json")
        browser, at, seen = server.browser("root"), f"{DATA}/{last.digest}/profile/trips", list[str]()
        while at:
            answer = browser.get(at)
            assert len(answer.content) < 300_000
            seen += re.findall(r"<h3>(at_\d+)</h3>", answer.text)
            behind = re.search(r'href="(\?from=\d+)">Those behind', answer.text)
            at = f"{DATA}/{last.digest}/profile/trips{behind[1]}" if behind else ""
        assert seen == list(moments)


def test_charts_come_compressed_to_who_takes_that(hostile: tuple[ConsoleServer, list[Snapshot]]) -> None:
    server, (_, last) = hostile
    path, browser = f"{DATA}/{last.digest}/profile/trips", server.browser("root")
    plain, packed = (browser.get(path, headers={"accept-encoding": one}) for one in ("identity", "gzip"))
    assert ("content-encoding" in plain.headers, packed.headers["content-encoding"]) == (False, "gzip")
    assert plain.text == packed.text
    assert int(packed.headers["content-length"]) < len(plain.content) / 3
