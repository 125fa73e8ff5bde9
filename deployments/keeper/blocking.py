"""Asks the keeper from a thread that has no event loop."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from deployments.keeper.address import Address, AddressBook

TIMEOUT_S = 5.0


class BlockingClient:
    """Must be used by one thread."""

    def __init__(self, book: AddressBook) -> None:
        self._book = book
        self._address: Address | None = None
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, data: bytes) -> Any:
        """The JSON of the answer. Raises: OSError, if there is no keeper now or it did not do it: it may be asked
        again."""
        try:
            return self._post(path, data)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise OSError(f"the keeper did not answer: {error!r}") from error

    def close(self) -> None:
        """The next question looks for the keeper again."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
        self._connection = self._address = None

    def _post(self, path: str, data: bytes) -> Any:
        if self._address is None or self._connection is None:
            self._address = self._book.read()
            if self._address is None:
                raise OSError("there is no keeper yet")
            where = urlsplit(self._address.url)
            self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT_S)
        self._connection.request("POST", path, data, self._address.headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"status {answer.status}")
        return json.loads(body)
