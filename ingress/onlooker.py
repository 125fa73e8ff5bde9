"""Who reads along an answer on its way to the client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from ingress.errors import status_of


class Replica(Protocol):
    """url: without a path. headers: the replica's secret."""

    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class Onlooker:
    """Of one request; does nothing by itself."""

    def waits(self) -> None:
        """A replica is waited for: the first one, or another one after that has failed.

        Raises: ApiError, if the request is not to wait.
        """

    def lent(self) -> None:
        """The wait is over, the replica is asked."""

    def begins(self) -> None:
        """The answer begins to leave."""

    async def whole(self, replica: Replica, body: bytes) -> None:
        """An answer in one piece that is no error, before it leaves."""

    def chunk(self, replica: Replica, chunk: bytes, *, more: bool) -> bytes:
        """The next bytes of a stream → those that leave now. more: whether it goes on."""
        return chunk

    def ended(self, status: int) -> None:
        """Once, whatever has happened. status: GONE if the client has left, the error's if the answer was cut."""


@contextlib.contextmanager
def until_asked(onlookers: Sequence[Onlooker]) -> Iterator[None]:
    """What fails in here ends the request, before any replica is asked."""
    try:
        yield
    except BaseException as error:
        for onlooker in onlookers:
            onlooker.ended(status_of(error))
        raise
