"""A version: its card, beside the champion's, and the decision about it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mlops_ray.config import Settings
from mlops_ray.console.cost import chart, made_for
from mlops_ray.console.duties import of_approval
from mlops_ray.console.page import LARGEST, Refused, Viewer, in_thread, page
from mlops_ray.console.rendering import made_elsewhere
from mlops_ray.console.server import Answer, Server
from mlops_ray.errors import ConfigurationError, MlopsRayError
from mlops_ray.governance.approvals import asked_for
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.delegations import may_decide_for_others
from mlops_ray.governance.live import read_live
from mlops_ray.governance.policies import policy_of
from mlops_ray.governance.versions import expect
from mlops_ray.registry.model_card import card_charts, plain_card
from mlops_ray.registry.trace import Trace, trace
from mlops_ray.registry.trace_page import lineage_graph
from mlops_ray.tasks.evaluation import metric_words

MAX_TRIALS = 30
FIRST = ("Metrics", "Slices", "Limits", "Gates")
VERDICTS = {"approve": "/approvals/approve", "reject": "/approvals/reject"}


class VersionPages:
    """server: which takes the decision."""

    def __init__(self, settings: Settings, store: ControlStore, server: Server, threads: ThreadPoolExecutor):
        self._settings, self._store, self._server, self._threads = settings, store, server, threads

    async def show(self, request: Request, viewer: Viewer) -> Response:
        return await self._shown(viewer, request.path_params["use_case"], request.path_params["version"])

    async def decide(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        """Approve or reject exactly the bytes that the viewer's page was about. Of two who decide at once the second
        is shown the first one's verdict, with what they wrote themselves kept."""
        use_case, version = request.path_params["use_case"], request.path_params["version"]
        viewer.expect_look(use_case)
        path = VERDICTS.get(form.get("verdict", ""))
        if path is None:
            raise Refused(400, "A version is approved or rejected.")
        body = {"model": use_case, "version": version, "reason": form.get("reason", "")}
        body |= {"digest": form.get("digest", ""), "condition": form.get("condition", "")}
        body |= {"approval": form.get("approval") or None}
        answer = await self._server.ask(viewer.principal, "POST", path, body)
        if answer.status >= 400:
            return await self._shown(viewer, use_case, version, answer, form)
        return RedirectResponse(f"/console/use-cases/{use_case}/versions/{version}#decision", 303)

    async def _shown(
        self,
        viewer: Viewer,
        use_case: str,
        version: int,
        refusal: Answer | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Response:
        viewer.expect_look(use_case)
        return await in_thread(self._threads, partial(self._made, viewer, use_case, version, refusal, form or {}))

    def _made(
        self, viewer: Viewer, use_case: str, version: int, refusal: Answer | None, form: Mapping[str, str]
    ) -> Response:
        values = version_values(self._settings, self._store, viewer, use_case, version)
        status, error = (refusal.status, refusal.error) if refusal else (200, "")
        return page("version", viewer, status, **values, error=error, form=form)


def version_values(
    settings: Settings, store: ControlStore, viewer: Viewer, use_case: str, version: int
) -> dict[str, Any]:
    """Raises Refused where there is no such version. Where its record is damaged the page says so, and has the rest."""
    if not 0 < version <= LARGEST:
        raise Refused(404, f"{use_case} has no version {version}.")
    with store.reading() as connection:
        try:
            registered = expect(connection, use_case, version)
        except ConfigurationError as error:
            raise Refused(404, str(error)) from None
        asked = asked_for(connection, use_case, registered.ref)
        policy, champion = policy_of(connection, use_case), read_live(connection, use_case).champion
    duty = of_approval(asked[0], policy, viewer) if asked and asked[0].state == "requested" else None
    stands_in = duty is not None and may_decide_for_others(store, viewer.principal.actor(use_case), use_case)
    card, damaged = _card(settings, f"{use_case}@{version}")
    trials = card.lineage.search.get("leaderboard", []) if card else []
    other = None
    if champion is not None and champion.version != version:
        other, _ = _card(settings, f"{use_case}@{champion.version}")
    return {
        "registered": registered,
        "asked": asked,
        "duty": duty,
        "decides": duty is not None and (viewer.may(policy.role, use_case) or stands_in),
        "champion": champion,
        "card": card and _as_decided(plain_card(card)),
        "damaged": damaged,
        "chain": _chain(card) if card else [],
        "graph": made_elsewhere(lineage_graph(card)) if card else "",
        "charts": {name: made_elsewhere("".join(drawn)) for name, drawn in card_charts(card).items()} if card else {},
        "leaderboard": trials[:MAX_TRIALS],
        "trials_left_out": max(0, len(trials) - MAX_TRIALS),
        "metric": metric_words(card.lineage.metric) if card else "",
        "made": (made := made_for(store, use_case, version, card.lineage.step_keys) if card else None),
        "cost_chart": chart(made.steps) if made else "",
        "beside": _beside(card, other) if card and other else [],
    }


def _card(settings: Settings, name: str) -> tuple[Trace | None, str]:
    """What the card is made from, or why there is none."""
    try:
        return trace(settings, name), ""
    except MlopsRayError as error:
        return None, type(error).__name__


def _as_decided(card: dict[str, Any]) -> dict[str, Any]:
    """What a decision is about first, the rest in its order."""
    return card | {"sections": sorted(card["sections"], key=lambda part: part["heading"] not in FIRST)}


def _beside(ours: Trace, theirs: Trace) -> list[Sequence[str]]:
    """Rows of metric, value and interval here, and the champion's, as both cards print them."""
    found, champion = _metrics(ours), _metrics(theirs)
    return [
        [*row[:3], *(champion[name][1:3] if name in champion else ("", "")), *row[3:]] for name, row in found.items()
    ]


def _metrics(found: Trace) -> dict[str, Sequence[str]]:
    sections = {part["heading"]: part["rows"] for part in plain_card(found)["sections"]}
    return {row[0]: row for row in sections.get("Metrics", ())}


def _chain(found: Trace) -> list[tuple[str, str]]:
    """From raw files to the version: what each link is, and which."""
    made_from = found.lineage
    files = sum(map(len, made_from.source_files.values()))
    return [
        (f"{files:,} raw files", ", ".join(made_from.source_files)),
        ("snapshot", made_from.snapshot[:16]),
        (f"training set of {made_from.training_rows:,} rows", made_from.training_set[:16]),
        (f"search of {len(made_from.trials):,} trials", made_from.candidate),
        ("sealed model", made_from.digest[:16]),
        ("registered", f"{found.use_case}@{found.version}"),
    ]
