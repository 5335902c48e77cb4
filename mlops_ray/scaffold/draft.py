"""Draft: what a first use case says of files that were only looked at, each choice with its reason."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import polars as pl

from mlops_ray.errors import ConfigurationError, DataError, nearest
from mlops_ray.exploration.profile import ColumnProfile
from mlops_ray.exploration.propose import Proposal, quoted
from mlops_ray.exploration.raw_sample import accepted_rows
from mlops_ray.exploration.suspicion import shown
from mlops_ray.ingestion.sources import find_files
from mlops_ray.scaffold.draft_label import DraftLabel, Kind, could_be_names_or_amounts, draft_label
from mlops_ray.use_case import Column
from mlops_ray.use_case.checks import RESERVED
from mlops_ray.use_case.personal import tells_of_a_person

_SAMPLE_ROWS = 20_000
# A text of which more than this share of the rows has its own value says which row it is, not what it is like.
_OWN_VALUES, _FEW_VALUES = 0.5, 50
_MOST_VALUES_OF_A_FEATURE = 1_000
_TEST, _VALIDATION = 0.2, 0.15
_FEWEST_DAYS = 20  # below, parts of the time are counted in hours
# Why a column is no feature, where more follows from it than that.
_OF_A_PERSON = "it seems to tell of a person and nothing needs it, so it is not even read"
_LATER = "it lies after the event in some rows, so nobody knows it in time"
_DAY, _HOUR, _WEEK, _YEAR = (timedelta(days=1), timedelta(hours=1), timedelta(days=7), timedelta(days=365))


@dataclass(frozen=True)
class Asked:
    """What only a person knows. label, time: columns. positive: the value of the label that counts as yes; "": as it
    seems. known_after: how long after `time` the label is known. task: of which kind the label is; None: as it seems.
    """

    label: str
    time: str
    positive: str = ""
    known_after: timedelta = timedelta()
    owner: str = ""
    task: Kind | None = None


@dataclass(frozen=True)
class DraftFeature:
    """A request feature: the code of its expression, and the column beside the event time that it is made of."""

    code: str
    column: str


@dataclass(frozen=True)
class Draft:
    """A use case before it is written.

    label: what is said of the label. left_out: columns that are no features, with the reason; outcomes: those
    of them that are known only after the fact. notes: what somebody has to decide.
    """

    name: str
    asked: Asked
    proposal: Proposal
    label: DraftLabel
    entities: tuple[str, ...]
    features: Mapping[str, DraftFeature]
    left_out: Mapping[str, str]
    outcomes: tuple[str, ...]
    span: tuple[str, str]
    split: Mapping[str, timedelta]
    notes: tuple[str, ...]

    def without(self, leaks: Mapping[str, str]) -> "Draft":
        """The same, now that these features are known to tell the outcome, each for a reason."""
        columns = {self.features[name].column: reason for name, reason in leaks.items()}
        outcomes = tuple(dict.fromkeys((*self.outcomes, *columns)))
        kept = {name: feature for name, feature in self.features.items() if feature.column not in columns}
        proposal = _declared(self.proposal, self.asked.time, self.entities, outcomes)
        return replace(self, proposal=proposal, features=kept, left_out={**self.left_out, **columns}, outcomes=outcomes)


def draft(name: str, data: str, proposal: Proposal, asked: Asked) -> Draft:
    """What files below `data`, as they are proposed, and the answers of a person allow. Raises ConfigurationError for
    an answer that does not fit the files, with what would, and DataError if no row of them can be read."""
    columns = {column.name: column for column in proposal.source.columns}
    seen = {column.name: column for column in proposal.profile.columns if column.name in columns}
    _expect_moments(asked.time, columns, seen)
    label = _known("--label", asked.label, columns)
    sample = accepted_rows(find_files(data, "rows", proposal.source), proposal.source, _SAMPLE_ROWS)
    if sample.is_empty():
        raise DataError(f"No row of {proposal.source.path} could be read as {', '.join(columns)}. Look at the file.")
    entities = _entities(proposal, columns, seen, asked)
    first, last = _times(asked.time, sample)
    split = _split(last - first, asked.known_after)
    found_label = draft_label(
        label, seen[label.name], sample, asked.time, split, proposal.profile.rows, asked.task, asked.positive
    )
    features, left_out = dict[str, DraftFeature](), dict[str, str]()
    for column in columns.values():
        if column.name in (asked.label, asked.time):
            continue
        found = _feature(column, seen[column.name], sample, asked.time, column.name in entities)
        if isinstance(found, str):
            left_out[column.name] = found
        else:
            features[_free(found[0], {*columns, *features} - {column.name})] = found[1]
    calendar = _of_the_moment(asked.time, sample, last - first)
    outcomes = (asked.label, *(column for column, why in left_out.items() if why == _LATER))
    hashed = [f"{shown(one)} tells of a person: the ledger hashes it." for one in entities if tells_of_a_person(one)]
    read = _only([one for one in columns if left_out.get(one) != _OF_A_PERSON], proposal, found_label.column)
    return Draft(
        name, asked, _declared(read, asked.time, entities, outcomes), found_label, entities,
        features | {_free(name, {*columns, *features}): one for name, one in calendar.items()}, left_out, outcomes,
        (f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}"), split,
        (*found_label.notes, *hashed),
    )  # fmt: skip


def _expect_moments(name: str, columns: Mapping[str, Column], seen: Mapping[str, ColumnProfile]) -> None:
    """Raise ConfigurationError unless the column says when a row happened."""
    column = _known("--time", name, columns)
    if column.type != "timestamp":
        moments = [one.name for one in columns.values() if one.type == "timestamp"]
        others = f"Columns with moments: {', '.join(moments)}" if moments else "No column of the files has moments"
        examples = ", ".join(shown(value) for value, _ in seen[name].top[:3])
        raise ConfigurationError(
            f"--time {name!r} was read as {column.type} (such as {examples}), which is no moment. {others}. Time tells "
            f"what was known before what, so that a model is judged on what came after."
        )


def _times(name: str, sample: pl.DataFrame) -> tuple[datetime, datetime]:
    """The first and the last moment. Raises ConfigurationError if they are one."""
    first, last = sample[name].min(), sample[name].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime) or first == last:
        raise ConfigurationError(
            f"--time {name!r} has one moment alone, so there is no later time to judge a model on. Take another column."
        )
    return first, last


def _known(option: str, name: str, columns: Mapping[str, Column]) -> Column:
    if name not in columns:
        raise ConfigurationError(f"{option} {name!r} is no column of the files. {nearest(name, columns)}")
    return columns[name]


def _entities(
    proposal: Proposal, columns: Mapping[str, Column], seen: Mapping[str, ColumnProfile], asked: Asked
) -> tuple[str, ...]:
    """Columns that say what a prediction is about: the key's, or else the one with the most values."""

    def may(name: str) -> bool:
        identifies = columns[name].type in ("text", "integer", "boolean") and seen[name].values > 0
        return identifies and name not in (asked.label, asked.time, *RESERVED)

    key = tuple(name for name in proposal.source.key if name != asked.time)
    if key and all(map(may, key)):
        return key
    others = sorted((name for name in columns if may(name)), key=lambda name: -seen[name].different)
    if not others:
        raise ConfigurationError(
            "No text or integer column says what a row is about (a customer, a machine …). Add one to the files: "
            "whoever asks for a prediction names it, and labels are told by it."
        )
    return (others[0],)


