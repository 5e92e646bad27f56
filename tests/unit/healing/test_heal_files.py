"""Damaged content of files is healed from the trees as they are now; nothing else ever passes for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.healing.files import open_files
from cdp_agent.healing.heal import Healed, Here
from cdp_agent.watcher.batch import check_batch, read_chunks, read_records
from cdp_agent.watcher.index import INDEX_NAME
from cdp_agent.watcher.page import FOLDER
from cdp_container.domain.history import read_domain, read_history
from cdp_container.domain.ledgers import read_ledger
from cdp_container.domain.verify_run import verify_all
from cdp_container.format.keys import segment_key
from cdp_container.format.names import parse_name
from cdp_container.format.place import NOWHERE, Place
from rehydrate.container import Container
from tests.containers import write
from tests.trees import found_in
from tests.unit.healing.healing_site import HealedSite
from tests.unit.rehydrate.trees import restore
from tests.unit.watcher import model
from tests.writes import Write, zero

pytestmark = pytest.mark.slow


class Watched:
    """A tree that a real watcher looks at, its batches in a container that is damaged and healed."""

    def __init__(self, root: Path, encrypted: bool) -> None:
        self.site = HealedSite(root, encrypted)
        self.watched = model.Site(root / "watched")
        self.tree = self.watched.tree
        self.root = root
        self.at: dict[Place, dict[bytes, bytes]] = {}
        self.watched.watcher.begin(1, NOWHERE)
        self.watched.idle()

    def cut(self, protect: bool = True) -> str:
        """A cut of all that changed; gives the key of its segment."""
        number, writes = self.site.next_cut, list[Write]()
        self.watched.idle()
        taken = self.watched.watcher.take(1, number, True)
        assert not taken.not_whole
        assert taken.fd is not None
        with os.fdopen(taken.fd, "rb") as file:
            facts = check_batch(file)
            for record in read_records(file):
                self.site.say(record)
                if record.name == "name+" and (name := parse_name(record.value, "a name")).space:
                    self.site.hold_space(name.space, name.size_bytes)
                elif record.name == "space-":
                    self.site._line.image.pop(record.key, None)
            for extent in read_chunks(file, facts):
                whole = (extent.space, extent.offset)
                writes.append(
                    zero(*whole, extent.length) if extent.data is None else write(*whole, bytes(extent.data))
                )
        self.watched.watcher.place(taken.batch, 1, number)
        self.site.time.sleep(1200)
        place = self.site.cut(writes)
        self.at[place] = found_in(self.tree)[1]
        if protect:
            self.site.protect(place)
            self.watched.watcher.protected(1, number)
        return segment_key(place.epoch, place.seq)

    def heal(self, *known: str, here: Here | None = None, plan_only: bool = False) -> Healed:
        trees = {model.TREE: self.tree}
        with open_files(self.watched.directory / FOLDER, trees) as files:
            here = replace(self.site.here(), files=files) if here is None else here
            return self.site.heal(*known, here=here, plan_only=plan_only)

    def findings(self) -> set[str]:
        """What a verification with all keys finds wrong and a recovery point needs."""
        site, keys = self.site, self.site.reader_keys()
        facts = read_domain(site.store)
        ledger = read_ledger(site.store, facts.owner, keys)
        container = Container(site.store, read_history(site.store, facts), keys, site.encrypted, ledger)
        report = verify_all(container, lambda *_: lambda _: None)
        return {finding.key for finding in report.findings if finding.needed}

    def assert_sound(self) -> None:
        """Every cut gives every file back."""
        assert self.findings() == set()
        for number, (place, files) in enumerate(self.at.items()):
            out = self.root / f"out-{len(self.at)}-{number}"
            restore(self.site, place, out)
            assert found_in(out)[1] == files


@pytest.fixture(params=[True, False], ids=["sealed", "plain"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path, bool(request.param))
    (made.tree / "deep").mkdir()
    yield made
    made.watched.close()


def fill(watched: Watched) -> str:
    """Files of every length, in one cut; two cuts after it."""
    for number, length in enumerate((1, 100, 4096, 5000, 70_000, 300_001)):
        (watched.tree / "deep" / f"f{number}").write_bytes(os.urandom(length))
    with (watched.tree / "sparse").open("wb") as sparse:
        sparse.seek(3 << 20)
        sparse.write(b"the end")
    key = watched.cut()
    for number in range(2):
        (watched.tree / f"later{number}").write_bytes(os.urandom(10))
        watched.cut()
    return key


def test_damaged_content_is_had_from_the_tree_to_the_last_byte(watched: Watched) -> None:
    key = fill(watched)
    os.rename(watched.tree / "deep", watched.tree / "renamed")
    watched.cut()
    assert watched.findings() == set()
    watched.site.damage(key, at=-5000)
    assert watched.findings() == {key}
    looked = watched.heal(key, plan_only=True)
    assert [(one.key, one.why_not) for one in looked.outcomes] == [(key, "")]
    assert looked.outcomes[0].lost_bytes == looked.outcomes[0].found_bytes > 70_000
    assert watched.heal(key).is_done
    watched.assert_sound()


def test_a_file_that_changed_since_keeps_the_damage_and_is_said(watched: Watched) -> None:
    key = fill(watched)
    for path in (watched.tree / "deep").iterdir():
        with path.open("r+b") as file:
            file.write(os.urandom(path.stat().st_size))
    watched.cut()
    watched.site.damage(key, at=-5000)
    healed = watched.heal(key)
    assert not healed.is_done
    assert "bytes of it are nowhere here any more" in healed.outcomes[0].why_not
    assert watched.findings() == {key}


def test_an_end_that_was_written_again_is_not_taken_for_the_older_one(watched: Watched) -> None:
    """Size and whole blocks are the same, and the index has the sum of the newer end."""
    path = watched.tree / "file"
    data = os.urandom(5000)
    path.write_bytes(data)
    key = watched.cut()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(5000 - 4096))
    watched.cut()
    (watched.tree / "other").write_bytes(b"x")
    watched.cut()
    watched.site.damage(key, at=-1000)
    healed = watched.heal(key)
    assert not healed.is_done
    assert "904 bytes of it are nowhere here any more" in healed.outcomes[0].why_not


def test_an_end_that_is_on_its_way_proves_nothing(watched: Watched) -> None:
    """The index has the sum of what is in no protected cut, which may never come."""
    path = watched.tree / "file"
    path.write_bytes(os.urandom(5000))
    key = watched.cut()
    (watched.tree / "other").write_bytes(b"x")
    watched.cut()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(5000 - 4096))
    taken = watched.watched.watcher.take(1, watched.site.next_cut, True)
    assert taken.fd is not None
    os.close(taken.fd)
    watched.site.damage(key, at=-1000)
    assert "904 bytes" in watched.heal(key).outcomes[0].why_not


def test_of_two_damaged_objects_neither_end_is_taken_for_the_others(watched: Watched) -> None:
    path = watched.tree / "file"
    path.write_bytes(os.urandom(5000))
    first = watched.cut()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(5000 - 4096))
    second = watched.cut()
    for number in range(2):
        (watched.tree / f"later{number}").write_bytes(b"x")
        watched.cut()
    watched.site.damage(first, at=-1000)
    watched.site.damage(second)
    healed = watched.heal(first, second)
    assert [bool(one.why_not) for one in healed.outcomes] == [True, True]
    assert not healed.is_done


@pytest.mark.parametrize("how", ["no index", "another epoch", "not an index", "gone", "fifo"])
def test_what_is_no_source(watched: Watched, how: str) -> None:
    key = fill(watched)
    watched.site.damage(key, at=-5000)
    folder, path = watched.watched.directory / FOLDER, watched.tree / "deep" / "f5"
    if how in ("gone", "fifo"):
        path.unlink()
    if how == "fifo":
        os.mkfifo(path)
    if how in ("no index", "not an index"):
        folder = watched.root / "elsewhere"
        folder.mkdir()
    if how == "not an index":
        (folder / INDEX_NAME).write_bytes(b"no database" * 1000)
    with open_files(folder, {model.TREE: watched.tree}) as files:
        assert (files is None) == (how in ("no index", "not an index"))
        if files is not None and how == "another epoch":
            files.epoch += 1
        healed = watched.heal(key, here=replace(watched.site.here(), files=files))
    assert not healed.is_done
    assert "are nowhere here any more" in healed.outcomes[0].why_not
