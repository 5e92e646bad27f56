"""TCP and TLS: who is let in, with which certificates, and that new ones count without a restart."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from nbd_export.backend import FixedExports
from nbd_export.errors import ClientProtocolError, PlainBeyondLoopback, TlsUnusable
from nbd_export.limits import ServerLimits
from nbd_export.listening import TcpEndpoint, open_tcp_socket
from nbd_export.protocol import Disconnected, ServerConnection, TlsWanted
from nbd_export.tls import TlsContexts, TlsFiles
from tests.nbd_server import MemoryExport, ServerThread, serving
from tests.servers.tls import Authority, issue, make_authority
from tests.unit.nbd_export.raw_client import DEADLINE_SECONDS, is_hung_up_on, receive
from tests.unit.nbd_export.wire_client import (
    ABORT,
    ACK,
    EXPORT_NAME,
    FLAGS,
    FLUSH,
    INFO,
    LIST,
    READ,
    SET_META_CONTEXT,
    STARTTLS,
    STRUCTURED_REPLY,
    WRITE,
    feed,
    go,
    meta_context,
    option,
    option_replies,
    request,
    simple_replies,
)
from tests.waiting import wait_until

SIZE = 1 << 20
ERR_UNSUP, ERR_INVALID, ERR_TLS_REQD = 0x80000001, 0x80000003, 0x80000005
EXPORTS = FixedExports([MemoryExport(SIZE)])


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ours/ (an authority, a server's and a client's certificate) and theirs/ (another one's)."""
    home = tmp_path_factory.mktemp("pki")
    for name in ("ours", "theirs"):
        authority: Authority = make_authority(home / name)
        issue(authority, home / name, "server")
        issue(authority, home / name, "client")
    return home


@pytest.fixture
def files(pki: Path, tmp_path: Path) -> TlsFiles:
    """Copies of ours that a test may change."""
    home = tmp_path / "tls"
    shutil.copytree(pki / "ours", home)
    return TlsFiles(home / "server-cert.pem", home / "server-key.pem", home / "ca-cert.pem")


@contextmanager
def tcp_serving(
    tmp_path: Path,
    tls: TlsContexts | None,
    export: MemoryExport | None = None,
    handshake_seconds: float = 10.0,
) -> Iterator[tuple[ServerThread, int]]:
    with serving(
        export or MemoryExport(SIZE),
        tmp_path / "nbd.sock",
        limits=ServerLimits(handshake_seconds=handshake_seconds),
    ) as server:
        port = server.run(server.server.listen_tcp(TcpEndpoint("127.0.0.1", 0, tls)))
        yield server, port


def tcp_client(port: int, hello: bytes = FLAGS) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)
    assert len(receive(client, 18)) == 18
    client.sendall(hello)
    return client


def secured(port: int, home: Path | None, trusted: Path) -> ssl.SSLSocket:
    """A client within TLS; `home` has its certificate, `trusted` the authority that it believes."""
    client = tcp_client(port, FLAGS + option(STARTTLS))
    assert option_replies(receive(client, 20)) == [(STARTTLS, ACK, b"")]
    context = ssl.create_default_context(cafile=trusted / "ca-cert.pem")
    if home is not None:
        context.load_cert_chain(home / "client-cert.pem", home / "client-key.pem")
    return context.wrap_socket(client, server_hostname="127.0.0.1")


def opened(client: socket.socket) -> socket.socket:
    client.sendall(go("disk"))
    assert len(receive(client, 52)) == 52
    return client


def is_refused(port: int, home: Path | None, trusted: Path) -> bool:
    """Whether a client gets nothing: it may learn so only when it reads."""
    try:
        with secured(port, home, trusted) as client:
            opened(client)
    except (ssl.SSLError, ConnectionError, AssertionError):
        return True
    return False


def serial(client: ssl.SSLSocket) -> object:
    certificate = client.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]


# --- the protocol without I/O ------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        go("disk"), go("disk", number=INFO), option(LIST), option(STRUCTURED_REPLY), option(99, b"x"),
        meta_context(SET_META_CONTEXT, "disk", b"base:allocation"),
    ],
)  # fmt: skip
def test_before_tls_everything_else_is_refused(asked: bytes) -> None:
    connection = ServerConnection(EXPORTS, tls=True)
    connection.data_to_send()
    assert feed(connection, [FLAGS, asked]) == []
    assert [kind for _, kind, _ in option_replies(connection.data_to_send())] == [ERR_TLS_REQD]


def test_before_tls_export_name_is_hung_up_on_and_abort_is_polite() -> None:
    for asked, reply in [(option(EXPORT_NAME, b"disk"), []), (option(ABORT), [(ABORT, ACK, b"")])]:
        connection = ServerConnection(EXPORTS, tls=True)
        connection.data_to_send()
        assert feed(connection, [FLAGS, asked]) == [Disconnected()]
        assert option_replies(connection.data_to_send()) == reply


