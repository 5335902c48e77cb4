"""Labels from files: what turned out to be true of many predictions, as systems export it at night."""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from mlops_ray.artifacts import Artifacts, digest_rows
from mlops_ray.config import Settings, settings_from_environment
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.governance.control_store import database_now, open_store
from mlops_ray.governance.live import live
from mlops_ray.ingestion.contract import REASON, check_rows
from mlops_ray.predictions.labels import (
    BY_REQUEST,
    CLOCKS_DIFFER,
    KNOWN_AT,
    REQUEST_ID,
    ROW,
    SAID,
    LabelKeys,
    frame_by_keys,
    key_columns,
    label_column,
    label_keys,
    write_by_keys,
    write_by_request,
)
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.sealed_model import verified_files
from mlops_ray.tasks.binary import BINARY
from mlops_ray.use_case import Column, Source

_ROWS = 250_000
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Imported:
    """What an import did: rows = accepted + refused, the latter by reason, `column:what`."""

    rows: int
    accepted: int
    refused: int
    reasons: Mapping[str, int]


def import_labels(url: str, use_case: str, settings: Settings | None = None) -> Imported:
    """Keep the labels in a CSV or Parquet file (or several: a glob), as if they had come over HTTP.

    Columns: `label` (as the champion predicts it, without one yes or no: true, false, yes, no, 1, 0; a number; the name
    of a class; empty withdraws what was said), `known_at` (optional; default: now), and either `request_id` with `row`
    (optional; default 0), or the champion's entities and event time. Rows that break this are left out and counted by
    reason, `known_after_as_of` for what is said to be known only in the days to come. The same file imported again
    replaces itself.
    settings: default from the environment. Raises DataError if a column is missing, ConfigurationError if labels by
    keys have no champion to say what the keys are.
    """
    settings = settings or settings_from_environment()
    with open_store(settings).reading() as connection:
        now = database_now(connection)  # not a laptop's clock: of two corrections the later one holds
    artifacts = Artifacts(settings.artifacts)
    champion = _champion(settings, use_case)
    label = label_column(BINARY if champion is None else champion.task)
    keys: LabelKeys | None = None
    rows, reasons = Counter[str](), Counter[str]()
    for part in _parts(url):
        by_request = "request_id" in part.columns
        if not by_request and keys is None:
            keys = _keys_of(champion, settings, use_case)
        about = (REQUEST_ID, ROW) if by_request else keys.columns if keys else ()
        judged = _judged(part, about, label, now)
        good = judged.filter(pl.col(REASON).is_null())
        said = good.with_columns(pl.col("known_at").fill_null(now), pl.lit(now).alias("received_at"))
        segment_id = f"file-{digest_rows(good).hex()[:32]}"
        if by_request:
            named = said.with_columns(pl.col("request_id").str.to_lowercase(), pl.col("row").fill_null(0))
            types = {**BY_REQUEST, "label": label.dtype}
            told = named.select(pl.col(name).cast(type_) for name, type_ in types.items())
            write_by_request(artifacts, use_case, segment_id, told)
        elif keys is not None and len(good):
            values = [keys.values(row) for row in good.select(c.name for c in keys.columns).to_dicts()]
            told = frame_by_keys(keys.types, values, said.select(list(SAID)))
            write_by_keys(artifacts, use_case, segment_id, keys.event_time, told)
        rows["rows"], rows["accepted"] = rows["rows"] + len(part), rows["accepted"] + len(good)
        reasons.update(code for text in judged[REASON].drop_nulls() for code in text.split(";"))
    done = Imported(rows["rows"], rows["accepted"], rows["rows"] - rows["accepted"], dict(sorted(reasons.items())))
    _logger.info("Labels of %s from %s: %s", use_case, url, done)
    return done


def _parts(url: str) -> Iterator[pl.DataFrame]:
    csv = url.endswith((".csv", ".csv.gz"))
    try:
        scanned = pl.scan_csv(url, infer_schema=False) if csv else pl.scan_parquet(url)
        yield from scanned.collect_batches(chunk_size=_ROWS, maintain_order=True)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"Labels cannot be read from {url}: {error}") from error


def _judged(part: pl.DataFrame, about: tuple[Column, ...], label: Column, now: datetime) -> pl.DataFrame:
    """The rows with typed columns and their reasons; optional columns that are not there are null."""
    optional = [column.name for column in (ROW, KNOWN_AT) if column.name not in part.columns]
    part = part.with_columns(pl.lit(None, pl.String).alias(name) for name in optional)
    said = Source("", (*about, label, KNOWN_AT), known_at=pl.coalesce(KNOWN_AT.name, pl.lit(now)))
    return check_rows(part, said, "The file of labels", now + CLOCKS_DIFFER)


def _champion(settings: Settings, use_case: str) -> ModelSchema | None:
    champion = live(open_store(settings), use_case).champion
    if champion is None:
        return None
    with tempfile.TemporaryDirectory(prefix="mlops-ray-model-") as folder:
        sealed = download_sealed(settings, use_case, champion, Path(folder))
        content = verified_files(sealed, champion.digest, ["schema.json"])["schema.json"]
    return ModelSchema.from_json(json.loads(content))


def _keys_of(schema: ModelSchema | None, settings: Settings, use_case: str) -> LabelKeys:
    if schema is None:
        raise ConfigurationError(f"{use_case} has no champion, which would say what keys are. Give request ids.")
    if not key_columns(schema):
        raise ConfigurationError(f"The ledger of {use_case} leaves out a key, as it is personal. Give request ids.")
    return label_keys(schema, settings)
