from __future__ import annotations

import logging

import pytest

from deployments.logs.quiet import OnceADrain


def test_drain_is_told_once_and_all_else_always(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.quiet")
    logger.addFilter(OnceADrain())
    with caplog.at_level(logging.INFO, logger.name):
        for seconds in (3, 2, 1):
            logger.info(f"Waiting for an additional 0.05s to shut down: 1 ongoing requests, {seconds}s remaining.")
            logger.info("Other")
    assert [message.split()[0] for message in caplog.messages] == ["Waiting", "Other", "Other", "Other"]
