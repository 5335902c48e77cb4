"""What is due when: two years in three places whose clocks change, against a reference that tries every minute."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case import Column, Retraining, Schedule
from mlops_ray.use_case.schedule import due_moments
from tests.unit.test_governor import USE_CASE

START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")  # the last by half an hour, and in the south
# Each with the minutes, hours, days, months and days of the week (0: Sunday) that it stands for.
EVERY: list[Any] = [range(60), range(24), range(1, 32), range(1, 13), range(7)]
PASSING = pl.datetime_range(START + MINUTE, END, "1m", time_zone="UTC", eager=True)
SHOWN = pl.datetime_range(datetime(2023, 12, 31), datetime(2026, 1, 2), "1m", closed="left", eager=True)
CRONS = {
    "*/15 * * * *": [range(0, 60, 15), *EVERY[1:]],
    "0 * * * *": [[0], *EVERY[1:]],
    "30 2 * * *": [[30], [2], *EVERY[2:]],
    "0,15,45 1,2,3 * * *": [[0, 15, 45], [1, 2, 3], *EVERY[2:]],
    "*/20 2 * * *": [range(0, 60, 20), [2], *EVERY[2:]],
    "5 6 * * MON-FRI": [[5], [6], *EVERY[2:4], range(1, 6)],
    "0 0 29 2 *": [[0], [0], [29], [2], EVERY[4]],
    "10 1 13 * 5": [[10], [1], [13], EVERY[3], [5]],
}


def matching(moments: pl.Series, cron: str) -> pl.Series:
    """Which moments have the minute, hour and day of the expression. Two given days: either is enough."""
    minutes, hours, days, months, weekdays = (pl.Series(list(one)) for one in CRONS[cron])
    local = moments.dt
    of_month, of_week = local.day().is_in(days.implode()), (local.weekday() % 7).is_in(weekdays.implode())
    both = "*" in (cron.split()[2], cron.split()[4])
    of_day = of_month & of_week if both else of_month | of_week
    return (
        local.minute().is_in(minutes.implode())
        & local.hour().is_in(hours.implode())
        & local.month().is_in(months.implode())
        & of_day
    )


def reference(cron: str, zone: str) -> list[datetime]:
    minute, hour = cron.split()[:2]
    if minute.startswith("*") or hour.startswith("*"):
        return PASSING.filter(matching(PASSING.dt.convert_time_zone(zone), cron)).to_list()
    found = {first_moment(wall, ZoneInfo(zone)) for wall in SHOWN.filter(matching(SHOWN, cron)).to_list()}
    return sorted(moment for moment in found if START < moment <= END)


def first_moment(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first at which clocks show it, or where they leave it out, the first behind it."""
    while True:
        moment = wall.replace(tzinfo=zone).astimezone(UTC)
        if moment.astimezone(zone).replace(tzinfo=None) == wall:
            return moment
        wall += MINUTE


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", CRONS)
def test_two_years_are_due_as_every_minute_says(cron: str, zone: str) -> None:
    found = list(takewhile(lambda due: due <= END, due_moments(cron, zone, START)))
    assert found == reference(cron, zone)
    assert found


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(CRONS)), st.sampled_from(ZONES), st.data())
def test_from_any_moment_on_the_same_moments_follow(cron: str, zone: str, data: st.DataObject) -> None:
    if cron == "0 0 29 2 *":
        return
    changes = {"Europe/Berlin": (2024, 10, 27, 0), "America/New_York": (2024, 11, 3, 5)}
    around = datetime(*changes.get(zone, (2024, 4, 6, 14)), tzinfo=UTC)
    after = around + timedelta(seconds=data.draw(st.integers(-90_000, 90_000)))
    known = takewhile(
        lambda due: due < around + timedelta(days=60), due_moments(cron, zone, around - timedelta(days=3))
    )
    expected = next((due for due in known if due > after), None)
    assert expected is None or next(due_moments(cron, zone, after)) == expected


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("* * * *", "4 fields"),
        ("@daily", "1 field, .* Example: '0 0 \\* \\* \\*'"),
        ("61 * * * *", "minute"),
        ("0 0 30 2 *", "day-of-month"),
    ],
)
def test_an_expression_that_is_none_is_refused_where_it_is_written(cron: str, says: str) -> None:
    with pytest.raises(UseCaseError, match=says):
        Schedule(cron)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Europe/Berlni", "Europe/Berlin"), ("+02:00", "'Etc/GMT-2'"), ("+0200", "IANA"), ("02:00", "IANA"),
        ("", "IANA"), ("../UTC", "IANA"), ("Europe", "IANA"), ("localtime", "IANA"),
    ],
)  # fmt: skip
def test_a_zone_that_some_clock_does_not_know_is_refused_wherever_one_is_declared(name: str, says: str) -> None:
    for declared in (
        lambda: Schedule("0 6 * * *", time_zone=name),
        lambda: Column("at", "timestamp", time_zone=name),
        lambda: replace(USE_CASE, time_zone=name),
    ):
        with pytest.raises(UseCaseError, match=says):
            declared()


def test_what_is_scheduled_is_an_operation_that_the_use_case_has() -> None:
    with pytest.raises(UseCaseError, match="featurs"):
        replace(USE_CASE, schedules={"featurs": Schedule("0 * * * *")})  # type: ignore[dict-item]
    with pytest.raises(UseCaseError, match="Add retraining=Retraining"):
        replace(USE_CASE, retraining=None, schedules={"retraining": Schedule("0 * * * *")})
    replace(USE_CASE, retraining=Retraining(), schedules={"retraining": Schedule("0 * * * *")})
