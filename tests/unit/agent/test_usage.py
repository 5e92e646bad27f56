"""The command `usage`: on a directory, on a server with versions and uploads, beside copies, and denied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner

from cdp_agent.cli.app import app
from cdp_agent.cli.usage import INCOMPLETE, UsageWishes, show_usage
from cdp_agent.collector.process import LOCK_NAME
from cdp_agent.supervisor import take_lock
from cdp_agent.usage import look
from cdp_agent.usage.kinds import Kind
from cdp_container.clock import SystemClock
from cdp_container.errors import AccessDenied, AlreadyRunning, ForeignObject, NoSuchDomain, UsageError
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY, segment_key
from cdp_container.store.address import open_store
from cdp_container.store.directory import DirectoryStore
from cdp_container.store.inventory import Rules
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_inventory import S3Inventory
from cdp_container.store.s3_settings import S3Settings
from tests.containers import Site, in_force
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.s3 import S3Server
from tests.unit.usage.account_site import a_container, an_agent

pytestmark = pytest.mark.slow

PART = 5 << 20


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "container").mkdir()
    return a_container(DirectoryStore(tmp_path / "container"))


@pytest.fixture
def config(tmp_path: Path, site: Site) -> Path:
    return an_agent(site, tmp_path, str(tmp_path / "container"))


Told = tuple[int, dict[str, Any]]


def told_of(
    config: Path, capsys: pytest.CaptureFixture[str], wanted: UsageWishes
) -> tuple[int, dict[str, Any]]:
    code = show_usage(config, wanted, as_json=True)
    shown = capsys.readouterr()
    assert shown.err == ""
    members: dict[str, Any] = json.loads(shown.out)
    return code, members


def sums(members: dict[str, Any]) -> tuple[int, int]:
    kinds = members["kinds"].values()
    assert [kind["bytes"] >= 0 for kind in kinds]
    return sum(kind["bytes"] for kind in kinds), sum(kind["objects"] for kind in kinds)


def test_every_byte_of_a_directory(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "container" / "notes of somebody").write_bytes(b"12345")
    (tmp_path / "container" / ".tmp" / "half").write_bytes(b"123")
    code, members = told_of(config, capsys, UsageWishes())
    assert code == 0
    files = [path for path in (tmp_path / "container").rglob("*") if path.is_file()]
    assert sums(members) == (sum(path.stat().st_size for path in files), len(files))
    assert members["total"] == {"bytes": sums(members)[0], "objects": sums(members)[1]}
    assert members["kinds"]["foreign"]["bytes"] == 5
    assert members["kinds"]["left_behind"]["bytes"] == 3
    assert members["kinds"]["live"]["bytes"] > 0
    assert members["keeps_all"] is True
    assert members["last_collection"] is None
    assert members["next_collection"]["retired"] == []
    assert (tmp_path / "journal" / "collector" / "facts.db").exists()


def test_what_people_are_told(config: Path) -> None:
    ended = CliRunner().invoke(app, ["usage", "--config", str(config)], standalone_mode=False)
    assert ended.return_value == 0
    text = ended.stdout
    for words in (
        "live: what the newest point needs",
        "kept only since every cut is kept for ever",
        "every cut is kept for ever (`retention`",
        "collection: never yet",
        "requests: 1 list all of it",
        "total",
    ):
        assert words in text
    assert "not known" not in text


def test_a_damaged_roster_is_said(config: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.store.delete(HOLDS_KEY)
    site.store.delete(segment_key(2, 2))
    assert show_usage(config, UsageWishes(), as_json=False) == INCOMPLETE
    text = capsys.readouterr().out
    assert "not known: what is held is not known" in text
    assert "not known: what is live is not known" in text
    assert "not told apart" in text


def test_where_the_owner_is_damaged_bytes_are_counted_all_the_same(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "container" / OWNER_KEY).write_bytes(b"{}")
    code, members = told_of(config, capsys, UsageWishes())
    assert code == INCOMPLETE
    assert OWNER_KEY in members["doubts"][0]
    assert members["retention"] is None
    assert members["total"]["bytes"] == sums(members)[0] > members["kinds"]["not_told_apart"]["bytes"] > 0
    assert show_usage(config, UsageWishes(), as_json=False) == INCOMPLETE
    assert "retention: not known" in capsys.readouterr().out


def test_nothing_there_and_a_pass_that_does_not_end(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(look, "LOCK_WAIT_SECONDS", 0.0)
    take_lock(tmp_path / "journal" / LOCK_NAME, SystemClock())
    with pytest.raises(AlreadyRunning):
        show_usage(config, UsageWishes(), as_json=False)
    assert "a pass of collection is under way" in capsys.readouterr().err
    (tmp_path / "journal" / LOCK_NAME).unlink()
    shutil.rmtree(tmp_path / "container")
    (tmp_path / "container").mkdir()
    with pytest.raises(NoSuchDomain):
        show_usage(config, UsageWishes(), as_json=False)


@pytest.mark.parametrize("age", ["", "soon", "-1d", "forever", "1"])
def test_an_age_that_makes_no_sense_is_refused_first(config: Path, age: str) -> None:
    with pytest.raises(UsageError, match="--older-than"):
        show_usage(config, UsageWishes(abort_older_than=age), as_json=False)


def test_beside_a_copy(config: Path, tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "container", copy)
    code, members = told_of(config, capsys, UsageWishes(compare=str(copy)))
    assert code == 0
    assert members["compare"]["differences"] == {}
    assert members["compare"]["here"] == members["compare"]["there"]
    site.cut()
    shutil.copy(copy / "domain" / "owner", copy / "diary")
    segment = copy / segment_key(2, 1)
    segment.write_bytes(segment.read_bytes()[:-1])
    code, members = told_of(config, capsys, UsageWishes(compare=str(copy)))
    assert code == INCOMPLETE
    found = {cause: group["objects"] for cause, group in members["compare"]["differences"].items()}
    assert found == {"not_there_yet": 1, "differs": 1, "foreign_there": 1}
    assert show_usage(config, UsageWishes(compare=str(copy)), as_json=False) == INCOMPLETE
    text = capsys.readouterr().out
    assert "LOOK: 1 object" in text
    assert "not replicated yet" in text


def test_beside_what_collection_left_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    site = a_container(DirectoryStore(home), collected=False)
    shutil.copytree(home, copy)
    site.collect(1, 1, 3)
    site.write_owner()
    code, members = told_of(an_agent(site, tmp_path, str(home)), capsys, UsageWishes(compare=str(copy)))
    assert code == 0
    collected = members["compare"]["differences"]["collected"]
    assert collected["examples"] == [f"{segment_key(1, seq)} (by the ledger)" for seq in (1, 2, 3)]


def test_beside_something_else(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    code, members = told_of(config, capsys, UsageWishes(compare=str(tmp_path / "other")))
    assert code == INCOMPLETE
    assert "nothing tells that it is this container" in members["compare"]["doubts"][0]
    other = Site(DirectoryStore(tmp_path / "other"), seed=9)
    other.begin_epoch()
    with pytest.raises(ForeignObject):
        show_usage(config, UsageWishes(compare=str(tmp_path / "other")), as_json=False)


# --- on a server ---------------------------------------------------------------------------------


@pytest.fixture
def bucket(_moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    s3_environment(_moto, monkeypatch)
    with fresh_bucket(_moto) as bucket:
        yield bucket


def in_bucket(bucket: Bucket, tmp_path: Path) -> tuple[Site, Path]:
    settings = S3Settings(bucket.name, "shop", bucket.server.endpoint)
    site = a_container(S3Store(settings), encrypted=False)
    return site, an_agent(site, tmp_path, settings.address())


def test_versions_uploads_and_foreign_objects_of_a_bucket(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, config = in_bucket(bucket, tmp_path)
    client = bucket.admin
    client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"22"):
        client.put_object(Bucket=bucket.name, Key="shop/notes", Body=body)
    client.delete_object(Bucket=bucket.name, Key=f"shop/{segment_key(6, 1)}")
    client.put_object(Bucket=bucket.name, Key="shopping/other", Body=b"of another")
    begun = client.create_multipart_upload(Bucket=bucket.name, Key="shop/big")["UploadId"]
    client.upload_part(Bucket=bucket.name, Key="shop/big", UploadId=begun, PartNumber=1, Body=bytes(PART))
    code, members = told_of(config, capsys, UsageWishes())
    assert code == INCOMPLETE  # the segment that was deleted is missed
    kinds = members["kinds"]
    assert kinds["abandoned_uploads"] == {"bytes": PART, "objects": 1, "unknown": None}
    assert kinds["foreign"]["bytes"] == 2
    assert kinds["other_versions"]["objects"] == 2
    assert kinds["delete_markers"]["objects"] == 1
    versions = client.list_object_versions(Bucket=bucket.name, Prefix="shop/")["Versions"]
    assert sums(members)[0] == sum(version["Size"] for version in versions) + PART
    assert members["places"] == [{"versioned": True, "lock_days": None}]
    listed = [found.key for found in site.store.list("")]
    assert show_usage(config, UsageWishes(abort_older_than="1d"), as_json=False) == INCOMPLETE
    shown = capsys.readouterr()
    assert "aborting big: 5.0 MiB, begun" in shown.err
    assert "1 upload aborted, 5.0 MiB given back" in shown.out
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket.name)
    assert [found.key for found in site.store.list("")] == listed
    _, members = told_of(config, capsys, UsageWishes(abort_older_than="1d"))
    assert members["aborted"] == {"uploads": 0, "bytes": 0, "left_as_younger": 0}
    assert members["kinds"]["abandoned_uploads"]["bytes"] == 0


def locked_for(days: int, rules: Rules) -> Rules:
    """Moto takes no object in a bucket with such a rule but with a checksum of its own."""
    return replace(rules, lock_days=days) if rules.locks else rules


def test_a_data_place_with_versions_and_a_lock(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was collected there stays, locked; rubbish upon it is no object."""
    locked = f"{bucket.name}-locked"
    bucket.admin.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    data = S3Settings(locked, "shop", bucket.server.endpoint, versions="oldest").address()
    settings = S3Settings(bucket.name, "shop", bucket.server.endpoint, data=data)
    site = a_container(open_store(settings), encrypted=False, collected=False)
    site.write_ledger([site.run(1, 1, 3), in_force(site.pack(1, 1, 3))])
    bucket.admin.put_object(Bucket=locked, Key=f"shop/{segment_key(6, 1)}", Body=b"rubbish")
    bucket.admin.put_object(Bucket=locked, Key="shop/domain/owner", Body=b"12345")
    real = S3Inventory.rules
    monkeypatch.setattr(S3Inventory, "rules", lambda place: locked_for(3, real(place)))
    code, members = told_of(an_agent(site, tmp_path, settings.address()), capsys, UsageWishes())
    assert code == 0
    kinds = members["kinds"]
    assert kinds["other_versions"]["bytes"] == members["locked_other_bytes"] == len(b"rubbish")
    assert kinds["foreign"]["bytes"] == 5
    assert kinds["lock"]["objects"] >= 3
    assert kinds["dead"]["bytes"] == 0
    assert members["locked_until_ns"] > members["store_time_ns"]
    assert [place["lock_days"] for place in members["places"]] == [None, 3]
    listed = [
        bucket.admin.list_object_versions(Bucket=name, Prefix="shop/")["Versions"]
        for name in (bucket.name, locked)
    ]
    assert sums(members)[0] == sum(version["Size"] for versions in listed for version in versions)


def test_a_server_that_denies_is_quoted(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, config = in_bucket(bucket, tmp_path)

    def deny(_: object) -> NoReturn:
        raise AccessDenied("list", "the store answered 403")

    monkeypatch.setattr(S3Inventory, "objects", deny)
    monkeypatch.setattr(S3Inventory, "uploads", deny)
    code, members = told_of(config, capsys, UsageWishes())
    assert code == INCOMPLETE
    unknown = {name for name, kind in members["kinds"].items() if kind["unknown"]}
    assert unknown == {kind.value for kind in (Kind.OTHER, Kind.DELETE_MARKERS, Kind.UPLOADS)}
    assert members["kinds"]["live"]["bytes"] > 0
    assert show_usage(config, UsageWishes(), as_json=False) == INCOMPLETE
    assert "not known: abandoned uploads: denied: the store answered 403" in capsys.readouterr().out
