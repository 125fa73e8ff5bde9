"""For the tests of the page in a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.console.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: no other loop of asyncio may run in the thread meanwhile."""
    with chromium() as browser:
        yield browser
