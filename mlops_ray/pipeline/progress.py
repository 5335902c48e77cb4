"""What a person at a terminal sees while a pipeline runs: one line a step, and a bar for the search."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mlops_ray.ingestion.quarantine import refusals
from mlops_ray.pipeline.plan import FIRST_TIME
from mlops_ray.pipeline.steps.step import STEPS, StepFinished, StepRuns, StepStarted, StepWaits
from mlops_ray.tasks.stored import task_from_json
from mlops_ray.training.leaderboard import lines
from mlops_ray.training.trial import SearchProgress


class TerminalProgress:
    """Prints the events of a pipeline. Without a terminal each finished trial is a line in place of the bar."""

    def __init__(self, console: Console):
        self.console = console
        self._bar: Progress | None = None

    def __call__(self, event: StepStarted | StepRuns | StepWaits | StepFinished | SearchProgress) -> None:
        match event:
            case StepStarted(step):
                self.console.print(
                    f"[{STEPS.index(step) + 1}/{len(STEPS)}] {step} …", highlight=False, markup=False, soft_wrap=True
                )
            case StepRuns(_, why) if why == FIRST_TIME:
                pass
            case StepRuns(_, why) | StepWaits(_, why):
                self.console.print(f"      {why}", highlight=False, markup=False, soft_wrap=True)
            case SearchProgress():
                self._show_search(event)
            case StepFinished():
                self._end_bar()
                if event.reused:
                    text = f"      unchanged, reused: {sentence(event)}"
                else:
                    text = f"      {sentence(event)} ({event.seconds:.1f} s)"
                for line in (text, *_remarks(event)):
                    self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _show_search(self, event: SearchProgress) -> None:
        best = f"best {event.best.candidate} {event.best.value:.4f}" if event.best else "none finished yet"
        if self.console.is_terminal:
            if self._bar is None:
                columns = (TextColumn("      trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
                self._bar = Progress(*columns, TextColumn("{task.description}"), console=self.console, transient=True)
                self._bar.add_task(best, total=event.total)
                self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=event.done, description=best)
        elif event.trial.status != "running":
            trial = event.trial
            value = f"{trial.value:.4f}" if trial.value is not None else trial.message
            line = f"      trial {event.done}/{event.total} {trial.trial_id} {trial.status} {value}; {best}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def sentence(event: StepFinished) -> str:
    """What a step made, in a few words."""
    result: Mapping[str, Any] = event.result
    match event.step:
        case "ingest":
            total = {kind: sum(counts[kind] for counts in result["counts"].values()) for kind in _ROWS}
            rest = " + ".join(f"{total[kind]:,} {kind.replace('_', ' ')}" for kind in _ROWS[1:])
            return f"{total['rows_in']:,} rows in = {rest}; snapshot {result['digest'][:12]}"
        case "features":
            return f"{len(result['views'])} feature views, {sum(view['rows'] for view in result['views']):,} rows"
        case "training_set":
            return f"{result['rows']:,} rows, {len(result['features'])} features; training set {result['digest'][:12]}"
        case "train":
            best = f"{result['best']['trial_id']}, {result['metric']} {result['best']['value']:.4f}"
            return f"{len(result['trials'])} trials; best on the validation period {best}"
        case "evaluate":
            evaluation = result["evaluation"]
            metric = next(iter(task_from_json(evaluation.get("task")).metrics))
            name, value = metric.replace("_", " "), evaluation[metric]["value"]
            return f"{result['candidate']} on the test period: {name} {value:.4f}"
        case "register":
            return f"version {result['version']}, sealed as {result['digest'][:12]}"
        case _:
            return f"{sum(result['keys'].values()):,} keys online as of {result['as_of']}"


_CHANGES = 5
_STANDINGS = 5
_ROWS = ("rows_in", "accepted", "repaired", "quarantined", "not_yet_known")


def _remarks(event: StepFinished) -> list[str]:
    """What was refused or set aside and why, a line for each source or file; and what is other than before. Of a search
    the best trials, and what ended it."""
    if event.step == "train" and (rows := event.result.get("leaderboard")):
        left = [] if len(rows) <= _STANDINGS else [f"and {len(rows) - _STANDINGS} more finished"]
        shown = [*lines(rows[:_STANDINGS], event.result["metric"]), *left, f"ended by {event.result['ended_by']}"]
        return [f"      {line}" for line in shown]
    if event.step != "ingest":
        return []
    aside = [f"warning: set aside: {text}" for files in event.result["unreadable"].values() for text in files.values()]
    changes = list(event.result.get("changes", ()))
    shown = changes if len(changes) <= _CHANGES else [*changes[:_CHANGES], f"{len(changes) - _CHANGES} more changes"]
    return [f"      {sentence}" for sentence in [*refusals(event.result["counts"]), *aside, *shown]]
