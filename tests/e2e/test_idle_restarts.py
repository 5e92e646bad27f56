"""A splitter that dies again and again while no guest writes: `status` sees it, the journal does not fill."""

from __future__ import annotations

import json

import pytest

from tests.e2e.site import MIB, PROTECTED_SECONDS_MAX, Agent, Site, check_logs, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

KILLS = 5
"""More than the smallest journal, of 256 MiB, has files: each start takes one."""
OPEN_AGAIN_SECONDS_MAX = 120.0
"""The supervisor starts it again later and later, at most once a minute."""


def test_starts_without_a_write_do_not_fill_the_journal() -> None:
    with new_site({"db": MIB}, extra=("rpo_target: 20s",), journal_limit="256MiB") as site:
        site.init().must()
        agent = site.start()
        with site.client("db") as client:
            client.write(0, b"before")
        site.flush_when_ready()
        for number in range(KILLS):
            agent.kill("splitter")
            if number == KILLS - 1:  # by now it is started again late enough for `status` to look before
                _must_be_told(site)
            wait_until(lambda: site.is_open(agent), "the exports are open again", OPEN_AGAIN_SECONDS_MAX)
            _must_let_go(site, agent)
        with site.client("db") as client:
            client.write(4096, b"after")
        site.flush_when_ready()
        assert agent.stop() == 0
        check_logs(site)


def _must_be_told(site: Site) -> None:
    done = site.status()
    told = json.loads(done.out)
    assert (done.code, told["exports_open"]) == (3, False), done
    assert any("the splitter ended and is started again" in line for line in told["problems"]), told


def _must_let_go(site: Site, agent: Agent) -> None:
    def has_let_go() -> bool:
        assert agent.alive
        facts = json.loads((site.journal / "splitter.json").read_bytes())
        assert not facts["overflowed"], facts
        return bool(facts["used_bytes"] < MIB)

    wait_until(has_let_go, "only the newest file is in use", PROTECTED_SECONDS_MAX)
