"""Labels from files: what turned out to be true of many predictions, as systems export it at night."""

import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs

from mlops_ray.artifacts import Artifacts, digest_rows, join, locate
from mlops_ray.batch.delimited import is_delimited, source_of
from mlops_ray.config import Settings, settings_from_environment
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.governance.control_store import database_now, open_store
from mlops_ray.governance.live import live
from mlops_ray.ingestion.contract import REASON, check_rows
from mlops_ray.ingestion.quarantine import MALFORMED
from mlops_ray.ingestion.raw_rows import RawRows
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.sources import SourceFile, matching
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

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Imported:
    """What an import did: rows = accepted + refused, the latter by reason, `column:what` or `malformed` (no row).

    first: by reason, where it is met first, as `labels.csv, line 7` (in a Parquet file the row).
    """

    rows: int
    accepted: int
    refused: int
    reasons: Mapping[str, int]
    first: Mapping[str, str]


def import_labels(url: str, use_case: str, settings: Settings | None = None) -> Imported:
    """Keep labels of delimited files (.csv, .tsv, .txt, each also with .gz) or Parquet files, as if they had come over
    HTTP. url: of a file, of a folder with such files, or a glob.

    Columns: `label` (as the champion predicts it, without one yes or no: true, false, yes, no, 1, 0; a number; the name
    of a class; empty withdraws what was said), `known_at` (optional; default: now), and either `request_id` with `row`
    (optional; default 0), or the champion's entities and event time. Rows that break this are left out and counted by
    reason, `known_after_as_of` for what is said to be known only in the days to come, and `rule:event_lies_ahead` for
    events of these. All files are judged before any label is kept. The same file imported again replaces itself.
    settings: default from the environment. Raises DataError if a file cannot be read, or a column is missing or stands
    there twice, ConfigurationError if labels by keys have no champion to say what the keys are.
    """
    settings = settings or settings_from_environment()
    with open_store(settings).reading() as connection:
        now = database_now(connection)  # not a laptop's clock: of two corrections the later one holds
    artifacts = Artifacts(settings.artifacts)
    champion = _champion(settings, use_case)
    label = label_column(BINARY if champion is None else champion.task)
    columns = (REQUEST_ID, ROW, label, KNOWN_AT, *(() if champion is None else key_columns(champion)))
    keys = cache(partial(_keys_of, champion, settings, use_case))
    found, aside = _Judged(), list[tuple[LabelKeys | None, str, Path]]()
    with tempfile.TemporaryDirectory(prefix="mlops-ray-labels-") as folder:
        for file in _files(url):
            for raw in _read(file, columns):
                by = None if "request_id" in raw.frame.columns else keys()
                judged = _judged(raw.frame, by, label, now)
                good = found.add(file.name, raw, judged)
                if len(good):
                    path = Path(folder, str(len(aside)))
                    _told(good, by, label, now).write_parquet(path)
                    aside.append((by, f"file-{digest_rows(good).hex()[:32]}", path))
        for by, segment_id, path in aside:
            if by is None:
                write_by_request(artifacts, use_case, segment_id, pl.read_parquet(path))
            else:
                write_by_keys(artifacts, use_case, segment_id, by.event_time, pl.read_parquet(path))
    done = found.summary()
    _logger.info("Labels of %s from %s: %s", use_case, url, done)
    return done


class _Judged:
    """Counts of what was judged so far, and where each reason was met first."""

    def __init__(self) -> None:
        self._rows, self._accepted = 0, 0
        self._reasons, self._first = Counter[str](), dict[str, str]()

    def add(self, file: str, raw: RawRows, judged: pl.DataFrame) -> pl.DataFrame:
        """Count a stretch of a file, and return its accepted rows."""
        good = judged.filter(pl.col(REASON).is_null())
        self._rows += len(judged) + len(raw.malformed)
        self._accepted += len(good)
        codes = judged.select(raw.places["line"], pl.col(REASON).str.split(";")).drop_nulls().explode(REASON)
        malformed = raw.malformed.select("line", pl.lit(MALFORMED).alias(REASON))
        met = pl.concat([codes, malformed]).group_by(REASON).agg(pl.len(), pl.col("line").min().alias("line"))
        for reason, rows, line in met.iter_rows():
            self._reasons[reason] += rows
            self._first.setdefault(reason, f"{file}, line {line:,}")
        return good

    def summary(self) -> Imported:
        reasons, first = dict(sorted(self._reasons.items())), dict(sorted(self._first.items()))
        return Imported(self._rows, self._accepted, self._rows - self._accepted, reasons, first)


