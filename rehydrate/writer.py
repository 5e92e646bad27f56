"""With whose credentials a takeover writes: those sealed in the domain's configuration, or an operator's own.

Sealed ones go to a private file in the journal directory, which the agent's store names, and nowhere else.
What is written with them does not belong here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from cdp_container.domain.durable import replace_file
from cdp_container.domain.settings import load_settings
from cdp_container.errors import AccessDenied, DamagedObject, KeyMissing
from cdp_container.format.credentials import Credentials, open_credentials
from cdp_container.format.keys import config_key
from cdp_container.store.address import DirectoryPlace, parse_address
from cdp_container.store.credentials_file import credentials_text
from cdp_container.store.s3_settings import S3Settings
from rehydrate.agent_files import CREDENTIALS_NAME
from rehydrate.container import Container

_OWN: Final = "--credentials own takes your own: of the environment, a profile, or a file that ADDRESS names"


class Which(enum.StrEnum):
    """Whose credentials an operator asks for."""

    SEALED = "sealed"
    OWN = "own"


def choose(container: Container, asked: Which | None, address: str, config: Path) -> Credentials | None:
    """The sealed credentials, where they are to be used; None for the operator's own.

    Unless `asked`, sealed ones are used where they are there; but not where the agent's configuration was
    prepared, and names the store just as `address` does: that is a choice, too.

    Raises:
        KeyMissing: sealed ones are asked for, and there are none.
        DamagedObject: what is sealed does not open with the domain's key.
    """
    if asked is Which.OWN or (asked is None and _is_prepared(config, address)):
        return None
    held, private_key = container.history.config, container.keys.private_key
    directory = isinstance(parse_address(address), DirectoryPlace)
    if held is None or held.credentials is None or private_key is None or directory:
        if asked is Which.SEALED:
            why = "the domain's configuration holds none"
            hint = f"{_OWN}; with seal_credentials the owner seals its own"
            raise KeyMissing("write with sealed credentials", why, hint)
        return None
    key = config_key(container.history.owner.config)
    try:
        return open_credentials(held.credentials, private_key, container.history.domain, key)
    except DamagedObject as error:
        raise DamagedObject(error.what, error.why, _OWN) from error


def _is_prepared(config: Path, address: str) -> bool:
    return config.exists() and load_settings(config).store == address


def address_with(address: str, journal: Path) -> str:
    """The same store, asked with the credentials in the journal directory."""
    return _with_file(address, journal).address()


def keep(credentials: Credentials, address: str, journal: Path) -> None:
    """Write them for this agent alone, durably (mode 0600). Raises UsageError, CdpError."""
    section = _with_file(address, journal).credentials_section
    text = credentials_text(section, credentials.access_key, credentials.secret_key, credentials.session)
    replace_file(journal / CREDENTIALS_NAME, text)


def _with_file(address: str, journal: Path) -> S3Settings:
    place = parse_address(address)
    assert not isinstance(place, DirectoryPlace), "it has no credentials"
    return replace(place, credentials_file=str(journal / CREDENTIALS_NAME))


@contextmanager
def denied(sealed: Credentials | None, held: bool) -> Iterator[None]:
    """Say what can be done where the store lets nobody write who has these credentials.

    `held`: the configuration holds sealed ones.
    """
    try:
        yield
    except AccessDenied as error:
        if sealed is not None:
            hint = f"the sealed credentials were withdrawn, or never could write; {_OWN}"
        elif held:
            hint = "--credentials sealed takes those that the domain's configuration holds"
        else:
            hint = "give a writer's credentials: the domain's configuration holds none that are sealed"
        raise AccessDenied("take the domain over", f"the store denies it: {error.why}", hint) from error


def told(sealed: Credentials | None) -> str:
    """A line for people: which are used."""
    if sealed is None:
        return "credentials: your own"
    where = f"kept in the file {CREDENTIALS_NAME} of the journal directory"
    return f"credentials: a writer's, which are sealed in the domain's configuration; {where}"
