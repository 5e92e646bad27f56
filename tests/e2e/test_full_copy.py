"""What the journal may lack is noticed, compared and sent while guests write; what is doubtful is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from cdp_agent.splitter.settings import REGION_BYTES
from cdp_container.errors import BackingChanged
from cdp_container.journal.record import FILE_HEADER_BYTES, decode_file_header, encode_file_header
from cdp_container.journal.shared import SharedPages
from tests.e2e.processes import Done
from tests.e2e.site import MIB, Agent, Site, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

DB_BYTES = 16 * MIB
BIG_BYTES = 1024 * MIB
NOTICE_SECONDS_MAX = 30.0
JOURNAL_BYTES = 256 * MIB
"""The least that a configuration may allow."""
OTHER_BOOT = b"another boot id "
LONG_AFTER_NS = 60 * 10**9
WRITE_BYTES = 4 * MIB


@contextmanager
def protected() -> Iterator[tuple[Site, Agent]]:
    """A site with something in the container, and its running agent."""
    with new_site({"db": DB_BYTES}, with_key=True, extra=("rpo_target: 1s",)) as site:
        site.init().must()
        agent = site.start()
        with site.client("db") as client:
            client.write(0, os.urandom(3 * MIB))
        site.flush_when_ready()
        yield site, agent


def write(site: Site, offset: int, length: int) -> None:
    with site.client("db") as client:
        client.write(offset, os.urandom(length))
        client.flush()


def assert_says(site: Site, *texts: str) -> None:
    """Status ends with 3 and says this among the problems."""
    last = Done(-1, "", "")

    def said() -> bool:
        nonlocal last
        last = site.status()
        return last.code == 3 and all(
            any(text in problem for problem in last.json["problems"]) for text in texts
        )

    try:
        wait_until(said, f"status says {texts}", NOTICE_SECONDS_MAX)
    except AssertionError:
        raise AssertionError(last.out) from None


def assert_protected_again(site: Site, *flags: str) -> None:
    """Then the container holds exactly what the guests see."""
    if flags:
        site.start(*flags)
    site.flush_when_ready()
    wait_until(lambda: site.status().code == 0, "protection is on target", NOTICE_SECONDS_MAX)
    write(site, 5 * MIB, 100_000)
    site.flush_when_ready()
    target = site.base / "b" / "again.raw"
    site.restore("db", target)
    assert target.read_bytes() == site.backing("db").read_bytes()


def test_a_disk_that_was_changed_while_no_agent_ran() -> None:
    with protected() as (site, agent):
        assert agent.stop() == 0
        with site.backing("db").open("r+b") as file:
            file.seek(7 * MIB)
            file.write(b"an offline change")
        moment_ns = site.backing("db").stat().st_mtime_ns + LONG_AFTER_NS
        os.utime(site.backing("db"), ns=(moment_ns, moment_ns))
        refused = site.launch()
        assert refused.process.wait(NOTICE_SECONDS_MAX) == BackingChanged.exit_code
        assert "error: " in refused.log()
        assert "--keep-disk" in refused.log()
        assert_says(site, "changed")
        assert_protected_again(site, "--keep-disk")
        assert b"an offline change" in (site.base / "b" / "again.raw").read_bytes()


def test_of_a_disk_that_was_changed_only_the_change_is_sent() -> None:
    with protected() as (site, agent):
        assert agent.stop() == 0
        with site.backing("db").open("r+b") as file:
            for offset in (MIB, 7 * MIB):
                file.seek(offset)
                file.write(os.urandom(MIB))
        moment_ns = site.backing("db").stat().st_mtime_ns + LONG_AFTER_NS
        os.utime(site.backing("db"), ns=(moment_ns, moment_ns))
        site.start("--keep-disk")
        site.flush_when_ready()

        def counted() -> dict[str, int]:
            counters: dict[str, int] = site.facts().get("counters", {})
            return counters if counters.get("copy_compared_bytes") == DB_BYTES else {}

        counters = wait_until(counted, "the facts tell of the copy", NOTICE_SECONDS_MAX)
        assert counters["copy_different_bytes"] == 2 * MIB
        assert counters["stored_bytes"] <= 1.1 * 2 * MIB
        target = site.base / "b" / "changed.raw"
        site.restore("db", target)
        assert target.read_bytes() == site.backing("db").read_bytes()


def test_a_disk_that_was_reverted_while_no_agent_ran() -> None:
    with protected() as (site, agent):
        before = site.base / "before.raw"
        shutil.copy2(site.backing("db"), before)
        write(site, 4 * MIB, 200_000)
        assert agent.stop() == 0
        shutil.copy2(before, site.backing("db"))
        refused = site.launch()
        assert refused.process.wait(NOTICE_SECONDS_MAX) == BackingChanged.exit_code
        assert_protected_again(site, "--keep-disk")
        assert (site.base / "b" / "again.raw").read_bytes()[4 * MIB : 4 * MIB + 200_000] == bytes(200_000)


def test_a_disk_that_only_looks_changed() -> None:
    with protected() as (site, agent):
        assert agent.stop() == 0
        moment_ns = site.backing("db").stat().st_mtime_ns + LONG_AFTER_NS
        os.utime(site.backing("db"), ns=(moment_ns, moment_ns))
        assert site.launch().process.wait(NOTICE_SECONDS_MAX) == BackingChanged.exit_code
        assert_protected_again(site, "--redo")


@pytest.mark.parametrize("what", ["everything", "all but the notes"])
def test_a_host_that_was_reverted(what: str) -> None:
    """Journal and disk of an earlier moment: the container knows more than they do."""
    with protected() as (site, agent):
        assert agent.stop() == 0
        shutil.copytree(site.root, site.base / "snapshot")
        agent = site.start()
        write(site, 4 * MIB, 200_000)
        site.flush_when_ready()
        newest = site.backing("db").read_bytes()
        point = site.points()[-1]["point"]
        agent.kill_group()
        notes = (site.journal / "notes.json").read_bytes()
        shutil.rmtree(site.root)
        shutil.copytree(site.base / "snapshot", site.root)
        if what != "everything":
            (site.journal / "notes.json").write_bytes(notes)
        agent = site.start()
        write(site, 9 * MIB, 10_000)
        if what == "everything":
            assert_says(site, "owned elsewhere")
            assert site.flush(1.0).code != 0
        else:
            assert_protected_again(site)
            assert compared(site)["copy_compared_bytes"] >= DB_BYTES
        # What was protected before is still there.
        target = site.base / "b" / "before.raw"
        site.restore("db", target, "--at", point)
        assert target.read_bytes() == newest


def test_a_machine_that_went_down_hard() -> None:
    with protected() as (site, agent):
        agent.kill_group()
        pretend_another_boot(site)
        agent = site.start()
        write(site, 2 * MIB, 10_000)
        assert_protected_again(site)
        assert compared(site)["copy_compared_bytes"] >= DB_BYTES


def test_after_a_power_loss_only_marked_regions_are_compared() -> None:
    with big() as (site, agent):
        write(site, 700 * MIB, 10_000)
        agent.kill_group()
        pretend_another_boot(site)
        with site.backing("db").open("r+b") as file:
            file.seek(701 * MIB)
            file.write(b"a write of which the journal lost the record")
        agent = site.start()
        assert_same_after_comparing(site, at_least=REGION_BYTES, at_most=2 * REGION_BYTES)


def test_a_host_that_was_reverted_looks_like_one_without_power() -> None:
    """A snapshot of it while it ran: its marks do not say what was written later, but the container does."""
    with big() as (site, agent):
        copied = site.base / "snapshot"
        subprocess.run(["cp", "-a", "--sparse=always", site.root, copied], check=True)
        write(site, 700 * MIB, 10_000)
        site.flush_when_ready()
        agent.kill_group()
        notes = (site.journal / "notes.json").read_bytes()
        shutil.rmtree(site.root)
        copied.rename(site.root)
        (site.journal / "notes.json").write_bytes(notes)
        pretend_another_boot(site)
        agent = site.start()
        assert_same_after_comparing(site, at_least=10_000, at_most=2 * REGION_BYTES)


@contextmanager
def big() -> Iterator[tuple[Site, Agent]]:
    """A large volume, all holes but for one write, which is protected."""
    with new_site({"db": BIG_BYTES}, with_key=True) as site:
        site.init().must()
        agent = site.start()
        write(site, 5 * MIB, 200_000)
        site.flush_when_ready()
        yield site, agent


def compared(site: Site) -> dict[str, int]:
    """The streamer's counters once they tell of a comparison; its facts are a second old."""

    def counted() -> dict[str, int]:
        found: dict[str, int] = site.facts().get("counters", {})
        return found if found.get("copy_compared_bytes") else {}

    return wait_until(counted, "it compares", NOTICE_SECONDS_MAX)


