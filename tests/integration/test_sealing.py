"""What is sealed answers as the model that was fitted, and answers requests with what training computed."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.config import Settings
from mlops_ray.errors import DataError, IntegrityError, ModelError, UseCaseError
from mlops_ray.features.blocks import Rows
from mlops_ray.features.columns import LABEL
from mlops_ray.features.definitions import Definitions, keep_definitions, read_definitions
from mlops_ray.features.training_set import TrainingSet, build_training_set, split_by_time
from mlops_ray.features.transform import FeatureRows
from mlops_ray.ingestion.snapshot import LineCounts, Snapshot, SourceCounts
from mlops_ray.pipeline.sealing import fit_score_and_seal
from mlops_ray.registry.sealed_model import SealedModel, load, model_inputs
from mlops_ray.serving.golden import replay_golden_requests
from mlops_ray.tasks.decision import Gains
from mlops_ray.tasks.scaling import Scaling, platt
from mlops_ray.training.candidates.logistic_regression import LogisticRegression
from mlops_ray.training.fit import fit_trial
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Binary, Candidate, Column, Fit, FittedModel, Label, Search, Source, Split, UseCase

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

AS_OF = datetime(2013, 12, 1, tzinfo=UTC)
LEAD = timedelta(hours=2)
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

carrier = Entity(name="carrier", value_type=ValueType.STRING)
loads = FeatureView(
    name="loads",
    entities=[carrier],
    ttl=timedelta(hours=12),
    schema=[Field(name="load", dtype=Float64), Field(name="gates", dtype=Int64), Field(name="terminal", dtype=String)],
    source=FileSource(name="loads", path="loads.parquet", timestamp_field="event_timestamp"),
)
departures = FeatureService(name="departures", features=[loads])
"""
DEPARTURE = pl.col("departure")
LOCAL = DEPARTURE.dt.convert_time_zone("America/New_York")
REQUEST_FEATURES = {
    "carrier": pl.col("carrier"),
    "wind": pl.col("wind"),
    "hour": LOCAL.dt.hour() + LOCAL.dt.minute() / 60,
    "booked_online": pl.col("booked_online"),
}


@dataclass(frozen=True)
class Shifted:
    """Answers with so much more than its ONNX export."""

    classifier: FittedModel
    by: float

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.classifier.predict(matrix) + self.by

    def to_onnx(self) -> bytes:
        return self.classifier.to_onnx()


@dataclass(frozen=True)
class Misexported(LogisticRegression):
    by: float = 0.0

    def fit(self, *args: Any, **kwargs: Any) -> Iterator[tuple[float, Any]]:
        for fraction, classifier in super().fit(*args, **kwargs):
            yield fraction, Shifted(classifier, self.by)


def use_case(candidate: Candidate = LogisticRegression(), **changed: Any) -> UseCase:  # noqa: B008
    columns = (
        Column("carrier", "text", nullable=True),
        Column("departure", "timestamp"),
        Column("wind", "number", nullable=True),
        Column("booked_online", "boolean", nullable=True),
        Column("late", "boolean", nullable=True, outcome=True),
    )
    given: dict[str, Any] = {
        "name": "departures",
        "sources": {"departures": Source("departures.csv", columns)},
        "entities": ("carrier",),
        "event_time": "departure",
        "lead_time": LEAD,
        "label": Label("late", pl.col("late"), DEPARTURE + pl.duration(hours=1)),
        "candidates": (candidate,),
        "request_features": REQUEST_FEATURES,
        "feature_views": {"loads": lambda tables: tables},
        "feature_service": "departures",
        "split": Split(test=timedelta(days=40), gap=timedelta(days=5), validation=timedelta(days=60)),
        "search": Search(trials_per_candidate=1),
    }
    return UseCase(**{**given, **changed})


def raw_rows(rows: int = 2_000) -> pl.DataFrame:
    random = np.random.default_rng(5)
    wind = random.normal(size=rows)
    late = random.random(rows) < 1 / (1 + np.exp(-2 * wind))
    carrier = random.choice(["AA", "UA", "Ü9"], rows)
    return pl.DataFrame(
        {
            "carrier": [None if n % 97 == 0 else "QQ" if n == 20 else str(carrier[n]) for n in range(rows)],
            "departure": [AS_OF - timedelta(hours=2 + 4 * n, minutes=n % 3) for n in range(rows)],
            "wind": [None if n % 50 == 0 else float(wind[n]) for n in range(rows)],
            "booked_online": [(True, False, None)[n % 3] for n in range(rows)],
            "late": [None if n % 83 == 0 else bool(late[n]) for n in range(rows)],
        }
    )


