"""The files of the console, each read and compressed once."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

HERE = Path(__file__).parent
PAGE = "static/index.html"
LAZY = frozenset({"vendor/uplot.js", "static/views/charts.js"})
"""Modules that a view asks for when it is first shown."""

_STYLE = "static/style.css"
_FOLDERS = ("static", "vendor")
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PRELOADS = "<!-- preloads -->"


@dataclass(frozen=True)
class Asset:
    """packed: gzip of content. etag: weak, the same for both."""

    content: bytes
    packed: bytes
    media_type: str
    etag: str

    def is_known(self, if_none_match: str) -> bool:
        """if_none_match: the header of a client that has some version of it."""
        return self.etag in (known.strip() for known in if_none_match.split(","))


@dataclass(frozen=True)
class Assets:
    """files: by path; the page names them below `version`, which is another one when any of them is: so browsers may
    keep them for good."""

    version: str
    page: Asset
    files: dict[str, Asset]


@cache
def assets() -> Assets:
    found = {path.relative_to(HERE).as_posix(): path for folder in _FOLDERS for path in (HERE / folder).rglob("*")}
    files = {name: found[name].read_bytes() for name in sorted(found) if found[name].suffix in _KINDS}
    page = files.pop(PAGE).decode()
    sheets = [files.pop(name) for name in list(files) if name.endswith(".css")]
    files[_STYLE] = b"\n".join(sheets)  # one request before the first paint, not one each
    version = hashlib.sha256(b"".join(files.values())).hexdigest()[:12]
    whole = _with_preloads(page, files).replace('="console/', f'="console/{version}/')
    return Assets(version, _asset(PAGE, whole.encode()), {name: _asset(name, files[name]) for name in files})


def _with_preloads(page: str, names: dict[str, bytes]) -> str:
    """The page with all modules asked for at once, and not each when another one imports it; what is seen first comes
    first."""
    modules = (name for name in names if name.endswith(".js") and name not in LAZY)
    links = (f'<link rel="modulepreload" fetchpriority="low" href="console/{name}">' for name in modules)
    return page.replace(_PRELOADS, "".join(links))


def _asset(name: str, content: bytes) -> Asset:
    media_type = f"{_KINDS[PurePosixPath(name).suffix]}; charset=utf-8"
    etag = f'W/"{hashlib.sha256(content).hexdigest()[:20]}"'
    return Asset(content, gzip.compress(content, 9, mtime=0), media_type, etag)
