"""What people get wrong, through the real commands: exit code, what and why, a hint, never a traceback.

A `run` that guests depend on is not stopped by the store's faults: it goes on and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp_container.errors import (
    AccessDenied,
    AlreadyRunning,
    BackingUnreadable,
    CdpError,
    ConfigInvalid,
    ContainerExists,
    ForeignObject,
    KeyMissing,
    LocalDiskFull,
    NewerFormat,
    NoSuchBucket,
    NoSuchDomain,
    NoSuchPoint,
    NoSuchVolume,
    TargetNotEmpty,
    TargetUnsuitable,
    WrongPassphrase,
)
from tests.e2e.processes import Done, command_line, processes
from tests.e2e.site import MIB, PASSPHRASE, PRIVATE_KEY, SECRET_VARIABLE, Agent, Site, new_site
from tests.servers.bucket import fresh_bucket
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e
mounts = pytest.mark.needs(*(() if os.geteuid() == 0 else ("root, who alone may mount",)))

NOTICE_SECONDS_MAX = 30.0
SMALL_DISK_BYTES = 4 * MIB


def assert_refused(done: Done, kind: type[CdpError], *says: str) -> None:
    """The code of the error's class; `error:` and `hint:`; no traceback, no secret."""
    assert done.code == kind.exit_code, f"{done.code}, not {kind.__name__}:\n{done.out}{done.err}"
    lines = done.err.splitlines()
    assert any(line.startswith("error: ") for line in lines), done.err
    assert any(line.startswith("hint: ") and len(line) > len("hint: ") for line in lines), done.err
    assert "Traceback" not in done.err
    for text in says:
        assert text in done.err, f"{text!r} is not said:\n{done.err}"
    assert PASSPHRASE not in done.err + done.out


def is_untouched(site: Site) -> bool:
    """Nothing that a later run would trust was left behind."""
    return not (site.journal / "agent.json").exists() and not (site.container / "domain/owner").exists()


# --- init and check-config --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["init", "check-config"])
@pytest.mark.parametrize("fault", ["absent", "folder", "pipe"])
def test_a_backing_file_that_cannot_be_read(command: str, fault: str) -> None:
    with new_site({"db": MIB}) as site:
        path = site.backing("db")
        path.unlink()
        if fault == "folder":
            path.mkdir()
        elif fault == "pipe":
            os.mkfifo(path)
        done = site.init() if command == "init" else site.agent_command(command)
        assert_refused(done, BackingUnreadable, str(path))
        assert is_untouched(site)


@pytest.mark.parametrize("command", ["init", "check-config"])
def test_a_container_in_a_directory_that_is_not_there(command: str) -> None:
    with new_site({"db": MIB}) as site:
        site.container.rmdir()
        done = site.init() if command == "init" else site.agent_command(command)
        assert_refused(done, NoSuchBucket, str(site.container))
        assert not site.container.exists(), "a disk that is not mounted must be noticed"


def test_every_fault_of_a_configuration_at_once() -> None:
    with new_site({"db": MIB}) as site:
        text = (
            site.config.read_text().replace("limit: 256MiB", "limit: 3KiB").replace("cut_every", "cut_evry")
        )
        site.config.write_text(text)
        for command in ("check-config", "run", "status"):
            done = site.agent_command(command)
            assert_refused(done, ConfigInvalid, "cut_evry", "did you mean cut_every?", "journal.limit")


@pytest.mark.parametrize("command", ["run", "status", "flush"])
def test_commands_before_init_say_so(command: str) -> None:
    with new_site({"db": MIB}) as site:
        assert_refused(site.agent_command(command), ConfigInvalid, "cdp-agent init")


def test_init_over_a_container_that_is_there() -> None:
    with new_site({"db": MIB}) as site:
        site.init().must()
        before = (site.container / "domain/owner").read_bytes()
        assert_refused(site.init(), ContainerExists)
        shutil.rmtree(site.journal)
        assert_refused(site.init(), ContainerExists, "shop")
        assert (site.container / "domain/owner").read_bytes() == before


def test_init_without_a_passphrase() -> None:
    with new_site({"db": MIB}) as site:
        assert_refused(site.agent_command("init"), KeyMissing)
        assert is_untouched(site)


def test_a_second_agent_finds_the_lock_busy() -> None:
    with new_site({"db": MIB}) as site:
        site.init().must()
        agent = site.start()
        assert_refused(site.agent_command("run"), AlreadyRunning, str(agent.process.pid))
        site.flush_when_ready()


def test_init_into_a_journal_directory_that_is_in_use() -> None:
    with new_site({"db": MIB}) as site:
        site.init().must()
        site.start()
        (site.journal / "agent.json").rename(site.base / "agent.json")
        assert_refused(site.init(), AlreadyRunning)


# --- a run ------------------------------------------------------------------------------------


def run_refused(site: Site, kind: type[CdpError], *says: str) -> None:
    """A run that cannot serve guests at all ends with the reason."""
    agent = site.launch()
    code = agent.process.wait(NOTICE_SECONDS_MAX)
    assert_refused(Done(code, "", agent.log()), kind, *says)


