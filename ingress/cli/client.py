"""Asks a server by HTTP."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from ingress.cli import events, failures
from ingress.cli.failures import Refused, Unreachable

CONNECT_S = 5.0
ANSWER_S = 30.0
PIECE_BYTES = 65536


def model_path(name: str, action: str = "") -> str:
    return f"/api/models/{quote(name)}{action}"


def is_url(text: str) -> bool:
    """Whether it says where a server is."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.query
    except ValueError:
        return False


class Client:
    """May be used by several threads. Its calls raise: Refused, NotAllowed, Unreachable."""

    def __init__(
        self, url: str, key: str | None = None, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S
    ) -> None:
        """url: may end with a path."""
        self.url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._pool = urllib3.PoolManager(retries=False)

    def get(self, path: str, **query: Any) -> Any:
        return self._json("GET", path, query, self._answer_s)

    def post(self, path: str, *, patient: bool = False, **query: Any) -> Any:
        """patient: the answer is waited for as long as it takes."""
        return self._json("POST", path, query, None if patient else self._answer_s)

    @contextlib.contextmanager
    def stream(self, method: str, path: str, data: Any = None) -> Iterator[Iterator[str]]:
        """The data of the answer's events, as they come. The answer ends with the context."""
        response = self._ask(method, path, data, None)
        try:
            yield self._events(response)
        finally:
            response.close()

    def _json(self, method: str, path: str, query: dict[str, Any], answer_s: float | None) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        response = self._ask(method, f"{path}?{urlencode(given)}" if given else path, None, answer_s)
        body = self._body(response)
        try:
            return json.loads(body)
        except ValueError:
            raise Refused(f"What answers at {self.url} is no LLM-Manager.") from None

    def _ask(self, method: str, path: str, data: Any, answer_s: float | None) -> urllib3.BaseHTTPResponse:
        try:
            response = self._pool.request(
                method,
                self.url + path,
                json=data,
                headers=self._headers | ({} if data is None else {"content-type": "application/json"}),
                timeout=urllib3.Timeout(connect=self._connect_s, read=answer_s),
                preload_content=False,
                redirect=False,
            )
        except HTTPError as error:
            raise self._unreachable(error) from None
        if not 200 <= response.status < 300:
            raise failures.of_answer(response.status, self._body(response))
        return response

    def _body(self, response: urllib3.BaseHTTPResponse) -> bytes:
        try:
            return response.data
        except HTTPError as error:
            raise self._unreachable(error) from None

    def _events(self, response: urllib3.BaseHTTPResponse) -> Iterator[str]:
        try:
            yield from events.data_of(iter(lambda: response.read1(PIECE_BYTES), b""))
        except HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: HTTPError) -> Unreachable:
        return Unreachable(
            f"{self.url} cannot be reached: {_reason(error)}. "
            "(Another server: --url or LLM_MANAGER_URL. Start one: llm-manager serve.)"
        )


def _reason(error: HTTPError) -> str:
    """Without the connection's object, which urllib3 writes in front."""
    return re.sub(r"^<?\w+\(.*?\)>?: ", "", str(error)) or type(error).__name__
