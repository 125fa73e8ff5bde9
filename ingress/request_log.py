"""One line of JSON for each request, in a file of its own beside Serve's log of this replica.

Serve's own file mixes it with lines of other shapes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path

from deployments.usage.record import Record

logger = logging.getLogger("ray.serve.llm_manager.requests")


def open_beside(serves: logging.Logger, name: str) -> Path | None:
    """Sends the lines to `requests_<name>.log` in the folder where Serve's logger writes, with its bounds. None if that
    writes no file: lines go to where it writes."""
    targets = (handler.target if isinstance(handler, MemoryHandler) else handler for handler in serves.handlers)
    own = next((handler for handler in targets if isinstance(handler, RotatingFileHandler)), None)
    if own is None:
        return None
    path = Path(own.baseFilename).with_name(f"requests_{name}.log")
    handler = RotatingFileHandler(path, maxBytes=own.maxBytes, backupCount=own.backupCount, delay=True)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    return path


def write(records: Sequence[Record]) -> None:
    logger.info("\n".join(map(line_of, records)))


def line_of(record: Record) -> str:
    at = datetime.fromtimestamp(record.time, UTC).isoformat(timespec="milliseconds")
    said = {**vars(record), "time": at}
    del said["id"]
    return json.dumps(said)
