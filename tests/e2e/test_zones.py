"""Two real zones: the home dies in mid-stream, its copy is taken over by force, and the zones meet again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import boto3
import pytest
from botocore.exceptions import ClientError

from cdp_container.errors import MissingObject, NotHome
from tests.e2e.processes import Done, run
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.nbd_client import NbdClient
from tests.servers.ceph_zones import Zone, running_zones
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]

SIZE = 4 * MIB
BLOCK = 4096
WAIT_SECONDS = 180.0
BUCKET = "backups"

Story = list[tuple[int, bytes]]


def write_on(client: NbdClient, story: Story, rng: Random, ending: threading.Event) -> None:
    while not ending.wait(0.002):
        at, data = rng.randrange(SIZE // BLOCK) * BLOCK, rng.randbytes(BLOCK)
        story.append((at, data))
        client.write(at, data)


def writes_in(story: Story, image: bytes) -> int | None:
    """After how many writes of the story the disk was this image; None where it never was."""
    disk, found = bytearray(SIZE), 0 if image == bytes(SIZE) else None
    for number, (at, data) in enumerate(story, 1):
        disk[at : at + BLOCK] = data
        if image[at : at + BLOCK] == data and disk == image:
            found = number
    return found


def make_bucket(zones: tuple[Zone, Zone]) -> None:
    """In the home; it comes to the copy by itself."""
    home, copy = (
        boto3.client(
            "s3",
            endpoint_url=zone.server.endpoint,
            aws_access_key_id=zone.server.access_key,
            aws_secret_access_key=zone.server.secret_key,
            region_name="us-east-1",
        )
        for zone in zones
    )
    home.create_bucket(Bucket=BUCKET)

    def is_there() -> bool:
        try:
            copy.head_bucket(Bucket=BUCKET)
        except ClientError:
            return False
        return True

    wait_until(is_there, "the bucket is in both zones", WAIT_SECONDS)
    home.close()
    copy.close()


class Recovery:
    """Site b: only the copy is to be seen from there."""

    def __init__(self, site: Site, store: str) -> None:
        self.site, self.store, self.root = site, store, site.base / "b"
        self.environment = site.environment(self.root / "home")
        self.journal = self.root / "j"
        (self.root / "vms").mkdir()

    def rehydrate(self, command: str, *words: str, store: str | None = None) -> Done:
        secret = ["--passphrase-file", str(self.site.passphrase)]
        program = [str(BIN / "rehydrate"), command, store or self.store]
        return run([*program, *words, *secret], self.environment)

    def failover(self, *words: str) -> Done:
        places = ["--journal", str(self.journal), "--to", str(self.root / "vms"), "--no-start"]
        return self.rehydrate("failover", "--site", "b", *places, "--socket", str(self.root / "s"), *words)

    def history(self, store: str) -> Done:
        return self.rehydrate("history", "--json", store=store)

    @contextmanager
    def agent(self) -> Iterator[None]:
        config = ["--config", str(self.journal / "agent.yaml")]
        with (
            (self.root / "agent.log").open("w") as log,
            subprocess.Popen(
                [str(BIN / "cdp-agent"), "run", *config],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ) as process,
        ):
            try:
                wait_until(
                    lambda: run([str(BIN / "cdp-agent"), "status", *config], self.environment).code == 0,
                    "site b is on target",
                    WAIT_SECONDS,
                )
                yield
            finally:
                os.killpg(process.pid, signal.SIGTERM)


@pytest.fixture(scope="module")
def zones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Zone, Zone]]:
    with running_zones(tmp_path_factory.mktemp("zones") / "two") as two:
        make_bucket(two)
        yield two


def protected_cut(site: Site) -> int:
    protected = site.facts().get("protected") or {"cut": 0}
    return int(protected["cut"])


def stream_until_the_home_dies(site: Site, home: Zone, story: Story) -> None:
    ending = threading.Event()
    with site.client("db") as client:
        writer = threading.Thread(target=write_on, args=(client, story, Random(7), ending), name="guest")
        writer.start()
        try:
            wait_until(lambda: protected_cut(site) > 20, "much is protected", WAIT_SECONDS)
            home.kill()
            seen = len(story)
            wait_until(lambda: len(story) > seen + 200, "guests notice nothing", WAIT_SECONDS)
        finally:
            ending.set()
            writer.join()


def force_word(refused: Done) -> str:
    match = re.search(r"--force ([0-9]+:[0-9a-f]{32})", refused.err)
    assert match is not None, refused.err
    return match[1]


def take_over(recovery: Recovery) -> None:
    """Nobody takes over in the copy without force, nor with it what is not whole without saying so."""
    word = force_word(recovery.failover().must(NotHome.exit_code))
    forced = recovery.failover("--force", word)
    if forced.code:
        forced.must(MissingObject.exit_code)
        recovery.failover("--force", word, "--accept-loss").must()


def test_the_home_dies_in_mid_stream_and_comes_back(zones: tuple[Zone, Zone]) -> None:
    home = zones[0]
    at_home, at_copy = (f"s3://{BUCKET}/shop?endpoint={zone.server.endpoint}" for zone in zones)
    story: Story = []
    with new_site({"db": SIZE}, store=at_home, secrets=home.server.environment()) as site:
        site.init().must()
        site.start()
        stream_until_the_home_dies(site, home, story)
        recovery = Recovery(site, at_copy)
        target = recovery.root / "read.raw"
        recovery.rehydrate("restore", "--replica", "--volume", "db", "--target", str(target)).must()
        read = writes_in(story, target.read_bytes())
        assert read is not None, "no image that the disk ever had"
        assert read > 0
        take_over(recovery)
        taken = writes_in(story, (recovery.root / "vms" / "db.raw").read_bytes())
        assert taken is not None
        assert taken >= read, "what could be read before can be taken over"
        with recovery.agent():
            owner = recovery.history(at_copy).must().json["owner"]
            assert (owner["site"], owner["epoch"]) == ("b", 1003)
            home.start()
            wait_until(lambda: "took the domain" in site.status().out, "site a fences itself", WAIT_SECONDS)
            wait_until(
                lambda: recovery.history(at_home).json["owner"]["epoch"] == 1003,
                "the home has the winner's owner",
                WAIT_SECONDS,
            )
            met = recovery.history(at_home).must().json
        assert [epoch["epoch"] for epoch in met["epochs"]] == [1, 1002, 1003]
        assert [epoch["unsynchronised"] for epoch in met["epochs"]] == [False, True, False]
        assert {lost["epoch"] for lost in met["not_merged"]} <= {1}, "only site a can have lost anything"
