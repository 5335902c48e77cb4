"""Only what is missing is computed, in parts of bounded size, the newest days each by itself."""

from datetime import date, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.features.stretches import DAY, Stretch, missing_stretches, to_merge

NEW_YEAR = date(2013, 1, 1)


def day(number: int) -> date:
    return NEW_YEAR + number * DAY


def test_a_part_has_no_more_rows_than_a_task_reads_and_recent_days_are_apart() -> None:
    rows = {day(number): 100 for number in range(10)}
    found = missing_stretches(rows, [], part_rows=300, recent_days=2)
    assert found == [Stretch(day(a), day(b)) for a, b in ((0, 3), (3, 6), (6, 8), (8, 9), (9, 10))]
    assert missing_stretches({day(0): 999}, [], part_rows=300) == [Stretch(day(0), day(1))]


def test_a_new_day_is_all_that_is_computed() -> None:
    rows = {day(number): 100 for number in range(11)}
    kept = [Stretch(day(0), day(3)), Stretch(day(3), day(10))]
    assert missing_stretches(rows, kept, part_rows=300, recent_days=2) == [Stretch(day(10), day(11))]


def test_what_is_kept_stays_between_what_is_missing() -> None:
    rows = {day(number): 1 for number in range(9)}
    found = missing_stretches(rows, [Stretch(day(3), day(5))], part_rows=300, recent_days=0)
    assert found == [Stretch(day(0), day(3)), Stretch(day(5), day(9))]


def test_older_days_become_one_part_once_there_are_enough_of_them() -> None:
    days = {Stretch(day(number), day(number + 1)): 100 for number in range(50)}
    assert to_merge(days, part_rows=10_000, apart=30) == []
    days |= {Stretch(day(number), day(number + 1)): 100 for number in range(50, 60)}
    assert to_merge(days, part_rows=10_000, apart=30) == [sorted(days)[:30]]
    assert to_merge(days, part_rows=2_000, apart=30) == [], "together they would be more than a task reads"
    del days[Stretch(day(10), day(11))]
    assert to_merge(days, part_rows=10_000, apart=30) == [], "what is missing lies between"


@given(
    numbers=st.sets(st.integers(0, 60), max_size=40),
    kept=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=4),
    part_rows=st.integers(1, 500),
    recent=st.integers(0, 5),
)
def test_each_day_is_in_exactly_one_part(
    numbers: set[int], kept: list[tuple[int, int]], part_rows: int, recent: int
) -> None:
    taken: list[Stretch] = []
    for first, length in sorted(kept):
        stretch = Stretch(day(first), day(first + length))
        if not taken or taken[-1].end <= stretch.first:
            taken.append(stretch)
    rows = {day(number): 50 for number in numbers}
    found = missing_stretches(rows, taken, part_rows, recent)
    for one in rows:
        assert sum(stretch.first <= one < stretch.end for stretch in [*taken, *found]) == 1
    both = sorted([*taken, *found])
    assert all(a.end <= b.first for a, b in pairwise(both))
    assert all(stretch.end - stretch.first >= timedelta(days=1) for stretch in found)
