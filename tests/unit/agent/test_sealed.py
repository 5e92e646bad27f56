"""A writer's credentials in the configuration: sealed once, anew when they change, and nowhere in clear."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.cli.init import initialise
from cdp_agent.sealed import SEALED_NAME, sealed_credentials
from cdp_container.clock import SystemClock
from cdp_container.domain.history import read_config
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.settings import AgentSettings, parse_settings
from cdp_container.errors import AccessDenied, ConfigInvalid
from cdp_container.format.credentials import Credentials, open_credentials
from cdp_container.format.domain import DomainConfig, parse_owner
from cdp_container.format.keyblock import ScryptCost, open_with_passphrase, parse_key_block
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.seal import public_of
from cdp_container.store.memory import MemoryStore

PRIVATE = b"\x07" * 32
DOMAIN = b"d" * 16
IDENTITY = AgentIdentity(
    DOMAIN, "shop", "hamburg", "aes-256-gcm", public_of(PRIVATE), b"i" * 32, b"", bytes(32), ()
)
PASSPHRASE = "correct horse"


class Signing(MemoryStore):
    """A store that is asked with credentials."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.keys: tuple[str, str, str | None] = ("AKIA", "hidden", None)

    def signing_keys(self) -> tuple[str, str, str | None]:
        return self.keys


def sealed(directory: Path, store: MemoryStore, identity: AgentIdentity = IDENTITY) -> bytes:
    return sealed_credentials(directory, identity, store, os.urandom)


def opened(data: bytes) -> Credentials:
    return open_credentials(data, PRIVATE, DOMAIN, "k")


def test_the_same_credentials_are_sealed_once(tmp_path: Path) -> None:
    store = Signing()
    first = sealed(tmp_path, store)
    assert opened(first) == Credentials("AKIA", "hidden")
    assert sealed(tmp_path, store) == first


@pytest.mark.parametrize(
    "keys", [("AKIA2", "hidden", None), ("AKIA", "other", None), ("AKIA", "hidden", "t")]
)
def test_others_are_sealed_anew(tmp_path: Path, keys: tuple[str, str, str | None]) -> None:
    store = Signing()
    first = sealed(tmp_path, store)
    store.keys = keys
    assert opened(sealed(tmp_path, store)) == Credentials(*keys)
    store.keys = ("AKIA", "hidden", None)
    assert opened(sealed(tmp_path, store)) == opened(first)


def test_another_key_of_a_domain_gets_its_own(tmp_path: Path) -> None:
    store = Signing()
    sealed(tmp_path, store)
    other = replace(IDENTITY, public_key=public_of(b"\x08" * 32))
    found = sealed(tmp_path, store, other)
    assert open_credentials(found, b"\x08" * 32, DOMAIN, "k").access_key == "AKIA"


@pytest.mark.parametrize("kept", [b"", b"{", b"[]", b'{"digest":1}', b'{"digest":"0","sealed":"zz"}'])
def test_what_was_kept_and_is_damaged_is_made_anew(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / SEALED_NAME).write_bytes(kept)
    assert opened(sealed(tmp_path, Signing())).secret_key == "hidden"


def test_what_is_kept_is_private_and_tells_nothing(tmp_path: Path) -> None:
    sealed(tmp_path, Signing())
    path = tmp_path / SEALED_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"hidden" not in path.read_bytes()
    assert b"AKIA" not in path.read_bytes()


def test_where_there_is_nothing_to_seal_or_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="asks for none"):
        sealed(tmp_path, MemoryStore(SystemClock()))
    with pytest.raises(ConfigInvalid, match="not encrypted"):
        sealed(tmp_path, Signing(), replace(IDENTITY, public_key=b""))
    assert not [*tmp_path.iterdir()]


# --- init --------------------------------------------------------------------------------------


def settings_in(tmp_path: Path, extra: str = "") -> AgentSettings:
    (tmp_path / "db01.raw").write_bytes(bytes(4096))
    text = (
        f"domain: shop\nsite: hamburg\nstore: {tmp_path}/container\n"
        f"journal:\n  directory: {tmp_path}/journal\n"
        f"volumes:\n  - name: db01\n    path: {tmp_path}/db01.raw\n{extra}"
    )
    return parse_settings(text.encode(), "agent.yaml")


def init(settings: AgentSettings, store: MemoryStore) -> None:
    initialise(settings, store, lambda: PASSPHRASE, SystemClock(), os.urandom, ScryptCost(n=16, r=8, p=1))


def config_in(store: MemoryStore) -> DomainConfig:
    return read_config(store, parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None))


def everything(root: Path) -> Iterator[bytes]:
    for path in root.rglob("*"):
        if path.is_file():
            yield path.read_bytes()


def test_init_seals_them_where_it_is_asked_to(tmp_path: Path) -> None:
    store = Signing()
    init(settings_in(tmp_path, "seal_credentials: true\n"), store)
    config = config_in(store)
    assert config.credentials is not None
    block = parse_key_block(config.key_block, "k")
    private_key = open_with_passphrase(block, PASSPHRASE, config.domain, "k")
    found = open_credentials(config.credentials, private_key, config.domain, "k")
    assert (found.access_key, found.secret_key) == ("AKIA", "hidden")
    assert not any(b"hidden" in data for data in everything(tmp_path))
    assert not any(b"hidden" in store.get(one.key).data for one in store.list(""))


def test_init_seals_none_by_itself(tmp_path: Path) -> None:
    store = Signing()
    init(settings_in(tmp_path), store)
    assert config_in(store).credentials is None


def test_init_creates_nothing_where_they_cannot_be_sealed(tmp_path: Path) -> None:
    class Without(Signing):
        def signing_keys(self) -> tuple[str, str, str | None]:
            raise AccessDenied("open the store", "there are no credentials")

    settings = settings_in(tmp_path, "seal_credentials: true\n")
    for store, refused in ((MemoryStore(SystemClock()), ConfigInvalid), (Without(), AccessDenied)):
        with pytest.raises(refused):
            init(settings, store)
        assert not [*store.list("")]


def test_without_encryption_the_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no key to seal them to"):
        settings_in(tmp_path, "seal_credentials: true\nencryption: none\n")
    plain = settings_in(tmp_path, "encryption: none\n")
    with pytest.raises(ConfigInvalid, match="not encrypted"):
        init(plain.model_copy(update={"seal_credentials": True}), Signing())
