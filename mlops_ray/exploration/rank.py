"""Rank: which of several data sets fit a use case best, and why; and which of them would better be left out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from math import sqrt
from statistics import median
from typing import Any

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, nearest
from mlops_ray.exploration.compare import compare
from mlops_ray.exploration.explore import StartRay
from mlops_ray.exploration.profile import Profile, profile_of
from mlops_ray.exploration.scan import raw_partitions, scan
from mlops_ray.ingestion.sources import SourceFile, find_files
from mlops_ray.show.shown import Shown
from mlops_ray.show.text import printable
from mlops_ray.tasks.evaluation import metric_words
from mlops_ray.tasks.stored import metric_named
from mlops_ray.use_case import Source, UseCase

FOLDER = "data_choices"
_HALF_LIFE_DAYS = 730.0
_ROWS_OF_A_TENTH = 100.0
_MOST_MOVED = 3
# A difference that another split of the same rows would make as well.
_NO_DIFFERENCE = 0.002


@dataclass(frozen=True)
class Ranked:
    """A data set. fitness: completeness x (1 - distance) x what its rows and its age leave, from 0 to 1.

    completeness: share of its cells, of rows that the contract accepts, that have a value. age_days: from its newest
    moment to `as_of`. distance: from the reference, or the median one from the others; `moved` says in which columns.
    reached: what a quick model learns from it alone, in the ranking's metric; worth: what all together lose without it.
    """

    name: str
    fitness: float
    completeness: float
    accepted: float
    rows: int
    age_days: float | None
    distance: float | None
    moved: tuple[str, ...]
    reached: float | None
    worth: float | None
    files: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class Ranking(Shown):
    """Data sets, the best first. by_model: the order is that of the quick model, else of fitness. together: what it
    reaches with all of them, by `metric`."""

    use_case: str
    candidates: tuple[Ranked, ...]
    by_model: bool
    together: float | None
    metric: str = "roc_auc"

    @property
    def title(self) -> str:
        return f"{self.use_case}: {len(self.candidates)} data sets, the best first"

    @property
    def harmful(self) -> tuple[str, ...]:
        """Data sets without which the quick model is better."""
        least = _NO_DIFFERENCE * (1.0 if metric_named(self.metric).highest <= 1 else abs(self.together or 0.0))
        return tuple(one.name for one in self.candidates if one.worth is not None and one.worth < -least)

    def sentences(self) -> list[str]:
        """Why each stands where it stands, in order; and which to leave out."""
        metric, sign = _with_article(self.metric), 1 if metric_named(self.metric).lower_is_better else -1
        said = [f"{place}. {_reason(one, metric)}" for place, one in enumerate(self.candidates, 1)]
        return said + [
            f"Leave out {one.name}: without it the quick model reaches {metric} of "
            f"{self.together + sign * one.worth:.3f}, with it {self.together:.3f}."
            for one in self.candidates
            if one.name in self.harmful and self.together is not None and one.worth is not None
        ]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sentences": self.sentences()}

    def _html(self) -> str:
        from mlops_ray.exploration.page import ranking_html

        return ranking_html(self)

    def _text(self) -> str:
        return "\n".join(map(printable, [self.title, *self.sentences()]))


def rank(
    use_case: UseCase,
    settings: Settings,
    patterns: Mapping[str, str],
    reference: str | None = None,
    as_of: datetime | None = None,
    model: bool = False,
    start_ray: StartRay = lambda: None,
) -> Ranking:
    """Rank files of the use case's first source.

    patterns: which files below the data folder each candidate is, by name. reference: those that it should be like, and
    that the model is judged by. as_of: what ages are counted to; the newest moment of all by default. model: let a
    quick model decide, which needs a reference. Raises ConfigurationError without one, DataError if nothing can be
    read.
    """
    if model and reference is None:
        raise ConfigurationError("A quick model is judged by rows of a reference. Give --reference PATTERN.")
    source = use_case.sources[use_case.main_source]
    files = {name: find_files(settings.data, name, _with_path(source, path)) for name, path in patterns.items()}
    profiles = {name: _profile(name, found, source, start_ray) for name, found in files.items()}
    beside = find_files(settings.data, "reference", _with_path(source, reference)) if reference else []
    wanted = _profile("reference", beside, source, start_ray) if beside else None
    newest = {name: _newest(profile) for name, profile in profiles.items()}
    moment = as_of or max((one for one in newest.values() if one is not None), default=None)
    reached, together, worth = _by_model(use_case, files, beside) if model else ({}, None, {})
    metric, judged = next(iter(use_case.label.task.metrics.items()))
    ranked = []
    for name, profile in profiles.items():
        others = [wanted] if wanted else [other for key, other in profiles.items() if key != name]
        distance, moved = _distance(profile, others)
        age = (moment - newest[name]).total_seconds() / 86_400 if moment and newest[name] else None  # type: ignore[operator]
        completeness, accepted = _completeness(profile)
        fitness = completeness * (1 - (distance or 0)) * _of_rows(profile.rows) * _of_age(age)
        given = {file.name: file.sha256 for file in files[name]}
        ranked.append(
            Ranked(
                name,
                fitness,
                completeness,
                accepted,
                profile.rows,
                age,
                distance,
                moved,
                reached.get(name),
                worth.get(name),
                given,
            )
        )
    gains = {name: judged.gain(value) for name, value in reached.items()}
    order = sorted(ranked, key=lambda one: (-gains.get(one.name, 0.0), -one.fitness, one.name))
    return Ranking(use_case.name, tuple(order), model, together, metric)


def choose(artifacts: Artifacts, ranking: Ranking, names: Sequence[str], why: str) -> str:
    """Record which data sets were chosen and why; lineage of a version made from exactly these files names the record.

    Returns its digest. Raises ConfigurationError for a name that was not ranked, or without a reason.
    """
    known = {one.name: one for one in ranking.candidates}
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(f"{unknown[0]!r} is not among the data sets. {nearest(unknown[0], known)}")
    if not why or not names:
        raise ConfigurationError("A choice needs at least one data set and a reason. Give --choose NAME and --reason.")
    record = {"ranking": ranking.to_json(), "chosen": list(names), "reason": why}
    record["files"] = {file: sha256 for name in names for file, sha256 in known[name].files.items()}
    digest = digest_json(record)
    artifacts.write_json(record, FOLDER, ranking.use_case, f"{digest}.json")
    artifacts.write_json({"digest": digest}, FOLDER, ranking.use_case, "latest.json")
    return digest


def choice_of(artifacts: Artifacts, use_case: str, files: Mapping[str, str]) -> dict[str, str]:
    """What lineage says of the choice of these files (SHA-256 by name); nothing if others were chosen last."""
    latest = artifacts.read_json(FOLDER, use_case, "latest.json")
    record = artifacts.read_json(FOLDER, use_case, f"{latest['digest']}.json") if latest else None
    if latest is None or record is None or sorted(record["files"].values()) != sorted(files.values()):
        return {}
    chosen = f"{', '.join(record['chosen'])} of {len(record['ranking']['candidates'])}: {record['reason']}"
    return {"data choice": chosen, "data choice record": latest["digest"]}


def _by_model(
    use_case: UseCase, files: Mapping[str, Sequence[SourceFile]], reference: Sequence[SourceFile]
) -> tuple[dict[str, float], float, dict[str, float]]:
    from mlops_ray.exploration.quick_model import labelled_sample, reached, worth

    task, samples = use_case.label.task, {name: labelled_sample(use_case, found) for name, found in files.items()}
    judged = labelled_sample(use_case, reference)
    alone = {name: reached(task, [sample], judged, name) for name, sample in samples.items()}
    together, of_each = worth(task, samples, judged)
    return alone, together, of_each


def _profile(name: str, files: Sequence[SourceFile], source: Source, start_ray: StartRay) -> Profile:
    found = scan(raw_partitions(files, source), sum(file.size for file in files), start_ray)
    return profile_of(name, found.whole(), found.unreadable, found.seconds)


def _with_path(source: Source, path: str | None) -> Source:
    return replace(source, path=path or source.path)


def _completeness(profile: Profile) -> tuple[float, float]:
    values = sum(column.values for column in profile.columns)
    accepted = 1 - (profile.refused + profile.malformed) / profile.rows if profile.rows else 0.0
    return (values / profile.cells if profile.cells else 0.0) * accepted, accepted


def _newest(profile: Profile) -> datetime | None:
    return max((column.coverage.last for column in profile.columns if column.coverage is not None), default=None)


def _distance(profile: Profile, others: Sequence[Profile]) -> tuple[float | None, tuple[str, ...]]:
    """The mean distance of the columns that moved most, from the median of the others; and these columns."""
    by_column: dict[str, list[float]] = {}
    for other in others:
        for change in compare(other, profile).columns:
            if change.distance is not None:
                # What is missing counts as incomplete, and not once more as moved.
                apart = change.distance.share - abs(change.missing_now - change.missing_was)
                by_column.setdefault(change.column, []).append(max(0.0, apart - change.distance.chance))
    if not by_column:
        return None, ()
    middle = {name: median(shares) for name, shares in by_column.items()}
    most = sorted(middle.items(), key=lambda one: (-one[1], one[0]))[:_MOST_MOVED]
    return sum(share for _, share in most) / len(most), tuple(name for name, share in most if share > 0)


def _of_rows(rows: int) -> float:
    """What so many rows leave of what more would reach: an estimate's error falls with the root of its rows."""
    return 1 - 1 / sqrt(1 + rows / _ROWS_OF_A_TENTH)


def _of_age(days: float | None) -> float:
    return 1.0 if days is None else 0.5 ** (max(0.0, days) / _HALF_LIFE_DAYS)


def _with_article(metric: str) -> str:
    words = metric_words(metric)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _reason(one: Ranked, metric: str) -> str:
    parts = [f"{one.completeness:.0%} complete", f"{one.rows:,} rows ({_size(one.rows)})"]
    if one.accepted < 1:
        parts.append(f"the contract refuses {1 - one.accepted:.1%} of them")
    if one.age_days is not None:
        parts.append(f"{one.age_days:,.0f} days behind")
    if one.distance is not None:
        far = "like the others" if one.distance < 0.03 else f"{one.distance:.0%} away in {', '.join(one.moved)}"
        parts.append(far)
    if one.reached is not None:
        parts.append(f"a quick model reaches {metric} of {one.reached:.3f}")
    return f"{one.name}: {'; '.join(parts)}."


def _size(rows: int) -> str:
    return "few" if rows < 5_000 else "enough" if rows < 100_000 else "many"