def test_starttls_with_data_is_invalid() -> None:
    connection = ServerConnection(EXPORTS, tls=True)
    connection.data_to_send()
    assert feed(connection, [FLAGS, option(STARTTLS, b"x")]) == []
    assert [kind for _, kind, _ in option_replies(connection.data_to_send())] == [ERR_INVALID]


def test_what_came_before_tls_is_never_taken_for_what_came_through_it() -> None:
    connection = ServerConnection(EXPORTS, tls=True)
    with pytest.raises(ClientProtocolError):
        feed(connection, [FLAGS, option(STARTTLS) + go("disk")])


def test_tls_begins_once() -> None:
    connection = ServerConnection(EXPORTS, tls=True)
    connection.data_to_send()
    assert feed(connection, [FLAGS, option(STARTTLS)]) == [TlsWanted()]
    assert option_replies(connection.data_to_send()) == [(STARTTLS, ACK, b"")]
    assert feed(connection, [option(STARTTLS)]) == []
    assert [kind for _, kind, _ in option_replies(connection.data_to_send())] == [ERR_UNSUP]


# --- who may be reached ------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"])
def test_beyond_loopback_nothing_is_plain(host: str) -> None:
    with pytest.raises(PlainBeyondLoopback):
        open_tcp_socket(TcpEndpoint(host, 0, None))


