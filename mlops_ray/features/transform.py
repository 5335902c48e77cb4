"""Feature rows: each view's function over the snapshot's tables, one task a view, written by content digest."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts, digest_json, digest_ordered
from mlops_ray.config import Settings
from mlops_ray.errors import UseCaseError
from mlops_ray.features.columns import DTYPES, PREDICTION_TIME, RESERVED
from mlops_ray.features.definitions import Definitions, View
from mlops_ray.features.view_code import view_code
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.use_case import Tables, UseCase
from mlops_ray.use_case.user_code import user_code

# Of a snapshot's files, up to which views are computed in this process: Ray's first task costs 3 s before it begins.
HERE_BYTES = 16 << 20
_MOMENT = pl.Datetime("us", "UTC")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureRows:
    """The rows of one feature view: where they lie, the digest of their content, how many they are.

    code: of the function that computed them, see `view_code`. unknown: rows that had no `event_timestamp` and so were
    left out. ambiguous: rows that share keys and moments with another but not its values; the last by value counts.
    """

    view: str
    url: str
    digest: str
    rows: int
    code: str = ""
    unknown: int = 0
    ambiguous: int = 0


_Call = tuple[str, View, Callable[[Tables], pl.DataFrame], str]


def transform(
    use_case: UseCase,
    settings: Settings,
    snapshot: Snapshot,
    definitions: Definitions,
    start_ray: Callable[[], Any] = lambda: None,
) -> list[FeatureRows]:
    """Compute every feature view that the definitions read, each column of the type that its definition has.

    start_ray: called where a view is more than is computed here; afterwards Ray must be initialised.
    NaN is null, as in the online store and the model. Raises UseCaseError naming the view and column where a function
    fails, a column is missing, has another type than its definition or a name that means something else, or a key or
    `created` moment is null; and where the definitions read a view that the use case does not compute.
    """
    _expect_functions(use_case, definitions)
    calls = []
    for view in definitions.views:
        function = use_case.feature_views[view.name]
        calls.append((use_case.name, view, function, view_code(f"Feature view {view.name!r}", function)))
    results = _computed(calls, snapshot, Artifacts(settings.artifacts), start_ray)
    if failed := [result for result in results if isinstance(result, str)]:
        raise UseCaseError("\n".join(failed))
    found = [result for result in results if isinstance(result, FeatureRows)]
    for one in found:
        _logger.info("Feature view %s: %d rows", one.view, one.rows)
        if one.unknown:
            _logger.warning("Feature view %s: %d rows without %s left out", one.view, one.unknown, PREDICTION_TIME)
        if one.ambiguous:
            _logger.warning("Feature view %s: %d rows share keys and moment with another", one.view, one.ambiguous)
    return found


def _computed(
    calls: Sequence[_Call], snapshot: Snapshot, artifacts: Artifacts, start_ray: Callable[[], Any]
) -> list[FeatureRows | str]:
    if snapshot.size(artifacts) <= HERE_BYTES:
        tables = snapshot.tables(artifacts)
        with ThreadPoolExecutor(1) as thread:  # in which rows are kept, while the next view's function computes
            kept = [thread.submit(_compute(*call, artifacts, tables)) for call in calls]
            return [one.result() for one in kept]
    start_ray()
    import ray

    task = ray.remote(_read_and_transform)
    return list(ray.get([task.remote(call, artifacts, snapshot) for call in calls]))


def _read_and_transform(call: _Call, artifacts: Artifacts, snapshot: Snapshot) -> FeatureRows | str:
    return _compute(*call, artifacts, snapshot.tables(artifacts))()


def _expect_functions(use_case: UseCase, definitions: Definitions) -> None:
    used = {view.name for view in definitions.views}
    if absent := sorted(used - set(use_case.feature_views)):
        raise UseCaseError(
            f"Feature service {definitions.service!r} reads {', '.join(absent)}, for which the use case "
            f"{use_case.name} declares no function in feature_views."
        )


def expect_names(use_case: UseCase, definitions: Definitions) -> None:
    """Raise UseCaseError where views and request do not fit together, naming view and column."""
    taken = {
        **dict.fromkeys(use_case.features_of_request(), "a request feature"),
        **dict.fromkeys([*use_case.entities, use_case.event_time], "a column of the request"),
        **dict.fromkeys(RESERVED, "reserved"),
    }
    for view in definitions.views:
        for name in view.features:
            if name in taken:
                raise UseCaseError(
                    f"Feature view {view.name!r}: column {name!r} has the name of what is {taken[name]} in use case "
                    f"{use_case.name}. Give it a name of its own."
                )
        if missing := [name for name in view.asked if name not in use_case.entities]:
            raise UseCaseError(
                f"Feature view {view.name!r} is looked up by {missing[0]!r}, which is not among the entities of use "
                f"case {use_case.name} ({', '.join(use_case.entities)}). Add it, or map the key (with_join_key_map)."
            )


def _compute(
    use_case: str,
    view: View,
    function: Callable[[Tables], pl.DataFrame],
    code: str,
    artifacts: Artifacts,
    tables: Mapping[str, pl.DataFrame],
) -> Callable[[], FeatureRows | str]:
    """Compute the view's rows. What it gives keeps them, and says where; or says in a sentence why there are none.

    Functions are called in one thread, as users need not think of others.
    """
    try:
        # What it prints is not the output of a command that runs it.
        with user_code(f"Feature view {view.name!r}"), redirect_stdout(sys.stderr):
            # Tables of its own, as a function may change them in place.
            frame = function({name: table.clone() for name, table in tables.items()})
            frame = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)
        rows = typed_rows(_known(frame, view.name), view)
    except UseCaseError as error:
        sentence = str(error)
        return lambda: sentence
    return lambda: _keep(artifacts, use_case, view, code, rows, frame.height - rows.height)


def _keep(artifacts: Artifacts, use_case: str, view: View, code: str, rows: pl.DataFrame, unknown: int) -> FeatureRows:
    keys = [view.columns.get(key, key) for key in view.keys]
    moments = [PREDICTION_TIME, *([view.created] if view.created else [])]
    # In one order, so that which of two rows with the same keys and moments is the last depends on nothing but them.
    rows = rows.sort([*moments, *keys, *rows.select(pl.exclude(*moments, *keys)).columns])
    same = rows.select(pl.col(*moments, *keys).eq_missing(pl.col(*moments, *keys).shift()))
    ambiguous = 0
    if rows[1:].height and same[1:].select(pl.all_horizontal(pl.all()).any()).item():
        ambiguous = rows.n_unique() - rows.n_unique([*moments, *keys])
    digest = digest_json([digest_ordered(rows).hex(), [[name, str(type_)] for name, type_ in rows.schema.items()]])
    url = artifacts.write_table(rows, "features", use_case, view.name, f"{digest}.parquet")
    return FeatureRows(view.name, url, digest, rows.height, code, unknown, ambiguous)


def _known(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """The rows whose moment is known, in UTC, and with null for NaN."""
    given = frame.schema.get(PREDICTION_TIME)
    if not isinstance(given, pl.Datetime) or given.time_zone is None:
        raise UseCaseError(
            f"Feature view {name!r}: its rows have {f'{PREDICTION_TIME} of type {given}' if given else 'no column'} "
            f"instead of a moment with a time zone, {PREDICTION_TIME}, at which they became known. "
            f"Take a timestamp column, or add .dt.replace_time_zone('UTC')."
        )
    known = frame.drop_nulls(PREDICTION_TIME).with_columns(pl.col(PREDICTION_TIME).cast(_MOMENT))
    return known.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))


def typed_rows(rows: pl.DataFrame, view: View) -> pl.DataFrame:
    """Rows whose columns have the types of the definition. Raises UseCaseError naming view and column where not."""
    what = f"Feature view {view.name!r}"
    wanted = {view.columns.get(name, name): DTYPES[type_] for name, type_ in view.types.items()}
    for column, dtype in wanted.items():
        given = rows.schema.get(column)
        if given is None:
            raise UseCaseError(f"{what}: its rows have no column {column!r} (they have {', '.join(rows.columns)}).")
        if given != dtype and not isinstance(given, pl.Null):
            raise UseCaseError(
                f"{what}: column {column!r} is {given} in its rows and {dtype} in its definition. Add "
                f".cast(pl.{dtype}) in the view's function, or define it as {_feast_type(given)}."
            )
    for key in view.keys:
        column = view.columns.get(key, key)
        if nulls := rows[column].null_count():
            raise UseCaseError(
                f"{what}: key {column!r} is null in {nulls:,} of {rows.height:,} rows, which nobody could look up. "
                f"Leave them out in the view's function: .drop_nulls({column!r})."
            )
    if view.created:
        _expect_created(what, rows, view.created)
        rows = rows.with_columns(pl.col(view.created).cast(_MOMENT))
    kept = [PREDICTION_TIME, *([view.created] if view.created else [])]
    return rows.select(*kept, *(pl.col(name).cast(dtype) for name, dtype in wanted.items()))


def _feast_type(given: pl.DataType) -> str:
    fitting = [name for name, dtype in DTYPES.items() if dtype == given]
    return fitting[0] if fitting else f"one of {', '.join(DTYPES)}"


def _expect_created(what: str, rows: pl.DataFrame, column: str) -> None:
    given = rows.schema.get(column)
    if not isinstance(given, pl.Datetime) or given.time_zone is None or rows[column].null_count():
        raise UseCaseError(
            f"{what}: created_timestamp_column {column!r} is {given or 'not there'}, with "
            f"{rows[column].null_count() if given else 0} nulls. It must be a moment with a time zone in every row."
        )
