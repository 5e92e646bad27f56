"""The checks of a runbook, each made once: it returns where it has passed, and raises NotYet else.

All can be cancelled at any instant and read no more than they name. When a check is made again does not
belong here (plan).
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import os
import re
import shlex
import socket
import ssl
import stat
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from rehydrate.boot.machines import Ready
from rehydrate.boot.patterns import TooLong, is_in
from rehydrate.boot.programs import plain_environment, run_words
from rehydrate.runbook.model import CheckSettings

ATTEMPT_SECONDS_MAX: Final = 10.0
"""Of a connection, and of a page with its body."""
HTTP_BYTES_MAX: Final = 256 << 10
"""Of an answer, headers and body; what comes after it is not looked at."""
CONSOLE_STEP_BYTES: Final = 1 << 20
"""Of a console at once; others have their turn between two steps."""
CONSOLE_WINDOW_BYTES: Final = 64 << 10
"""In which a pattern is looked for: what came last, and so much before it."""
CONSOLE_SECONDS: Final = 1.0
"""So long a console is followed until it is told that nothing came."""
CONSOLE_LOOK_SECONDS: Final = 0.1
OUTPUT_BYTES_MAX: Final = 4096
_READ_BYTES: Final = 64 << 10
_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class NotYet(Exception):
    """A check was made and has not passed; the words say why."""


def check_text(check: CheckSettings) -> str:
    """What a check is, in a line."""
    if check.tcp is not None:
        return f"tcp {check.tcp}"
    if check.http is not None:
        return f"http {check.http}"
    if check.console is not None:
        return f"console {check.console!r}"
    return f"command {shlex.join(check.command or ())}"


async def make_check(check: CheckSettings, vm: Ready, console: Console) -> None:
    """Make a check of a VM once; `console`: how far it was read for this check. Raises NotYet.

    A command goes on until it ends, or is cancelled.
    """
    if check.tcp is not None:
        await _tcp(check.tcp)
    elif check.http is not None:
        await _http(check)
    elif check.console is not None:
        await _follow(console, vm.known.path("console"), check.console)
    else:
        await _command(check.command or [], vm)


# --- tcp, http -------------------------------------------------------------------------------------


async def _tcp(endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS_MAX):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        raise NotYet(f"no connection within {ATTEMPT_SECONDS_MAX:g} s") from None
    except (OSError, ValueError) as error:
        raise NotYet(_words_of(error)) from None
    await _close(writer)


async def _http(check: CheckSettings) -> None:
    assert check.http is not None
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS_MAX):
            data = await _fetched(check.http, check.body is not None)
    except TimeoutError:
        raise NotYet(f"no answer within {ATTEMPT_SECONDS_MAX:g} s") from None
    except (OSError, ValueError) as error:
        raise NotYet(_words_of(error)) from None
    status, body = answer_of(data)
    if not (status == check.status if check.status is not None else 200 <= status < 300):
        raise NotYet(f"it answers with status {status}")
    if check.body is not None and not await _is_in(check.body, body):
        raise NotYet(f"its page has no {check.body!r}")


async def _fetched(url: str, wants_body: bool) -> bytes:
    """What a server sends, up to a limit: some send for ever."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    host = parts.hostname or ""
    port = parts.port or (443 if is_tls else 80)
    reader, writer = await asyncio.open_connection(host, port, ssl=_unverified() if is_tls else None)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        name = parts.netloc.rpartition("@")[2]
        request = f"GET {path} HTTP/1.0\r\nHost: {name}\r\nUser-Agent: rehydrate\r\nConnection: close\r\n\r\n"
        writer.write(request.encode("ascii", "backslashreplace"))
        await writer.drain()
        data = bytearray()
        while len(data) < HTTP_BYTES_MAX:
            more = await reader.read(min(_READ_BYTES, HTTP_BYTES_MAX - len(data)))
            if not more:
                break
            data += more
            if _is_enough(data, wants_body):
                break
        return bytes(data)
    finally:
        await _close(writer)


