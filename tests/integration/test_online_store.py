"""The online store, whichever it is, answers as the point-in-time join does: as of a moment, and within the ttl."""

import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import psycopg
import pytest
from redis import Redis
from starlette.testclient import TestClient

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import Definitions, project_of, read_definitions
from mlops_ray.features.online import lock
from mlops_ray.features.online.erase import erase_online
from mlops_ray.features.online.freshness import freshness
from mlops_ray.features.online.lock import exclusive
from mlops_ray.features.online.materialize import Materialized, materialize, verify
from mlops_ray.features.online.push import Pushed, push
from mlops_ray.features.online.pushes import all_pushed
from mlops_ray.features.online.reader import OnlineReader
from mlops_ray.features.online.store import writer_of
from mlops_ray.features.online.view import OnlineView
from mlops_ray.features.online.write import online_values
from mlops_ray.features.store import Store
from mlops_ray.features.transform import FeatureRows

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

airport = Entity(name="airport", value_type=ValueType.STRING)
account = Entity(name="account", value_type=ValueType.INT64)
delays = FeatureView(
    name="delays",
    entities=[airport],
    ttl=timedelta(hours=3),
    schema=[Field(name="delay", dtype=Float64)],
    source=FileSource(name="delays", path="delays.parquet", timestamp_field="event_timestamp"),
)
balances = FeatureView(
    name="balances",
    entities=[account],
    ttl=timedelta(hours=3),
    schema=[Field(name="balance", dtype=Float64), Field(name="cents", dtype=Int64), Field(name="kind", dtype=String)],
    source=FileSource(name="balances", path="balances.parquet", timestamp_field="event_timestamp"),
)
service = FeatureService(name="service", features=[delays])
accounts = FeatureService(name="accounts", features=[balances])
"""
NOON = datetime.fromisoformat("2013-06-01T12:00:00Z")
HOUR = timedelta(hours=1)
ROWS = pl.DataFrame(
    {
        "airport": ["EWR", "EWR", "EWR", "JFK", "LGA"],
        PREDICTION_TIME: [NOON - 2 * HOUR, NOON - HOUR, NOON + HOUR, NOON - 3 * HOUR, NOON - 4 * HOUR],
        "delay": [1.0, 2.0, 99.0, 3.0, 4.0],
    },
    schema_overrides={PREDICTION_TIME: pl.Datetime("us", "UTC")},
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, host: str = "127.0.0.1") -> None:
    for _ in range(400):
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing listens on port {port}")


@contextmanager
def redis() -> Iterator[str]:
    port = free_port()
    server = subprocess.Popen(["redis-server", "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def postgresql(host: str = "127.0.0.1") -> Iterator[str]:
    """PostgreSQL does not run as root, so it runs as its own user, in a folder that this user may enter.

    host: where it listens; whoever is in its network may connect.
    """
    (binaries,) = Path("/usr/lib/postgresql").glob("*/bin")
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    folder, port = Path(tempfile.mkdtemp(prefix="mlops-ray-postgres-")), free_port()
    shutil.chown(folder, "postgres", "postgres")
    subprocess.run(
        [*as_user, binaries / "initdb", "-A", "trust", folder / "data"], check=True, stdout=subprocess.DEVNULL
    )
    with (folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write("host all all samenet trust\n")
    options = ["-D", folder / "data", "-p", str(port), "-h", host, "-k", folder]
    server = subprocess.Popen([*as_user, binaries / "postgres", *options], stderr=subprocess.DEVNULL)
    try:
        wait_for(port, host)
        yield f"postgresql://postgres:none@{host}:{port}/postgres"  # pragma: allowlist secret
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for our own connections to close
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "redis", "postgresql"], scope="module")
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield load_settings(state=str(folder), data=str(folder))
    elif request.param == "redis":
        with redis() as url:
            yield load_settings(state=str(folder), data=str(folder), online_store=url)
    else:
        with postgresql() as url:
            yield load_settings(state=str(folder), data=str(folder), online_store=url, feast_registry=url)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "views.py").write_text(DEFINITIONS)
    return folder


@pytest.fixture(scope="module")
def definitions(folder: Path) -> Definitions:
    found = read_definitions(folder, "service")
    assert found is not None
    return found


def rows_of(settings: Settings, view: str, frame: pl.DataFrame, code: str = "") -> list[FeatureRows]:
    digest = str(frame.hash_rows().sum())
    url = Artifacts(settings.artifacts).write_table(frame, f"{view}-{digest}-{code}.parquet")
    return [FeatureRows(view, url, digest, frame.height, code)]


@pytest.fixture(scope="module")
def store(settings: Settings, definitions: Definitions) -> Store:
    rows = rows_of(settings, "delays", ROWS)
    done = materialize(settings, definitions, rows, NOON)
    assert (done.keys, done.written, done.kept) == ({"delays": 2}, {"delays": 2}, {"delays": 0})
    assert verify(settings, definitions, rows, NOON) is None
    return Store(settings, project_of(definitions, rows))


def delay(store: Store, airport: str | None, moment: datetime) -> object:
    return store.online_reader().read([{"airport": airport}], [moment])[0]["delay"]


def test_the_newest_value_known_at_the_moment_is_read(store: Store) -> None:
    assert delay(store, "EWR", NOON) == 2.0
    assert delay(store, "JFK", NOON) == 3.0


def test_a_reader_of_a_file_does_not_wait_for_who_writes(store: Store, settings: Settings) -> None:
    if not settings.online_store.startswith("sqlite"):
        pytest.skip("servers have locks of their own")
    with closing(sqlite3.connect(settings.online_store.removeprefix("sqlite:///"))) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        started_s = time.monotonic()
        assert delay(store, "EWR", NOON) == 2.0
        assert time.monotonic() - started_s < 1
        writer.rollback()


def test_a_value_older_than_the_ttl_has_expired(store: Store) -> None:
    assert delay(store, "LGA", NOON) is None
    assert delay(store, "JFK", NOON + timedelta(seconds=1)) is None
    assert delay(store, "EWR", NOON + 2 * HOUR) == 2.0


def test_a_value_from_after_the_moment_is_not_read(store: Store) -> None:
    assert delay(store, "EWR", NOON - 2 * HOUR) is None


@pytest.mark.parametrize("airport", ["XXX", "", None])
def test_an_unknown_key_has_no_value(store: Store, airport: str | None) -> None:
    assert delay(store, airport, NOON) is None


def test_offline_and_online_agree(store: Store) -> None:
    entities = pl.DataFrame(
        {"airport": ["EWR", "JFK", "LGA", None], PREDICTION_TIME: [NOON] * 4},
        schema={"airport": pl.String, PREDICTION_TIME: pl.Datetime("us", "UTC")},
    )
    offline = store.historical(entities)["delay"].to_list()
    assert offline == [delay(store, row["airport"], NOON) for row in entities.to_dicts()]


def hours(values: dict[str, list[tuple[float, float | None]]]) -> pl.DataFrame:
    """Rows of delays: by airport, hours after noon and value."""
    events = [(key, NOON + hour * HOUR, value) for key, found in values.items() for hour, value in found]
    schema = {"airport": pl.String, PREDICTION_TIME: pl.Datetime("us", "UTC"), "delay": pl.Float64}
    return pl.DataFrame(events, schema=schema, orient="row")


def known(settings: Settings, done: Materialized, airport: str, moment: datetime) -> object:
    return delay(Store(settings, done.project), airport, moment)


def test_an_older_run_takes_no_newer_value_away(settings: Settings, definitions: Definitions) -> None:
    """As of noon, two hours before, and noon again; the third is verified, and right."""
    later = hours({"EWR": [(-2.5, 1.0), (-1, 2.0)], "JFK": [(-2.5, 3.0)]})
    earlier = later.filter(pl.col(PREDICTION_TIME) <= NOON - 2 * HOUR)
    newest, oldest = (rows_of(settings, "delays", frame, "older") for frame in (later, earlier))
    first = materialize(settings, definitions, newest, NOON)
    second = materialize(settings, definitions, oldest, NOON - 2 * HOUR)
    assert second.project == first.project
    assert (second.written, second.kept) == ({"delays": 0}, {"delays": 1})
    assert known(settings, first, "EWR", NOON) == 2.0
    assert verify(settings, definitions, newest, NOON) is None
    assert verify(settings, definitions, oldest, NOON - 2 * HOUR) is None
    third = materialize(settings, definitions, newest, NOON)
    assert (third.written, third.kept) == ({"delays": 0}, {"delays": 0})
    applied = Store(settings, first.project).applied()
    assert applied is not None
    assert (applied.as_of, applied.rows) == (NOON, {"delays": newest[0].url})


def test_an_older_run_leaves_what_a_newer_one_wrote_of_the_same_moment(
    settings: Settings, definitions: Definitions
) -> None:
    newest, oldest = (rows_of(settings, "delays", hours({"EWR": [(-3, value)]}), "same moment") for value in (7.0, 5.0))
    done = materialize(settings, definitions, newest, NOON)
    assert materialize(settings, definitions, oldest, NOON - HOUR).kept == {"delays": 1}
    assert known(settings, done, "EWR", NOON) == 7.0


def test_a_value_that_became_known_between_two_seconds_is_there_and_not_before(
    settings: Settings, definitions: Definitions
) -> None:
    """Data have their moments in microseconds, and Feast's SQLite in seconds."""
    half = 0.5 / 3600
    rows = rows_of(settings, "delays", hours({"EWR": [(0, 1.0), (half, 2.0)]}), "between")
    for as_of in (NOON + HOUR * 0.7 / 3600, NOON + HOUR):
        done = materialize(settings, definitions, rows, as_of)
        assert verify(settings, definitions, rows, as_of) is None
    assert done.written == {"delays": 0}
    assert known(settings, done, "EWR", NOON) is None
    assert known(settings, done, "EWR", NOON + HOUR / 3600) == 2.0
    corrected = rows_of(settings, "delays", hours({"EWR": [(0, 1.0), (half, 3.0)]}), "between")
    assert materialize(settings, definitions, corrected, NOON + HOUR).written == {"delays": 1}
    assert known(settings, done, "EWR", NOON + HOUR / 3600) == 3.0


