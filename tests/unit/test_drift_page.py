"""The page of an endpoint: it needs no network, tells what was found, and takes names and gaps as they come."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.main import app
from mlops_ray.config import Settings
from mlops_ray.errors import IntegrityError
from mlops_ray.governance.control_store import open_store
from mlops_ray.monitoring.answers import PREDICTION
from mlops_ray.monitoring.drift_actor import record_change
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.show.drift_view import DriftView, look_back
from mlops_ray.monitoring.show.series import FeatureSeries, KindSeries, SliceSeries
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.monitoring.watch_state import read_state
from mlops_ray.monitoring.window_history import KEPT, WindowHistory
from mlops_ray.predictions.labels import BY_REQUEST, write_by_request
from mlops_ray.testing.example_stream import (
    BY_COUNT,
    BY_TIME,
    START,
    answered,
    example_stream,
    example_watched,
    write_example_segments,
)

NAME = "departures"
DAY = timedelta(days=1)
EVIL = "<script>alert(1)</script>"
WATCHED = example_watched()


class Watching:
    """An endpoint, and its watch: what is written is counted."""

    def __init__(self, folder: Path):
        self.settings = Settings(state=str(folder), data=str(folder))
        store = open_store(self.settings)
        self.artifacts = Artifacts(self.settings.artifacts)
        self.watch = DriftWatch(
            self.artifacts, NAME, lambda version: replace(WATCHED, version=version),
            lambda change: record_change(store, NAME, change),
        )  # fmt: skip

    def take(self, rows: pl.DataFrame, labelled: int = 0, version: str = "7") -> None:
        """Count predictions, of which the first `labelled` get their labels."""
        ids = write_example_segments(self.artifacts, NAME, rows, version=version)
        self._round(rows)
        if labelled:
            told = rows.head(labelled).select("label", known_at=pl.col("time") + timedelta(hours=3))
            told = told.with_columns(
                request_id=pl.Series(ids[:labelled]), row=pl.lit(0, pl.Int32), received_at=pl.col("known_at")
            )
            table = told.select(pl.col(name).cast(type_) for name, type_ in BY_REQUEST.items())
            write_by_request(self.artifacts, NAME, "019cab00-0000-7000-8000-000000000000", table)
        self._round(rows)

    def _round(self, rows: pl.DataFrame) -> None:
        """Rounds until all labels are measured: one takes two seconds of them at most."""
        while self.watch.round(rows["time"][-1] + DAY, ["7"]).measured:
            pass

    def view(self, windows: int = 60) -> DriftView:
        return look_back(self.settings, NAME, found, ["7"], windows)


def found(version: str) -> Watched:
    return replace(WATCHED, version=version)


def moved(rows: pl.DataFrame, after: timedelta) -> pl.DataFrame:
    """Distances grow, an origin that nobody knew comes, and a feature goes missing."""
    late = pl.col("time") >= START + after
    return answered(
        rows.drop("probability", "label").with_columns(
            pl.when(late).then(pl.col("distance") + 600).otherwise("distance").alias("distance"),
            pl.when(late & (pl.col("hour") > 12)).then(pl.lit(EVIL)).otherwise("origin").alias("origin"),
            pl.when(late).then(None).otherwise("recent_delay").alias("recent_delay"),
        ),
        3,
    )


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Watching:
    """Ten days: six calm ones, four with drift; labels of eight."""
    watching = Watching(tmp_path_factory.mktemp("state"))
    watching.take(moved(example_stream(10, 12), 6 * DAY), labelled=8 * 400)
    return watching


@pytest.fixture(scope="module")
def view(watching: Watching) -> DriftView:
    return watching.view()


def kind_of(view: DriftView, spec: str = BY_COUNT.name) -> KindSeries:
    return next(kind for kind in view.versions[0].kinds if kind.spec == spec)


def feature_of(view: DriftView, name: str, spec: str = BY_COUNT.name) -> FeatureSeries:
    return next(one for one in kind_of(view, spec).features if one.name == name)


class Parsed(HTMLParser):
    """The tags of a page, each with its attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def expect_harmless(page: str) -> None:
    """Nothing is fetched, nothing runs, and every chart is whole and says what it shows."""
    tags = Parsed(page).tags
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "img", "iframe", "object", "image", "use", "a"})
    for _, attributes in tags:
        assert not any(name.startswith("on") or name in ("src", "href", "xlink:href") for name in attributes)
    assert not re.search(r"https?:|url\(|@import", page)
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert all(ElementTree.fromstring(chart).get("aria-label") for chart in charts)
    assert "nan" not in " ".join(re.findall(r'(?:d|x|y|cx|cy|width|height)="([^"]*)"', page)).lower()


