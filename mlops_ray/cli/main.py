"""The `mlops-ray` command. It calls the same functions as a notebook does."""

import os
import sys
import tempfile
import traceback
from typing import NoReturn

import typer

from mlops_ray.cli.approvals import versions
from mlops_ray.cli.approvers import approvals
from mlops_ray.cli.backup import backup
from mlops_ray.cli.batch import labels, score
from mlops_ray.cli.check import check
from mlops_ray.cli.ci import ci
from mlops_ray.cli.cluster import cluster
from mlops_ray.cli.contract import contract
from mlops_ray.cli.cost import cost
from mlops_ray.cli.data import data
from mlops_ray.cli.doctor import doctor
from mlops_ray.cli.explore import explore
from mlops_ray.cli.features import features
from mlops_ray.cli.governance import audit, keys
from mlops_ray.cli.init import init
from mlops_ray.cli.inventory import inventory, review
from mlops_ray.cli.leaderboard import leaderboard
from mlops_ray.cli.ledger import ledger
from mlops_ray.cli.lineage import lineage, live
from mlops_ray.cli.mcp import mcp
from mlops_ray.cli.monitoring import alarms, drift, monitoring
from mlops_ray.cli.notify import notify
from mlops_ray.cli.promotion import export, import_
from mlops_ray.cli.quarantine import quarantine
from mlops_ray.cli.retraining import retraining
from mlops_ray.cli.rollout import rollout
from mlops_ray.cli.run import run
from mlops_ray.cli.schedule import schedule
from mlops_ray.cli.serve import predict, serve
from mlops_ray.cli.upgrade import upgrade
from mlops_ray.errors import MlopsRayError
from mlops_ray.operations.preconditions import keep_loopback_from_proxies
from mlops_ray.quiet import QUIET
from mlops_ray.state_folder import keep_closed
from mlops_ray.use_case.user_code import fault_of_user

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for command in (init, check, doctor, run, serve, predict, score, lineage, live, drift, inventory, review, upgrade, mcp):
    app.command()(command)
versions.command()(leaderboard)
versions.command("export")(export)
versions.command("import")(import_)
app.add_typer(explore, name="explore")
app.add_typer(features, name="features")
app.add_typer(data, name="data")
app.add_typer(quarantine, name="quarantine")
app.add_typer(contract, name="contract")
app.add_typer(labels, name="labels")
app.add_typer(ledger, name="ledger")
app.add_typer(versions, name="versions")
app.add_typer(approvals, name="approvals")
app.add_typer(rollout, name="rollout")
app.add_typer(alarms, name="alarms")
app.add_typer(monitoring, name="monitoring")
app.add_typer(retraining, name="retraining")
app.add_typer(schedule, name="schedule")
app.add_typer(cost, name="cost")
app.add_typer(keys, name="keys")
app.add_typer(audit, name="audit")
app.add_typer(notify, name="notify")
app.add_typer(ci, name="ci")
app.add_typer(cluster, name="cluster")
app.add_typer(backup, name="backup")


def main() -> None:
    """Run the command. Errors that a user can act on are one sentence on standard error and exit code 1."""
    os.environ |= QUIET | os.environ  # before anything imports Ray, which reads them once
    keep_closed()
    keep_loopback_from_proxies(os.environ)
    try:
        app(standalone_mode=True)
    except MlopsRayError as error:
        _refuse(str(getattr(error, "cause", error)))  # Ray's copy of an error is the traceback of its task
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if isinstance(cause := getattr(error, "cause", None), MlopsRayError):
            _refuse(str(cause))
        if fault := fault_of_user(error):
            _refuse(f"the use case raised {fault}")
        with tempfile.NamedTemporaryFile("w", prefix="mlops-ray-", suffix=".traceback", delete=False) as report:
            traceback.print_exc(file=report)
        text = f"{type(error).__name__}: {str(error).splitlines()[-1] if str(error) else ''}"
        typer.secho(
            f"internal error: {text}\nThis is our fault; please report it with {report.name}.", fg="red", err=True
        )
        sys.exit(70)


def _refuse(sentence: str) -> NoReturn:
    typer.secho(f"error: {sentence}", fg="red", err=True)
    sys.exit(1)
