"""An S3 server that fails as real ones do: a proxy on loopback before a sound one.

    with FlakyS3(sound_url, RandomPlan(seed=1, rates={"500": 0.1, "reset": 0.05})) as flaky:
        os.environ["AWS_ENDPOINT_URL"] = flaky.url

What happens to a request is up to the plan, a function of the request. Nothing but the plan fails:
every other request reaches the server behind, and its answer comes back as it is.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["500", "503", "slow", "silent", "reset", "cut", "denied", "expired", "unknown"]
"""500 InternalError; 503 SlowDown; an answer late, or none; the connection reset; an answer cut in
the middle; and refusals: of the object, of old credentials, of unknown ones."""

SLOW_SECONDS = 2.0

ERRORS: dict[Fault, tuple[int, str]] = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "denied": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
    "unknown": (403, "InvalidAccessKeyId"),
}

UPLOAD_ID = re.compile(r"uploadId=[^&]*")

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "host"}
"""Headers that belong to one connection."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    """/bucket/key?query, as it was sent, but for the random ids of uploads."""

    attempt: int
    """How often this method and path were asked for before."""


Plan = Callable[[Request], Fault | None]


@dataclass(frozen=True, slots=True)
class RandomPlan:
    """Each fault with its rate. A request's fate hangs on the seed and on itself, not on when it
    comes: threads do not change it."""

    seed: int
    rates: Mapping[Fault, float]

    def __call__(self, request: Request) -> Fault | None:
        chance = random.Random(f"{self.seed} {request.method} {request.path} {request.attempt}")
        drawn = chance.random()
        for fault, rate in self.rates.items():
            if drawn < rate:
                return fault
            drawn -= rate
        return None


def sound(_: Request) -> Fault | None:
    """The plan of a server that never fails."""
    return None


class FlakyS3:
    """The proxy. `plan` may be changed while it runs."""

    def __init__(self, behind: str, plan: Plan = sound) -> None:
        """`behind` is the URL of the sound server, http://127.0.0.1:PORT."""
        self.plan = plan
        self.seen: Counter[str] = Counter()
        """Requests by fault; "ok" are those passed on."""

        self.requests: list[Request] = []
        self._behind = urlsplit(behind).netloc
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server: _Server | None = None
        self._port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> FlakyS3:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self.down()

    def down(self) -> None:
        """Refuse connections, until `up`, and answer none that is still open."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def up(self) -> None:
        """Listen (again), on the same port."""
        if self._server is None:
            self._server = server = _Server(("127.0.0.1", self._port), _Handler)
            server.proxy = self
            self._port = server.server_port
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def is_up(self, server: _Server) -> bool:
        return self._server is server

    def fate(self, method: str, path: str) -> Fault | None:
        """What the plan has for this request; counts it."""
        path = UPLOAD_ID.sub("uploadId=", path)
        with self._lock:
            request = Request(method, path, self._attempts[method, path])
            self._attempts[method, path] += 1
            self.requests.append(request)
            fault = self.plan(request)
            self.seen[fault or "ok"] += 1
        return fault

    def keep_silent(self) -> None:
        self._closing.wait(120)

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """The sound server's answer."""
        connection = http.client.HTTPConnection(self._behind, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def error(cls, fault: Fault) -> Answer:
        status, code = ERRORS[fault]
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>planned</Message></Error>"
        return cls(status, {"Content-Type": "application/xml"}, body.encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128
    proxy: FlakyS3

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        proxy = self.server.proxy
        body = self._body()
        if not proxy.is_up(self.server):
            self._reset()
            return
        fault = proxy.fate(self.command, self.path)
        match fault:
            case "500" | "503" | "denied" | "expired" | "unknown":
                self._answer(Answer.error(fault))
            case "silent":
                proxy.keep_silent()
                self.close_connection = True
            case "reset":
                self._reset()
            case _:
                if fault == "slow":
                    time.sleep(SLOW_SECONDS)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
                answer = proxy.ask(self.command, self.path, body, headers)
                self._answer(answer, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def _answer(self, answer: Answer, *, cut: bool = False) -> None:
        self.send_response(answer.status)
        length = len(answer.body)
        for name, value in answer.headers.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
            elif name.lower() == "content-length" and self.command == "HEAD":
                length = int(value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: length // 2] if cut else answer.body)
        if cut:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass
