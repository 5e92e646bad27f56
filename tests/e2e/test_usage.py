"""`cdp-agent usage` beside a real agent on a real Ceph gateway: what others left there, what is denied."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.cli.usage import UsageWishes, show_usage
from cdp_container.format.keys import segment_key
from cdp_container.store.address import open_store
from cdp_container.store.s3_settings import S3Settings
from deploy.bucket_policy import bucket_policy
from tests.containers import in_force
from tests.e2e.site import MIB, Site, new_site
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.ceph import another_user
from tests.servers.s3 import S3Server
from tests.unit.usage.account_site import a_container, an_agent
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]

INCOMPLETE = 3
PART = 5 * MIB
CHUNK = 256 << 10
WAIT_SECONDS_MAX = 60.0


@pytest.fixture
def bucket(ceph: S3Server) -> Iterator[Bucket]:
    with fresh_bucket(ceph) as bucket:
        yield bucket


def protected(bucket: Bucket) -> Iterator[Site]:
    """An agent that runs, with two markers over what was overwritten between them."""
    settings = S3Settings(bucket.name, "shop", bucket.server.endpoint)
    with new_site({"db": 4 * MIB}, store=settings.address(), secrets=bucket.server.environment()) as site:
        site.init().must()
        site.start()
        site.flush_when_ready()
        with site.client("db") as guest:
            for number in (1, 2):
                for at in range(0, 2 * MIB, CHUNK):
                    guest.write(at, bytes([number]) * CHUNK)
                guest.flush()
                site.marker(f"mark-{number}").must()
        yield site


site = pytest.fixture(protected, name="site")


def usage(site: Site, *options: str, code: int = 0) -> dict[str, Any]:
    done = site.agent_command("usage", "--json", *options)
    assert done.code == code, done
    members: dict[str, Any] = json.loads(done.out)
    kinds = members["kinds"].values()
    assert members["total"]["bytes"] == sum(kind["bytes"] for kind in kinds)
    assert members["total"]["objects"] == sum(kind["objects"] for kind in kinds)
    return members


def stored_bytes(bucket: Bucket) -> int:
    """By a client that our stores have no part in: objects below the prefix, and parts of uploads."""
    pages = bucket.admin.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix="shop/")
    total = sum(found["Size"] for page in pages for found in page.get("Contents", []))
    for upload in bucket.admin.list_multipart_uploads(Bucket=bucket.name).get("Uploads", []):
        if upload["Key"].startswith("shop/"):
            parts = bucket.admin.list_parts(
                Bucket=bucket.name, Key=upload["Key"], UploadId=upload["UploadId"]
            )
            total += sum(part["Size"] for part in parts.get("Parts", []))
    return total


def leave_things(bucket: Bucket) -> None:
    """What others leave: a foreign object, two uploads, one of them of another container."""
    bucket.admin.put_object(Bucket=bucket.name, Key="shop/notes of somebody", Body=b"12345")
    for key in ("shop/backup.tar", "shopping/backup.tar"):
        begun = bucket.admin.create_multipart_upload(Bucket=bucket.name, Key=key)["UploadId"]
        for number in (1, 2):
            bucket.admin.upload_part(
                Bucket=bucket.name, Key=key, UploadId=begun, PartNumber=number, Body=bytes(PART)
            )


def test_foreign_objects_and_abandoned_uploads(site: Site, bucket: Bucket) -> None:
    leave_things(bucket)
    site.flush().must()
    members = usage(site)
    kinds = members["kinds"]
    assert kinds["abandoned_uploads"] == {"bytes": 2 * PART, "objects": 1, "unknown": None}
    assert kinds["foreign"] == {"bytes": 5, "objects": 1, "unknown": None}
    assert kinds["not_told_apart"]["objects"] == 0
    assert kinds["live"]["bytes"] > 0
    assert members["keeps_all"] is True
    # Only domain/owner is rewritten meanwhile, in a few bytes more or less.
    assert members["total"]["bytes"] == pytest.approx(stored_bytes(bucket), abs=64 << 10)
    # A day is not over; a second is, by the clock of the store that the agent's lease moves on.
    assert usage(site, "--abort-uploads")["aborted"] == {"uploads": 0, "bytes": 0, "left_as_younger": 1}

    def aborted() -> bool:
        done = usage(site, "--abort-uploads", "--older-than", "1s")["aborted"]
        return bool(done == {"uploads": 1, "bytes": 2 * PART, "left_as_younger": 0})

    wait_until(aborted, "the upload is a second old", WAIT_SECONDS_MAX)
    uploads = bucket.admin.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    assert [upload["Key"] for upload in uploads] == ["shopping/backup.tar"]
    assert usage(site)["kinds"]["abandoned_uploads"]["bytes"] == 0
    text = site.agent_command("usage").must().out
    assert "foreign: names or content of others" in text
    site.restore("db", site.base / "back.raw", "--marker", "mark-1")
    assert (site.base / "back.raw").read_bytes()[: 2 * MIB] == b"\1" * (2 * MIB)


def test_beside_a_copy(site: Site, bucket: Bucket, tmp_path: Path) -> None:
    """A directory that was filled some time ago; the agent goes on meanwhile."""
    site.flush().must()
    copy = tmp_path / "copy"
    pages = bucket.admin.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix="shop/")
    for key in [found["Key"] for page in pages for found in page["Contents"]]:
        path = copy / key.removeprefix("shop/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.admin.get_object(Bucket=bucket.name, Key=key)["Body"].read())
    site.marker("later").must()
    found = usage(site, "--compare", str(copy))["compare"]
    assert found["explained"]
    assert found["differences"].keys() <= {"not_there_yet", "rewritten", "passing"}
    assert found["differences"]["not_there_yet"]["objects"] >= 1
    assert found["same"]["objects"] > 2


def test_what_a_writer_may_not_ask_is_said(site: Site, bucket: Bucket, ceph: S3Server) -> None:
    """The rights of deploy/policies/writer.json, less what tells of versions and uploads."""
    site.flush().must()
    user = another_user(ceph, f"writer-{bucket.name}")
    policy = bucket_policy(bucket.name, [("shop", "writer", f"writer-{bucket.name}")])
    for statement in policy["Statement"]:
        actions = [action for action in statement["Action"] if action not in ASKED]
        statement["Action"] = actions or ["s3:GetObject"]
    bucket.admin.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
    done = site.agent_command("usage", "--json", environment=user.environment())
    assert done.code == INCOMPLETE, done
    kinds = json.loads(done.out)["kinds"]
    unknown = {name for name, kind in kinds.items() if kind["unknown"]}
    assert unknown == {"other_versions", "delete_markers", "abandoned_uploads", "lock"}
    assert kinds["live"]["bytes"] > 0
    assert kinds["not_told_apart"]["objects"] == 0
    assert "denied" in kinds["abandoned_uploads"]["unknown"]


def test_a_locked_data_place(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was collected stays there, locked; the rubbish of a thief is no object; all of it is counted."""
    s3_environment(bucket.server, monkeypatch)
    locked = f"{bucket.name}-locked"
    bucket.admin.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    bucket.admin.put_object_lock_configuration(
        Bucket=locked,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 2}},
        },
    )
    data = S3Settings(locked, "shop", bucket.server.endpoint, versions="oldest").address()
    settings = S3Settings(bucket.name, "shop", bucket.server.endpoint, data=data, tag_spelling="unquoted")
    with closing(open_store(settings)) as store:
        container = a_container(store, collected=False)
        container.write_ledger([container.run(1, 1, 3), in_force(container.pack(1, 1, 3))])
    stolen = f"shop/{segment_key(6, 1)}"
    bucket.admin.put_object(Bucket=locked, Key=stolen, Body=b"rubbish", ContentMD5=md5_of(b"rubbish"))
    bucket.admin.delete_object(Bucket=locked, Key=stolen)
    config = an_agent(container, tmp_path, settings.address())
    assert show_usage(config, UsageWishes(), as_json=True) == 0
    members = json.loads(capsys.readouterr().out)
    kinds = members["kinds"]
    assert kinds["other_versions"]["bytes"] == members["locked_other_bytes"] == len(b"rubbish")
    assert kinds["delete_markers"]["objects"] == 1
    assert kinds["lock"]["objects"] >= 3
    assert kinds["dead"]["bytes"] == 0
    assert [place["lock_days"] for place in members["places"]] == [None, 2]
    versions = [
        version
        for name in (bucket.name, locked)
        for version in bucket.admin.list_object_versions(Bucket=name, Prefix="shop/")["Versions"]
    ]
    assert members["total"]["bytes"] == sum(version["Size"] for version in versions)


def md5_of(data: bytes) -> str:
    """As S3 wants it beside what is to be locked."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


ASKED = (
    "s3:ListBucketVersions", "s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration",
    "s3:ListBucketMultipartUploads",
)  # fmt: skip
