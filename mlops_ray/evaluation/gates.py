"""Gates: the rules of a use case that a version must pass, and what each of them found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mlops_ray.evaluation.comparison import Comparison
from mlops_ray.evaluation.metrics import Estimate, Evaluation
from mlops_ray.evaluation.slices import SliceEvaluation
from mlops_ray.use_case import (
    LOWER_IS_BETTER,
    BetterThanChampion,
    Fairness,
    Gate,
    Latency,
    NoSliceWorse,
    NoVulnerability,
    OnnxParity,
    Threshold,
)

Severity = Literal["unknown", "low", "medium", "high", "critical"]
_SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")


@dataclass(frozen=True)
class Finding:
    """One advisory that affects the version: id as published, and the package or file that it is about."""

    advisory: str
    subject: str
    severity: Severity
    where: Literal["artifact", "environment"]


@dataclass(frozen=True)
class Measured:
    """What is known of a version when its gates are judged; None where it was not measured.

    slices: those with enough rows. comparisons: with the champion, by metric; None where there is no champion.
    findings: of the vulnerability scan, empty for a clean one.
    """

    evaluation: Evaluation
    slices: Sequence[SliceEvaluation] = ()
    comparisons: Mapping[str, Comparison] | None = None
    onnx_max_difference: float | None = None
    latency_ms: float | None = None
    findings: Sequence[Finding] | None = None


@dataclass(frozen=True)
class GateResult:
    """value: what was found, limit: what was asked for, sentence: both, for people. blocks: a failure matters."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    sentence: str
    blocks: bool = True


def judge(gates: Iterable[Gate], measured: Measured, now: datetime) -> tuple[GateResult, ...]:
    """The result of each gate, in their order. A gate whose value was not measured fails.

    now: the moment for which waivers count.
    """
    return tuple(_judge(gate, measured, now) for gate in gates)


def _judge(gate: Gate, measured: Measured, now: datetime) -> GateResult:
    match gate:
        case Threshold():
            return _threshold(gate, measured)
        case NoSliceWorse():
            return _no_slice_worse(gate, measured)
        case BetterThanChampion():
            return _better_than_champion(gate, measured)
        case OnnxParity():
            what = "The exported model's largest difference from the trained one"
            return _at_most("onnx parity", gate, measured.onnx_max_difference, gate.limit, what, "")
        case Latency():
            what = "The median time for one row"
            return _at_most("latency", gate, measured.latency_ms, gate.limit_ms, what, " ms")
        case Fairness():
            return _fairness(gate, measured)
        case NoVulnerability():
            return _no_vulnerability(gate, measured, now)


def _threshold(gate: Threshold, measured: Measured) -> GateResult:
    value, lower = getattr(measured.evaluation, gate.metric).value, gate.metric in LOWER_IS_BETTER
    passed = value <= gate.limit if lower else value >= gate.limit
    sentence = f"{gate.metric} is {value:.4f} ({'at most' if lower else 'at least'} {gate.limit:g} is asked for)."
    return GateResult(f"{gate.metric} on the test period", passed, value, gate.limit, sentence, gate.blocks)


def _no_slice_worse(gate: NoSliceWorse, measured: Measured) -> GateResult:
    name = f"{gate.metric} of every slice"
    if not measured.slices:
        return GateResult(name, False, None, gate.limit, "No slice has enough rows to be judged.", gate.blocks)
    lower = gate.metric in LOWER_IS_BETTER
    at_best = {one: _at_best(getattr(one.evaluation, gate.metric), lower) for one in measured.slices}
    worst = (max if lower else min)(at_best, key=lambda one: at_best[one])
    value = getattr(worst.evaluation, gate.metric).value
    passed = at_best[worst] <= gate.limit if lower else at_best[worst] >= gate.limit
    sentence = (
        f"The worst of {len(at_best)} slices is {worst.column}={worst.value}: {gate.metric} is {value:.4f}, with 95 % "
        f"certainty no better than {at_best[worst]:.4f} ({'at most' if lower else 'at least'} {gate.limit:g} is asked "
        f"for)."
    )
    return GateResult(name, passed, value, gate.limit, sentence, gate.blocks)


