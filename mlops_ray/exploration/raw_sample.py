"""Some rows of raw files, evenly taken from all, as their contract accepts them."""

from collections.abc import Sequence

import polars as pl

from mlops_ray.ingestion.contract import JUDGEMENT, KNOWN_AT, REASON, judge_rows
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.sources import SourceFile
from mlops_ray.use_case import Source


def accepted_rows(files: Sequence[SourceFile], source: Source, most: int) -> pl.DataFrame:
    """At most `most` accepted rows, derived columns too; every so many-th, while memory holds twice as many at most."""
    kept, every, seen = list[pl.DataFrame](), 1, 0
    for file in files:
        for raw in read_file(file, source):
            rows = judge_rows(raw.frame, source, file.name)
            rows = rows.filter(pl.col(REASON).is_null()).drop(*JUDGEMENT, KNOWN_AT, strict=False)
            kept.append(rows.gather_every(every, offset=-seen % every))
            seen += rows.height
            while sum(part.height for part in kept) > 2 * most:
                kept, every = [pl.concat(kept).gather_every(2)], 2 * every
    whole = pl.concat(kept)
    return whole.gather_every(-(-whole.height // most)) if whole.height > most else whole
