"""Two real zones: the home dies in mid-stream, its copy is taken over by force, and the zones meet again.

The domain goes on in the copy, and from there it comes back to the site that was overtaken.
"""

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
from tests.e2e.site import BIN, END_SECONDS_MAX, MIB, Site, new_site
from tests.nbd_client import NbdClient
from tests.servers.ceph_zones import Zone, running_zones
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]

SIZE = 4 * MIB
BLOCK = 4096
WAIT_SECONDS = 180.0
TEST_SECONDS_MAX = 600
"""A minute on an idle machine, a fourth of it for the clusters to start."""
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
        self.journal, self.socket = self.root / "j", self.root / "s"
        self.disk = self.root / "vms" / "db.raw"
        self.disk.parent.mkdir()

    def rehydrate(self, command: str, *words: str, store: str | None = None) -> Done:
        program = [str(BIN / "rehydrate"), command, store or self.store]
        return run([*program, *words, *self.site.secret_options()], self.environment)

    def failover(self, *words: str) -> Done:
        places = ["--journal", str(self.journal), "--to", str(self.disk.parent), "--no-start"]
        return self.rehydrate("failover", "--site", "b", *places, "--socket", str(self.socket), *words)

    def history(self, store: str) -> Done:
        return self.rehydrate("history", "--json", store=store)

    def agent_command(self, *words: str) -> Done:
        config = ["--config", str(self.journal / "agent.yaml")]
        return run([str(BIN / "cdp-agent"), *words, *config], self.environment)

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
                    lambda: self.agent_command("status").code == 0, "site b is on target", WAIT_SECONDS
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


def write_some(client: NbdClient, image: bytearray, rng: Random, count: int = 50) -> None:
    """Writes that nobody flushed; the image has them, too."""
    for _ in range(count):
        at, data = rng.randrange(SIZE // BLOCK) * BLOCK, rng.randbytes(BLOCK)
        client.write(at, data)
        image[at : at + BLOCK] = data


def assert_restores(recovery: Recovery, image: bytearray, name: str) -> None:
    """From the copy, for one who sees nothing else."""
    target = recovery.root / f"{name}.raw"
    recovery.rehydrate("restore", "--volume", "db", "--target", str(target)).must()
    assert target.read_bytes() == image, name


def goes_on(recovery: Recovery, image: bytearray, rng: Random, name: str) -> None:
    """Guests of site b write, and what was protected comes out of the copy byte for byte."""
    with NbdClient(recovery.socket, "db") as client:
        write_some(client, image, rng)
        client.flush()
    recovery.agent_command("flush", "--timeout", "60").must()
    assert_restores(recovery, image, name)


def meet(site: Site, home: Zone, recovery: Recovery, at_home: str) -> None:
    """The home's gateway is back: what stands in the copy wins, and site a says that it lost."""
    home.start()
    wait_until(lambda: "took the domain" in site.status().out, "site a fences itself", WAIT_SECONDS)
    wait_for_epoch(recovery, at_home, 1003)
    met = recovery.history(at_home).must().json
    assert [epoch["epoch"] for epoch in met["epochs"]] == [1, 1002, 1003]
    assert [epoch["unsynchronised"] for epoch in met["epochs"]] == [False, True, False]
    assert {lost["epoch"] for lost in met["not_merged"]} <= {1}, "only site a can have lost anything"


def wait_for_epoch(recovery: Recovery, store: str, epoch: int) -> None:
    def is_there() -> bool:
        done = recovery.history(store)
        return done.code == 0 and done.json["owner"]["epoch"] == epoch

    wait_until(is_there, f"epoch {epoch} is in {store}", WAIT_SECONDS)


def failback_words(site: Site) -> list[str]:
    words = [str(BIN / "rehydrate"), "failback", site.store, "--journal", str(site.journal)]
    return [*words, "--config", str(site.config), "--no-start", *site.secret_options()]


def fall_back(site: Site, recovery: Recovery, image: bytearray, rng: Random) -> None:
    """A planned handover in the zone in which the domain lives now."""
    here = site.environment(site.root / "home")
    assert site.agents[-1].stop() == 0
    site.write_config()
    wait_until(
        lambda: recovery.store in recovery.rehydrate("show", "config", store=site.store).out,
        "the copy's configuration is in the home",
        WAIT_SECONDS,
    )
    refused = run(failback_words(site), here).must(NotHome.exit_code)
    assert f"its home is {recovery.store}" in refused.err, "pinned by who took over"
    site.store = recovery.store
    site.write_config()
    log = site.base / "failback.log"
    with log.open("wb") as file:
        process = subprocess.Popen(failback_words(site), env=here, stdout=file, stderr=file)
    try:
        wait_until(lambda: "release --to a" in log.read_text(), "it waits for b", WAIT_SECONDS)
        with NbdClient(recovery.socket, "db") as client:
            write_some(client, image, rng)  # the release has to bring over what is not flushed
            recovery.agent_command("release", "--to", "a").must()
        assert process.wait(END_SECONDS_MAX) == 0
    finally:
        process.kill()
        process.wait()
        print(log.read_text())
    assert recovery.disk.read_bytes() == image
    assert site.backing("db").read_bytes() == image


@pytest.mark.timeout(TEST_SECONDS_MAX)
def test_the_home_dies_in_mid_stream_and_comes_back(zones: tuple[Zone, Zone]) -> None:
    home = zones[0]
    at_home, at_copy = (f"s3://{BUCKET}/shop?endpoint={zone.server.endpoint}" for zone in zones)
    story: Story = []
    rng = Random(8)
    environment = home.server.environment()
    with new_site({"db": SIZE}, store=at_home, secrets=environment, with_key=True) as site:
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
        image = bytearray(recovery.disk.read_bytes())
        taken = writes_in(story, bytes(image))
        assert taken is not None
        assert taken >= read, "what could be read before can be taken over"
        with recovery.agent():
            owner = recovery.history(at_copy).must().json["owner"]
            assert (owner["site"], owner["epoch"]) == ("b", 1003)
            goes_on(recovery, image, rng, "while-the-home-is-away")
            meet(site, home, recovery, at_home)
            goes_on(recovery, image, rng, "when-they-met")
            fall_back(site, recovery, image, rng)
        site.start()
        with site.client("db") as client:
            write_some(client, image, rng)
        site.flush_when_ready()
        assert_restores(recovery, image, "back-at-a")
        last = recovery.history(at_copy).must().json
        owners = [(epoch["epoch"], epoch["site"]) for epoch in last["epochs"]]
        assert owners == [(1, "a"), (1002, "b"), (1003, "b"), (1004, "a"), (1005, "a")]
        wait_for_epoch(recovery, at_home, 1005)
