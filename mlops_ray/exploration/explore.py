"""Explore: the profile of raw files, a source, a snapshot or a training set, and what of it to look at first."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import polars as pl

from mlops_ray.artifacts import Artifacts, locate, read_parquet
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.exploration.profile import Profile, profile_of
from mlops_ray.exploration.relation import Relation, label_group, middle_of, relations_by_group
from mlops_ray.exploration.scan import Group, Scan, raw_partitions, scan, table_partitions
from mlops_ray.exploration.suspicion import Suspicion, of_columns, of_relations, of_splits, recorded_with_outcome
from mlops_ray.exploration.table_sketch import TableSketch, merged
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT
from mlops_ray.features.training_set import parts_of_split
from mlops_ray.ingestion.snapshot import Snapshot, expect_kept, load_snapshot
from mlops_ray.ingestion.sources import SourceFile, find_files
from mlops_ray.show.shown import Shown
from mlops_ray.show.text import printable
from mlops_ray.use_case import Source, UseCase

StartRay = Callable[[], Any]
Part = Literal["train", "validation", "test"]
_NONE = "none"


@dataclass(frozen=True, repr=False)
class Exploration(Shown):
    """What was found. It shows itself in a notebook; `page` makes a file of it, `to_json` plain values.

    relations: of each column with the label, the strongest first; empty without a use case's label.
    """

    profile: Profile
    relations: tuple[Relation, ...] = ()
    suspicions: tuple[Suspicion, ...] = ()

    @property
    def title(self) -> str:
        return self.profile.name

    def to_json(self) -> dict[str, Any]:
        return {
            "profile": self.profile.to_json(),
            "relations": [asdict(one) for one in self.relations],
            "suspicions": [asdict(one) for one in self.suspicions],
        }

    def _html(self) -> str:
        from mlops_ray.exploration.page import exploration_html

        return exploration_html(self)

    def _text(self) -> str:
        from mlops_ray.exploration.lines import exploration_lines

        return "\n".join([*map(printable, self.profile.unreadable.values()), *exploration_lines(self)])


def explore_files(data: str, pattern: str, start_ray: StartRay = lambda: None, **text: Any) -> Exploration:
    """Raw files of which nobody has said what they hold.

    data: folder or URL; pattern: which files below it (see `Source.path`); text: how they are written, as `Source`
    takes it. Raises DataError if there is no file, or none can be read.
    """
    source = Source(pattern, (), **text)
    profile = _raw(pattern, find_files(data, pattern, source), source, start_ray)
    return Exploration(profile, suspicions=tuple(of_columns(profile)))


def explore_source(
    use_case: UseCase, settings: Settings, name: str | None = None, start_ray: StartRay = lambda: None
) -> Exploration:
    """The raw files of a source as its contract reads them. name: of the source; the first one by default."""
    name = _known(use_case, name)
    source = use_case.sources[name]
    files = find_files(settings.data, name, source, artifacts=Artifacts(settings.artifacts).root)
    profile = _raw(f"{use_case.name}: source {name}", files, source, start_ray)
    return Exploration(profile, suspicions=tuple(of_columns(profile)))


def explore_snapshot(
    use_case: UseCase,
    settings: Settings,
    name: str | None = None,
    digest: str | None = None,
    start_ray: StartRay = lambda: None,
) -> Exploration:
    """The accepted rows of a source in a snapshot: the first source, and the latest snapshot, by default.

    Of the first source also the relation of each column with the label; what is declared as an outcome is no suspect.
    """
    name = _known(use_case, name)
    artifacts, snapshot = Artifacts(settings.artifacts), snapshot_of(use_case, settings, digest)
    expect_kept(artifacts, use_case.name, snapshot.digest)
    url = artifacts.url(*snapshot.place(name))
    group = _by_label(use_case, url) if name == use_case.main_source else None
    found = _table(url, start_ray, group)
    profile = profile_of(
        f"{use_case.name}: {name} in snapshot {snapshot.digest[:12]}", found.whole(), seconds=found.seconds
    )
    if group is None:
        return Exploration(profile, suspicions=tuple(of_columns(profile)))
    related = _related(found.groups)
    outcomes = {column.name for column in use_case.sources[name].columns if column.outcome}
    outcomes |= {*use_case.sources[name].derived, *use_case.label.value.meta.root_names()}
    leaks = [
        one
        for one in [*of_relations(related, use_case.label.task.label_type.is_numeric()), *_with_outcome(found.groups)]
        if one.column not in outcomes
    ]
    return Exploration(profile, related, (*leaks, *of_columns(profile)))


def explore_training_set(
    use_case: UseCase,
    settings: Settings,
    digest: str | None = None,
    part: Part | None = None,
    start_ray: StartRay = lambda: None,
) -> Exploration:
    """A training set, or one part of its split: each feature with the label, leakage, and drift between the parts.

    digest: of the set, or its beginning; it can be left out where there is one. The split is counted back from the last
    moment at which a label became known. Raises DataError if there is no such set.
    """
    url = _training_set_url(use_case, settings, digest)
    as_of = _last_label(url)
    inside = parts_of_split(as_of, use_case.split)
    middle = middle_of(read_parquet(url, [LABEL])[LABEL])
    found = _table(url, start_ray, lambda frame: _by_part(frame, inside, middle))
    groups: dict[str, dict[str, Any]] = {}
    for key, table in found.groups.items():
        in_part, _, label = key.partition("/")
        groups.setdefault(in_part, {})[label] = table
    chosen = {key: table for key, table in found.groups.items() if part is None or key.startswith(f"{part}/")}
    if not chosen:
        raise DataError(f"The {part} period of training set {url} has no row. Take another part.")
    name = f"{use_case.name}: training set" + (f", {part} period" if part else "")
    profile = profile_of(name, merged(chosen), seconds=found.seconds)
    labels = sorted({key.partition("/")[2] for key in chosen}, reverse=True)
    by_label = {
        label: merged({key: t for key, t in chosen.items() if key.partition("/")[2] == label}) for label in labels
    }
    beside = {*use_case.entities, use_case.event_time, LABEL, LABEL_KNOWN_AT} - set(use_case.features_of_request())
    related = tuple(one for one in _related(by_label) if one.column not in beside)
    parts = {name: profile_of(name, merged(groups[name])) for name in inside if name in groups}
    drift = of_splits(parts) if len(parts) > 1 and part is None else []
    return Exploration(profile, related, (*of_relations(related, middle is not None), *drift, *of_columns(profile)))


def snapshot_of(use_case: UseCase, settings: Settings, digest: str | None = None) -> Snapshot:
    """A snapshot by its digest or the beginning of it; by default the one of the latest `as_of`."""
    artifacts = Artifacts(settings.artifacts)
    names = [
        entry.name for entry in artifacts.entries("snapshots", use_case.name) if entry.name.startswith(digest or "")
    ]
    there = [
        load_snapshot(artifacts, use_case.name, name)
        for name in names
        if artifacts.read_json("snapshots", use_case.name, name, "manifest.json") is not None
    ]
    if not there or (digest and len(there) > 1):
        what = f"{len(there)} snapshots of {use_case.name} begin with {digest}" if digest else "there is no snapshot"
        raise DataError(f"{what} below {artifacts.root}. Run the pipeline --until ingest, or give the whole digest.")
    return max(there, key=lambda one: one.as_of)


def profile_table(name: str, url: str, start_ray: StartRay = lambda: None) -> Profile:
    """The profile of a table of typed values: a Parquet file, or all that lie in a folder."""
    found = _table(url, start_ray, None)
    return profile_of(name, found.whole(), found.unreadable, found.seconds)


def _raw(name: str, files: list[SourceFile], source: Source, start_ray: StartRay) -> Profile:
    found = scan(raw_partitions(files, source), sum(file.size for file in files), start_ray)
    return profile_of(name, found.whole(), found.unreadable, found.seconds)


def _table(url: str, start_ray: StartRay, group: Group | None) -> Scan:
    filesystem, path = locate(url)
    info = filesystem.get_file_info(path)
    partitions = table_partitions(url)
    size = info.size or sum(
        locate(one)[0].get_file_info(locate(one)[1]).size or 0 for one in {p.url for p in partitions}
    )
    return scan(partitions, size, start_ray, group)


def _known(use_case: UseCase, name: str | None) -> str:
    if name is not None and name not in use_case.sources:
        raise DataError(f"Use case {use_case.name} has no source {name!r}. It has {', '.join(use_case.sources)}.")
    return name or use_case.main_source


def _by_label(use_case: UseCase, url: str) -> Group:
    label, task = use_case.label.value, use_case.label.task
    middle = None
    if task.label_type.is_numeric():
        middle = middle_of(read_parquet(url, label.meta.root_names()).select(label.alias(LABEL))[LABEL])

    def group(frame: pl.DataFrame) -> pl.Series:
        return frame.select(label_group(label, middle).fill_null(_NONE).alias("group")).to_series()

    return group


def _by_part(frame: pl.DataFrame, inside: Mapping[str, pl.Expr], middle: float | None) -> pl.Series:
    """`part/group` of each row; a row of the gap, or one whose label came too late for its part, is in part `gap`."""
    part = pl.coalesce(*(pl.when(flag).then(pl.lit(name)) for name, flag in inside.items()), pl.lit("gap"))
    return frame.select(pl.concat_str(part, label_group(pl.col(LABEL), middle), separator="/")).to_series()


def _related(groups: Mapping[str, TableSketch]) -> tuple[Relation, ...]:
    labelled = {name: groups[name] for name in sorted(groups, reverse=True) if name != _NONE}
    pairs = {}
    for name, table in labelled.items():
        others = {other: one for other, one in labelled.items() if other != name}
        if others:
            pairs[name] = profile_of(name, table), profile_of("others", merged(others))
    return relations_by_group(pairs)


def _with_outcome(groups: Mapping[str, TableSketch]) -> list[Suspicion]:
    labelled = {name: one for name, one in groups.items() if name != _NONE}
    if _NONE not in groups or not labelled:
        return []
    return recorded_with_outcome(profile_of("", merged(labelled)), profile_of("", groups[_NONE]))


def _training_set_url(use_case: UseCase, settings: Settings, digest: str | None) -> str:
    artifacts = Artifacts(settings.artifacts)
    folder = ("training_sets", use_case.name)
    names = [entry.name for entry in artifacts.entries(*folder) if entry.name.endswith(".parquet")]
    fitting = [name for name in names if name.startswith(digest or "")]
    if len(fitting) != 1:
        there = ", ".join(name[:12] for name in names) or "none"
        raise DataError(
            f"{len(fitting)} training sets of {use_case.name} begin with {digest or 'anything'} (there: {there}). Give "
            f"the digest of one, or run the pipeline --until training_set."
        )
    return artifacts.url(*folder, fitting[0])


def _last_label(url: str) -> datetime:
    latest = read_parquet(url, [LABEL_KNOWN_AT])[LABEL_KNOWN_AT].max()
    if not isinstance(latest, datetime):
        raise DataError(f"{url} has no row with a label. Make the training set again.")
    return latest
