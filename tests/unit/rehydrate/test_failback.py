"""Failback: disks become the other site's cut, whatever the journal of the first one tells or lacks.

Each counter-example is a write that is on the disk, or missing from it, and in neither of the obvious sets.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.domain.failback_note import load_failback
from cdp_container.domain.identity import SourceIdentity
from cdp_container.errors import AlreadyRunning, ConfigInvalid, StoreUnavailable
from cdp_container.format.place import NOWHERE, Place
from cdp_container.journal.position import Position
from rehydrate.container import Container
from rehydrate.failback import NO_WORDS, Words
from rehydrate.localio import lock_alone
from rehydrate.plan import Choice
from tests.overtaken import BOOT, OTHER_BOOT, Overtaken

SIZE = 1 << 20
BLOCK = 4096


def world(tmp_path: Path) -> Overtaken:
    """Something protected, something not, then another site that goes on from the newest cut."""
    made = Overtaken(tmp_path, {"disk": SIZE})
    made.write("disk", 0, b"a" * 20 * BLOCK)
    made.cut()
    made.write("disk", 50 * BLOCK, b"b" * BLOCK)
    made.cut()
    return made


def finished(made: Overtaken, boot: bytes = BOOT, words: Words = NO_WORDS) -> Overtaken:
    """The other site goes on, writes a little, and the first one is brought there."""
    made.stop()
    made.other_takes_over()
    made.other_writes("disk", 100 * BLOCK, b"z" * 3 * BLOCK)
    newest = made.other_cut()
    assert made.fail_back(boot, words) == newest
    made.assert_disks_are(newest)
    return made


def test_what_either_side_wrote_is_all_that_is_compared(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write("disk", 60 * BLOCK, b"x" * BLOCK)
    finished(made)
    assert made.compared_bytes == 4 * BLOCK
    assert made.changed_bytes == 4 * BLOCK
    note = load_failback(made.directory)
    assert note is not None
    assert note.fork == Place(1, 2, 2)
    assert note.towards == NOWHERE


def test_what_was_never_sent_is_kept_and_told(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write("disk", 60 * BLOCK, b"x" * BLOCK)
    finished(made)
    evidence = made.directory / "diverged-1"
    assert {"journal", "shared", "notes.json", "agent.json"} <= set(os.listdir(evidence))
    assert not (made.directory / "journal").exists()
    (said,) = made.said
    assert "1 record, 4096 bytes" in said
    assert str(evidence) in said


def test_trims_and_zeros_of_either_side_are_undone_and_done(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.trim("disk", 0, 2 * BLOCK + 512)
    made.stop()
    made.other_takes_over()
    made.other_trims("disk", 3 * BLOCK, BLOCK)
    made.other_zeroes("disk", 50 * BLOCK, 100)
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)
    assert made.compared_bytes == 5 * BLOCK


def test_an_older_cut_that_the_other_site_took_is_the_fork(tmp_path: Path) -> None:
    made = world(tmp_path)
    older = Place(1, 1, 1)
    made.stop()
    made.other_takes_over(older)
    made.other_writes("disk", 100 * BLOCK, b"z")
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)  # without the block that the dropped cut wrote
    note = load_failback(made.directory)
    assert note is not None
    assert note.fork == older


def test_a_record_below_the_fork_that_never_reached_the_disk_is_compared(tmp_path: Path) -> None:
    # The cut holds it, the splitter was killed before it wrote it: a redo would begin at the synced point.
    made = Overtaken(tmp_path, {"disk": SIZE})
    made.write("disk", 0, b"a" * BLOCK)
    made.synced = made.journal.at
    made.write("disk", 8 * BLOCK, b"b" * BLOCK, on_disk=False)
    made.cut()
    finished(made)
    assert made.compared_bytes == 4 * BLOCK


def test_a_cut_of_a_clone_is_not_taken_for_our_own(tmp_path: Path) -> None:
    # Its journal is ours up to where it was cloned; beyond that its positions lie between our records, too.
    made = world(tmp_path)
    made.write("disk", 60 * BLOCK, b"x" * BLOCK)
    made.clone_cut("disk", 61 * BLOCK, b"y" * BLOCK)
    finished(made)
    note = load_failback(made.directory)
    assert note is not None
    assert note.fork == Place(1, 2, 2)


def test_a_trimmed_journal_means_everything(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.site.journal = (0xDEAD, 0)
    made.journal.begin_generation(0xA2)
    made.write("disk", 70 * BLOCK, b"t" * BLOCK)
    first = made.directory / "journal" / "000000000001.jnl"
    first.unlink()
    finished(made)
    assert made.compared_bytes == SIZE


@pytest.mark.parametrize(
    "changes",
    [
        {"overflow_at": Position(0xA1, 0), "overflow_ns": 5},
        {"sync_failed": True},
        {"episode": 0xE},
    ],
    ids=["overflow", "sync failed", "episode not compared"],
)
def test_a_write_that_no_record_tells_of_is_found_where_the_journal_is_in_doubt(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    made = world(tmp_path)
    made.put("disk", 200 * BLOCK, b"past the journal")
    made.page_changes = changes
    finished(made, words=Words(overwrite_unjournaled=True))
    assert made.compared_bytes == SIZE


def test_what_went_past_the_journal_after_the_fork_is_found_though_it_was_compared_since(
    tmp_path: Path,
) -> None:
    # Compared and sent in cuts that the other site dropped, because it went on from an older one.
    made = Overtaken(tmp_path, {"disk": SIZE})
    made.write("disk", 0, b"a" * BLOCK)
    older = made.cut()
    made.put("disk", 200 * BLOCK, b"past the journal")
    made.journal.begin_generation(0xA2)
    made.write("disk", BLOCK, b"b")
    made.page_changes = {"episode": 0xA2}
    made.notes = replace(made.notes, episode=0xA2)
    made.stop()
    made.other_takes_over(older)
    made.other_writes("disk", 9 * BLOCK, b"z")
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_disk_that_was_not_whole_at_the_fork_is_compared(tmp_path: Path) -> None:
    made = Overtaken(tmp_path, {"disk": SIZE})
    made.put("disk", 200 * BLOCK, b"from before protection began")
    made.write("disk", 0, b"a" * BLOCK)
    made.cut(not_whole=(made.spaces["disk"],))
    finished(made)
    assert made.compared_bytes == SIZE


@pytest.mark.parametrize("clean", [True, False])
def test_after_a_power_loss_only_a_clean_stop_is_believed(tmp_path: Path, clean: bool) -> None:
    made = world(tmp_path)
    if not clean:
        made.put("disk", 200 * BLOCK, b"its record was lost")
    made.stop(clean=clean)
    made.other_takes_over()
    made.other_writes("disk", 0, b"z")
    newest = made.other_cut()
    made.fail_back(OTHER_BOOT)
    made.assert_disks_are(newest)
    assert made.compared_bytes == (BLOCK if clean else SIZE)


def test_a_power_loss_after_a_start_that_followed_a_clean_stop_is_no_clean_stop(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.put("disk", 200 * BLOCK, b"its record was lost")
    made.stop(clean=True)
    made.page_changes = {"generation": 0xA2}
    finished(made, OTHER_BOOT)
    assert made.compared_bytes == SIZE


def test_a_disk_that_somebody_used_since_is_compared(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.stop()
    with made.paths["disk"].open("r+b") as file:
        file.seek(200 * BLOCK)
        file.write(b"mounted by hand")
    made.other_takes_over()
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)
    assert "was changed after its journal's last write" in made.said[-1]


def test_a_disk_that_was_put_back_from_a_backup_is_compared(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.put("disk", 50 * BLOCK, bytes(BLOCK))  # as it was before its last write
    made.put("disk", 200 * BLOCK, b"of an older time")
    finished(made)
    assert made.compared_bytes == SIZE


def test_a_disk_of_another_size_is_compared(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write("disk", 200 * BLOCK, b"cut off")
    for _ in range(70):  # more than are read back
        made.write("disk", 0, b"n" * 512)
    made.cut()
    os.truncate(made.paths["disk"], SIZE // 2)
    made.age("disk")
    finished(made)
    assert "its size was changed" in made.said[-1]


def test_another_file_of_the_same_name_is_compared(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.stop()
    other = tmp_path / "other.raw"
    other.write_bytes(made.paths["disk"].read_bytes())
    with other.open("r+b") as file:
        file.seek(200 * BLOCK)
        file.write(b"of another machine")
    other.rename(made.paths["disk"])
    made.age("disk")
    made.other_takes_over()
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_volume_that_grew_here_since_is_brought_back(tmp_path: Path) -> None:
    made = world(tmp_path)
    os.truncate(made.paths["disk"], 2 * SIZE)
    made.put("disk", SIZE + BLOCK, b"beyond")
    made.identity = replace(
        made.identity, sources=(replace(made.identity.sources[0], size_bytes=2 * SIZE, resized=1),)
    )
    finished(made)
    assert made.paths["disk"].stat().st_size == SIZE
    assert made.compared_bytes == 3 * BLOCK


def test_what_a_disk_holds_beyond_its_size_at_the_fork_is_compared(tmp_path: Path) -> None:
    made = world(tmp_path)
    os.truncate(made.paths["disk"], 2 * SIZE)
    made.put("disk", SIZE + 5 * BLOCK, b"an old device had this")
    made.identity = replace(
        made.identity, sources=(replace(made.identity.sources[0], size_bytes=2 * SIZE, resized=1),)
    )
    made.stop()
    made.other_takes_over()
    made.site.resize(made.spaces["disk"], 2 * SIZE)
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_volume_that_shrank_and_grew_there_has_zeros_between(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    made.site.resize(made.spaces["disk"], 10 * BLOCK)
    made.other_cut()
    made.site.resize(made.spaces["disk"], SIZE)
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_volume_that_was_removed_and_added_again_there_is_compared(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    made.site.remove(made.spaces["disk"])
    made.other_cut()
    made.site.add_again(made.spaces["disk"], "disk", SIZE)
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_where_a_collector_was_at_work_since_the_fork_everything_is_compared(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    made.other_writes("disk", 9 * BLOCK, b"z" * BLOCK)
    made.other_cut()
    newest = made.other_cut()
    made.site.protect(newest)
    made.site.collect(2, 1, 1)
    made.fail_back()
    made.assert_disks_are(newest)
    assert made.compared_bytes == SIZE


def test_a_frame_that_holds_bytes_of_several_volumes_is_fetched_once(tmp_path: Path) -> None:
    made = Overtaken(tmp_path, dict.fromkeys(("a", "b", "c", "d"), SIZE))
    made.cut()
    made.stop()
    made.other_takes_over()
    for name in made.paths:
        made.other_writes(name, 3 * BLOCK, made.site.rng.randbytes(BLOCK))
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)
    assert made.changed_bytes == 4 * BLOCK
    assert made.fetched_bytes <= made.changed_bytes * 1.1


# --- refusals, before anything is touched ------------------------------------------------------


def test_a_volume_that_is_new_there_needs_a_place_here(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    made.site.add_volume("second", SIZE)
    made.other_cut()
    before = made.paths["disk"].read_bytes()
    with pytest.raises(ConfigInvalid, match="second: nothing says where it lies here"):
        made.fail_back()
    assert made.paths["disk"].read_bytes() == before
    assert (made.directory / "journal").exists()
    assert load_failback(made.directory) is None


def test_a_volume_that_is_new_there_is_fetched_to_its_place(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    made.spaces["second"] = made.site.add_volume("second", SIZE)
    made.other_writes("second", 3 * BLOCK, b"new" * BLOCK)
    newest = made.other_cut()
    made.paths["second"] = tmp_path / "second.raw"
    made.paths["second"].touch()
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_disk_that_is_served_is_refused(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    made.other_cut()
    with made.paths["disk"].open("r+b") as file:
        lock_alone(file.fileno(), made.paths["disk"], "serve it")
        with pytest.raises(AlreadyRunning):
            made.fail_back()
    assert load_failback(made.directory) is None


def test_a_store_that_fails_in_the_first_look_changes_nothing(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.stop()

    def refuse(text: str) -> None:
        raise AssertionError(text)

    with made.failback(say=refuse) as run:
        run._open_again = _away
        with pytest.raises(StoreUnavailable):
            run.pass_to(Choice())
    assert (made.directory / "journal").exists()


def _away() -> Container:
    raise StoreUnavailable("look", "away")


def test_a_source_that_was_removed_here_is_compared(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.put("disk", 200 * BLOCK, b"written without an agent")
    removed = replace(made.identity.sources[0], removed=True)
    made.identity = replace(made.identity, sources=(removed,))
    assert isinstance(removed, SourceIdentity)
    finished(made)
    assert made.compared_bytes == SIZE
