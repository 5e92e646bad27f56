"""Failover with real processes: another site claims, restores, serves and protects; nothing is copied."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.notes import load_notes
from cdp_container.errors import HookFailed, OwnedElsewhere, TargetNotEmpty
from tests.e2e.processes import Done, group_members, run
from tests.e2e.site import BIN, END_SECONDS_MAX, MIB, Site, new_site
from tests.e2e.test_main_job import address_in
from tests.servers.bucket import fresh_bucket
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

VOLUMES = {"db": 8 * MIB, "log": 4 * MIB}
SMALL_BYTES = 200_000


@contextmanager
def two_sites(
    store: str | None = None, secrets: Mapping[str, str] | None = None
) -> Iterator[tuple[Site, Site]]:
    """Site a, initialised; and b, of which there is but a folder and a prepared configuration."""
    with new_site(VOLUMES, store=store, secrets=secrets, with_key=True) as a:
        settings = a.settings.replace(f"{a.base}/a/j", f"{a.base}/r/a/j")
        b = Site(a.base / "r", a.store, VOLUMES, a.secrets, settings, with_key=True)
        b.root.mkdir(parents=True)
        shutil.copy(a.private_key, b.private_key)
        b.write_config()
        b.config.write_text(b.config.read_text().replace("site: a\n", "site: b\n"))
        a.init().must()
        try:
            yield a, b
        finally:
            for pid in pids_in(b.journal):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            for agent in b.agents:
                agent.kill_group()
            log = b.journal / "agent.log"
            print(log.read_text() if log.exists() else "no log at b")


def pids_in(journal: Path) -> list[int]:
    """The agent that a failover started, which leads a group of its own."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((journal / "lock").read_text())
        return [pid] if group_members(pid) else []
    return []


def fill(site: Site, seed: int, images: dict[str, bytearray]) -> None:
    """Writes to both volumes, protected when this returns."""
    rng = random.Random(seed)
    for name, size_bytes in VOLUMES.items():
        image = images.setdefault(name, bytearray(size_bytes))
        with site.client(name) as client:
            for _ in range(5):
                data = rng.randbytes(rng.randrange(1, 20) * 4096)
                offset = rng.randrange(0, size_bytes - len(data)) // 4096 * 4096
                client.write(offset, data)
                image[offset : offset + len(data)] = data
    site.flush_when_ready()


def words_of(b: Site, *options: str) -> list[str]:
    words = [str(BIN / "rehydrate"), "failover", b.store, "--site", "b", "--journal", str(b.journal)]
    return [*words, "--config", str(b.config), "--to", str(b.root), "--json", *options, *b.secret_options()]


def failover(b: Site, *options: str) -> Done:
    return run(words_of(b, *options), b.environment(b.base / "home"))


def assert_restores(site: Site, images: dict[str, bytearray], *choice: str) -> None:
    """What the container gives back elsewhere, byte for byte."""
    folder = site.base / f"check-{len(list(site.base.glob('check-*')))}"
    folder.mkdir()
    words = [str(BIN / "rehydrate"), "restore", site.store, "--all", "--target-dir", str(folder)]
    run([*words, *choice, *site.secret_options()], site.environment(site.base / "home")).must()
    for name, image in images.items():
        assert (folder / f"{name}.raw").read_bytes() == image, name


def assert_nothing_copied(site: Site) -> None:
    counters = shown_counters(site)
    assert counters["copy_compared_bytes"] == 0
    assert counters["stored_bytes"] < SMALL_BYTES


def shown_counters(site: Site) -> dict[str, int]:
    """Of the streamer; what it shows is up to a second old."""
    until_ns = SystemClock().wall_ns()
    seen: dict[str, Any] = wait_until(
        lambda: facts if (facts := site.facts()).get("time_ns", 0) > until_ns else {},
        "it shows",
        END_SECONDS_MAX,
    )
    counters: dict[str, int] = seen["counters"]
    return counters


def force_word(b: Site) -> str:
    owner = run([str(BIN / "rehydrate"), "show", b.store, "owner", "--json"], b.environment(b.base / "home"))
    members = owner.must().json
    return f"{members['epoch']}:{members['nonce']}"


