"""Golden requests: a sealed model is asked again what callers asked, on their way, before it serves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops_ray.errors import IntegrityError
from mlops_ray.registry.golden_requests import GoldenRequest
from mlops_ray.registry.sealed_model import SealedModel, load
from mlops_ray.serving.golden import replay_golden_requests
from mlops_ray.testing.example_model import example_requests, example_schema, seal_example
from tests.unit.test_sealed_model import reseal

# Sealed by the code that wrote format 1; its polars was 2.1.0.
FORMAT_1 = Path(__file__).parents[1] / "sealed_format_1"
FORMAT_1_DIGEST = "ac5ebde1f403885a0d65a7fd2eaa6572701359a811d4af295b7117570f55d49e"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> SealedModel:
    folder = tmp_path_factory.mktemp("sealed")
    return load(folder, seal_example(folder))


def test_golden_requests_come_back_as_they_were_sealed_and_replay(sealed: SealedModel) -> None:
    assert sealed.golden_requests == tuple(example_requests())
    replay_golden_requests(sealed)


def changed(sealed: SealedModel, position: int, **parts: Any) -> SealedModel:
    golden = list(sealed.golden_requests)
    golden[position] = replace(golden[position], **parts)
    return replace(sealed, golden_requests=tuple(golden))


def with_expression(sealed: SealedModel, name: str, expression: pl.Expr) -> SealedModel:
    texts = {**sealed.schema.request_features, name: expression.meta.serialize(format="json")}
    return replace(sealed, schema=replace(sealed.schema, request_features=texts))


DEPARTURE = pl.col("departure")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # What another version of a library could make of the same model, stage by stage.
        (lambda s: changed(s, 0, body='{"keys": {}}'), "Golden request 0 of 3 .*it is refused now"),
        (lambda s: with_expression(s, "hour", DEPARTURE.dt.hour()), r"request 0 of 3 .*feature 'hour' is 13.0 instead"),
        (
            lambda s: with_expression(s, "hour", DEPARTURE.dt.hour() - 5),
            r"request 1 of 3 .*'hour' is 7.0 instead of 8.0",
        ),
        (
            lambda s: with_expression(s, "distance", pl.col("distance").fill_null(0)),
            "request 1 of 3 .*'distance' is 0.0",
        ),
        (lambda s: with_expression(s, "hour", DEPARTURE.dt.date()), "request 0 of 3 .*it fails now"),
        (
            lambda s: changed(s, 2, online={"recent_delay": 1.0}),
            "request 2 of 3 .*'recent_delay' is 1.0 instead of None",
        ),
        (lambda s: changed(s, 2, answer=(0.9,)), r"request 2 of 3 .*the answer is 0\.\d+ instead of 0.9"),
    ],
)
def test_whatever_comes_out_otherwise_is_named(sealed: SealedModel, change: Any, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        replay_golden_requests(change(sealed))


def test_a_model_that_was_sealed_before_there_were_golden_requests_still_loads() -> None:
    old = load(FORMAT_1, FORMAT_1_DIGEST)
    assert (old.golden_requests, old.schema.polars, old.schema.feature_project) == ((), "", None)
    new = example_schema()
    assert replace(old.schema, polars=new.polars, feature_project=new.feature_project) == new
    replay_golden_requests(old)


@pytest.mark.parametrize("format_", [0, 3, None])
def test_another_format_is_refused_with_the_next_step(tmp_path: Path, format_: Any) -> None:
    from mlops_ray.artifacts import digest_json

    seal_example(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text()) | {"format": format_}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"which reads 1 and 2\. Load it with the version that sealed it"):
        load(tmp_path, digest_json(manifest))


@pytest.mark.parametrize("part", [{"body": "{}"}, {**example_requests()[0].to_json("probability"), "more": 1}])
def test_golden_requests_of_another_shape_are_refused(tmp_path: Path, part: dict[str, Any]) -> None:
    seal_example(tmp_path)
    golden = json.loads((tmp_path / "golden.json").read_text()) | {"requests": [part]}
    digest = reseal(tmp_path, "golden.json", json.dumps(golden).encode())
    with pytest.raises(IntegrityError, match=r"golden\.json of the sealed model does not fit this version"):
        load(tmp_path, digest)


def test_an_expression_that_this_polars_cannot_read_says_which_polars_wrote_it(tmp_path: Path) -> None:
    seal_example(tmp_path)
    schema = json.loads((tmp_path / "schema.json").read_text()) | {"polars": "1.2.3"}
    schema["request_features"]["hour"] = schema["request_features"]["hour"].replace("Hour", "HourOfDay")
    digest = reseal(tmp_path, "schema.json", json.dumps(schema).encode())
    with pytest.raises(IntegrityError) as found:
        load(tmp_path, digest)
    for part in ("'hour'", "written by polars 1.2.3", f"here is {pl.__version__}", "train and seal the model again"):
        assert part in str(found.value)


def test_no_code_is_needed_to_read_them() -> None:
    request = example_requests()[0]
    assert GoldenRequest.from_json(json.loads(json.dumps(request.to_json("probability")))) == request