def _feature(
    column: Column, seen: ColumnProfile, sample: pl.DataFrame, time: str, is_entity: bool
) -> tuple[str, DraftFeature] | str:
    """A column as a feature with its name, or why it is none."""
    name, plain = column.name, f"pl.col({quoted(column.name)})"
    if tells_of_a_person(name) and not is_entity:
        return _OF_A_PERSON
    if name in RESERVED:
        return "answers have that name themselves: rename the column to use it"
    if seen.values == 0:
        return "it never has a value"
    if seen.different < 2 and seen.missing_share == 0:
        return "it always has the same value"
    if column.type == "timestamp":
        if bool((sample[name] > sample[time]).any()):
            return _LATER
        return f"days_since_{name}", DraftFeature(f"(pl.col({quoted(time)}) - {plain}).dt.total_days()", name)
    many = seen.different > max(_FEW_VALUES, _OWN_VALUES * seen.values)
    if many and (column.type == "text" or (column.type == "integer" and is_entity)):
        return "nearly every row has its own value"
    if column.type == "text" and seen.different > _MOST_VALUES_OF_A_FEATURE and is_entity:
        return f"it names one of {seen.different:,} things, of which a model learns more by their history"
    return name, DraftFeature(plain, name)


def _free(name: str, taken: Set[str]) -> str:
    """The name, or one like it that no other column has."""
    while name in taken:
        name += "_"
    return name


