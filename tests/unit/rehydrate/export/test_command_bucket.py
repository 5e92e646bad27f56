"""`rehydrate export` into a bucket as an administrator runs it: a VM's disks, raw volumes, `--abort`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdp_container.domain.machine import Description, Disk
from cdp_container.domain.machine_records import Configuration, Native, vm_record
from cdp_container.errors import AlreadyRunning, LocalDiskFull, TargetNotEmpty
from cdp_container.store.directory import DirectoryStore
from rehydrate.export.content import Bytes
from rehydrate.export.delivery import Delivered, Delivery, Prepared, Steps
from rehydrate.export.workspace import locked
from tests.containers import Site, write
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.s3 import S3Server
from tests.unit.rehydrate.conftest import Run, answer
from tests.unit.rehydrate.test_cli import refused

pytestmark = pytest.mark.slow

SIZE = 300 << 10
NAME = "data disk"
"""It can be a file's name, and no key."""


@pytest.fixture
def bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    s3_environment(moto_server, monkeypatch)
    with fresh_bucket(moto_server) as found:
        yield found


@pytest.fixture
def protected(place: Path) -> Site:
    site = Site(DirectoryStore(place), seed=3)
    disk = site.add_volume(NAME, SIZE)
    site.begin_epoch()
    web = Description("web", disks=(Disk("vda", disk),))
    site.say(vm_record(b"V" * 16, Configuration("web", web, Native("qmp", ""))))
    site.cut([write(disk, 1000, site.rng.randbytes(100_000))])
    site.protect(site.cut([write(disk, SIZE - 10, b"e" * 10)]))
    return site


def words(place: Path, bucket: Bucket, work: Path, *options: str) -> list[object]:
    to = f"s3://{bucket.name}/import?endpoint={bucket.server.endpoint}"
    return ["export", place, "--to", to, "--workspace", work, *options]


def keys(bucket: Bucket) -> list[str]:
    found = bucket.admin.list_objects_v2(Bucket=bucket.name).get("Contents", [])
    return [one["Key"] for one in found]


def object_of(bucket: Bucket, key: str) -> bytes:
    return bucket.admin.get_object(Bucket=bucket.name, Key=key)["Body"].read()


