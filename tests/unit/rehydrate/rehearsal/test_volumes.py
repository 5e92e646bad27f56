"""Volumes of a rehearsal: names that lead nowhere, samples, and comparisons that find every changed byte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.store.memory import MemoryStore
from rehydrate import plan as planning
from rehydrate.container import Secret, open_container
from rehydrate.file_names import file_names
from rehydrate.plan import Choice, Totals
from rehydrate.points import plan_restore
from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, PASSED, Sampling, Verdict
from rehydrate.rehearsal.volumes import VolumesPart
from rehydrate.restore import Source
from tests.containers import Site, write, zero

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def site() -> Site:
    site = Site(MemoryStore(SystemClock()), encrypted=False)
    disk = site.add_volume("disk", 2 * MIB + 512)
    site.begin_epoch()
    site.cut([write(disk, 0, site.rng.randbytes(64 * PAGE)), write(disk, 2 * MIB, b"e" * 512)])
    for number in range(8):
        site.cut([write(disk, number * 16 * PAGE, site.rng.randbytes(2 * PAGE))])
    site.protect(site.cut([zero(disk, 4 * PAGE, 4 * PAGE), write(disk, MIB + 100, b"part of a block")]))
    return site


def test_a_plan_that_nobody_counts_is_of_the_same_volumes(site: Site) -> None:
    container = open_container(site.store, Secret())
    with closing(container.gather(container.history.branch_of(container.history.newest))) as contents:
        counted, plain = (
            plan_restore(container, contents, Choice(), counts=counts) for counts in (True, False)
        )
        assert (counted.cut, counted.rests_on, counted.notes) == (plain.cut, plain.rests_on, plain.notes)
        assert [one.volume for one in counted.volumes] == [one.volume for one in plain.volumes]
        assert counted.volumes[0].totals.gets
        assert plain.volumes[0].totals == Totals()


@contextmanager
def part_of(site: Site, where: Path) -> Iterator[VolumesPart]:
    container = open_container(site.store, Secret())
    scope = container.history.branch_of(container.history.newest)
    with closing(container.gather(scope, keeps_sums=True)) as contents:
        plan = plan_restore(container, contents, Choice(), [])
        source = Source(container.store, container.keys, contents)
        with VolumesPart(source, plan.volumes, where, SystemClock()) as part:
            yield part


def fetched(part: VolumesPart, sampling: Sampling) -> Totals:
    done: list[Totals] = []
    names: list[int] = []
    part.make_names(names.append)
    assert sum(names) == part.names
    part.fetch(sampling, done.append)
    return sum(done, Totals())


def compared(part: VolumesPart) -> tuple[Verdict, int]:
    read: list[int] = []
    (verdict,) = part.compared(read.append)
    return verdict, sum(read)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "/etc/passwd", "a\0b", "a\nb", "x" * 201, "\udc80"]
)
def test_a_name_that_can_be_no_files_is_left_for_the_id(name: str) -> None:
    assert file_names([(name, bytes(16))], ".raw") == ["00" * 16 + ".raw"]


def test_names_of_twins_are_their_ids() -> None:
    twins = [(name, bytes([number]) * 16) for number, name in enumerate("aab", 1)]
    assert file_names(twins, ".raw") == ["01" * 16 + ".raw", "02" * 16 + ".raw", "b.raw"]
    masked = [("02" * 16, b"\1" * 16), ("../b", b"\2" * 16)]
    assert file_names(masked, "") == ["01" * 16, "02" * 16], "one must not lie where another does"


def test_all_of_it(site: Site, tmp_path: Path) -> None:
    with part_of(site, tmp_path) as part:
        totals = part.totals(Sampling())
        done = fetched(part, Sampling())
        assert (done.gets, done.fetch_bytes, done.write_bytes) == (
            totals.gets,
            totals.fetch_bytes,
            totals.write_bytes,
        )
        verdict, read_bytes = compared(part)
        assert verdict.state == PASSED
        assert "; 4608 bytes not comparable" in verdict.why
        assert read_bytes > 60 * PAGE
    (newest,) = max(site.images.items())[1].values()
    assert (tmp_path / "disk.raw").read_bytes() == newest


@pytest.mark.parametrize("at", [0, 5 * PAGE, 63 * PAGE + 4095, MIB - PAGE, 2 * MIB - 1])
def test_a_changed_byte_is_found_wherever_it_is(site: Site, tmp_path: Path, at: int) -> None:
    with part_of(site, tmp_path) as part:
        fetched(part, Sampling())
        with (tmp_path / "disk.raw").open("r+b") as file:
            file.seek(at)
            old = file.read(1)
            file.seek(at)
            file.write(bytes([old[0] ^ 1]))
        verdict, _ = compared(part)
        block = at // PAGE * PAGE
        assert verdict.state == FAILED
        assert f"the first: {block} to {min(block + PAGE, 2 * MIB + 512)}" in verdict.why


def test_content_that_never_came_is_found(site: Site, tmp_path: Path) -> None:
    with part_of(site, tmp_path) as part:
        fetched(part, Sampling())
        with (tmp_path / "disk.raw").open("r+b") as file:
            file.truncate(0)
            file.truncate(2 * MIB + 512)
        assert compared(part)[0].state == FAILED


@pytest.mark.parametrize("seed", range(5))
def test_a_sample_is_what_was_promised_and_is_compared(
    site: Site, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "FETCH_BYTES_MAX", 1)
    sampling = Sampling(0.4, seed)
    with part_of(site, tmp_path) as part:
        promised, whole = part.totals(sampling), part.totals(Sampling())
        done = fetched(part, sampling)
        assert (done.gets, done.fetch_bytes, done.write_bytes) == (
            promised.gets,
            promised.fetch_bytes,
            promised.write_bytes,
        )
        assert 1 <= done.gets < whole.gets
        verdict, read_bytes = compared(part)
        assert verdict.state in (PASSED, NOT_CHECKED)
        assert read_bytes <= done.write_bytes


def test_the_smallest_sample_is_one_request(site: Site, tmp_path: Path) -> None:
    with part_of(site, tmp_path) as part:
        assert fetched(part, Sampling(1e-9, 1)).gets == 1


def test_a_sample_that_changed_is_found(site: Site, tmp_path: Path) -> None:
    with part_of(site, tmp_path) as part:
        fetched(part, Sampling(0.99, 3))
        assert compared(part)[0].state == PASSED
        data = bytearray((tmp_path / "disk.raw").read_bytes())
        at = next(at for at, byte in enumerate(data) if byte)
        with (tmp_path / "disk.raw").open("r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ 1]))
        assert compared(part)[0].state == FAILED


def test_no_content_is_not_checked(site: Site, tmp_path: Path) -> None:
    with part_of(site, tmp_path) as part:
        assert fetched(part, Sampling(0.0)) == Totals()
        assert (tmp_path / "disk.raw").stat().st_blocks == 0
        verdict, read_bytes = compared(part)
        assert (verdict.state, read_bytes) == (NOT_CHECKED, 0)


def test_nothing_that_is_there_is_ever_written_over(site: Site, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"1")
    (tmp_path / "disk.raw").symlink_to(tmp_path / "precious")
    with part_of(site, tmp_path) as part, pytest.raises(Exception, match="something else has this name"):
        fetched(part, Sampling())
    assert (tmp_path / "precious").read_bytes() == b"1"
