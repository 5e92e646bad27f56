"""A writer's credentials for the domain's configuration: those of our own store, sealed to the domain's key.

What was sealed is kept in the journal directory with a keyed digest of what is in it, as only the private
key tells whether it is still the same: else every start would seal anew. What becomes of them does not belong
here (`cdp_container.domain.configured`), nor who opens them (rehydrate).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson

from cdp_container.domain.durable import read_file, replace_file
from cdp_container.domain.identity import AgentIdentity
from cdp_container.errors import ConfigInvalid
from cdp_container.format.credentials import Credentials, credentials_text, seal_credentials
from cdp_container.store.api import Store
from cdp_container.store.s3_settings import SignsRequests

SEALED_NAME: Final = "sealed.json"
SEALED_BYTES_MAX: Final = 64 * 1024
KEY_BYTES: Final = 32
_REFUSED: Final = "seal the store's credentials"
_LEAVE: Final = "leave seal_credentials out"


def check_sealing(is_encrypted: bool, store: Store) -> SignsRequests:
    """The store, which has credentials. Raises ConfigInvalid: it has none, or there is no key for them."""
    if not is_encrypted:
        raise ConfigInvalid(_REFUSED, "the domain is not encrypted: there is no key to seal them to", _LEAVE)
    if not isinstance(store, SignsRequests):
        raise ConfigInvalid(_REFUSED, f"{store.address} asks for none", _LEAVE)
    return store


def sealed_credentials(
    directory: Path, identity: AgentIdentity, store: Store, entropy: Callable[[int], bytes]
) -> bytes:
    """The credentials that `store` is asked with, sealed: the same bytes as before where they are the same.

    The key is the one that agent.json pins, never one that stands in the container.

    Raises ConfigInvalid (see `check_sealing`), AccessDenied (there are none), LimitExceeded, and CdpError
    where they cannot be kept.
    """
    credentials = Credentials(*check_sealing(bool(identity.public_key), store).signing_keys())
    about = identity.public_key + credentials_text(credentials)
    digest = hmac.new(identity.index_key, about, hashlib.sha256).hexdigest()
    path = directory / SEALED_NAME
    kept = _kept(path, digest)
    if kept is None:
        kept = seal_credentials(credentials, identity.public_key, entropy(KEY_BYTES), identity.domain)
        replace_file(path, orjson.dumps({"digest": digest, "sealed": kept.hex()}))
    return kept


def _kept(path: Path, digest: str) -> bytes | None:
    """What is kept under this digest; what is damaged or of other credentials is sealed anew."""
    data = read_file(path, SEALED_BYTES_MAX)
    try:
        members = {} if data is None else orjson.loads(data)
        return bytes.fromhex(members["sealed"]) if members["digest"] == digest else None
    except (ValueError, KeyError, TypeError):
        return None
