"""Batch scoring: the sealed model that also answers requests, over any number of rows, with features as of their time.

What lies below the output, and what of it survives a kill: see `batch.output`.
"""

import hashlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.batch.judged import AS_OF, Judged, Summary, divide, expect_plain_types, judge_partition, together
from mlops_ray.batch.output import PREDICTIONS, QUARANTINE, WAITING, begin, finish
from mlops_ray.batch.rows import reading
from mlops_ray.config import Settings, settings_from_environment
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.history_source import HistorySource, with_keys_of
from mlops_ray.features.on_demand import with_on_demand
from mlops_ray.features.slices import Carried, Slice, in_slices, join_slice, most_memory, results, slices_of
from mlops_ray.frames import AnyFrame, to_polars
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.live import live
from mlops_ray.ingestion.contract import JUDGEMENT
from mlops_ray.predictions.ids import microseconds, uuid7_at
from mlops_ray.predictions.personal import personal_hash
from mlops_ray.predictions.record import Recorder
from mlops_ray.predictions.segments import frame_of
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.models import ModelVersion, download, find_version
from mlops_ray.registry.sealed_model import SealedModel, load, model_inputs
from mlops_ray.tasks.task import Task

PARTITION_BYTES = 64 << 20
# Of a slice so many are written to a file, and become Python objects for the ledger, at a time.
WRITTEN_ROWS = 100_000
_JUDGE_BYTES = 12 * PARTITION_BYTES

_ADDED = ("request_id", "row", "version")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """What a run did: rows_in = scored + quarantined, and `repaired` of the scored were changed by a rule.

    reasons and repairs: how many rows by code, `column:what`. version and digest: of the model that answered.
    predictions and quarantine: URLs of folders of Parquet files; the second exists if there are such rows.
    """

    use_case: str
    version: int
    digest: str
    rows_in: int
    scored: int
    repaired: int
    quarantined: int
    reasons: Mapping[str, int]
    repairs: Mapping[str, int]
    predictions: str
    quarantine: str


@dataclass(frozen=True)
class _Run:
    """What every task of a run is given. files: of the sealed model, by name."""

    id: str
    started: datetime
    settings: Settings
    model: ModelVersion
    schema: ModelSchema
    files: Mapping[str, bytes]
    output: str


def score(
    rows: "ray.data.Dataset | AnyFrame",
    use_case: str,
    output: str,
    settings: Settings | None = None,
    version: int | None = None,
) -> Scores:
    """Predict for each row, and write the predictions to `output` and, with route "batch", to the ledger.

    rows: the columns of a request (entities, event time, and what the request features are computed from). A column
    `as_of` says for each row up to when features may be known, at most the lead time before the event; that is the
    default, as in training. Other columns are carried along. A row that breaks the rules of its columns goes to
    quarantine with the reasons, and so does a line of a file that is no row. output: an absolute folder or URL; a run
    that was killed there is begun anew, or finished if it had scored all. settings: default from the environment.
    version: default the champion.
    Ray must be running. Raises DataError if a column is missing or taken, or if `output` holds a finished run or what
    no run wrote, and ConfigurationError if there is no such version.
    """
    settings = settings or settings_from_environment()
    model = _model(settings, use_case, version)
    with tempfile.TemporaryDirectory(prefix="mlops-ray-model-") as folder:
        sealed_folder = download(settings, model, folder)
        schema = load(sealed_folder, model.digest).schema
        files = {path.name: path.read_bytes() for path in sealed_folder.iterdir()}
    with reading():
        given = list(rows.columns() if isinstance(rows, ray.data.Dataset) else to_polars(rows).columns)
    _expect_columns(schema, given)
    begun = begin(output, use_case)
    if begun.scored is not None:
        _logger.info("Run %s into %s had scored all its rows, and is finished as it was", begun.id, output)
        finish(output, settings, begun.scored)
        return Scores(**begun.scored)
    _logger.info("Scoring with %s version %d into %s (run %s)", use_case, model.version, output, begun.id)
    began = time.monotonic()
    run = _Run(begun.id, begun.started, settings, model, schema, files, output)
    summaries, judged = _judge(run, rows)
    _score_judged(run, summaries, judged, _sources(settings, schema))
    scores = _sum(summaries, use_case, model, output)
    finish(output, settings, asdict(scores))
    seconds = time.monotonic() - began
    _logger.info("Scored %d rows, %d quarantined, in %.1f s", scores.scored, scores.quarantined, seconds)
    return scores