def test_a_run_whose_backing_file_is_gone() -> None:
    with new_site({"db": MIB}) as site:
        site.init().must()
        site.backing("db").unlink()
        run_refused(site, BackingUnreadable, "db.raw")


def test_a_run_whose_backing_file_has_another_size() -> None:
    with new_site({"db": MIB}) as site:
        site.init().must()
        os.truncate(site.backing("db"), 2 * MIB)
        run_refused(site, BackingUnreadable, "db.raw")


@contextmanager
def once_protected(**options: object) -> Iterator[Site]:
    """A site whose volume was protected before, so that guests may write whatever the store says."""
    with new_site({"db": MIB}, extra=("rpo_target: 1s",), **options) as site:  # type: ignore[arg-type]
        site.init().must()
        agent = site.start()
        with site.client("db") as client:
            client.write(0, b"before")
        site.flush_when_ready()
        assert agent.stop() == 0
        yield site


def assert_degraded(site: Site, agent: Agent, *says: str) -> None:
    """Guests write, and status tells that nothing is protected, and why."""
    with site.client("db") as client:
        client.write(4096, b"guests do not notice", fua=True)
        assert client.read(4096, 20) == b"guests do not notice"

    def told() -> bool:
        done = site.status()
        return done.code == 3 and all(text in done.out for text in says)

    try:
        wait_until(told, f"status says {says}", NOTICE_SECONDS_MAX)
    except AssertionError:
        raise AssertionError(site.status().out + agent.log()) from None
    assert agent.alive
    assert site.flush(1.0).code != 0


def test_a_run_on_the_container_of_another_domain() -> None:
    with once_protected() as site, new_site({"db": MIB}) as other:
        other.init().must()
        site.container.rename(site.base / "ours")
        other.container.rename(site.container)
        assert_refused(site.agent_command("check-config"), ForeignObject)
        assert_degraded(site, site.start(), "belongs to the domain")


def test_a_run_on_a_container_of_a_newer_format() -> None:
    with once_protected() as site:
        of_newer_format(site)
        assert_refused(site.agent_command("check-config"), NewerFormat)
        assert_degraded(site, site.start(), "format 2")


def of_newer_format(site: Site) -> None:
    path = site.container / "domain/owner"
    owner = json.loads(path.read_bytes())
    path.write_bytes(json.dumps(owner | {"format": 2}).encode())


def test_a_run_without_its_store() -> None:
    with once_protected() as site:
        site.container.rename(site.base / "away")
        agent = site.start()
        assert_degraded(site, agent)
        (site.base / "away").rename(site.container)
        site.flush_when_ready()


@pytest.mark.ceph
def test_a_run_with_wrong_credentials(ceph: S3Server) -> None:
    with fresh_bucket(ceph) as bucket:
        address = f"s3://{bucket.name}/shop?endpoint={ceph.endpoint}"
        with once_protected(store=address, secrets=ceph.environment()) as site:
            wrong = site.environment(site.base / "wrong") | {SECRET_VARIABLE: "not-the-secret-at-all"}
            for done in (
                site.agent_command("check-config", environment=wrong),
                site.rehydrate("points", environment=wrong),
            ):
                assert_refused(done, AccessDenied)
                assert "not-the-secret-at-all" not in done.err
            assert_degraded(site, site.start(environment=wrong), "SignatureDoesNotMatch")


@pytest.mark.ceph
def test_a_bucket_that_is_not_there(ceph: S3Server) -> None:
    address = f"s3://no-such-bucket/shop?endpoint={ceph.endpoint}"
    with new_site({"db": MIB}, store=address, secrets=ceph.environment()) as site:
        assert_refused(site.init(), NoSuchBucket)
        assert_refused(site.agent_command("check-config"), NoSuchBucket)
        assert_refused(site.rehydrate("points"), NoSuchBucket)
        assert not (site.journal / "agent.json").exists()


# --- rehydrate ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def protected() -> Iterator[Site]:
    """A container with one marker; nobody runs."""
    with once_protected() as site:
        agent = site.start()
        site.flush_when_ready()
        site.marker("good").must()
        assert agent.stop() == 0
        yield site


def restore(site: Site, *options: str, store: str | None = None) -> Done:
    target = site.base / "b" / "target.raw"
    words = [*options] if "--target" in options else [*options, "--target", str(target)]
    before = site.store
    site.store = store or before
    try:
        done = site.rehydrate("restore", "--volume", "db", *words)
    finally:
        site.store = before
    assert done.code != 0
    assert not target.exists(), "what failed must not look done"
    return done


