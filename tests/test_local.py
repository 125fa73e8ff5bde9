from __future__ import annotations

import pytest

from deployments.config import ConfigError, ModelConfig, Settings
from deployments.keys import KeyConfig, hash_of
from ingress.local import HAPROXY, check_exposure, is_local

PAGE = "https://page.example"
MODELS = (ModelConfig(name="a", engine="echo"),)
BARE = Settings(models=MODELS)
TOLD = Settings(models=MODELS, allow_without_keys=True)
KEYED = Settings(models=MODELS, keys=(KeyConfig(name="x", key_hash=hash_of("x")),))


@pytest.mark.parametrize("client", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "a.localhost"])
@pytest.mark.parametrize("origin", [None, "http://localhost:3000", "http://127.0.0.1:8000", PAGE])
def test_request_of_this_machine_is_local(client: str, host: str, origin: str | None) -> None:
    headers = {"host": host} | ({"origin": origin} if origin else {})
    assert is_local(client, headers, [PAGE])


@pytest.mark.parametrize("client", ["10.0.0.2", "::ffff:10.0.0.2", "8.8.8.8", "", "unix:", "localhost.example"])
def test_request_of_another_machine_is_not(client: str) -> None:
    assert not is_local(client, {"host": "localhost"}, ["*"])


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "", "[::1"]
)
def test_name_that_leads_here_but_is_not_ours_is_not(host: str) -> None:
    """A web page's own name, which its name server lets lead to 127.0.0.1."""
    assert not is_local("127.0.0.1", {"host": host}, [])


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "", "http://[::1"])
def test_page_of_somebody_else_is_not(origin: str) -> None:
    assert not is_local("127.0.0.1", {"host": "localhost:8000", "origin": origin}, [PAGE])
    assert is_local("127.0.0.1", {"host": "localhost:8000", "origin": origin}, ["*"])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_server_without_keys_is_for_this_machine_alone(host: str) -> None:
    with pytest.raises(ConfigError, match=host):
        check_exposure(BARE, {}, host)
    with pytest.raises(ConfigError, match="HAProxy"):
        check_exposure(BARE, {HAPROXY: "1"})
    for settings in (TOLD, KEYED):
        check_exposure(settings, {}, host)
        check_exposure(settings, {HAPROXY: "1"}, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_server_for_this_machine_needs_no_keys(host: str) -> None:
    check_exposure(BARE, {HAPROXY: "0"}, host)