def assert_same_after_comparing(site: Site, at_least: int, at_most: int) -> None:
    site.flush_when_ready()
    assert at_least <= compared(site)["copy_compared_bytes"] <= at_most
    target = site.base / "b" / "again.raw"
    site.restore("db", target)
    subprocess.run(["cmp", target, site.backing("db")], check=True)


def pretend_another_boot(site: Site) -> None:
    """Write another boot id wherever the agent noted the one under which it ran."""
    pages = SharedPages(site.journal / "shared")
    page = pages.splitter.read()
    assert page is not None
    assert page.running
    pages.splitter.publish(replace(page, boot=OTHER_BOOT), durable=True)
    pages.close()
    for path in (site.journal / "journal").iterdir():
        with path.open("r+b") as file:
            header = decode_file_header(file.read(FILE_HEADER_BYTES))
            if header is not None:
                file.seek(0)
                file.write(encode_file_header(replace(header, boot=OTHER_BOOT)))


def test_a_journal_that_is_full() -> None:
    """Guests notice nothing, the newest whole cut is that of the overflow, and only what is dirty is sent."""
    with protected() as (site, agent):
        site.container.rename(site.base / "away")
        pages = SharedPages(site.journal / "shared")
        dirty = set[int]()

        def overflowed() -> bool:
            page = pages.splitter.read()
            return page is not None and page.overflowed

        with site.client("db") as client:
            data, last = os.urandom(WRITE_BYTES), 0
            for number in range(2 * JOURNAL_BYTES // WRITE_BYTES):
                last = number % 2 * WRITE_BYTES
                client.write(last, data)
                if overflowed():
                    break
            held = site.backing("db").read_bytes()
            dirty.update(range(last, last + WRITE_BYTES, 4096))  # it may have met the full journal
            for offset in (9 * MIB, 9 * MIB, 12 * MIB + 512):
                client.write(offset, os.urandom(256 << 10))
                dirty.update(range(offset - offset % 4096, offset + (256 << 10), 4096))
            client.flush()
            client.write(9 * MIB, b"guests notice nothing")
            assert client.read(9 * MIB, 21) == b"guests notice nothing"
        assert_says(site, "the journal is full")
        journal_bytes = sum(path.stat().st_size for path in (site.journal / "journal").iterdir())
        assert journal_bytes <= JOURNAL_BYTES
        (site.base / "away").rename(site.container)
        site.flush_when_ready()
        counters = compared(site)
        assert counters["copy_compared_bytes"] <= len(dirty) * 4096
        assert counters["stored_bytes"] <= 1.1 * len(dirty) * 4096
        assert_protected_again(site)
        assert agent.process.poll() is None, "nobody had to do anything"
        pages.close()
        whole = [point for point in site.points() if point["whole"]]
        target = site.base / "b" / "held.raw"
        restored = []
        for point in whole[-6:]:
            site.restore("db", target, "--at", point["point"], "--force")
            restored.append(target.read_bytes() == held)
        assert any(restored), "what the journal held is a point of its own"


def test_a_host_that_was_cloned() -> None:
    """Two agents with one identity: the one that fell behind is not the owner, and never writes."""
    with protected() as (site, agent), new_site({"db": DB_BYTES}, store=site.store, with_key=True) as clone:
        assert agent.stop() == 0
        shutil.rmtree(clone.root)
        shutil.copytree(site.root, clone.root)
        clone.write_config()
        site.start()
        write(site, 4 * MIB, 10_000)
        site.flush_when_ready()
        clone.start()
        write(clone, 6 * MIB, 10_000)
        assert_says(clone, "owned elsewhere")
        assert clone.flush(1.0).code != 0
        write(site, 8 * MIB, 10_000)
        site.flush_when_ready()
        target = site.base / "b" / "ours.raw"
        site.restore("db", target)
        assert target.read_bytes() == site.backing("db").read_bytes() != clone.backing("db").read_bytes()
