"""Serve's handles of deployments, closed while nobody needs them.

One that was used goes on telling Serve's controller four times a second how many requests wait there, be it none: of
thousands of models that were asked once the controller would hear nothing else. There is no public way to use a handle
again that was closed.
"""

from __future__ import annotations

import asyncio
from typing import Any


def close(handle: Any) -> asyncio.Future[None] | None:
    """It opens by itself when it is next used. Nothing may be under way on it. None: it was not open."""
    router, handle._router = handle._router, None
    return None if router is None else asyncio.wrap_future(router.shutdown())