def test_a_corrected_value_replaces_the_one_of_its_moment(settings: Settings, definitions: Definitions) -> None:
    wrong, right = (hours({"EWR": [(-1, value), (0, 9.0)][:count]}) for value, count in ((1.0, 2), (2.0, 1)))
    done = materialize(settings, definitions, rows_of(settings, "delays", wrong, "corrected"), NOON)
    assert known(settings, done, "EWR", NOON) == 9.0
    rows = rows_of(settings, "delays", right, "corrected")
    assert "has other rows" in str(verify(settings, definitions, rows, NOON))
    assert materialize(settings, definitions, rows, NOON).written == {"delays": 1}
    assert known(settings, done, "EWR", NOON) == 2.0


def test_a_stored_value_that_cannot_be_read_is_said_and_written_anew(
    settings: Settings, definitions: Definitions
) -> None:
    rows = rows_of(settings, "delays", ROWS, "unreadable")
    done = materialize(settings, definitions, rows, NOON)
    (view,) = definitions.views
    airport = ROWS.filter(pl.col("airport") == "EWR", pl.col(PREDICTION_TIME) == NOON - HOUR)
    (value,) = online_values(view, airport)
    spoiled = replace(value, contents=(b"\x12\x02\xff\xfe",))
    assert writer_of(settings.online_store, done.project).write(view, [spoiled]) == 1
    with pytest.raises(IntegrityError, match=r"Row 0: .* delay in feature view delays cannot be read"):
        known(settings, done, "EWR", NOON)
    assert known(settings, done, "JFK", NOON) == 3.0
    assert "1 of 2 keys are not online as they should be" in str(verify(settings, definitions, rows, NOON))
    assert materialize(settings, definitions, rows, NOON).written == {"delays": 1}
    assert known(settings, done, "EWR", NOON) == 2.0


