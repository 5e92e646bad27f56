"""What the writer appends the reader reads, across files, recycling and disks that are full."""

from __future__ import annotations

import errno
import itertools
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from cdp_agent.splitter.journal_run import JournalRun
from cdp_agent.splitter.journal_writer import BLOCK_BYTES, JournalWriter
from cdp_container.errors import JournalFull
from cdp_container.journal.position import NOWHERE
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import FILE_HEADER_BYTES, RECORD_HEADER_BYTES, Kind
from tests.unit.splitter.machine import DOMAIN, FILE_BYTES, Lossy


@pytest.fixture
def files() -> Lossy:
    return Lossy()


def writer_in(directory: Path, files: Lossy, file_count: int = 100) -> JournalWriter:
    run = JournalRun(
        files, directory, DOMAIN, b"b" * 16, lambda: 7, FILE_BYTES, file_count * FILE_BYTES, (), NOWHERE
    )
    writer = JournalWriter(files, lambda: 7, run)
    writer.begin_generation(5)
    return writer


def contents(directory: Path, writer: JournalWriter) -> bytes:
    with JournalReader(directory, DOMAIN) as reader:
        return b"".join(map(reader.read_payload, reader.records(reader.start, writer.tail, {Kind.WRITE})))


@pytest.mark.parametrize("seed", range(4))
def test_everything_written_is_read_in_order(tmp_path: Path, files: Lossy, seed: int) -> None:
    rng, writer, written = Random(seed), writer_in(tmp_path, files), b""
    for _ in range(60):
        data = rng.randbytes(rng.choice([1, 7, 512, 4096, 60 << 10, 200 << 10]))
        at = writer.tail
        assert writer.append_write(3, 0, data) == at
        written += data
    assert contents(tmp_path, writer) == written
    with JournalReader(tmp_path, DOMAIN) as reader:
        assert reader.find_end(reader.start).position == writer.tail
    writer.close()


def test_a_large_write_is_split_between_blocks(tmp_path: Path, files: Lossy) -> None:
    writer = writer_in(tmp_path, files)
    start = writer.tail
    writer.append_write(0, 512, bytes(200 << 10))
    with JournalReader(tmp_path, DOMAIN) as reader:
        records = list(reader.records(start, writer.tail))
    assert [record.offset for record in records[1:]] == [
        record.offset + record.span for record in records[:-1]
    ]
    assert all(record.span % BLOCK_BYTES == 0 for record in records[:-1])
    writer.close()


def test_recycled_files_hold_only_what_is_new(tmp_path: Path, files: Lossy) -> None:
    writer = writer_in(tmp_path, files, file_count=3)
    for number in range(200):
        writer.append_write(0, 0, bytes([number]) * 4096)
        writer.run.trim((writer.tail,))
    assert len(list(tmp_path.iterdir())) <= 3
    with JournalReader(tmp_path, DOMAIN) as reader:
        kept = [reader.read_payload(record)[0] for record in reader.records(reader.start, writer.tail)]
    assert kept == list(range(200))[-len(kept) :]
    assert writer.run.used_bytes <= FILE_BYTES
    writer.close()


def test_what_is_used_grows_with_the_writes_and_is_the_limit_when_it_is_full(
    tmp_path: Path, files: Lossy
) -> None:
    """What is shown must be what decides, or an alert at a share of the limit came too late."""
    writer, used = writer_in(tmp_path, files, file_count=5), [FILE_HEADER_BYTES]
    with suppress(JournalFull):
        while writer.append_write(0, 0, bytes(1000)) != writer.tail:
            used.append(writer.run.used_bytes)
    steps = [after - before for before, after in itertools.pairwise(used)]
    assert 0 < min(steps) <= max(steps) <= FILE_HEADER_BYTES + 2 * (RECORD_HEADER_BYTES + 1000)
    assert 5 * FILE_BYTES - 2 * (RECORD_HEADER_BYTES + 1000) < used[-1] <= 5 * FILE_BYTES
    assert writer.run.trim((writer.tail,))
    assert writer.run.used_bytes == used[-1] - 4 * FILE_BYTES
    writer.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, files: Lossy, code: int) -> None:
    writer = writer_in(tmp_path, files)
    files.fail = lambda name, path: OSError(code, "injected") if name == "allocate" else None
    fitting = (FILE_BYTES - 4096) // (4096 + 64)  # then END_OF_FILE has its room too
    for _ in range(fitting):
        writer.append_write(0, 0, b"x" * 4096)
    with pytest.raises(JournalFull, match="injected"):
        writer.append_write(0, 0, b"x" * 4096)
    written = b"x" * 4096 * fitting
    assert contents(tmp_path, writer) == written
    assert len(list(tmp_path.iterdir())) == 1
    files.fail = lambda name, path: None
    writer.append_write(0, 0, b"y")  # once there is room it goes on
    assert contents(tmp_path, writer) == written + b"y"
    writer.close()


def test_an_append_that_fails_is_overwritten_by_the_next(tmp_path: Path, files: Lossy) -> None:
    writer = writer_in(tmp_path, files)
    files.fail = lambda name, path: OSError(errno.EIO, "injected") if name == "pwritev" else None
    with pytest.raises(OSError, match="injected"):
        writer.append_write(0, 0, b"lost")
    files.fail = lambda name, path: None
    writer.append_write(0, 0, b"kept")
    assert contents(tmp_path, writer) == b"kept"
    writer.close()


