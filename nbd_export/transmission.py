"""Requests and replies after the handshake: their values, their check, their bytes. Pure.

The stream of bytes belongs to `protocol`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nbd_export import wire
from nbd_export.errors import NbdErrno
from nbd_export.limits import PAYLOAD_BYTES_MAX
from nbd_export.wire import Command, CommandFlag

_WRITING: Final = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})
_KNOWN: Final = frozenset(Command)

# Plain integers: the complement of an IntFlag knows only the flags that have names.
_FLAGS_ALLOWED: Final = int(CommandFlag.FUA)
_FLAGS_ALLOWED_ZEROES: Final = int(CommandFlag.FUA | CommandFlag.NO_HOLE)


class Request(NamedTuple):
    """A request that passed the check; `payload` is a WRITE's data, whole, and belongs to the receiver.

    A tuple, because there are a hundred thousand a second.

    `cookie` is the client's name for the request. Offset and length are in bytes, inside the export.
    """

    command: int
    cookie: int
    offset: int
    length: int
    fua: bool
    no_hole: bool
    payload: bytes | memoryview


def fault_of(
    command: int, flags: int, offset: int, length: int, size_bytes: int, read_only: bool
) -> NbdErrno:
    """The error that a request deserves for its header alone, or `NbdErrno.OK`.

    Which error for which fault is the specification's choice: beyond the end ENOSPC for what
    writes, EINVAL for reads and trims; a request that this server never offered is EINVAL.
    """
    allowed = _FLAGS_ALLOWED_ZEROES if command == Command.WRITE_ZEROES else _FLAGS_ALLOWED
    if command not in _KNOWN or flags & ~allowed:
        return NbdErrno.EINVAL
    if command == Command.FLUSH:
        return NbdErrno.EINVAL if offset or length else NbdErrno.OK
    if read_only and command in _WRITING:
        return NbdErrno.EPERM
    if length == 0 or (length > PAYLOAD_BYTES_MAX and command in (Command.READ, Command.WRITE)):
        return NbdErrno.EINVAL
    if offset + length > size_bytes:
        return NbdErrno.ENOSPC if command in (Command.WRITE, Command.WRITE_ZEROES) else NbdErrno.EINVAL
    return NbdErrno.OK


def simple_reply(cookie: int, error: NbdErrno = NbdErrno.OK) -> bytes:
    """The header of a reply; after that of a good READ its data follows."""
    return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie)