def _unverified() -> ssl.SSLContext:
    """A recovered VM is asked by its address, which its certificate does not name; nothing secret is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _is_enough(data: bytearray, wants_body: bool) -> bool:
    """Whether an answer is there, as far as it is looked at: not every server ends the connection."""
    head, blank, _ = bytes(data).partition(b"\r\n\r\n")
    if not blank or not wants_body:
        return bool(blank)
    match = re.search(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?:\r\n|$)", head, re.IGNORECASE)
    return match is not None and len(data) - len(head) - 4 >= int(match[1])


class _Sent(io.BytesIO):
    """Bytes that came, as the library wants to be given a socket."""

    def makefile(self, mode: str) -> io.BytesIO:
        """Itself."""
        return self


def answer_of(data: bytes) -> tuple[int, str]:
    """The status and the text of an answer, as far as it came. Raises NotYet: it is none."""
    response = http.client.HTTPResponse(_Sent(data))  # type: ignore[arg-type]
    try:
        response.begin()
        try:
            body = response.read()
        except http.client.IncompleteRead as cut:
            body = cut.partial
    except (http.client.HTTPException, ValueError, OSError) as error:
        raise NotYet(f"what it answers is no HTTP: {type(error).__name__}") from None
    return response.status, body.decode(errors="replace")


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _is_in(pattern: str, text: str) -> bool:
    try:
        return await is_in(pattern, text)
    except TooLong as error:
        raise NotYet(str(error)) from None


def _words_of(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):  # a name that is too long, or has characters that none has
        return "there can be no such host"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'it failed'}"
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    return os.strerror(error.errno) if error.errno else "no connection"


# --- console ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Console:
    """A console that is read from its start: `at`, how far; `window`, what came last.

    `is_new`: nothing was looked for to the end yet in what came last.
    """

    at: int = 0
    window: bytes = b""
    is_new: bool = False

    def read(self, path: str) -> bool:
        """One step; whether there was anything. Raises NotYet: it is no file."""
        try:
            fd = os.open(path, _OPEN)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise NotYet(f"{path}: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise NotYet(f"{path} is no file")
            data = os.pread(fd, CONSOLE_STEP_BYTES, self.at)
        except OSError as error:
            raise NotYet(f"{path}: {error.strerror}") from None
        finally:
            os.close(fd)
        self.at += len(data)
        # Of a step that is longer than the window all must be looked at, and what stands before it.
        if data:
            self.window = self.window[-CONSOLE_WINDOW_BYTES:] + data
            self.is_new = True
        return bool(data)

    async def has(self, pattern: str) -> bool:
        """Whether the pattern is in what came last. Raises NotYet: nobody can tell."""
        found = await _is_in(pattern, self.window.decode(errors="replace"))
        self.is_new = False
        return found

    @property
    def last_line(self) -> str:
        """What it said last."""
        lines = self.window[-1024:].decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


async def _follow(console: Console, path: str, pattern: str) -> None:
    """Read a console on until a pattern comes."""
    loop = asyncio.get_running_loop()
    until = loop.time() + CONSOLE_SECONDS
    while True:
        had = console.read(path)
        if console.is_new and await console.has(pattern):
            return
        if loop.time() >= until:
            last = f"; it said last: {console.last_line!r}" if console.window else "; it said nothing"
            raise NotYet(f"it did not say {pattern!r}{last}")
        await asyncio.sleep(0.0 if had else CONSOLE_LOOK_SECONDS)


# --- command ---------------------------------------------------------------------------------------


async def _command(words: list[str], vm: Ready) -> None:
    told = {
        "CDP_VM": vm.name,
        "CDP_VM_CONSOLE": vm.known.path("console"),
        "CDP_VM_UUID": vm.known.uuid,
        "CDP_VM_REHEARSAL": "1" if vm.known.is_rehearsed else "0",
    }
    try:
        ended = await run_words(words, {**plain_environment(), **told}, OUTPUT_BYTES_MAX)
    except OSError as error:
        raise NotYet(f"it cannot be started: {error.strerror}") from None
    except UnicodeError:
        raise NotYet("it cannot be started: a word of it is no text") from None
    if ended.code:
        raise NotYet(ended.words)
