"""What a start does with what it finds: empty volumes, wishes that an earlier start did not come to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.cli.children import ever_ran, splitter_settings, streamer_settings
from cdp_agent.cli.init import initialise
from cdp_agent.cli.run import _note_empty_volumes, _take_moved_disks, _take_wish, ready_since, run_agent
from cdp_agent.splitter.settings import VolumeSettings
from cdp_agent.supervisor import STREAMER_LOCK, take_lock
from cdp_agent.wish import WISH_NAME, Wish, forget_wish, load_wish, save_wish
from cdp_container.clock import SystemClock
from cdp_container.domain.failback_note import FailbackNote, save_failback
from cdp_container.domain.identity import load_identity
from cdp_container.domain.notes import Notes, load_notes, save_notes
from cdp_container.domain.settings import load_settings
from cdp_container.errors import (
    AlreadyRunning,
    BackingChanged,
    BackingUnreadable,
    ConfigInvalid,
    UsageError,
)
from cdp_container.format.keyblock import ScryptCost
from cdp_container.format.place import Place
from cdp_container.journal.shared import SharedPages, SplitterPage
from cdp_container.store.memory import MemoryStore


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "db01.raw").write_bytes(bytes(1 << 20))
    path = tmp_path / "agent.yaml"
    path.write_text(
        f"domain: shop\nsite: hamburg\nstore: {tmp_path}/container\nencryption: none\n"
        f"journal:\n  directory: {tmp_path}/journal\n"
        f"volumes:\n  - name: db01\n    path: {tmp_path}/db01.raw\n"
    )
    clock = SystemClock()
    initialise(load_settings(path), MemoryStore(clock), lambda: "", clock, os.urandom, ScryptCost(n=16))
    return path


def journal(config: Path) -> Path:
    return config.parent / "journal"


def mark_whole(config: Path) -> None:
    space = load_identity(journal(config)).sources[0].space
    save_notes(journal(config), Notes(nonces=(bytes(16),), whole=frozenset({space})))


def mark_ran(config: Path) -> None:
    pages = SharedPages(journal(config) / "shared")
    pages.splitter.publish(SplitterPage(generation=1))
    pages.close()


def volumes(tmp_path: Path, contents: dict[str, bytes]) -> list[VolumeSettings]:
    made = []
    for index, (name, content) in enumerate(contents.items()):
        path = tmp_path / name
        path.write_bytes(content)
        os.truncate(path, 8 << 20)
        made.append(VolumeSettings(name, path, 8 << 20, index, name.encode().ljust(16)))
    return made


def test_empty_volumes_are_whole_at_once(tmp_path: Path) -> None:
    empty = volumes(tmp_path, {"holes": b"", "zeros": bytes(8 << 20)})
    _note_empty_volumes(tmp_path, empty)
    assert load_notes(tmp_path).whole == {volume.space for volume in empty}


@pytest.mark.parametrize("content", [b"x", bytes((8 << 20) - 1) + b"x"])
def test_where_one_holds_something_all_are_copied(tmp_path: Path, content: bytes) -> None:
    _note_empty_volumes(tmp_path, volumes(tmp_path, {"holes": b"", "data": content}))
    assert load_notes(tmp_path).whole == frozenset()


def test_a_volume_that_was_filled_before_the_first_splitter_came_up_is_not_whole(tmp_path: Path) -> None:
    """The note of an earlier attempt does not outlive what it was true of."""
    _note_empty_volumes(tmp_path, volumes(tmp_path, {"disk": b""}))
    _note_empty_volumes(tmp_path, volumes(tmp_path, {"disk": b"installed meanwhile"}))
    assert load_notes(tmp_path).whole == frozenset()


def test_filled_between_two_starts_of_the_splitter_is_refused(config: Path) -> None:
    mark_whole(config)
    splitter_settings(config)
    (config.parent / "db01.raw").write_bytes(b"x" * (1 << 20))
    with pytest.raises(BackingChanged, match="not now"):
        splitter_settings(config)
    mark_ran(config)  # from then on the splitter's own checks tell
    splitter_settings(config)


@pytest.mark.parametrize(
    ("wish", "asked"),
    [
        (Wish(redo=True), (True, False, True)),
        (Wish(full_copy=True), (True, False, False)),
        (Wish(keep_disk=True), (True, True, False)),
    ],
)
def test_a_wish_stands_until_the_splitter_did_it(
    config: Path, wish: Wish, asked: tuple[bool, bool, bool]
) -> None:
    """Every wish has everything copied: a disk that was redone differs from the container, too."""
    mark_whole(config)
    mark_ran(config)
    _take_wish(journal(config), wish)
    assert load_notes(journal(config)).whole == frozenset()
    for _ in range(2):
        settings = splitter_settings(config)
        found = (settings.full_copy, settings.keep_disk, settings.redo)
        assert found == asked
    forget_wish(journal(config))
    assert not load_wish(journal(config))
    settings = splitter_settings(config)
    assert (settings.full_copy, settings.keep_disk, settings.redo) == (False, False, False)


def test_a_wish_of_an_earlier_start_is_taken_up_again(config: Path) -> None:
    mark_whole(config)
    save_wish(journal(config), Wish(keep_disk=True))
    _take_wish(journal(config), Wish())
    assert load_wish(journal(config)).keep_disk
    assert load_notes(journal(config)).whole == frozenset()


@pytest.mark.parametrize("junk", [b"", b"{}", b"[]", b"\xff"])
def test_a_damaged_wish_is_refused_not_forgotten(config: Path, junk: bytes) -> None:
    (journal(config) / WISH_NAME).write_bytes(junk)
    with pytest.raises(ConfigInvalid):
        splitter_settings(config)


def test_redo_and_keep_disk_contradict(config: Path) -> None:
    with pytest.raises(UsageError, match="contradict"):
        run_agent(config, Wish(redo=True, keep_disk=True))
    assert not (journal(config) / WISH_NAME).exists()


def test_another_size_or_set_of_volumes_is_refused(config: Path) -> None:
    os.truncate(config.parent / "db01.raw", 2 << 20)
    with pytest.raises(BackingUnreadable, match="at init"):
        run_agent(config, Wish())
    config.write_text(config.read_text().replace("name: db01", "name: other"))
    with pytest.raises(ConfigInvalid, match="reload was run with"):
        run_agent(config, Wish())


def test_a_configuration_that_is_being_edited_changes_no_volume_of_a_running_agent(config: Path) -> None:
    before = splitter_settings(config).volumes
    sources = streamer_settings(config).identity.sources
    text = config.read_text().replace("name: db01", "name: other").replace("db01.raw", "moved.raw")
    config.write_text(text)
    assert splitter_settings(config).volumes == before
    assert streamer_settings(config).identity.sources == sources


def test_a_disk_that_was_moved_is_noted_by_the_next_run(config: Path) -> None:
    (config.parent / "db01.raw").rename(config.parent / "moved.raw")
    config.write_text(config.read_text().replace("db01.raw", "moved.raw"))
    assert _take_moved_disks(config).sources[0].path.endswith("moved.raw")
    assert splitter_settings(config).volumes[0].backing.name == "moved.raw"


def test_no_note_is_changed_under_a_streamer_that_is_ending(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would bring its own notes back, and the exports would open before the copy."""
    monkeypatch.setattr("cdp_agent.supervisor.STREAMER_LOCK_SECONDS", 0.0)
    mark_ran(config)
    mark_whole(config)
    before = load_notes(journal(config))
    ending = take_lock(journal(config) / STREAMER_LOCK, SystemClock())
    try:
        with pytest.raises(AlreadyRunning):
            run_agent(config, Wish(full_copy=True))
    finally:
        os.close(ending)
    assert load_notes(journal(config)) == before


