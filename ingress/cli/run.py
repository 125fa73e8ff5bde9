"""`llm-manager run`: one answer, or a chat."""

from __future__ import annotations

import sys

import click

from ingress.cli import options
from ingress.cli.answer import Answer, Settings, ask
from ingress.cli.client import Client
from ingress.cli.screen import screen


@click.command()
@options.model
@click.argument("prompt", required=False)
@click.option("--system", help="What the model is told before the prompt.")
@click.option("--temperature", type=click.FloatRange(min=0), help="Default: the model's.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer. Default: the model's.")
@click.option("--verbose", "-v", is_flag=True, help="Say how long the first token took, and the pace.")
@options.as_json
@options.server
def run(
    client: Client,
    model: str,
    prompt: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Asks a model, and shows its answer as it comes.

    PROMPT is read from a pipe if there is none, or if it is -. Without a pipe there is a chat.
    """
    settings = Settings(model, system, temperature, max_tokens)
    if prompt is None and sys.stdin.isatty():
        if as_json:
            raise click.UsageError("--json needs a PROMPT.")
        from ingress.cli.chat import Chat

        Chat(client, settings, screen(False), verbose).run()
        return
    if prompt in (None, "-"):
        prompt = sys.stdin.buffer.read().decode(errors="replace").strip()
    if not prompt:
        raise click.UsageError("The PROMPT is empty.")
    answer = Answer()
    ask(client, settings, [{"role": "user", "content": prompt}], screen(as_json), answer)
    if verbose:
        click.echo(answer.figures(), err=True)
