"""Plan: how a version comes in, step by step, and the rules by which it goes out again."""

from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta

from mlops_ray.errors import ConfigurationError

Route = Literal["shadow", "canary"]
MAX_HOLD_S = 31_536_000


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a rollout: the share of requests that the version sees, held for at least `hold_s`.

    `shadow` copies requests after they were answered, `canary` answers them.
    """

    route: Route
    share: Annotated[float, Meta(gt=0, le=1)]
    hold_s: Annotated[float, Meta(ge=0, le=MAX_HOLD_S)]


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a rollout goes back by itself. Rates and ratios compare the version with the champion over one step.

    min_requests: with fewer, a step neither ends nor is judged, except on errors. max_error_rate: the share of the
    version's requests that may fail. max_latency_ratio: of the medians. max_disagreement: how far, on
    average, answers in shadow are apart: probabilities by their difference, numbers by it over 1 + |the champion's|;
    None does not judge it.
    """

    min_requests: Annotated[int, Meta(ge=0)] = 100
    max_error_rate: Annotated[float, Meta(ge=0, le=1)] = 0.01
    max_latency_ratio: Annotated[float, Meta(gt=0)] = 3.0
    max_disagreement: Annotated[float, Meta(ge=0)] | None = None


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a version comes in.

    `sticky`: the request column whose value decides who gets the canary; by default the request id does. Without
    `automatic` the last step holds until somebody promotes. Without steps the version is promoted once it is loaded.
    """

    steps: tuple[Step, ...] = (
        Step("shadow", 1.0, 300),
        Step("canary", 0.05, 300),
        Step("canary", 0.25, 300),
        Step("canary", 0.5, 300),
    )
    rules: Rules = Rules()
    sticky: str | None = None
    automatic: bool = True

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ConfigurationError naming what is unknown or out of range."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"The rollout plan is not understood: {error}.") from None

    def to_json(self) -> Any:
        return msgspec.to_builtins(self)
