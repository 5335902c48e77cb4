"""Schedule: when an operation of a use case is due, by the clock of a place."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.column import unknown_time_zone
from mlops_ray.use_case.declared_types import expect_types

Operation = Literal["ingest", "features", "parity", "monitoring", "retraining", "audit", "backup"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
# What other crons call by one word.
_FIVE = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "": "0 6 * * MON-FRI",
}  # fmt: skip
# Where the oldest moment lies that a cron expression is tried on when it is declared.
_SOME_DAY = datetime(2024, 1, 1, tzinfo=UTC)
# What clocks show is counted from so far back, as it comes twice; Troll in the Antarctic puts them back by two hours.
_MOST_PUT_BACK = timedelta(hours=3)


@dataclass(frozen=True)
class Schedule:
    """cron: minute, hour, day of the month, month and day of the week, as Debian's cron reads them.

    time_zone: by whose clock, an IANA name; None for the use case's (`UseCase.zone`). catch_up: whether runs that fell
    due while nobody carried them out are all made up for, the oldest first; without it only the latest one is, and the
    others are recorded as skipped. time_limit: a run that has not ended after so long is stopped and has failed, and
    the next one begins.

    Where clocks are changed: with a minute and an hour that are both fixed, a time that is left out is due at the first
    moment after it, and one that comes twice is due the first time. With `*` in either, time is counted as it passes:
    hourly stays hourly.
    """

    cron: str
    time_zone: str | None = None
    catch_up: bool = False
    time_limit: timedelta = timedelta(days=1)

    def __post_init__(self) -> None:
        expect_types(self, "Schedule")
        fields = len(self.cron.split())
        if fields != 5:
            raise UseCaseError(
                f"Schedule: cron {self.cron!r} has {fields} field{'' if fields == 1 else 's'}, not the five minute, "
                f"hour, day of the month, month and day of the week. Example: {_FIVE.get(self.cron, _FIVE[''])!r}."
            )
        if self.time_limit <= timedelta():
            raise UseCaseError(f"Schedule: time_limit is {self.time_limit}. Give more than 0.")
        if next(due_moments(self.cron, "UTC" if self.time_zone is None else self.time_zone, _SOME_DAY), None) is None:
            raise UseCaseError(f"Schedule: cron {self.cron!r} is never due. Give a day that its months have.")


def due_moments(cron: str, time_zone: str, after: datetime) -> Iterator[datetime]:
    """The moments behind `after` at which it is due, in UTC and in their order; as a rule without end.

    They depend on nothing but the arguments: from whichever moment one looks, the same ones follow. cronsim is asked
    for what clocks show alone: with a zone it leaves times out where clocks are changed by half an hour (2.8, `*/20 2 *
    * *` on Lord Howe Island). Raises UseCaseError for an expression that is none and a zone that no clock knows.
    """
    if unknown := unknown_time_zone(time_zone):
        raise UseCaseError(f"Schedule: {unknown}.")
    zone = ZoneInfo(time_zone)
    is_fixed = not any(field.startswith("*") for field in cron.split()[:2])
    last, second_time = after, list[datetime]()
    for shown in _shown_times(cron, after.astimezone(zone).replace(tzinfo=None) - _MOST_PUT_BACK):
        first = _first_moment(shown, zone) if is_fixed else _moments(shown, zone)[:1]
        for due in (*(one for one in second_time if not first or one < first[0]), *first):
            if due > last:
                last = due
                yield due
        if not is_fixed:
            second_time = [one for one in (*second_time, *_moments(shown, zone)[1:]) if one > last]


def _shown_times(cron: str, after: datetime) -> Iterator[datetime]:
    try:
        yield from CronSim(cron, after)
    except CronSimError as error:
        raise UseCaseError(f"Schedule: cron {cron!r}: {error}. Example: '0 6 * * MON-FRI'.") from None


def _moments(shown: datetime, zone: ZoneInfo) -> list[datetime]:
    """When clocks show it, in UTC: as a rule once, where they are put back twice, and where they are put on never."""
    found = {shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(one for one in found if one.astimezone(zone).replace(tzinfo=None) == shown)


def _first_moment(shown: datetime, zone: ZoneInfo) -> list[datetime]:
    """The first at which clocks show it; where they leave it out, the first behind what is left out."""
    while not (found := _moments(shown, zone)):
        shown += timedelta(minutes=1)
    return found[:1]