def test_what_each_window_had_is_read_back_as_it_was_counted(watching: Watching) -> None:
    history = WindowHistory(watching.artifacts, NAME).read("7", BY_COUNT.name, WATCHED.reference.columns, 60)
    assert [(one.number, one.window.rows, one.data) for one in history] == [
        (number, 400, "no drift" if number < 6 else "drift") for number in range(10)
    ]
    rows = moved(example_stream(10, 12), 6 * DAY)[2800:3200]
    sketch = history[7].window.columns["distance"]
    assert (sketch.values, sketch.missing) == (400, 0)
    assert sketch.mean == pytest.approx(rows["distance"].cast(pl.Float32).mean())  # type: ignore[union-attr]
    assert history[7].window.columns["recent_delay"].missing == 400
    assert history[7].new["origin"] == ((EVIL, int((rows["origin"] == EVIL).sum())),)
    assert history[7].distances["distance"].ratio > 1 > history[0].distances["distance"].ratio


def test_features_that_drift_come_first_and_calm_ones_by_importance(view: DriftView) -> None:
    features = kind_of(view).features
    assert [one.name for one in features][:3] == [PREDICTION, "distance", "origin"]
    assert [one.drifts for one in features] == [True] * 4 + [False] * 2
    assert [one.name for one in features][4:] == ["hour", "carrier"]
    distance = feature_of(view, "distance")
    assert distance.importance == 0.75
    assert "mean 10" in distance.words
    assert [point.ratio > 1 for point in distance.points] == [False] * 6 + [True] * 4
    assert next((alarm.start, alarm.end) for alarm in distance.alarms) == (START + 6 * DAY, None)
    assert EVIL in feature_of(view, "origin").words
    gone = feature_of(view, "recent_delay").points[-1]
    assert gone.distance is not None
    assert (gone.distance.detector, gone.missing) == ("missing_rate", 1.0)


def test_estimated_and_measured_quality_stand_beside_each_other(view: DriftView) -> None:
    quality = kind_of(view).quality
    assert len(quality) == 10
    assert [one.labels for one in quality] == [400] * 8 + [0] * 2
    assert all(one.estimated.low is not None and one.estimated.low < one.estimated.value for one in quality)
    slices = {one.name: one for one in kind_of(view).slices}
    assert {"origin=EWR", "origin=JFK", "origin=LGA", f"origin={EVIL}"} == set(slices)
    assert len(slices["origin=EWR"].points) == 8
    assert next(one.name for one in kind_of(view).slices) == f"origin={EVIL}"  # alone it has 200 labels in a window


def test_the_page_runs_nothing_and_fetches_nothing_whatever_names_say(view: DriftView) -> None:
    page = view.page()
    expect_harmless(page)
    assert "&lt;script&gt;" in page
    kind = kind_of(view)
    evil = "\"><img src=x onerror=alert(1)>'&"
    features = tuple(
        replace(one, name=f"{one.name}{evil}", words=evil, categories=tuple(evil for _ in one.categories))
        for one in kind.features
    )
    slices = tuple(replace(one, name=f"{one.name}{evil}") for one in kind.slices)
    hostile = replace(kind, spec=evil, features=features, slices=slices, unknown=evil)
    alarms = tuple(replace(one, title=evil, silenced_because=evil) for one in view.alarms)
    version = replace(view.versions[0], version=evil, kinds=(hostile,), unwatched="")
    for shown in (version, replace(version, kinds=(), unwatched=evil)):
        expect_harmless(replace(view, use_case=evil, versions=(shown,), alarms=alarms, notes=(evil,)).page())


def test_a_notebook_shows_the_same_as_the_page(view: DriftView) -> None:
    assert view._repr_html_() in view.page()


def test_a_view_that_was_sent_shows_the_same(view: DriftView) -> None:
    sent = DriftView.from_json(json.loads(json.dumps(view.to_json(), allow_nan=False)))
    assert sent.page() == view.page()
    assert repr(sent) == repr(view)
    assert sent.frame.equals(view.frame)
    assert {"version", "windows", "feature", "distance", "drifts"} <= set(sent.frame.columns)
    assert sent.frame.height
    with pytest.raises(IntegrityError, match="Use the server's release"):
        DriftView.from_json({"use_case": "x", "now": 7})


def test_a_terminal_is_not_commanded_by_what_names_say(view: DriftView) -> None:
    clear = "\x1b[2J"
    kind = kind_of(view)
    features = tuple(replace(one, name=clear, words=clear) for one in kind.features)
    version = replace(view.versions[0], version=clear, kinds=(replace(kind, spec=clear, features=features),))
    said = repr(replace(view, use_case=clear, versions=(version,)))
    assert "\x1b" not in said
    assert "furthest" in said


def test_the_command_writes_the_page_and_says_what_stands(tmp_path: Path) -> None:
    open_store(Settings(state=str(tmp_path), data=str(tmp_path))).close()
    file = tmp_path / "drift.html"
    done = CliRunner().invoke(app, ["drift", NAME, "--state", str(tmp_path), "--page", str(file)])
    assert (done.exit_code, done.stdout) == (0, f"{file}: 0 versions of {NAME}, 0 alarms stand.\n")
    expect_harmless(file.read_text())


