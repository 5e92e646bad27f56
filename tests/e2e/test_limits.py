"""A limited agent keeps its limit and its lease, says what is in force, and loses nothing."""

from __future__ import annotations

import os

import pytest

from cdp_agent.streamer.pace import BURST_SECONDS
from cdp_container.errors import ConfigInvalid
from cdp_container.format.limits import OBJECT_BYTES_MAX
from tests.e2e.site import MIB, new_site

pytestmark = pytest.mark.e2e

BYTES_PER_SECOND = 1_000_000
LIMITS = (
    "limits: {bytes_per_second: 500MB, requests_per_second: 40, timezone: UTC, "
    "schedule: [{cron: '* * * * *', bytes_per_second: 1MB}]}"
)


def test_limited_agent_keeps_its_limit_and_its_lease() -> None:
    with new_site({"db": 16 * MIB}, with_key=True, extra=(LIMITS, "rpo_target: 60s")) as site:
        site.init().must()
        agent = site.start()
        data = os.urandom(12 * MIB)  # more than one object: the second waits for longer than the lease of 5 s
        with site.client("db") as client:
            for at in range(0, len(data), MIB):
                client.write(at, data[at : at + MIB])
            client.flush()
        epoch = site.status().json["epoch"]
        site.flush_when_ready()
        status = site.status().json
        limits = status["limits"]
        assert (limits["bytes_per_second"], limits["requests_per_second"]) == (BYTES_PER_SECOND, 40)
        assert limits["since"] == "* * * * *"
        assert limits["sent_bytes"] > len(data)
        allowed = BYTES_PER_SECOND * (limits["seconds"] + BURST_SECONDS) + OBJECT_BYTES_MAX
        assert limits["sent_bytes"] <= allowed
        assert limits["requests"] <= 40 * (limits["seconds"] + BURST_SECONDS) + 1
        assert limits["seconds"] > (len(data) - 9 * MIB) / BYTES_PER_SECOND, "the second object had to wait"
        assert status["counters"]["puts_failed"] == 0, "no put began after a lease that passed"
        assert status["epoch"] == epoch or epoch is None
        assert "1 MB/s, 40 requests/s (since * * * * *)" in site.agent_command("status").out
        assert agent.stop() == 0
        target = site.base / "back.raw"
        site.restore("db", target)
        assert target.read_bytes() == data + bytes(4 * MIB)


def test_limits_that_cannot_be_are_refused_all_at_once() -> None:
    with new_site({"db": MIB}) as site:
        site.write_config(
            "limits: {bytes_per_second: 20, requests_per_second: 1, timezone: Hamburg, "
            "schedule: [{cron: '0 8 * * 1-5', bytes_per_secnd: 5MB}]}"
        )
        done = site.agent_command("check-config")
        assert done.code == ConfigInvalid.exit_code
        for text in (
            "limits.bytes_per_second: 20 is not a rate (write a number and a unit, like 20MB",
            "limits.requests_per_second: 1 is too little: 2 or more",
            "limits.timezone: 'Hamburg' is not a time zone",
            "limits.schedule[0].cron: '0 8 * * 1-5' names days of the week by numbers",
            "limits.schedule[0].bytes_per_secnd: unknown key (did you mean bytes_per_second?)",
        ):
            assert text in done.err, done.err