def _of_the_moment(time: str, sample: pl.DataFrame, span: timedelta) -> dict[str, DraftFeature]:
    """What the calendar says of the moment, as far as the data saw it come round."""
    found = {}
    if span >= 4 * _WEEK:
        found[f"{time}_weekday"] = DraftFeature(f"pl.col({quoted(time)}).dt.weekday()", "")
    if sample[time].dt.hour().n_unique() > 1:
        found[f"{time}_hour"] = DraftFeature(f"pl.col({quoted(time)}).dt.hour()", "")
    if span >= 2 * _YEAR:
        found[f"{time}_month"] = DraftFeature(f"pl.col({quoted(time)}).dt.month()", "")
    return found


def _split(span: timedelta, known_after: timedelta) -> dict[str, timedelta]:
    """Of the time that the rows cover the last fifth to test on, and of what lies before, enough to choose by."""
    unit = _DAY if span >= _FEWEST_DAYS * _DAY else _HOUR if span >= _FEWEST_DAYS * _HOUR else timedelta(minutes=1)
    # In the last stretch, labels are not known yet.
    parts = {"test": span * _TEST + known_after, "gap": known_after, "validation": span * _VALIDATION}
    if sum(parts.values(), timedelta()) > span * 0.8:
        raise ConfigurationError(
            f"The rows cover {span}, and labels come {known_after} later: too little is left to train on. Collect "
            f"more, or check --known-after."
        )
    return {name: max(unit, part // unit * unit) if part else timedelta() for name, part in parts.items()}


def _only(names: list[str], proposal: Proposal, label: Column) -> Proposal:
    """The proposal with these columns, the label as it is to be; a key that needs others is none."""
    columns = tuple(
        label if column.name == label.name else column for column in proposal.source.columns if column.name in names
    )
    key = proposal.source.key if set(proposal.source.key) <= set(names) else ()
    return replace(proposal, source=replace(proposal.source, columns=columns, key=key))


def _declared(proposal: Proposal, time: str, entities: tuple[str, ...], outcomes: tuple[str, ...]) -> Proposal:
    """The proposal as a use case needs it: with what must be there, what is personal, and what is known afterwards."""

    def declared(column: Column) -> Column:
        needed = column.name == time or column.name in entities
        found = replace(column, nullable=column.nullable and not needed, outcome=column.name in outcomes)
        return replace(found, personal="hash") if tells_of_a_person(column.name) and column.type == "text" else found

    key = () if set(proposal.source.key) & set(outcomes) else proposal.source.key
    source = replace(proposal.source, columns=tuple(map(declared, proposal.source.columns)), key=key)
    notes = tuple(note for note in proposal.notes if not note.startswith("When does a row become known?"))
    return replace(proposal, source=source, notes=notes)


def is_ambiguous(proposal: Proposal, label: str) -> bool:
    """Whether the values of a column do not tell if they are names or amounts."""
    column = next((column for column in proposal.source.columns if column.name == label), None)
    seen = proposal.profile.column(label)
    return column is not None and seen is not None and could_be_names_or_amounts(column, seen)


def questions(proposal: Proposal) -> Iterator[tuple[str, list[str]]]:
    """What a person has to say, with the columns that could be meant."""
    columns = proposal.source.columns
    yield "time", [column.name for column in columns if column.type == "timestamp"]
    yield "label", [column.name for column in sorted(columns, key=_unlike_a_label) if _unlike_a_label(column) < 3]


def _unlike_a_label(column: Column) -> int:
    """Yes or no most often is the label, then a few names, then numbers."""
    if column.type == "boolean" or len(column.choices) == 2:
        return 0
    return 1 if column.choices else 2 if column.type == "number" else 3