def _files(url: str) -> list[SourceFile]:
    """The file at a path or URL, those of a folder, or those that a glob finds."""
    place = url if "://" in url else os.path.abspath(url)
    body, mark, options = place.partition("?") if "://" in url else (place, "", "")
    parts = body.split("/")
    try:
        filesystem, path = locate(place)
        kind = filesystem.get_file_info(path).type
        if kind == pafs.FileType.File:
            return [_file(place, path)]
        first = next((at for at, part in enumerate(parts) if set("*?[") & set(part)), len(parts))
        pattern = "**" if kind == pafs.FileType.Directory else "/".join(parts[first:])
        root = body if kind == pafs.FileType.Directory else "/".join(parts[:first]) or "/"
        filesystem, path = locate(root + mark + options)
        found = sorted(info.path for info in matching(filesystem, path.rstrip("/") or "/", pattern))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"Labels cannot be read from {url}: {error}.") from None
    names = [name.removeprefix(path).lstrip("/") for name in found]
    shown = [name for name in names if not any(part.startswith("_") for part in name.split("/"))]
    files = [_file(join(root + mark + options, *name.split("/")), name) for name in shown]
    if not files:
        raise DataError(f"Labels cannot be read from {url}: there is no file. Give a file, a folder or a glob.")
    return files


def _file(url: str, path: str) -> SourceFile:
    name = path.rsplit("/", 1)[-1]
    if not (is_delimited(name) or name.lower().endswith(".parquet")):
        raise DataError(f"Labels cannot be read from {name}. Known endings: .csv, .tsv, .txt, each with .gz; .parquet.")
    return SourceFile(url, name, "")


def _read(file: SourceFile, columns: tuple[Column, ...]) -> Iterator[RawRows]:
    """The rows of a file, as ingestion reads them. columns: those that count, none of them twice."""
    names = dict.fromkeys(column.name for column in columns)
    yield from read_file(file, source_of(file.name, tuple(Column(name, "text") for name in names)))


def _told(good: pl.DataFrame, by: LabelKeys | None, label: Column, now: datetime) -> pl.DataFrame:
    """Accepted rows as segments hold them. by: the keys that name what they are about; None: request ids."""
    said = good.with_columns(pl.col("known_at").fill_null(now), pl.lit(now).alias("received_at"))
    if by is not None:
        values = [by.values(row) for row in good.select(c.name for c in by.columns).to_dicts()]
        return frame_by_keys(by.types, values, said.select(list(SAID)))
    named = said.with_columns(pl.col("request_id").str.to_lowercase(), pl.col("row").fill_null(0))
    types = {**BY_REQUEST, "label": label.dtype}
    return named.select(pl.col(name).cast(type_) for name, type_ in types.items())


def _judged(part: pl.DataFrame, by: LabelKeys | None, label: Column, now: datetime) -> pl.DataFrame:
    """The rows with typed columns and their reasons; optional columns that are not there are null. by: as in `_told`"""
    optional = [column.name for column in (ROW, KNOWN_AT) if column.name not in part.columns]
    part = part.with_columns(pl.lit(None, pl.String).alias(name) for name in optional)
    about = (REQUEST_ID, ROW) if by is None else by.columns
    rules = {} if by is None else {"event_lies_ahead": pl.col(by.event_time) <= now + CLOCKS_DIFFER}
    said = Source("", (*about, label, KNOWN_AT), known_at=pl.coalesce(KNOWN_AT.name, pl.lit(now)), rules=rules)
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
