"""What may be shown of a snapshot's profile to whoever looks after the use case: no value that could be a person's."""

from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import DataError
from mlops_ray.exploration.kept import latest_profiles, open_columns
from mlops_ray.exploration.profile import ColumnProfile

_TOP = 10
_LEFT_OUT = "values are left out: the use case does not declare this column as nobody's"


def newest_profile(artifacts: Artifacts, use_case: str) -> dict[str, Any]:
    """Digest and profile of the newest snapshot, by source and column.

    Values (extremes, quantiles, the frequent ones) are there only of columns that the use case declares and that are
    not personal; of a column that is derived, or of which nothing was said, there are counts. Raises DataError where
    there is none.
    """
    found = latest_profiles(artifacts, use_case)
    if found is None:
        raise DataError(f"{use_case} has no profile yet. Run the pipeline: mlops-ray run {use_case}")
    digest, profiles = found
    shown = open_columns(artifacts, use_case)
    sources = {
        name: {
            "rows": profile.rows,
            "duplicates": profile.duplicates,
            "columns": [_column(one, one.name in shown.get(name, ())) for one in profile.columns],
        }
        for name, profile in profiles.items()
    }
    return {"use_case": use_case, "digest": digest, "sources": sources}


def _column(column: ColumnProfile, is_open: bool) -> dict[str, Any]:
    counts = {
        "name": column.name,
        "type": column.type,
        "missing": column.missing + column.null_texts,
        "odd": sum(column.odd.values()),
        "different": column.different,
    }
    if not is_open:
        return counts | {"values": _LEFT_OUT}
    quantiles = {f"{share} %": column.percentiles[share] for share in (0, 5, 50, 95, 100) if column.percentiles}
    return counts | {"mean": column.mean, "quantiles": quantiles, "frequent": [list(one) for one in column.top[:_TOP]]}
