"""Volumes that come, grow and go while a guest writes to another one; every point restores what it had."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cdp_agent.cli.reload import holder_of
from cdp_agent.volume_set import Decision, changed_identity
from cdp_container.domain.identity import load_identity
from cdp_container.errors import BackingUnreadable, ReloadRefused
from tests.e2e.site import MIB, Agent, Site, new_site
from tests.nbd_client import NbdError
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

SIZE = 8 * MIB
SECONDS_MAX = 60.0


@contextmanager
def serving() -> Iterator[tuple[Site, Agent, dict[str, int]]]:
    """A site with one volume, and its volumes to be changed."""
    volumes = {"db": SIZE}
    with new_site(volumes, with_key=True) as site:
        site.volumes = volumes
        site.init().must()
        agent = site.start()
        with site.client("db") as client:
            client.write(0, os.urandom(MIB))
        site.flush_when_ready()
        yield site, agent, volumes


def add(site: Site, volumes: dict[str, int], name: str, content: bytes) -> None:
    """A disk that holds something already."""
    with site.backing(name).open("wb") as file:
        file.write(content)
        file.truncate(SIZE)
    volumes[name] = SIZE
    site.write_config()


def restored(site: Site, volume: str, *options: str) -> bytes:
    target = site.base / "b" / "restored.raw"
    site.restore(volume, target, "--force", *options)
    return target.read_bytes()


class Guest:
    """Writes to one volume all the time; an error or a broken connection ends it."""

    def __init__(self, site: Site) -> None:
        self.error: BaseException | None = None
        self.writes = 0
        self._site = site
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Guest:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.error is None
        assert self.writes > 0

    def _work(self) -> None:
        try:
            with self._site.client("db") as client:
                while not self._stop.is_set():
                    client.write(self.writes % 500 * 4096, os.urandom(4096))
                    self.writes += 1
        except (OSError, NbdError) as error:
            self.error = error


def configured(site: Site) -> dict[str, int]:
    """The volumes by the configuration that is in force in the container, with their sizes."""
    owner = json.loads((site.container / "domain" / "owner").read_bytes())
    config = json.loads((site.container / "domain" / "config" / owner["config"]).read_bytes())
    return {source["name"]: source["size_bytes"] for source in config["sources"]}


def wait_until_configured(site: Site, **volumes: int) -> None:
    wait_until(lambda: configured(site) == volumes, f"the configuration has {volumes}", SECONDS_MAX)


def test_a_volume_comes_grows_and_goes_while_another_is_written() -> None:
    with serving() as (site, agent, volumes), Guest(site):
        content = os.urandom(3 * MIB)
        add(site, volumes, "extra", content)
        done = site.agent_command("reload").must()
        assert "extra: captured from now on" in done.out + done.err
        with site.client("extra") as client:
            assert client.read(0, len(content)) == content
            client.write(5 * MIB, b"written by a guest")
        site.flush_when_ready()
        held = site.backing("extra").read_bytes()
        assert restored(site, "extra") == held
        wait_until_configured(site, db=SIZE, extra=SIZE)
        with_extra = site.points()[-1]["point"]

        os.truncate(site.backing("extra"), SIZE + 2 * MIB)
        site.agent_command("reload").must()
        with site.client("extra") as client:
            assert client.size_bytes == SIZE + 2 * MIB
            client.write(SIZE + MIB, b"in what is new")
        site.flush_when_ready()
        assert restored(site, "extra") == site.backing("extra").read_bytes()
        assert restored(site, "extra", "--at", with_extra) == held
        wait_until_configured(site, db=SIZE, extra=SIZE + 2 * MIB)

        with site.client("extra") as client:
            del volumes["extra"]
            site.write_config()
            site.agent_command("reload").must()
            with pytest.raises(NbdError):
                client.write(0, b"too late")
        with pytest.raises((OSError, NbdError)):
            site.client("extra")
        site.flush_when_ready()
        assert site.agent_command("reload").must().code == 0, "nothing to do"
        assert restored(site, "extra", "--at", with_extra) == held
        wait_until(
            lambda: [volume["name"] for volume in site.points()[-1]["volumes"]] == ["db"],
            "the newest point has the other volume alone",
            SECONDS_MAX,
        )
        wait_until_configured(site, db=SIZE)
        assert agent.process.poll() is None
    assert agent.process.poll() is not None


def test_after_a_restart_the_volumes_are_those_of_the_last_reload() -> None:
    with serving() as (site, agent, volumes):
        add(site, volumes, "extra", b"content")
        site.agent_command("reload").must()
        with site.client("extra") as client:
            client.write(MIB, b"in the journal")
        del volumes["db"]
        site.write_config()
        site.agent_command("reload").must()
        agent.kill_group()
        site.start()
        site.flush_when_ready()
        assert restored(site, "extra") == site.backing("extra").read_bytes()


def decide(site: Site) -> Decision:
    """What `reload` decides; it goes no further."""
    before = load_identity(site.journal)
    wanted = {name: (site.backing(name).stat().st_size, str(site.backing(name))) for name in site.volumes}
    return Decision(site.journal, "decided", before, changed_identity(before, wanted, os.urandom))


def assert_protected(site: Site, *names: str) -> None:
    """The newest point is whole, has these volumes, and each restores as it is."""

    def newest() -> dict[str, Any]:
        site.flush_when_ready()
        return site.points()[-1]

    wait_until(
        lambda: sorted(volume["name"] for volume in newest()["volumes"]) == sorted(names),
        "the newest point has these volumes",
        SECONDS_MAX,
    )
    assert newest()["whole"]
    for name in names:
        assert restored(site, name) == site.backing(name).read_bytes()


def test_a_reload_that_is_killed_before_it_told_anybody_is_done_by_the_next() -> None:
    with serving() as (site, _agent, volumes):
        add(site, volumes, "extra", b"content")
        decide(site).leave()
        assert "extra: captured" in site.agent_command("reload").must().err
        assert_protected(site, "db", "extra")
        assert not list(site.journal.glob("agent.wanted*"))


def test_a_reload_that_is_killed_while_the_splitter_does_it_is_done() -> None:
    """The streamer notices by itself, whoever waited for it."""
    with serving() as (site, _agent, volumes):
        os.truncate(site.backing("db"), SIZE + 2 * MIB)
        add(site, volumes, "extra", b"content")
        decision = decide(site)
        decision.leave()
        splitter = holder_of(site.journal / "splitter.lock")
        assert splitter is not None
        os.kill(splitter, signal.SIGHUP)
        wait_until(lambda: load_identity(site.journal) == decision.after, "the splitter did it", SECONDS_MAX)
        assert "nothing to do" in site.agent_command("reload").must().err
        with site.client("db") as client:
            client.write(SIZE + MIB, b"behind the old end")
            client.flush()
        assert_protected(site, "db", "extra")


def test_a_configuration_that_is_being_edited_does_not_end_the_streamer() -> None:
    with serving() as (site, agent, volumes):
        add(site, volumes, "extra", b"content")
        agent.kill("streamer")
        with site.client("db") as client:
            client.write(0, b"as long as nobody reloads")
        assert_protected(site, "db")
        site.agent_command("reload").must()
        assert_protected(site, "db", "extra")


def test_a_path_that_is_being_edited_is_copied_from_by_nobody() -> None:
    with serving() as (site, agent, _volumes):
        other = site.root / "moved.raw"
        other.write_bytes(b"?" * SIZE)
        site.config.write_text(site.config.read_text().replace(str(site.backing("db")), str(other)))
        agent.kill("streamer")
        os.truncate(site.backing("db"), SIZE + 2 * MIB)
        assert site.agent_command("reload").code == ReloadRefused.exit_code, "a disk moves with a restart"
        site.write_config()
        site.agent_command("reload").must()
        assert_protected(site, "db")


def test_what_cannot_be_is_refused_and_changes_nothing() -> None:
    with serving() as (site, agent, volumes):
        before = (site.journal / "agent.json").read_bytes()
        volumes["extra"] = SIZE
        site.write_config()
        assert site.agent_command("reload").code == BackingUnreadable.exit_code, "there is no such disk"
        add(site, volumes, "extra", b"")
        with site.backing("extra").open("r+b") as locked:
            fcntl.flock(locked, fcntl.LOCK_EX)
            refused = site.agent_command("reload")
        assert refused.code == BackingUnreadable.exit_code
        assert "locked" in refused.err
        del volumes["extra"]
        site.write_config()
        os.truncate(site.backing("db"), SIZE - MIB)
        shrunk = site.agent_command("reload")
        assert shrunk.code == BackingUnreadable.exit_code
        assert "cannot shrink" in shrunk.err
        os.truncate(site.backing("db"), SIZE)
        assert (site.journal / "agent.json").read_bytes() == before
        with site.client("db") as client:
            client.write(0, b"goes on")
        assert agent.process.poll() is None


def test_without_a_running_agent_it_is_done_at_the_next_start() -> None:
    with serving() as (site, agent, volumes):
        assert agent.stop() == 0
        add(site, volumes, "extra", b"content")
        refused = site.launch()
        assert refused.process.wait(SECONDS_MAX) != 0
        assert "reload" in refused.log()
        assert "next start" in (done := site.agent_command("reload").must()).out + done.err
        site.start()
        site.flush_when_ready()
        assert restored(site, "extra") == site.backing("extra").read_bytes()


def test_a_flush_right_after_a_reload_waits_for_what_was_taken_over() -> None:
    """The streamer begins anew then, and is not there for a moment."""
    with serving() as (site, agent, _):
        trees: list[str] = []
        for number in range(3):
            tree = site.base / f"tree-{number}"
            tree.mkdir()
            (tree / "file").write_bytes(os.urandom(5000))
            trees.append(f"{{name: tree-{number}, path: {tree}}}")
            site.write_config(f"trees: [{', '.join(trees)}]")
            site.agent_command("reload").must()
            site.flush().must()
            target = site.base / "b" / tree.name
            site.rehydrate("restore", "--tree", f"{tree.name}={target}").must()
            assert (target / "file").read_bytes() == (tree / "file").read_bytes()
        assert agent.stop() == 0
    assert agent.process.poll() is not None