def history(site: Site) -> list[dict[str, Any]]:
    words = [str(BIN / "rehydrate"), "history", site.store, "--json", *site.secret_options()]
    epochs: list[dict[str, Any]] = run(words, site.environment(site.base / "home")).must().json["epochs"]
    return epochs


def test_the_other_site_goes_on_after_the_lease_and_the_first_is_fenced() -> None:
    images: dict[str, bytearray] = {}
    with two_sites() as (a, b):
        agent = a.start()
        fill(a, 1, images)
        agent.kill_group()
        before, after = b.base / "before", b.base / "after"
        told = "CDP_DOMAIN CDP_SITE CDP_EPOCH CDP_POINT CDP_SOCKET"
        hook = "sh -c 'printenv {} > {}'"
        done = failover(b, "--before", hook.format(told, before), "--after", hook.format(told, after)).must()
        assert "waiting for the lease" in done.err
        assert (done.json["socket"], done.json["side_branch"]) == (str(b.socket), None)
        assert after.read_text().split()[:2] == ["shop", "b"]
        assert after.read_text().split()[-1] == str(b.socket)
        assert before.read_text().split()[2] == done.json["point"]
        assert_restores(b, images)
        for name, image in images.items():
            assert b.backing(name).read_bytes() == image
            assert b.backing(name).stat().st_mode & 0o077 == 0
        fill_small(b, images)
        assert_nothing_copied(b)
        assert_restores(b, images)
        assert [epoch["site"] for epoch in history(b)][-2:] == ["b", "b"]
        old = a.launch()
        wait_until(
            lambda: "fenced" in json.dumps(a.facts()) or "owned elsewhere" in json.dumps(a.facts()),
            "the first site knows",
            END_SECONDS_MAX,
        )
        old.kill_group()
        assert_restores(b, images)


def fill_small(site: Site, images: dict[str, bytearray]) -> None:
    with site.client("db") as client:
        client.write(8192, b"written at b".ljust(4096))
    images["db"][8192 : 8192 + 4096] = b"written at b".ljust(4096)
    site.flush_when_ready()


def test_a_planned_one_loses_nothing_and_waits_for_nothing() -> None:
    images: dict[str, bytearray] = {}
    with two_sites() as (a, b):
        agent = a.start()
        fill(a, 8, images)
        fill_small(a, images)
        a.agent_command("release", "--to", "b").must()
        done = failover(b).must()
        assert "waiting for the lease" not in done.err
        assert (done.json["lost_seconds_max"], done.json["side_branch"]) == (0.0, None)
        fill_small(b, images)
        assert_nothing_copied(b)
        assert_restores(b, images)
        agent.kill_group()


@pytest.mark.ceph
def test_forced_in_a_ceph_gateway(ceph: S3Server) -> None:
    images: dict[str, bytearray] = {}
    with fresh_bucket(ceph) as bucket, two_sites(address_in(bucket), ceph.environment()) as (a, b):
        agent = a.start()
        fill(a, 9, images)
        agent.kill_group()
        failover(b, "--force", force_word(b)).must()
        fill_small(b, images)
        assert_nothing_copied(b)
        assert_restores(b, images)


def test_forced_from_the_version_that_was_seen_and_no_other() -> None:
    images: dict[str, bytearray] = {}
    with two_sites() as (a, b):
        agent = a.start()
        fill(a, 2, images)
        stale = force_word(b)
        refused = failover(b)  # it lives and renews
        refused.must(OwnedElsewhere.exit_code)
        assert "--force" in refused.err
        os.killpg(agent.process.pid, signal.SIGKILL)
        agent.process.wait(END_SECONDS_MAX)
        failover(b, "--force", stale[:-1] + ("0" if stale[-1] != "0" else "1")).must(OwnedElsewhere.exit_code)
        assert not list(b.root.glob("*.raw"))
        done = failover(
            b, "--force", force_word(b), "--no-start", "--operator", "me", "--reason", "drill"
        ).must()
        assert "waiting for the lease" not in done.err
        assert (history(b)[-1]["operator"], history(b)[-1]["reason"]) == ("me", "drill")
        failover(b, "--no-start").must(TargetNotEmpty.exit_code)
        b.start()
        fill_small(b, images)
        assert_nothing_copied(b)
        assert_restores(b, images)


