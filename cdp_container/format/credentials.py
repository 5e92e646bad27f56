"""A writer's credentials, sealed to the domain's key (docs/container-format.md, section 5).

Only who holds the domain's private key can open them, so that a passphrase is enough to take over. Where they
come from and who uses them does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format.jsontext import dump_object, load_object
from cdp_container.format.limits import SEALED_CREDENTIALS_BYTES_MAX
from cdp_container.format.members import Members
from cdp_container.format.seal import KEY_BYTES, TAG_BYTES, open_sealed, seal_to

CREDENTIALS_INFO: Final = b"cdp credentials v1"
SEAL_BYTES: Final = KEY_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a store asks of a writer. `session`: the token of temporary ones, None for others."""

    access_key: str
    secret_key: str = field(repr=False)
    session: str | None = field(default=None, repr=False)


def credentials_text(credentials: Credentials) -> bytes:
    """What is sealed: the same credentials always give the same bytes."""
    members = {"access_key": credentials.access_key, "secret_key": credentials.secret_key}
    return dump_object(members if credentials.session is None else members | {"session": credentials.session})


def seal_credentials(
    credentials: Credentials, public_key: bytes, ephemeral_private: bytes, domain: bytes
) -> bytes:
    """Seal them to the domain's key. `ephemeral_private`: 32 fresh random bytes. Raises LimitExceeded."""
    text = credentials_text(credentials)
    if len(text) + SEAL_BYTES > SEALED_CREDENTIALS_BYTES_MAX:
        raise LimitExceeded(
            "seal the store's credentials", f"they have {len(text)} bytes (SEALED_CREDENTIALS_BYTES_MAX)"
        )
    return seal_to(text, public_key, ephemeral_private, domain, CREDENTIALS_INFO)


def open_credentials(sealed: bytes, private_key: bytes, domain: bytes, what: str) -> Credentials:
    """Open what `seal_credentials` sealed; `what` is the object that they stand in.

    Raises:
        DamagedObject: they were not sealed to this key for this domain, were altered, or are none.
    """
    text = open_sealed(sealed, private_key, domain, CREDENTIALS_INFO, what, "what is sealed as credentials")
    try:
        members = Members(load_object(text, SEALED_CREDENTIALS_BYTES_MAX, what), what)
        session = members.text("session") if "session" in members.members else None
        return Credentials(members.text("access_key"), members.text("secret_key"), session)
    except DamagedObject:
        # Never what was found: it may hold the secret.
        raise DamagedObject(what, "its sealed credentials are none that this release knows") from None
