"""A reader's credentials and the passphrase take a domain over on the real gateway, by what is sealed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from cdp_container.errors import AccessDenied
from cdp_container.store.s3_settings import S3Settings
from deploy.bucket_policy import bucket_policy
from tests.e2e.processes import Done, group_members, run
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.nbd_client import NbdClient
from tests.servers.bucket import fresh_bucket
from tests.servers.ceph import another_user
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]

SIZE: Final = 4 * MIB
WAIT_SECONDS: Final = 90.0


@pytest.fixture(scope="module")
def users(ceph: S3Server) -> dict[str, S3Server]:
    return {role: another_user(ceph, f"sealed-{role}") for role in ("writer", "reader")}


class Recovery:
    """Site b: a reader's credentials, an address, the passphrase."""

    def __init__(self, a: Site, reader: S3Server) -> None:
        self.a = a
        self.root = a.base / "r"
        self.journal, self.socket = self.root / "j", self.root / "s"
        self.disk = self.root / "vms" / "db.raw"
        self.disk.parent.mkdir(parents=True)
        self.environment = a.environment(self.root / "home") | reader.environment()

    def rehydrate(self, command: str, *words: str) -> Done:
        words = ("rehydrate", command, self.a.store, *words, "--passphrase-file", str(self.a.passphrase))
        return run([str(BIN / words[0]), *words[1:]], self.environment)

    def failover(self, *words: str) -> Done:
        """By force: the first site is known to be dead."""
        owner = self.rehydrate("show", "owner", "--json").must().json
        forced = ["--force", f"{owner['epoch']}:{owner['nonce']}", "--socket", str(self.socket)]
        places = ["--journal", str(self.journal), "--to", str(self.disk.parent)]
        return self.rehydrate("failover", "--site", "b", *places, *forced, "--json", *words)

    def agent(self, *words: str) -> Done:
        config = ["--config", str(self.journal / "agent.yaml")]
        return run([str(BIN / "cdp-agent"), *words, *config], self.environment)

    def owner(self) -> dict[str, Any]:
        found: dict[str, Any] = self.rehydrate("show", "owner", "--json").must().json
        return found

    def stop(self) -> None:
        """The agent that a failover started leads a group of its own."""
        log = self.journal / "agent.log"
        print(
            self.agent("status"),
            self.agent("flush", "--timeout", "5"),
            log.read_text() if log.exists() else "no log at b",
        )
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.journal / "lock").read_text())
            if group_members(pid):
                os.killpg(pid, signal.SIGKILL)


@contextmanager
def protected(
    ceph: S3Server, users: dict[str, S3Server], *extra: str
) -> Iterator[tuple[Recovery, bytearray]]:
    """A domain that a writer protected and whose site died, and what its disk held."""
    with fresh_bucket(ceph) as bucket:
        named = [("shop", role, f"sealed-{role}") for role in users]
        bucket.admin.put_bucket_policy(
            Bucket=bucket.name, Policy=json.dumps(bucket_policy(bucket.name, named))
        )
        store = S3Settings(bucket.name, "shop", ceph.endpoint).address()
        with new_site({"db": SIZE}, store=store, secrets=users["writer"].environment()) as a:
            a.write_config(*extra)
            a.init().must()
            agent = a.start()
            image = bytearray(random.Random(3).randbytes(SIZE // 2)) + bytearray(SIZE // 2)
            with a.client("db") as client:
                client.write(0, bytes(image[: SIZE // 2]))
            a.flush_when_ready()
            agent.kill_group()
            recovery = Recovery(a, users["reader"])
            try:
                yield recovery, image
            finally:
                recovery.stop()


def holders(root: Path, secret: str) -> list[Path]:
    """The files that hold the secret."""
    return [path for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def assert_restores(recovery: Recovery, image: bytearray, name: str) -> None:
    target = recovery.root / f"{name}.raw"
    recovery.rehydrate("restore", "--volume", "db", "--target", str(target)).must()
    assert target.read_bytes() == image


def test_a_reader_with_the_passphrase_takes_over_and_writes_on(
    ceph: S3Server, users: dict[str, S3Server]
) -> None:
    secret = users["writer"].secret_key
    with protected(ceph, users, "seal_credentials: true") as (b, image):
        before = b.owner()
        refused = b.failover("--credentials", "own").must(AccessDenied.exit_code)
        assert "--credentials sealed" in refused.err
        assert b.owner() == before, "nothing was claimed"
        done = b.failover().must()
        assert '"credentials": "sealed"' in done.err
        assert secret not in done.out + done.err
        assert b.disk.read_bytes() == image
        data = random.Random(4).randbytes(65536)
        with NbdClient(b.socket, "db") as client:
            client.write(4096, data)
            client.flush()
        image[4096 : 4096 + len(data)] = data
        wait_until(lambda: b.agent("flush", "--timeout", "5").code == 0, "it is protected", WAIT_SECONDS)
        assert_restores(b, image, "written-at-b")
        assert b.owner()["site"] == "b"
        held = b.journal / "credentials"
        assert held.stat().st_mode & 0o777 == 0o600
        assert holders(b.root, secret) == [held], "it stands nowhere else, no log included"
        for pid in group_members(int((b.journal / "lock").read_text())):
            for name in ("cmdline", "environ"):
                assert secret.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()


def test_without_sealed_ones_a_reader_is_refused_and_told_what_is_needed(
    ceph: S3Server, users: dict[str, S3Server]
) -> None:
    with protected(ceph, users) as (b, image):
        before = b.owner()
        refused = b.failover().must(AccessDenied.exit_code)
        assert "a writer's credentials" in refused.err
        assert "holds none that are sealed" in refused.err
        assert b.owner() == before
        assert b.failover("--credentials", "sealed").code != 0
        assert b.owner() == before
        assert_restores(b, image, "read")