def test_a_flushed_online_store_is_noticed_and_filled_again(settings: Settings, definitions: Definitions) -> None:
    rows = rows_of(settings, "delays", ROWS, "flushed")
    done = materialize(settings, definitions, rows, NOON)
    assert verify(settings, definitions, rows, NOON) is None
    flush(settings, done.project)
    assert verify(settings, definitions, rows, NOON) == (
        "feature view delays: 2 of 2 keys are not online as they should be"
    )
    assert materialize(settings, definitions, rows, NOON).written == {"delays": 2}
    assert known(settings, done, "EWR", NOON) == 2.0


def test_an_erased_entity_is_gone_with_its_values_and_the_others_are_not(
    settings: Settings, definitions: Definitions
) -> None:
    canary = hours({"EWR": [(-1, 1.0)], "N7CANARY": [(-2, 2.0)]})
    rows = rows_of(settings, "delays", canary, "erased")
    done = materialize(settings, definitions, rows, NOON)
    given = settings, done.project, definitions, "airport", "N7CANARY"
    assert erase_online(*given, dry_run=True) == 1
    assert known(settings, done, "N7CANARY", NOON) == 2.0
    assert erase_online(*given, dry_run=False) == 1
    assert (known(settings, done, "N7CANARY", NOON), known(settings, done, "EWR", NOON)) == (None, 1.0)
    assert erase_online(*given, dry_run=False) == 0
    assert erase_online(settings, done.project, definitions, "other", "N7CANARY", dry_run=False) == 0
    if settings.online_store.startswith("sqlite"):
        assert [file for file in Path(settings.state).glob("online*") if b"N7CANARY" in file.read_bytes()] == []


