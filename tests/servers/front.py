"""An HTTP server that stands before an S3 server: it keeps a record, serves TLS, or answers by itself.

It hands requests on as they are (a signature stays good), one connection a request. What does not
belong here: faults of the network below HTTP.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "proxy-connection", "te", "upgrade", "expect"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that arrived; the names of its headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Scripted:
    """An answer that the front gives by itself."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Front:
    """A running front.

    Attributes:
        endpoint: where it listens.
        asked: every request so far.
        script: answers to give to the next requests, first to last; then requests are handed on.
    """

    endpoint: str
    asked: list[Asked] = field(default_factory=list)
    script: list[Scripted] = field(default_factory=list)

    def began_multipart(self) -> list[Asked]:
        """The requests that begin, fill or end a multipart upload."""
        return [asked for asked in self.asked if "uploads" in asked.path or "uploadId" in asked.path]


@contextmanager
def running_front(
    backend: str, tls: ssl.SSLContext | None = None, virtual_of: str | None = None
) -> Iterator[Front]:
    """A front on a free port, stopped at the end.

    Args:
        backend: the endpoint that it hands requests to; "" where every answer is scripted.
        tls: serve TLS with this certificate.
        virtual_of: a domain: requests to "bucket.<domain>" get the bucket into their path.
    """
    front = Front("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or every answer waits 40 ms for the client's delayed ACK

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            path = _path(self.path, self.headers["host"], virtual_of)
            headers = {name.lower(): value for name, value in self.headers.items()}
            front.asked.append(Asked(self.command, self.path, dict(headers)))
            if virtual_of is not None:
                headers["host"] = urlsplit(backend).netloc  # or the backend would see the bucket twice
            answer = (
                front.script.pop(0) if front.script else _hand_on(backend, self.command, path, headers, body)
            )
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "content-length" not in answer.headers:
                self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815  http.server looks for these

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    front.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up (over a certificate, say) is what some tests are about."""


def _path(path: str, host: str, virtual_of: str | None) -> str:
    """The path for the backend; a client that takes us for its proxy asks for a whole URL."""
    parts = urlsplit(path)
    name = (parts.netloc or host).partition(":")[0]
    query = f"?{parts.query}" if parts.query else ""
    if virtual_of is None or not name.endswith(f".{virtual_of}"):
        return parts.path + query
    return f"/{name.removesuffix(f'.{virtual_of}')}{parts.path}".rstrip("/") + query


def _hand_on(backend: str, method: str, path: str, headers: dict[str, str], body: bytes) -> Scripted:
    connection = http.client.HTTPConnection(urlsplit(backend).netloc, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if name not in _HOP_BY_HOP:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        kept = {k.lower(): v for k, v in answer.getheaders() if k.lower() not in _HOP_BY_HOP}
        return Scripted(answer.status, answer.read(), kept)
    finally:
        connection.close()
