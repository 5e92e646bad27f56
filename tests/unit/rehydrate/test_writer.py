"""With whose credentials a takeover writes: what is chosen, what does not open, and where they are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.history import History
from cdp_container.domain.ledgers import NO_LEDGER
from cdp_container.errors import AccessDenied, DamagedObject, KeyMissing, UsageError
from cdp_container.format.credentials import Credentials, seal_credentials
from cdp_container.format.domain import DomainConfig
from cdp_container.format.seal import NO_KEYS, ReaderKeys, public_of
from cdp_container.store.address import open_store
from cdp_container.store.memory import MemoryStore
from cdp_container.store.s3 import S3Store
from rehydrate import agent_files, writer
from rehydrate.cli.failover import which_of
from rehydrate.container import Container
from rehydrate.writer import Which
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

PRIVATE = b"\x07" * 32
ADDRESS = "s3://bucket/shop?endpoint=http://127.0.0.1:1"
PLAIN = Credentials("AKIA", "hidden")
SEALED = seal_credentials(PLAIN, public_of(PRIVATE), b"\x09" * 32, DOMAIN)


class Told:
    """The history, as far as it is asked for."""

    def __init__(self, config: DomainConfig | None) -> None:
        self.config, self.owner, self.domain = config, samples.owner(), DOMAIN


def container(sealed: bytes | None = SEALED, keys: ReaderKeys | None = None) -> Container:
    config = replace(samples.config(), credentials=sealed)
    held = ReaderKeys.of_private_key(PRIVATE, DOMAIN) if keys is None else keys
    store, told = MemoryStore(SystemClock()), cast(History, Told(config))
    return Container(store, told, held, held.private_key is not None, NO_LEDGER)


def choose(
    found: Container, asked: Which | None = None, address: str = ADDRESS, config: Path = Path("/none")
) -> Credentials | None:
    return writer.choose(found, asked, address, config)


@pytest.mark.parametrize("asked", [None, Which.SEALED])
def test_sealed_ones_are_used_where_they_are_there(asked: Which | None) -> None:
    assert choose(container(), asked) == PLAIN


def test_an_operator_s_own_choice_wins() -> None:
    assert choose(container(), Which.OWN) is None
    assert choose(container(b"damaged"), Which.OWN) is None


def test_without_sealed_ones_the_operator_s_own_are_used() -> None:
    for found in (container(None), container(keys=NO_KEYS)):
        assert choose(found) is None
        with pytest.raises(KeyMissing, match="holds none"):
            choose(found, Which.SEALED)


def test_a_directory_asks_for_none() -> None:
    assert choose(container(), address="/srv/container") is None


@pytest.mark.parametrize(
    "sealed",
    [
        b"",
        SEALED[:-1],
        SEALED[:40] + bytes([SEALED[40] ^ 1]) + SEALED[41:],
        seal_credentials(PLAIN, public_of(PRIVATE), b"\x09" * 32, b"\x01" * 16),
        seal_credentials(PLAIN, public_of(b"\x08" * 32), b"\x09" * 32, DOMAIN),
    ],
)
def test_what_was_altered_or_is_another_domain_s_does_not_open(sealed: bytes) -> None:
    with pytest.raises(DamagedObject, match="sealed as credentials") as raised:
        choose(container(sealed))
    assert "--credentials own" in raised.value.hint


def prepared(tmp_path: Path, store: str) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(
        f"domain: shop\nsite: b\nstore: {store}\njournal: {{directory: {tmp_path}}}\n"
        f"volumes: [{{name: db, path: {tmp_path}/db.raw}}]\n"
    )
    return path


def test_a_prepared_configuration_is_a_choice_too(tmp_path: Path) -> None:
    assert choose(container(), config=prepared(tmp_path, ADDRESS)) is None
    assert choose(container(), Which.SEALED, config=prepared(tmp_path, ADDRESS)) == PLAIN
    named = prepared(tmp_path, writer.address_with(ADDRESS, tmp_path))
    assert choose(container(), config=named) == PLAIN, "as an interrupted failover wrote it"


@pytest.mark.parametrize("profile", ["", "&profile=dr"])
def test_they_are_kept_where_the_agent_s_store_finds_them(tmp_path: Path, profile: str) -> None:
    writer.keep(PLAIN, ADDRESS + profile, tmp_path)
    kept = tmp_path / "credentials"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["credentials"]
    store = open_store(writer.address_with(ADDRESS + profile, tmp_path))
    assert isinstance(store, S3Store)
    assert store.signing_keys() == ("AKIA", "hidden", None)
    store.close()


def test_a_try_that_was_refused_leaves_a_directory_that_fits(tmp_path: Path) -> None:
    writer.keep(PLAIN, ADDRESS, tmp_path)
    assert agent_files.check_directory(tmp_path, tmp_path / "agent.yaml", DOMAIN, "b") is None


def test_what_would_break_that_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        writer.keep(Credentials("AKIA", "hidden\n[default]"), ADDRESS, tmp_path)
    assert "hidden" not in str(raised.value)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("sealed", "held", "hint"),
    [
        (PLAIN, True, "withdrawn"),
        (None, True, "--credentials sealed"),
        (None, False, "holds none that are sealed"),
    ],
)
def test_a_denial_says_what_can_be_done(sealed: Credentials | None, held: bool, hint: str) -> None:
    with pytest.raises(AccessDenied, match="not allowed") as raised, writer.denied(sealed, held):
        raise AccessDenied("create domain/probe/x", "it is not allowed")
    assert hint in raised.value.hint
    assert "hidden" not in f"{raised.value} {raised.value.hint} {writer.told(sealed)}"


def test_the_option() -> None:
    assert (which_of(None), which_of("sealed"), which_of("own")) == (None, Which.SEALED, Which.OWN)
    with pytest.raises(UsageError, match="neither sealed nor own"):
        which_of("AKIA")
