"""Two tables side by side: what is other is said with its size, and chance is not called a change."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops_ray.exploration.compare import compare, distance
from mlops_ray.exploration.explore import explore_files
from mlops_ray.exploration.kept import keep_profile, kept_profiles
from mlops_ray.exploration.profile import Profile, profile_of
from mlops_ray.exploration.table_sketch import TableSketch


def profiled(name: str, frame: pl.DataFrame) -> Profile:
    table = TableSketch()
    table.update(frame)
    return profile_of(name, table)


def orders(seed: int, rows: int = 20_000, mean: float = 0.0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    shops = random.choice(["a", "b", "c"], rows, p=[0.5, 0.3, 0.2])
    return pl.DataFrame({"amount": random.normal(mean, 1, rows), "shop": shops, "items": random.integers(1, 5, rows)})


def test_samples_of_the_same_differ_by_chance_alone() -> None:
    found = compare(profiled("then", orders(1)), profiled("now", orders(2)))
    assert found.sentences() == []
    assert [one.distance.words for one in found.columns if one.distance] == ["the same"] * 3


def test_a_distance_is_the_share_of_values_that_moved() -> None:
    then, now = profiled("then", orders(1)), profiled("now", orders(2, mean=1.0))
    amount = compare(then, now).columns[0]
    assert amount.column == "amount"
    assert amount.distance is not None
    # Two normal distributions one deviation apart: 0.383; over tenths a little less.
    assert amount.distance.share == pytest.approx(0.37, abs=0.03)
    assert amount.distance.words == "large"
    moved = orders(3).with_columns(
        pl.when(pl.int_range(pl.len()) < 4_000).then(pl.lit("z")).otherwise("shop").alias("shop")
    )
    shop = distance(then.columns[1], profiled("now", moved).columns[1])
    assert shop is not None
    assert shop.share == pytest.approx(0.2, abs=0.02)


def test_schema_volume_and_missing_values_are_said() -> None:
    now = orders(2, rows=10_000).rename({"items": "pieces"}).with_columns(shop=pl.lit(None, pl.String))
    found = compare(profiled("then", orders(1)), profiled("now", now.with_columns(amount=pl.lit("x"))))
    said = found.sentences()
    assert said[:3] == ["Gone: items.", "New: pieces.", "Rows: 10,000 where there were 20,000 (-50.0%)."]
    assert "amount: its values are text where they were number." in said
    assert "shop: 100.0% missing where it was 0.0%." in said
    assert "amount" in found.page()


def test_what_is_all_different_or_a_moment_has_no_distance() -> None:
    keys = pl.DataFrame({"id": [f"k{number}" for number in range(5_000)]})
    assert distance(profiled("x", keys).columns[0], profiled("y", keys).columns[0]) is None


def test_the_profile_of_a_snapshot_is_kept_and_the_next_ingest_says_what_changed(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from mlops_ray.artifacts import Artifacts
    from mlops_ray.ingestion.snapshot import LineCounts, Snapshot, SourceCounts

    artifacts = Artifacts(str(tmp_path))
    counts = SourceCounts(1, 1, 0, 0, 0, {}, {}, LineCounts(0, 0, 0, 0, 0))

    def snapshot(digest: str, frame: pl.DataFrame) -> Snapshot:
        artifacts.write_table(frame, "snapshots", "shop", digest, "orders", "accepted", "part-0.parquet")
        moment = datetime(2030, 1, 1, tzinfo=UTC)
        return Snapshot("shop", digest, moment, "", "", {"orders": counts}, {"orders": {}}, {"orders": {}})

    assert keep_profile(artifacts, snapshot("a", orders(1))) == []
    assert keep_profile(artifacts, snapshot("b", orders(2, mean=1.0)))[0].startswith("orders: amount: 3")
    kept = kept_profiles(artifacts, "shop", "b")
    assert kept is not None
    assert kept["orders"].rows == 20_000
    assert keep_profile(artifacts, snapshot("b", orders(2, mean=1.0))) == []  # the same snapshot again


def test_files_are_compared_as_they_lie_there(tmp_path: Path) -> None:
    orders(1).write_csv(tmp_path / "a.csv")
    orders(2, mean=2.0).write_parquet(tmp_path / "b.parquet")
    one, other = (explore_files(str(tmp_path), name).profile for name in ("a.csv", "b.parquet"))
    assert [line.split(":")[0] for line in compare(one, other).sentences()] == ["amount"]
