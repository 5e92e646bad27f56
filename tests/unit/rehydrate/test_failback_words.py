"""Failback and what an operator has to say, or may: writes that no journal holds, doubts of his own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.domain.carried import Carried, look_at, save_carried
from cdp_container.domain.failback_note import drop_failback, load_failback
from cdp_container.domain.stopped import Stopped, save_stopped
from cdp_container.errors import TargetNotEmpty
from cdp_container.format.place import NOWHERE, Place
from cdp_container.journal.block_map import MapHeader, dirty_map_name, encode_map_header, set_bits
from cdp_container.journal.position import Position
from rehydrate.failback import NO_WORDS, Words
from rehydrate.plan import Choice
from tests.overtaken import Overtaken

SIZE = 1 << 20
BLOCK = 4096
SECOND_NS = 1_000_000_000
SINCE_NS = 1_800_000_000_000_000_000
LET_GO = Words(overwrite_unjournaled=True)


def overflowed(tmp_path: Path, **changes: object) -> tuple[Overtaken, Place]:
    """A site whose journal was full at the end, and the other one's newest cut."""
    made = Overtaken(tmp_path, {"db": SIZE, "log": SIZE})
    made.write("db", 0, b"a" * BLOCK)
    made.cut()
    made.put("db", 200 * BLOCK, b"past the journal")
    made.page_changes = {"overflow_at": Position(0xA1, 0), "overflow_ns": SINCE_NS, **changes}
    made.stop()
    made.other_takes_over()
    made.other_writes("db", 9 * BLOCK, b"z")
    return made, made.other_cut()


def mark(made: Overtaken, name: str, blocks: int, episode: int = 0xE) -> None:
    """A dirty map with so many blocks set, as the splitter leaves it."""
    header = MapHeader(made.site.domain, made.spaces[name], episode, SIZE, BLOCK)
    bits = bytearray(header.map_bytes)
    set_bits(bits, 3, 3 + blocks)
    path = made.directory / dirty_map_name(made.index(name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode_map_header(header) + bits)


def refusal(made: Overtaken) -> str:
    """Why nothing was touched, and nothing noted or moved."""
    before = {name: path.read_bytes() for name, path in made.paths.items()}
    with pytest.raises(TargetNotEmpty) as caught:
        made.fail_back()
    assert {name: path.read_bytes() for name, path in made.paths.items()} == before
    assert load_failback(made.directory) is None
    assert (made.directory / "journal").exists()
    assert "--overwrite-unjournaled" in caught.value.hint
    return caught.value.why


def test_writes_past_the_journal_are_not_overwritten_unasked(tmp_path: Path) -> None:
    made, newest = overflowed(tmp_path)
    why = refusal(made)
    assert "since 2027-01-15T08:00:00" in why
    made.fail_back(words=LET_GO)
    made.assert_disks_are(newest)
    assert "past this site's journal" in made.said[0]
    assert (made.directory / "diverged-1" / "journal").exists()
    made.fail_back()  # once begun it is not asked again


def test_the_disks_times_tell_of_which_volumes_while_the_journal_is_full(tmp_path: Path) -> None:
    made, _ = overflowed(tmp_path)
    os.utime(made.paths["log"], ns=(SINCE_NS - 60 * SECOND_NS, SINCE_NS - 60 * SECOND_NS))
    os.utime(made.paths["db"], ns=(SINCE_NS, SINCE_NS))
    assert "alone: db (nobody knows how much), since 2027-01-15T08:00:00" in refusal(made)
    mark(made, "log", 1)  # of an older episode, that was not compared either
    assert "db (nobody knows how much), log (at least 4096 bytes)" in refusal(made)


def uncompared(tmp_path: Path, **changes: object) -> tuple[Overtaken, Place]:
    """The journal went on, and what was written meanwhile was not compared before the other site came."""
    return overflowed(tmp_path, **{"overflow_at": Position(0, 0), "episode": 0xE, **changes})


def test_the_maps_tell_of_which_volumes_later(tmp_path: Path) -> None:
    made, _ = uncompared(tmp_path)
    mark(made, "db", 5)
    mark(made, "log", 0)
    assert "alone: db (at least 20480 bytes), since" in refusal(made)
    mark(made, "log", 1)
    assert "db (at least 20480 bytes), log (at least 4096 bytes)" in refusal(made)


def test_nothing_tells_of_which_volumes_where_all_are_in_doubt(tmp_path: Path) -> None:
    made, _ = uncompared(tmp_path, compare_all=True)
    mark(made, "db", 5)
    assert "nobody knows of which volumes, since" in refusal(made)


@pytest.mark.parametrize("data", [b"", b"x" * 5000])
def test_a_map_that_is_none_tells_nothing(tmp_path: Path, data: bytes) -> None:
    made, _ = uncompared(tmp_path)
    mark(made, "db", 5)
    (made.directory / dirty_map_name(0)).write_bytes(data)
    assert "nobody knows of which volumes" in refusal(made)


def test_an_episode_that_was_not_compared_is_asked_about_too(tmp_path: Path) -> None:
    made, newest = uncompared(tmp_path, overflow_ns=0)
    mark(made, "log", 2)
    assert "log (at least 8192 bytes), nobody knows since when" in refusal(made)
    made.fail_back(words=LET_GO)
    made.assert_disks_are(newest)


def test_an_episode_that_was_compared_is_no_question(tmp_path: Path) -> None:
    made = Overtaken(tmp_path, {"db": SIZE})
    made.notes = replace(made.notes, episode=0xE)
    made.page_changes = {"episode": 0xE}
    made.cut()
    made.stop()
    made.other_takes_over()
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_one_whose_agent_never_ran_since_is_not_asked_for_its_older_episodes(tmp_path: Path) -> None:
    made = Overtaken(tmp_path, {"db": SIZE})
    made.notes, made.page_changes = replace(made.notes, episode=0xE), {"episode": 0xE}
    made.cut()
    made.stop()
    made.other_takes_over()
    made.other_cut()
    at = made.fail_back()
    note = load_failback(made.directory)
    assert note is not None
    save_carried(made.directory, Carried(made.site.domain, at, note.volumes))
    drop_failback(made.directory)
    made.other_writes("db", 30 * BLOCK, b"later")
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)
    assert made.compared_bytes == BLOCK


