"""A small HTTP server that answers what a test tells it to, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    data: Any


@dataclass(frozen=True)
class Said:
    status: int = 200
    data: Any = None


@dataclass(frozen=True)
class Events:
    """whole: whether the stream ends as HTTP has it, or breaks off."""

    data: Iterable[Any]
    whole: bool = True


Answer = Said | Events | Callable[[Asked], "Said | Events"]


@dataclass
class Server:
    """answers: by `METHOD /path`, the path without its escapes. hung_up: set when a client left an answer."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)

    def says(self, route: str, data: Any, status: int = 200) -> None:
        self.answers[route] = Said(status, data)

    def refuses(self, route: str, status: int, message: str, code: str) -> None:
        error = {"message": message, "type": "x", "param": None, "code": code}
        self.says(route, {"success": False, "message": message, "error": error}, status)

    def streams(self, route: str, *data: Any, whole: bool = True) -> None:
        """data: of the events; text is sent as it is."""
        self.answers[route] = Events(data, whole)

    @property
    def routes(self) -> list[str]:
        return [f"{one.method} {one.path}" for one in self.asked]


@contextmanager
def serving() -> Iterator[Server]:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server = Server(f"http://127.0.0.1:{listening.server_address[1]}")
    listening.RequestHandlerClass = type("Handler", (_Handler,), {"server_": server})
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        asked = self._asked()
        self.server_.asked.append(asked)
        missing = Said(404, {"error": {"message": "No such route.", "code": "route_not_found"}})
        answer = self.server_.answers.get(f"{asked.method} {asked.path}", missing)
        said = answer(asked) if callable(answer) else answer
        if isinstance(said, Events):
            self._stream(said)
            return
        body = said.data if isinstance(said.data, bytes) else json.dumps(said.data).encode()
        self.send_response(said.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _asked(self) -> Asked:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(parts.query))
        return Asked(self.command, unquote(parts.path), query, headers, json.loads(body) if body else None)

    def _stream(self, events: Events) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        try:
            for data in events.data:
                text = data if isinstance(data, str) else json.dumps(data)
                self._chunk(f"data: {text}\n\n".encode())
            if events.whole:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server_.hung_up.set()

    def _chunk(self, piece: bytes) -> None:
        self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.flush()
