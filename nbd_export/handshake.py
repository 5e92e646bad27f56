"""The server's side of NBD's option haggling, as pure functions from an option to its answer.

The stream of bytes belongs to `protocol`, requests to `transmission`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nbd_export import wire
from nbd_export.backend import Export, Exports
from nbd_export.limits import EXPORT_NAME_BYTES_MAX, PAYLOAD_BYTES_MAX
from nbd_export.wire import HandshakeFlag, Info, Option, ReplyType, TransmissionFlag

GREETING: Final = wire.GREETING.pack(
    wire.NBDMAGIC, wire.IHAVEOPT, HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
)

# Any offset and length are served; 4 KiB is what journal and container like best.
BLOCK_SIZE_MIN: Final = 1
BLOCK_SIZE_PREFERRED: Final = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What follows from one option: bytes to send, then perhaps the end of the handshake.

    `chosen` is the export that the client now uses; `hang_up` says that the connection is over.
    """

    reply: bytes
    chosen: Export | None = None
    hang_up: bool = False


class _Refused(Exception):
    """An option gets an error reply, and the haggling goes on."""

    def __init__(self, kind: ReplyType, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def answer_option(option: int, data: bytes, exports: Exports, no_zeroes: bool) -> Answer:
    """Answer one option.

    Args:
        option: its number, known or not.
        data: its whole data, at most OPTION_BYTES_MAX.
        exports: what there is to choose from.
        no_zeroes: both sides agreed to leave out the padding after EXPORT_NAME.
    """
    try:
        if option == Option.EXPORT_NAME:
            return _export_name(data, exports, no_zeroes)
        if option in (Option.GO, Option.INFO):
            return _go_or_info(option, data, exports)
        if option == Option.LIST:
            return Answer(_list(data, exports))
        if option == Option.ABORT:
            return Answer(option_reply(option, ReplyType.ACK), hang_up=True)
        raise _Refused(ReplyType.ERR_UNSUP, "this server does not know the option")
    except _Refused as refusal:
        return Answer(option_reply(option, refusal.kind, str(refusal).encode()))


def option_reply(option: int, kind: ReplyType, data: bytes = b"") -> bytes:
    """The bytes of one reply to `option`; the data of an error is a message for people."""
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def transmission_flags(export: Export) -> TransmissionFlag:
    """What is offered on `export`. A flush covers every connection, hence CAN_MULTI_CONN."""
    flags = (
        TransmissionFlag.HAS_FLAGS
        | TransmissionFlag.SEND_FLUSH
        | TransmissionFlag.SEND_FUA
        | TransmissionFlag.CAN_MULTI_CONN
    )
    if export.read_only:
        return flags | TransmissionFlag.READ_ONLY
    return flags | TransmissionFlag.SEND_TRIM | TransmissionFlag.SEND_WRITE_ZEROES


def _export_name(data: bytes, exports: Exports, no_zeroes: bool) -> Answer:
    """EXPORT_NAME has no error reply: the specification wants the connection closed instead."""
    try:
        export = _find(data, exports)
    except _Refused:
        return Answer(b"", hang_up=True)
    reply = wire.EXPORT_NAME_REPLY.pack(export.size_bytes, transmission_flags(export))
    return Answer(reply if no_zeroes else reply + wire.EXPORT_NAME_PADDING, chosen=export)


def _go_or_info(option: int, data: bytes, exports: Exports) -> Answer:
    name, wanted = _parse_info_request(data)
    export = _find(name, exports)
    replies = [option_reply(option, ReplyType.INFO, info) for info in _infos(export, wanted)]
    reply = b"".join(replies) + option_reply(option, ReplyType.ACK)
    return Answer(reply, chosen=export if option == Option.GO else None)


def _parse_info_request(data: bytes) -> tuple[bytes, set[int]]:
    """The name and the kinds of information asked for, in GO's or INFO's data."""
    prefix_bytes = wire.UINT32.size
    if len(data) < prefix_bytes + wire.UINT16.size:
        raise _Refused(ReplyType.ERR_INVALID, "the option's data is too short")
    (name_bytes,) = wire.UINT32.unpack_from(data)
    count_at = prefix_bytes + name_bytes
    if count_at + wire.UINT16.size > len(data):
        raise _Refused(ReplyType.ERR_INVALID, "the name is longer than the option's data")
    (count,) = wire.UINT16.unpack_from(data, count_at)
    kinds = data[count_at + wire.UINT16.size :]
    if len(kinds) != count * wire.UINT16.size:
        raise _Refused(ReplyType.ERR_INVALID, "the option's data does not fit its count of requests")
    return data[prefix_bytes:count_at], {kind for (kind,) in wire.UINT16.iter_unpack(kinds)}


def _infos(export: Export, wanted: set[int]) -> Iterator[bytes]:
    """The data of every INFO reply: the export itself always, the rest if wanted and known."""
    yield wire.INFO_EXPORT.pack(Info.EXPORT, export.size_bytes, transmission_flags(export))
    if Info.NAME in wanted:
        yield wire.UINT16.pack(Info.NAME) + export.name.encode()
    if Info.DESCRIPTION in wanted:
        yield wire.UINT16.pack(Info.DESCRIPTION) + export.description.encode()
    if Info.BLOCK_SIZE in wanted:
        yield wire.INFO_BLOCK_SIZE.pack(
            Info.BLOCK_SIZE, BLOCK_SIZE_MIN, BLOCK_SIZE_PREFERRED, PAYLOAD_BYTES_MAX
        )


def _list(data: bytes, exports: Exports) -> bytes:
    if data:
        raise _Refused(ReplyType.ERR_INVALID, "LIST takes no data")
    names = [name.encode() for name in exports.names()]
    servers = [
        option_reply(Option.LIST, ReplyType.SERVER, wire.UINT32.pack(len(name)) + name) for name in names
    ]
    return b"".join(servers) + option_reply(Option.LIST, ReplyType.ACK)


def _find(name: bytes, exports: Exports) -> Export:
    if len(name) > EXPORT_NAME_BYTES_MAX:
        raise _Refused(ReplyType.ERR_TOO_BIG, "the name is too long")
    try:
        export = exports.find(name.decode())
    except UnicodeDecodeError:
        raise _Refused(ReplyType.ERR_INVALID, "the name is not UTF-8") from None
    if export is None:
        raise _Refused(ReplyType.ERR_UNKNOWN, "no such export")
    return export
