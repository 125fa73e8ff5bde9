"""MLX's streams, kept for the next thread: each has a thread of MLX's own behind it, which MLX does not end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

_free: list[mx.Stream] = []


@contextmanager
def lent_stream() -> Iterator[None]:
    """The calling thread's default stream until the end of the block, with nothing of the thread's left behind."""
    stream = _free.pop() if _free else mx.new_thread_unsafe_stream(mx.default_device())
    mx.set_default_stream(stream)  # of this thread alone
    try:
        yield
    finally:
        mx.synchronize(stream)
        mx.clear_streams()  # those of reading files
        _free.append(stream)
