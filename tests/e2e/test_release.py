"""A planned release with real processes, any of them killed on the way.

What was acknowledged is in the final cut, the exports stay closed, and a cancel opens them again.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from cdp_container.domain.notes import Notes, load_notes
from cdp_container.journal.shared import SharedPages, SplitterPage
from tests.e2e.processes import Done
from tests.e2e.site import BIN, MIB, Agent, Site, check_logs, new_site
from tests.nbd_client import NbdError
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

SIZE = 4 * MIB
BLOCK = 4096
WAIT_SECONDS_MAX = 120.0
EPERM = 1


class Guest:
    """Writes until it is refused, or its disk gone. `image`: what was acknowledged; `open`: what was not."""

    def __init__(self, site: Site, image: bytearray, seed: int) -> None:
        self.site = site
        self.image = image
        self.rng = Random(seed)
        self.open: tuple[int, bytes] | None = None
        self.count = 0
        self.refused = False
        self.thread = threading.Thread(target=self._write, name="guest")
        self.thread.start()
        wait_until(lambda: self.count > 20, "the guest writes", WAIT_SECONDS_MAX)

    def _write(self) -> None:
        try:
            with self.site.client("db") as client:
                while True:
                    at, data = self.rng.randrange(SIZE // BLOCK) * BLOCK, self.rng.randbytes(BLOCK)
                    self.open = at, data
                    client.write(at, data)
                    self.image[at : at + BLOCK] = data
                    self.open = None
                    self.count += 1
        except NbdError as error:
            self.refused = error.code == EPERM
            self.open = None
        except OSError:
            return  # the splitter was killed

    def end(self) -> None:
        self.thread.join(WAIT_SECONDS_MAX)
        assert not self.thread.is_alive()


def noted(site: Site) -> Notes:
    return load_notes(site.journal)


def page_of(site: Site) -> SplitterPage:
    pages = SharedPages(site.journal / "shared")
    try:
        return pages.splitter.read() or SplitterPage()
    finally:
        pages.close()


MOMENTS: dict[str, Callable[[Site], object]] = {
    "writes are refused": lambda site: noted(site).releasing_to,
    "writes are closed": lambda site: page_of(site).writes_closed,
    "the final cut is noted": lambda site: noted(site).final is not None,
    "it is released": lambda site: noted(site).released_to,
}


def release(site: Site) -> Done:
    """Ask for it, again where the agent was killed meanwhile."""
    return site.agent_command("release", "--to", "b").must()


def begin(site: Site) -> subprocess.Popen[bytes]:
    words = [str(BIN / "cdp-agent"), "release", "--to", "b", "--config", str(site.config)]
    environment = site.environment(site.root / "home")
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def must_stay_closed(site: Site, agent: Agent) -> None:
    """A splitter runs, and clients find nothing."""
    wait_until(
        lambda: agent.alive and page_of(site).running and not page_of(site).exports_open,
        "the exports are closed",
        WAIT_SECONDS_MAX,
    )
    assert not site.is_open(agent)


def restart(site: Site, agent: Agent) -> Agent:
    """Kill all of it; the next start serves nothing, but runs."""
    agent.kill_group()
    before = page_of(site).generation
    again = site.launch()
    wait_until(
        lambda: again.alive and page_of(site).generation != before and page_of(site).writes_closed,
        "the splitter is there, and takes no writes",
        WAIT_SECONDS_MAX,
    )
    must_stay_closed(site, again)
    return again


def must_hold(site: Site, guest: Guest, target: Path) -> None:
    """The newest cut, restored elsewhere, is what the guest was promised."""
    site.restore("db", target)
    restored = target.read_bytes()
    expected = bytearray(guest.image)
    if guest.open is not None:
        at, data = guest.open
        if restored[at : at + BLOCK] == data:
            expected[at : at + BLOCK] = data
    assert restored == bytes(expected)
    guest.image[:] = restored


@pytest.mark.parametrize(
    "rounds",
    [
        [("writes are refused", "streamer"), ("the final cut is noted", "streamer")],
        [("writes are refused", "splitter"), ("writes are closed", "")],
        [("writes are closed", "all"), ("it is released", "all")],
    ],
)
def test_whatever_dies_amid_a_release_nothing_is_lost(rounds: list[tuple[str, str]], tmp_path: Path) -> None:
    image = bytearray(SIZE)
    with new_site({"db": SIZE}) as site:
        site.init().must()
        agent = site.start()
        for number, (moment, who) in enumerate(rounds):
            guest = Guest(site, image, number)
            asking = begin(site)
            wait_until(lambda moment=moment: MOMENTS[moment](site), moment, WAIT_SECONDS_MAX)  # type: ignore[misc]
            if who == "all":
                agent = restart(site, agent)
            elif who:
                agent.kill(who)
            guest.end()
            assert guest.refused or who in ("splitter", "all")
            asking.wait(WAIT_SECONDS_MAX)
            assert "final cut" in release(site).out
            must_stay_closed(site, agent)
            must_hold(site, guest, tmp_path / f"{number}.raw")
            _take_back(site, agent)
        guest = Guest(site, image, len(rounds))
        release(site)
        guest.end()
        assert guest.refused
        _must_stay_closed_without_the_store(site, agent)
        must_hold(site, guest, tmp_path / "last.raw")
        check_logs(site)


def _take_back(site: Site, agent: Agent) -> None:
    site.agent_command("release", "--cancel").must()
    wait_until(lambda: site.is_open(agent), "the exports are open again", WAIT_SECONDS_MAX)
    site.flush_when_ready()


def _must_stay_closed_without_the_store(site: Site, agent: Agent) -> None:
    away = site.container.with_name("away")
    site.container.rename(away)
    again = restart(site, agent)
    done = site.agent_command("status")
    assert "released to site 'b'" in done.out, done
    assert "--cancel" in done.out
    assert "released to site 'b': the exports stay closed" in again.log()
    away.rename(site.container)
    assert "released" in site.agent_command("owner").must().out
    assert again.stop() == 0
