"""What stands against an adoption is told all at once; and what comes next, and what is printed."""

from __future__ import annotations

from dataclasses import replace
from xml.etree.ElementTree import fromstring

import pytest

from cdp_agent.adopting.checks import Volume, Wishes, plan_moves
from cdp_agent.adopting.seen import Disk, Job, Node, Seen, lacking, look
from cdp_agent.adopting.start_words import libvirt_steps, qemu_words
from cdp_agent.adopting.turn import Agent, Memory, Standing, take_turn
from cdp_agent.adopting.undoing import unneeded
from cdp_agent.adopting.words import names_of
from cdp_container.errors import HypervisorFailed
from cdp_container.machine_errors import AdoptionRefused

SIZE = 1 << 20
SECOND = 1_000_000_000


def disk(name: str, node: str = "", **more: object) -> Disk:
    path = f"/machine/peripheral/{name}/virtio-backend"
    base = Disk(name, path, node or f"#{name}", "raw", SIZE, SIZE, f"/{name}.raw", False, "off")
    return replace(base, **more)  # type: ignore[arg-type]


def volume(name: str, **more: object) -> Volume:
    return replace(Volume(name, name.encode().ljust(16, b"."), SIZE), **more)  # type: ignore[arg-type]


def seen(*disks: Disk, jobs: tuple[Job, ...] = (), twice: tuple[str, ...] = ()) -> Seen:
    return Seen({one.name: one for one in disks}, {}, {job.name: job for job in jobs}, twice)


def refused(
    found: Seen,
    wishes: Wishes,
    *volumes: Volume,
    on: dict[str, str] | None = None,
    holding: tuple[str, ...] = (),
    captured: dict[str, str] | None = None,
) -> str:
    with pytest.raises(AdoptionRefused) as caught:
        plan_moves(
            found,
            wishes,
            {one.name: one for one in volumes},
            lambda one: (on or {}).get(one.name),
            lambda name: name in holding,
            captured=captured or {},
        )
    return caught.value.why


TO_A = Wishes({"vda": "a"})


@pytest.mark.parametrize(
    ("why", "found"),
    [
        ("it has no disk that could be adopted", refused(seen(), Wishes({}))),
        ("it has no disk vda (it has none)", refused(seen(), TO_A, volume("a"))),
        ("it has no disk vdz (it has vda)", refused(seen(disk("vda")), Wishes({}, frozenset({"vdz"})))),
        ("disk vda (1048576 bytes) is not named", refused(seen(disk("vda")), Wishes({}), volume("a"))),
        ("there is no volume a (`cdp-agent reload`", refused(seen(disk("vda")), TO_A)),
        (
            "vda: volume a is captured by images (disk vdb of VM web) and has no export",
            refused(seen(disk("vda")), TO_A, captured={"a": "disk vdb of VM web"}),
        ),
        (
            "has 1048576 bytes and volume a has 512",
            refused(seen(disk("vda")), TO_A, volume("a", size_bytes=512)),
        ),
        ("disk vda is read-only", refused(seen(disk("vda", is_read_only=True)), TO_A, volume("a"))),
        ("has a filter (throttle)", refused(seen(disk("vda", driver="throttle")), TO_A, volume("a"))),
        ("copied onto itself", refused(seen(disk("vda")), TO_A, volume("a", is_open_in_vm=True))),
        ("cannot be seen: run it as root", refused(seen(disk("vda")), TO_A, volume("a", is_open_in_vm=None))),
        ("is a disk of other (`disks`)", refused(seen(disk("vda")), TO_A, volume("a", of_vms=("other",)))),
        ("holds something, which --overwrite", refused(seen(disk("vda")), TO_A, volume("a"), holding=("a",))),
        ("vda is on the volume b already", refused(seen(disk("vda")), TO_A, volume("a"), on={"vda": "b"})),
        (
            "both to become a volume and to stay",
            refused(seen(disk("vda")), Wishes({"vda": "a"}, frozenset({"vda"})), volume("a")),
        ),
        (
            "wanted for disk vda, and for vdb",
            refused(seen(disk("vda"), disk("vdb")), Wishes({"vda": "a", "vdb": "a"}), volume("a")),
        ),
        (
            "wanted for disk vda, and for vdb",
            refused(seen(disk("vda"), disk("vdb")), TO_A, volume("a"), on={"vdb": "a"}),
        ),
        (
            "volume a is another disk of this VM",
            refused(
                seen(disk("vda"), disk("vdb", names_of(volume("a").space, "").top)),
                Wishes({"vda": "a"}, frozenset({"vdb"})),
                volume("a"),
            ),
        ),
        (
            "QEMU runs another job, backup0 (backup)",
            refused(seen(disk("vda"), jobs=(Job("backup0", "backup", "running"),)), TO_A, volume("a")),
        ),
        ("two of its disks are called vda", refused(seen(disk("vda"), twice=("vda",)), TO_A, volume("a"))),
        (
            "a, b: 2097152 bytes more are needed, and the file system has 2000000",
            refused(
                seen(disk("vda"), disk("vdb")),
                Wishes({"vda": "a", "vdb": "b"}),
                volume("a", free_bytes=2_000_000),
                volume("b", free_bytes=2_000_000),
            ),
        ),
    ],
)
def test_what_is_refused(why: str, found: str) -> None:
    assert why in found


