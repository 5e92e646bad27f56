"""More passes of a failback than one: what each goes on from, and what interrupts them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdp_container.domain.carried import look_at
from cdp_container.domain.failback_note import load_failback
from cdp_container.domain.half_done import refuse_half_done
from cdp_container.errors import ConfigInvalid
from cdp_container.format.place import Place
from rehydrate.inplace import Disk
from rehydrate.plan import Choice
from tests.overtaken import OTHER_BOOT, Overtaken
from tests.unit.rehydrate.test_failback import BLOCK, SIZE, finished, world
from tests.waiting import wait_until


def test_a_second_pass_compares_what_the_other_site_wrote_meanwhile(tmp_path: Path) -> None:
    made = finished(world(tmp_path))
    made.other_writes("disk", 30 * BLOCK, b"y" * BLOCK)
    newest = made.other_cut()
    made.fail_back()  # another process: it looks whether the disks are as they were left
    made.assert_disks_are(newest)
    assert made.compared_bytes == BLOCK


def test_a_disk_that_was_touched_between_two_passes_is_compared(tmp_path: Path) -> None:
    made = finished(world(tmp_path))
    with made.paths["disk"].open("r+b") as file:
        file.write(b"by hand")
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)
    assert made.compared_bytes == SIZE


@pytest.mark.parametrize("newer", [False, True])
def test_a_disk_that_was_touched_while_one_command_waits_is_compared(tmp_path: Path, newer: bool) -> None:
    # Our lock keeps agents out, but nobody else: carried.json would say of it that it is the cut.
    made = finished(world(tmp_path))
    path, space = made.paths["disk"], made.spaces["disk"]
    with made.failback() as run:
        newest = run.pass_to(Choice())
        before = look_at(str(path), space)

        def is_touched() -> bool:
            with path.open("r+b") as file:
                file.write(b"by hand")
            return look_at(str(path), space) != before

        wait_until(is_touched, "the file's time to change", 10)
        newest = made.other_cut() if newer else newest
        assert run.pass_to(Choice()) == newest
    made.assert_disks_are(newest)


@pytest.mark.parametrize("tries", [1, 2])
def test_a_device_is_compared_by_the_first_pass_of_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    # It reads back what was written last, and nothing tells who wrote elsewhere, before or between.
    made = world(tmp_path)
    made.write("disk", 60 * BLOCK, b"x" * BLOCK)
    made.stop()
    made.other_takes_over()
    made.other_writes("disk", 100 * BLOCK, b"z" * BLOCK)
    newest = made.other_cut()
    monkeypatch.setattr(Disk, "mtime_ns", property(lambda disk: None))
    if tries == 2:
        interrupted(made, 0, monkeypatch)
    made.put("disk", 200 * BLOCK, b"by hand")
    made.fail_back()
    made.assert_disks_are(newest)
    assert made.compared_bytes == SIZE


class _Broken(Exception):
    pass


def fail_after(after: int, patch: pytest.MonkeyPatch) -> None:
    """From so many writes on every one fails."""
    left = [after]
    plain = Disk.write

    def write(self: Disk, offset: int, data: memoryview) -> None:
        if not left[0]:
            raise _Broken
        left[0] -= 1
        plain(self, offset, data)

    patch.setattr(Disk, "write", write)


def interrupted(made: Overtaken, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that dies after so many writes."""
    with monkeypatch.context() as patch:
        fail_after(after, patch)
        with pytest.raises(_Broken):
            made.fail_back()


@pytest.mark.parametrize("writes", range(4))
def test_an_interrupted_pass_is_gone_on_with(
    tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(tmp_path)
    made.write("disk", 60 * BLOCK, b"x" * BLOCK)
    made.write("disk", 0, b"x" * BLOCK)
    made.stop()
    made.other_takes_over()
    for number in (100, 110, 120):
        made.other_writes("disk", number * BLOCK, b"z" * BLOCK)
        made.other_cut()
    interrupted(made, writes, monkeypatch)
    with pytest.raises(ConfigInvalid, match="not done yet"):
        refuse_half_done(made.directory)
    made.other_writes("disk", 40 * BLOCK, b"q")
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)
    assert made.compared_bytes < SIZE


