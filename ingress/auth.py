"""The door of the ingress: who asks, and may they. In front of all routes, so that none can be left out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import cast

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import ApiError, InvalidKey, PermissionDenied
from deployments.keys import KeyConfig
from ingress.errors import render
from ingress.keys import USE, Keyring, presented, rights_for
from ingress.limits import Limits
from ingress.local import is_local
from ingress.paths import path_of


def key_of(request: Request) -> KeyConfig | None:
    """The key that the request came with; None on a server without keys, or where none is needed. Its name is
    `request.state.key_name`."""
    return cast("KeyConfig | None", request.state.key)


class Access:
    def __init__(
        self,
        keys: Collection[KeyConfig],
        limits: Limits,
        *,
        without_keys: bool = False,
        behind_haproxy: bool = False,
        origins: Collection[str] = (),
    ) -> None:
        """without_keys: whoever asks may do all if there are no keys; else only this machine may. behind_haproxy: the
        other end of every connection is HAProxy, wherever a request came from. origins: as for CORS."""
        self.limits = limits
        self._keyring = Keyring(keys)
        self._without_keys = without_keys
        self._behind_haproxy = behind_haproxy
        self._origins = origins

    def is_stranger(self, request: Request) -> bool:
        """Whether the request may only ask for what is open to all."""
        if self._keyring:
            return key_of(request) is None
        return not self._without_keys and not self._is_local(request.scope, request.headers)

    def check(self, scope: Scope) -> KeyConfig | None:
        """Whose request it is. Raises: InvalidKey, PermissionDenied."""
        rights = rights_for(scope["method"], path_of(scope))
        headers = Headers(scope=scope)
        if not self._keyring:
            if rights and not self._without_keys and not self._is_local(scope, headers):
                raise PermissionDenied(
                    "Without keys this server answers only its own machine: set `keys`, or allow_without_keys: true.",
                    code="keys_required",
                )
            return None
        given = presented(headers)
        key = self._keyring.find(given) if given else None
        if not rights:
            return key
        if key is None:
            raise InvalidKey("This key is not known here." if given else "A key is needed: Authorization: Bearer …")
        if rights.isdisjoint(key.rights):
            raise PermissionDenied(f"The key {key.name!r} has not the right to {' or '.join(sorted(rights))}.")
        return key

    def _is_local(self, scope: Scope, headers: Headers) -> bool:
        client = (scope.get("client") or ("",))[0]
        return not self._behind_haproxy and is_local(client, headers, self._origins)


class Door:
    """ASGI. Leaves `key` and `key_name` in the request's state."""

    def __init__(self, app: ASGIApp, access: Callable[[], Access]) -> None:
        """access: asked at each request."""
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # no route is one
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access = self._access()
        try:
            key = access.check(scope)
            if key is not None and key.is_limited and rights_for(scope["method"], path_of(scope)) == USE:
                send = access.limits.telling(key, send)
                access.limits.admit(key)
        except ApiError as error:
            await render(Request(scope), error)(scope, receive, send)
            return
        scope.setdefault("state", {}).update(key=key, key_name=key.name if key else "")
        await self._app(scope, receive, send)
