"""`llm-manager start`, `stop`, `pin` and `unpin`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ingress.cli import loading, options, output
from ingress.cli.client import Client, model_path
from ingress.cli.completion import complete_model
from ingress.cli.failures import Refused

_wait = click.option("--wait/--no-wait", default=True, help="Return when it is done (the default), or at once.")


@click.command()
@options.models
@_wait
@options.as_json
@options.server
def start(client: Client, models: Sequence[str], wait: bool, as_json: bool) -> None:
    """Loads models, and waits until they answer."""
    _change(client, models, "/start", wait, as_json)


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=complete_model)
@click.option("--all", "everything", is_flag=True, help="All models.")
@_wait
@options.as_json
@options.server
def stop(client: Client, models: Sequence[str], everything: bool, wait: bool, as_json: bool) -> None:
    """Unloads models, once they have finished their answers."""
    if everything == bool(models):
        raise click.UsageError("Say which models, or --all.")
    if not everything:
        _change(client, models, "/stop", wait, as_json)
        return
    answer = client.post("/api/models/stop-all", patient=True, wait=None if wait else "false")
    output.print_json(answer) if as_json else click.echo(answer["message"])


@click.command()
@options.models
@options.as_json
@options.server
def pin(client: Client, models: Sequence[str], as_json: bool) -> None:
    """Keeps models up until they are unpinned or stopped."""
    _tell(_each(models, lambda name: client.post(model_path(name, "/pin"))), as_json)


@click.command()
@options.models
@options.as_json
@options.server
def unpin(client: Client, models: Sequence[str], as_json: bool) -> None:
    """Lets pinned models be unloaded again."""
    _tell(_each(models, lambda name: client.post(model_path(name, "/unpin"))), as_json)


Outcomes = dict[str, Any]
"""Of each model: the answer, or why there is none (Refused)."""


def _change(client: Client, models: Sequence[str], action: str, wait: bool, as_json: bool) -> None:
    """All begin before any is waited for."""

    def begin(name: str) -> Any:
        return client.post(model_path(name, action), wait="false")

    def finish(name: str) -> Any:
        with loading.told(client, name):
            return client.post(model_path(name, action), patient=True)

    outcomes = _each(models, begin) if not wait or len(models) > 1 else dict.fromkeys(models)
    if wait:
        begun = [name for name, outcome in outcomes.items() if not isinstance(outcome, Refused)]
        outcomes.update(_each(begun, finish))
    _tell(outcomes, as_json)


def _each(models: Sequence[str], ask: Callable[[str], Any]) -> Outcomes:
    outcomes: Outcomes = {}
    for name in dict.fromkeys(models):
        try:
            outcomes[name] = ask(name)
        except Refused as refused:
            outcomes[name] = refused
    return outcomes


def _tell(outcomes: Outcomes, as_json: bool) -> None:
    """Raises: click.exceptions.Exit, with the status of the first that was refused."""
    refused = [outcome for outcome in outcomes.values() if isinstance(outcome, Refused)]
    for failure in refused:
        failure.show()
    if as_json:
        output.print_json({name: _answer_of(outcome) for name, outcome in outcomes.items()})
    else:
        for outcome in outcomes.values():
            if not isinstance(outcome, Refused):
                click.echo(outcome["message"])
    if refused:
        raise click.exceptions.Exit(refused[0].exit_code)


def _answer_of(outcome: Any) -> Any:
    if not isinstance(outcome, Refused):
        return outcome
    return outcome.answer or {"success": False, "message": outcome.message}