def _at_best(estimate: Estimate, lower: bool) -> float:
    """The better end of the interval: of many small slices some look bad by chance."""
    end = estimate.low if lower else estimate.high
    return estimate.value if end is None else end


def _better_than_champion(gate: BetterThanChampion, measured: Measured) -> GateResult:
    name = f"{gate.metric} against the champion"
    if measured.comparisons is None:
        return GateResult(name, True, None, gate.margin, "There is no champion to compare with.", gate.blocks)
    found = measured.comparisons.get(gate.metric)
    if found is None:
        return GateResult(name, False, None, gate.margin, "The champion was not asked about these rows.", gate.blocks)
    difference = found.difference
    values = f"{gate.metric} is {found.challenger:.4f}, the champion's {found.champion:.4f} on the same rows: "
    if difference.low is None:
        sentence = f"{values}one day of them leaves no way to tell chance from difference."
        return GateResult(name, False, difference.value, gate.margin, sentence, gate.blocks)
    sentence = (
        f"{values}the difference is {difference.low:+.4f} to {difference.high:+.4f} with 95 % certainty (above "
        f"{gate.margin:+g} is asked for)."
    )
    return GateResult(name, difference.low > gate.margin, difference.low, gate.margin, sentence, gate.blocks)


def _at_most(
    name: str, gate: OnnxParity | Latency, value: float | None, limit: float, what: str, unit: str
) -> GateResult:
    if value is None:
        return GateResult(name, False, None, limit, f"{what} was not measured.", gate.blocks)
    sentence = f"{what} is {value:.3g}{unit} (at most {limit:g}{unit} is asked for)."
    return GateResult(name, value <= limit, value, limit, sentence, gate.blocks)


def _fairness(gate: Fairness, measured: Measured) -> GateResult:
    name = f"{gate.measure} between values of {gate.column}"
    rates = {one.value: getattr(one, gate.measure) for one in measured.slices if one.column == gate.column}
    if len(rates) < 2:
        sentence = f"{len(rates)} values of {gate.column} have enough rows; two are needed to compare."
        return GateResult(name, False, None, gate.limit, sentence, gate.blocks)
    low, high = min(rates, key=lambda at: rates[at]), max(rates, key=lambda at: rates[at])
    difference = rates[high] - rates[low]
    sentence = (
        f"{gate.measure} is {rates[low]:.3f} for {gate.column}={low} and {rates[high]:.3f} for {high}: a difference of "
        f"{difference:.3f} (at most {gate.limit:g} is asked for)."
    )
    return GateResult(name, difference <= gate.limit, difference, gate.limit, sentence, gate.blocks)


def _no_vulnerability(gate: NoVulnerability, measured: Measured, now: datetime) -> GateResult:
    name = "vulnerabilities"
    if measured.findings is None:
        return GateResult(name, False, None, 0, "No scan for vulnerabilities was made.", gate.blocks)
    waived = {waiver.advisory for waiver in gate.waivers if now < waiver.until}
    counting = [f for f in measured.findings if f.advisory not in waived and _counts(f, gate)]
    others = len(measured.findings) - len(counting)
    if not counting:
        return GateResult(name, True, 0, 0, f"No vulnerability that counts ({others} others or waived).", gate.blocks)
    shown = ", ".join(f"{f.advisory} ({f.severity}) in {f.subject}" for f in counting[:5])
    more = f" and {len(counting) - 5} more" if len(counting) > 5 else ""
    return GateResult(name, False, len(counting), 0, f"Vulnerable: {shown}{more}.", gate.blocks)


def _counts(finding: Finding, gate: NoVulnerability) -> bool:
    if finding.where == "artifact":
        return True
    if gate.environment_from is None:
        return False
    if finding.severity == "unknown":
        return True
    return _SEVERITIES.index(finding.severity) >= _SEVERITIES.index(gate.environment_from)