@pytest.mark.parametrize("host", ["localhost", "", "127.1", "example.com"])
def test_an_endpoint_is_an_address_in_digits(host: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        open_tcp_socket(TcpEndpoint(host, 0, None))


def test_with_tls_all_addresses_may_be_reached(tmp_path: Path, files: TlsFiles, pki: Path) -> None:
    with serving(MemoryExport(SIZE), tmp_path / "s") as server:
        port = server.run(server.server.listen_tcp(TcpEndpoint("0.0.0.0", 0, TlsContexts(files))))
        with secured(port, pki / "ours", pki / "ours") as client:
            opened(client)


def test_loopback_may_be_plain(tmp_path: Path) -> None:
    with tcp_serving(tmp_path, None) as (_, port), tcp_client(port) as client:
        opened(client)
        client.sendall(request(WRITE, 1, 0, 4, payload=b"data") + request(READ, 2, 0, 4))
        assert receive(client, 36)[-4:] == b"data"


def test_a_port_in_use_is_an_error(tmp_path: Path) -> None:
    with (
        tcp_serving(tmp_path, None) as (server, port),
        pytest.raises(OSError, match="in use"),
    ):
        server.run(server.server.listen_tcp(TcpEndpoint("127.0.0.1", port, None)))


# --- who is let in -----------------------------------------------------------------------------


def test_a_client_with_our_certificate_reads_and_writes(tmp_path: Path, files: TlsFiles, pki: Path) -> None:
    export = MemoryExport(8 << 20)
    large = bytes(range(256)) * (3 << 12)
    with tcp_serving(tmp_path, TlsContexts(files), export) as (server, port):
        with secured(port, pki / "ours", pki / "ours") as client:
            opened(client)
            client.sendall(request(WRITE, 1, 0, len(large), payload=large))
            assert simple_replies(receive(client, 16)) == [(1, 0)]
            client.sendall(request(READ, 2, 0, len(large)) + request(FLUSH, 3))
            assert receive(client, 16 + len(large) + 16)[16:-16] == large
        wait_until(lambda: server.server.connections == 0, "it is gone", DEADLINE_SECONDS)
    assert export.content[: len(large)] == large


def test_many_writes_in_flight_through_tls(tmp_path: Path, files: TlsFiles, pki: Path) -> None:
    export = MemoryExport(8 << 20)
    with (
        tcp_serving(tmp_path, TlsContexts(files), export) as (_, port),
        secured(port, pki / "ours", pki / "ours") as client,
    ):
        opened(client)
        count = 1500
        for start in range(0, count, 500):
            client.sendall(
                b"".join(
                    request(WRITE, n, n * 4096, 4096, payload=bytes([n % 251 + 1]) * 4096)
                    for n in range(start, start + 500)
                )
            )
            cookies = [cookie for cookie, error in simple_replies(receive(client, 500 * 16)) if not error]
            assert cookies == list(range(start, start + 500))
    assert all(export.content[n * 4096] == n % 251 + 1 for n in range(count))


@pytest.mark.parametrize("which", ["theirs", None])
def test_a_client_without_a_certificate_of_ours_gets_nothing(
    tmp_path: Path, files: TlsFiles, pki: Path, which: str | None
) -> None:
    with tcp_serving(tmp_path, TlsContexts(files)) as (server, port):
        assert is_refused(port, pki / which if which else None, pki / "ours")
        wait_until(lambda: server.server.connections == 0, "it is gone", DEADLINE_SECONDS)


@pytest.mark.parametrize(
    "garbage", [b"\0" * 400, b"GET / HTTP/1.1\r\n\r\n", go("disk"), b"\x16\x03\x01\xff\xff"]
)
def test_garbage_instead_of_a_handshake_is_hung_up_on(
    tmp_path: Path, files: TlsFiles, garbage: bytes
) -> None:
    with tcp_serving(tmp_path, TlsContexts(files), handshake_seconds=1.0) as (server, port):
        with tcp_client(port, FLAGS + option(STARTTLS)) as client:
            receive(client, 20)
            client.sendall(garbage)
            assert is_hung_up_on(client)
        wait_until(lambda: server.server.connections == 0, "it is gone", DEADLINE_SECONDS)


@pytest.mark.parametrize("leaving", ["at once", "silent"])
def test_a_handshake_that_stops_is_given_up(tmp_path: Path, files: TlsFiles, leaving: str) -> None:
    with tcp_serving(tmp_path, TlsContexts(files), handshake_seconds=0.2) as (server, port):
        with tcp_client(port, FLAGS + option(STARTTLS)) as client:
            receive(client, 20)
            if leaving == "silent":
                assert is_hung_up_on(client)
        wait_until(lambda: server.server.connections == 0, "it is gone", DEADLINE_SECONDS)


def test_the_server_ends_amid_a_handshake(tmp_path: Path, files: TlsFiles) -> None:
    with (
        tcp_serving(tmp_path, TlsContexts(files)) as (server, port),
        tcp_client(port, FLAGS + option(STARTTLS)) as client,
    ):
        receive(client, 20)
        assert server.run(server.server.close()) is True
        assert is_hung_up_on(client)


# --- certificates ------------------------------------------------------------------------------


def test_unusable_certificates_at_the_start_are_refused(tmp_path: Path, files: TlsFiles) -> None:
    files.key.write_bytes(b"nonsense")
    with serving(MemoryExport(SIZE), tmp_path / "s") as server:
        tls = TlsContexts(files)
        with pytest.raises(TlsUnusable):
            server.run(server.server.listen_tcp(TcpEndpoint("127.0.0.1", 0, tls)))
        assert tls.error
    files.key.unlink()
    with pytest.raises(TlsUnusable, match="No such file"):
        TlsContexts(files).current()


def test_new_certificates_count_without_a_restart(tmp_path: Path, files: TlsFiles, pki: Path) -> None:
    home = files.certificate.parent
    with tcp_serving(tmp_path, TlsContexts(files)) as (_, port):
        first = secured(port, pki / "ours", pki / "ours")
        opened(first)
        for path in (pki / "theirs").iterdir():
            shutil.copy(path, home)
        with secured(port, pki / "theirs", pki / "theirs") as second:
            opened(second)
            assert serial(second) != serial(first)
        assert is_refused(port, pki / "ours", pki / "theirs")
        first.sendall(request(FLUSH, 1))
        assert simple_replies(receive(first, 16)) == [(1, 0)], "who was let in stays"
        first.close()


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_unusable_new_certificates_change_nothing_but_are_told(
    files: TlsFiles, broken: str, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    tls = TlsContexts(files)
    good = tls.current()
    assert tls.error == ""
    path: Path = getattr(files, broken)
    before = path.read_bytes()
    with caplog.at_level(logging.ERROR):
        path.unlink() if content is None else path.write_bytes(content)
        assert tls.current() is good
        assert tls.current() is good
    assert "cannot be used" in tls.error
    assert str(path) in tls.error, "which of the three it is"
    assert len(caplog.records) == 1, "told once"
    caplog.clear()  # it was expected
    path.write_bytes(before + b"\n")
    assert tls.current() is not good
    assert tls.error == ""


def test_a_key_that_does_not_fit_its_certificate_is_unusable(files: TlsFiles, pki: Path) -> None:
    shutil.copy(pki / "theirs" / "server-key.pem", files.key)
    with pytest.raises(TlsUnusable, match=r"(?i)mismatch"):
        TlsContexts(files).current()


def test_nobody_is_asked_for_a_password(files: TlsFiles) -> None:

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(TlsUnusable, match="encrypted"):
        TlsContexts(files).current()


def test_the_size_is_told_through_tls(tmp_path: Path, files: TlsFiles, pki: Path) -> None:
    with (
        tcp_serving(tmp_path, TlsContexts(files)) as (_, port),
        secured(port, pki / "ours", pki / "ours") as client,
    ):
        client.sendall(go("disk"))
        (_, _, info), _ = option_replies(receive(client, 52))
        assert struct.unpack(">HQH", info)[1] == SIZE
