"""Asking libvirt for a domain's XML. The only module that loads libvirt, and only in a process of its own.

What the XML says does not belong here (`libvirt_xml`).
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, Final

from cdp_container.errors import HypervisorFailed

NOT_THERE: Final = "libvirt-python is not installed here"
NOT_THERE_HINT: Final = (
    "install it beside the agent: pip install 'cdp-container[libvirt]' (needs libvirt-dev)"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A domain: what it starts with, what it is just now (None: the same), and whether it starts by itself.

    `kept`, `live`: XML without passwords.
    """

    kept: str
    live: str | None
    autostart: bool


def ask_libvirt(uri: str, domain: str, what: str) -> Asked:
    """Ask for a domain by its name or UUID. It waits for as long as libvirt does. Raises HypervisorFailed."""
    libvirt = load_libvirt(what)
    # It would print every error by itself.
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        connection = libvirt.openReadOnly(uri)
        try:
            return _asked(libvirt, _domain(libvirt, connection, domain))
        finally:
            connection.close()
    except libvirt.libvirtError as error:
        raise HypervisorFailed(what, f"libvirt at {uri}: {error}") from error


def load_libvirt(what: str) -> Any:  # noqa: ANN401  a module without types
    """The module. Raises HypervisorFailed where it is not installed."""
    try:
        return importlib.import_module("libvirt")
    except ImportError as error:
        raise HypervisorFailed(what, NOT_THERE, NOT_THERE_HINT) from error


def check_libvirt(what: str) -> None:
    """Raises HypervisorFailed where it is not installed. It is not loaded for that."""
    if importlib.util.find_spec("libvirt") is None:
        raise HypervisorFailed(what, NOT_THERE, NOT_THERE_HINT)


def _domain(libvirt: Any, connection: Any, domain: str) -> Any:  # noqa: ANN401
    try:
        return connection.lookupByName(domain)
    except libvirt.libvirtError:
        try:
            return connection.lookupByUUIDString(domain)
        except libvirt.libvirtError:
            pass
        raise


def _asked(libvirt: Any, domain: Any) -> Asked:  # noqa: ANN401
    kept = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    if not domain.isPersistent():
        return Asked(kept, None, False)
    live = domain.XMLDesc(0) if domain.isActive() else None
    return Asked(kept, live, bool(domain.autostart()))
