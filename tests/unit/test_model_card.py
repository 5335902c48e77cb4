"""The model card: everything on one page, from the records, with nothing in them that could act."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.evaluation.gates import Measured, judge
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.versions import Evidence, record_version
from mlops_ray.registry.lineage import write_lineage
from mlops_ray.registry.model_card import html_card, markdown_card, plain_card
from mlops_ray.registry.trace import Trace, trace
from mlops_ray.tasks.binary import BINARY
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage
from mlops_ray.use_case import Threshold
from tests.unit.test_gates import EVALUATION

SLICES = {
    "judged": [{"column": "origin", "value": "JFK", "evaluation": {
        "rows": 300, "roc_auc": {"value": 0.71, "low": 0.66, "high": 0.75}}}],
    "left_out": [["origin=LGA", 12]],
}  # fmt: skip

KEPT = {"log_loss": 0.47, "calibration_error": 0.02, "calibration_error_debiased": 0.0123}
BINS = [{"rows": 30, "probability": 0.125, "observed": 0.25}]
CALIBRATION = {
    "method": "platt", "slope": 1.25, "shifts": [-0.5],
    "validation": {"before": KEPT},
    "test": {"before": KEPT, "after": KEPT | {"log_loss": 0.4649, "reliability": BINS}},
}  # fmt: skip
REASONS = {
    "importance": {"measure": "log loss", "features": {"hour": 0.3}, "intervals": {"hour": [0.2, 0.4]}},
    "dependence": {"hour": {"kind": "number", "values": [6.0, 21.0], "curves": {
        "": {"mean": [0.125, 0.375], "low": [0.1, 0.3], "high": [0.2, 0.4]}}}},
}  # fmt: skip


@pytest.fixture
def found(tmp_path: Path, store: ControlStore) -> Trace:
    settings = Settings(state=str(tmp_path), data=str(tmp_path))
    lineage = example_lineage()
    lineage = example_lineage(
        purpose="<script>alert(1)</script> | *late*?",
        evaluation={
            **lineage.evaluation,
            "slices": SLICES,
            "calibration": CALIBRATION,
            "usual": {"temp": 57.02, "visib": 10.0},
            **REASONS,
        },
    )
    record = write_lineage(Artifacts(settings.artifacts), lineage)
    results = judge((Threshold("roc_auc", 0.99, blocks=False),), Measured(BINARY, EVALUATION), datetime.now(UTC))
    made = record_version(store, AUTHOR, "flights", 1, Evidence(lineage.digest, "e"), results, {"lineage": record})
    set_champion(store, AUTHOR, "flights", made.ref, "")
    return trace(settings, "flights@1")


def test_the_card_tells_everything_in_both_forms(found: Trace) -> None:
    parts = ["Metrics", "0.7500", "0.7200 to 0.7800", "Slices", "origin = JFK", "0.7100", "1 slices have too few rows"]
    parts += ["Calibration", "multiplied by 1.2500 and moved by -0.5000 (platt)", "0.4649", "0.0123"]
    parts += ["0.125 came true in 0.250"]
    parts += ["Importance of features", "0.2 to 0.4", "Answers by hour", "0.375", "0.3 to 0.4"]
    parts += ["Limits", "not audited", "Gates", f"roc_auc is {EVALUATION['roc_auc'].value:.4f} (at least 0.99"]
    parts += ["taken where missing", "temp 57.02, visib 10"]
    parts += ["No approval was asked for", "Deployments", "champion", "Lineage", f"{1:064x}"]
    parts += ["operations@example.org", "quarantined", "3 trials by roc_auc", "flights_2013-01.csv"]
    markdown, html = markdown_card(found).replace("\\", ""), html_card(found)
    for part in parts:
        assert part in markdown
        assert part in html


def test_a_use_case_in_no_repository_is_not_said_to_differ_from_a_commit(found: Trace) -> None:
    nowhere = replace(found, lineage=replace(found.lineage, code_version="unknown", code_dirty=True))
    card = markdown_card(nowhere)
    assert "It was made by code that lay in no repository; only a digest" in card
    assert "| commit | unknown, as the use case lay in no repository |" in card


def test_texts_of_a_use_case_are_shown_and_not_run(found: Trace) -> None:
    assert "<script>" not in html_card(found)
    assert r"\<script\>alert(1)\</script\> \| \*late\*?" in markdown_card(found)


def test_the_page_loads_nothing_from_elsewhere(found: Trace) -> None:
    assert not re.search(r"(src|href|url\(|@import|<script|<link|<img)", html_card(found))


def test_what_features_do_is_drawn_beside_its_table(found: Trace) -> None:
    assert html_card(found).count("<svg ") == 2
    assert "<svg" not in markdown_card(found)
    assert "charts" not in plain_card(found)["sections"][0]


def test_tables_have_as_many_cells_in_each_row(found: Trace) -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", markdown_card(found), re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