def load_rows(noise: float = 0.0) -> pl.DataFrame:
    """Loads of two carriers, every hour; none in every third week, so that the last before it expires."""
    hours = [datetime(2013, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(8_000) if n // 168 % 3 != 2]
    return pl.DataFrame(
        {
            "carrier": [carrier for carrier in ("AA", "Ü9") for _ in hours],
            "event_timestamp": hours * 2,
            "load": [None if n % 11 == 0 else n / 7 + noise for n in range(2 * len(hours))],
            "gates": [n % 5 for n in range(2 * len(hours))],
            "terminal": [("A", "", None, "B")[n % 4] for n in range(2 * len(hours))],
        }
    )


def settings_of(folder: Path) -> Settings:
    return Settings(state=str(folder), data=str(folder / "data"))


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Definitions:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "views.py").write_text(DEFINITIONS)
    found = read_definitions(folder, "departures")
    assert found is not None
    return found


def trained(folder: Path, case: UseCase, definitions: Definitions, rows: pl.DataFrame | None = None) -> TrainingSet:
    """The training set that the steps before sealing make, without Ray."""
    settings, rows = settings_of(folder), raw_rows() if rows is None else rows
    artifacts = Artifacts(settings.artifacts)
    url = artifacts.write_table(load_rows(), "features", "loads.parquet")
    lines = LineCounts(*[0] * len(fields(LineCounts)))
    counts = {"departures": SourceCounts(rows.height, rows.height, 0, 0, 0, {}, {}, lines)}
    snapshot = Snapshot("departures", "s" * 64, AS_OF, "c", "v", counts, {}, {})
    artifacts.write_table(rows, "snapshots", "departures", snapshot.digest, "departures", "accepted", "0.parquet")
    artifacts.write_json(snapshot.to_json(), "snapshots", "departures", snapshot.digest, "manifest.json")
    views = [FeatureRows("loads", url, "d" * 64, load_rows().height, "c")]
    built = build_training_set(case, artifacts, definitions, views, snapshot, AS_OF)
    keep_definitions(artifacts, str(built.feature_project), definitions)
    return built


def seal(folder: Path, case: UseCase, training_set: TrainingSet) -> dict[str, Any]:
    trial = Trial(case.candidates[0].name, 0, {"l2": 1e-4, "iterations": 30})
    *_, sealed = fit_score_and_seal(case, settings_of(folder), training_set, trial)
    return sealed


def loaded(folder: Path, digest: str) -> SealedModel:
    Artifacts(settings_of(folder).artifacts).download(folder / "model", "sealed_models", "departures", digest)
    return load(folder / "model", digest)


def test_a_sealed_model_says_how_good_it_is_and_which_requests_prove_it(
    tmp_path: Path, definitions: Definitions
) -> None:
    case = use_case()
    sealed = seal(tmp_path, case, trained(tmp_path, case, definitions))
    model = loaded(tmp_path, sealed["digest"])
    assert model.schema.named("number") == ("wind", "hour", "booked_online", "load", "gates")
    assert model.schema.polars == pl.__version__
    assert sealed["evaluation"]["roc_auc"]["value"] > 0.8
    assert sealed["evaluation"]["importance"]["features"]["wind"] > 0.1
    alone = sealed["evaluation"]["alone"]
    assert max(alone, key=alone.__getitem__) == "wind"
    start, until = case.split.test_start(AS_OF), case.split.trained_until(AS_OF)
    assert sealed["evaluation"]["test_period"] == {"start": start.isoformat(), "end": AS_OF.isoformat()}
    assert model.evaluation["trained_until"] == until.isoformat()
    parity = sealed["evaluation"]["request_parity"]
    assert parity == json.loads((tmp_path / "model" / "evaluation.json").read_text())["request_parity"]
    assert parity["rows"] == sum(parity["cases"].values()) > 64
    assert min(parity["missing"], parity["expired"]) > 20
    assert parity["largest_difference"] < parity["limit"] == 1e-5
    covered = parity["cases"].keys()
    assert "departure around a change of America/New_York" in covered
    assert {"carrier is missing", "wind is missing", "booked_online is missing", "carrier is not ASCII"} <= covered
    replay_golden_requests(model)
    assert len(model.golden_requests) == 32
    assert {json.loads(one.body)["keys"]["carrier"] for one in model.golden_requests} >= {None, "AA", "Ü9"}


def test_what_calibrates_answers_is_sealed_with_them_and_found_on_rows_that_the_model_had_not_seen(
    tmp_path: Path, definitions: Definitions
) -> None:
    label = Label("late", pl.col("late"), DEPARTURE + pl.duration(hours=1), task=Binary(decision=Gains(2.0, -1.0)))
    fit = Fit(class_weights={True: 20.0}, half_life=timedelta(days=100), calibration="platt")
    case = use_case(label=label, fit=fit)
    training_set = trained(tmp_path, case, definitions)
    sealed = seal(tmp_path, case, training_set)
    model, found = loaded(tmp_path, sealed["digest"]), sealed["evaluation"]["calibration"]
    assert model.evaluation["calibration"] == found
    parts = split_by_time(read_parquet(training_set.url), AS_OF, case.split, label.task)
    trial = Trial(case.candidates[0].name, 0, {"l2": 1e-4, "iterations": 30})
    early, rows = fit_trial(case, Rows.of(parts.train), training_set.features, trial), parts.validation
    answers, labels = early.model.predict(early.encoder.encode(rows)), rows[LABEL].to_numpy()
    assert Scaling(found["slope"], tuple(found["shifts"])) == platt(labels, answers)
    # Led back from weights of 20 they are probabilities already; what is measured across days is no better than chance.
    assert abs(answers.mean() - labels.mean()) < 0.1
    for period in ("validation", "test"):
        assert found[period]["after"]["calibration_error_debiased"] < 0.15
        assert found[period]["after"]["log_loss"] == pytest.approx(found[period]["before"]["log_loss"], abs=0.05)
    threshold = sealed["evaluation"]["decision"]["threshold"]
    assert threshold == Gains(2.0, -1.0).threshold(labels, platt(labels, answers).apply(answers), 1)
    test = parts.test
    served = model.model.answers(*model_inputs(test, model.schema.features))
    assert abs(served.mean() - test[LABEL].mean()) < 0.1
    assert "cut_short_after" not in sealed["evaluation"]


def test_a_category_of_many_values_is_sealed_as_what_their_labels_were(
    tmp_path: Path, definitions: Definitions
) -> None:
    case = use_case(fit=Fit(most_levels=2))
    sealed = seal(tmp_path, case, trained(tmp_path, case, definitions))
    model = loaded(tmp_path, sealed["digest"])
    assert sealed["evaluation"]["request_parity"]["largest_difference"] < 1e-5
    carrier = next(feature for feature in model.schema.features if feature.name == "carrier")
    assert (carrier.kind, carrier.categories) == ("category", ())
    assert {json.loads(one.body)["keys"]["carrier"] for one in model.golden_requests} >= {None, "AA", "Ü9"}


def test_a_fit_that_the_clock_has_ended_says_so(tmp_path: Path, definitions: Definitions) -> None:
    case = use_case(fit=Fit(time_limit=timedelta(microseconds=1)))
    sealed = seal(tmp_path, case, trained(tmp_path, case, definitions))
    assert sealed["evaluation"]["cut_short_after"] == "0:00:00.000001"


def test_sealing_again_gives_the_same_digest(tmp_path: Path, definitions: Definitions) -> None:
    case = use_case()
    training_set = trained(tmp_path, case, definitions)
    assert seal(tmp_path, case, training_set)["digest"] == seal(tmp_path, case, training_set)["digest"]


@pytest.mark.parametrize(
    ("by", "error", "said"),
    [
        (1e-4, DataError, r"The ONNX export of logistic_regression answers .* to row .*, the trained model"),
        (math.nan, ModelError, r"Repair the candidate's predict"),
    ],
    ids=["a little", "no answer"],
)
def test_an_export_that_answers_otherwise_is_not_sealed(
    tmp_path: Path, definitions: Definitions, by: float, error: type[Exception], said: str
) -> None:
    case = use_case(Misexported(by=by))
    with pytest.raises(error, match=said):
        seal(tmp_path, case, trained(tmp_path, case, definitions))
    assert not list(tmp_path.rglob("model.onnx"))


def test_online_features_that_are_not_those_of_training_are_named(tmp_path: Path, definitions: Definitions) -> None:
    case = use_case()
    other = Artifacts(settings_of(tmp_path).artifacts).write_table(load_rows(noise=0.5), "features", "other.parquet")
    training_set = replace(trained(tmp_path, case, definitions), feature_rows={"loads": other})
    with pytest.raises(UseCaseError, match=r"Training and serving differ in feature 'load': .* its feature view"):
        seal(tmp_path, case, training_set)


def test_a_request_feature_that_changed_after_training_is_named(tmp_path: Path, definitions: Definitions) -> None:
    training_set = trained(tmp_path, use_case(), definitions)
    changed = use_case(request_features={**REQUEST_FEATURES, "wind": pl.col("wind").fill_null(0)})
    with pytest.raises(UseCaseError, match=r"differ in feature 'wind': training computed None, a request gives 0\.0"):
        seal(tmp_path, changed, training_set)


ON_DEMAND = {
    "load_per_gate": pl.col("load") / (pl.col("gates") + 1) - pl.col("wind").fill_null(0),
    "evening_terminal": pl.when(pl.col("hour") >= 17).then(pl.col("terminal") + pl.col("carrier")),
    "is_heavy": pl.col("load") > 100,
    "year": pl.col("departure").dt.year(),
}


def test_on_demand_features_are_those_of_the_request_path(tmp_path: Path, definitions: Definitions) -> None:
    """Over what is asked and what the online store knows: the same function for a table and for a request."""
    case = use_case(on_demand_features=ON_DEMAND)
    sealed = seal(tmp_path, case, trained(tmp_path, case, definitions))
    model = loaded(tmp_path, sealed["digest"])
    assert {"load_per_gate", "is_heavy", "year"} <= set(model.schema.named("number"))
    assert "evening_terminal" in model.schema.named("category")
    assert sealed["evaluation"]["request_parity"]["rows"] > 64
    replay_golden_requests(model)
    rows = trained(tmp_path / "plain", use_case(), definitions)
    before = read_parquet(rows.url)
    assert before.equals(read_parquet(trained(tmp_path, case, definitions).url).select(before.columns))


def test_an_on_demand_feature_that_changed_after_training_is_named(tmp_path: Path, definitions: Definitions) -> None:
    training_set = trained(tmp_path, use_case(on_demand_features=ON_DEMAND), definitions)
    changed = use_case(on_demand_features={**ON_DEMAND, "is_heavy": pl.col("load") > 100_000})
    with pytest.raises(UseCaseError, match=r"differ in feature 'is_heavy': .* its expression in on_demand_features"):
        seal(tmp_path, changed, training_set)


def test_an_on_demand_feature_sees_no_outcome(tmp_path: Path, definitions: Definitions) -> None:
    for name in ("label", "late", "event_timestamp", "nowhere"):
        case = use_case(on_demand_features={"told": pl.col(name).cast(pl.Float64)})
        with pytest.raises(UseCaseError, match=rf"On-demand feature 'told' uses '{name}', which is no entity"):
            trained(tmp_path, case, definitions)


def test_a_column_that_refuses_what_was_trained_on_is_named(tmp_path: Path, definitions: Definitions) -> None:
    case = use_case()
    training_set, source = trained(tmp_path, case, definitions), case.sources["departures"]
    columns = [replace(c, pattern="[A-Z]{2}") if c.name == "carrier" else c for c in source.columns]
    narrower = use_case(sources={"departures": replace(source, columns=tuple(columns))})
    with pytest.raises(UseCaseError, match=r"would refuse a row that the model was trained on: keys\.carrier"):
        seal(tmp_path, narrower, training_set)


def test_a_training_set_that_was_made_of_other_rows_is_refused(tmp_path: Path, definitions: Definitions) -> None:
    case = use_case()
    training_set = trained(tmp_path, case, definitions)
    later = use_case(label=Label("late", pl.col("late"), DEPARTURE + pl.duration(hours=9)))
    with pytest.raises(IntegrityError, match=r"is not made of the \d+ labelled rows of its snapshot"):
        seal(tmp_path, later, training_set)
