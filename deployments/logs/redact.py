"""Takes secrets out of what is to be logged. Pure, and cheap where there are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MASK = "***"

_QUOTE = r"(?:\\*[\"'])"
_SAID = rf"{_QUOTE}?[ \t]*(?:[:=]|=>|,[ \t]*(?=b?{_QUOTE}))[ \t]*(?:b?{_QUOTE})?"
"""Between a name and its value: `name: value`, `"name": "value"`, `name='value'`, `(b'name', b'value')`."""
_VALUE = r"[^\s\"'\\,;&)}\]]+"


@dataclass(frozen=True)
class _Rule:
    """hints: lower-case words of which one is in each text that the pattern could find something in."""

    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    instead: str

    def concerns(self, lower: str) -> bool:
        return any(hint in lower for hint in self.hints)


def _rule(hints: str, pattern: str, instead: str) -> _Rule:
    return _Rule(tuple(hints.split()), re.compile(pattern, re.IGNORECASE), instead)


_PARTS = {
    "key": ("api", "access", "secret", "private", "account"),
    "token": ("api", "auth", "access", "refresh", "session", "hf", "hub", "id", "bearer"),
}
"""What makes of a common word the name of a secret, when it stands before it: `max_tokens` is none."""
_WORDS = tuple(f"{part}{gap}{word}" for word, parts in _PARTS.items() for part in parts for gap in ("", "_", "-", " "))
_NAMES = "|".join((*_WORDS, "secret", "passw(?:or)?d", "passphrase"))
_RULES = (
    _rule(
        "authorization",
        rf"(authorization{_SAID})(?:(bearer|basic|digest|token|negotiate)[ \t]+)?[^\s\"'\\,;)}}\]]+",
        rf"\1{MASK}",
    ),
    _rule("cookie", rf"(cookie{_SAID})[^\"'\\]+", rf"\1{MASK}"),
    _rule("bearer", r"\b(bearer)[ \t]+(?=[^\s\"']{8})[a-z0-9._~+/=-]+", rf"\1 {MASK}"),
    _rule("sk- pk- rk-", r"(?<![a-z0-9])([spr]k-)[a-z0-9_-]{8,}", rf"\1{MASK}"),
    _rule("hf_ ghp_ gho_ ghu_ ghs_ ghr_", r"(?<![a-z0-9])(hf_|gh[pousr]_)[a-z0-9]{16,}", rf"\1{MASK}"),
    _rule("eyj", r"\beyj[a-z0-9_-]{8,}\.eyj[a-z0-9_-]+(?:\.[a-z0-9_-]+)?", MASK),
    _Rule(
        (*_WORDS, "secret", "passw", "passphrase"),
        re.compile(rf"((?:{_NAMES})(?:[_-]?id)?{_SAID}){_VALUE}", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    _rule("key= token= sig= signature=", r"([?&](?:key|token|sig|signature)=)[^\s\"'&]+", rf"\1{MASK}"),
    _rule("://", r"(://[^\s/:@\"']*:)[^\s/@\"']+(@)", rf"\1{MASK}\2"),
)


def redactor(text: str) -> Callable[[str], str]:
    """A `redact` for the lines of this text."""
    lower = text.lower()
    rules = [rule for rule in _RULES if rule.concerns(lower)]

    def redact(line: str) -> str:
        lower = line.lower()
        for rule in rules:
            if rule.concerns(lower):
                line = rule.pattern.sub(rule.instead, line)
        return line

    return redact if rules else _as_it_is


def redact(line: str) -> str:
    """The line with each secret's value masked; its name stays, so that one sees what was there."""
    return redactor(line)(line)


def _as_it_is(line: str) -> str:
    return line
