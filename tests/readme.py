"""README.md, as its tests read it."""

from __future__ import annotations

import re

from tests.e2e.serving import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Its code blocks in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def first_column(heading: str) -> set[str]:
    """The names in the first column of the table whose first column is headed so."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|.*\n((?:\|.*\n)+)", README, re.MULTILINE)
    return {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def links() -> list[str]:
    """Where its links and pictures lead."""
    return re.findall(r"\]\(([^)\s]+)\)", README)


def anchors() -> set[str]:
    """What GitHub calls its headings."""
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
