"""The world with segments is what its fields say: its promise and the delay of a fault in a segment rest on that."""

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def drift() -> Iterator[dict[str, Any]]:
    """Modules of the simulation, which `benchmarks/run.py` imports by these names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield {name: import_module(f"drift.{name}") for name in ("worlds", "months", "promise")}


@pytest.fixture(scope="module")
def world(drift: dict[str, Any]) -> Any:
    return replace(drift["promise"].SEGMENTS, days=40, per_day=200)


def test_a_fault_of_a_segment_moves_its_rows_and_no_others(drift: dict[str, Any], world: Any) -> None:
    (fault,) = drift["promise"].IN_A_SEGMENT
    calm, faulty = (
        drift["worlds"].later_rows(drift["worlds"].draw(world, 1, 3), 0, 160, one)
        for one in (drift["worlds"].CALM, fault)
    )
    moved = (faulty["x1"] - calm["x1"]).alias("moved")
    by_value = dict(faulty.select("c", moved).group_by("c").agg(pl.col("moved").mean()).iter_rows())
    assert by_value == pytest.approx({"a": 0, "b": 0, "c": 0, "d": fault.moved}, abs=1e-5)


def test_the_segments_of_a_world_are_in_the_reference_that_judges_it(drift: dict[str, Any], world: Any) -> None:
    (fault,) = drift["promise"].IN_A_SEGMENT
    segments = drift["months"].model_of(world, 1, 3).watched.reference.segments
    assert len(segments) == 4 * len(world.segmented)
    assert drift["months"]._ABOUT[fault.name] in segments