def test_a_redo_that_was_not_done_must_be_said_again(config: Path) -> None:
    """Meanwhile the disk may have been used without the agent: a redo would put old data over new."""
    mark_ran(config)
    _take_wish(journal(config), Wish(redo=True))
    with pytest.raises(UsageError, match="--redo was asked for earlier"):
        run_agent(config, Wish())
    assert load_wish(journal(config)).redo
    _take_wish(journal(config), Wish(keep_disk=True))
    assert load_wish(journal(config)) == Wish(keep_disk=True)


def test_a_journal_whose_shared_pages_are_gone_is_no_first_run(config: Path) -> None:
    """Else its records would be forgotten: neither redone nor sent."""
    assert not ever_ran(journal(config))
    (journal(config) / "journal").mkdir()
    (journal(config) / "journal" / "000000000001.jnl").write_bytes(bytes(4096))
    assert ever_ran(journal(config))


def test_exports_of_a_run_that_was_killed_are_not_taken_for_open(config: Path) -> None:
    """Guests would be started before their disks are there."""
    pages = SharedPages(journal(config) / "shared")
    left = SplitterPage(generation=1, running=True, exports_open=True)
    pages.splitter.publish(left)
    standing = ready_since(pages, journal(config))
    assert not standing()
    pages.splitter.publish(replace(left, generation=2, exports_open=False))
    assert not standing()
    pages.splitter.publish(replace(left, generation=2))
    assert standing() == "exports are open"
    pages.close()


def test_a_start_of_a_released_site_says_so(config: Path) -> None:
    """Whoever waits for it (systemd) must not wait for exports that stay closed."""
    pages = SharedPages(journal(config) / "shared")
    standing = ready_since(pages, journal(config))
    save_notes(journal(config), replace(load_notes(journal(config)), released_to="recovery"))
    pages.splitter.publish(SplitterPage(generation=2, running=True))
    assert not standing()
    pages.splitter.publish(SplitterPage(generation=2, running=True, writes_closed=True))
    assert standing().startswith(
        "released to site 'recovery': the exports stay closed; `cdp-agent release --cancel`"
    )
    pages.close()


def test_disks_of_a_half_done_failback_are_not_served(config: Path) -> None:
    save_failback(journal(config), FailbackNote("diverged-1", towards=Place(2, 1, 1)))
    with pytest.raises(ConfigInvalid, match="not done yet") as caught:
        run_agent(config, Wish(keep_disk=True))
    assert "rehydrate failback" in caught.value.hint
