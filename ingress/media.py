"""Addresses that a request has an engine fetch from: none of this machine, its networks or its files.

The engine looks the name up again when it fetches: a name server that answers differently then is not caught here. What
such a server must not reach, the network has to keep from the engine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from yarl import URL

from deployments.config import path_of
from deployments.errors import InvalidRequest

RESOLVE_S = 5.0
MAX_HOSTS = 64  # in a request
DATA = "data:"
_NESTED = (dict, list)
_PLAIN = re.compile(r"\w+://[^\x00-\x20\\/?#@%]+([/?#][^\x00-\x20\\]*)?")
"""Without the name of a user, and without what some readers take for the end of a host."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str], Awaitable[Iterable[str]]]


async def check(body: bytes, data: Any, resolve: Resolve | None = None) -> None:
    """body: a request's, and data: the JSON in it. resolve: a host's addresses.

    Raises: InvalidRequest, if an engine might be sent to where only this machine can go.
    """
    if b"url" not in body and rb"\u00" not in body:  # an escaped letter of the word begins so
        return
    hosts: dict[str, str] = {}
    for where, url in urls(data):
        if url[: len(DATA)].lower() != DATA:
            hosts.setdefault(host_of(url, where), where)
    if len(hosts) > MAX_HOSTS:
        raise InvalidRequest(f"The request has addresses of more than {MAX_HOSTS} hosts.", code="invalid_url")
    await asyncio.gather(*(_check_host(host, where, resolve or _addresses) for host, where in hosts.items()))


def urls(data: Any) -> Iterator[tuple[str, str]]:
    """Every text under a key `url` or `…_url`, and where it is: `messages[0].content[1].image_url.url`. Without what
    clients note for themselves."""
    found: list[tuple[tuple[str | int, ...], bool, Any]] = [((), False, data)]
    while found:
        path, is_url, value = found.pop()
        if isinstance(value, str) and is_url:
            yield path_of(path), value
        elif isinstance(value, list):
            found += [((*path, i), is_url, one) for i, one in enumerate(value) if is_url or not isinstance(one, int)]
        elif isinstance(value, dict):
            found += [((*path, key), _names_url(key), one) for key, one in value.items() if path or key != "metadata"]


def _names_url(key: str) -> bool:
    return key == "url" or key.endswith("_url")


def host_of(url: str, where: str) -> str:
    """Raises: InvalidRequest, if it is no address on the web, or one that different readers read differently."""
    if not url.lower().startswith(("http://", "https://")):
        raise _refused(where, "must be an http, https or data address")
    try:
        hosts = {URL(url).host, urlsplit(url).hostname} if _PLAIN.fullmatch(url) else set()
    except ValueError:
        hosts = set()
    if len(hosts) != 1 or not (host := hosts.pop()):
        raise _refused(where, "is no plain address")
    return host


def is_public(address: str) -> bool:
    ip: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast


async def _check_host(host: str, where: str, resolve: Resolve) -> None:
    try:
        addresses = list(await asyncio.wait_for(resolve(host), RESOLVE_S))
    except (OSError, UnicodeError, TimeoutError):
        raise _refused(where, f"leads to a host that is not found: {host}") from None
    if not addresses or not all(is_public(address) for address in addresses):
        raise _refused(where, "must not lead to a private network")


async def _addresses(host: str) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _refused(where: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{where} {problem}.", param=where, code="invalid_url")