def test_what_was_written_towards_a_cut_that_no_branch_holds_any_more_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    base = made.other_cut()
    for number in (100, 110):
        made.other_writes("disk", number * BLOCK, b"z" * BLOCK)
        made.other_cut()
    interrupted(made, 1, monkeypatch)
    made.other_takes_over(base)  # a third site, which leaves those cuts behind
    made.other_writes("disk", 5 * BLOCK, b"third")
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_disk_that_was_touched_after_an_interrupted_first_pass_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    made.other_writes("disk", 100 * BLOCK, b"z" * BLOCK)
    newest = made.other_cut()
    interrupted(made, 0, monkeypatch)
    made.put("disk", 200 * BLOCK, b"by hand")
    note = load_failback(made.directory)
    assert note is not None
    later_ns = note.touched_ns + 11 * 10**9
    os.utime(made.paths["disk"], ns=(later_ns, later_ns))
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_size_that_an_interrupted_pass_took_away_is_no_longer_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(tmp_path)
    made.write("disk", 200 * BLOCK, b"c" * BLOCK)
    fork = made.cut()
    made.stop()
    made.other_takes_over()
    made.site.resize(made.spaces["disk"], 150 * BLOCK)
    made.other_writes("disk", 100 * BLOCK, b"z" * BLOCK)
    made.other_cut()
    interrupted(made, 0, monkeypatch)
    assert made.paths["disk"].stat().st_size == 150 * BLOCK
    made.other_takes_over(fork)
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_one_that_follows_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    base = made.other_cut()
    asked: list[str] = []
    plain = made.store.get_range

    def get_range(key: str, start: int, length: int) -> bytes:
        asked.append(key)
        return plain(key, start, length)

    with made.failback() as run:
        run.pass_to(Choice())
        for number in range(3):
            made.other_writes("disk", number * 5 * BLOCK, bytes([65 + number]) * BLOCK)
            newest = made.other_cut()
            asked.clear()
            monkeypatch.setattr(made.store, "get_range", get_range)
            assert run.pass_to(Choice()) == newest
            monkeypatch.undo()
            made.assert_disks_are(newest)
            assert "log/0000000001/000000000001" not in asked
        made.other_takes_over(base)  # which leaves what was read behind
        made.other_trims("disk", 0, BLOCK)
        newest = made.other_cut()
        assert run.pass_to(Choice()) == newest
        made.assert_disks_are(newest)
        made.site.protect(newest)
        made.site.collect(3, 1, 1)
        made.other_writes("disk", 90 * BLOCK, b"after a collection")
        newest = made.other_cut()
        assert run.pass_to(Choice()) == newest
        made.assert_disks_are(newest)


def later_pass_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Overtaken:
    """The disks are a cut, but for some writes towards a later one."""
    made = finished(world(tmp_path))
    for number in (10, 110):
        made.other_writes("disk", number * BLOCK, b"y" * BLOCK)
        made.other_cut()
    interrupted(made, 1, monkeypatch)
    return made


def test_a_later_pass_that_was_interrupted_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = later_pass_interrupted(tmp_path, monkeypatch)
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)
    assert made.compared_bytes == 2 * BLOCK


def test_what_a_later_pass_wrote_towards_a_dropped_cut_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = later_pass_interrupted(tmp_path, monkeypatch)
    made.other_takes_over(Place(2, 1, 1))
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_disk_that_was_touched_after_an_interrupted_pass_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = later_pass_interrupted(tmp_path, monkeypatch)
    made.put("disk", 200 * BLOCK, b"by hand")
    note = load_failback(made.directory)
    assert note is not None
    later_ns = note.touched_ns + 11 * 10**9
    os.utime(made.paths["disk"], ns=(later_ns, later_ns))
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_cut_that_the_disks_were_and_that_was_dropped_is_undone(tmp_path: Path) -> None:
    made = finished(world(tmp_path))
    made.other_takes_over(Place(1, 2, 2))
    made.other_writes("disk", 5 * BLOCK, b"third")
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_power_loss_between_two_tries_puts_an_unclean_journal_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(tmp_path)
    made.put("disk", 200 * BLOCK, b"its record was in the page cache alone")
    made.stop()
    made.other_takes_over()
    made.other_writes("disk", 100 * BLOCK, b"z" * BLOCK)
    newest = made.other_cut()
    interrupted(made, 0, monkeypatch)
    made.fail_back(OTHER_BOOT)
    made.assert_disks_are(newest)


def test_one_command_whose_pass_fails_and_whose_cut_is_the_newest_again_undoes_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    with made.failback() as run:
        first = made.other_cut()
        run.pass_to(Choice())
        for number in (100, 200):
            made.other_writes("disk", number * BLOCK, b"z" * BLOCK)
            made.other_cut()
        with monkeypatch.context() as patch:
            fail_after(1, patch)
            with pytest.raises(_Broken):
                run.pass_to(Choice())
        made.other_takes_over(first)
        assert run.pass_to(Choice()) == first
        made.assert_disks_are(first)


def test_a_pass_over_everything_that_ends_early_is_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reason was the disk's time, and that is ours once the pass has written.
    made = finished(world(tmp_path))
    with made.paths["disk"].open("r+b") as file:
        file.write(b"by hand")
        file.seek(50 * BLOCK)
        file.write(b"by hand")
    newest = made.other_cut()
    interrupted(made, 1, monkeypatch)
    made.fail_back()
    made.assert_disks_are(newest)


def test_a_first_pass_over_everything_that_ends_early_is_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(tmp_path)
    made.stop()
    made.other_takes_over()
    made.other_writes("disk", 100 * BLOCK, b"z" * BLOCK)
    newest = made.other_cut()
    interrupted(made, 0, monkeypatch)
    made.put("disk", 0, b"by hand")
    made.put("disk", 50 * BLOCK, b"by hand")
    note = load_failback(made.directory)
    assert note is not None
    later_ns = note.touched_ns + 11 * 10**9
    os.utime(made.paths["disk"], ns=(later_ns, later_ns))
    interrupted(made, 1, monkeypatch)
    made.fail_back()
    made.assert_disks_are(newest)


def test_what_was_written_towards_a_dropped_cut_is_undone_by_the_second_pass_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = later_pass_interrupted(tmp_path, monkeypatch)
    made.other_takes_over(Place(2, 1, 1))
    for number in (5, 6):
        made.other_writes("disk", number * BLOCK, b"w" * BLOCK)
        made.other_cut()
    interrupted(made, 0, monkeypatch)
    newest = made.other_cut()
    made.fail_back()
    made.assert_disks_are(newest)
