"""The first start after a failover: what carried.json says is believed only where every fact of it fits."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.cli.adopt import adopt_carried
from cdp_agent.cli.children import splitter_settings
from cdp_agent.cli.run import _note_empty_volumes, _take_wish
from cdp_agent.volume_set import volumes_of
from cdp_agent.wish import Wish
from cdp_container.domain.carried import (
    CARRIED_NAME,
    Carried,
    load_believed,
    load_carried,
    look_at,
    save_carried,
)
from cdp_container.domain.identity import AgentIdentity, SourceIdentity, encode_identity
from cdp_container.domain.notes import Notes, load_notes, save_notes
from cdp_container.errors import BackingChanged, ConfigInvalid
from cdp_container.format.place import NOWHERE, Place
from cdp_container.journal.shared import SharedPages, SplitterPage

PLACE = Place(3, 4, 5)
NONCE = b"n" * 16
SIZE_BYTES = 1 << 20


@pytest.fixture
def identity(tmp_path: Path) -> AgentIdentity:
    sources = []
    for name in ("db01", "db02"):
        path = tmp_path / f"{name}.raw"
        path.write_bytes(b"carried" * 10)
        os.truncate(path, SIZE_BYTES)
        sources.append(SourceIdentity(name, str(path), name.encode().ljust(16), SIZE_BYTES))
    return AgentIdentity(b"d" * 16, "shop", "vienna", "none", b"", b"", b"", bytes(32), tuple(sources))


@pytest.fixture
def directory(tmp_path: Path, identity: AgentIdentity) -> Path:
    """A journal directory as a failover leaves it."""
    made = tmp_path / "journal"
    made.mkdir()
    (made / "agent.json").write_bytes(encode_identity(identity))
    save_notes(made, Notes(nonces=(NONCE,), fenced="overtaken once", released_to="hamburg"))
    carry(made, identity)
    return made


def carry(directory: Path, identity: AgentIdentity) -> None:
    looked = tuple(look_at(source.path, source.space) for source in identity.sources)
    save_carried(directory, Carried(identity.domain, PLACE, looked))


def spaces(identity: AgentIdentity, *indexes: int) -> frozenset[bytes]:
    return frozenset(identity.sources[index].whole_id for index in indexes)


def test_what_fits_is_whole_and_the_agent_begins_anew(directory: Path, identity: AgentIdentity) -> None:
    assert adopt_carried(directory, identity, ran=False)
    assert load_notes(directory) == Notes(nonces=(NONCE,), whole=spaces(identity, 0, 1), carried=PLACE)
    assert load_carried(directory) is None
    assert load_believed(directory) is not None
    assert not adopt_carried(directory, identity, ran=True)


def touch(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"touched")


def replace_file(path: Path) -> None:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [touch, replace_file, remove])
def test_a_volume_that_was_changed_is_not_whole(
    directory: Path, identity: AgentIdentity, change: object
) -> None:
    assert callable(change)
    change(Path(identity.sources[1].path))
    assert adopt_carried(directory, identity, ran=False)
    assert (load_notes(directory).whole, load_notes(directory).carried) == (spaces(identity, 0), PLACE)


def test_a_disk_that_was_moved_in_the_configuration_is_not_whole(
    directory: Path, identity: AgentIdentity, tmp_path: Path
) -> None:
    swapped = tuple(
        replace(source, path=other.path)
        for source, other in zip(identity.sources, reversed(identity.sources), strict=True)
    )
    assert adopt_carried(directory, replace(identity, sources=swapped), ran=False)
    assert load_notes(directory).whole == frozenset()


def test_a_volume_that_it_does_not_name_is_not_whole(directory: Path, identity: AgentIdentity) -> None:
    save_carried(
        directory, Carried(identity.domain, PLACE, (look_at(identity.sources[0].path, b"db01".ljust(16)),))
    )
    adopt_carried(directory, identity, ran=False)
    assert load_notes(directory).whole == spaces(identity, 0)


def test_a_crash_before_it_is_renamed_is_begun_again(
    directory: Path, identity: AgentIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(directory: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cdp_agent.cli.adopt.believe_carried", killed)
    with pytest.raises(KeyboardInterrupt):
        adopt_carried(directory, identity, ran=False)
    monkeypatch.undo()
    touch(Path(identity.sources[0].path))
    assert adopt_carried(directory, identity, ran=False)
    assert load_notes(directory).whole == spaces(identity, 1)


def test_another_domain_is_refused(directory: Path, identity: AgentIdentity) -> None:
    with pytest.raises(ConfigInvalid, match="of the domain"):
        adopt_carried(directory, replace(identity, domain=b"e" * 16), ran=False)
    assert (directory / CARRIED_NAME).exists()


def test_beside_an_older_journal_it_is_refused(directory: Path, identity: AgentIdentity) -> None:
    with pytest.raises(ConfigInvalid, match="earlier time"):
        adopt_carried(directory, identity, ran=True)
    assert load_notes(directory).fenced


def test_a_first_run_that_came_to_nothing_is_compared_by_the_next(
    directory: Path, identity: AgentIdentity
) -> None:
    """Its files may have been written to meanwhile, even to be empty: the cut is not empty."""
    adopt_carried(directory, identity, ran=False)
    for source in identity.sources:
        Path(source.path).write_bytes(bytes(SIZE_BYTES))
    _note_empty_volumes(directory, volumes_of(identity))
    assert (load_notes(directory).whole, load_notes(directory).carried) == (frozenset(), PLACE)


def test_a_wish_has_everything_compared_with_whatever_is_newest(
    directory: Path, identity: AgentIdentity
) -> None:
    adopt_carried(directory, identity, ran=False)
    _take_wish(directory, Wish(full_copy=True))
    assert (load_notes(directory).whole, load_notes(directory).carried) == (frozenset(), NOWHERE)


def test_written_between_the_start_and_the_splitters_is_refused(
    directory: Path, identity: AgentIdentity, tmp_path: Path
) -> None:
    config = tmp_path / "agent.yaml"
    volumes = "".join(f"  - name: {one.name}\n    path: {one.path}\n" for one in identity.sources)
    config.write_text(
        f"domain: shop\nsite: vienna\nstore: {tmp_path}/container\nencryption: none\n"
        f"journal:\n  directory: {directory}\nvolumes:\n{volumes}"
    )
    adopt_carried(directory, identity, ran=False)
    splitter_settings(config)
    touch(Path(identity.sources[1].path))
    with pytest.raises(BackingChanged, match="db02"):
        splitter_settings(config)
    pages = SharedPages(directory / "shared")
    pages.splitter.publish(SplitterPage(generation=1))
    pages.close()
    splitter_settings(config)
