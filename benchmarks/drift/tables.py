"""The tables of docs/monitoring.md that say what was simulated, from benchmarks/results.json.

python benchmarks/drift/tables.py        # writes them into the page
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs" / "monitoring.md", ROOT / "benchmarks" / "results.json"
_RATE, _DELAY = "monitoring.false_alarms_per_month_", "monitoring.delay_h_"
_RIVALS = {
    "evidently": "Evidently",
    "nannyml_univariate": "NannyML, each column",
    "nannyml_multivariate": "NannyML, together",
    "nannyml_performance": "NannyML, performance",
}
_Values = Mapping[str, float]


def measured() -> dict[str, float]:
    figures = json.loads(RESULTS.read_text())["monitoring"]["figures"]
    return {name: figure["value"] for name, figure in figures.items()}


def page_with(text: str, values: _Values) -> str:
    """The page with its tables as the figures have it."""
    for name, table in (("false_alarms", _false_alarms), ("delays", _delays), ("power", _power)):
        begin, end = f"<!-- figures: {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + "\n" + "\n".join(table(values)) + "\n\n" + end + after
    return text


def _false_alarms(values: _Values) -> Iterator[str]:
    yield _row("`monitoring.false_alarms_per_month_…`", "a month (95 %)", *_RIVALS.values())
    yield _row(*["---"] * (2 + len(_RIVALS)))
    for name in values:
        world = name.removeprefix(_RATE).removesuffix("_high")
        if name == f"{_RATE}{world}_high":
            rate, low = values[_RATE + world], values[f"{_RATE}{world}_low"]
            theirs = (values.get(f"{_RATE}{world}_{rival}") for rival in _RIVALS)
            yield _row(f"`{world}`", f"{rate:.2f} ({low:.2f} to {values[name]:.2f})", *map(_rate, theirs))


def _delays(values: _Values) -> Iterator[str]:
    yield _row("`monitoring.delay_h_…`", "hours", "found in six weeks", *_RIVALS.values())
    yield _row(*["---"] * (3 + len(_RIVALS)))
    for name in values:
        fault = name.removeprefix("monitoring.found_")
        if fault != name:
            theirs = (values.get(f"{_DELAY}{fault}_{rival}") for rival in _RIVALS)
            yield _row(f"`{fault}`", _hours(values[_DELAY + fault]), f"{values[name]:.0%}", *map(_hours, theirs))


def _power(values: _Values) -> Iterator[str]:
    yield _row("days differ by, in standard deviations", "best possible test", "found, and named first")
    yield _row("---", "---", "---")
    for deviation, ending in (("0.03", ""), ("0.045", "_days_0.045"), ("0.06", "_days_0.06")):
        bound, power = (values[f"monitoring.{name}{ending}"] for name in ("power_bound", "power"))
        yield _row(deviation, f"{bound:.0%}", f"{power:.0%}")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _hours(value: float | None) -> str:
    return "" if value is None else "never" if value >= 1008 else f"{value:.0f}"


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(), measured()))
