"""The routes of the console, without a server."""

from __future__ import annotations

import gzip
import re

import httpx
import pytest
from fastapi import FastAPI

from ingress import errors
from ingress.console import console
from ingress.console.assets import LAZY, assets
from ingress.keys import NONE, rights_for

FIRST_KB, ALL_KB = 60, 90
"""Over the wire: what the page needs at first, and with the charts."""


@pytest.fixture
def client() -> httpx.AsyncClient:
    api = FastAPI()
    errors.install(api)
    console.install(api)
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://x")


async def test_page_and_all_it_names_are_there(client: httpx.AsyncClient) -> None:
    page = await client.get("/console")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:href|src)="([^"#]+)"', page.text)
    assert len(named) > 20
    for name in named:
        assert (await client.get(f"/{name}")).status_code == 200, name


async def test_every_file_forbids_what_the_page_does_not_need(client: httpx.AsyncClient) -> None:
    for path in ("", "/x/static/main.js"):
        headers = (await client.get(f"/console{path}")).headers
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


async def test_page_has_no_script_and_no_style_of_its_own(client: httpx.AsyncClient) -> None:
    text = (await client.get("/console")).text
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", text)
    assert not re.search(r"""(href|src)="(/|https?:)""", text)


async def test_who_takes_gzip_gets_it(client: httpx.AsyncClient) -> None:
    async def bytes_of(encoding: str) -> tuple[str | None, bytes]:
        asked = client.build_request("GET", "/console/x/static/main.js", headers={"accept-encoding": encoding})
        answer = await client.send(asked, stream=True)
        return answer.headers.get("content-encoding"), b"".join([piece async for piece in answer.aiter_raw()])

    plain, packed = await bytes_of("identity"), await bytes_of("br, gzip")
    assert (plain[0], packed[0]) == (None, "gzip")
    assert gzip.decompress(packed[1]) == plain[1]


async def test_what_is_known_already_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/console")
    assert first.headers["cache-control"] == "no-cache"
    again = await client.get("/console", headers={"if-none-match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")


async def test_files_are_kept_for_good_but_those_of_another_version(client: httpx.AsyncClient) -> None:
    for version, keep in ((assets().version, "public, max-age=31536000, immutable"), ("before", "no-cache")):
        answer = await client.get(f"/console/{version}/static/main.js")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, keep)
    assert f'src="console/{assets().version}/static/main.js"' in (await client.get("/console")).text


@pytest.mark.parametrize(
    "path", ["/console/x/nothing.js", "/console/x/%2e%2e/assets.py", "/console/x/vendor/README.md"]
)
async def test_other_files_are_no_part_of_it(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "route_not_found")


async def test_slash_at_the_end_leads_to_the_page(client: httpx.AsyncClient) -> None:
    answer = await client.get("/console/")
    assert (answer.status_code, answer.headers["location"]) == (307, "../console")


def test_paths_of_the_console_need_no_key_and_no_others_are_opened() -> None:
    assert rights_for("GET", "/console") == rights_for("GET", "/console/x/static/main.js") == NONE
    assert rights_for("GET", "/consoles") != NONE


def test_page_is_small() -> None:
    sizes = {name: len(asset.packed) for name, asset in assets().files.items()}
    lazy = sum(sizes[name] for name in LAZY)
    total = sum(sizes.values()) + len(assets().page.packed)
    print(f"\n{(total - lazy) / 1000:.1f} kB at first, {total / 1000:.1f} kB in all, {len(sizes) + 1} files")
    assert total - lazy < FIRST_KB * 1000
    assert total < ALL_KB * 1000
