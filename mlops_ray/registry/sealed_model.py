"""A sealed model: one folder that holds all a server needs, and cannot be changed unnoticed."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from mlops_ray.artifacts import digest_json
from mlops_ray.errors import DataError, IntegrityError, ModelError
from mlops_ray.registry.golden_requests import GoldenRequest
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.use_case import Feature

UNKNOWN_CATEGORY = "never seen in training"
_MANIFEST = "manifest.json"
_FORMAT = 2  # 1 had no golden requests
_READABLE = 1, 2
# An explanation asks about four rows for each feature and row of the background: so about 4,000, and where an answer
# takes many trees, with whose number its time goes, fewer.
_EXPLAINED_ANSWERS, _EXPLAINED_TREES, _LEAST_BACKGROUND = 1_024, 150_000, 6


class Model(Protocol):
    """What answers: an `OnnxModel`, or what stands for one that runs elsewhere."""

    def answers(self, numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float32]: ...


ModelInputs = tuple[NDArray[np.float32], NDArray[np.object_]]


@dataclass(frozen=True)
class Explained:
    """What the reasons of an answer are made from.

    answers: see `OnnxModel.explained`. background: held-out rows that the model was sealed with, to explain against.
    """

    answers: Callable[[NDArray[np.float32], NDArray[np.object_]], NDArray[np.float32]]
    background: ModelInputs


@dataclass(frozen=True)
class SealedModel:
    """A model that was verified: its files match their digests and it gives the answers it was sealed with."""

    digest: str
    schema: ModelSchema
    model: Model
    evaluation: Mapping[str, Any]
    golden_requests: tuple[GoldenRequest, ...] = ()
    explained: Explained | None = None


def golden_cases(
    rows: pl.DataFrame, features: Sequence[Feature], hidden: Collection[str] = frozenset()
) -> pl.DataFrame:
    """Held-out rows and, for each feature, the hard cases: a missing number; an unknown, missing, empty category.

    `rows` has a column for each feature; the result has only those, Float64 for numbers and text for categories.
    hidden: features that tell of a person, which are missing in the held-out rows.
    """
    rows = rows.select(_golden_column(feature, feature.name in hidden) for feature in features)
    cases = [rows]
    for feature in features:
        values = (None,) if feature.kind == "number" else (UNKNOWN_CATEGORY, None, "")
        dtype = rows.schema[feature.name]
        cases += [rows.head(1).with_columns(pl.lit(value, dtype).alias(feature.name)) for value in values]
    return pl.concat(cases)


def _golden_column(feature: Feature, hidden: bool) -> pl.Expr:
    column = pl.lit(None).alias(feature.name) if hidden else pl.col(feature.name)
    if feature.kind == "category":
        return column.cast(pl.String)
    number = column.cast(pl.Float64)
    return pl.when(number.is_finite()).then(number).alias(feature.name)  # JSON has no other; the model takes both alike


def model_inputs(rows: pl.DataFrame, features: Sequence[Feature]) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
    """`numbers` and `categories` of the ONNX contract from a frame with a column for each feature."""
    names = {kind: [feature.name for feature in features if feature.kind == kind] for kind in ("number", "category")}
    numbers = rows.select(pl.col(names["number"]).cast(pl.Float32).fill_null(float("nan"))).to_numpy()
    texts = rows.select(pl.col(names["category"]).cast(pl.String).fill_null("")).rows()
    categories = np.array(texts, dtype=object).reshape(rows.height, len(names["category"]))
    return numbers.reshape(rows.height, len(names["number"])), categories


def seal(
    folder: Path,
    onnx: bytes,
    schema: ModelSchema,
    golden_rows: pl.DataFrame,
    answers_of_trained_model: ArrayLike,
    evaluation: Mapping[str, Any],
    tolerance: float = 1e-5,
    bill_of_materials: Mapping[str, Any] | None = None,
    reference: Mapping[str, bytes] | None = None,
    golden_requests: Sequence[GoldenRequest] = (),
) -> str:
    """Write a sealed model into `folder` and return its digest (SHA-256 of the canonical manifest, hex).

    golden_rows: see `golden_cases`. answers_of_trained_model: its answers to them. golden_requests:
    what `serving.golden` replays; the way from JSON to features is no matter of this module.
    bill_of_materials: of what serves the model (registry.bill_of_materials), stored with it. reference: the files by
    which its predictions are watched for drift (monitoring's `Reference.to_files`), stored with it.
    Raises DataError if the hard cases are not among the rows or if the ONNX answers differ from the trained model's
    by more than `tolerance`, and IntegrityError if the ONNX file breaks the contract of `OnnxModel`.
    """
    _expect_hard_cases(golden_rows, schema.features)
    answers = np.asarray(answers_of_trained_model, dtype=np.float64)
    golden = {
        "features": [feature.name for feature in schema.features],
        "rows": golden_rows.select(feature.name for feature in schema.features).rows(),
        "answers": answers.tolist(),
        "tolerance": tolerance,
        "requests": [request.to_json(schema.task.output) for request in golden_requests],
    }
    problem = _replay(OnnxModel(onnx, schema.features, schema.task), schema, golden)
    if problem:
        raise DataError(f"The ONNX export of {schema.use_case} does not answer as the trained model does: {problem}")
    schema.expressions()
    schema.on_demand_expressions()
    files = {
        "model.onnx": onnx,
        "schema.json": _json(schema.to_json()),
        "golden.json": _json(golden),
        "evaluation.json": _json(evaluation),
    }
    if bill_of_materials is not None:
        files["bill_of_materials.json"] = _json(bill_of_materials)
    files |= reference or {}
    manifest = {"format": _FORMAT, "files": {name: _sha256(content) for name, content in files.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / _MANIFEST).write_bytes(_json(manifest))
    return digest_json(manifest)


def files_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a sealed model, as its manifest says."""
    files: dict[str, str] = _parse(folder, _MANIFEST, _read(folder, _MANIFEST))["files"]
    return files


def load(folder: Path, expected_digest: str) -> SealedModel:
    """Read a sealed model after verifying every digest and replaying the golden rows (not yet the golden requests).

    No pickle is read and nothing of the user's code runs. Raises IntegrityError naming the file that differs.
    """
    contents = verified_files(folder, expected_digest)
    missing = {"model.onnx", "schema.json", "golden.json", "evaluation.json"} - contents.keys()
    if missing:
        raise IntegrityError(f"{folder / _MANIFEST} does not list {', '.join(sorted(missing))}.")
    schema = ModelSchema.from_json(_parse(folder, "schema.json", contents["schema.json"]))
    schema.expressions()
    schema.on_demand_expressions()
    model = OnnxModel(contents["model.onnx"], schema.features, schema.task)
    golden = _parse(folder, "golden.json", contents["golden.json"])
    problem = _replay(model, schema, golden)
    if problem:
        raise IntegrityError(
            f"{folder / 'golden.json'}: the model does not repeat the answers it was sealed with: {problem}"
        )
    evaluation = _parse(folder, "evaluation.json", contents["evaluation.json"])
    requests = tuple(GoldenRequest.from_json(request) for request in golden.get("requests", ()))
    return SealedModel(expected_digest, schema, model, evaluation, requests, _explained(schema, model, golden))


def verified_files(folder: Path, expected_digest: str, names: Sequence[str] | None = None) -> dict[str, bytes]:
    """The files of a sealed model, or those of `names` that it has, by name, after verifying their digests.

    Raises IntegrityError naming the file that differs.
    """
    manifest = _parse(folder, _MANIFEST, _read(folder, _MANIFEST))
    if digest_json(manifest) != expected_digest:
        raise IntegrityError(
            f"{folder / _MANIFEST} has digest {digest_json(manifest)}, but {expected_digest} was registered. "
            f"The sealed model was changed or is another version."
        )
    if manifest.get("format") not in _READABLE:
        raise IntegrityError(
            f"{folder / _MANIFEST}: format {manifest.get('format')!r} is not known to this version, which reads "
            f"{' and '.join(map(str, _READABLE))}. Load it with the version that sealed it, or a newer one."
        )
    files: dict[str, str] = manifest["files"]
    return {name: _verified(folder, name, files[name]) for name in files if names is None or name in names}


def _explained(schema: ModelSchema, model: OnnxModel, golden: Mapping[str, Any]) -> Explained | None:
    """Of the golden rows but the hard cases behind them (see `golden_cases`) at most so many that an explanation takes
    about as long with many features or trees as with few, from the lowest answer to the highest, so that the mean is
    about that of all; None where there is none."""
    hard = sum(1 if feature.kind == "number" else 3 for feature in schema.features)
    numbers, categories = model_inputs(_golden_frame(schema, golden["rows"][:-hard]), schema.features)
    if not len(numbers):
        return None
    answers = min(_EXPLAINED_ANSWERS, _EXPLAINED_TREES // max(1, model.explained_trees))
    rows = min(max(_LEAST_BACKGROUND, answers // len(schema.features)), len(numbers))
    order = model.explained(numbers, categories).reshape(len(numbers), -1)[:, 0].argsort(kind="stable")
    chosen = np.sort(order[((np.arange(rows) + 0.5) * len(order) / rows).astype(np.intp)])
    return Explained(model.explained, (numbers[chosen], categories[chosen]))


def _golden_frame(schema: ModelSchema, rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    dtypes = {feature.name: pl.Float64 if feature.kind == "number" else pl.String for feature in schema.features}
    return pl.DataFrame(rows, schema=dtypes, orient="row")


def _replay(model: OnnxModel, schema: ModelSchema, golden: Mapping[str, Any]) -> str | None:
    """What differs between the model's answers and the golden ones, or None."""
    features, rows = schema.features, _golden_frame(schema, golden["rows"])
    answers = np.asarray(golden["answers"], dtype=np.float64)
    try:
        given = model.answers(*model_inputs(rows, features))
    except ModelError as error:
        return str(error)
    if given.shape != answers.shape:
        return f"{given.shape} answers instead of {answers.shape}."
    differences = schema.task.apart(given, answers)
    worst = int(np.argmax(np.where(np.isnan(differences), np.inf, differences)))
    if differences[worst] <= golden["tolerance"]:
        return None
    return (
        f"row {worst} of {len(answers)} {rows.row(worst, named=True)} gives {shown_answer(given[worst])} instead of "
        f"{shown_answer(answers[worst])} (tolerance {golden['tolerance']:g})."
    )


def shown_answer(answer: ArrayLike) -> str:
    """The numbers of the answer to one row, for people."""
    return ", ".join(f"{value:.9g}" for value in np.atleast_1d(np.asarray(answer)).tolist())


def _expect_hard_cases(rows: pl.DataFrame, features: Sequence[Feature]) -> None:
    for feature in features:
        values = rows[feature.name]
        lacking = [] if values.null_count() else ["missing"]
        if feature.kind == "category":
            if not (values == "").any():
                lacking.append("empty")
            if values.drop_nulls().filter(values.drop_nulls() != "").is_in(list(feature.categories)).all():
                lacking.append("unknown")
        if lacking:
            raise DataError(
                f"The golden rows have no row where feature {feature.name!r} is {' or '.join(lacking)}. "
                f"Make them with golden_cases()."
            )


def _verified(folder: Path, name: str, digest: str) -> bytes:
    content = _read(folder, name)
    if _sha256(content) != digest:
        raise IntegrityError(
            f"{folder / name} has SHA-256 {_sha256(content)}, but was sealed with {digest}. Restore the file."
        )
    return content


def _read(folder: Path, name: str) -> bytes:
    if Path(name).name != name:
        raise IntegrityError(f"{folder / _MANIFEST} lists {name!r}, which is not a file of this folder.")
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{folder / name} of a sealed model cannot be read: {error.strerror}.") from error


def _parse(folder: Path, name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise IntegrityError(f"{folder / name} is not JSON: {error}") from error


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
