"""Images on their way into a bucket: what is refused, what is gone on with, how many parts are sent again."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import AccessDenied, NoSuchBucket, StoreUnavailable, TargetNotEmpty
from cdp_container.store.s3_settings import S3Settings
from rehydrate.export import bucket as buckets
from rehydrate.export import delivery as deliveries
from rehydrate.export.bucket import Bucket
from rehydrate.export.content import Bytes
from rehydrate.export.delivery import Delivered, Delivery, Item, Reported, Ways
from rehydrate.export.workspace import Identity, Notes
from tests.servers.bucket import Bucket as Fresh
from tests.servers.bucket import fresh_bucket, s3_environment
from tests.servers.faults import INVALID_KEY, SLOW_DOWN, Faults, running_faults
from tests.servers.s3 import S3Server

PART_BYTES = 5 << 20
"""The least that stores take of all parts but the last."""
IMAGE = random.Random(1).randbytes(3 * PART_BYTES + 1000)
KEY = "import/shop/db.vmdk"


@pytest.fixture
def bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fresh]:
    monkeypatch.setattr(deliveries, "part_bytes_for", lambda size_bytes: PART_BYTES)
    monkeypatch.setattr(buckets, "PATIENCE", replace(buckets.PATIENCE, attempts_max=1))
    s3_environment(moto_server, monkeypatch)
    with fresh_bucket(moto_server) as found:
        yield found


class Fixed:
    """See `Bytes`: what a volume holds."""

    def read(self, offset: int, length: int) -> bytes:
        return IMAGE[offset : offset + length]


@dataclass
class Export:
    """One run of an export: what was told, what was made, and what may stop it."""

    settings: S3Settings
    workspace: Path
    force: bool = False
    restart: bool = False
    stop_after: int = 1 << 30
    is_streamed: bool = False
    at_once: int = 1
    point: str = "3.17"
    told: list[str] = field(default_factory=list)
    made: list[Path] = field(default_factory=list)
    acknowledged: int = 0

    @property
    def item(self) -> Item:
        identity = Identity("d0", self.point, "aa", "r", "vmdk", len(IMAGE), self.settings.address(), KEY)
        return Item("db.vmdk", identity, self.is_streamed)

    @contextmanager
    def delivery(self) -> Iterator[Delivery]:
        ended = threading.Event()
        ways = Ways(
            self.workspace, self.force, self.restart, self.at_once, ended, self.told.append, self.check,
            random.randbytes,
        )  # fmt: skip
        with closing(Bucket(self.settings, SystemClock(), ended)) as opened:
            yield Delivery(opened, ways)

    def check(self) -> None:
        if self.acknowledged >= self.stop_after:
            raise KeyboardInterrupt

    def make(self, path: Path) -> None:
        self.made.append(path)
        path.write_bytes(IMAGE)

    @contextmanager
    def step(self, what: str, total_bytes: int) -> Iterator[Reported]:
        def report(count: int) -> None:
            if what == "uploading":
                self.acknowledged += 1
                self.check()

        yield report

    def run(self) -> Delivered:
        with self.delivery() as delivery:
            prepared = delivery.prepare(self.item)
            done = delivery.deliver(prepared, self.make, cast(Bytes, Fixed()), self.step)
            delivery.finish([self.item])
            return done


@pytest.fixture
def export(bucket: Fresh, tmp_path: Path) -> Export:
    return Export(S3Settings(bucket.name, "import/shop", bucket.server.endpoint), tmp_path)


def object_of(bucket: Fresh, key: str = KEY) -> bytes:
    return bucket.admin.get_object(Bucket=bucket.name, Key=key)["Body"].read()


def uploads(bucket: Fresh) -> list[str]:
    found = bucket.admin.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])
    return [one["UploadId"] for one in found]


def interrupted(export: Export, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        replace(export, stop_after=after, told=[], made=[]).run()


def test_an_image_is_sent_in_parts_told_by_its_digest_and_cleared_away(export: Export, bucket: Fresh) -> None:
    done = export.run()
    assert (done.sent, done.there, done.size_bytes) == (4, 0, len(IMAGE))
    assert done.sha256 == hashlib.sha256(IMAGE).hexdigest()
    assert object_of(bucket) == IMAGE
    metadata = bucket.admin.head_object(Bucket=bucket.name, Key=KEY)["Metadata"]
    assert (metadata["sha256"], metadata["cdp-point"]) == (done.sha256, "3.17")
    assert (list(export.workspace.iterdir()), uploads(bucket)) == ([], [])


def test_what_was_acknowledged_is_not_sent_again_nor_made_again(export: Export, bucket: Fresh) -> None:
    interrupted(export, 2)
    assert len(uploads(bucket)) == 1
    done = export.run()
    assert (done.sent, done.there, export.made) == (2, 2, [])
    assert any("2 parts of 4 are there" in line for line in export.told)
    assert object_of(bucket) == IMAGE
    assert uploads(bucket) == []


def test_a_raw_image_is_streamed_without_being_made(export: Export, bucket: Fresh) -> None:
    export.is_streamed = True
    interrupted(export, 1)
    done = export.run()
    assert (done.sent, done.there, done.sha256, export.made) == (3, 1, "", [])
    assert object_of(bucket) == IMAGE
    manifest = json.loads(object_of(bucket, f"{KEY}.parts.json"))
    digests = [
        hashlib.sha256(IMAGE[at : at + PART_BYTES]).hexdigest() for at in range(0, len(IMAGE), PART_BYTES)
    ]
    assert manifest["sha256_of_parts"] == digests
    assert list(export.workspace.iterdir()) == []


def test_a_part_that_nobody_noted_or_that_is_another_is_sent_again(export: Export, bucket: Fresh) -> None:
    interrupted(export, 3)
    notes = Notes(export.workspace, "db.vmdk")
    lines = notes.path.read_text().splitlines(keepends=True)
    notes.path.write_text("".join(lines[:2]) + lines[2][:-4])  # torn
    (upload,) = uploads(bucket)
    bucket.admin.upload_part(
        Bucket=bucket.name, Key=KEY, UploadId=upload, PartNumber=1, Body=b"x" * PART_BYTES
    )
    done = export.run()
    assert (done.sent, done.there) == (3, 1)
    assert object_of(bucket) == IMAGE


def test_an_image_that_was_changed_is_made_and_sent_anew(export: Export, bucket: Fresh) -> None:
    interrupted(export, 2)
    before = uploads(bucket)
    (export.workspace / "db.vmdk").write_bytes(b"somebody else's")
    done = export.run()
    assert (done.sent, done.there, len(export.made)) == (4, 0, 1)
    assert object_of(bucket) == IMAGE
    assert before
    assert uploads(bucket) == []


def test_an_upload_that_somebody_ended_begins_anew(export: Export, bucket: Fresh) -> None:
    interrupted(export, 2)
    (upload,) = uploads(bucket)
    bucket.admin.abort_multipart_upload(Bucket=bucket.name, Key=KEY, UploadId=upload)
    done = export.run()
    assert (done.sent, done.there, export.made) == (4, 0, [])
    assert any("ended by somebody" in line for line in export.told)
    assert object_of(bucket) == IMAGE


def test_killed_between_the_end_of_the_upload_and_the_clearing(
    export: Export, bucket: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(workspace: Path, name: str, has_image: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "forget", killed)
        with pytest.raises(KeyboardInterrupt):
            export.run()
    export.made.clear()
    done = export.run()
    assert (done.sent, done.size_bytes, export.made) == (0, len(IMAGE), [])
    assert list(export.workspace.iterdir()) == []
    with pytest.raises(TargetNotEmpty):
        export.run()


def test_an_object_that_is_there_is_replaced_by_force_alone(export: Export, bucket: Fresh) -> None:
    bucket.admin.put_object(Bucket=bucket.name, Key=KEY, Body=b"precious")
    with pytest.raises(TargetNotEmpty, match="8 bytes"):
        export.run()
    assert (object_of(bucket), export.made) == (b"precious", [])
    export.force = True
    export.run()
    assert object_of(bucket) == IMAGE


def test_a_file_in_the_workspace_that_no_image_was_made_of_stays(export: Export, bucket: Fresh) -> None:
    export.is_streamed = True
    theirs = export.workspace / "db.vmdk"
    theirs.write_bytes(b"an image that an export into a file made")
    export.run()
    assert list(export.workspace.iterdir()) == [theirs]
    interrupted(replace(export, force=True), 1)
    with export.delivery() as delivery:
        assert delivery.abort(export.item) == 1
    (export.workspace / "db.vmdk.upload.json").write_text("nonsense")
    with export.delivery() as delivery:
        delivery.abort(export.item)
    assert theirs.read_bytes() == b"an image that an export into a file made"


def test_a_list_of_digests_that_is_not_ours_stays(export: Export, bucket: Fresh) -> None:
    manifest = f"{KEY}.parts.json"
    bucket.admin.put_object(Bucket=bucket.name, Key=manifest, Body=b"theirs")
    export.is_streamed = True
    with pytest.raises(TargetNotEmpty, match=r"parts\.json"):
        export.run()
    assert (object_of(bucket, manifest), uploads(bucket)) == (b"theirs", [])

    class Overtaken(Export):
        """Somebody makes it while parts are sent."""

        def check(self) -> None:
            bucket.admin.put_object(Bucket=bucket.name, Key=manifest, Body=b"theirs")

    bucket.admin.delete_object(Bucket=bucket.name, Key=manifest)
    with pytest.raises(TargetNotEmpty, match=r"parts\.json"):
        Overtaken(export.settings, export.workspace, is_streamed=True).run()
    assert object_of(bucket, manifest) == b"theirs"
    done = replace(export, force=True).run()
    assert (done.sent, done.there) == (0, 4)
    assert json.loads(object_of(bucket, manifest))["size_bytes"] == len(IMAGE)


def test_a_list_of_digests_without_its_object_is_in_nobodys_way(
    export: Export, bucket: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the list and the end of the upload, --restart and --abort left it: refused for ever."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    export.is_streamed = True
    for is_aborted in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(Bucket, "complete", killed)
            with pytest.raises(KeyboardInterrupt):
                export.run()
        assert object_of(bucket, f"{KEY}.parts.json")
        if is_aborted:
            with export.delivery() as delivery:
                delivery.abort(export.item)
        replace(export, restart=True).run()
        assert object_of(bucket) == IMAGE
        bucket.admin.delete_object(Bucket=bucket.name, Key=KEY)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_object_that_somebody_makes_meanwhile_stays_and_the_upload_is_gone_on_with(
    export: Export, bucket: Fresh, is_streamed: bool
) -> None:
    export.is_streamed = is_streamed

    class Overtaken(Export):
        """Somebody makes the object while parts are sent."""

        def check(self) -> None:
            bucket.admin.put_object(Bucket=bucket.name, Key=KEY, Body=b"theirs")

    overtaken = Overtaken(export.settings, export.workspace, is_streamed=is_streamed)
    with pytest.raises(TargetNotEmpty, match="6 bytes") as caught:
        overtaken.run()
    assert "--abort" in caught.value.hint
    assert (object_of(bucket), len(uploads(bucket))) == (b"theirs", 1)
    found = bucket.admin.list_objects_v2(Bucket=bucket.name)["Contents"]
    assert [one["Key"] for one in found] == [KEY], "nor is there a list of its parts"
    with pytest.raises(TargetNotEmpty):
        export.run()
    bucket.admin.delete_object(Bucket=bucket.name, Key=KEY)
    done = export.run()
    assert (done.sent, done.there, export.made) == (0, 4, [])
    assert object_of(bucket) == IMAGE
    overtaken.force = True
    assert overtaken.run().sent == 4
    assert object_of(bucket) == IMAGE


def test_what_another_export_left_is_refused_until_it_is_discarded(export: Export, bucket: Fresh) -> None:
    interrupted(export, 1)
    newer = replace(export, point="3.18", told=[], made=[])
    with pytest.raises(TargetNotEmpty, match=r"point 3\.17") as caught:
        newer.run()
    assert "--at 3.17" in caught.value.hint
    newer.restart = True
    assert newer.run().sent == 4
    assert object_of(bucket) == IMAGE
    assert uploads(bucket) == []


def test_a_file_of_somebody_else_in_the_workspace_stays(export: Export) -> None:
    (export.workspace / "db.vmdk").write_bytes(b"precious")
    with pytest.raises(TargetNotEmpty, match="holds 8 bytes"):
        export.run()
    assert (export.workspace / "db.vmdk").read_bytes() == b"precious"


def test_abandoned_uploads_are_told_of_and_ended_of_this_key_alone(export: Export, bucket: Fresh) -> None:
    for key in (KEY, f"{KEY}.other"):
        bucket.admin.create_multipart_upload(Bucket=bucket.name, Key=key)
    with export.delivery() as delivery:
        delivery.prepare(export.item)
        assert any("--abort ends it" in line for line in export.told)
        assert delivery.abort(export.item) == 1
    assert len(uploads(bucket)) == 1
    interrupted(export, 1)
    with export.delivery() as delivery:
        assert delivery.abort(export.item) == 1
    assert list(export.workspace.iterdir()) == []


def test_who_may_not_write_or_names_no_bucket_learns_it_before_anything_is_made(
    export: Export, bucket: Fresh
) -> None:
    with running_faults(bucket.server.endpoint, random.Random(1)) as proxy:
        proxy.set(Faults(refused=1.0, refusal=INVALID_KEY, only=KEY))
        export.settings = replace(export.settings, endpoint=proxy.endpoint)
        with pytest.raises(AccessDenied):
            export.run()
    export.settings = S3Settings("no-such-bucket-here", "import/shop", bucket.server.endpoint)
    with pytest.raises(NoSuchBucket):
        export.run()
    assert export.made == []
    assert list(export.workspace.iterdir()) == []


def test_a_store_that_breaks_off_is_gone_on_with(export: Export, bucket: Fresh) -> None:
    with running_faults(bucket.server.endpoint, random.Random(3)) as proxy:
        direct, export.settings = export.settings, replace(export.settings, endpoint=proxy.endpoint)
        broken = replace(export, made=[], told=[])

        @contextmanager
        def step(what: str, total_bytes: int) -> Iterator[Reported]:
            def report(count: int) -> None:
                if what == "uploading":
                    proxy.set(Faults(reset=1.0))

            yield report

        with broken.delivery() as delivery, pytest.raises(StoreUnavailable):
            delivery.deliver(delivery.prepare(broken.item), broken.make, cast(Bytes, Fixed()), step)
        proxy.set(Faults())
        done = export.run()
        assert (done.sent, done.there) == (3, 1)
    assert direct.bucket == bucket.name
    assert object_of(bucket) == IMAGE


def test_several_parts_at_once_through_a_line_that_fails_again_and_again(
    export: Export, bucket: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = replace(buckets.PATIENCE, attempts_max=60, first_pause_seconds=0.001, pause_seconds_max=0.01)
    monkeypatch.setattr(buckets, "PATIENCE", patient)
    export.at_once = 4
    with running_faults(bucket.server.endpoint, random.Random(7)) as proxy:
        export.settings = replace(export.settings, endpoint=proxy.endpoint)
        proxy.set(Faults(reset=0.1, refused=0.15, refusal=SLOW_DOWN, lost=0.2, broken=0.1))
        done = export.run()
        assert len(proxy.counts()) > 2
    assert (done.sent, done.there) == (4, 0)
    assert object_of(bucket) == IMAGE
    assert list(export.workspace.iterdir()) == []
