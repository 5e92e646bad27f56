"""`rehydrate export` into a real bucket, from a real one: killed, without credentials, the store away."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_container.errors import AccessDenied, TargetNotEmpty
from cdp_container.store.address import open_store
from tests.containers import PASSPHRASE, Site, write
from tests.e2e.processes import Done, run
from tests.e2e.site import BIN, MIB
from tests.servers.bucket import Bucket, fresh_bucket
from tests.servers.ceph import another_user
from tests.servers.faults import AWAY, NONE, FaultProxy, Faults, running_faults
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ceph, pytest.mark.needs("qemu-img")]

SIZE = 70 * MIB
SECONDS_MAX = 120.0
PARTS = 5
"""Of 16 MiB, of a raw image."""


@pytest.fixture(scope="module")
def target(ceph: S3Server) -> Iterator[Bucket]:
    """A bucket of somebody else than the container's."""
    with fresh_bucket(another_user(ceph, "import")) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(5).randbytes(SIZE)


@pytest.fixture(scope="module")
def container(ceph: S3Server, content: bytes) -> Iterator[str]:
    """The address of a container in a bucket; its disk holds `content`."""
    with pytest.MonkeyPatch.context() as patch, fresh_bucket(ceph) as bucket:
        for name, value in ceph.environment().items():
            patch.setenv(name, value)
        address = f"s3://{bucket.name}/shop?endpoint={ceph.endpoint}&etag=unquoted"
        site = Site(open_store(address), seed=1)
        disk = site.add_volume("db", SIZE)
        site.begin_epoch()
        for at in range(0, SIZE, 5 * MIB):
            site.cut([write(disk, at, content[at : at + 5 * MIB])])
        site.protect(max(site.images))
        yield address


@pytest.fixture
def proxy(ceph: S3Server) -> Iterator[FaultProxy]:
    with running_faults(ceph.endpoint, random.Random(2)) as proxy:
        yield proxy


def credentials(folder: Path, server: S3Server, secret: str | None = None) -> Path:
    path = folder / "credentials"
    keys = f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {secret or server.secret_key}\n"
    path.write_text(f"[default]\n{keys}")
    return path


def environment(ceph: S3Server, folder: Path) -> dict[str, str]:
    """The container's credentials alone."""
    here = {"PATH": os.environ["PATH"], "HOME": str(folder), "CDP_PASSPHRASE": PASSPHRASE}
    return {**here, **ceph.environment()}


def words(container: str, target: Bucket, endpoint: str, folder: Path, *options: str) -> list[str]:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    to = f"s3://{target.name}/{folder.name}?endpoint={endpoint}&credentials={folder}/credentials"
    base = [str(BIN / "rehydrate"), "export", container, "--volume", "db", "--to", to]
    return [*base, "--workspace", str(work), "--uploads", "1", "--json", *options]


def object_of(target: Bucket, key: str) -> bytes:
    return target.admin.get_object(Bucket=target.name, Key=key)["Body"].read()


def parts_put(proxy: FaultProxy, since: int = 0) -> int:
    return sum(seen.method == "PUT" and "partNumber=" in seen.path for seen in proxy.seen[since:])


