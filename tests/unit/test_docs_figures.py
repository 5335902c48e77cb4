"""What the documentation says was simulated is what the benchmark has measured."""

import re

from benchmarks.drift.tables import PAGE, measured, page_with
from benchmarks.report import page as report

RATE_HIGH = r"monitoring\.false_alarms_per_month_.*_high"


def test_tables_of_monitoring_are_the_figures_of_the_benchmark() -> None:
    text = PAGE.read_text()
    assert page_with(text, measured()) == text, "Run `python benchmarks/drift/tables.py` after the benchmark."


def test_the_page_of_what_was_measured_is_of_the_last_benchmarks() -> None:
    written = report.PAGE.read_text()
    assert report.page(report.measured()) == written, "Run `python benchmarks/report/page.py` after the benchmark."


def test_a_figure_that_a_table_names_is_the_one_that_was_measured() -> None:
    """To the last digit that is written."""
    rows = [
        (page.name, *row)
        for page in report.PAGE.parent.rglob("*.md")
        for row in re.findall(r"^\| `([a-z_]+\.\w+)` \|.*\| (-?[\d.,]+) \|$", page.read_text(), re.MULTILINE)
    ]
    figures = {name: one for area in report.measured().values() for name, one in area["figures"].items()}
    known = [
        (page, name, said.replace(",", ""), figures[name]["value"]) for page, name, said in rows if name in figures
    ]
    assert len(known) >= 6
    wrong = [one for one in known if abs(float(one[2]) - one[3]) > 0.501 * 10.0 ** -len(one[2].partition(".")[2])]
    assert not wrong, "Type what the last benchmark measured."


def test_no_world_breaks_the_promise() -> None:
    """At most one false alarm a month: not even the upper end of an interval is above it."""
    upper = {name: figure["value"] for name, figure in measured().items() if re.fullmatch(RATE_HIGH, name)}
    assert upper
    assert not {name: value for name, value in upper.items() if value > 1}
