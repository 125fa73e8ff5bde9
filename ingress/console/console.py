"""The routes of the console. Its paths need no key, what it asks the API for does."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse, Response

from deployments.errors import RouteNotFound
from ingress.console.assets import Asset, assets

PATH = "/console"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
}
_ASK_AGAIN = "no-cache"
_FOR_GOOD = "public, max-age=31536000, immutable"


def install(api: FastAPI) -> None:
    methods = ["GET", "HEAD"]
    api.add_api_route(PATH, page, methods=methods, include_in_schema=False)
    api.add_api_route(f"{PATH}/", redirect, methods=methods, include_in_schema=False)
    api.add_api_route(f"{PATH}/{{version}}/{{name:path}}", file, methods=methods, include_in_schema=False)


async def page(request: Request) -> Response:
    return _answer(request, assets().page, _ASK_AGAIN)


async def redirect() -> Response:
    return RedirectResponse("../console")


async def file(request: Request, version: str, name: str) -> Response:
    """version: of the page that asks; it may be one from before an update."""
    asset = assets().files.get(name)
    if asset is None:
        raise RouteNotFound(f"The console has no file {name!r}.")
    return _answer(request, asset, _FOR_GOOD if version == assets().version else _ASK_AGAIN)


def is_console(path: str) -> bool:
    return path == PATH or path.startswith(f"{PATH}/")


def _answer(request: Request, asset: Asset, keep: str) -> Response:
    headers = {**HEADERS, "cache-control": keep, "etag": asset.etag}
    if asset.is_known(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        packed = {**headers, "content-encoding": "gzip"}
        return Response(asset.packed, headers=packed, media_type=asset.media_type)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
