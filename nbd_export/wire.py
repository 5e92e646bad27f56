"""NBD's numbers and layouts, under the specification's names.

No behaviour belongs here. Everything is big-endian.
Source: the NetworkBlockDevice/nbd repository, doc/proto.md.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

# --- handshake -------------------------------------------------------------------------------

NBDMAGIC: Final = 0x4E42444D41474943
IHAVEOPT: Final = 0x49484156454F5054
OPTION_REPLY_MAGIC: Final = 0x3E889045565A9

GREETING: Final = struct.Struct(">QQH")  # NBDMAGIC, IHAVEOPT, HandshakeFlag
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION_HEADER: Final = struct.Struct(">QII")  # IHAVEOPT, option, length of data
OPTION_REPLY: Final = struct.Struct(">QIII")  # magic, option, ReplyType, length of data
EXPORT_NAME_REPLY: Final = struct.Struct(">QH")  # size, TransmissionFlag
EXPORT_NAME_PADDING: Final = bytes(124)  # unless NO_ZEROES was agreed
UINT32: Final = struct.Struct(">I")
UINT16: Final = struct.Struct(">H")


class HandshakeFlag(enum.IntFlag):
    """Both sides' flags have the same two bits."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(enum.IntEnum):
    """The options that this server knows; to any other it answers ERR_UNSUP."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class ReplyType(enum.IntEnum):
    """Kinds of option replies."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_TOO_BIG = 0x80000009


class Info(enum.IntEnum):
    """Kinds of information in replies to INFO and GO."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


INFO_EXPORT: Final = struct.Struct(">HQH")  # Info.EXPORT, size, TransmissionFlag
INFO_BLOCK_SIZE: Final = struct.Struct(">HIII")  # Info.BLOCK_SIZE, minimum, preferred, maximum

# --- transmission ----------------------------------------------------------------------------

REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

REQUEST: Final = struct.Struct(">IHHQQI")  # magic, CommandFlag, Command, cookie, offset, length
REQUEST_KIND: Final = struct.Struct(">IIQQI")  # the same, but flags and Command as one number
SIMPLE_REPLY: Final = struct.Struct(">IIQ")  # magic, NbdErrno, cookie
CHUNK: Final = struct.Struct(">IHHQI")  # magic, ChunkFlag, ChunkType, cookie, length of what follows
CHUNK_DATA: Final = struct.Struct(">IHHQIQ")  # the same, and an OFFSET_DATA's offset; then its data
CHUNK_ERROR: Final = struct.Struct(">IHHQIIH")  # the same, and an ERROR's NbdErrno, length of its message
EXTENT: Final = struct.Struct(">II")  # of a BLOCK_STATUS: length, flags of the context


class ChunkFlag(enum.IntFlag):
    """Flags of a structured reply's chunk."""

    DONE = 1 << 0


class ChunkType(enum.IntEnum):
    """The kinds of chunks that this server sends."""

    OFFSET_DATA = 1
    BLOCK_STATUS = 5
    ERROR = 0x8001


class TransmissionFlag(enum.IntFlag):
    """What an export can do, told at its opening."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10


class Command(enum.IntEnum):
    """The commands that this server knows; to any other it answers EINVAL."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(enum.IntFlag):
    """Flags of a request."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
