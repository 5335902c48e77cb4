"""What a version must pass before it goes live, and who must agree."""

from collections.abc import Iterator

from mlops_ray.use_case import BetterThanBaseline, NoSliceWorse, NoVulnerability, OnnxParity, UseCase


def gate_parity(case: UseCase) -> Iterator[str]:
    """No version goes live whose export answers otherwise than the trained model."""
    yield from _missing(case, OnnxParity, "OnnxParity()")


def gate_baseline(case: UseCase) -> Iterator[str]:
    """No version goes live that is no better than no model."""
    yield from _missing(case, BetterThanBaseline, f"BetterThanBaseline({case.metric!r})")


def gate_slice(case: UseCase) -> Iterator[str]:
    """No version goes live that is too bad for some of those that it is about."""
    yield from _missing(case, NoSliceWorse, f"NoSliceWorse({case.metric!r}, …), with slices=(…)")


def gate_vulnerability(case: UseCase) -> Iterator[str]:
    """No version goes live that is known to be vulnerable."""
    yield from _missing(case, NoVulnerability, "NoVulnerability()")


def approval(case: UseCase) -> Iterator[str]:
    """No version goes live without somebody else's yes."""
    if case.approval is None or not case.approval.required:
        yield "a version goes live without anybody's yes. Say who has to agree: approval=Approval()."
    elif not case.approval.four_eyes:
        yield "who trained a version may agree to it alone. Take four_eyes=False away."


def signed_models(case: UseCase) -> Iterator[str]:
    """No model is loaded whose signature is missing or wrong."""
    if case.approval is None or not case.approval.signed:
        yield "its models need no signature. Ask for one: approval=Approval(signed=True)."


def _missing(case: UseCase, gate: type, example: str) -> Iterator[str]:
    found = [one for one in case.gates if isinstance(one, gate)]
    if not found:
        yield f"it has no gate {gate.__name__}. Add {example} to gates."
    elif not any(one.blocks for one in found):
        yield f"its gate {gate.__name__} is only recorded. Take blocks=False away."