def _model(settings: Settings, use_case: str, version: int | None) -> ModelVersion:
    if version is not None:
        return find_version(settings, use_case, version)
    champion = live(open_store(settings), use_case).champion
    if champion is None:
        raise ConfigurationError(f"Model {use_case!r} has no champion. Run its pipeline first, or give a version.")
    return find_version(settings, use_case, champion.version)


def _expect_columns(schema: ModelSchema, given: Sequence[str]) -> None:
    wanted = [column.name for column in schema.request_columns]
    if missing := [name for name in wanted if name not in given]:
        raise DataError(
            f"The rows to score lack {', '.join(missing)} (they have {', '.join(given)}). "
            f"Model {schema.use_case} needs {', '.join(wanted)}."
        )
    if taken := [name for name in (*_ADDED, *_answer_names(schema.task), *JUDGEMENT) if name in given]:
        raise DataError(f"The rows to score have a column {taken[0]!r}, which scoring adds. Rename it.")


def _partitions(rows: "ray.data.Dataset | AnyFrame") -> Iterator[list[Any]]:
    """Object references of the tables of each partition: one partition while all is small."""
    if not isinstance(rows, ray.data.Dataset):
        frame = to_polars(rows)
        expect_plain_types(frame)
        size = max(1, frame.height * PARTITION_BYTES // max(1, int(frame.estimated_size())))
        yield from ([ray.put(part.to_arrow())] for part in frame.iter_slices(size))
        return
    with reading():
        materialized = rows.materialize()
    count = 1 + materialized.size_bytes() // PARTITION_BYTES
    blocks = materialized.to_arrow_refs()
    for part in np.array_split(np.arange(len(blocks)), min(count, len(blocks)) or 1):
        if len(part):
            yield [blocks[position] for position in part]


def _judge(run: _Run, rows: "ray.data.Dataset | AnyFrame") -> tuple[list[Summary], list["ray.ObjectRef[Judged]"]]:
    """What is to be known of each partition, and references to its rows."""
    task = ray.remote(num_returns=2)(judge_partition).options(memory=min(_JUDGE_BYTES, most_memory()))
    begun = [task.remote(run.schema, run.output, number, *tables) for number, tables in enumerate(_partitions(rows))]
    return results([summary for summary, _ in begun]), [judged for _, judged in begun]


def _score_judged(
    run: _Run, summaries: Sequence[Summary], judged: Sequence[Any], sources: Sequence[HistorySource]
) -> None:
    """Score the rows in slices by their moments, so that each history is read once, however the rows came divided."""
    slices = slices_of([span for summary in summaries for span in summary.moments], sources)
    if not slices:
        return
    if len(slices) == 1:
        pieces = [[one] for one in judged]
    else:
        task = ray.remote(num_returns=len(slices))(divide)
        pieces = [task.remote(one, slices) for one in judged]
    of_slice = [[piece[number] for piece in pieces] for number in range(len(slices))]
    results(in_slices(slices, sources, partial(_score_slice, ray.put(run), of_slice)))


def _score_slice(
    reference: Any,
    of_slice: Sequence[Sequence[Any]],
    one: Slice,
    sources: Sequence[HistorySource],
    carried: Carried,
) -> None:
    run: _Run = ray.get(reference)
    with tempfile.TemporaryDirectory(prefix="mlops-ray-model-") as folder:
        for name, content in run.files.items():
            Path(folder, name).write_bytes(content)
        sealed = load(Path(folder), run.model.digest)
    hashes = any(column.personal == "hash" for column in sealed.schema.request_columns)
    personal = personal_hash(run.settings) if hashes else None
    recorder = Recorder(str(run.model.version), sealed.schema, personal)
    judged = together(ray.get(list(of_slice[one.number])))
    features = _features(sealed.schema, judged.rows, sources, carried)
    output = Artifacts(run.output)
    for number, start in enumerate(range(0, judged.rows.height, WRITTEN_ROWS)):
        name, part = f"{one.number:05}-{number:03}", slice(start, start + WRITTEN_ROWS)
        rows, others = judged.rows[part], judged.others[part]
        scored = _predict(run, sealed, recorder, name, rows, features[part])
        output.write_table(pl.concat([others, scored], how="horizontal"), PREDICTIONS, f"part-{name}.parquet")


def _predict(
    run: _Run, sealed: SealedModel, recorder: Recorder, name: str, rows: pl.DataFrame, features: pl.DataFrame
) -> pl.DataFrame:
    """The typed rows with their predictions, whose segment waits for the ledger then."""
    started = time.monotonic()
    numbers, categories = model_inputs(features, sealed.schema.features)
    answer = sealed.model.answers(numbers, categories)
    # A millisecond for each slice, so that readers of the ledger can divide a large run by time.
    moment = run.started + timedelta(milliseconds=int(name.partition("-")[0]))
    time_us = microseconds(moment)
    request_id = _id_of(run, time_us, f"request {name}")
    record = recorder.record(
        request_id, time_us, time_us, "batch", time.monotonic() - started,
        rows.drop(AS_OF).to_dicts(), numbers, categories, answer,
    )  # fmt: skip
    segment = frame_of(recorder.schema, [record]).with_columns(rows[AS_OF])
    Artifacts(run.output).write_table(segment, WAITING, f"{_id_of(run, time_us, f'segment {name}')}.parquet")
    return rows.with_columns(
        pl.lit(request_id).alias("request_id"),
        segment["row"],
        pl.lit(run.model.version).alias("version"),
        *_columns(sealed.schema.task, answer),
    )


def _answer_names(task: Task) -> list[str]:
    """Those of `_columns`, and of what they are parts of."""
    nothing = np.zeros((0, task.width) if task.width > 1 else 0, dtype=np.float32)
    return [*task.output_types, *(one.name for one in _columns(task, nothing))]


def _columns(task: Task, answer: NDArray[np.float32]) -> list[pl.Series]:
    """What is answered; where it is several numbers, a column for each, as files for others hold plain values:
    `probabilities.late`, say."""
    found = list[pl.Series]()
    for name, values in task.columns(answer).items():
        if values.ndim == 1:
            found.append(pl.Series(name, values.tolist() if values.dtype == object else values))
        else:
            found += [pl.Series(f"{name}.{part}", values[:, at]) for at, part in enumerate(task.output_parts[name])]
    return found


def _features(
    schema: ModelSchema, rows: pl.DataFrame, sources: Sequence[HistorySource], carried: Carried
) -> pl.DataFrame:
    """The features of each row as they were known at its `as_of`."""
    features = _known_features(schema, rows, sources, carried)
    if not schema.on_demand_features:
        return features
    columns = schema.on_demand_columns()
    asked = rows.select(name for name in columns if name not in features.columns)
    given = pl.concat([features.cast({name: columns[name] for name in features.columns}), asked], how="horizontal")
    return with_on_demand(given, schema.on_demand_expressions()).drop(asked.columns)


def _known_features(
    schema: ModelSchema, rows: pl.DataFrame, sources: Sequence[HistorySource], carried: Carried
) -> pl.DataFrame:
    features = rows.select(list(schema.expressions().values()))
    if not sources:
        return features
    asked = rows.select(*schema.entities, pl.col(AS_OF).alias(PREDICTION_TIME))
    known = join_slice(with_keys_of(asked, sources), PREDICTION_TIME, sources, carried).drop(*asked.columns)
    return pl.concat([features, known.drop(*features.columns, strict=False)], how="horizontal")


def _sources(settings: Settings, schema: ModelSchema) -> list[HistorySource]:
    """The histories that the model's features come from."""
    if schema.feature_project is None:
        return []
    from mlops_ray.features.store import Store

    return Store(settings, schema.feature_project).sources()


def _id_of(run: _Run, time_us: int, what: str) -> str:
    return uuid7_at(time_us // 1000, hashlib.sha256(f"{run.id} {what}".encode()).digest())


def _sum(parts: Sequence[Summary], use_case: str, model: ModelVersion, output: str) -> Scores:
    total = Counter[tuple[str, str]]()
    for part in parts:
        total.update(part.counts)
    codes = {
        kind: {code: count for (found, code), count in sorted(total.items()) if found == kind}
        for kind in ("reason", "repair")
    }
    rows_in, scored = total["rows", "in"], total["rows", "scored"]
    artifacts = Artifacts(output)
    return Scores(
        use_case, model.version, model.digest, rows_in, scored, total["rows", "repaired"], rows_in - scored,
        codes["reason"], codes["repair"], artifacts.url(PREDICTIONS), artifacts.url(QUARANTINE),
    )  # fmt: skip
