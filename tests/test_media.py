from __future__ import annotations

import json
from typing import Any

import pytest

from deployments.errors import InvalidRequest
from ingress import media

NAMES = {
    "pictures.example": ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"],
    "inside.example": ["10.1.2.3"],
    "both.example": ["93.184.215.14", "127.0.0.1"],
    "empty.example": [],
}


async def resolve(host: str) -> list[str]:
    if host not in NAMES:
        raise OSError("no such name")
    return NAMES[host]


def chat(url: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


async def check(data: Any) -> None:
    await media.check(json.dumps(data).encode(), data, resolve)


async def refused(data: Any, param: str = "messages[0].content[0].image_url.url") -> str:
    with pytest.raises(InvalidRequest) as caught:
        await check(data)
    assert (caught.value.param, caught.value.code) == (param, "invalid_url")
    return caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "https://pictures.example/cat.png",
        "HTTP://pictures.example:8080/a?b=c@d#e",
        "https://pictures.example",
        "data:image/png;base64,AAAA",
        "DATA:,x",
    ],
)
async def test_public_address_and_data_are_let_through(url: str) -> None:
    await check(chat(url))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://inside.example/", "private"),
        ("https://both.example/", "private"),
        ("https://empty.example/", "private"),
        ("https://nowhere.example/", "not found"),
        ("file:///etc/passwd", "must be an http"),
        ("FILE:/etc/passwd", "must be an http"),
        ("ftp://pictures.example/", "must be an http"),
        ("gopher://pictures.example/", "must be an http"),
        ("http+unix://pictures.example/", "must be an http"),
        (" http://pictures.example/", "must be an http"),
        ("", "must be an http"),
        ("http://", "no plain"),
        ("http:///etc", "no plain"),
        ("http://[::1", "no plain"),
        ("http://user@pictures.example/", "no plain"),
        ("http://pictures.example\\@127.0.0.1/", "no plain"),
        ("http://127.0.0.1\\.pictures.example/", "no plain"),
        ("http://pictures%2eexample/", "no plain"),
        ("http://pictures.example\t/", "no plain"),
        ("http://pictures.exa\nmple/", "no plain"),
        ("http://pictures.example/a b", "no plain"),
    ],
)
async def test_other_address_is_refused_by_its_place(url: str, problem: str) -> None:
    assert problem in await refused(chat(url))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]"])
async def test_spelling_of_this_machine_is_seen_through(host: str) -> None:
    """By the machine's own resolver."""
    data = chat(f"http://{host}:8265/")
    with pytest.raises(InvalidRequest, match="private network"):
        await media.check(json.dumps(data).encode(), data)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True),
    ],
)
def test_private_address_is_known_in_every_form(address: str, public: bool) -> None:
    assert media.is_public(address) is public


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({"messages": [{"content": [{"image_url": "file:///a"}]}]}, "messages[0].content[0].image_url"),
        ({"messages": [{"content": [{"video_url": {"url": "file:///a"}}]}]}, "messages[0].content[0].video_url.url"),
        ({"messages": [{"content": [{"audio_url": ["file:///a"]}]}]}, "messages[0].content[0].audio_url[0]"),
        ({"messages": [{"content": [{"source": {"url": "file:///a"}}]}]}, "messages[0].content[0].source.url"),
        ({"input": [{"content": [{"file_url": "file:///a"}]}]}, "input[0].content[0].file_url"),
        ({"tools": [{"server_url": "file:///a"}]}, "tools[0].server_url"),
        ({"documents": [{"metadata": {"url": "file:///a"}}]}, "documents[0].metadata.url"),
    ],
)
async def test_address_is_found_wherever_an_engine_reads_one(data: Any, param: str) -> None:
    await refused(data, param)


async def test_key_that_is_spelled_in_escapes_is_found() -> None:
    body = rb'{"messages": [{"content": [{"im\u0061ge_\u0075\u0072\u006c": "file:///a"}]}]}'
    with pytest.raises(InvalidRequest):
        await media.check(body, json.loads(body), resolve)


@pytest.mark.parametrize(
    "data",
    [
        {"metadata": {"callback_url": "http://10.0.0.1"}},
        {"messages": [{"content": "see http://10.0.0.1 at image_url"}]},
        {"tools": [{"function": {"parameters": {"properties": {"image_url": {"type": "string"}}}}}]},
        {"prompt": [1, 2, 3], "image_url": None},
    ],
)
async def test_what_no_engine_fetches_is_left_alone(data: Any) -> None:
    await check(data)


async def test_deep_body_is_read_to_its_end() -> None:
    data: Any = {"image_url": "file:///a"}
    for _ in range(5000):
        data = [data]
    with pytest.raises(InvalidRequest):
        await media.check(b"url", {"input": data}, resolve)


async def test_hosts_of_a_request_are_few_and_each_is_asked_for_once() -> None:
    asked: list[str] = []

    async def public(host: str) -> list[str]:
        asked.append(host)
        return ["93.184.215.14"]

    data = {"input": [{"image_url": f"http://pictures.example/{i}"} for i in range(100)]}
    await media.check(b"url", data, public)
    assert asked == ["pictures.example"]
    data = {"input": [{"image_url": f"http://{i}.example/"} for i in range(100)]}
    with pytest.raises(InvalidRequest, match="64 hosts"):
        await media.check(b"url", data, public)
    assert len(asked) == 1
