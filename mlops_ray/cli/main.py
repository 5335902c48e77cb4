"""The `mlops-ray` command. It calls the same functions as a notebook does."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
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
from mlops_ray.extras import missing_extra
from mlops_ray.operations.preconditions import keep_loopback_from_proxies
from mlops_ray.quiet import QUIET
from mlops_ray.state_folder import keep_closed
from mlops_ray.use_case.user_code import fault_of_user

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
command: Callable[..., None]
for command in (init, check, doctor):
    app.command(rich_help_panel="Begin")(command)
for command in (run,):
    app.command(rich_help_panel="From data to a model")(command)
app.add_typer(explore, name="explore", rich_help_panel="From data to a model")
app.add_typer(contract, name="contract", rich_help_panel="From data to a model")
app.add_typer(data, name="data", rich_help_panel="From data to a model")
app.add_typer(quarantine, name="quarantine", rich_help_panel="From data to a model")
app.add_typer(features, name="features", rich_help_panel="From data to a model")
for command in (serve, predict, score, live):
    app.command(rich_help_panel="Serve and ask")(command)
app.add_typer(ledger, name="ledger", rich_help_panel="Serve and ask")
app.add_typer(labels, name="labels", rich_help_panel="Serve and ask")
versions.command()(leaderboard)
versions.command("export")(export)
versions.command("import")(import_)
for command in (lineage, inventory, review):
    app.command(rich_help_panel="Govern")(command)
app.add_typer(versions, name="versions", rich_help_panel="Govern")
app.add_typer(approvals, name="approvals", rich_help_panel="Govern")
app.add_typer(rollout, name="rollout", rich_help_panel="Govern")
app.add_typer(keys, name="keys", rich_help_panel="Govern")
app.add_typer(audit, name="audit", rich_help_panel="Govern")
for command in (drift,):
    app.command(rich_help_panel="Watch and retrain")(command)
app.add_typer(alarms, name="alarms", rich_help_panel="Watch and retrain")
app.add_typer(monitoring, name="monitoring", rich_help_panel="Watch and retrain")
app.add_typer(retraining, name="retraining", rich_help_panel="Watch and retrain")
app.add_typer(schedule, name="schedule", rich_help_panel="Watch and retrain")
app.add_typer(notify, name="notify", rich_help_panel="Watch and retrain")
for command in (upgrade, mcp):
    app.command(rich_help_panel="Operate")(command)
app.add_typer(cost, name="cost", rich_help_panel="Operate")
app.add_typer(backup, name="backup", rich_help_panel="Operate")
app.add_typer(cluster, name="cluster", rich_help_panel="Operate")
app.add_typer(ci, name="ci", rich_help_panel="Operate")


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
        if missing := missing_extra(error):
            _refuse(str(missing))
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
