"""Requests and replies after the handshake: their values, their check, their bytes. Pure.

The stream of bytes belongs to `protocol`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from nbd_export import wire
from nbd_export.backend import Extent
from nbd_export.errors import NbdErrno
from nbd_export.limits import PAYLOAD_BYTES_MAX
from nbd_export.wire import ChunkFlag, ChunkType, Command, CommandFlag

_WRITING: Final = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})

# Plain integers: an IntFlag makes an object of every result, which a request would pay for; and the
# complement of an IntFlag knows only the flags that have names.
FUA: Final = int(CommandFlag.FUA)
NO_HOLE: Final = int(CommandFlag.NO_HOLE)
REQ_ONE: Final = int(CommandFlag.REQ_ONE)
_DONE: Final = int(ChunkFlag.DONE)
_OFFSET_DATA: Final = int(ChunkType.OFFSET_DATA)
_READ: Final = int(Command.READ)
_BLOCK_STATUS: Final = int(Command.BLOCK_STATUS)

# The commands that there are, and the flags of each. FUA is allowed everywhere, even where it means nothing.
_PLAIN: Final[Mapping[int, int]] = {
    Command.READ: FUA, Command.WRITE: FUA, Command.FLUSH: FUA, Command.TRIM: FUA, Command.CACHE: FUA,
    Command.WRITE_ZEROES: FUA | NO_HOLE,
}  # fmt: skip


class Request(NamedTuple):
    """A request that passed the check; `payload` is a WRITE's data, whole, and belongs to the receiver.

    A tuple, because there are a hundred thousand a second.

    `cookie` is the client's name for the request. Offset and length are in bytes, inside the export.
    """

    command: int
    cookie: int
    offset: int
    length: int
    flags: int
    payload: bytes | memoryview


def flags_allowed(structured: bool, with_status: bool) -> Mapping[int, int]:
    """The commands that a client may send, each with its flags.

    Args:
        structured: structured replies were agreed on.
        with_status: and the context base:allocation for this export.
    """
    allowed = dict(_PLAIN)
    if structured:
        allowed[Command.READ] |= CommandFlag.DF
    if with_status:
        allowed[Command.BLOCK_STATUS] = FUA | REQ_ONE
    return allowed


def fault_of(
    command: int, flags: int, offset: int, length: int, size_bytes: int, read_only: bool,
    allowed: Mapping[int, int] = _PLAIN,
) -> NbdErrno:  # fmt: skip
    """The error that a request deserves for its header alone, or `NbdErrno.OK`.

    Which error for which fault is the specification's choice: beyond the end ENOSPC for what
    writes, EINVAL for all others; a request that this server never offered is EINVAL.
    """
    known = allowed.get(command)
    if known is None or flags & ~known:
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


def good_replies(cookies: Sequence[int]) -> bytes:
    """The replies to as many requests that have no data to answer with."""
    pack = wire.SIMPLE_REPLY.pack
    return b"".join([pack(wire.SIMPLE_REPLY_MAGIC, 0, cookie) for cookie in cookies])


def room_for_reads(
    reads: Sequence[tuple[int, int, int]], structured: bool
) -> tuple[bytearray, list[tuple[int, memoryview]]]:
    """The good replies to READs, (cookie, offset, length) each, one behind the other, without their data.

    Returns:
        The replies, and of each READ its offset and where its data goes.
    """
    header_bytes = wire.CHUNK_DATA.size if structured else wire.SIMPLE_REPLY.size
    replies = bytearray(bytes_for_reads(reads, structured))
    view = memoryview(replies)
    places = []
    end = 0
    for cookie, offset, length in reads:
        if structured:
            wire.CHUNK_DATA.pack_into(
                replies, end, wire.STRUCTURED_REPLY_MAGIC, _DONE, _OFFSET_DATA, cookie, 8 + length, offset
            )
        else:
            wire.SIMPLE_REPLY.pack_into(replies, end, wire.SIMPLE_REPLY_MAGIC, 0, cookie)
        start = end + header_bytes
        end = start + length
        places.append((offset, view[start:end]))
    return replies, places


def bytes_for_reads(reads: Sequence[tuple[int, int, int]], structured: bool) -> int:
    """Of all the replies of `room_for_reads`."""
    header_bytes = wire.CHUNK_DATA.size if structured else wire.SIMPLE_REPLY.size
    return len(reads) * header_bytes + sum([length for _, _, length in reads])


def read_header(request: Request, structured: bool) -> bytes:
    """What goes before the data of a good READ. It is one chunk, never in fragments, so DF is kept."""
    if not structured:
        return simple_reply(request.cookie)
    return wire.CHUNK_DATA.pack(
        wire.STRUCTURED_REPLY_MAGIC, _DONE, _OFFSET_DATA, request.cookie, 8 + request.length, request.offset
    )


def error_reply(command: int, cookie: int, error: NbdErrno, structured: bool) -> bytes:
    """The reply that refuses a request.

    Once structured replies are agreed on, what is answered with a payload must be refused with a
    chunk; everything else may have the simple reply, which is shorter.
    """
    if not structured or command not in (_READ, _BLOCK_STATUS):
        return simple_reply(cookie, error)
    return wire.CHUNK_ERROR.pack(wire.STRUCTURED_REPLY_MAGIC, _DONE, ChunkType.ERROR, cookie, 4 + 2, error, 0)


def status_reply(cookie: int, context: int, extents: Sequence[Extent]) -> bytes:
    """The reply to a BLOCK_STATUS: the first parts of its range, in order, in one chunk."""
    parts = b"".join([wire.EXTENT.pack(extent.length, extent.state) for extent in extents])
    header = wire.CHUNK.pack(
        wire.STRUCTURED_REPLY_MAGIC, _DONE, ChunkType.BLOCK_STATUS, cookie, wire.UINT32.size + len(parts)
    )
    return header + wire.UINT32.pack(context) + parts
