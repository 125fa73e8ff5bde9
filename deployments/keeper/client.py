"""Asks the keeper, which may be restarted at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import aiohttp

from deployments.errors import KeeperGone
from deployments.keeper.address import Address, AddressBook

RETRY_S = 0.1
_NO_KEEPER = (aiohttp.ClientError, TimeoutError, OSError)


class KeeperClient:
    """Must be used on one event loop."""

    def __init__(self, book: AddressBook) -> None:
        self._book = book
        self._address: Address | None = None
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any:
        """Posts JSON and returns the JSON of the answer. A keeper that is away is asked again until `within_s` have
        gone by, so what is asked must bear to be done twice.

        Raises: KeeperGone, also where it cannot do it now; KeeperRefused, with what the keeper says of the request.
        """
        return json.loads(await self.fetch(path, data, within_s=within_s))

    async def fetch(self, path: str, data: Any = None, *, within_s: float = 5.0) -> bytes:
        """As `ask`, with the answer as it came: a large one is not for this loop to read."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + within_s
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._ask_once(path, data)
            except _NO_KEEPER as error:
                self._address = None
                if clock() + RETRY_S >= deadline:
                    raise KeeperGone(f"The keeper does not answer: {error!r}", retry_after_s=1) from None
            await asyncio.sleep(RETRY_S)

    async def address(self) -> Address:
        """Raises: KeeperGone, if there has been none yet."""
        if self._address is None:
            self._address = await asyncio.to_thread(self._book.read)
        if self._address is None:
            raise KeeperGone("The keeper is not up yet.", retry_after_s=1)
        return self._address

    def forget(self) -> None:
        """The address was found to be wrong."""
        self._address = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask_once(self, path: str, data: Any) -> bytes:
        try:
            address = await self.address()
        except KeeperGone as error:
            raise OSError(error.message) from None
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60))
        headers = {"content-type": "application/json", **address.headers}
        async with self._session.post(address.url + path, data=json.dumps(data), headers=headers) as answer:
            if answer.status == 401:  # another process has the port by now
                raise OSError("the keeper is another one by now")
            if answer.status >= 400:
                refusal = await _refusal(answer)
                raise KeeperGone(str(refusal), retry_after_s=1) if answer.status == KeeperGone.status else refusal
            return await answer.read()


class KeeperRefused(Exception):
    """What the keeper was asked for was wrong, or it failed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def _refusal(answer: aiohttp.ClientResponse) -> KeeperRefused:
    message = f"The keeper answered {answer.status}."
    with contextlib.suppress(ValueError, KeyError, TypeError, aiohttp.ClientError):
        message = (await answer.json())["error"]["message"]
    return KeeperRefused(answer.status, message)
