"""The alert hook of a real agent: told of a breach and its end, of a refusal before the run ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import MIB, Site, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

NOTICE_SECONDS_MAX = 60.0


def hook(site: Site, text: str) -> str:
    """A program as the hook, and the line of the configuration that names it."""
    path = site.base / "hook"
    path.write_text(text)
    path.chmod(0o755)
    return f"alerts: {{command: [{path}, {site.base}/heard]}}"


def heard(site: Site) -> list[dict[str, Any]]:
    path = site.base / "heard"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def must_hear(site: Site, kind: str, state: str) -> None:
    wait_until(
        lambda: any((event["kind"], event["state"]) == (kind, state) for event in heard(site)),
        f"{kind} is {state}",
        NOTICE_SECONDS_MAX,
    )


def test_a_breach_and_its_end_are_told() -> None:
    with new_site({"db": 4 * MIB}, encrypted=False) as site:
        site.write_config("rpo_target: 2s", hook(site, '#!/bin/sh\ncat >> "$1"\n'))
        site.init().must()
        agent = site.start()
        aside = site.base / "aside"
        site.flush_when_ready()
        site.container.rename(aside)
        data = os.urandom(100_000)
        with site.client("db") as client:
            client.write(5000, data)
            must_hear(site, "rpo-breach", "on")
            aside.rename(site.container)
            must_hear(site, "rpo-breach", "over")
        assert [event["kind"] for event in heard(site)].count("rpo-breach") == 2
        site.flush_when_ready()
        assert agent.stop() == 0
        target = site.base / "b" / "db.raw"
        site.restore("db", target)
        assert target.read_bytes() == bytes(5000) + data + bytes(4 * MIB - 5000 - len(data))


def test_a_refusal_is_told_before_the_run_ends() -> None:
    with new_site({"db": 4 * MIB}, encrypted=False) as site:
        site.write_config(hook(site, '#!/bin/sh\ncat >> "$1"\n'))
        site.init().must()
        agent = site.start()
        with site.client("db") as client:
            client.write(0, b"x" * 4096, fua=True)
        site.flush_when_ready()
        assert agent.stop() == 0
        changed_behind_our_back(site.backing("db"))
        agent = site.launch()
        assert agent.process.wait(NOTICE_SECONDS_MAX) == 66
        assert [(event["kind"], event["state"]) for event in heard(site)] == [("refused", "on")]
        assert "the exports stay closed" in heard(site)[0]["message"]


def changed_behind_our_back(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"y" * 4096)


def test_a_hook_that_hangs_or_fails_harms_nothing() -> None:
    with new_site({"db": 4 * MIB}, encrypted=False) as site:
        site.write_config("rpo_target: 1s", hook(site, "#!/bin/sh\nexit 9\n"))
        site.init().must()
        agent = site.start()
        site.flush_when_ready()
        aside = site.base / "aside"
        site.container.rename(aside)
        with site.client("db") as client:
            client.write(0, b"a" * 4096)
            wait_until(
                lambda: "exit code 9" in site.status().json["alerts"],
                "status shows that the hook fails",
                NOTICE_SECONDS_MAX,
            )
            client.write(4096, b"b" * 4096)
        aside.rename(site.container)
        site.flush_when_ready()
        target = site.base / "b" / "db.raw"
        site.restore("db", target)
        assert target.read_bytes() == b"a" * 4096 + b"b" * 4096 + bytes(4 * MIB - 8192)
        assert agent.stop() == 0
