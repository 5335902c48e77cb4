"""Rows to score, judged by the rules of a request: those that break one are set aside, the others divided by time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import polars as pl
import pyarrow as pa

from mlops_ray.artifacts import Artifacts
from mlops_ray.batch.output import QUARANTINE
from mlops_ray.batch.rows import PLACE, RAW
from mlops_ray.errors import DataError
from mlops_ray.features.slices import Slice, spans_of
from mlops_ray.features.spans import Span
from mlops_ray.ingestion.contract import JUDGEMENT, REASON, REPAIRS, check_rows
from mlops_ray.ingestion.quarantine import MALFORMED
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.use_case import Column, Source

AS_OF = "as_of"


@dataclass(frozen=True)
class Judged:
    """Rows that can be scored: their typed columns with `as_of`, and what is carried along, in the same order."""

    rows: pl.DataFrame
    others: pl.DataFrame

    def filter(self, flag: pl.Series) -> "Judged":
        return Judged(self.rows.filter(flag), self.others.filter(flag) if self.others.width else self.others)


@dataclass(frozen=True)
class Summary:
    """Of one partition: how many rows by (kind, code), and the moments of those that can be scored."""

    counts: Mapping[tuple[str, str], int]
    moments: Sequence[Span]


def judge_partition(schema: ModelSchema, output: str, partition: int, *tables: pa.Table) -> tuple[Summary, Judged]:
    """Judge the rows of some tables, and write to quarantine those that break a rule."""
    frames = [pl.DataFrame(pl.from_arrow(table)) for table in tables]
    for part in frames:
        expect_plain_types(part)
    frame = pl.concat([part for part in frames if part.width] or [pl.DataFrame()], how="diagonal_relaxed")
    if frame.is_empty():
        return Summary({}, []), Judged(pl.DataFrame(), pl.DataFrame())
    given, refused = _parted(frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String)))
    judged = _judge(schema, given)
    good = judged[REASON].is_null()
    if not good.all():
        reason = judged[REASON].filter(~good).alias("reason")
        refused = pl.concat([given.filter(~good).with_columns(reason), refused], how="diagonal")
    if refused.height:
        Artifacts(output).write_table(_with_places(refused), QUARANTINE, f"part-{partition:05}-000.parquet")
    rows = judged.filter(good)
    counts = Counter({("rows", "in"): rows.height + refused.height, ("rows", "scored"): rows.height})
    counts["rows", "repaired"] = rows[REPAIRS].drop_nulls().len()
    codes_of = refused["reason"] if refused.height else pl.Series(dtype=pl.String)
    for kind, codes in (("reason", codes_of), ("repair", rows[REPAIRS])):
        counts.update((kind, code) for text in codes.drop_nulls() for code in text.split(";"))
    kept = Judged(rows.drop(*JUDGEMENT), given.filter(good).drop(*rows.columns, *PLACE, strict=False))
    return Summary(counts, spans_of(rows[AS_OF]) if rows.height else []), kept


def divide(judged: Judged, slices: Sequence[Slice]) -> list[Judged]:
    """The rows of each slice, by their moments."""
    starts = pl.Series([one.since for one in slices[1:]], dtype=judged.rows.schema.get(AS_OF, pl.Datetime("us", "UTC")))
    if judged.rows.is_empty():
        return [judged] * len(slices)
    number = judged.rows.select(pl.lit(starts).search_sorted(pl.col(AS_OF), side="right")).to_series()
    return [judged.filter(number == one.number) for one in slices]


def together(parts: Sequence[Judged]) -> Judged:
    """The rows of several partitions, one after the other."""
    there = [part for part in parts if part.rows.height]
    return Judged(
        pl.concat([part.rows for part in there]),
        pl.concat([part.others for part in there if part.others.width] or [pl.DataFrame()], how="diagonal_relaxed"),
    )


def expect_plain_types(frame: pl.DataFrame) -> None:
    """Raise DataError for Python objects, such as Ray's pickled ones: they are no data, and reading them runs code."""
    for name, dtype in frame.schema.items():
        if isinstance(dtype, pl.Object | pl.BaseExtension):
            raise DataError(
                f"The rows to score: column {name} holds Python objects ({dtype}). Write plain values, or leave it out."
            )


def _parted(given: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows, and the lines that are none, with their reason."""
    if RAW not in given.columns:
        return given, pl.DataFrame()
    malformed = pl.col(RAW).is_not_null()
    lines = given.filter(malformed).select(*PLACE, pl.lit(MALFORMED).alias("reason"))
    return given.filter(~malformed), lines


def _with_places(refused: pl.DataFrame) -> pl.DataFrame:
    """Of rows of delimited files `file`, `line` and, of a line that is no row, `raw`; the file's columns have other
    names."""
    free = {name: name.removeprefix("__") for name in PLACE if name in refused.columns}
    taken = [name for name in free.values() if name in refused.columns]
    return refused.rename({name: plain for name, plain in free.items() if plain not in taken})


def _judge(schema: ModelSchema, given: pl.DataFrame) -> pl.DataFrame:
    """The rows with typed columns and the judgement of each; see `ingestion.contract.check_rows`.

    A row whose own `as_of` is later than the lead time before its event is refused, as by the endpoint: what was known
    then may tell the outcome.
    """
    own_moment = (Column(AS_OF, "timestamp"),) if AS_OF in given.columns else ()
    judged = check_rows(given, Source("", (*schema.request_columns, *own_moment)), "The rows to score", None)
    latest = pl.col(schema.event_time) - timedelta(seconds=schema.lead_time_s)
    if not own_moment:
        return judged.with_columns(latest.alias(AS_OF))
    too_late = pl.col(REASON).is_null() & (pl.col(AS_OF) > latest)
    reason = pl.when(too_late).then(pl.lit(f"{AS_OF}:too_late")).otherwise(pl.col(REASON))
    return judged.with_columns(reason.alias(REASON))
