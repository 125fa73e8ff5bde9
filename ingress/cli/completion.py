"""Names of models for the shell, from the server: soon, or none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

WITHIN_S = 0.5


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from ingress.cli.client import Client, is_url

    url, key = str(context.params.get("url")), os.environ.get("LLM_MANAGER_KEY")
    if not is_url(url):
        return []
    taken = context.params.get(parameter.name or "") or ()
    try:
        client = Client(url, key, connect_s=WITHIN_S, answer_s=WITHIN_S)
        cards = client.get("/v1/models")["data"]
        names = [name for card in cards for name in (card["id"], *card["aliases"])]
        return [CompletionItem(name) for name in names if name.startswith(incomplete) and name not in taken]
    except Exception:  # the shell shows what is written here in the middle of the line
        return []