def test_a_raw_volume_goes_there_whole_under_a_name_that_can_be_a_key(
    run: Run, protected: Site, place: Path, out: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rehydrate.export.convert.PROGRAM", "a-program-that-is-not-there")  # none is needed
    told = answer(run, *words(place, bucket, out, "--all", "--format", "raw"))
    newest = max(protected.images)
    ((space, content),) = protected.images[newest].items()
    key = f"import/{space.hex()}.raw"
    assert keys(bucket) == [key, f"{key}.parts.json"]
    assert object_of(bucket, key) == content
    manifest = json.loads(object_of(bucket, f"{key}.parts.json"))
    assert manifest["sha256_of_parts"] == [hashlib.sha256(content).hexdigest()]
    assert (manifest["cdp-point"], manifest["cdp-volume"]) == (told["point"], space.hex())
    (image,) = told["images"]
    assert (image["target"], image["parts_sent"]) == (f"s3://{bucket.name}/{key}", 1)
    again = words(place, bucket, out, "--all", "--format", "raw")
    assert "an object of" in refused(run, TargetNotEmpty.exit_code, *again)
    assert run(*again, "--force")[0] == 0


@pytest.mark.needs("qemu-img")
def test_a_vm_goes_there_with_its_configuration(
    run: Run, protected: Site, place: Path, out: Path, bucket: Bucket
) -> None:
    told = answer(run, *words(place, bucket, out, "--vm", "web", "--format", "qcow2"))
    (image,) = told["images"]
    stored = object_of(bucket, image["target"].removeprefix(f"s3://{bucket.name}/"))
    assert hashlib.sha256(stored).hexdigest() == image["sha256"]
    assert json.loads(object_of(bucket, "import/web.vm.json"))["name"] == "web"
    assert told["configuration"] == f"s3://{bucket.name}/import/web.vm.json"
    assert [path.name for path in out.iterdir()] == ["export.lock"]


@pytest.mark.needs("qemu-img")
def test_a_configuration_that_is_there_is_replaced_by_force_alone(
    run: Run,
    protected: Site,
    place: Path,
    out: Path,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = words(place, bucket, out, "--vm", "web", "--format", "qcow2")
    key = "import/web.vm.json"
    bucket.admin.put_object(Bucket=bucket.name, Key=key, Body=b"theirs")
    assert key in refused(run, TargetNotEmpty.exit_code, *command)
    assert (keys(bucket), object_of(bucket, key)) == ([key], b"theirs"), "nothing was begun"
    bucket.admin.delete_object(Bucket=bucket.name, Key=key)
    deliver = Delivery.deliver

    def meanwhile(
        delivery: Delivery, prepared: Prepared, make: Callable[[Path], None], source: Bytes, steps: Steps
    ) -> Delivered:
        bucket.admin.put_object(Bucket=bucket.name, Key=key, Body=b"theirs")
        return deliver(delivery, prepared, make, source, steps)

    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "deliver", meanwhile)
        assert key in refused(run, TargetNotEmpty.exit_code, *command)
    assert (len(keys(bucket)), object_of(bucket, key)) == (2, b"theirs")
    assert run(*command, "--force")[0] == 0
    assert json.loads(object_of(bucket, key))["name"] == "web"


def test_what_was_finished_before_it_was_interrupted_is_known_as_its_own(
    run: Run, protected: Site, place: Path, out: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command goes on: it refused the images of its own that were there already."""
    other = protected.add_volume("other", SIZE)
    protected.say(
        vm_record(
            b"V" * 16,
            Configuration(
                "web",
                Description("web", disks=(Disk("vda", protected_volume(protected)), Disk("vdb", other))),
                Native("qmp", ""),
            ),
        )
    )
    protected.protect(protected.cut([write(other, 0, b"o" * 5000)]))
    command = words(place, bucket, out, "--vm", "web", "--format", "raw")
    deliver, sent = Delivery.deliver, list[str]()

    def breaks(
        delivery: Delivery, prepared: Prepared, make: Callable[[Path], None], source: Bytes, steps: Steps
    ) -> Delivered:
        if sent:
            raise LocalDiskFull("send the second", "no room")
        sent.append(prepared.item.key)
        return deliver(delivery, prepared, make, source, steps)

    def ends(*_: object) -> None:
        raise LocalDiskFull("forget", "no room")

    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "deliver", breaks)
        assert run(*command)[0] == LocalDiskFull.exit_code
    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "finish", ends)
        assert run(*command)[0] == LocalDiskFull.exit_code
    assert "import/web.vm.json" in keys(bucket)
    told = answer(run, *command)
    assert [one["parts_sent"] for one in told["images"]] == [0, 0]
    assert [path.name for path in out.iterdir()] == ["export.lock"]
    assert "an object of" in refused(run, TargetNotEmpty.exit_code, *command), "another one would replace it"


def protected_volume(site: Site) -> bytes:
    """The one that the fixture made."""
    (space,) = site.images[min(site.images)]
    return space


def test_abort_ends_uploads_of_these_objects_and_exports_nothing(
    run: Run, protected: Site, place: Path, out: Path, bucket: Bucket
) -> None:
    ((space, _),) = protected.images[max(protected.images)].items()
    for key in (f"import/{space.hex()}.raw", "import/other.raw"):
        bucket.admin.create_multipart_upload(Bucket=bucket.name, Key=key)
    told = answer(run, *words(place, bucket, out, "--all", "--format", "raw", "--abort"))
    assert told["aborted"] == 1
    (left,) = bucket.admin.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    assert left["Key"] == "import/other.raw"
    assert keys(bucket) == []


def test_a_workspace_that_another_export_has_is_refused(
    run: Run, protected: Site, place: Path, out: Path, bucket: Bucket
) -> None:
    with locked(out):
        refused(run, AlreadyRunning.exit_code, *words(place, bucket, out, "--all", "--format", "raw"))
    refused(run, 64, *words(place, bucket, out / "none", "--all", "--format", "raw"))
    refused(run, 11, *words(place, bucket, out, "--all", "--format", "raw")[:2], "--to",
            f"s3://no-such-bucket-x?endpoint={bucket.server.endpoint}", "--workspace", out,
            "--all", "--format", "raw")  # fmt: skip
