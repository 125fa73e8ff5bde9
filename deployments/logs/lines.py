"""Raw output of a process → entries of a log. Pure."""

from __future__ import annotations

import re
from json.encoder import encode_basestring as _quoted
from typing import NamedTuple

from deployments.logs.redact import redactor

MAX_LINE = 16 * 1024
"""Bytes. A longer line becomes several entries."""

_LEVELS = {
    "debug": "debug",
    "trace": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
    "fatal": "critical",
}
_WORDS = "|".join(_LEVELS)
# `INFO 2026-11-22 …` (Serve), `(EngineCore pid=7) WARNING 11-22 …` (vLLM), `ERROR:root:…`, `INFO:     …` (uvicorn),
# `[error] …`, `2026-11-22 10:00:00,000 - name - ERROR - …`, `E1122 10:00:00 …` (glog), `[2026-11-22 … W 7 7] …` (Ray).
_NAMED = re.compile(
    rf"(?:\([^)]{{1,80}}\)[ ]+)?\[?(?P<first>{_WORDS.upper()}|{_WORDS})(?:\]|:|[ ]+\[?\d)"
    rf"|\[?\d{{2,4}}[-/]\d\d[^A-Za-z]{{1,40}}(?:-[ ]*[\w.]+[ ]*)?[^A-Za-z]{{0,8}}(?P<later>{_WORDS.upper()})\b"
    r"|(?P<glog>[DIWEF])\d{4} \d\d:"
    r"|\[\d{4}-[\d :,.-]+(?P<ray>[DIWEF]) \d"
)
_LETTERS = {"D": "debug", "I": "info", "W": "warning", "E": "error", "F": "critical"}
_BAD = re.compile(
    r"Traceback \(most recent|[\w.]*(?:Error|Exception|Exit|Interrupt)(?::|$)|\*\*\* SIG|Fatal Python error"
    r"|Segmentation fault|Aborted|terminate called|Killed|panic|thread '.*' panicked|libc\+\+abi|Assertion"
)
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NO_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-ln-z]")
_RAYS = (":job_id:", ":actor_name:", ":task_name:")
"""Marks that Ray writes for its own log monitor."""


class Entry(NamedTuple):
    """timestamp: seconds since 1970."""

    timestamp: float
    level: str
    message: str
    replica: str

    def encode(self) -> bytes:
        """JSON in one line."""
        # As json.dumps, at half the price: there may be ten thousand a second.
        message, replica = _quoted(self.message), _quoted(self.replica)
        return (
            f'{{"timestamp":{self.timestamp},"level":"{self.level}","message":{message},"replica":{replica}}}'
        ).encode()


def whole(raw: bytes, *, end: bool) -> int:
    """How many of the bytes are whole lines.

    end: whether the last line counts although nothing ends it.
    """
    if end:
        return len(raw)
    complete = raw.rfind(b"\n") + 1
    if complete or len(raw) < MAX_LINE:
        return complete
    # Between words, so that no secret is torn.
    return raw.rfind(b" ", 0, MAX_LINE) + 1 or MAX_LINE


def entries(raw: bytes, replica: str, now: float, level: str = "info") -> list[Entry]:
    """raw: whole lines. level: of the line before them, which goes on in lines that are indented."""
    found = []
    text = raw.decode(errors="replace")
    redact = redactor(_plain(text))
    for line in text.split("\n"):
        line = shown(line)
        message = redact(_plain(line))
        if not message or message.startswith(_RAYS):
            continue
        level = level_of(message, level)
        if line != message and message == _plain(line):
            message = _NO_COLOUR.sub("", line)
        for start in range(0, len(message), MAX_LINE):
            found.append(Entry(now, level, message[start : start + MAX_LINE], replica))
    return found


def _plain(text: str) -> str:
    """What secrets are looked for in: a colour may stand in the middle of one. A line without any keeps its colours."""
    return _CONTROL.sub("", text) if "\x1b" in text else text


def shown(line: str) -> str:
    """As a terminal would show it: a progress bar at its last state."""
    line = line.rstrip()
    if "\r" in line:
        line = line.rpartition("\r")[2]
    return line


def level_of(message: str, before: str = "info") -> str:
    """before: the level of the line before."""
    if message[0] in " \t":
        return before
    if named := _NAMED.match(message):
        word = named["first"] or named["later"]
        return _LEVELS[word.lower()] if word else _LETTERS[named["glog"] or named["ray"]]
    return "error" if _BAD.match(message) else "info"
