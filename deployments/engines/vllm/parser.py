"""vLLM's parser over arguments that are plain data. Imports vLLM.

As a program it reads `[args, mode]` as JSON, and writes the mistakes as the last line of its output.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
import sys
from argparse import Action, BooleanOptionalAction, Namespace
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

from deployments.engines.vllm.args import OURS, Mistake, canonical

POOLING = frozenset({"embedding", "rerank"})
"""Modes that judge whole texts; the others generate."""


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        """argparse prints the usage and ends the process."""
        raise ValueError(message)


def parse(args: Mapping[str, Any], mode: str) -> Namespace:
    """All arguments of `vllm serve`, defaults included. Raises what vLLM raises."""
    runner = "pooling" if mode in POOLING else "generate"
    words = ["--runner", runner, *(word for name, value in args.items() for word in _words(name, value))]
    namespace: Namespace = _parser().parse_args(words)
    validate_parsed_serve_args(namespace)
    return namespace


def mistakes(args: Mapping[str, Any], mode: str) -> list[Mistake]:
    found = [(name, message) for name, value in args.items() if (message := _mistake(name, value))]
    if found:
        return found
    try:
        namespace = parse(args, mode)
    except Exception as error:
        return [(getattr(error, "parameter", None) or "", _line(error))]
    return list(_unknown_parser(namespace))


def _mistake(name: str, value: Any) -> str | None:
    if canonical(name) not in _actions():
        near = difflib.get_close_matches(canonical(name), _actions().keys() - OURS.keys(), n=1)
        return f"vLLM has no such argument{f'; did you mean {near[0]}?' if near else ''}"
    if _actions()[canonical(name)].nargs == 0 and not isinstance(value, bool | None):
        return "is true or false"
    try:
        _parser().parse_args(list(_words(name, value)))
    except Exception as error:
        return _line(error)
    return None


def _unknown_parser(namespace: Namespace) -> Iterator[Mistake]:
    known = ToolParserManager.list_registered()
    wanted = namespace.tool_call_parser
    if wanted and wanted not in known and not namespace.tool_parser_plugin:
        yield "tool_call_parser", f"vLLM has no parser {wanted!r}, but {', '.join(sorted(known))}"


def _words(name: str, value: Any) -> Iterator[str]:
    """The argument as a command line has it; nothing for one that is None."""
    flag = f"--{name.replace('_', '-')}" if "." not in name else f"--{name}"
    action = _actions()[canonical(name)]
    if value is None:
        return
    if isinstance(value, bool) and action.nargs == 0:
        if value:
            yield flag
        elif isinstance(action, BooleanOptionalAction):
            yield f"--no-{flag.removeprefix('--')}"
    elif isinstance(value, list) and action.nargs in ("*", "+"):
        yield flag
        yield from map(_text, value)
    else:
        yield f"{flag}={_text(value)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@functools.cache
def _parser() -> FlexibleArgumentParser:
    return make_arg_parser(_Parser(prog="vllm"))


@functools.cache
def _actions() -> dict[str, Action]:
    """By name: argparse offers no public way to look arguments up."""
    return {canonical(flag[2:]): a for a in _parser()._actions for flag in a.option_strings if flag.startswith("--")}


def _line(error: Exception) -> str:
    """The sentence in it, without the argument's name, which our path has, and without the parser's own functions."""
    text = re.sub(r"<function \w+ at 0x\w+>", "JSON", " ".join(str(error).split()))
    text = re.sub(r"^(Error: |argument \S+: )|\(parameter=\w+\)$", "", text)
    return text.strip()


if __name__ == "__main__":
    asked_args, asked_mode = json.load(sys.stdin)
    print(json.dumps(mistakes(asked_args, asked_mode)))
