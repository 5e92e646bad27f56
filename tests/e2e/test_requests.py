"""A contested domain with real processes: asked for, shown, denied, asked for again and granted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cdp_container.domain.notes import load_notes
from cdp_container.errors import RequestClosed, RequestDenied
from tests.e2e.processes import Done
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

WAIT_SECONDS_MAX = 120.0


@contextmanager
def asking(site: Site, reason: str) -> Iterator[subprocess.Popen[str]]:
    """`rehydrate request --wait` at site b, from which only the container is to be seen."""
    options = ["--site", "b", "--reason", reason, "--wait", "300"]
    words = [str(BIN / "rehydrate"), "request", site.store, *options]
    environment = site.environment(site.base / "b" / "home")
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def pending(site: Site) -> list[dict[str, object]]:
    requests: list[dict[str, object]] = site.agent_command("owner", "--json").must().json["requests"]
    return requests


def asked_id(site: Site, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    shown = process.stdout.readline().strip()
    wait_until(lambda: [one["id"] for one in pending(site)] == [shown], "the owner sees it", WAIT_SECONDS_MAX)
    return shown


def ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=WAIT_SECONDS_MAX)
    return Done(process.returncode, out, err)


def test_denied_then_granted() -> None:
    with new_site({"db": 4 * MIB}) as site:
        site.init().must()
        agent = site.start()
        data = os.urandom(MIB)
        with site.client("db") as client:
            client.write(0, data)
        site.flush().must()

        with asking(site, "maintenance") as process:
            first = asked_id(site, process)
            site.agent_command("deny", first[:6], "--reason", "month's end", "--operator", "Inge").must()
            denied = ended(process).must(RequestDenied.exit_code)
        assert "denied by a (Inge): month's end" in denied.err
        assert agent.alive
        assert pending(site) == []
        again = site.agent_command("grant", first).must(RequestClosed.exit_code)
        assert "month's end" in again.err

        with asking(site, "the month is over") as process:
            second = asked_id(site, process)
            site.agent_command("grant", second).must()
            granted = ended(process).must()
        assert "rehydrate failover" in granted.err
        assert load_notes(site.journal).released_to == "b"
        assert not site.is_open(agent), "the exports are closed"
        owner = site.agent_command("owner", "--json").must().json["owner"]
        assert (owner["state"], owner["released_to"]) == ("released", "b")
        site.restore("db", site.base / "b" / "db.raw")
        assert (site.base / "b" / "db.raw").read_bytes()[:MIB] == data
        agent.stop()
