"""The server's side of NBD's option haggling, as pure functions from an option to its answer.

The stream of bytes belongs to `protocol`, requests to `transmission`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from nbd_export import contexts, wire
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
class Terms:
    """What a connection has agreed on so far.

    Attributes:
        no_zeroes: to leave out the padding after EXPORT_NAME.
        structured: to structured replies.
        status_of: the export of which base:allocation was chosen; it counts for no other.
        tls: TLS can be asked for; until then nothing else is answered. After that it is false again.
    """

    no_zeroes: bool
    structured: bool = False
    status_of: Export | None = None
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What follows from one option: bytes to send, new terms, then perhaps the end of the handshake.

    `chosen` is the export that the client now uses; `hang_up` says that the connection is over;
    `start_tls` that TLS begins behind the reply.
    """

    reply: bytes
    terms: Terms
    chosen: Export | None = None
    hang_up: bool = False
    start_tls: bool = False


class _Refused(Exception):
    """An option gets an error reply, and the haggling goes on."""

    def __init__(self, kind: ReplyType, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def answer_option(option: int, data: bytes, exports: Exports, terms: Terms) -> Answer:
    """Answer one option.

    Args:
        option: its number, known or not.
        data: its whole data, at most OPTION_BYTES_MAX.
        exports: what there is to choose from.
        terms: what was agreed on before.
    """
    try:
        if terms.tls:
            return _before_tls(option, data, terms)
        if option == Option.EXPORT_NAME:
            return _export_name(data, exports, terms)
        if option in (Option.GO, Option.INFO):
            return _go_or_info(option, data, exports, terms)
        if option == Option.LIST:
            return Answer(_list(data, exports), terms)
        if option == Option.STRUCTURED_REPLY:
            return _structured_reply(data, terms)
        if option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
            return _meta_context(option, data, exports, terms)
        if option == Option.ABORT:
            return Answer(option_reply(option, ReplyType.ACK), terms, hang_up=True)
        raise _Refused(ReplyType.ERR_UNSUP, "this server does not know the option")
    except _Refused as refusal:
        if option == Option.SET_META_CONTEXT:  # the last one counts, even if it was refused
            terms = replace(terms, status_of=None)
        return Answer(option_reply(option, refusal.kind, str(refusal).encode()), terms)


def option_reply(option: int, kind: ReplyType, data: bytes = b"") -> bytes:
    """The bytes of one reply to `option`; the data of an error is a message for people."""
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def transmission_flags(export: Export, terms: Terms) -> TransmissionFlag:
    """What is offered on `export`. A flush covers every connection, hence CAN_MULTI_CONN."""
    flags = (
        TransmissionFlag.HAS_FLAGS
        | TransmissionFlag.SEND_FLUSH
        | TransmissionFlag.SEND_FUA
        | TransmissionFlag.CAN_MULTI_CONN
        | TransmissionFlag.SEND_CACHE
    )
    if terms.structured:
        flags |= TransmissionFlag.SEND_DF
    if export.read_only:
        return flags | TransmissionFlag.READ_ONLY
    return flags | TransmissionFlag.SEND_TRIM | TransmissionFlag.SEND_WRITE_ZEROES


def _before_tls(option: int, data: bytes, terms: Terms) -> Answer:
    """Nothing is told, and nothing that was agreed on counts, before the client has shown who it is."""
    if option == Option.STARTTLS:
        if data:
            raise _Refused(ReplyType.ERR_INVALID, "STARTTLS takes no data")
        return Answer(option_reply(option, ReplyType.ACK), Terms(terms.no_zeroes), start_tls=True)
    if option == Option.ABORT:
        return Answer(option_reply(option, ReplyType.ACK), terms, hang_up=True)
    if option == Option.EXPORT_NAME:
        return Answer(b"", terms, hang_up=True)
    raise _Refused(ReplyType.ERR_TLS_REQD, "begin TLS first")


def _export_name(data: bytes, exports: Exports, terms: Terms) -> Answer:
    """EXPORT_NAME has no error reply: the specification wants the connection closed instead."""
    try:
        export = _find(data, exports)
    except _Refused:
        return Answer(b"", terms, hang_up=True)
    reply = wire.EXPORT_NAME_REPLY.pack(export.size_bytes, transmission_flags(export, terms))
    return Answer(reply if terms.no_zeroes else reply + wire.EXPORT_NAME_PADDING, terms, chosen=export)


def _go_or_info(option: int, data: bytes, exports: Exports, terms: Terms) -> Answer:
    name, wanted = _parse_info_request(data)
    export = _find(name, exports)
    replies = [option_reply(option, ReplyType.INFO, info) for info in _infos(export, wanted, terms)]
    reply = b"".join(replies) + option_reply(option, ReplyType.ACK)
    return Answer(reply, terms, chosen=export if option == Option.GO else None)


def _structured_reply(data: bytes, terms: Terms) -> Answer:
    if data:
        raise _Refused(ReplyType.ERR_INVALID, "STRUCTURED_REPLY takes no data")
    reply = option_reply(Option.STRUCTURED_REPLY, ReplyType.ACK)
    return Answer(reply, replace(terms, structured=True))


def _meta_context(option: int, data: bytes, exports: Exports, terms: Terms) -> Answer:
    if not terms.structured:
        raise _Refused(ReplyType.ERR_INVALID, "structured replies are needed first")
    try:
        name, queries = contexts.parse_queries(data)
    except ValueError as error:
        raise _Refused(ReplyType.ERR_INVALID, str(error)) from None
    export = _find(name, exports)
    if option == Option.LIST_META_CONTEXT:
        found = list(contexts.listed(queries))
    else:
        found = list(contexts.chosen(queries))
        terms = replace(terms, status_of=export if found else None)
    replies = [option_reply(option, ReplyType.META_CONTEXT, context) for context in found]
    return Answer(b"".join(replies) + option_reply(option, ReplyType.ACK), terms)


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


def _infos(export: Export, wanted: set[int], terms: Terms) -> Iterator[bytes]:
    """The data of every INFO reply: the export itself always, the rest if wanted and known."""
    yield wire.INFO_EXPORT.pack(Info.EXPORT, export.size_bytes, transmission_flags(export, terms))
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
