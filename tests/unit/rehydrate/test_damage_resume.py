"""A restore despite damage is interrupted, and what can be read of the container changes before it goes on.

Windows that were finished rest on what could be read then: no map would tell of what they lack.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from cdp_container.errors import RestoredWithDamage, TargetNotEmpty
from cdp_container.extents import resolve
from cdp_container.format.keys import segment_key
from cdp_container.store.directory import DirectoryStore
from rehydrate import keeper as keeping
from rehydrate import plan as planning
from rehydrate.keeper import Keeper
from rehydrate.resume import read_progress
from tests.containers import Site, write
from tests.unit.rehydrate.conftest import Run

SIZE: Final = 256 << 10
PAGE: Final = 4096
TOLERANT: Final = ("--on-damage", "map")
LOST: Final = segment_key(1, 2)
LAST: Final = segment_key(1, 3)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many windows of few requests, and a note of each request that is durable before the next."""
    monkeypatch.setattr(resolve, "SLOT_BYTES", 32 << 10)
    monkeypatch.setattr(resolve, "WINDOW_EXTENTS_MAX", 1)
    monkeypatch.setattr(planning, "FETCH_BYTES_MAX", 1)
    monkeypatch.setattr(keeping, "KEEP_BYTES", 1)
    real = Keeper.keep

    def keep(self: Keeper, upto: int, window: str, fetches: int) -> None:
        real(self, upto, window, fetches)
        assert self._last is not None
        self._last.result()

    monkeypatch.setattr(Keeper, "keep", keep)


@dataclass(frozen=True)
class Story:
    """A volume of three cuts; the second wrote where the first window is, the last where the last one is."""

    run: Run
    place: Path
    target: Path
    content: bytes
    second: bytes

    def restore(self, *options: str) -> tuple[int, str, str]:
        return self.run("restore", self.place, "--target", self.target, *options, "--json")

    def interrupted(self, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
        """Ended in the last window, after a note of those before it."""
        real = DirectoryStore.get_range

        def dies(store: DirectoryStore, key: str, start: int, length: int) -> bytes:
            if key == LAST and start > 0 and length > PAGE // 2:
                raise KeyboardInterrupt
            return real(store, key, start, length)

        with monkeypatch.context() as patched:
            patched.setattr(DirectoryStore, "get_range", dies)
            assert self.restore(*options)[0] == 130
        kept = read_progress(self.target)
        assert kept is not None
        assert kept.done.upto > 2 * PAGE

    def loses(self) -> None:
        (self.place / LOST).unlink()

    def finds_again(self) -> None:
        (self.place / LOST).write_bytes(self.second)

    def is_mapped(self) -> bool:
        """Whether what is wrong with the target is in its map."""
        members = json.loads(self.target.with_name("disk.raw.damage.json").read_bytes())
        listed = {
            page
            for part in members["damage"]
            for page in range(part["offset"] // PAGE, -(-(part["offset"] + part["length"]) // PAGE))
        }
        found = self.target.read_bytes()
        wrong = {
            at // PAGE for at in range(0, SIZE, PAGE) if found[at : at + PAGE] != self.content[at : at + PAGE]
        }
        return wrong <= listed


@pytest.fixture
def story(run: Run, place: Path, out: Path) -> Story:
    site = Site(DirectoryStore(place))
    disk = site.add_volume("disk", SIZE)
    site.begin_epoch()
    site.cut([write(disk, 0, site.rng.randbytes(SIZE))])
    site.cut([write(disk, PAGE, site.rng.randbytes(PAGE))])
    last = site.cut([write(disk, SIZE - PAGE, site.rng.randbytes(PAGE))])
    site.protect(last)
    return Story(run, place, out / "disk.raw", site.images[last][disk], (place / LOST).read_bytes())


@pytest.mark.parametrize("options", [TOLERANT, ()])
def test_a_segment_that_comes_back_is_not_mixed_with_what_was_left(
    options: tuple[str, ...], story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.loses()
    story.interrupted(monkeypatch, *TOLERANT)
    story.finds_again()
    code, _, stderr = story.restore(*options)
    assert code == TargetNotEmpty.exit_code
    assert "from other objects than can be read now" in stderr
    assert "--restart discards" in stderr
    assert story.restore(*options, "--restart")[0] == 0
    assert story.target.read_bytes() == story.content


def test_a_segment_that_goes_meanwhile_does_not_discard_what_was_sound(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was restored of the lost segment is nowhere else any more: only a person may discard it."""
    story.interrupted(monkeypatch)
    partial = story.target.with_name("disk.raw.partial").read_bytes()
    story.loses()
    assert story.restore(*TOLERANT)[0] == TargetNotEmpty.exit_code
    assert story.target.with_name("disk.raw.partial").read_bytes() == partial
    assert story.restore(*TOLERANT, "--restart")[0] == RestoredWithDamage.exit_code
    assert story.is_mapped()


def test_the_same_damage_goes_on(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    story.loses()
    story.interrupted(monkeypatch, *TOLERANT)
    code, stdout, _ = story.restore(*TOLERANT)
    assert code == RestoredWithDamage.exit_code
    assert json.loads(stdout)["resumed_bytes"] > 0
    assert story.is_mapped()


def test_a_finished_one_of_several_is_not_taken_for_whole(
    run: Run, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(DirectoryStore(place))
    first, second = site.add_volume("a", SIZE), site.add_volume("b", SIZE)
    site.begin_epoch()
    site.cut([write(first, 0, site.rng.randbytes(SIZE))])
    site.cut([write(first, PAGE, site.rng.randbytes(PAGE))])
    site.protect(site.cut([write(second, 0, site.rng.randbytes(SIZE))]))
    lost = (place / LOST).read_bytes()
    (place / LOST).unlink()
    real = DirectoryStore.get_range

    def dies(store: DirectoryStore, key: str, start: int, length: int) -> bytes:
        if key == LAST and length > SIZE // 2:
            raise KeyboardInterrupt
        return real(store, key, start, length)

    command = ("restore", place, "--all", "--target-dir", out)
    with monkeypatch.context() as patched:
        patched.setattr(DirectoryStore, "get_range", dies)
        assert run(*command, *TOLERANT)[0] == 130
    assert (out / "a.raw").exists()
    (place / LOST).write_bytes(lost)
    for options in ((), TOLERANT):
        code, _, stderr = run(*command, *options)
        assert code == TargetNotEmpty.exit_code
        assert f"a.raw holds {SIZE} bytes" in stderr
    assert run(*command, "--force", "--restart")[0] == 0
    image = site.images[max(site.images)]
    assert ((out / "a.raw").read_bytes(), (out / "b.raw").read_bytes()) == (image[first], image[second])
