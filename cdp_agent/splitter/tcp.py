"""The exports over TCP: opened once that is possible, and their certificates watched.

A port that is taken or certificates that cannot be used must not cost local guests their disks: the
unix socket serves whatever is here, and `status` says what is wrong.
"""

from __future__ import annotations

from cdp_agent.splitter.settings import TcpSettings
from nbd_export.errors import NbdExportError, TlsUnusable
from nbd_export.listening import TcpEndpoint
from nbd_export.server import NbdServer
from nbd_export.tls import TlsContexts


class TcpExports:
    """Wants `keep` to be called from time to time."""

    def __init__(self, settings: TcpSettings) -> None:
        tls = None if settings.tls is None else TlsContexts(settings.tls)
        self._endpoint = TcpEndpoint(settings.host, settings.port, tls)
        self._is_open = False
        self._error = ""

    async def keep(self, server: NbdServer) -> None:
        """Open the port if it is not yet; look at the certificates, to tell of bad ones before a call."""
        self._error = ""
        try:
            if self._endpoint.tls is not None:
                self._endpoint.tls.current()
                self._error = self._endpoint.tls.error
            if not self._is_open:
                await server.listen_tcp(self._endpoint)
                self._is_open = True
        except TlsUnusable as error:
            self._error = str(error)
        except (NbdExportError, OSError, ValueError) as error:
            self._error = f"listening at {self._endpoint}: {error}"

    def closed(self) -> None:
        """The server is gone; `keep` opens the port at the next one."""
        self._is_open = False

    def facts(self) -> dict[str, object]:
        """For `status`."""
        return {
            "listen": str(self._endpoint),
            "tls": self._endpoint.tls is not None,
            "open": self._is_open,
            "error": self._error,
        }
