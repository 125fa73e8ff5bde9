"""Who reads along an answer on its way to the client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from deployments.errors import RequestCancelled
from ingress.errors import status_of


class Replica(Protocol):
    """url: without a path. headers: the replica's secret."""

    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class Onlooker:
    """Of one request; does nothing by itself."""

    def works(self, cancel: Callable[[], None]) -> None:
        """Work on the request has begun, which `cancel` ends, as long as it goes on: with RequestCancelled."""

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


@contextlib.asynccontextmanager
async def cancellable(onlookers: Sequence[Onlooker]) -> AsyncIterator[None]:
    """What onlookers may cancel, as a client's leaving does. Raises: RequestCancelled."""
    limit = asyncio.timeout(None)
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        with contextlib.suppress(RuntimeError):  # it is over
            limit.reschedule(loop.time())

    try:
        async with limit:
            for onlooker in onlookers:
                onlooker.works(cancel)
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise RequestCancelled("The request was cancelled by an operator.") from None


@contextlib.asynccontextmanager
async def until_asked(onlookers: Sequence[Onlooker]) -> AsyncIterator[None]:
    """What fails in here ends the request, before any replica is asked."""
    try:
        async with cancellable(onlookers):
            yield
    except BaseException as error:
        for onlooker in onlookers:
            onlooker.ended(status_of(error))
        raise
