"""Ray's job API as we use it: a job outlives whoever submitted it, and its id is given once."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from mlops_ray.code_version import code_version
from mlops_ray.errors import UnavailableError
from mlops_ray.retraining.launcher import Phase

_CARRIED = ("working_dir", "py_modules", "pip", "uv", "conda")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayJobs:
    """address: of the dashboard."""

    address: str

    def phase(self, submission: str) -> Phase:
        from ray.job_submission import JobStatus

        known = {job.submission_id: job.status for job in self._client().list_jobs() if job.submission_id}
        if submission not in known:
            return "new"
        return "running" if known[submission] in (JobStatus.PENDING, JobStatus.RUNNING) else "ended"

    def submit(self, submission: str, command: Sequence[str]) -> None:
        """Start the command, unless its submission is known. Raises UnavailableError if Ray takes no job."""
        if self.phase(submission) != "new":
            return
        try:
            self._client().submit_job(
                entrypoint=shlex.join(command), submission_id=submission, runtime_env=_own_runtime_env()
            )
        except RuntimeError as error:  # how it says, among other things, that somebody else was faster
            if self.phase(submission) == "new":
                raise UnavailableError(f"Ray takes no job at {self.address}: {error} Retry later.") from error
        _logger.info("Submitted job %s", submission)

    def stop(self, submission: str) -> None:
        self._client().stop_job(submission)

    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(self.address)


def dashboard_url() -> str | None:
    """Where this Ray's job API is; None if it has none."""
    from ray._private.services import get_webui_url_from_internal_kv  # the only way to ask from inside a worker

    url = get_webui_url_from_internal_kv()
    return f"http://{url}" if url else None


def _own_runtime_env() -> dict[str, Any]:
    """The code that this process runs, for a job to run the same."""
    own = dict(ray.get_runtime_context().runtime_env)
    variables = {**own.get("env_vars", {}), **code_version().to_environment()}
    return {name: own[name] for name in _CARRIED if name in own} | {"env_vars": variables}
