"""Online stores that stop, freeze and come back while they are read; and how many round trips a read takes."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import psycopg
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import UnavailableError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import project_of, read_definitions
from mlops_ray.features.online.breaker import FAILURES
from mlops_ray.features.online.lookup import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from mlops_ray.features.online.materialize import materialize, verify
from mlops_ray.features.store import Store
from mlops_ray.features.transform import FeatureRows
from tests.integration.store_servers import PostgresqlServer, Server, slow_line, started

VIEWS = 6
NOW = datetime.now(UTC).replace(microsecond=0)
KNOWN = NOW - timedelta(hours=1)
PER_S = 20


def definitions_text() -> str:
    """Six views of two entities, and of both together."""
    keys = ["[airport]", "[flight]", "[airport, flight]"] * 2
    return "\n".join(
        [
            "from datetime import timedelta",
            "from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType",
            "from feast.types import Bool, Float32, Float64, Int32, Int64, String",
            'airport = Entity(name="airport", value_type=ValueType.STRING)',
            'flight = Entity(name="flight", value_type=ValueType.INT64)',
            *(
                f"v{n} = FeatureView(name='v{n}', entities={keys[n]}, ttl=timedelta(days=2), schema=["
                f"Field(name='double_{n}', dtype=Float64), Field(name='integer_{n}', dtype=Int64), "
                f"Field(name='text_{n}', dtype=String), Field(name='flag_{n}', dtype=Bool), "
                f"Field(name='single_{n}', dtype=Float32), Field(name='short_{n}', dtype=Int32)], "
                f"source=FileSource(name='v{n}', path='v{n}.parquet', timestamp_field='event_timestamp'))"
                for n in range(VIEWS)
            ),
            f"service = FeatureService(name='service', features=[{', '.join(f'v{n}' for n in range(VIEWS))}])",
        ]
    )


def rows_of_view(number: int, known: datetime) -> pl.DataFrame:
    """Two rows: everything has a value in one, and as little as can be in the other."""
    keys = {"airport": ["EWR", "Zürich"], "flight": [7, -(2**62)]}
    wanted = {0: ["airport"], 1: ["flight"], 2: ["airport", "flight"]}[number % 3]
    values = {
        f"double_{number}": [0.1 + number, None],
        f"integer_{number}": [2**62 + number, -1],
        f"text_{number}": ["x" * 300, ""],
        f"flag_{number}": [True, False],
        f"single_{number}": pl.Series([0.25, None], dtype=pl.Float32),
        f"short_{number}": pl.Series([-5, 0], dtype=pl.Int32),
    }
    moments = {PREDICTION_TIME: [known] * 2}
    schema = {PREDICTION_TIME: pl.Datetime("us", "UTC")}
    return pl.DataFrame({**{name: keys[name] for name in wanted}, **moments, **values}, schema_overrides=schema)


def filled(settings: Settings, folder: Path, known: datetime) -> Store:
    (folder / "views.py").write_text(definitions_text())
    definitions = read_definitions(folder, "service")
    assert definitions is not None
    rows = []
    for number in range(VIEWS):
        frame = rows_of_view(number, known)
        url = Artifacts(settings.artifacts).write_table(frame, f"v{number}.parquet")
        rows.append(FeatureRows(f"v{number}", url, str(number), frame.height, ""))
    materialize(settings, definitions, rows, NOW)
    assert verify(settings, definitions, rows, NOW) is None
    return Store(settings, project_of(definitions, rows))


@pytest.fixture(scope="module", params=["redis", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with started(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def store(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("state")
    return filled(
        load_settings(state=str(folder), data=str(folder), online_store=server.url),
        folder,
        KNOWN + timedelta(microseconds=123_456),
    )


ASKED = [
    {"airport": "EWR", "flight": 7},
    {"airport": "Zürich", "flight": -(2**62)},
    {"airport": "EWR", "flight": 8},
    {"airport": "nowhere", "flight": 0},
]


def expect_as_feast(store: Store) -> None:
    feast = store._feast.get_online_features(store._expected_service(), ASKED).to_dict()
    names = [f"{kind}_{n}" for n in range(VIEWS) for kind in ("double", "integer", "text", "flag", "single", "short")]
    expected = [{name: feast[name][row] for name in names} for row in range(len(ASKED))]
    assert store.online_reader().read(ASKED, [NOW] * len(ASKED)) == expected
    assert expected[0]["integer_5"] == 2**62 + 5
    assert expected[3] == dict.fromkeys(names)


def test_servers_answer_as_feast_itself_does(store: Store) -> None:
    expect_as_feast(store)


def test_a_file_answers_as_feast_itself_does(tmp_path: Path) -> None:
    expect_as_feast(filled(load_settings(state=str(tmp_path), data=str(tmp_path)), tmp_path, KNOWN))


def test_what_is_not_there_is_missing_and_not_expired(store: Store) -> None:
    (found,) = store.online_reader().find([ASKED[3]], [NOW])
    assert (len(found.missing), found.expired) == (VIEWS * 6, [])


def test_all_views_take_one_round_trip_and_threads_do_not_wait_for_one_another(server: Server, store: Store) -> None:
    """Eight threads at once over a line that is 0.1 s long each way: one after another would be 1.6 s and more."""
    with slow_line(server.port, 0.1) as port, ThreadPoolExecutor(8) as pool:
        far = store.settings.model_copy(update={"online_store": server.url.replace(str(server.port), str(port))})
        reader = Store(far, store.project).online_reader()

        def ask(_: int) -> float:
            began_s = time.monotonic()
            assert reader.read([ASKED[0]], [NOW])[0]["integer_0"] == 2**62
            return time.monotonic() - began_s

        list(pool.map(ask, range(16)))  # connections are made
        began_s = time.monotonic()
        took_s = list(pool.map(ask, range(8)))
        assert min(took_s) >= 0.2
        assert time.monotonic() - began_s < 0.6, took_s
        reader.close()


@dataclass
class Seen:
    """What readers saw: when each began, how long it took, and whether it was answered."""

    began_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    answered: list[bool] = field(default_factory=list)

    def after(self, moment_s: float) -> list[tuple[float, bool]]:
        return [(b - moment_s, a) for b, a in zip(self.began_s, self.answered, strict=True) if b >= moment_s]


def read_under_load(store: Store, trouble: Callable[[], float]) -> tuple[Seen, float]:
    """Twenty reads a second, by eight threads, while `trouble` happens; it returns when the store was back."""
    reader, seen, ended = store.online_reader(), Seen(), threading.Event()

    def ask() -> None:
        began_s = time.monotonic()
        try:
            answered = reader.read([ASKED[0]], [NOW])[0]["integer_0"] == 2**62
        except UnavailableError:
            answered = False
        seen.began_s.append(began_s)
        seen.took_s.append(time.monotonic() - began_s)
        seen.answered.append(answered)

    def ask_at_a_rate() -> None:
        with ThreadPoolExecutor(8) as pool:
            while not ended.wait(1 / PER_S):
                pool.submit(ask)

    load = threading.Thread(target=ask_at_a_rate)
    load.start()
    time.sleep(1)
    back_s = trouble()
    while time.monotonic() < back_s + 6 and not all(seen.answered[-PER_S:]):
        time.sleep(0.1)
    ended.set()
    load.join()
    reader.close()
    return seen, back_s


def expect_fast_refusals_and_recovery(seen: Seen, back_s: float) -> None:
    last_failure_s = max((after for after, answered in seen.after(back_s) if not answered), default=0.0)
    waited = [took for took in seen.took_s if took > 0.3]
    refused = seen.answered.count(False)
    print(f"{refused} of {len(seen.answered)} refused, {len(waited)} waited, right again {last_failure_s:.1f} s after")
    assert seen.answered[0]
    assert last_failure_s < 5
    assert max(seen.took_s) < CONNECT_TIMEOUT_S + READ_TIMEOUT_S + 0.5
    assert len(waited) <= 8 + FAILURES  # those that were on their way when the breaker opened
    assert refused > len(waited)


def test_a_restart_is_over_when_the_server_is_back(server: Server, store: Store) -> None:
    def restart() -> float:
        server.stop()
        time.sleep(3)
        server.start()
        return time.monotonic()

    expect_fast_refusals_and_recovery(*read_under_load(store, restart))


def test_a_freeze_costs_few_callers_their_time_and_is_over_when_it_ends(server: Server, store: Store) -> None:
    def freeze() -> float:
        server.signal(signal.SIGSTOP)
        time.sleep(5)
        server.signal(signal.SIGCONT)
        return time.monotonic()

    expect_fast_refusals_and_recovery(*read_under_load(store, freeze))


def test_a_restart_between_two_reads_is_noticed_by_nobody(server: Server, store: Store) -> None:
    reader = store.online_reader()
    before = reader.read(ASKED, [NOW] * 4)
    server.stop()
    server.start()
    time.sleep(1)  # PostgreSQL listens a moment before it answers
    assert reader.read(ASKED, [NOW] * 4) == before
    reader.close()


def test_connections_are_as_many_as_questions_at_once_whatever_threads_asked(server: Server, store: Store) -> None:
    """Each time that a store fails, another thread finds out that it is back."""
    if not isinstance(server, PostgresqlServer):
        pytest.skip("the client of Redis has a pool")
    reader = store.online_reader()
    for _ in range(20):
        thread = threading.Thread(target=reader.read, args=([ASKED[0]], [NOW]))
        thread.start()
        thread.join()
    with psycopg.connect(server.url) as connection:
        count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT 0, entity_key%'"
        (found,) = connection.execute(count).fetchall()
    assert found == (1,)
    reader.close()