def test_a_wrong_passphrase(protected: Site) -> None:
    right = protected.passphrase.read_text()
    try:
        protected.passphrase.write_text("wrong horse\n")
        assert_refused(restore(protected), WrongPassphrase)
        protected.passphrase.write_text("\n")
        assert_refused(restore(protected), KeyMissing)
    finally:
        protected.passphrase.write_text(right)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("--at", "99.1"), NoSuchPoint),
        (("--marker", "bad"), NoSuchPoint),
        (("--time", "2001-01-01T00:00:00Z"), NoSuchPoint),
        (("--volume", "none"), NoSuchVolume),
    ],
)
def test_a_point_or_volume_that_is_not_there(
    protected: Site, options: tuple[str, str], kind: type[CdpError]
) -> None:
    target = protected.base / "b" / "nothing.raw"
    volume = () if options[0] == "--volume" else ("--volume", "db")
    assert_refused(protected.rehydrate("restore", *volume, "--target", str(target), *options), kind)
    assert not target.exists()


def test_no_container_there(protected: Site, tmp_path: Path) -> None:
    assert_refused(restore(protected, store=str(tmp_path)), NoSuchDomain)
    assert_refused(restore(protected, store=str(tmp_path / "absent")), NoSuchBucket)


def test_a_container_of_a_newer_format(protected: Site) -> None:
    path = protected.container / "domain/owner"
    before = path.read_bytes()
    try:
        of_newer_format(protected)
        assert_refused(restore(protected), NewerFormat, "domain/owner")
    finally:
        path.write_bytes(before)


def test_a_target_that_holds_something(protected: Site, tmp_path: Path) -> None:
    path = tmp_path / "image.raw"
    path.write_bytes(b"precious")
    assert_refused(restore(protected, "--target", str(path)), TargetNotEmpty, str(path))
    assert path.read_bytes() == b"precious"


def test_a_target_in_a_folder_that_is_not_there(protected: Site, tmp_path: Path) -> None:
    assert_refused(restore(protected, "--target", str(tmp_path / "none" / "image.raw")), TargetUnsuitable)


# --- full disks -----------------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of SMALL_DISK_BYTES at `path`."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "none", path], check=True, timeout=30
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True, timeout=30)


@mounts
def test_a_full_disk_under_the_target(tmp_path: Path) -> None:
    with new_site({"db": 8 * MIB}) as site:
        content = os.urandom(8 * MIB)
        site.backing("db").write_bytes(content)
        site.init().must()
        agent = site.start()
        site.flush_when_ready()
        assert agent.stop() == 0
        with small_disk(tmp_path):
            target = tmp_path / "image.raw"
            assert_refused(restore(site, "--target", str(target)), LocalDiskFull, str(target))
            assert not list(tmp_path.iterdir()), "what failed must leave nothing"
        assert site.restore("db", target)["written_bytes"] == len(content)
        assert target.read_bytes() == content


@mounts
def test_a_full_disk_under_the_container() -> None:
    with new_site({"db": 16 * MIB}, extra=("rpo_target: 1s",)) as site, small_disk(site.container):
        ballast = site.container / "ballast"
        site.init().must()
        agent = site.start()
        ballast.write_bytes(bytes(SMALL_DISK_BYTES - MIB))
        content = os.urandom(3 * MIB)
        with site.client("db") as client:
            client.write(MIB, content)
            client.flush()
        assert_degraded(site, agent, "No space left")
        assert agent.stop() == 0
        # Room again: everything that waited is sent.
        ballast.unlink()
        site.start()
        site.flush().must()
        target = site.base / "b" / "image.raw"
        site.restore("db", target)
        expected = bytearray(16 * MIB)
        expected[MIB : 4 * MIB] = content
        expected[4096:4116] = b"guests do not notice"
        assert target.read_bytes() == expected


# --- secrets ----------------------------------------------------------------------------------------


@pytest.mark.ceph
def test_secrets_stand_nowhere(ceph: S3Server) -> None:
    with fresh_bucket(ceph) as bucket:
        address = f"s3://{bucket.name}/shop?endpoint={ceph.endpoint}"
        with new_site({"db": MIB}, store=address, secrets=ceph.environment()) as site:
            said = [site.init().must(), site.agent_command("check-config").must()]
            agent = site.start()
            with site.client("db") as client:
                client.write(0, b"known plaintext" * 100)
            site.flush_when_ready()
            said += [site.flush().must(), site.status(), site.rehydrate("points").must()]
            secrets = [PASSPHRASE, ceph.secret_key, PRIVATE_KEY.hex()]
            texts = [done.out + done.err for done in said] + [
                agent.log(),
                (site.base / "kit.txt").read_text(),
            ]
            files = (path for path in site.root.rglob("*") if path.is_file())
            texts += [path.read_bytes().decode("latin-1") for path in files]
            texts += ["\0".join(command_line(pid)) for pid, _, _ in processes()]
            for secret in secrets:
                assert not any(secret in text for text in texts)
            stored = [bucket.admin.get_object(Bucket=bucket.name, Key=item["Key"])["Body"].read()
                      for item in bucket.admin.list_objects_v2(Bucket=bucket.name)["Contents"]]  # fmt: skip
            assert not any(b"known plaintext" in data for data in stored)
