"""The tables of docs/monitoring.md that say what was simulated, from benchmarks/results.json.

python benchmarks/drift/tables.py        # writes them into the page
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs" / "monitoring.md", ROOT / "benchmarks" / "results.json"
_RATE, _DELAY = "monitoring.false_alarms_per_month_", "monitoring.delay_h_"
_RIVALS = {
    "evidently": "Evidently",
    "nannyml_univariate": "NannyML, each column",
    "nannyml_multivariate": "NannyML, together",
    "nannyml_performance": "NannyML, performance",
}
_ON_FLIGHTS = {
    "false_alarm_rate_held_out": "windows of September to December that drift, by a reference of January to August",
    "false_alarm_rate_held_out_stated": "as the model states",
    "false_alarm_rate_held_out_stated_high": "as the model states at most",
    "held_out_distance_plane_seats": "how far `plane_seats` of September to December is from January to August",
    "held_out_distance_plane_seats_dealt": "the same at most with the weeks of the year dealt out by chance",
    "held_out_chance_plane_seats": "how often those are as far apart",
    "held_out_chance_visib": "the same of `visib`",
    "false_alarm_rate_held_out_unmoved": "windows that drift in a column that has not moved, by that test",
    "false_alarm_rate": "windows that drift, from stretches between those of the reference",
    "false_alarm_rate_stated": "as that model states",
    "power_flights": "shifts of 0.2 deviations that are found, over all numbers",
    "power_flights_clear": "over those in which such a shift is more than what windows differ by anyway",
    "estimated_auc_mae": "estimated from true ROC AUC of a week, before its labels came",
    "estimated_auc_coverage": "weeks whose true ROC AUC is within the 95 % interval of the estimate",
    "estimated_auc_mae_delayed": "the estimate, with labels of late flights after three days and others after an hour",
    "estimated_auc_coverage_delayed": "weeks within its interval then",
    "early_labels_auc_mae": "instead of the estimate, the ROC AUC of the labels that have come by the end of the week",
    "concept_alarms_flipped_0.0": "weeks with concept drift, as labels are",
    "concept_alarms_flipped_0.1": "with a tenth of the labels flipped",
    "concept_alarms_flipped_0.2": "with a fifth of the labels flipped",
}
Figures = Mapping[str, Mapping[str, Any]]
_Values = Mapping[str, float]


def measured() -> Figures:
    """By name, `value` and `unit`."""
    figures: Figures = json.loads(RESULTS.read_text())["monitoring"]["figures"]
    return figures


def page_with(text: str, figures: Figures) -> str:
    """The page with its tables as the figures have it."""
    values = {name: figure["value"] for name, figure in figures.items()}
    months = {name: figure["unit"] for name, figure in figures.items() if name.startswith(_RATE)}
    tables = {
        "false_alarms": _false_alarms(values, months),
        "delays": _delays(values),
        "power": _power(values),
        "flights": _flights(figures),
    }
    for name, table in tables.items():
        begin, end = f"<!-- figures: {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + "\n" + "\n".join(table) + "\n\n" + end + after
    return text


def _false_alarms(values: _Values, months: Mapping[str, str]) -> Iterator[str]:
    rivals = _rivals(values, _RATE)
    yield _row(
        "`monitoring.false_alarms_per_month_…`", "a month (95 %)", "simulated", *(_RIVALS[one] for one in rivals)
    )
    yield _row(*["---"] * (3 + len(rivals)))
    for name in values:
        world = name.removeprefix(_RATE).removesuffix("_high")
        if name == f"{_RATE}{world}_high":
            rate, low = values[_RATE + world], values[f"{_RATE}{world}_low"]
            theirs = (values.get(f"{_RATE}{world}_{rival}") for rival in rivals)
            simulated = months[_RATE + world].removeprefix("of ")
            yield _row(f"`{world}`", f"{rate:.2f} ({low:.2f} to {values[name]:.2f})", simulated, *map(_rate, theirs))


def _delays(values: _Values) -> Iterator[str]:
    rivals = _rivals(values, _DELAY)
    yield _row("`monitoring.delay_h_…`", "hours", "found in six weeks", *(_RIVALS[one] for one in rivals))
    yield _row(*["---"] * (3 + len(rivals)))
    for name in values:
        fault = name.removeprefix("monitoring.found_")
        if fault != name:
            theirs = (values.get(f"{_DELAY}{fault}_{rival}") for rival in rivals)
            yield _row(f"`{fault}`", _hours(values[_DELAY + fault]), _percent(values[name]), *map(_hours, theirs))


def _power(values: _Values) -> Iterator[str]:
    yield _row("days differ by, in standard deviations", "best possible test", "found, and named first")
    yield _row("---", "---", "---")
    for deviation, ending in (("0.03", ""), ("0.045", "_days_0.045"), ("0.06", "_days_0.06")):
        bound, power = (values.get(f"monitoring.{name}{ending}") for name in ("power_bound", "power"))
        if bound is not None and power is not None:
            yield _row(deviation, _percent(bound), _percent(power))


def _flights(figures: Figures) -> Iterator[str]:
    """Each with the unit that the benchmark gives it, which says of how many windows."""
    yield _row("`monitoring.…`", "flights", "measured")
    yield _row("---", "---", "---")
    for name, words in _ON_FLIGHTS.items():
        figure = figures.get(f"monitoring.{name}")
        if figure is not None:
            value, of = figure["value"], figure["unit"]
            plain = "AUC" in of or "distance" in name
            yield _row(f"`{name}`", words, f"{value:.3f} {of}" if plain else f"{_percent(value)} {of}")


def _rivals(values: _Values, prefix: str) -> list[str]:
    """Those that have been asked."""
    return [rival for rival in _RIVALS if any(n.startswith(prefix) and n.endswith(f"_{rival}") for n in values)]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _hours(value: float | None) -> str:
    return "" if value is None else "never" if value >= 1008 else f"{value:.0f}"


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(), measured()))