def test_a_volume_below_an_overlay_is_no_place_for_its_copy() -> None:
    found = replace(seen(disk("vda")), nodes={"below": Node("nbd", "export-a")})
    with pytest.raises(AdoptionRefused, match=r"uses the export of volume a already \(node below\)"):
        plan_moves(
            found, TO_A, {"a": volume("a")}, lambda one: None, lambda name: False,
            lambda node: "a" if node.file == "export-a" else None,
        )  # fmt: skip


def test_all_faults_come_at_once() -> None:
    found = refused(
        seen(disk("vda"), disk("vdb"), jobs=(Job("x", "commit", "ready"),)),
        Wishes({"vda": "a", "vdx": "none"}),
        volume("a", size_bytes=512),
        holding=("a",),
    )
    assert len(found.split("; ")) == 5


def test_what_is_planned() -> None:
    space = volume("a").space
    found = seen(
        disk("vda"),
        disk("vdb"),
        disk("vdc", is_read_only=True),
        disk("vdd", names_of(volume("d").space, "").top),
        disk("vde"),
        disk("vdf"),
        jobs=(
            Job("old", "backup", "concluded"),
            Job(names_of(space, disk("vda").device).job, "mirror", "paused"),
        ),
    )
    wishes = Wishes({"vda": "a"}, frozenset({"vdb"}), said={"vde": None, "vdf": "f", "vda": "z"})
    volumes = {name: volume(name, free_bytes=2 * SIZE) for name in "adf"}
    plan = plan_moves(found, wishes, volumes, lambda one: None, lambda name: name == "a")
    assert [(move.disk.name, move.volume.name) for move in plan.moves] == [("vda", "a"), ("vdf", "f")]
    assert plan.done == {"vdd": "d"}
    assert plan.left == ("vdb", "vdc", "vde")
    assert len(plan.ours) == 2
    assert all(len(name) <= 31 for move in plan.moves for name in (move.names.top, move.names.seed))


# --- turns ------------------------------------------------------------------------------------------

WELL = {"a": Job("a", "mirror", "running", offset=5, length=10)}


def test_a_job_that_is_gone_or_ended_fails() -> None:
    for job, why in ((None, "no more"), (Job("a", "mirror", "concluded", error="EIO"), "EIO")):
        turn = take_turn(Memory(0), {"a": job}, Agent(), 1, 10)
        assert turn.standing is Standing.FAILED
        assert why in turn.why


def test_it_is_ready_only_with_an_agent() -> None:
    ready = {"a": Job("a", "mirror", "ready", offset=10, length=10)}
    assert take_turn(Memory(0), ready, Agent(), 1, 10).standing is Standing.READY
    assert take_turn(Memory(0), ready, Agent("away"), 1, 10).standing is Standing.STOPPED
    broken = {"a": replace(ready["a"], status="standby", is_well=False)}
    turn = take_turn(Memory(0), broken, Agent(), 2 * SECOND, 10)
    assert (turn.standing, turn.resume) == (Standing.STOPPED, ("a",))
    assert take_turn(turn.memory, broken, Agent(), 2 * SECOND + 1, 10).resume == (), "once a second"
    assert take_turn(turn.memory, broken, Agent(), 3 * SECOND, 10).resume == ("a",)
    assert take_turn(turn.memory, broken, Agent("away"), 3 * SECOND, 10).resume == (), "nobody is there"


