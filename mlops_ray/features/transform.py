"""Feature rows: each view's function over the snapshot's tables, written by content digest.

A view is computed as its declaration allows: stretch by stretch of time, bucket by bucket of its keys, or whole up to a
size; so what is new costs what it is, from some seconds on that the whole takes. What the whole takes no time for is
computed at once, here.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any, Self

import polars as pl
import pyarrow.fs as pafs

from mlops_ray.artifacts import Artifacts, digest_ordered, locate
from mlops_ray.config import Settings
from mlops_ray.errors import UseCaseError
from mlops_ray.features.columns import PREDICTION_TIME, RESERVED
from mlops_ray.features.definitions import Definitions, View
from mlops_ray.features.divide_by_key import KeyedView, parts_by_key
from mlops_ray.features.divide_by_time import TimedView, parts_by_time, timed_view
from mlops_ray.features.division_check import division_fault, fault_in, is_proven, sample_of, set_proven
from mlops_ray.features.part_table import FEATURES, MANIFEST, ViewPart, place_of, write_table_of_parts
from mlops_ray.features.parts import Part
from mlops_ray.features.source_tables import (
    WHOLE_BYTES,
    SourceTables,
    TooMuchHere,
    given_tables,
    memory_of,
    whole_tables,
)
from mlops_ray.features.spread import HERE_BYTES, spread
from mlops_ray.features.view_code import view_code
from mlops_ray.features.view_rows import digest_by_day, in_order, rows_of, schema_of, table_digest
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.use_case import DividedView, Tables, UseCase, WindowedView

# Of files, and of a processor's time, up to which all views are computed whole: a year of flights is 7 MiB and takes
# 5 s, where a day more takes 0.2 s in parts.
AT_ONCE_BYTES, AT_ONCE_S = 1 << 20, 1.0
_SLOW = "slow.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureRows:
    """The rows of one feature view: where they lie, the digest of their content, how many they are.

    code: of the function that computed them, see `view_code`. unknown: rows that had no `event_timestamp` and so were
    left out (of a function that looks back, once for each part that saw them). ambiguous: rows that share keys and
    moments with another but not its values; the last by value counts. parts: the files of a table that is divided by
    `event_timestamp`, which lie in the folder `url`; none where `url` is one file.
    """

    view: str
    url: str
    digest: str
    rows: int
    code: str = ""
    unknown: int = 0
    ambiguous: int = 0
    parts: tuple[Part, ...] = ()

    def to_json(self) -> dict[str, Any]:
        moments = [{"first": part.first.isoformat(), "last": part.last.isoformat()} for part in self.parts]
        parts = [asdict(part) | moment for part, moment in zip(self.parts, moments, strict=True)]
        return asdict(self) | {"parts": parts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        given = value.get("parts", ())
        moments = [{name: datetime.fromisoformat(part[name]) for name in ("first", "last")} for part in given]
        parts = (Part(**{**part, **moment}) for part, moment in zip(given, moments, strict=True))
        return cls(**{**value, "parts": tuple(parts)})


def is_there(artifacts: Artifacts, rows: FeatureRows) -> bool:
    """Whether the file of the rows is there, or all files of a table of parts."""
    if not rows.parts:
        return artifacts.holds(rows.url)
    filesystem, folder = locate(rows.url)
    there = {info.path for info in filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))}
    return all(locate(part.url)[1] in there for part in rows.parts)


_Call = tuple[str, View, Callable[[Tables], pl.DataFrame], str]


def transform(
    use_case: UseCase,
    settings: Settings,
    snapshot: Snapshot,
    definitions: Definitions,
    start_ray: Callable[[], Any] = lambda: None,
) -> list[FeatureRows]:
    """Compute every feature view that the definitions read, each column of the type that its definition has.

    start_ray: called where there is more to compute than is done here; afterwards Ray must be initialised.
    NaN is null, as in the online store and the model. Raises UseCaseError naming the view and column where a function
    fails, a column is missing, has another type than its definition or a name that means something else, or a key or
    `created` moment is null; where a function cannot be divided as it is declared, or is not declared and has more than
    `WHOLE_BYTES` to read; and where the definitions read a view that the use case does not compute.
    """
    _expect_functions(use_case, definitions)
    calls = []
    for view in definitions.views:
        function = use_case.feature_views[view.name]
        calls.append((use_case.name, view, function, code_of(use_case, view.name)))
    artifacts = Artifacts(settings.artifacts)
    if _is_quick(artifacts, snapshot, calls):
        began = time.process_time()
        results = _computed_here(calls, use_case, snapshot, artifacts)
        if time.process_time() - began > AT_ONCE_S:
            artifacts.write_json({"cpu_s": time.process_time() - began}, FEATURES, use_case.name, _SLOW)
    else:
        results = _computed_apart(calls, use_case, snapshot, artifacts, start_ray)
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


def _is_quick(artifacts: Artifacts, snapshot: Snapshot, calls: Sequence[_Call]) -> bool:
    """Whether it is quicker to compute all whole than to look what is new: by their files, and by what it took when
    they were computed so; where no view can be divided, as long as one process takes them."""
    size = snapshot.size(artifacts)
    if not any(isinstance(function, WindowedView | DividedView) for _, _, function, _ in calls):
        return size <= HERE_BYTES
    return size <= AT_ONCE_BYTES and artifacts.read_json(FEATURES, snapshot.use_case, _SLOW) is None


def code_of(use_case: UseCase, view: str) -> str:
    """The identity of the code by which a feature view is computed, see `view_code`."""
    function = use_case.feature_views[view]
    computes = function.function if isinstance(function, DividedView) else function
    return view_code(f"Feature view {view!r}", computes)


def _computed_here(
    calls: Sequence[_Call], use_case: UseCase, snapshot: Snapshot, artifacts: Artifacts
) -> list[FeatureRows | str]:
    tables = snapshot.tables(artifacts)
    divided = [(view, function) for _, view, function, _ in calls if isinstance(function, DividedView)]
    with ThreadPoolExecutor(1) as thread:  # in which rows are kept, while the next view's function computes
        kept = [thread.submit(_compute(*call, artifacts, given_tables(tables))) for call in calls]
        results = [one.result() for one in kept]
    known_at = _known_at(use_case, [function for _, function in divided])
    faults = [fault_in(view, function, sample_of(tables), known_at) for view, function in divided]
    return [*results, *(fault for fault in faults if fault)]


def _computed_apart(
    calls: Sequence[_Call],
    use_case: UseCase,
    snapshot: Snapshot,
    artifacts: Artifacts,
    start_ray: Callable[[], Any],
) -> list[FeatureRows | str]:
    """Each view as its declaration allows; what is large by tasks."""
    divided = [(view, function, code) for _, view, function, code in calls if isinstance(function, DividedView)]
    known_at = _known_at(use_case, [function for _, function, _ in divided])
    if faults := _faults(artifacts, snapshot, divided, known_at, start_ray):
        return list(faults)
    beside = [function for _, _, function, _ in calls if isinstance(function, WindowedView)]
    timed, whole, parts = [], [], dict[str, list[ViewPart] | str]()
    for call in calls:
        _, view, function, code = call
        if isinstance(function, DividedView) and function.looks_back is None:
            parts[view.name] = parts_by_key(artifacts, snapshot, KeyedView(view, function, code), start_ray)
        elif isinstance(function, DividedView | WindowedView):
            timed.append(timed_view(view, function, code, known_at, beside))
        else:
            whole.append(call)
    parts |= _parts_of(timed, parts_by_time(artifacts, snapshot, timed, start_ray))
    done = _computed_whole(artifacts, snapshot, whole, start_ray)
    return [
        done[call[1].name] if call[1].name in done else _table(artifacts, call, parts[call[1].name]) for call in calls
    ]


def _computed_whole(
    artifacts: Artifacts, snapshot: Snapshot, calls: Sequence[_Call], start_ray: Callable[[], Any]
) -> dict[str, FeatureRows | str]:
    """Views of which nothing is declared. What one reads shows when it does: those that read little, as of aircraft
    beside a year of flights, are computed here, so that a new day needs no Ray for them."""
    done, large = dict[str, FeatureRows | str](), list[_Call]()
    for call in calls:
        try:
            done[call[1].name] = _read_and_compute(call, artifacts, snapshot, HERE_BYTES)
        except TooMuchHere:
            large.append(call)
    size = sum(memory_of(artifacts, snapshot, source) for source in snapshot.counts)
    tasks = [(call, artifacts, snapshot) for call in large]
    found = spread(_read_and_compute, tasks, snapshot.size(artifacts), start_ray, 3 * min(size, WHOLE_BYTES))
    return done | {call[1].name: one for call, one in zip(large, found, strict=True)}


def _parts_of(views: Sequence[TimedView], found: Sequence[list[ViewPart] | str]) -> dict[str, list[ViewPart] | str]:
    return {one.view.name: parts for one, parts in zip(views, found, strict=True)}


def _table(artifacts: Artifacts, call: _Call, parts: list[ViewPart] | str) -> FeatureRows | str:
    """The rows of a view from its parts."""
    use_case, view, _, code = call
    if isinstance(parts, str):
        return parts
    rows = sum(part.content.rows for part in parts)
    unknown, ambiguous = sum(part.unknown for part in parts), sum(part.ambiguous for part in parts)
    if not rows:
        return _keep(artifacts, call, pl.DataFrame(schema=schema_of(view)), unknown, by_day=True)
    table = write_table_of_parts(artifacts, use_case, view.name, parts, schema_of(view))
    return FeatureRows(view.name, table.url, table.digest, rows, code, unknown, ambiguous, table.parts)


def _faults(
    artifacts: Artifacts,
    snapshot: Snapshot,
    divided: Sequence[tuple[View, DividedView, str]],
    known_at: Mapping[str, pl.Expr | None],
    start_ray: Callable[[], Any],
) -> list[str]:
    """What is wrong with how views are declared to be divided; it is looked at once for each code."""
    new = [one for one in divided if not is_proven(artifacts, snapshot.use_case, *one)]
    calls = [(artifacts, snapshot, view, function, known_at) for view, function, _ in new]
    found = spread(division_fault, calls, snapshot.size(artifacts), start_ray)
    for one, fault in zip(new, found, strict=True):
        if fault is None:
            set_proven(artifacts, snapshot.use_case, *one)
    return [fault for fault in found if fault]


def _known_at(use_case: UseCase, divided: Sequence[DividedView]) -> dict[str, pl.Expr | None]:
    """When rows of each source became known, where a view is divided by that."""
    if all(function.looks_back is None for function in divided):
        return {}
    return {name: source.known_at for name, source in use_case.sources.items()}


def _read_and_compute(
    call: _Call, artifacts: Artifacts, snapshot: Snapshot, here_bytes: int | None = None
) -> FeatureRows | str:
    return _compute(*call, artifacts, whole_tables(artifacts, snapshot, call[1].name, here_bytes))()


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
        **dict.fromkeys(use_case.on_demand_features, "an on-demand feature"),
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
    tables: SourceTables,
) -> Callable[[], FeatureRows | str]:
    """Compute the view's rows. What it gives keeps them, and says where; or says in a sentence why there are none.

    Functions are called in one thread, as users need not think of others.
    """
    try:
        rows, unknown = rows_of(view, function, tables)
    except UseCaseError as error:
        sentence = str(error)
        return lambda: sentence
    by_day = isinstance(function, WindowedView | DividedView)
    return partial(_keep, artifacts, (use_case, view, function, code), rows, unknown, by_day)


def _keep(artifacts: Artifacts, call: _Call, rows: pl.DataFrame, unknown: int, by_day: bool) -> FeatureRows:
    """Write a view's rows as one file. by_day: its digest is what that of a table of parts with these rows would be."""
    use_case, view, _, code = call
    rows, ambiguous = in_order(view, rows)
    digest = table_digest(digest_by_day(rows) if by_day else digest_ordered(rows), rows.schema)
    place = place_of(use_case, view.name, digest)
    has_parts = artifacts.read_json(*place, MANIFEST) is not None  # the same rows, when there were more tables to read
    url = artifacts.url(*place) if has_parts else artifacts.write_table(rows, *place)
    return FeatureRows(view.name, url, digest, rows.height, code, unknown, ambiguous)
