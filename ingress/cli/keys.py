"""`llm-manager keys`: keys of clients."""

from __future__ import annotations

import click

from ingress.cli import options, output


@click.group()
def keys() -> None:
    """Makes keys for clients."""


@keys.command()
@click.argument("name")
@options.as_json
def new(name: str, as_json: bool) -> None:
    """Makes a key for NAME, and says what the settings need of it."""
    from pydantic import ValidationError

    from deployments.keys import made

    try:
        key, entry = made(name)
    except ValidationError as error:
        raise click.UsageError(f"NAME: {error.errors()[0]['msg']}") from None
    if as_json:
        output.print_json({"name": entry.name, "key": key, "key_hash": entry.key_hash})
        return
    click.echo(f"The key, for the client; it is shown this once:\n{key}\n\nFor `keys` in serve_config.yaml:")
    click.echo(f"- name: {entry.name}\n  key_hash: {entry.key_hash}")