# --- --compare-all -------------------------------------------------------------------------------


def restored_journal(tmp_path: Path) -> Overtaken:
    """The journal directory is of an old backup: it knows nothing of the disk's last write."""
    made = Overtaken(tmp_path, {"db": SIZE})
    made.write("db", 0, b"a" * BLOCK)
    made.cut()
    made.put("db", 200 * BLOCK, b"in the journal that was lost")
    made.stop()
    made.other_takes_over()
    return made


def test_whoever_is_in_doubt_has_everything_compared(tmp_path: Path) -> None:
    made = restored_journal(tmp_path)
    newest = made.other_cut()
    made.fail_back(words=Words(compare_all=True))
    made.assert_disks_are(newest)
    assert made.compared_bytes == SIZE
    assert made.said[-1] == "everything is compared: --compare-all was said"


def test_an_interrupted_comparison_stays_one(tmp_path: Path) -> None:
    made = restored_journal(tmp_path)
    newest = made.other_cut()
    with made.failback(words=Words(compare_all=True)) as run:
        run._touch = _killed  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            run.pass_to(Choice())
    note = load_failback(made.directory)
    assert note is not None
    assert note.at == NOWHERE
    made.fail_back(words=NO_WORDS)
    made.assert_disks_are(newest)
    assert made.compared_bytes == SIZE


def test_disks_that_follow_already_are_compared_once_more(tmp_path: Path) -> None:
    made = restored_journal(tmp_path)
    newest = made.other_cut()
    made.fail_back(words=Words(compare_all=True))
    with made.failback(words=Words(compare_all=True)) as run:
        run.pass_to(Choice())
        assert run.figures.compared_bytes == SIZE
        run.pass_to(Choice())
        assert run.figures.compared_bytes == SIZE, "what it holds itself is known"
    made.assert_disks_are(newest)


def _killed() -> None:
    raise KeyboardInterrupt


# --- which disks were served ---------------------------------------------------------------------


def replaced_disk(tmp_path: Path) -> Overtaken:
    """The other site removed a volume; here the other one's file is another machine's."""
    made = Overtaken(tmp_path, {"db": SIZE, "log": SIZE})
    made.write("db", 0, b"a" * BLOCK)
    made.cut()
    made.stop()
    made.other_takes_over()
    made.site.remove(made.spaces["log"])
    return made


@pytest.mark.parametrize("is_there", [True, False])
def test_another_file_is_noticed_though_a_volume_was_removed_there(tmp_path: Path, is_there: bool) -> None:
    made = replaced_disk(tmp_path)
    other = tmp_path / "other.raw"
    other.write_bytes(made.paths["db"].read_bytes())
    with other.open("r+b") as file:
        file.seek(200 * BLOCK)
        file.write(b"of another machine")
    other.rename(made.paths["db"])
    made.age("db")
    if not is_there:
        made.paths["log"].unlink()
    newest = made.other_cut()
    del made.paths["log"]
    made.fail_back()
    made.assert_disks_are(newest)
    assert "is another file or device" in made.said[-1]


def test_the_same_file_is_believed_though_a_volume_was_removed_there(tmp_path: Path) -> None:
    made = replaced_disk(tmp_path)
    newest = made.other_cut()
    del made.paths["log"]
    made.fail_back()
    made.assert_disks_are(newest)
    assert made.compared_bytes < SIZE


# --- a clock that was wrong ----------------------------------------------------------------------


def stopped_cleanly(tmp_path: Path, generation: int) -> Overtaken:
    """An agent that noted its stop; somebody used the disk after it, by a clock that was an hour behind."""
    made = Overtaken(tmp_path, {"db": SIZE})
    made.write("db", 0, b"a" * BLOCK)
    made.cut()
    made.stop(clean=True)
    looked = look_at(str(made.paths["db"]), made.spaces["db"])
    save_stopped(made.directory, Stopped(generation, (looked,)))
    made.other_takes_over()
    return made


@pytest.mark.parametrize("is_used", [True, False])
def test_who_used_a_disk_is_noticed_whatever_the_clock_showed(tmp_path: Path, is_used: bool) -> None:
    made = stopped_cleanly(tmp_path, 0xA1)
    if is_used:
        made.put("db", 200 * BLOCK, b"by hand")  # its time is that of the journal's last write
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)
    assert (made.compared_bytes == SIZE) == is_used
    assert ("changed after its agent's stop" in made.said[-1]) == is_used
    assert (made.directory / "diverged-1" / "stopped.json").exists()


def test_a_note_of_an_older_stop_tells_nothing(tmp_path: Path) -> None:
    made = stopped_cleanly(tmp_path, 0xA0)
    made.age("db")  # as the run after that stop did, by writing
    made.other_cut()
    made.fail_back()
    assert made.compared_bytes < SIZE
