"""The state of a rollout, as a notebook shows it."""

from collections.abc import Mapping
from html import escape
from typing import Any

from mlops_ray.show.document import table
from mlops_ray.show.shown import Shown
from mlops_ray.show.text import columns, printable

_HEADS = ("step", "route", "share", "holds")


class RolloutState(Shown):
    """What is live, and how far a new version has come. `content`: as the server tells it (docs/rollout.md)."""

    def __init__(self, name: str, content: Mapping[str, Any]):
        self.name, self.content = name, content

    @property
    def champion(self) -> int:
        """The version that answers."""
        return int(self.content["champion"]["version"])

    @property
    def coming(self) -> int | None:
        """The version that comes in; None while no rollout runs."""
        running = self.content["rollout"]
        return int(running["version"]["version"]) if running else None

    @property
    def title(self) -> str:
        return f"{self.name}: what is live"

    def _said(self) -> list[str]:
        content = self.content
        said = [f"Version {self.champion} is champion since {content['champion_since']}."]
        if content["previous"]:
            said.append(f"Before it, version {content['previous']['version']}.")
        if self.coming is None:
            return [*said, "No rollout runs."]
        counted = ", ".join(f"{name} {value}" for name, value in (content["progress"] or {}).items())
        return [
            *said,
            f"Version {self.coming} comes in ({content['rollout']['state']}). Counted: {counted or 'nothing'}.",
        ]

    def _steps(self) -> list[tuple[str, ...]]:
        running = self.content["rollout"]
        if not running:
            return []
        at = running["step"] if running["state"] == "running" else -1
        return [
            ("→" if number == at else "", str(one["route"]), f"{one['share']:.0%}", f"{one['hold_s']:g} s")
            for number, one in enumerate(running["plan"]["steps"])
        ]

    def _html(self) -> str:
        said = "".join(f"<p>{escape(one)}</p>" for one in self._said())
        steps = [tuple(map(escape, one)) for one in self._steps()]
        return f"<h1>{escape(self.title)}</h1>{said}{table(_HEADS, steps) if steps else ''}"

    def _text(self) -> str:
        steps = self._steps()
        return "\n".join([*map(printable, self._said()), *([columns(_HEADS, steps)] if steps else [])])
