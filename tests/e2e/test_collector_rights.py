"""On the real gateway: the agent with just the writer's rights, and a pass with just the collector's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from cdp_agent.usage.survey import Aborted, abort_uploads
from cdp_container.errors import AccessDenied
from cdp_container.format.holds import parse_holds
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY, gc_key, ledger_key, pack_key, segment_key
from cdp_container.store.api import Store
from cdp_container.store.attest import PROBE_PREFIX, probe
from cdp_container.store.inventory import Rules, Standing, Taken
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_inventory import S3Inventory
from cdp_container.store.s3_settings import S3Settings
from deploy.bucket_policy import bucket_policy
from tests.e2e.processes import run
from tests.e2e.site import BIN
from tests.e2e.test_failback import assert_disks, assert_goes_on, failback, lose, two_ways
from tests.e2e.test_failover import failover, fill, fill_small, force_word
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.ceph import another_user
from tests.servers.s3 import S3Server
from tests.unit.collector.collecting_site import CollectedSite, Effects

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]

ROLES: Final = ("writer", "collector")
PART: Final = 5 << 20
FAR_NS: Final = 1 << 62
"""Later than anything that begins."""


@pytest.fixture(scope="module")
def users(ceph: S3Server) -> dict[str, S3Server]:
    return {role: another_user(ceph, f"rights-{role}") for role in ROLES}


@pytest.fixture
def bucket(ceph: S3Server, users: dict[str, S3Server]) -> Iterator[Bucket]:
    with fresh_bucket(ceph) as bucket:
        policy = bucket_policy(bucket.name, [("shop", role, f"rights-{role}") for role in users])
        bucket.admin.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
        yield bucket


def store_as(bucket: Bucket, user: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    s3_environment(user, monkeypatch)
    return S3Store(S3Settings(bucket.name, "shop", bucket.server.endpoint))


def assert_cannot_delete(store: Store) -> None:
    for found in [*store.list("")]:
        with pytest.raises(AccessDenied):
            store.delete(found.key)
    for key in (pack_key(1, 1), ledger_key(1, 1), gc_key(1, 1)):
        with pytest.raises(AccessDenied):
            store.put_new(key, b"not the writer's to write")


def test_protecting_marking_releasing_and_failing_back_need_no_right_to_delete(
    bucket: Bucket, users: dict[str, S3Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = S3Settings(bucket.name, "shop", bucket.server.endpoint).address()
    images: dict[str, bytearray] = {}
    with two_ways(address, users["writer"].environment()) as (a, b):
        a.start()
        fill(a, 1, images)
        a.marker("before").must()
        a.agent_command("release", "--to", "b").must()
        a.agents[-1].stop()
        failover(b).must()
        fill_small(b, images)
        lose(b)
        failback(a, "--force", force_word(b)).must()
        assert_disks(a, images)
        assert_goes_on(a, images)
        words = [str(BIN / "rehydrate"), "verify", a.store, "--json", *a.secret_options()]
        run(words, a.environment(a.base / "home")).must()
    store = store_as(bucket, users["writer"], monkeypatch)
    assert_cannot_delete(store)
    store.close()


def recorded_pass(directory: Path) -> tuple[CollectedSite, dict[str, bytes], list[str]]:
    """What stood in a container before a pass, and each write and delete that the pass made."""
    site = CollectedSite()
    site.add_disk("disk", 300_000)
    site.begin_epoch()
    site.busy(30)
    before = {found.key: site.store.get(found.key).data for found in site.store.list("")}
    done: list[str] = []
    site.run_pass(directory, effects=Effects(before=done.append))
    return site, before, [line for line in done if line != "change"]


def test_a_pass_needs_no_more_than_the_collectors_rights(
    bucket: Bucket, users: dict[str, S3Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site, before, done = recorded_pass(tmp_path)
    assert {line.partition(" ")[0] for line in done} == {"put", "delete"}
    for key, data in before.items():
        bucket.admin.put_object(Bucket=bucket.name, Key=f"shop/{key}", Body=data)
    store = store_as(bucket, users["collector"], monkeypatch)
    for line in done:
        verb, _, key = line.partition(" ")
        if verb == "put":
            store.put_new(key, b"a look" if key.startswith(PROBE_PREFIX) else site.store.get(key).data)
        else:
            store.delete(key)
    # `domain/owner` is the streamer's to change.
    left = {found.key: store.get(found.key).data for found in store.list("") if found.key != OWNER_KEY}
    assert left == {
        found.key: site.store.get(found.key).data for found in site.store.list("") if found.key != OWNER_KEY
    }
    assert len(left) < len(before)
    probe(store, os.urandom)
    roster = store.get(HOLDS_KEY)
    store.put_if(HOLDS_KEY, roster.data, roster.found.tag)
    assert parse_holds(store.get(HOLDS_KEY).data, HOLDS_KEY, site.domain).version == 1
    store.close()


def test_a_collector_neither_owns_nor_writes_history(
    bucket: Bucket, users: dict[str, S3Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (OWNER_KEY, HOLDS_KEY, gc_key(1, 1), segment_key(1, 1))
    for key in names:
        bucket.admin.put_object(Bucket=bucket.name, Key=f"shop/{key}", Body=b"there")
    store = store_as(bucket, users["collector"], monkeypatch)
    tag = store.head(OWNER_KEY).tag
    for attempt in (
        lambda: store.put_if(OWNER_KEY, b"x", tag),
        lambda: store.put_new(segment_key(1, 2), b"x"),
        lambda: store.put_new("domain/epochs/0000000001", b"x"),
        lambda: store.put_new("domain/config/" + "0" * 64, b"x"),
        lambda: store.delete(OWNER_KEY),
        lambda: store.delete(HOLDS_KEY),
        lambda: store.delete(gc_key(1, 1)),
    ):
        with pytest.raises(AccessDenied):
            attempt()
    assert [store.get(key).data for key in names] == [b"there"] * len(names)
    store.close()


def test_a_collector_lists_and_ends_abandoned_uploads_of_its_own_container_alone(
    bucket: Bucket, users: dict[str, S3Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = {}
    for place in ("shop", "shopping"):
        key = f"{place}/backup.tar"
        begun[place] = bucket.admin.create_multipart_upload(Bucket=bucket.name, Key=key)["UploadId"]
        bucket.admin.upload_part(
            Bucket=bucket.name, Key=key, UploadId=begun[place], PartNumber=1, Body=bytes(PART)
        )
    s3_environment(users["collector"], monkeypatch)
    ours = S3Inventory(S3Settings(bucket.name, "shop", bucket.server.endpoint))
    theirs = S3Inventory(S3Settings(bucket.name, "shopping", bucket.server.endpoint))
    with closing(ours), closing(theirs):
        assert ours.rules() == Rules(versioned=False)
        told: list[Taken] = []
        assert abort_uploads([ours], 0.0, FAR_NS, told.append) == Aborted(1, PART, 0)
        assert [upload.name for upload in told] == ["backup.tar"]
        assert [*ours.uploads()] == []
        for attempt in (
            lambda: [*theirs.uploads()],
            lambda: theirs.abort(Taken("backup.tar", PART, 0, Standing.UPLOAD, upload=begun["shopping"])),
        ):
            with pytest.raises(AccessDenied):
                attempt()
    (left,) = bucket.admin.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    assert left["Key"] == "shopping/backup.tar"