def test_nothing_counted_one_window_and_no_reference_are_said(tmp_path: Path) -> None:
    watching = Watching(tmp_path)
    page = watching.view().page()
    assert "Nothing was counted yet." in page
    expect_harmless(page)
    watching.take(example_stream(1, 5))
    page = watching.view().page()
    expect_harmless(page)
    assert len(kind_of(watching.view()).windows) == 1
    away = look_back(watching.settings, NAME, lambda version: "The registry is away.", ["7"])
    assert len(kind_of(away).windows) == 1
    assert "The registry is away." in away.page()
    expect_harmless(away.page())


def test_days_without_predictions_are_gaps_and_no_faults(tmp_path: Path) -> None:
    watching, rows = Watching(tmp_path), example_stream(6, 5)
    watching.take(rows.filter(~pl.col("time").is_between(START + 2 * DAY, START + 4 * DAY)))
    view = watching.view()
    assert 0 in [one.rows for one in kind_of(view, BY_TIME.name).windows]
    expect_harmless(view.page())


def test_a_version_that_begins_is_marked_in_the_charts_of_the_other(tmp_path: Path) -> None:
    watching, rows = Watching(tmp_path), example_stream(6, 5)
    watching.take(rows)
    watching.take(example_stream(3, 6, START + 3 * DAY), version="8")
    page = watching.view().page()
    assert page.count(">v8</text>") > 5
    expect_harmless(page)


def test_an_alarm_that_is_over_is_shaded_until_its_predictions_were_calm_again(tmp_path: Path) -> None:
    watching, rows = Watching(tmp_path), example_stream(8, 12)
    late = pl.col("time").is_between(START + 3 * DAY, START + 5 * DAY, closed="left")
    moved = rows.drop("probability", "label").with_columns(pl.col("distance") + 600 * late)
    watching.take(answered(moved, 3))
    (alarm,) = feature_of(watching.view(), "distance").alarms
    assert alarm.start == START + 3 * DAY
    assert alarm.end is not None
    assert START + 5 * DAY < alarm.end <= START + 7 * DAY
    assert "alarms that are over" in watching.view().page()


def test_only_the_last_windows_are_kept_and_read(watching: Watching, tmp_path: Path) -> None:
    artifacts, bins = Artifacts(str(tmp_path)), WATCHED.reference.columns
    history = WindowHistory(artifacts, NAME)
    window = WindowHistory(watching.artifacts, NAME).read("7", BY_COUNT.name, bins, 1)[0].window
    record = read_state(watching.artifacts, NAME).watches["7"].streams[BY_COUNT.name].records[-1]
    history.keep(WATCHED, [(replace(record, number=number), window) for number in range(KEPT + 5)], {})
    read = history.read("7", BY_COUNT.name, bins, 2 * KEPT)
    assert [one.number for one in read] == list(range(5, KEPT + 5))
    assert [one.number for one in history.read("7", BY_COUNT.name, bins, 3)] == [KEPT + 2, KEPT + 3, KEPT + 4]
    assert history.read("7", BY_COUNT.name, {"other": bins["hour"]}, 3) == []


def test_with_the_windows_of_an_old_version_their_history_goes(tmp_path: Path) -> None:
    watching, rows = Watching(tmp_path), example_stream(1, 5)
    for version in "1234567":
        watching.take(rows, version=version)
    kept = {entry.name for entry in watching.artifacts.entries("monitoring", NAME, "history")}
    assert kept == {"7", *read_state(watching.artifacts, NAME).watches} == {"3", "4", "5", "6", "7"}


def wide(view: DriftView) -> DriftView:
    """As many features and slices as a large use case has."""
    kind = kind_of(view)
    features = tuple(
        replace(one, name=f"{one.name}_{at}") for at in range(60) for one in kind.features if one.name != PREDICTION
    )
    slices = tuple(SliceSeries(f"{one.name}_{at}", one.points) for at in range(5) for one in kind.slices)
    assert (len(features), len(slices)) == (300, 20)
    version = replace(view.versions[0], kinds=(replace(kind, features=features, slices=slices),))
    return replace(view, versions=(version,))


def test_of_300_features_and_20_slices_the_first_are_open_and_the_rest_folded(view: DriftView) -> None:
    page = wide(view).page()
    expect_harmless(page)
    assert len(page) < 3_000_000
    assert "40 more features" in page
    assert "The other 252 features in numbers" in page
    assert "12 more slices" in page
    assert page.count('<div class="feature">') == 48


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_chromium_shows_the_page_with_all_hosts_away(view: DriftView, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(view.page(), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--dump-dom"]
    command += [file.as_uri()]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=90)
    assert shown.stdout.count("<svg") == view.page().count("<svg")
    assert "alert(1)</script>" not in shown.stdout
