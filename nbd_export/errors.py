"""The errors of this package, and NBD's own error numbers.

What does not belong here: exit codes and hints for an administrator. The program that serves
the exports turns these into its own errors.
"""

from __future__ import annotations

import enum
import errno


class NbdErrno(enum.IntEnum):
    """The error numbers that a reply may carry (the NBD specification, "Error values")."""

    OK = 0
    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


# Errors of an operating system that mean something more exact than EIO to a client. Everything
# else, EBADF or ESTALE say, is the server's own trouble: to the client it is EIO.
_BY_ERRNO = {
    errno.EPERM: NbdErrno.EPERM,
    errno.EACCES: NbdErrno.EPERM,
    errno.EROFS: NbdErrno.EPERM,
    errno.ENOMEM: NbdErrno.ENOMEM,
    errno.EINVAL: NbdErrno.EINVAL,
    errno.ENOSPC: NbdErrno.ENOSPC,
    errno.EDQUOT: NbdErrno.ENOSPC,
    errno.EFBIG: NbdErrno.ENOSPC,
    errno.EOVERFLOW: NbdErrno.EOVERFLOW,
    errno.EOPNOTSUPP: NbdErrno.ENOTSUP,
    errno.ESHUTDOWN: NbdErrno.ESHUTDOWN,
}


class NbdExportError(Exception):
    """The root of this package's errors."""


class BackendError(NbdExportError):
    """An export could not do what was asked; the client gets `code`, the connection goes on.

    Args:
        code: the error number of the reply.
        why: the reason, for the log of whoever raised it; NBD carries the number alone.
    """

    def __init__(self, code: NbdErrno, why: str) -> None:
        super().__init__(f"{code.name}: {why}")
        self.code = code


class ClientProtocolError(NbdExportError):
    """A client broke the protocol so that the stream cannot be followed any more: hang up."""


class PlainBeyondLoopback(NbdExportError):
    """Exports would be open, without TLS, to whoever reaches this machine."""


class TlsUnusable(NbdExportError):
    """There are no certificates that could be used."""


class SocketInUse(NbdExportError):
    """Somebody is listening at the path of the socket, or something that is no socket lies there."""


def errno_of(error: BackendError | OSError) -> NbdErrno:
    """The number that tells a client of `error`."""
    if isinstance(error, BackendError):
        return error.code
    return _BY_ERRNO.get(error.errno or 0, NbdErrno.EIO)
