"""Quarantine: the records that were not accepted, each with its reasons, its place and its bytes."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from mlops_ray.ingestion.contract import JUDGEMENT, REASON

FOLDER = "quarantine"
MALFORMED, DUPLICATE_KEY, CONFLICTING_KEY = "malformed", "duplicate_key", "conflicting_key"
# Above this share of the rows a warning is given.
WARN_SHARE = 0.01

FILE, LINE, LINES, RAW = "__file", "__line", "__lines", "__raw"
PLACE_COLUMNS = (FILE, LINE, LINES, RAW)
_SHOWN_REASONS = 5


def quarantined(judged: pl.DataFrame) -> pl.DataFrame:
    """The refused rows as they are kept, by file and line."""
    refused = judged.filter(pl.col(REASON).is_not_null())
    if refused[RAW].null_count():
        # A Parquet row that was refused for its key alone: its accepted values, as it has no bytes of its own.
        values = pl.struct(pl.exclude(*JUDGEMENT, *PLACE_COLUMNS)).struct.json_encode()
        refused = refused.with_columns(pl.coalesce(RAW, values.cast(pl.Binary)).alias(RAW))
    return refused.select(file=FILE, line=LINE, lines=LINES, reason=REASON, raw=RAW).sort("file", "line")


def refusals(counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """For each source of which rows were refused, a sentence: how many, why, and whether that is much."""
    return [_sentence(name, found) for name, found in counts.items() if found["quarantined"]]


def much_is_refused(counts: Mapping[str, Any]) -> bool:
    """Whether the share of refused rows is above `WARN_SHARE`."""
    return bool(counts["quarantined"] > WARN_SHARE * counts["rows_in"])


def _sentence(name: str, counts: Mapping[str, Any]) -> str:
    ordered = sorted(counts["reasons"].items(), key=lambda item: (-item[1], item[0]))
    reasons = [f"{reason} {count:,}" for reason, count in ordered[:_SHOWN_REASONS]]
    if len(ordered) > _SHOWN_REASONS:
        reasons.append(f"{len(ordered) - _SHOWN_REASONS} other reasons")
    share = counts["quarantined"] / counts["rows_in"]
    sentence = f"{name}: {counts['quarantined']:,} of {counts['rows_in']:,} rows quarantined ({', '.join(reasons)})"
    if not much_is_refused(counts):
        return sentence
    return (
        f"warning: {sentence}, {share:.1%} (limit {WARN_SHARE:.0%}). See `mlops-ray quarantine show`; "
        f"repair the files, or relax the contract."
    )
