"""Every limit of the NBD server, in one place, each with its reason.

What hostile clients can make the server hold: IN_FLIGHT_BYTES_TOTAL_MAX for the requests and replies of
all, and for each of CONNECTIONS_MAX per listener its BUFFER_BYTES, SHARE_BYTES of small requests and
UNSENT_REPLY_BYTES_MAX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# The specification's limit for strings, export names among them.
EXPORT_NAME_BYTES_MAX: Final = 4096

# Room for GO with the longest name and a generous list of information requests.
OPTION_BYTES_MAX: Final = 8192

# nbdinfo --list asks a few options per export; nobody haggles longer than this.
OPTIONS_PER_HANDSHAKE_MAX: Final = 1024

# Of answers in one handshake: the list of a thousand exports takes 90 KB.
HANDSHAKE_REPLY_BYTES_MAX: Final = 4 << 20

# The largest READ or WRITE, advertised to clients: what the specification assumes without advertising.
PAYLOAD_BYTES_MAX: Final = 32 << 20

# The payload of a WRITE beyond that is skipped, so that the client gets its error; beyond this we hang up.
SKIPPED_PAYLOAD_BYTES_MAX: Final = 64 << 20

# One recv takes at most this: enough for 60 writes of 4 KiB at once, which is where the speed comes from.
BUFFER_BYTES: Final = 256 << 10

# Writes handed to an export at once: a system call takes at most 1024 buffers, and a write may need three.
WRITES_AT_ONCE_MAX: Final = 256

# Small reads answered at once, with one buffer: 32 of 4 KiB; a socket takes hardly more.
READS_TOGETHER_BYTES_MAX: Final = 128 << 10

# Parts told in one reply to BLOCK_STATUS, 8 KiB of them; a client asks again for the rest.
EXTENTS_MAX: Final = 1024

# Queries in one option about metadata contexts: there is one context.
CONTEXT_QUERIES_MAX: Final = 64

# A payload that is not whole in the buffer and larger than this is received right into its own memory.
DIRECT_PAYLOAD_BYTES_MIN: Final = 32 << 10

# Requests begun and not answered, per connection: no client goes as deep, and every one may cost a task.
IN_FLIGHT_REQUESTS_MAX: Final = 256

# Payloads and read buffers of these requests: two of the largest.
IN_FLIGHT_BYTES_MAX: Final = 64 << 20

# The same of all connections, with replies that wait for their clients: no disk has use for more at once.
IN_FLIGHT_BYTES_TOTAL_MAX: Final = 64 << 20

# While that is used up a connection still goes on with so much: large requests hold up no others' small ones.
SHARE_BYTES: Final = 256 << 10

# Replies that the socket did not take yet; above this nothing new is begun until they have gone.
UNSENT_REPLY_BYTES_MAX: Final = 512 << 10

# Replies smaller than this are joined into one send, larger data is handed over without a copy.
JOINED_REPLY_BYTES_MAX: Final = 64 << 10

# Every disk of a host, several connections each; counted for each listener, so that TCP's clients cannot
# lock out those of the unix socket.
CONNECTIONS_MAX: Final = 256

# Connections that the kernel holds for us before we accept them.
BACKLOG_CONNECTIONS: Final = 64

# A client that has not chosen an export by then is gone, stuck or hostile.
HANDSHAKE_SECONDS_MAX: Final = 10.0

# A request whose beginning has come is whole after that, or its client is stuck: 0.5 MiB/s for the largest.
REQUEST_SECONDS_MAX: Final = 60.0

# So long a client may leave UNSENT_REPLY_BYTES_MAX lying, or the last replies before we hang up.
REPLIES_SECONDS_MAX: Final = 60.0

# And where others wait for the memory that its request or its replies hold, so long without a byte moved.
STANDSTILL_SECONDS_MAX: Final = 5.0

# A TLS client that does not answer our farewell, or does not take the last replies, is cut off.
TLS_SHUTDOWN_SECONDS_MAX: Final = 10.0

# TCP alone never notices that an idle peer's machine is gone: 60 + 6 * 10 s then. And what was sent
# to a peer that is gone is given up after the same time.
KEEPALIVE_IDLE_SECONDS: Final = 60
KEEPALIVE_INTERVAL_SECONDS: Final = 10
KEEPALIVE_PROBES_MAX: Final = 6
UNACKNOWLEDGED_MILLISECONDS_MAX: Final = 120_000

# How long a server that closes waits for requests that were begun before it gives up on them.
DRAIN_SECONDS_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Those limits that a server can be given; see the constants."""

    connections: int = CONNECTIONS_MAX
    handshake_seconds: float = HANDSHAKE_SECONDS_MAX
    request_seconds: float = REQUEST_SECONDS_MAX
    replies_seconds: float = REPLIES_SECONDS_MAX
    standstill_seconds: float = STANDSTILL_SECONDS_MAX
    in_flight_bytes: int = IN_FLIGHT_BYTES_TOTAL_MAX
