"""`init`: nothing half-written that a later run would trust; safe to repeat; no secret shown."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.cli.init import PENDING_NAME, initialise
from cdp_agent.cli.kit import recovery_kit, refuse_existing, show_kit
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import IDENTITY_NAME, TreeIdentity, VmIdentity, load_identity
from cdp_container.domain.notes import load_notes
from cdp_container.domain.retention_policy import Retention, parse_retention
from cdp_container.domain.settings import AgentSettings, parse_settings
from cdp_container.errors import (
    BackingUnreadable,
    CdpError,
    ContainerExists,
    ForeignObject,
    KeyMissing,
    NoSuchBucket,
    StoreRefused,
    StoreUnavailable,
    TargetNotEmpty,
    TargetUnsuitable,
    UsageError,
    WrongPassphrase,
)
from cdp_container.format.domain import OwnerState, config_digest, parse_config, parse_owner
from cdp_container.format.keyblock import ScryptCost, open_with_passphrase, parse_key_block
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY, config_key
from cdp_container.format.seal import derive_index_key, public_of
from cdp_container.store.directory import DirectoryStore
from cdp_container.store.memory import MemoryStore
from cdp_container.store.s3_settings import S3Settings

CHEAP = ScryptCost(n=2**4, r=8, p=1)
PASSPHRASE = "correct horse"


def settings_in(tmp_path: Path, extra: str = "") -> AgentSettings:
    disk = tmp_path / "db01.raw"
    if not disk.exists():
        disk.write_bytes(bytes(1 << 20))
    text = (
        f"domain: shop\nsite: hamburg\nstore: {tmp_path}/container\n"
        f"journal:\n  directory: {tmp_path}/journal\nvolumes:\n  - name: db01\n    path: {disk}\n{extra}"
    )
    return parse_settings(text.encode(), "agent.yaml")


def init(settings: AgentSettings, store: object, passphrase: str = PASSPHRASE) -> None:
    initialise(settings, store, lambda: passphrase, SystemClock(), os.urandom, CHEAP)  # type: ignore[arg-type]


class Breaking(MemoryStore):
    """Fails the nth change, before or after it took place."""

    def __init__(self, fail_at: int, *, after: bool) -> None:
        super().__init__(SystemClock())
        self.fail_at, self.after, self.changes = fail_at, after, 0

    def put_new(self, key: str, data: bytes) -> str:
        if key.startswith("domain/probe"):
            return super().put_new(key, data)
        self.changes += 1
        if self.changes == self.fail_at and not self.after:
            raise StoreUnavailable("put", "the line is dead")
        tag = super().put_new(key, data)
        if self.changes == self.fail_at:
            raise StoreUnavailable("put", "the reply was lost")
        return tag


def test_what_stands_in_the_container_and_the_journal_directory(tmp_path: Path) -> None:
    store = MemoryStore(SystemClock())
    init(settings_in(tmp_path), store)
    identity = load_identity(tmp_path / "journal")
    owner = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, identity.domain)
    assert (owner.epoch, owner.state, owner.released_to) == (0, OwnerState.RELEASED, "hamburg")
    assert owner.nonce in load_notes(tmp_path / "journal").nonces
    data = store.get(config_key(owner.config)).data
    assert config_digest(data) == owner.config
    config = parse_config(data, "config", identity.domain)
    private_key = open_with_passphrase(
        parse_key_block(config.key_block, "c"), PASSPHRASE, identity.domain, "c"
    )
    assert public_of(private_key) == identity.public_key
    assert derive_index_key(private_key, identity.domain) == identity.index_key
    assert (tmp_path / "journal" / IDENTITY_NAME).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "journal" / PENDING_NAME).exists()
    on_disk = b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir() if path.is_file())
    assert private_key.hex().encode() not in on_disk
    assert private_key not in on_disk


def test_the_policy_stands_in_the_container_from_its_first_day(tmp_path: Path) -> None:
    store = MemoryStore(SystemClock())
    init(settings_in(tmp_path, "retention: {every: 24h, monthly: 3y}\n"), store)
    owner = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)
    config = parse_config(store.get(config_key(owner.config)).data, "config", owner.domain)
    assert parse_retention(config.retention, "config") == Retention(86400, monthly_seconds=3 * 365 * 86400)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_an_interrupted_init_is_finished_by_the_next(tmp_path: Path, fail_at: int, after: bool) -> None:
    store = Breaking(fail_at, after=after)
    settings = settings_in(tmp_path)
    with pytest.raises(StoreUnavailable):
        init(settings, store)
    assert not (tmp_path / "journal" / IDENTITY_NAME).exists()
    with pytest.raises(WrongPassphrase):
        init(settings, store, "another passphrase")
    init(settings, store)
    identity = load_identity(tmp_path / "journal")
    assert parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None).domain == identity.domain


def test_a_second_init_is_refused_at_the_journal_and_at_the_store(tmp_path: Path) -> None:
    store = MemoryStore(SystemClock())
    init(settings_in(tmp_path), store)
    with pytest.raises(ContainerExists, match="journal directory"):
        init(settings_in(tmp_path), store)
    other = tmp_path / "other"
    other.mkdir()
    before = store.get(OWNER_KEY).data
    with pytest.raises(ContainerExists, match="'shop'"):
        init(settings_in(other), store)
    assert store.get(OWNER_KEY).data == before
    assert not (other / "journal" / PENDING_NAME).exists()


def test_leftovers_of_somebody_else_are_not_taken_over(tmp_path: Path) -> None:
    store, settings = Breaking(3, after=False), settings_in(tmp_path)
    with pytest.raises(StoreUnavailable):
        init(settings, store)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ForeignObject, match=HOLDS_KEY):
        init(settings_in(other), store)


def test_no_encryption_asks_for_no_passphrase(tmp_path: Path) -> None:
    def never() -> str:
        raise AssertionError("asked for a passphrase")

    settings = settings_in(tmp_path, "encryption: none\n")
    initialise(settings, MemoryStore(SystemClock()), never, SystemClock(), os.urandom, CHEAP)
    identity = load_identity(tmp_path / "journal")
    assert (identity.public_key, identity.index_key, identity.key_block) == (b"", b"", b"")


def test_no_passphrase_leaves_nothing(tmp_path: Path) -> None:
    def none() -> str:
        raise KeyMissing("no passphrase", "none was given")

    store = MemoryStore(SystemClock())
    with pytest.raises(KeyMissing):
        initialise(settings_in(tmp_path), store, none, SystemClock(), os.urandom, CHEAP)
    assert list(store.list("")) == []
    assert not (tmp_path / "journal" / PENDING_NAME).exists()


@pytest.mark.parametrize("size", [0, 511, 1000])
def test_a_backing_file_of_no_whole_sectors(tmp_path: Path, size: int) -> None:
    (tmp_path / "db01.raw").write_bytes(bytes(size))
    with pytest.raises(BackingUnreadable, match="sectors"):
        init(settings_in(tmp_path), MemoryStore(SystemClock()))


def test_an_absent_backing_file_and_a_directory(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    (tmp_path / "db01.raw").unlink()
    with pytest.raises(BackingUnreadable, match="No such file"):
        init(settings, MemoryStore(SystemClock()))
    (tmp_path / "db01.raw").mkdir()
    with pytest.raises(BackingUnreadable):
        init(settings, MemoryStore(SystemClock()))


def test_no_such_bucket(tmp_path: Path) -> None:
    with pytest.raises(NoSuchBucket):
        init(settings_in(tmp_path), DirectoryStore(tmp_path / "absent"))


def test_a_store_that_ignores_conditions_is_refused(tmp_path: Path) -> None:
    class Ignoring(MemoryStore):
        def put_new(self, key: str, data: bytes) -> str:
            try:
                return super().put_new(key, data)
            except CdpError:
                return self.head(key).tag

    store = Ignoring(SystemClock())
    with pytest.raises(StoreRefused):
        init(settings_in(tmp_path), store)
    assert not (tmp_path / "journal" / PENDING_NAME).exists()


def test_the_home_is_pinned_with_who_signs_its_certificate(tmp_path: Path) -> None:
    class Zone(MemoryStore):
        resolved = S3Settings("backups", "shop", "https://S3.example.com:443", "eu-1", ca_file="/etc/ca.pem")

    ca, store = tmp_path / "ca.pem", Zone(SystemClock())
    ca.write_text("-----BEGIN CERTIFICATE-----\n")
    address = f"s3://backups/shop?endpoint=https://S3.example.com:443&ca={ca}"
    settings = settings_in(tmp_path).model_copy(update={"store": address})
    init(settings, store)
    owner = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)
    config = parse_config(store.get(config_key(owner.config)).data, "config", owner.domain)
    assert config.endpoints == ("s3://backups/shop?endpoint=https://s3.example.com&region=eu-1",)
    assert config.ca == "-----BEGIN CERTIFICATE-----\n"


def test_a_ca_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"\xff")
    settings = settings_in(tmp_path).model_copy(
        update={"store": f"s3://backups/shop?endpoint=https://s3.example.com&ca={tmp_path}/ca.pem"}
    )
    with pytest.raises(UsageError, match="it is no text"):
        init(settings, MemoryStore(SystemClock()))


def test_a_bucket_that_keeps_versions_is_refused(tmp_path: Path) -> None:
    class Versioned(MemoryStore):
        def version_of(self, key: str) -> str:
            return self.head(key).tag

    store = Versioned(SystemClock())
    with pytest.raises(StoreRefused, match="keeps old versions"):
        init(settings_in(tmp_path), store)
    assert not (tmp_path / "journal" / PENDING_NAME).exists()
    assert list(store.list("")) == []


def test_the_kit_names_all_that_is_needed_and_no_secret(tmp_path: Path) -> None:
    init(settings_in(tmp_path), MemoryStore(SystemClock()))
    identity = load_identity(tmp_path / "journal")
    text = recovery_kit(identity, "s3://b/p?endpoint=https://s3.example.com", "PEM TEXT")
    assert "rehydrate restore 's3://b/p?endpoint=https://s3.example.com' --volume db01" in text
    assert "rehydrate plan 's3://b/p?endpoint=https://s3.example.com'\n" in text
    assert "--at EPOCH.NUMBER" in text
    assert "PEM TEXT" in text
    assert identity.domain.hex() in text
    assert PASSPHRASE not in text
    assert identity.index_key.hex() not in text
    alone = recovery_kit(
        replace(identity, sources=(), trees=(TreeIdentity("home", "/h", b"t" * 16),)), "/c", None
    )
    assert "--tree home=DIRECTORY" in alone
    assert "rehydrate plan" not in alone, "it is of volumes"
    assert "runbook" not in text + alone, "they have no VMs"


def test_the_kit_says_how_vms_come_back(tmp_path: Path) -> None:
    init(settings_in(tmp_path), MemoryStore(SystemClock()))
    vms = (
        VmIdentity("web", b"w" * 16, "qmp", "/run/secret.sock", ""),
        VmIdentity("old", b"o" * 16, removed=True),
        VmIdentity("db", b"d" * 16, "libvirt", "qemu:///system", "db-2"),
    )
    text = recovery_kit(replace(load_identity(tmp_path / "journal"), vms=vms), "/srv/a b", None)
    assert "VMs         web, db\n" in text
    for line in (
        "rehydrate show '/srv/a b' vms",
        "rehydrate render '/srv/a b' --vm web --into DIRECTORY",
        "rehydrate check-runbook runbook.yaml '/srv/a b'",
        "rehydrate failover '/srv/a b' --site NAME --journal DIRECTORY --to DIRECTORY \\\n",
        "--boot --runbook runbook.yaml",
    ):
        assert line in text
    assert "/run/secret.sock" not in text, "it is of the site that is lost"


def test_an_init_that_dies_between_its_two_local_files_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(path: Path, data: bytes) -> None:
        raise CdpError("write", "the power went")

    settings, store = settings_in(tmp_path), MemoryStore(SystemClock())
    with monkeypatch.context() as patched:
        patched.setattr("cdp_agent.cli.init.replace_file", dies)
        with pytest.raises(CdpError, match="power"):
            init(settings, store)
    init(settings, store)
    assert load_identity(tmp_path / "journal").name == "shop"


def test_a_kit_goes_into_a_new_file_only(tmp_path: Path) -> None:
    (tmp_path / "other-kit").write_text("of another domain")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("other-kit", "link"):
        with pytest.raises(TargetNotEmpty):
            refuse_existing(tmp_path / name)
    with pytest.raises(TargetUnsuitable):
        refuse_existing(tmp_path / "absent" / "kit")
    refuse_existing(tmp_path / "kit")


def test_a_kit_can_be_printed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init(settings_in(tmp_path), MemoryStore(SystemClock()))
    identity = load_identity(tmp_path / "journal")
    show_kit(identity, "/srv/container", tmp_path / "kit")
    assert capsys.readouterr().out == (tmp_path / "kit").read_text()
    assert (tmp_path / "kit").stat().st_mode & 0o777 == 0o600