def test_who_holds_the_lock_of_a_project_keeps_it_while_it_lives(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Redis a lock falls by itself, in time for who comes after a holder that was killed."""
    monkeypatch.setattr(lock, "HELD_S", 0.5)
    file, order = str(Path(settings.state) / "online.db"), list[str]()

    def second() -> None:
        with exclusive(settings.online_store, "held", file):
            order.append("second")

    with exclusive(settings.online_store, "held", file):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(1.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


def test_an_older_value_never_replaces_a_newer_one_whoever_writes_when(
    settings: Settings, definitions: Definitions
) -> None:
    """Twenty writers at once, in any order, some of moments before 1970."""
    done = materialize(settings, definitions, rows_of(settings, "delays", hours({"EWR": [(-1, 0.0)]}), "writers"), NOON)
    (view,) = definitions.views
    writer = writer_of(settings.online_store, done.project)
    seconds = [-(10**9), -1, 0, 1, *(us(NOON) // 10**6 + number for number in range(1, 17))]
    random.Random(1).shuffle(seconds)

    def write(second: int) -> int:
        frame = pl.DataFrame(
            {"airport": ["LGA", "OLD"], PREDICTION_TIME: [second * 10**6] * 2, "delay": [float(second)] * 2}
        )
        frame = frame.with_columns(pl.col(PREDICTION_TIME).cast(pl.Datetime("us", "UTC")))
        return writer.write(view, list(online_values(view, frame)))

    with ThreadPoolExecutor(8) as threads:
        written = list(threads.map(write, seconds))
    newest = max(seconds)
    assert known(settings, done, "LGA", NOON + HOUR) == float(newest)
    assert write(newest - 1) == 0
    assert write(newest) == 2
    assert set(written) <= {0, 2}
    assert written[seconds.index(newest)] == 2


def test_a_moment_before_1970_is_compared_as_one(settings: Settings, definitions: Definitions) -> None:
    done = materialize(settings, definitions, rows_of(settings, "delays", hours({"EWR": [(-1, 0.0)]}), "1969"), NOON)
    (view,) = definitions.views
    writer = writer_of(settings.online_store, done.project)
    for second, written in ((-5, 1), (-7_000_000_000 // 10, 0), (-6, 0), (-4, 1), (0, 1), (-1, 0), (3, 1)):
        frame = pl.DataFrame({"airport": ["OLD"], PREDICTION_TIME: [second * 10**6], "delay": [float(second)]})
        frame = frame.with_columns(pl.col(PREDICTION_TIME).cast(pl.Datetime("us", "UTC")))
        assert writer.write(view, list(online_values(view, frame))) == written, second


def test_a_run_compares_only_what_has_changed_since_the_last_one(
    settings: Settings, definitions: Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a sample of the rest, by which a value that somebody changed is found."""
    many = {f"A{number:03}": [(-1.0, float(number))] for number in range(300)}
    materialize(settings, definitions, rows_of(settings, "delays", hours(many), "many"), NOON)
    more = hours({**many, "A007": [(-1.0, 7.0), (0.5, 8.0)], "NEW": [(0.5, 1.0)]})
    rows, asked = rows_of(settings, "delays", more, "many"), list[int]()
    fetched = OnlineReader.fetched
    monkeypatch.setattr(
        OnlineReader, "fetched", lambda self, number, keys: asked.append(len(keys)) or fetched(self, number, keys)
    )
    done = materialize(settings, definitions, rows, NOON + HOUR)
    assert (done.keys, done.written) == ({"delays": 301}, {"delays": 2})
    assert asked == [2, 301]  # what has changed, and the sample, which is all of a few
    assert known(settings, done, "A007", NOON + HOUR) == 8.0
    assert verify(settings, definitions, rows, NOON + HOUR) is None


def test_what_was_lost_since_the_last_run_is_brought_again(settings: Settings, definitions: Definitions) -> None:
    many = {f"A{number:03}": [(-1.0, float(number))] for number in range(50)}
    done = materialize(settings, definitions, rows_of(settings, "delays", hours(many), "lost"), NOON)
    flush(settings, done.project)
    again = rows_of(settings, "delays", hours({**many, "NEW": [(0.5, 1.0)]}), "lost")
    assert materialize(settings, definitions, again, NOON + HOUR).written == {"delays": 51}


def test_a_view_without_rows_is_online_and_empty(settings: Settings, definitions: Definitions) -> None:
    rows = rows_of(settings, "delays", hours({}), "empty")
    done = materialize(settings, definitions, rows, NOON)
    assert (done.keys, done.written) == ({"delays": 0}, {"delays": 0})
    assert verify(settings, definitions, rows, NOON) is None
    assert known(settings, done, "EWR", NOON) is None
    (fresh,) = freshness(settings, done.project, definitions)
    assert (fresh.newest, fresh.age(NOON)) == (None, None)


def pushed(airport: str, moment: datetime, delay: float) -> pl.DataFrame:
    return pl.DataFrame({"airport": [airport], PREDICTION_TIME: [moment], "delay": [delay]})


def test_a_pushed_value_is_online_at_once_and_no_refresh_undoes_it(
    settings: Settings, definitions: Definitions
) -> None:
    rows = rows_of(settings, "delays", hours({"EWR": [(-2, 1.0)], "JFK": [(-2, 3.0)]}), "pushed")
    done = materialize(settings, definitions, rows, NOON)

    def send(frame: pl.DataFrame, now: datetime = NOON) -> Pushed:
        return push(settings, done.project, definitions, "delays", frame, "ann", str(uuid.uuid4()), now)

    first = send(pushed("EWR", NOON - HOUR, 2.0))
    assert (first.rows, first.written, first.older) == (1, 1, 0)
    assert known(settings, done, "EWR", NOON) == 2.0
    assert known(settings, done, "EWR", NOON - HOUR - timedelta(seconds=1)) is None
    older = send(pushed("EWR", NOON - 2.5 * HOUR, 9.0))
    assert (older.written, older.older) == (0, 1)
    assert known(settings, done, "EWR", NOON) == 2.0
    # Refreshed with the same rows, with others of the same moment, and from the beginning.
    corrected = rows_of(settings, "delays", hours({"EWR": [(-2, 5.0)], "JFK": [(-2, 3.0)]}), "pushed")
    for again in (rows, corrected):
        materialize(settings, definitions, again, NOON)
        assert known(settings, done, "EWR", NOON) == 2.0
        assert verify(settings, definitions, again, NOON) is None
    flush(settings, done.project)
    materialize(settings, definitions, corrected, NOON)
    assert (known(settings, done, "EWR", NOON), known(settings, done, "JFK", NOON)) == (2.0, 3.0)
    # What was computed later is newer than what was pushed.
    later = rows_of(settings, "delays", hours({"EWR": [(-2, 5.0), (-0.5, 6.0)]}), "pushed")
    materialize(settings, definitions, later, NOON)
    assert known(settings, done, "EWR", NOON) == 6.0
    (fresh,) = freshness(settings, done.project, definitions)
    assert fresh.newest == NOON - 0.5 * HOUR
    erase_online(settings, done.project, definitions, "airport", "EWR", dry_run=False)
    assert all_pushed(Artifacts(settings.artifacts), done.project, definitions.views[0]).is_empty()


def test_a_value_that_is_pushed_while_a_run_reads_is_not_taken_back(
    settings: Settings, definitions: Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is online already when the run compares, and the rows that the run has read do not know it."""
    rows = rows_of(settings, "delays", hours({"EWR": [(-2, 1.0)]}), "meanwhile")
    done = materialize(settings, definitions, rows, NOON)
    expected = OnlineView.expected

    def slowly(self: OnlineView) -> pl.DataFrame:
        found = expected(self)
        id_ = "0190163d-8694-739b-aea5-966c26f8ad91"
        push(settings, done.project, definitions, "delays", pushed("EWR", NOON - HOUR, 2.0), "ann", id_, NOON)
        return found

    monkeypatch.setattr(OnlineView, "expected", slowly)
    corrected = rows_of(settings, "delays", hours({"EWR": [(-2, 5.0)]}), "meanwhile")
    assert materialize(settings, definitions, corrected, NOON).kept == {"delays": 1}
    assert known(settings, done, "EWR", NOON) == 2.0


def test_feast_reads_what_we_write(settings: Settings, definitions: Definitions) -> None:
    """Moments and values as Feast's own code has them."""
    rows = rows_of(settings, "delays", hours({"EWR": [(-1, 2.5)], "JFK": [(-2, None)]}), "sdk")
    done = materialize(settings, definitions, rows, NOON)
    feast = Store(settings, done.project)._feast
    asked = [{"airport": "EWR"}, {"airport": "JFK"}, {"airport": "XXX"}]
    found = feast.get_online_features(features=["delays:delay"], entity_rows=asked)
    assert found.to_dict()["delay"] == [2.5, None, None]
    column = list(found.proto.metadata.feature_names.val).index("delay")
    assert found.proto.results[column].event_timestamps[0].seconds == int((NOON - HOUR).timestamp())


@pytest.mark.filterwarnings("ignore")
def test_feasts_own_page_shows_our_views(settings: Settings, definitions: Definitions) -> None:
    from feast.ui_server import get_app

    if not settings.online_store.startswith("sqlite"):
        pytest.skip("the registry is the same for all")
    done = materialize(settings, definitions, rows_of(settings, "delays", ROWS, "page"), NOON)
    app = TestClient(get_app(Store(settings, done.project)._feast, done.project))
    projects = [one["id"] for one in app.get("/projects-list.json").json()["projects"]]
    assert done.project in projects
    found = app.get("/api/v1/feature_views", params={"project": done.project}).json()
    assert [view["spec"]["name"] for view in found["featureViews"]] == ["delays"]


def flush(settings: Settings, project: str) -> None:
    if settings.online_store.startswith("sqlite"):
        with closing(sqlite3.connect(settings.online_store.removeprefix("sqlite:///"))) as connection:
            connection.execute(f'DELETE FROM "{project}_delays"')
            connection.commit()
    elif settings.online_store.startswith("redis"):
        client = Redis.from_url(settings.online_store)
        client.delete(*client.keys(f"*{project}"))
    else:
        with psycopg.connect(settings.online_store, autocommit=True) as connection:
            connection.execute(f'DELETE FROM "{project}_delays"')  # type: ignore[call-overload]


def test_what_is_not_in_the_registry_is_said(settings: Settings, definitions: Definitions) -> None:
    rows = rows_of(settings, "delays", ROWS, "elsewhere")
    assert "is not in the registry" in str(verify(settings, definitions, rows, NOON))
    with pytest.raises(ConfigurationError, match="features refresh"):
        Store(settings, project_of(definitions, rows)).online_reader()


def test_another_code_or_definition_changes_nothing_that_is_read(
    store: Store, settings: Settings, definitions: Definitions, folder: Path, tmp_path: Path
) -> None:
    before = store.applied()
    materialize(settings, definitions, rows_of(settings, "delays", hours({"EWR": [(-1, 8.0)]}), "changed"), NOON)
    (tmp_path / "views.py").write_text(DEFINITIONS.replace("hours=3", "hours=9"))
    changed = read_definitions(tmp_path, "service")
    assert changed is not None
    done = materialize(settings, changed, rows_of(settings, "delays", hours({"EWR": [(-1, 6.0)]})), NOON)
    assert known(settings, done, "EWR", NOON + 4 * HOUR) == 6.0
    assert delay(store, "EWR", NOON) == 2.0
    assert delay(store, "EWR", NOON + 4 * HOUR) is None
    assert store.applied() == before


def test_keys_and_values_are_exact(settings: Settings, folder: Path) -> None:
    """Beyond 2^53, where a float stands for two accounts, and with a null among the keys that are asked for."""
    accounts = read_definitions(folder, "accounts")
    assert accounts is not None
    large = 2**53
    frame = pl.DataFrame(
        {
            "account": [large, large + 1, -large - 1],
            PREDICTION_TIME: [NOON] * 3,
            "balance": [0.1, None, float("inf")],
            "cents": [large + 1, None, -1],
            "kind": ["", None, "Zürich\u0000"],
        },
        schema_overrides={PREDICTION_TIME: pl.Datetime("us", "UTC")},
    )
    if settings.online_store.startswith("postgresql"):
        frame = frame.with_columns(pl.col("kind").str.replace_all("\u0000", ""))  # which PostgreSQL's texts cannot hold
    rows = rows_of(settings, "balances", frame)
    done = materialize(settings, accounts, rows, NOON)
    assert verify(settings, accounts, rows, NOON) is None
    found = Store(settings, done.project)
    asked = [large, large + 1, None, -large - 1]
    answers = found.online_reader().read([{"account": account} for account in asked], [NOON] * 4)
    entities = pl.DataFrame(
        {"account": asked, PREDICTION_TIME: [NOON] * 4}, schema_overrides={PREDICTION_TIME: pl.Datetime("us", "UTC")}
    )
    expected = [*frame.select("balance", "cents", "kind").to_dicts()]
    expected.insert(2, {"balance": None, "cents": None, "kind": None})
    assert answers == expected
    assert found.historical(entities).select("balance", "cents", "kind").to_dicts() == expected
