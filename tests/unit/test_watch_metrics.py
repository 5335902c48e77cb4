"""Metrics of the watch: what stands and what is over, a bounded number of series, and dashboards that ask for these."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml
from ray.util.metrics import Counter, Gauge

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.cost.stall import stall_gauge
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.watch_metrics import FEATURES, GAUGES, Figure, WatchMetrics, figures, judged_figures
from mlops_ray.monitoring.window_history import JudgedWindow, WindowHistory
from mlops_ray.serving.metrics import Metrics
from mlops_ray.serving.overdue import Overdue
from mlops_ray.testing.example_stream import BY_COUNT, START, answered, example_stream, example_watched
from mlops_ray.testing.example_stream import write_example_segments as write

NAME = "departures"
DAY = timedelta(days=1)
ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
WATCHED = example_watched()
TAGS = {"version": "7", "window": BY_COUNT.name}


class Watching:
    """A watch of five days in which distances grow on the third, and calm follows on the fifth."""

    def __init__(self, folder: Path):
        self.artifacts = Artifacts(str(folder))
        self.history = WindowHistory(self.artifacts, NAME)
        self.watch = DriftWatch(self.artifacts, NAME, lambda version: WATCHED, lambda change: None)

    def take(self, first: int, last: int, grown: float = 0.0) -> None:
        rows = example_stream(5, 12)[first * 400 : last * 400]
        moved = rows.drop("probability", "label").with_columns(pl.col("distance") + grown)
        write(self.artifacts, NAME, answered(moved, 3))
        self.watch.round(START + last * DAY + timedelta(minutes=10), ["7"])

    def figures(self, silenced: tuple[str, ...] = ()) -> dict[tuple[str, ...], float]:
        return {key_of(one): one.value for one in (*figures(self.watch.state, silenced), *self.judged())}

    def judged(self) -> list[Figure]:
        return list(judged_figures(self.last(), self.watch.importance("7"), (), TAGS))

    def last(self) -> JudgedWindow:
        return self.history.read("7", BY_COUNT.name, WATCHED.reference.columns, 1)[0]


def key_of(figure: Figure) -> tuple[str, ...]:
    return (figure.name, *(value for name, value in figure.tags.items() if name != "version"))


@pytest.fixture
def watching(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


def test_an_alarm_is_1_while_it_stands_and_0_when_it_is_silenced_or_over(watching: Watching) -> None:
    watching.take(0, 2)
    assert {value for key, value in watching.figures().items() if key[0] == "alarms"} == {0.0}
    watching.take(2, 3, grown=600.0)
    standing = {key for key, value in watching.figures().items() if key[0] == "alarms" and value}
    assert ("alarms", "data", watching.watch.state.watches["7"].severities["data"]) in standing
    ids = tuple(watching.watch.state.watches["7"].raised.values())
    assert not [key for key, value in watching.figures(ids).items() if key[0] == "alarms" and value]
    watching.take(3, 5)
    assert {value for key, value in watching.figures().items() if key[0] == "alarms"} == {0.0}


def test_figures_are_what_the_state_says(watching: Watching) -> None:
    watching.take(0, 3)
    found = watching.figures()
    assert (found["rows",], found["windows", BY_COUNT.name], found["late_labels",]) == (1200, 3, 0)
    low, value, high = (found["roc_auc", BY_COUNT.name, "estimated", bound] for bound in ("low", "value", "high"))
    assert 0.5 < low < value < high < 1
    assert found["missing_ratio", BY_COUNT.name, "recent_delay"] == pytest.approx(0.1, abs=0.05)
    assert 0 < found["distance_ratio", BY_COUNT.name, "distance"] < 1
    assert 0.1 < found["decision_ratio", BY_COUNT.name] < 0.9


def test_of_300_features_the_most_important_have_series(watching: Watching) -> None:
    watching.take(0, 2)
    last = watching.last()
    columns = {f"x{at}": last.window.columns["hour"] for at in range(300)}
    wide = replace(last, window=replace(last.window, columns=columns), distances={})
    found = list(judged_figures(wide, {"x250": 2.0, "x7": 1.0}, (), TAGS))
    named = [one.tags["feature"] for one in found if one.name == "missing_ratio"]
    assert named[:2] == ["x250", "x7"]
    assert len(named) == FEATURES
    assert len(found) == FEATURES


def test_every_figure_has_the_tags_that_its_gauge_declares(watching: Watching) -> None:
    watching.take(0, 2)
    found = [*figures(watching.watch.state, ()), *watching.judged()]
    for one in found:
        assert {"use_case", *one.tags} == set(GAUGES[one.name][1])
    assert {one.name for one in found} == GAUGES.keys() - {"lag_seconds", "error"}


def test_the_lag_grows_until_a_round_has_read_the_ledger(
    watching: Watching, store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[tuple[str, str], float] = {}

    def note(gauge: Gauge, value: float, tags: dict[str, str]) -> None:
        said[gauge.info["name"], tags["use_case"]] = value

    monkeypatch.setattr(Gauge, "set", note)
    now = [100.0]
    metrics = WatchMetrics(watching.artifacts, lambda: now[0])
    lag = "mlops_ray_monitoring_lag_seconds"
    metrics.say_lags([NAME, "other"])
    watching.take(0, 2)
    now[0] = 160.0
    metrics.say_lags([NAME, "other"])
    assert (said[lag, NAME], said[lag, "other"]) == (60.0, 60.0)
    metrics.show(NAME, watching.watch, store, 158.0, START)
    metrics.say_lags([NAME, "other"])
    assert (said[lag, NAME], said[lag, "other"]) == (2.0, 60.0)
    assert said["mlops_ray_monitoring_rows", NAME] == 800


def exported(monkeypatch: pytest.MonkeyPatch, watching: Watching) -> dict[str, set[str]]:
    """Every metric that the code makes, as Ray exports it, with its tags."""
    made: dict[str, set[str]] = {}
    for kind in (Counter, Gauge):
        begin = kind.__init__

        def noted(self, name, description="", tag_keys=None, begin=begin):  # type: ignore[no-untyped-def]
            made[f"ray_{name}"] = set(tag_keys or ())
            begin(self, name, description, tag_keys)

        monkeypatch.setattr(kind, "__init__", noted)
    Metrics(NAME)
    WatchMetrics(watching.artifacts)
    stall_gauge()
    Overdue(load_settings(state="/nowhere/state", data="/nowhere/data"), ControlStore("sqlite:////nowhere/store.db"))
    return made


def test_dashboards_and_alert_rules_ask_only_for_metrics_and_tags_that_exist(
    monkeypatch: pytest.MonkeyPatch, watching: Watching
) -> None:
    made = exported(monkeypatch, watching)
    asked = []
    for file in sorted((ROOT / "deploy" / "grafana").glob("*.json")):
        board = json.loads(file.read_text())
        asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
        asked += [one["query"] for one in board["templating"]["list"]]
    rules = yaml.safe_load((RULES / "alerts.yaml").read_text())
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    selectors = [found for expr in asked for found in re.findall(r"(ray_\w+)(?:\{([^}]*)\})?", expr)]
    assert len(selectors) > 40
    for name, within in selectors:
        assert name in made, name
        assert set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", within)) <= made[name], (name, within)
    assert {f"ray_mlops_ray_monitoring_{name}" for name in GAUGES} <= {name for name, _ in selectors}


def test_each_alert_rule_is_tried_on_a_calm_endpoint_and_on_one_of_which_all_is_wrong() -> None:
    rules = yaml.safe_load((RULES / "alerts.yaml").read_text())
    names = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    calm, wrong, _ = yaml.safe_load((RULES / "alerts_test.yaml").read_text())["tests"]
    assert {one["alertname"] for one in calm["alert_rule_test"]} == names
    fired = wrong["promql_expr_test"][0]["exp_samples"]
    assert {re.findall(r'alertname="(\w+)"', one["labels"])[0] for one in fired} == names


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_alert_rules_fire_when_they_should_and_a_calm_endpoint_is_silent() -> None:
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        subprocess.run(["promtool", *command], cwd=RULES, check=True, timeout=60)
