"""`check-config` finds what would hurt at the next start, or on the day when it is needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdp_agent.cli.check import check
from cdp_agent.cli.init import initialise
from cdp_container.clock import SystemClock
from cdp_container.domain.settings import load_settings
from cdp_container.errors import BackingUnreadable, ConfigInvalid, DamagedObject, NoSuchBucket
from cdp_container.format.keyblock import ScryptCost
from cdp_container.format.keys import OWNER_KEY
from cdp_container.store.address import open_store

SIZE = 1 << 20


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of an agent that was initialised."""
    (tmp_path / "db01.raw").write_bytes(bytes(SIZE))
    path = tmp_path / "agent.yaml"
    path.write_text(
        f"domain: shop\nsite: hamburg\nstore: {tmp_path}/container\nencryption: none\n"
        f"journal:\n  directory: {tmp_path}/journal\n"
        f"volumes:\n  - name: db01\n    path: {tmp_path}/db01.raw\n"
    )
    (tmp_path / "container").mkdir()
    clock, settings = SystemClock(), load_settings(path)
    store = open_store(settings.store, clock)
    initialise(settings, store, lambda: "", clock, os.urandom, ScryptCost(n=16))
    return path


def append(config: Path, text: str) -> None:
    config.write_text(config.read_text() + text)


def test_what_is_well_is_shown(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append(config, "alerts: {command: [/bin/true]}\n")
    assert check(config) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for line in ("initialised: ", f"{SIZE} bytes", "alerts: a command", "keeps its word"):
        assert line in shown.out


def test_a_volume_that_shrank(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(config.parent / "db01.raw", SIZE // 2)
    assert check(config) == BackingUnreadable.exit_code
    said = capsys.readouterr().err
    assert f"error: volume db01 shrank: {config.parent}/db01.raw has {SIZE // 2} bytes, but {SIZE}" in said
    assert "hint: put it back to its size" in said


def test_a_volume_that_grew_is_told_and_no_fault(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(config.parent / "db01.raw", SIZE * 2)
    assert check(config) == 0
    assert f"grew from {SIZE} bytes; `cdp-agent reload`" in capsys.readouterr().out


def test_it_shrank_and_another_came(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything at once, also where the volumes are others than those of `init`."""
    os.truncate(config.parent / "db01.raw", SIZE // 2)
    (config.parent / "db02.raw").write_bytes(bytes(SIZE))
    append(config, "")
    config.write_text(
        config.read_text().replace(
            "volumes:\n", f"volumes:\n  - {{name: db02, path: {config.parent}/db02.raw}}\n"
        )
    )
    assert check(config) == BackingUnreadable.exit_code
    said = capsys.readouterr().err
    assert "shrank" in said
    assert "volumes: db01, db02, but init or reload was run with db01" in said


@pytest.mark.parametrize(("kind", "why"), [("absent", "no such file"), ("plain", "may not be executed")])
def test_an_alert_command_that_cannot_run(
    config: Path, kind: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config.parent / "page"
    if kind == "plain":
        path.write_text("#!/bin/sh\n")
        path.chmod(0o644)
    append(config, f"alerts: {{command: [{path}, --token, T0KEN]}}\n")
    assert check(config) == ConfigInvalid.exit_code
    said = capsys.readouterr().err
    assert "error: alerts.command cannot be run: " in said
    assert why in said
    assert "chmod" in said
    assert "T0KEN" not in said


def test_a_schedule_that_never_comes(config: Path) -> None:
    append(config, "limits: {schedule: [{cron: 0 8 31 2 *, bytes_per_second: 5MB}]}\n")
    with pytest.raises(ConfigInvalid, match=r"schedule\[0\]\.cron: '0 8 31 2 \*' never comes"):
        check(config)


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("vms: [{name: web, qmp: /run/web.sock}]\n", "vms: web, but init or reload was run with none"),
        ("trees: [{name: home, path: /usr/share}]\n", "trees: home (/usr/share), but init or reload was"),
    ],
)
def test_what_reload_takes_over_needs_no_new_domain(
    config: Path, page: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    append(config, page)
    assert check(config) == ConfigInvalid.exit_code
    said = capsys.readouterr().err
    assert "hint: `cdp-agent reload` takes over other volumes, file trees and VMs" in said
    assert "new domain" not in said
    assert fault in said


def test_what_is_another_domain_is_not_taken_over(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text().replace("site: hamburg", "site: berlin"))
    append(config, "vms: [{name: web, qmp: /run/web.sock}]\n")
    assert check(config) == ConfigInvalid.exit_code
    said = capsys.readouterr().err
    assert "site: 'berlin', but init was run with 'hamburg'" in said
    assert "hint: put it back; another one is a new domain" in said


@pytest.mark.parametrize("absent", ["certificate", "key", "client_ca"])
def test_tls_files_that_are_absent_are_named(
    config: Path, absent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: config.parent / f"{name}.pem" for name in ("certificate", "key", "client_ca")}
    for name, path in files.items():
        if name != absent:
            path.write_text("")
    listed = ", ".join(f"{name}: {path}" for name, path in files.items())
    append(config, f"nbd: {{listen: '127.0.0.1:10809', tls: {{{listed}}}}}\n")
    assert check(config) == ConfigInvalid.exit_code
    said = capsys.readouterr().err
    assert f"{files[absent]}: No such file or directory" in said
    assert "see nbd.tls" in said


def test_credentials_that_cannot_be_sealed_are_named(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append(config, "seal_credentials: true\n")
    with pytest.raises(ConfigInvalid, match="no key to seal them to"):
        check(config)
    elsewhere = config.with_name("encrypted.yaml")
    text = config.read_text().replace("encryption: none\n", "").replace("/journal", "/elsewhere")
    elsewhere.write_text(text.replace("/container", "/new"))
    (config.parent / "new").mkdir()
    assert check(elsewhere) == ConfigInvalid.exit_code
    assert "asks for none" in capsys.readouterr().err


def test_replicas_are_looked_at(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, store = tmp_path / "copy", load_settings(config).store
    append(config, f"replicas:\n  - {copy}\n  - {store}\n")
    assert check(config) == NoSuchBucket.exit_code, "collection cannot ask there"
    copy.mkdir()
    capsys.readouterr()
    assert check(config) == 0
    said = capsys.readouterr().out
    assert f"replica {copy}: nothing has come there yet" in said
    assert f"replica {store}" not in said, "it is the store"
    (copy / "domain").mkdir()
    (copy / OWNER_KEY).write_bytes((Path(store) / OWNER_KEY).read_bytes())
    assert check(config) == 0
    assert f"replica {copy}: it is there" in capsys.readouterr().out
    (copy / OWNER_KEY).write_bytes(b"{}")
    assert check(config) == DamagedObject.exit_code
