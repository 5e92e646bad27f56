"""What cuts say of VMs: whatever this epoch did not say yet; and what makes one due. Nothing waits."""

from __future__ import annotations

from dataclasses import replace

import orjson

from cdp_agent.streamer.control import ANSWER_BYTES_MAX
from cdp_agent.streamer.describing import vm_members
from cdp_agent.streamer.step_types import (
    CutRead,
    ReadCut,
    TailMoved,
    Tick,
    VmsLooked,
)
from cdp_agent.streamer.vms import (
    GONE,
    Noted,
    Vms,
    answered,
    begun,
    digest_of,
    epoch_began,
    offered,
    protected,
    taken,
)
from cdp_agent.vms.answer import Line
from cdp_container.domain.identity import VmIdentity
from tests.unit.streamer.test_steps import Play, at

WEB, DB, OLD, FAR = b"w" * 16, b"d" * 16, b"o" * 16, b"f" * 16
VMS = (
    VmIdentity("web", WEB, "qmp", "/run/web"),
    VmIdentity("db", DB, "libvirt", "qemu:///system", "db"),
    VmIdentity("old", OLD, "qmp", "/run/old", removed=True),
    VmIdentity("far", FAR),
)


def lines(web: bytes | None = b'{"a":1}', db: bytes | None = b'{"b":1}') -> list[Line]:
    return [Line(vm, value, "" if value else "it hangs") for vm, value in ((WEB, web), (DB, db))]


def running() -> Vms:
    return epoch_began(begun(VMS, Noted()), 5, 0)


def values_of(state: Vms, cut: int) -> tuple[Vms, dict[bytes, bytes]]:
    records = offered(state)
    state = taken(state, cut, records)
    assert all(record.name == "vm" and not record.critical for record in records)
    return state, {record.key: record.value for record in records}


def test_the_first_cut_of_an_epoch_says_all_that_is_known() -> None:
    state = answered(running(), lines(), "", 7)
    assert state.is_due
    state, said = values_of(state, 1)
    assert said == {WEB: b'{"a":1}', DB: b'{"b":1}', OLD: GONE}
    assert not state.is_due
    assert values_of(state, 2)[1] == {}


def test_a_change_makes_a_cut_due_and_only_it_is_said() -> None:
    state, _ = values_of(answered(running(), lines(), "", 7), 1)
    state = answered(state, lines(), "", 8)
    assert not state.is_due
    state = answered(state, lines(web=b'{"a":2}'), "", 9)
    assert state.is_due
    state, said = values_of(state, 2)
    assert said == {WEB: b'{"a":2}'}
    assert not state.is_due


def test_a_change_that_is_taken_back_before_its_cut_is_none() -> None:
    state, _ = values_of(answered(running(), lines(), "", 7), 1)
    state = answered(answered(state, lines(web=b'{"a":2}'), "", 8), lines(), "", 9)
    assert not state.is_due
    assert values_of(state, 2)[1] == {}


def test_before_the_epoch_nothing_is_due() -> None:
    assert not answered(begun(VMS, Noted()), lines(), "", 7).is_due


def test_what_was_protected_is_noted_and_not_before() -> None:
    state, _ = values_of(answered(running(), lines(), "", 7), 3)
    assert protected(state, 2).noted == Noted(5)
    state = protected(state, 3)
    assert state.noted == Noted(
        5, {WEB: digest_of(b'{"a":1}'), DB: digest_of(b'{"b":1}'), OLD: digest_of(GONE)}
    )
    state, _ = values_of(answered(state, lines(db=b'{"b":2}'), "", 8), 4)
    assert state.noted.digests[DB] == digest_of(b'{"b":1}')
    assert protected(state, 9).noted.digests[DB] == digest_of(b'{"b":2}')


def noted() -> Noted:
    state, _ = values_of(answered(running(), lines(), "", 7), 1)
    return protected(state, 1).noted


def test_after_a_restart_the_same_makes_no_cut_due_but_is_said_with_the_next_one() -> None:
    state = epoch_began(begun(VMS, noted()), 6, base=5)
    assert not state.is_due
    state = answered(state, lines(), "", 9)
    assert not state.is_due
    assert values_of(state, 1)[1].keys() == {WEB, DB, OLD}
    assert answered(state, lines(db=b'{"b":2}'), "", 9).is_due


def test_a_lost_note_has_all_sent_again() -> None:
    state = answered(epoch_began(begun(VMS, Noted()), 6, base=5), lines(), "", 9)
    assert state.is_due


