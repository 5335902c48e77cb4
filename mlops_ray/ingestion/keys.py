"""Keys: which of the accepted rows with one key counts, whatever files and partitions they came in."""

import polars as pl

from mlops_ray.ingestion.contract import JUDGEMENT, REASON
from mlops_ray.ingestion.quarantine import CONFLICTING_KEY, DUPLICATE_KEY, FILE, LINE, PLACE_COLUMNS
from mlops_ray.use_case import Source


def missing_key(source: Source) -> pl.Expr:
    """The reason of an accepted row of which a column of the key is null; null if all are there."""
    codes = [pl.when(pl.col(name).is_null()).then(pl.lit(f"{name}:missing_key")) for name in source.key]
    joined = pl.concat_str(codes, separator=";", ignore_nulls=True) if codes else pl.lit("")
    return pl.when(joined != "").then(joined)


def judge_keys(rows: pl.DataFrame, source: Source) -> pl.DataFrame:
    """The rows, in order, with the reason of those that do not count because of another with their key.

    Where `source.keep` says so, the rows that come last (or first) by a column count, and a null there comes before all
    (or after all). Of those that are left, equal ones are one row, the one that stands first by file and line; where
    they differ, none counts.
    """
    if not source.key:
        return rows
    position, key = "__position", list(source.key)
    rows = rows.with_row_index(position)
    rivals = rows.filter(pl.col(REASON).is_null()).filter(pl.len().over(key) > 1).sort(FILE, LINE)
    if rivals.is_empty():
        return rows.drop(position)
    best = pl.lit(True)
    if source.keep_by is not None:
        by = pl.col(source.keep_by)
        best = by.eq_missing((by.max() if source.keep == "last" else by.min()).over(key))
    content = pl.struct(pl.exclude(*JUDGEMENT, *PLACE_COLUMNS, position))
    rivals = rivals.with_columns(best.alias("__best")).with_columns(
        (content.n_unique().over(*key, "__best") == 1).alias("__same"),
        (pl.int_range(pl.len()).over(*key, "__best") == 0).alias("__first"),
    )
    chosen = pl.col("__best") & pl.col("__same") & pl.col("__first")
    conflict = pl.col("__best") & ~pl.col("__same")
    reason = pl.when(conflict).then(pl.lit(CONFLICTING_KEY)).when(~chosen).then(pl.lit(DUPLICATE_KEY))
    judged = rivals.select(position, reason.alias("__key_reason"))
    joined = rows.join(judged, on=position, how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce(REASON, "__key_reason").alias(REASON)).drop(position, "__key_reason")
