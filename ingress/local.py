"""Without keys: whether a server is for this machine alone, and whether a request comes from it. Pure functions.

A browser here asks for any page that is open in it: so of its requests the page's origin counts too, and the name by
which it has found this server, which another's name server may have given out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from deployments.config import ConfigError, Settings
from deployments.keys import ENVIRONMENT

HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
LOOPBACK = "127.0.0.1"


def behind_haproxy(environ: Mapping[str, str]) -> bool:
    """It listens on all addresses, and is the other end of every connection, wherever a request came from."""
    return environ.get(HAPROXY) == "1"


def check_exposure(settings: Settings, environ: Mapping[str, str], host: str = LOOPBACK) -> None:
    """host: the address to listen on.

    Raises: ConfigError, if others than this machine could ask without a key, and nobody has said that they may.
    """
    if settings.keys or settings.allow_without_keys or (is_loopback(host) and not behind_haproxy(environ)):
        return
    what = "HAProxy" if behind_haproxy(environ) else f"http_options.host ({host})"
    raise ConfigError(
        f"keys: {what} listens beyond this machine, and nobody would need a key: set keys ({ENVIRONMENT} in the "
        "environment, or those of llm-manager keys new NAME), or allow_without_keys: true"
    )


def is_local(client: str, headers: Mapping[str, str], origins: Collection[str]) -> bool:
    """client: the address of the connection's other end. origins: of web pages that may ask."""
    if not is_loopback(client) or not is_loopback(_host_of(f"//{headers.get('host', '')}")):
        return False
    origin = headers.get("origin")
    return origin is None or "*" in origins or origin in origins or is_loopback(_host_of(origin))


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """host: an address or a name."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
