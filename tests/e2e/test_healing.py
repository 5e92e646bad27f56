"""Damage in a container beside a real agent: found by the calendar, told, healed, restored exactly."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import MIB, Site, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

BLOCK = 4096
FOUND_SECONDS_MAX = 150.0
"""The calendar knows whole minutes."""
EXTRA = ('verification: {schedule: "* * * * *"}', "collection: {every: 1d, grace: 1s}")


class Guest:
    """Writes what is marked, so that every marker's image is known."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.random = random.Random(11)
        self.image = bytearray(2 * MIB)
        self.images: dict[str, bytes] = {}

    def mark(self, name: str, *ranges: tuple[int, int]) -> None:
        with self.site.client("db") as guest:
            for offset, length in ranges:
                data = self.random.randbytes(length)
                guest.write(offset, data)
                self.image[offset : offset + length] = data
            guest.flush()
        self.site.marker(name).must()
        self.images[name] = bytes(self.image)

    def check(self) -> None:
        """By rehydrate and by the independent reader."""
        for name, image in self.images.items():
            target = self.site.base / f"{name}.raw"
            self.site.restore("db", target, "--marker", name)
            assert target.read_bytes() == image, name
            target.unlink()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def verification(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.agent_command("status", "--json").out)
    return found["verification"] or {}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("encrypted", [True, False])
def test_found_by_the_calendar_and_healed(encrypted: bool) -> None:
    with new_site({"db": 2 * MIB}, encrypted=encrypted, extra=EXTRA) as site:
        site.init().must()
        site.start()
        guest = Guest(site)
        guest.mark("first", (0, 40 * BLOCK), (60 * BLOCK + 512, 1000))
        guest.mark("second", (0, 8 * BLOCK), (100 * BLOCK, 4 * BLOCK))
        for number in range(4):
            guest.mark(f"more-{number}", (200 * BLOCK, BLOCK), (0, 2 * BLOCK))
        wait_until(lambda: is_sound(site), "a verification", FOUND_SECONDS_MAX)
        victims = sorted(path for path in site.container.glob("log/*/*") if path.stat().st_size > 20 * BLOCK)
        for path in victims:
            flip(path, path.stat().st_size // 2)
        key = str(victims[0].relative_to(site.container))
        wait_until(lambda: bool(verification(site).get("findings")), "damage to be found", FOUND_SECONDS_MAX)
        status = site.status()
        assert status.code == 3
        assert key in status.out
        assert site.rehydrate("verify", *site.secret_options()).code == 27
        # Held by the agent's own verification, at times, which comes every minute.
        wait_until(lambda: healed(site, key), "healing", FOUND_SECONDS_MAX)
        found = site.rehydrate("verify", "--json", *site.secret_options())
        assert [finding["needed"] for finding in json.loads(found.out)["findings"]] == [False] * len(victims)
        assert found.code == 3
        guest.mark("after", (300 * BLOCK, BLOCK))
        guest.check()


def is_sound(site: Site) -> bool:
    done = site.agent_command("verify")
    if done.code == 0:
        assert "sound" in done.out, done
        return True
    assert "verifier.lock" in done.err, done  # the calendar's own is under way
    return False


def healed(site: Site, key: str) -> bool:
    done = site.agent_command("heal")
    if done.code == 0:
        assert f"{key}: healed by packs/" in done.out, done
        return True
    assert "hold on everything" in done.err, done
    return False
