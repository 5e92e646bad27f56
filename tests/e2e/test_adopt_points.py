"""What recovery points say of a volume into which a running VM's disk is copied, whatever is killed."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from cdp_container.errors import AgentNotRunning, Incomplete
from tests import tiny_vm
from tests.e2e.site import MIB, Site
from tests.e2e.test_adopt import (
    SECONDS_MAX,
    adopting,
    copied_bytes,
    disk_node,
    ended,
    more_files,
    writing_guest,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs(*tiny_vm.NEEDS), pytest.mark.timeout(400)]


SLOWLY = "300kB"
"""So that commands have time to look on."""


def newest_amid(site: Site, epoch: int = 0) -> dict[str, Any]:
    """The newest point, once that is not whole, and of an epoch later than this one."""

    def newest() -> dict[str, Any]:
        point = site.points()[-1]
        return {} if point["whole"] or point["epoch"] <= epoch else point

    return wait_until(newest, "a point amid the copy", SECONDS_MAX)


def must_not_be_restored(site: Site, point: dict[str, Any]) -> None:
    """Its volume is filled in part."""
    assert (point["whole"], point["volumes"][0]["whole"]) == (False, False)
    target = site.base / "b" / "amid.raw"
    words = ("restore", "--volume", "root", "--target", str(target), "--at", point["point"])
    refused = site.rehydrate(*words).must(13)
    assert "not everything that it held is in the container at this point" in refused.err
    assert not target.exists()


def problems(site: Site) -> str:
    found: list[str] = site.status().json["problems"]
    return "\n".join(found)


def test_points_amid_a_copy_are_not_whole_whatever_is_killed() -> None:
    with writing_guest(SLOWLY) as (site, guest, old):
        site.flush_when_ready()
        empty = site.points()[-1]
        assert empty["whole"]
        with adopting(site, "--disk", "vda=root") as process:
            wait_until(lambda: copied_bytes(site) > MIB, "it copies", SECONDS_MAX)
            point = newest_amid(site)
            must_not_be_restored(site, point)
            assert "VM tiny is being adopted since " in problems(site)
            assert "(vda " in problems(site)
            assert "half filled" in site.marker("amid").err
            site.agents[-1].kill_group()
            site.start()
            must_not_be_restored(site, newest_amid(site, point["epoch"]))
            process.kill()
            process.wait()
        site.agents[-1].kill_group()
        site.config.write_text(site.config.read_text().replace(SLOWLY, "unlimited"))
        site.start()
        assert "a part of a copy of VM tiny" in problems(site)
        assert "nobody copies): root" in problems(site)
        # Whoever names no point gets the newest one that is whole, and is told so.
        target = site.base / "b" / "newest.raw"
        site.restore("root", target)
        assert not any(target.read_bytes())
        with adopting(site, "--disk", "vda=root") as process:
            first = ended(site, process)["point"]
        points = {one["point"]: one["whole"] for one in site.points()}
        between = list(points.values())[list(points).index(empty["point"]) + 1 :]
        name = f"{first['epoch']}.{first['cut']}"
        print(f"{len(between)} points from the first byte on, whole from {name} on")
        assert points[name]
        assert between == sorted(between), "not one is whole before the first that is, and all are after it"
        assert not between[0]
        assert "copy of VM tiny" not in problems(site)
        more_files(guest)
        guest.kill()
        site.flush_when_ready()
        image = site.base / "b" / "root.raw"
        site.restore("root", image)
        assert image.read_bytes() == site.backing("root").read_bytes()
        assert image.read_bytes() != old.read_bytes(), "the old image stayed behind"


def refused_marker(site: Site) -> bool:
    """Whether it was, as volumes are filled; a streamer that is not there yet is asked again."""
    code = site.marker("amid").code
    assert code in (Incomplete.exit_code, AgentNotRunning.exit_code), "it was taken"
    return code == Incomplete.exit_code


def test_half_a_copy_stays_so_until_somebody_says_otherwise() -> None:
    with writing_guest(SLOWLY) as (site, guest, _):
        node = disk_node(guest, "vda")
        with adopting(site, "--disk", "vda=root") as process:
            wait_until(lambda: copied_bytes(site) > MIB, "it copies", SECONDS_MAX)
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS_MAX) == 128 + signal.SIGTERM
        more_files(guest)
        assert disk_node(guest, "vda") == node
        must_not_be_restored(site, newest_amid(site))
        assert "nobody copies): root" in problems(site)
        assert site.agents[-1].stop() == 0  # which sends what there is, and does not wait for it to be whole
        site.start()
        wait_until(lambda: refused_marker(site), "a marker is refused", SECONDS_MAX)
        site.agent_command("adopt", "tiny", "--accept", "other").must(2)
        site.agent_command("adopt", "tiny", "--accept", "root").must()
        site.flush_when_ready()
        site.marker("as-it-is").must()
        assert site.points()[-1]["whole"]
        image = site.base / "b" / "root.raw"
        site.restore("root", image, "--marker", "as-it-is")
        assert image.read_bytes() == site.backing("root").read_bytes()
        assert any(image.read_bytes())
        assert "copy of VM tiny" not in problems(site)