def must(done: Done, target: Bucket, code: int = 0) -> Done:
    assert target.server.secret_key not in done.out + done.err
    assert PASSPHRASE not in done.out + done.err
    return done.must(code)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_amid_an_upload_it_sends_only_the_rest(
    ceph: S3Server,
    container: str,
    target: Bucket,
    proxy: FaultProxy,
    content: bytes,
    tmp_path: Path,
    number: int,
) -> None:
    credentials(tmp_path, target.server)
    # What was started in the background may ignore Ctrl-C, and so would this.
    command = ["env", "--default-signal=INT"]
    command += words(container, target, proxy.endpoint, tmp_path, "--format", "raw")
    notes = tmp_path / "work" / "db.raw.parts"
    proxy.set(Faults(bytes_per_second=16 * MIB))
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            command, env=environment(ceph, tmp_path), stdout=err, stderr=err, start_new_session=True
        )

    def acknowledged() -> int:
        assert process.poll() is None, (tmp_path / "err").read_text()
        return notes.read_text().count("\n") if notes.exists() else 0

    wait_until(lambda: acknowledged() >= 2, "two parts are acknowledged", SECONDS_MAX)
    process.send_signal(number)
    code = process.wait(SECONDS_MAX)
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    said = (tmp_path / "err").read_text()
    assert ("the same command goes on with it" in said) == (number == signal.SIGINT)
    noted = notes.read_text().count("\n")
    assert "Contents" not in target.admin.list_objects_v2(Bucket=target.name, Prefix=f"{tmp_path.name}/")
    proxy.set(NONE)
    before = len(proxy.seen)
    done = must(run(command, environment(ceph, tmp_path)), target)
    (image,) = done.json["images"]
    print(
        f"parts: {PARTS}, acknowledged before {number!r}: {noted}, sent after it: {parts_put(proxy, before)}"
    )
    assert parts_put(proxy, before) == PARTS - noted == image["parts_sent"]
    assert object_of(target, f"{tmp_path.name}/db.raw") == content
    manifest = json.loads(object_of(target, f"{tmp_path.name}/db.raw.parts.json"))
    assert manifest["sha256_of_parts"][0] == hashlib.sha256(content[: 16 * MIB]).hexdigest()
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["export.lock"]
    assert target.admin.list_multipart_uploads(Bucket=target.name).get("Uploads", []) == []
    must(run(command, environment(ceph, tmp_path)), target, TargetNotEmpty.exit_code)


def test_an_image_in_the_bucket_is_what_its_digest_says_and_holds_the_point(
    ceph: S3Server, container: str, target: Bucket, content: bytes, tmp_path: Path
) -> None:
    credentials(tmp_path, target.server)
    options = ("--format", "vmdk", "--subformat", "streamOptimized")
    command = words(container, target, ceph.endpoint, tmp_path, *options)
    done = must(run(command, environment(ceph, tmp_path), SECONDS_MAX), target)
    key = f"{tmp_path.name}/db.vmdk"
    image = tmp_path / "db.vmdk"
    image.write_bytes(object_of(target, key))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert done.json["images"][0]["sha256"] == digest
    assert target.admin.head_object(Bucket=target.name, Key=key)["Metadata"]["sha256"] == digest
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(image), str(raw)], check=True)
    assert raw.read_bytes() == content


def test_credentials_that_are_refused_are_told_before_anything_is_made(
    ceph: S3Server, container: str, target: Bucket, tmp_path: Path
) -> None:
    credentials(tmp_path, target.server, "not-the-secret")
    command = words(container, target, ceph.endpoint, tmp_path, "--format", "qcow2")
    done = must(run(command, environment(ceph, tmp_path)), target, AccessDenied.exit_code)
    assert "converting" not in done.err
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["export.lock"]
    stranger = another_user(ceph, "stranger")
    credentials(tmp_path, stranger)
    must(run(command, environment(ceph, tmp_path)), target, AccessDenied.exit_code)


def test_the_container_goes_away_amid_a_conversion_and_comes_back(
    ceph: S3Server, container: str, proxy: FaultProxy, content: bytes, tmp_path: Path
) -> None:
    address = container.replace(ceph.endpoint, proxy.endpoint)
    to = tmp_path / "db.qcow2"
    base = [str(BIN / "rehydrate"), "export", address, "--volume", "db", "--to", str(to)]
    command = [*base, "--format", "qcow2", "--json"]
    log = tmp_path / "err"
    proxy.set(Faults(bytes_per_second=16 * MIB))
    with log.open("wb") as err:
        process = subprocess.Popen(
            command, env=environment(ceph, tmp_path), stdout=subprocess.DEVNULL, stderr=err
        )

    def said(word: str) -> bool:
        text = log.read_text()
        assert process.poll() is None, text
        return word in text

    try:
        wait_until(lambda: said('"step": "converting"'), "it converts", SECONDS_MAX)
        proxy.set(AWAY)
        wait_until(lambda: said("is waited for"), "it waits", SECONDS_MAX)
        proxy.set(NONE)
        assert process.wait(SECONDS_MAX) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(to), str(raw)], check=True)
    assert raw.read_bytes() == content