def test_it_gives_up_what_does_not_move() -> None:
    turn = take_turn(Memory(0), WELL, Agent(), 5 * SECOND, 10)
    assert turn.memory.moved_ns == 5 * SECOND
    assert take_turn(turn.memory, WELL, Agent(), 15 * SECOND, 10).standing is Standing.COPYING
    assert take_turn(turn.memory, WELL, Agent(), 16 * SECOND, 10).standing is Standing.GIVEN_UP
    moved = {"a": replace(WELL["a"], offset=6)}
    assert take_turn(turn.memory, moved, Agent(), 16 * SECOND, 10).standing is Standing.COPYING
    assert take_turn(turn.memory, WELL, Agent(), 10**6 * SECOND, float("inf")).standing is Standing.COPYING


def test_the_journal_is_left_room() -> None:
    turn = take_turn(Memory(0), WELL, Agent("", 0.6), 1, 10)
    assert turn.pause == ("a",)
    paused = {"a": replace(WELL["a"], status="paused")}
    assert take_turn(turn.memory, paused, Agent("", 0.45), 2 * SECOND, 10).resume == ()
    assert take_turn(turn.memory, paused, Agent("", 0.3, True), 2 * SECOND, 10).resume == ()
    assert take_turn(turn.memory, paused, Agent("", 0.3), 2 * SECOND, 10).resume == ("a",)
    assert take_turn(Memory(0), paused, Agent("", 0.45), 2 * SECOND, 10).resume == ("a",), "of a killed run"


# --- what QEMU says, and what is printed ------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, 5, [5], {"a": 1}, [{"qdev": "x", "inserted": {}}], [{}] * 10_001])
def test_answers_that_make_no_sense(answer: object) -> None:
    with pytest.raises(HypervisorFailed):
        look(lambda command, arguments: answer if command == "query-block" else [])
    with pytest.raises(HypervisorFailed):
        lacking(lambda command, arguments: answer)


def test_what_a_qemu_lacks() -> None:
    def ask(command: str, _: object) -> object:
        version = {"qemu": {"major": major, "minor": 2}}
        return version if command == "query-version" else [{"name": "blockdev-add"}]

    major = 6
    assert lacking(ask) == ["it is QEMU 6.2: 7.0 or later is needed"]
    major = 7
    assert "this QEMU has no yank" in lacking(ask)


def test_what_is_no_disk() -> None:
    inserted = {"node-name": "n", "drv": "raw", "file": "/x", "ro": True, "image": {"virtual-size": 1}}
    blocks = [
        {"qdev": "/machine/peripheral/cd", "removable": True, "inserted": inserted},
        {"qdev": "/machine/peripheral/empty", "removable": False},
        {"qdev": "", "device": "unused", "inserted": inserted},
        {"qdev": "/machine/x", "device": "pflash0", "inserted": inserted},
        {"qdev": "/machine/peripheral/vda/virtio-backend", "device": "", "inserted": inserted},
    ]
    found = look(lambda command, arguments: blocks if command == "query-block" else [])
    assert list(found.disks) == ["vda"]
    assert found.disks["vda"].is_read_only


def test_a_disk_s_nodes_are_never_taken_away() -> None:
    names = names_of(b"a" * 16, "x")
    node = Node("nbd", "")
    nodes = dict.fromkeys((names.top, names.seed, names.direct, "#other", "cdp-adopt-00-d"), node)
    found = Seen({"vda": disk("vda", names.top)}, nodes, {})
    assert unneeded(found, frozenset()) == ["cdp-adopt-00-d", names.seed]
    copying = replace(found, disks={"vda": disk("vda", "#old")})
    assert unneeded(copying, frozenset({names.job})) == ["cdp-adopt-00-d", names.direct]
    assert unneeded(copying, frozenset())[0] == names.top, "what lies above goes first"


def test_words_for_the_next_start() -> None:
    assert qemu_words("vda", "a", "/x y/nbd.sock").startswith("-blockdev '{")
    lines = list(libvirt_steps("qemu:///system", "web", {"vda": "a&b"}, "/nbd.sock"))
    element = fromstring(lines[1])
    source = element.find("source")
    assert source is not None
    assert source.get("name") == "a&b"
    assert "--synchronous-writes" in lines[2]
