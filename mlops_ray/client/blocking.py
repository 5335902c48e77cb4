"""The synchronous client."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import httpx

from mlops_ray.client.approvers import Approvers
from mlops_ray.client.audit import Audit
from mlops_ray.client.data import Data
from mlops_ray.client.deadline import DeadlineBackend
from mlops_ray.client.decisions import Decision, decided
from mlops_ray.client.exchange import Call, Limits, Outcome, Pause, authorization, exchange, on_this_machine
from mlops_ray.client.features import values_pushed
from mlops_ray.client.keys import Keys
from mlops_ray.client.labels import labels_sent
from mlops_ray.client.predictions import Answer, answer_of, batches, columns_asked, question
from mlops_ray.client.records import Records
from mlops_ray.client.rollouts import Rollouts
from mlops_ray.client.steps import Steps, T, only
from mlops_ray.client.subscriptions import Subscriptions
from mlops_ray.client.values import Row, Rows
from mlops_ray.errors import MlopsRayError


class Client:
    """Asks the server at `url` (such as http://127.0.0.1:8000). Usable as a context manager; not across processes."""

    def __init__(
        self,
        url: str,
        timeout_s: float = 15.0,
        attempts: int | None = None,
        deadline_s: float = 30.0,
        api_key: str | None = None,
    ):
        """timeout_s: for one attempt, from connecting to the last byte of the answer. attempts: at most, with growing
        pauses between them; default: as many as there is time for.

        deadline_s: for all attempts and pauses of a request, however slowly an answer comes. api_key: sent as bearer
        token; default from MLOPS_RAY_API_KEY.
        """
        self._limits = Limits(timeout_s, deadline_s, attempts)
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers=authorization(api_key), trust_env=not on_this_machine(url)
        )
        self._network = DeadlineBackend()
        self._network.attach_to(self._http)
        self.rollouts = Rollouts(self._do)
        self.keys = Keys(self._do)
        self.subscriptions = Subscriptions(self._do)
        self.audit = Audit(self._do)
        self.approvers = Approvers(self._do)
        self.data = Data(self._do)
        self.records = Records(self._do)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def columns(self, name: str) -> tuple[str, ...]:
        """The columns that each row of `keys` has, which may be null where the use case says so."""
        return self._do(columns_asked(name))

    def predict(
        self,
        name: str,
        *,
        keys: Rows | None = None,
        features: Rows | None = None,
        as_of: datetime | None = None,
        explain: bool = False,
    ) -> Answer:
        """Predict for one row or many, given by entity keys and event time, or by full feature vectors.

        as_of: the moment as of which features are read, at most the event time minus the lead time; default: when the
        server gets the request. explain: each `Prediction` has its `reasons`, as far as there is time for them.
        Datetimes need a zone. Raises DataError if the server refuses the rows (it names the field), ForbiddenError if
        it does not accept the key, UnavailableError if it does not answer after all attempts or before the deadline. A
        retry keeps the request id, so that the server can tell it from a new request.
        """
        return answer_of(self._carry_out(question(name, keys, features, as_of, explain)))

    def predict_many(
        self,
        name: str,
        *,
        keys: Sequence[Row] | None = None,
        features: Sequence[Row] | None = None,
        as_of: datetime | None = None,
        batch_size: int = 500,
        concurrency: int = 4,
    ) -> list[Answer]:
        """Predict for any number of rows: `batch_size` in a request, `concurrency` requests at a time.

        The answers, and the predictions in them, are in the order of the rows. Raises what `predict` raises, for the
        first batch that fails; batches that were not sent by then are not sent.
        """
        parts = list(batches(keys, features, batch_size))
        with ThreadPoolExecutor(concurrency, thread_name_prefix="predict_many") as pool:
            futures = [pool.submit(self.predict, name, **batch, as_of=as_of) for batch in parts]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def send_labels(self, name: str, labels: Sequence[Row]) -> int:
        """Tell what turned out to be true; returns how many labels were kept.

        Each has `label` (True, False, or None to withdraw what was said) and either `request_id`, with `row` where the
        request had many, or `keys`: entities and event time. `known_at` says since when it is known; default: when the
        server gets it. Of several labels of a prediction the one known last holds, so sending again does no harm. Any
        number are sent, in requests of 1,000 labels of 100 days at most. Raises what `predict` raises.
        """
        return self._do(labels_sent(name, labels))

    def push(self, name: str, view: str, rows: Sequence[Row]) -> int:
        """Send fresh values of a feature view; returns how many keys have them online now.

        Each row has the view's keys and features, and `event_timestamp`: since when the values are known. A value that
        is older than what is online is kept on record and changes nothing there. Any number are sent, in requests of
        1,000 rows. Needs the role operate. Raises what `predict` raises.
        """
        return self._do(values_pushed(name, view, rows))

    def decide(
        self,
        what: Decision,
        name: str,
        version: int,
        reason: str = "",
        digest: str | None = None,
        revision: int | None = None,
        condition: str = "",
        approval: str | None = None,
    ) -> dict[str, Any]:
        """Ask for, give, refuse or take back the approval of a version, do without it, or retire the version for good.

        Who does it is whose key this client has. digest: of the sealed model that was looked at, to refuse another
        one. approval: the id of the request that a verdict is about; default: the newest. revision: of what was live
        when breaking the glass was decided, 0 where nothing ever was; default: what is live now. condition: what
        an approver wants to be kept to; it is recorded and shown. Returns the approval, which waits for others while
        the use case demands more, the retired version, or after breaking the glass what is live. Raises ForbiddenError
        for who may not do this (the author of a version cannot approve it), ConflictError if it cannot be done to what
        stands, and what `predict` raises.
        """
        return self._do(decided(what, name, version, reason, digest, revision, condition, approval))

    def approvals(self) -> list[dict[str, Any]]:
        """Requests and what became of them, the newest first, of the use cases on which this key may see them."""
        return list(self._carry_out(Call("/v2/approvals", method="GET"))["approvals"])

    def inventory(self) -> list[dict[str, Any]]:
        """All use cases that this key may see: owner, tier, purpose, what is live, and when somebody looks at them."""
        return list((self._carry_out(Call("/v2/inventory", method="GET")))["use_cases"])

    def review(self, name: str, reason: str) -> dict[str, Any]:
        """Record that the owner of this key looked at a use case. Needs the role approve there, and a reason."""
        return self._do(only(Call("/v2/inventory/review", {"use_case": name, "reason": reason})))

    def lineage(self, of: str) -> dict[str, Any]:
        """Everything behind an endpoint (flights), a version (flights@7) or a request's id, back to the raw files."""
        return self._do(only(Call("/v2/versions/lineage", {"of": of})))

    def _do(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                try:
                    content = self._carry_out(call)
                except MlopsRayError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(content)
        except StopIteration as done:
            result: T = done.value
            return result

    def _carry_out(self, call: Call) -> Any:
        going = exchange(self._limits, str(self._http.base_url), call.path)
        step = next(going)
        try:
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = going.send(None)
                    continue
                outcome: Outcome
                try:
                    with self._network.within(step.timeout_s):
                        outcome = self._http.request(
                            call.method, call.path, json=call.body, headers=step.headers, timeout=step.timeout_s
                        )
                except httpx.RequestError as error:
                    outcome = error
                step = going.send(outcome)
        except StopIteration as done:
            return done.value
