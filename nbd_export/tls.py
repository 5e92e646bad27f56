"""The server's certificates: read when they are needed, and anew when their files were changed.

What does not belong here: who must use TLS (`listening`), and the handshake itself (`session`).
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from nbd_export.errors import TlsUnusable

_log: Final = logging.getLogger(__name__)

# What tells one content of a file from the next: mtime in ns, size, inode.
_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate with its chain, its key, and who signs clients' certificates."""

    certificate: Path
    key: Path
    client_ca: Path


class TlsContexts:
    """The context for the next handshake.

    Files that were changed and are unusable change nothing but `error`: the certificates before them go on.
    Three files are looked at for each handshake, in the event loop: they should lie on a local disk.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._context: ssl.SSLContext | None = None
        self._stamp: _Stamp = ()
        self.error = ""
        """Why the files as they are now cannot be used; "" if they can."""

    def current(self) -> ssl.SSLContext:
        """The newest usable context.

        Raises:
            TlsUnusable: there never was one.
        """
        stamp = _stamp_of(self._files)
        if stamp != self._stamp:
            self._stamp = stamp
            self._read_anew()
        if self._context is None:
            raise TlsUnusable(self.error)
        return self._context

    def _read_anew(self) -> None:
        try:
            self._context, self.error = _load(self._files), ""
            _log.info("the certificates of the NBD server were read")
        except (OSError, ValueError) as error:
            self.error = f"the certificates of the NBD server cannot be used: {_said(error)}"
            if self._context is not None:
                self.error += "; those before them are used on"
            _log.error("%s", self.error)


def _load(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # Each connection shows its certificate: none may rest on what was trusted when a ticket was given.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    for path in (files.certificate, files.key, files.client_ca):
        with path.open("rb"):
            pass  # the library does not say which of them it cannot read
    with _naming(f"{files.certificate} with {files.key}"):
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    with _naming(str(files.client_ca)):
        context.load_verify_locations(cafile=files.client_ca)
    return context


@contextmanager
def _naming(files: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{files}: {_said(error)}") from error


def _no_password() -> NoReturn:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


def _stamp_of(files: TlsFiles) -> _Stamp:
    return tuple(_stamp_of_file(path) for path in (files.certificate, files.key, files.client_ca))


def _stamp_of_file(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # reading it will say why
    return status.st_mtime_ns, status.st_size, status.st_ino


def _said(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    why = error.strerror or str(error)
    return why if error.filename is None else f"{error.filename}: {why}"
