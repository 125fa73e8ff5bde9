"""What a command may fail with, and its exit status.

click.ClickException
├── Refused                  1   the server refused or failed
├── click.UsageError         2
├── Unreachable              3
└── NotAllowed               4
"""

from __future__ import annotations

import json
from typing import Any

import click


class Refused(click.ClickException):
    """answer: the server's, if it was JSON."""

    exit_code = 1

    def __init__(self, message: str, answer: Any = None) -> None:
        super().__init__(message)
        self.answer = answer


class Unreachable(click.ClickException):
    exit_code = 3


class NotAllowed(Refused):
    exit_code = 4


def of_answer(status: int, body: bytes) -> Refused:
    """Of an answer that is an error."""
    kind = NotAllowed if status in (401, 403) else Refused
    try:
        answer = json.loads(body)
        return kind(text_of(answer["error"]), answer)
    except (ValueError, KeyError, TypeError):
        first = next(iter(body.decode(errors="replace").strip().splitlines()), "")
        return kind(f"The answer was {status} {first}".rstrip())


def text_of(error: Any) -> str:
    """An OpenAI error's message, with its code. Raises: KeyError, TypeError."""
    code = error.get("code") if isinstance(error, dict) else None
    text = str(error["message"])
    if code == "invalid_api_key":
        text += " (Set LLM_MANAGER_KEY.)"
    return f"{text} [{code}]" if code else text
