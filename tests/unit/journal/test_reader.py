"""A journal reads back what was written, and nothing else: torn, stale and foreign bytes are never taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdp_container.errors import JournalDamaged, PositionUnknown
from cdp_container.journal.files import file_name
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import FILE_HEADER_BYTES, RECORD_HEADER_BYTES, Kind, Note
from tests.unit.journal.building import DOMAIN, JournalBuilder


@pytest.fixture
def builder(tmp_path: Path) -> JournalBuilder:
    made = JournalBuilder(tmp_path)
    made.begin_generation(7)
    return made


def reader_of(builder: JournalBuilder) -> JournalReader:
    return JournalReader(builder.directory, DOMAIN)


def payloads(reader: JournalReader, start: Position, end: Position) -> list[bytes]:
    return [reader.read_payload(record) for record in reader.records(start, end)]


def test_records_come_back_in_order_with_all_their_fields(builder: JournalBuilder) -> None:
    first = builder.write(3, 4096, b"hello")
    builder.note(Note.REDO_PROGRESS)
    builder.zero(4, 0, 1 << 31)
    with reader_of(builder) as reader:
        write, zero = reader.records(first, builder.at)
        assert (write.kind, write.source, write.offset, write.span) == (Kind.WRITE, 3, 4096, 5)
        assert reader.read_payload(write) == b"hello"
        assert reader.read_payload(write, 1, 3) == b"ell"
        assert (zero.kind, zero.source, zero.offset, zero.span) == (Kind.ZERO, 4, 0, 1 << 31)
        assert zero.end == builder.at


def test_records_cross_files_and_generations(builder: JournalBuilder) -> None:
    start = builder.at
    builder.write(0, 0, b"a")
    builder.rotate()
    builder.write(0, 0, b"b")
    builder.begin_generation(3)
    builder.write(0, 0, b"c")
    builder.begin_generation(4)  # an empty one
    builder.begin_generation(2)
    builder.write(0, 0, b"d")
    with reader_of(builder) as reader:
        assert payloads(reader, start, builder.at) == [b"a", b"b", b"c", b"d"]
        assert reader.distance_bytes(start, builder.at) == 5 * RECORD_HEADER_BYTES + 4 * 8


def test_a_position_may_be_the_end_of_a_generation_or_the_start_of_the_next(builder: JournalBuilder) -> None:
    builder.write(0, 0, b"a")
    end = builder.at
    builder.begin_generation(3)
    start = builder.at
    builder.write(0, 0, b"b")
    with reader_of(builder) as reader:
        assert payloads(reader, end, start) == []
        assert payloads(reader, end, builder.at) == [b"b"]
        assert payloads(reader, Position(7, 0), start) == [b"a"]
        assert reader.contains(end, builder.at)
        assert reader.contains(start, builder.at)


def test_where_a_generation_ended_that_lost_its_end(builder: JournalBuilder) -> None:
    builder.write(0, 0, b"a")
    end = builder.at
    builder.begin_generation(3)
    builder.write(0, 0, b"b")
    with reader_of(builder) as reader:
        assert reader.end_before(Position(end.generation, end.offset + 64)) == end
        assert reader.end_before(end) is None
        assert reader.end_before(Position(3, 10_000)) is None
        assert reader.end_before(Position(99, 0)) is None


def test_contains_knows_only_places_between_records_up_to_the_tail(builder: JournalBuilder) -> None:
    first = builder.write(0, 0, b"a" * 100)
    second = builder.write(0, 0, b"b")
    tail = builder.at
    with reader_of(builder) as reader:
        assert all(reader.contains(position, tail) for position in (first, second, tail))
        assert not reader.contains(Position(7, 8), tail)
        assert not reader.contains(Position(7, tail.offset + 72), tail)
        assert not reader.contains(tail, second)
        assert not reader.contains(Position(8, 0), tail)
        assert not reader.contains(Position(0, 0), tail)


def test_files_that_come_later_are_found(builder: JournalBuilder) -> None:
    start = builder.write(0, 0, b"a")
    with reader_of(builder) as reader:
        builder.rotate()
        later = builder.write(0, 0, b"b")
        assert reader.contains(later, builder.at)
        assert payloads(reader, start, builder.at) == [b"a", b"b"]
        builder.begin_generation(9)
        builder.write(0, 0, b"c")
        assert payloads(reader, start, builder.at) == [b"a", b"b", b"c"]


def test_a_journal_that_began_after_it_was_opened_has_a_start(tmp_path: Path) -> None:
    with JournalReader(tmp_path, DOMAIN) as reader:
        assert reader.start == NOWHERE
        made = JournalBuilder(tmp_path)
        made.begin_generation(7)
        made.write(0, 0, b"a")
        assert reader.is_from_the_beginning
        assert reader.start == Position(7, 0)


def test_files_that_are_trimmed_while_others_come_do_not_confuse_it(builder: JournalBuilder) -> None:
    old = builder.path
    builder.write(0, 0, b"a")
    builder.begin_generation(3)
    builder.write(0, 0, bytes(1000))
    middle = builder.at
    builder.write(0, 0, b"b")
    with reader_of(builder) as reader:
        old.unlink()
        builder.begin_generation(4)
        builder.write(0, 0, b"c")
        assert payloads(reader, middle, builder.at) == [b"b", b"c"]


def test_a_position_in_a_new_file_may_lie_where_the_old_one_had_room(builder: JournalBuilder) -> None:
    builder.write(0, 0, b"a")
    with reader_of(builder) as reader:
        builder.rotate()
        builder.write(0, 0, b"b")
        later = builder.write(0, 0, b"c")
        assert builder.path.name == file_name(2)
        assert reader.contains(later, builder.at)


@pytest.mark.parametrize("cut", range(0, 2 * (RECORD_HEADER_BYTES + 8), 3))
def test_a_tail_cut_at_any_byte_ends_before_the_cut_record(builder: JournalBuilder, cut: int) -> None:
    first = builder.write(0, 0, b"x" * 8)
    second = builder.write(0, 8, b"y" * 8)
    os.truncate(builder.path, FILE_HEADER_BYTES + cut)
    with reader_of(builder) as reader:
        expected = first if cut < RECORD_HEADER_BYTES + 8 else second
        assert reader.find_end(first).position == expected
        if cut:
            with pytest.raises((JournalDamaged, PositionUnknown)):
                payloads(reader, first, builder.at)


@pytest.mark.parametrize("byte", range(RECORD_HEADER_BYTES + 8))
def test_a_flipped_byte_is_never_taken(builder: JournalBuilder, byte: int) -> None:
    first = builder.write(0, 0, b"x" * 8)
    data = bytearray(builder.path.read_bytes())
    data[FILE_HEADER_BYTES + byte] ^= 0x10
    builder.path.write_bytes(data)
    with reader_of(builder) as reader:
        assert reader.find_end(first).position == first
        with pytest.raises(JournalDamaged):
            payloads(reader, first, builder.at)


@pytest.mark.parametrize("byte", range(96))
def test_a_file_with_a_flipped_header_is_no_file(builder: JournalBuilder, byte: int) -> None:
    first = builder.write(0, 0, b"x" * 8)
    data = bytearray(builder.path.read_bytes())
    data[byte] ^= 0x10
    builder.path.write_bytes(data)
    with reader_of(builder) as reader:
        assert not reader.files
        assert not reader.contains(first, builder.at)


def test_stale_records_of_a_recycled_file_are_never_taken(builder: JournalBuilder) -> None:
    builder.write(0, 0, b"old" * 50)
    builder.write(0, 512, b"old" * 50)
    stale = builder.path.read_bytes()[FILE_HEADER_BYTES:]
    builder.begin_generation(8)
    data = builder.path.read_bytes()
    builder.path.write_bytes(data[:FILE_HEADER_BYTES] + stale)
    with reader_of(builder) as reader:
        assert reader.find_end(builder.at).position == Position(8, 0)


def test_stale_records_of_the_same_generation_are_never_taken(builder: JournalBuilder) -> None:
    builder.write(0, 0, b"old")
    stale = builder.path.read_bytes()[FILE_HEADER_BYTES:]
    builder.rotate()
    builder.path.write_bytes(builder.path.read_bytes()[:FILE_HEADER_BYTES] + stale)
    with reader_of(builder) as reader:
        assert reader.find_end(Position(7, 0)).position == builder.at


def test_a_file_under_another_number_is_no_file(builder: JournalBuilder) -> None:
    builder.write(0, 0, b"a")
    builder.path.rename(builder.directory / file_name(9))
    with reader_of(builder) as reader:
        assert not reader.files


def test_what_follows_a_missing_file_does_not_count(builder: JournalBuilder) -> None:
    first = builder.write(0, 0, b"a")
    builder.rotate()
    lost, tail_of_first = builder.path, builder.at
    builder.write(0, 0, b"b")
    builder.rotate()
    builder.write(0, 0, b"c")
    lost.unlink()
    with reader_of(builder) as reader:
        assert reader.find_end(first).position == tail_of_first
        with pytest.raises((JournalDamaged, PositionUnknown)):
            payloads(reader, first, builder.at)


def test_a_generation_that_lost_its_beginning_does_not_count(builder: JournalBuilder) -> None:
    first = builder.write(0, 0, b"a")
    end = builder.at
    builder.begin_generation(8)
    lost = builder.path
    builder.rotate()
    builder.write(0, 0, b"b")
    lost.unlink()
    with reader_of(builder) as reader:
        assert reader.find_end(first).position == end


def test_a_foreign_journal_is_refused(builder: JournalBuilder) -> None:
    with pytest.raises(JournalDamaged, match="belongs to domain"):
        JournalReader(builder.directory, bytes(16))


def test_an_absent_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalDamaged, match="No such file"):
        JournalReader(tmp_path / "absent", DOMAIN)


def test_the_wrong_order_is_an_error(builder: JournalBuilder) -> None:
    first = builder.write(0, 0, b"a")
    with reader_of(builder) as reader, pytest.raises(PositionUnknown):
        list(reader.records(builder.at, first))


def test_an_end_between_records_is_an_error(builder: JournalBuilder) -> None:
    first = builder.write(0, 0, b"a" * 100)
    with reader_of(builder) as reader, pytest.raises(PositionUnknown):
        list(reader.records(first, Position(7, 72)))


def test_the_end_says_when_it_was_and_whether_it_was_clean(builder: JournalBuilder) -> None:
    start = builder.write(0, 0, b"a")
    with reader_of(builder) as reader:
        assert not reader.find_end(start).clean_stop
        builder.note(Note.CLEAN_STOP)
        end = reader.find_end(start)
        assert end.clean_stop
        assert end.last_time_ns == builder.time_ns
        builder.begin_generation(9)
        reader.refresh()
        assert reader.find_end(start).position == Position(9, 0)
        assert reader.find_end(start).clean_stop


def test_many_files_stay_within_the_limit_of_open_ones(builder: JournalBuilder) -> None:
    start = builder.at
    for number in range(40):
        builder.write(0, 0, bytes([number]))
        builder.rotate()
    with reader_of(builder) as reader:
        before = len(os.listdir("/proc/self/fd"))
        assert payloads(reader, start, builder.at) == [bytes([number]) for number in range(40)]
        assert len(os.listdir("/proc/self/fd")) - before <= 16
