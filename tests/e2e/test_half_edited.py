"""A half-edited configuration does not reach the guests: processes that die come back all the same."""

from __future__ import annotations

import os

import pytest

from tests.e2e.site import MIB, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_both_processes_come_back_while_the_configuration_is_half_edited() -> None:
    with new_site({"db": 8 * MIB}, with_key=True) as site:
        site.init().must()
        agent = site.start()
        site.flush_when_ready()
        text = site.config.read_text()
        half = text.replace("volumes:", "volumes")
        assert half != text
        site.config.write_text(half)
        old = {name: agent.child(name) for name in ("splitter", "streamer")}
        agent.kill("splitter", "streamer")
        wait_until(
            lambda: all(agent.child(name) not in (None, old[name]) for name in old), "both came back", 60
        )
        wait_until(lambda: site.is_open(agent), "the exports are open", 60)
        with site.client("db") as client:
            client.write(0, os.urandom(MIB))
        site.flush_when_ready()
        done = site.status()
        assert "note: " in done.err
        assert site.marker("amid").must().out.endswith(" amid\n")
        assert agent.alive
        assert site.agent_command("reload").code == 4
        site.config.write_text(text)
        assert agent.stop() == 0