def test_a_volume_that_was_touched_before_the_agent_ran_is_compared() -> None:
    images: dict[str, bytearray] = {}
    with two_sites() as (a, b):
        agent = a.start()
        fill(a, 3, images)
        agent.kill_group()
        failover(b, "--force", force_word(b), "--no-start").must()
        with b.backing("log").open("r+b") as file:
            file.seek(MIB)
            file.write(b"by somebody")
        images["log"][MIB : MIB + 11] = b"by somebody"
        b.start()
        fill_small(b, images)
        wait_until(lambda: b.facts().get("not_whole") == [], "everything is compared", END_SECONDS_MAX)
        counters = shown_counters(b)
        assert 0 < counters["copy_compared_bytes"] <= VOLUMES["log"]
        assert counters["stored_bytes"] < SMALL_BYTES
        b.flush_when_ready()
        assert_restores(b, images)


def test_an_older_cut_leaves_a_side_branch_that_can_be_restored() -> None:
    images: dict[str, bytearray] = {}
    with two_sites() as (a, b):
        agent = a.start()
        fill(a, 4, images)
        a.marker("before-the-mistake").must()
        older = {name: bytearray(image) for name, image in images.items()}
        fill(a, 5, images)
        agent.kill_group()
        done = failover(b, "--marker", "before-the-mistake", "--force", force_word(b)).must().json
        side = done["side_branch"]
        assert side is not None
        fill_small(b, older)
        assert_nothing_copied(b)
        assert_restores(b, older)
        assert_restores(b, images, "--at", side)
        points = (
            run(
                [str(BIN / "rehydrate"), "points", b.store, "--last", "0", "--json", *b.secret_options()],
                b.environment(b.base / "home"),
            )
            .must()
            .json["points"]
        )
        assert {point["point"]: point["branch"] for point in points}[side] == "side"
        assert any(epoch["side_branch"] for epoch in history(b))


def test_a_hook_that_fails_before_stops_everything_and_after_is_said() -> None:
    images: dict[str, bytearray] = {}
    with two_sites() as (a, b):
        agent = a.start()
        fill(a, 6, images)
        agent.kill_group()
        word = force_word(b)
        failover(b, "--force", word, "--before", "false").must(HookFailed.exit_code)
        assert force_word(b) == word
        assert not list(b.root.glob("*.raw*"))
        done = failover(b, "--force", word, "--after", "false")
        done.must(HookFailed.exit_code)
        assert "served and protected" in done.err
        fill_small(b, images)
        assert_restores(b, images)


@pytest.mark.parametrize("moment", ["claim", "restore", "started"])
def test_killed_at_any_moment_the_same_command_goes_on(moment: str) -> None:
    images: dict[str, bytearray] = {}
    with two_sites() as (a, b):
        agent = a.start()
        fill(a, 7, images)
        agent.kill_group()
        moments: dict[str, Callable[[], object]] = {
            "claim": lambda: load_notes(b.journal).nonces,
            "restore": lambda: list(b.root.glob("*.raw*")),
            "started": (b.journal / "agent.log").exists,
        }
        seen = moments[moment]
        said = b.base / "killed.log"
        with said.open("wb") as file:
            process = subprocess.Popen(
                words_of(b, "--force", force_word(b)),
                env=b.environment(b.base / "home"),
                stdout=file,
                stderr=file,
            )
        wait_until(lambda: seen() or process.poll() is not None, moment, END_SECONDS_MAX)
        process.kill()
        code = process.wait(END_SECONDS_MAX)
        assert code in (0, -signal.SIGKILL), said.read_text()
        if note_of(b):  # else it had ended before it was killed
            failover(b).must()
        epochs = history(b)
        assert len([epoch for epoch in epochs if epoch["site"] == "b"]) <= 3
        wait_until(b.socket.exists, f"the exports are open: {told_by(b)}", END_SECONDS_MAX)
        fill_small(b, images)
        assert_nothing_copied(b)
        assert_restores(b, images)


def told_by(b: Site) -> str:
    logs = [b.base / "killed.log", b.journal / "agent.log"]
    return "\n".join(log.read_text() for log in logs if log.exists())


def note_of(b: Site) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        members: dict[str, Any] = json.loads((b.journal / "failover.json").read_bytes())
        return members
    return {}
