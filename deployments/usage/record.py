"""A request that has ended, as it is counted, measured and noted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """id: unique, whatever ids clients give. time: of its end, in seconds since 1970. model: public name; empty if the
    request named none that exists. key: the name of the client's key, never the key. path: as in `ingress.endpoints`.
    status: of the answer, 499 if the client left, the error's if a stream was cut. Tokens of an answer that was cut: as
    far as they are known. queue_ms: the wait for a replica, loading included. ttft_ms: until the first byte, None if
    there was none. replica: of the ingress. from_cache: no engine was asked, the answer was there already.
    """

    id: str
    time: float
    model: str
    key: str
    path: str
    status: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    queue_ms: float
    ttft_ms: float | None
    total_ms: float
    request_id: str
    replica: str
    streamed: bool = False
    from_cache: bool = False
