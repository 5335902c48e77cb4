"""A soak says what grows, and does not take a process that was ended for one that shrank."""

import pytest

from tests.chaos.soak import Seen, growth_percent_h, judge

MIB = 1 << 20


def life(
    role: str, percent_h: float, minutes: int = 120, files: int = 40, more_files: int = 0
) -> dict[tuple[str, str], list[tuple[float, int, int]]]:
    """Of 200 MiB in the middle, looked at each half minute; files open one by one, `more_files` in all."""
    moments = range(0, 60 * minutes, 30)
    middle_s = 30 * minutes
    points = [
        (
            float(at),
            round(200 * MIB * (1 + percent_h / 100 * (at - middle_s) / 3600)),
            files + more_files * at // (60 * minutes),
        )
        for at in moments
    ]
    return {(role, f"1 {percent_h} {minutes}"): points}


def seen_of(*lives: dict[tuple[str, str], list[tuple[float, int, int]]]) -> Seen:
    seen = Seen()
    for one in lives:
        seen.processes.update(one)
    return seen


@pytest.mark.parametrize("percent_h", [-2.0, 0.0, 0.5, 3.0])
def test_the_growth_is_the_slope_of_the_line(percent_h: float) -> None:
    (points,) = life("raylet/raylet", percent_h).values()
    assert growth_percent_h(points) == pytest.approx(percent_h, abs=0.02)


def test_growth_above_the_limit_is_found_in_a_run_that_is_long_enough() -> None:
    grows = seen_of(life("ServeReplica", 3.0), life("gcs_server", 0.4))
    assert judge(grows, minutes=120) == ["ServeReplica grows by 3.0 %/h (limit 1)"]
    assert judge(grows, minutes=5) == []


def test_a_short_life_of_a_role_is_not_judged_beside_a_long_one() -> None:
    assert judge(seen_of(life("ServeReplica", 0.2), life("ServeReplica", 50.0, minutes=10)), minutes=120) == []


def test_files_that_are_never_closed_are_found_and_orphans_named() -> None:
    seen = seen_of(life("DriftActor", 0.0, more_files=60))
    seen.orphans.add("mlrhost2: haproxy")
    assert judge(seen, minutes=5) == ["an orphan: mlrhost2: haproxy", "DriftActor opens files: 60 to 99"]