def test_a_sync_covers_every_file_since_the_last(tmp_path: Path, files: Lossy) -> None:
    writer = writer_in(tmp_path, files)
    for _ in range(40):
        writer.append_write(0, 0, bytes(4096))
    files.calls.clear()
    writer.begin_sync()()
    assert {path for _, path in files.calls} == set(tmp_path.iterdir())
    assert not writer.is_dirty
    writer.close()


def test_a_sync_that_failed_leaves_everything_to_the_next(tmp_path: Path, files: Lossy) -> None:
    writer = writer_in(tmp_path, files)
    for _ in range(40):
        writer.append_write(0, 0, bytes(4096))
    files.fail = lambda name, path: OSError(errno.EIO, "injected") if name == "fdatasync" else None
    with pytest.raises(OSError, match="injected"):
        writer.begin_sync()()
    assert writer.is_dirty
    files.fail = lambda name, path: None
    files.calls.clear()
    writer.begin_sync()()
    assert {path for _, path in files.calls} == set(tmp_path.iterdir())
    writer.close()


@pytest.mark.parametrize("calls", range(1, 12))
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_large_write_that_fails_leaves_nothing(tmp_path: Path, files: Lossy, code: int, calls: int) -> None:
    writer, left = writer_in(tmp_path, files), calls

    def fail(name: str, path: Path) -> OSError | None:
        nonlocal left
        left -= name == "pwritev"
        return OSError(code, "injected") if left == 0 and name == "pwritev" else None

    writer.append_write(0, 0, b"before")
    before = writer.tail
    files.fail = fail
    with pytest.raises((OSError, JournalFull), match="injected"):
        writer.append_write(0, 0, bytes(range(200)) * 1300)  # six parts in six files
    files.fail = lambda name, path: None
    assert writer.tail == before
    assert len(list(tmp_path.iterdir())) == 1
    with JournalReader(tmp_path, DOMAIN) as reader:
        assert reader.find_end(reader.start).position == before
    writer.append_write(0, 0, b"after")
    writer.append_write(0, 0, bytes(200 << 10))
    assert contents(tmp_path, writer) == b"before" + b"after" + bytes(200 << 10)
    with JournalReader(tmp_path, DOMAIN) as reader:
        assert reader.find_end(reader.start).position == writer.tail
    files.calls.clear()
    writer.begin_sync()()
    assert {path for name, path in files.calls if name == "fdatasync"} <= set(tmp_path.iterdir())
    writer.close()


def test_a_large_write_beyond_the_limit_leaves_nothing(tmp_path: Path, files: Lossy) -> None:
    writer = writer_in(tmp_path, files, file_count=2)
    before = writer.tail
    for _ in range(2):
        with pytest.raises(JournalFull):
            writer.append_write(0, 0, bytes(200 << 10))
        assert writer.tail == before
        assert writer.run.used_bytes == FILE_HEADER_BYTES
    writer.append_write(0, 0, b"x")
    assert contents(tmp_path, writer) == b"x"
    assert writer.tail.offset == RECORD_HEADER_BYTES + 8
    writer.close()


@pytest.mark.parametrize("seed", range(4))
def test_writes_that_come_together_are_read_in_order(tmp_path: Path, files: Lossy, seed: int) -> None:
    rng, writer, written = Random(seed), writer_in(tmp_path, files), b""
    for _ in range(40):
        batch = [(n, rng.randbytes(rng.choice([1, 7, 512, 4096, 9000]))) for n in range(rng.randrange(1, 20))]
        count = writer.append_writes(3, batch)
        for offset, data in batch[count:]:  # no room in this file: the slow way goes on in the next
            writer.append_write(3, offset, data)
        written += b"".join(data for _, data in batch)
    assert contents(tmp_path, writer) == written
    with JournalReader(tmp_path, DOMAIN) as reader:
        assert reader.find_end(reader.start).position == writer.tail
    writer.close()


def test_a_file_without_room_takes_a_part_or_nothing(tmp_path: Path, files: Lossy) -> None:
    writer = writer_in(tmp_path, files)
    batch = [(0, bytes(4096))] * 100
    first = writer.append_writes(0, batch)
    assert 0 < first < 100
    assert writer.append_writes(0, batch) == 0
    assert writer.append_writes(0, [(0, b"small")]) == 1, "what is smaller still fits"


def test_writes_of_which_only_a_part_was_written_are_no_records(tmp_path: Path, files: Lossy) -> None:
    writer = writer_in(tmp_path, files)
    writer.append_write(0, 0, b"before")
    tail = writer.tail

    def torn(name: str, path: Path) -> OSError | None:
        if name != "pwritev":
            return None
        files.fail = lambda name, path: None
        # The first two records got through before the disk failed.
        with path.open("r+b") as file:
            file.seek(4096 + tail.offset)
            file.write(whole)
        return OSError(errno.EIO, "failed midway")

    (tmp_path / "other").mkdir()
    other = writer_in(tmp_path / "other", Lossy())
    other.append_write(0, 0, b"before")
    other.append_writes(0, [(8, b"one"), (16, b"two")])
    whole = next((tmp_path / "other").glob("*.jnl")).read_bytes()[4096 + tail.offset :][: 2 * 72]
    files.fail = torn
    with pytest.raises(OSError, match="failed midway"):
        writer.append_writes(0, [(8, b"one"), (16, b"two"), (24, b"three")])
    assert writer.tail == tail
    with JournalReader(tmp_path, DOMAIN) as reader:
        assert reader.find_end(reader.start).position == tail, "a kill now would bring back neither"