def test_another_epoch_in_between_has_all_sent_again() -> None:
    """It may have said something else of the same VMs."""
    state = answered(epoch_began(begun(VMS, noted()), 9, base=8), lines(), "", 9)
    assert state.is_due
    assert values_of(state, 1)[1].keys() == {WEB, DB, OLD}


def test_a_round_that_hangs_changes_nothing_and_is_told_with_the_time_since_when() -> None:
    state, _ = values_of(answered(running(), lines(), "", 7), 1)
    for wall_ns in (8, 9):
        state = answered(state, [], "killed after 20 s", wall_ns)
    assert not state.is_due
    assert (state.said[WEB].known_ns, state.said[WEB].problem, state.said[WEB].problem_ns) == (
        7, "killed after 20 s", 8,
    )  # fmt: skip
    state = answered(state, lines(), "", 10)
    assert (state.said[WEB].known_ns, state.said[WEB].problem, state.said[WEB].problem_ns) == (10, "", 0)


def test_one_that_hangs_does_not_hide_another() -> None:
    state = answered(running(), lines(db=None), "", 7)
    assert state.said[DB].problem == "it hangs"
    assert values_of(state, 1)[1] == {WEB: b'{"a":1}', OLD: GONE}


def test_a_round_without_a_word_is_a_problem() -> None:
    assert answered(running(), lines()[:1], "", 7).said[DB].problem


def test_what_nobody_asked_for_is_not_taken() -> None:
    """Not of VMs that left, of those that nobody here knows, and not of ids that we do not have."""
    forged = [Line(vm, b'{"x":1}') for vm in (OLD, FAR, b"?" * 16)]
    assert values_of(answered(running(), [*lines(), *forged], "", 7), 1)[1].keys() == {WEB, DB, OLD}
    assert values_of(answered(running(), [*lines(), *forged], "", 7), 1)[1][OLD] == GONE


def test_a_member_that_left_is_said_once_in_each_epoch() -> None:
    left = (replace(VMS[0], removed=True), *VMS[1:])
    state = answered(epoch_began(begun(left, noted()), 6, base=5), lines(), "", 9)
    assert state.is_due
    state, said = values_of(state, 1)
    assert said[WEB] == GONE
    assert not state.is_due


# --- the step machine ------------------------------------------------------------------------------


def test_a_change_alone_makes_a_cut_due_at_the_cadence() -> None:
    play = Play().began().protected()
    assert play.on(Tick(), after_seconds=100) == ()
    play.on(VmsLooked(True))
    cut = play.one(ReadCut)
    assert (cut.from_position, cut.to_position, cut.vms_due) == (at(100), at(100), True)
    play.on(CutRead(at(100), empty=False, reached=True))
    assert not play.state.vms_changed
    assert play.on(Tick(), after_seconds=100) == ()


def test_a_cut_without_news_is_not_taken_for_vms() -> None:
    play = Play().began().protected()
    play.on(TailMoved(at(200)), after_seconds=1)
    assert not play.one(ReadCut).vms_due


def test_news_that_come_while_a_cut_is_read_are_for_the_next_one() -> None:
    play = Play().began().protected()
    play.on(TailMoved(at(200)), after_seconds=1)
    play.on(VmsLooked(True))
    play.on(CutRead(at(200), empty=False, reached=True))
    assert play.state.vms_changed


def test_what_becomes_known_while_a_cut_is_read_is_not_taken_for_said() -> None:
    state = answered(running(), lines(), "", 7)
    records = offered(state)
    state = taken(answered(state, lines(web=b'{"a":2}'), "", 8), 1, records)
    assert state.is_due
    assert values_of(state, 2)[1] == {WEB: b'{"a":2}'}


def test_what_status_is_told_fits_its_answer_however_many_there_are() -> None:
    many = tuple(
        VmIdentity(f"vm-{n}", n.to_bytes(16, "big"), "qmp", "/run/" + "x" * 100) for n in range(1, 257)
    )
    disks = tuple("d" * 250 + str(number) for number in range(256))
    said = [Line(vm.vm, b'{"a":1}', "", disks, disks) for vm in many]
    state = answered(begun(many, Noted()), said, "", 7)
    state = answered(state, [], "p" * 5000, 8)
    members = vm_members(state)
    assert members is not None
    assert len(orjson.dumps(members)) < ANSWER_BYTES_MAX * 0.7
    assert members[0]["unprotected"][-1] == "and 248 more"
