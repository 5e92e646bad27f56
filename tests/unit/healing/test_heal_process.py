"""Healing beside a real streamer, from the very journal and volumes that the agent has."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.cli.app import main
from cdp_agent.cli.heal import healed_members, healed_text
from cdp_agent.collector.process import Site
from cdp_agent.healing import process
from cdp_agent.healing.heal import Healed
from cdp_agent.healing.process import heal_once
from cdp_agent.verifier.last import Last, damage_of, load_last, save_last
from cdp_agent.watcher.content import tail_sum
from cdp_agent.watcher.index import FILE, INDEX_NAME, Index
from cdp_agent.watcher.page import FOLDER
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import IDENTITY_NAME, TreeIdentity, encode_identity
from cdp_container.domain.settings import AgentSettings, dump_settings
from cdp_container.format.keys import segment_key
from cdp_container.format.place import Place
from cdp_container.journal.record import Kind
from tests.rosters import give_roster
from tests.unit.streamer.site import AgentSite

pytestmark = pytest.mark.slow

BLOCK = 4096


class Healing:
    """A site whose every image is known, by cut."""

    def __init__(self, root: Path, encrypted: bool) -> None:
        self.container = root / "container"
        self.agent = AgentSite(root, size_bytes=64 * BLOCK, encrypted=encrypted)
        give_roster(self.agent.store, self.agent.identity.domain)
        settings = AgentSettings.model_validate({
            "domain": "shop",
            "site": "site-a",
            "store": str(self.container),
            "journal": {"directory": str(self.agent.directory)},
            "volumes": [{"name": "disk", "path": str(root / "disk.img")}],
            "collection": {"grace": "1s"},
        })  # fmt: skip
        self.site = Site(settings, self.agent.identity)
        self.images: dict[Place, bytes] = {}

    def cut(self, *writes: tuple[int, bytes]) -> str:
        """A cut of these writes; gives the key of its segment."""
        for offset, data in writes:
            self.agent.write(0, offset, data)
        members = self.agent.ask("flush")["place"]
        place = Place(members["epoch"], members["cut"], members["seq"])
        self.images[place] = bytes(self.agent.images[0])
        return segment_key(place.epoch, place.seq)

    def damage(self, key: str, at: int = -60) -> None:
        path = self.container / key
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.chmod(0o600)
        path.write_bytes(bytes(data))

    def heal(self, *known: str, plan_only: bool = False) -> Healed:
        save_last(self.site.journal, Last({"findings": [{"key": key, "needed": True} for key in known]}))
        return heal_once(self.site, "tests", SystemClock(), lambda _: None, plan_only=plan_only)

    def sound(self) -> None:
        recovery = self.agent.recovery()
        assert set(recovery.cuts) >= set(self.images)
        for place, image in self.images.items():
            assert recovery.restored("disk", place) == image


@pytest.fixture(params=[True, False], ids=["sealed", "plain"])
def healing(request: pytest.FixtureRequest, tmp_path: Path) -> Healing:
    return Healing(tmp_path, bool(request.param))


def test_content_that_was_overwritten_since_comes_from_the_journal(healing: Healing) -> None:
    """The odd bytes and the twice written block too: they are those of the cut's own records."""
    with healing.agent.streaming():
        healing.cut((0, os.urandom(BLOCK)))
        key = healing.cut(
            (512, os.urandom(700)), (8 * BLOCK, os.urandom(BLOCK)), (8 * BLOCK + 100, os.urandom(200))
        )
        healing.agent.void(Kind.DISCARD, 0, 20 * BLOCK, BLOCK)
        healing.cut((0, os.urandom(64 * BLOCK // 2)))
        healing.cut((0, os.urandom(64 * BLOCK // 2)))
        healing.damage(key)
        looked = healing.heal(key, plan_only=True)
        assert [(one.key, one.why_not) for one in looked.outcomes] == [(key, "")]
        assert "can be healed" in "\n".join(healed_text(looked))
        healed = healing.heal(key)
        assert healed.is_done
        assert f"{key}: healed by packs/" in "\n".join(healed_text(healed))
        healing.cut((30 * BLOCK, os.urandom(100)))
    healing.sound()


def test_the_first_cut_of_all_comes_from_the_beginning_of_the_journal(healing: Healing) -> None:
    with healing.agent.streaming():
        key = healing.cut((512, os.urandom(700)))
        healing.cut((512, os.urandom(700)))
        healing.cut((512, os.urandom(700)))
        healing.damage(key)
        assert healing.heal(key).is_done
    healing.sound()


def test_neighbours_of_odd_writes_are_healed_at_once_and_one_after_another(healing: Healing) -> None:
    """Where each begins in the journal the preamble of the one before tells, damaged or healed."""
    with healing.agent.streaming():
        keys = [healing.cut((512, os.urandom(700))) for _ in range(4)]
        healing.cut((512, os.urandom(700)))
        healing.cut((512, os.urandom(700)))
        for key in keys[:3]:
            healing.damage(key)
        assert [one.why_not for one in healing.heal(*keys[:3]).outcomes] == ["", "", ""]
        healing.damage(keys[3])
        assert healing.heal(keys[3]).is_done
    healing.sound()


def test_a_sealed_object_without_its_frames_comes_from_the_volume(healing: Healing) -> None:
    with healing.agent.streaming():
        key = healing.cut((10 * BLOCK, os.urandom(4 * BLOCK)))
        healing.cut((0, os.urandom(BLOCK)))
        healing.cut((BLOCK, os.urandom(BLOCK)))
        healing.damage(key)
        assert healing.heal(key).is_done
    healing.sound()


def test_another_journal_lends_nothing(healing: Healing) -> None:
    """The journal was lost, and the volume holds other content by now: nothing else passes for it."""
    with healing.agent.streaming():
        key = healing.cut((10 * BLOCK, os.urandom(4 * BLOCK)))
        healing.cut((0, os.urandom(BLOCK)))
        healing.cut((10 * BLOCK, os.urandom(4 * BLOCK)))
    healing.agent.lose_journal()
    with healing.agent.streaming():
        healing.cut((5 * BLOCK, os.urandom(BLOCK)))
        healing.damage(key)
        healed = healing.heal(key)
        assert not healed.is_done
        assert healed.outcomes[0].found_bytes == 0
        assert "cannot be healed" in "\n".join(healed_text(healed))
        assert healed_members(healed)["objects"][0]["why_not"]
    assert list(healing.agent.store.list("packs/")) == []


def test_nothing_is_known_to_be_damaged(healing: Healing) -> None:
    with healing.agent.streaming():
        healing.cut((0, os.urandom(BLOCK)))
        healing.cut((0, os.urandom(BLOCK)))
        assert "nothing that recovery points need" in "\n".join(healed_text(healing.heal()))


# --- the commands -----------------------------------------------------------------------------------


@pytest.fixture
def config(healing: Healing, tmp_path: Path) -> Path:
    """A configuration that leads to the site."""
    path = tmp_path / "agent.yaml"
    settings = healing.site.settings.model_copy(update={"encryption": healing.agent.identity.encryption})
    path.write_bytes(dump_settings(settings))
    (healing.site.journal / IDENTITY_NAME).write_bytes(encode_identity(healing.agent.identity))
    return path


def agent(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["cdp-agent", *map(str, words)])
    return main()


def test_found_by_one_command_and_healed_by_another(
    healing: Healing, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with healing.agent.streaming():
        lost = healing.cut((20 * BLOCK, os.urandom(BLOCK)))
        healing.cut((0, os.urandom(BLOCK)))
        key = healing.cut((10 * BLOCK, os.urandom(4 * BLOCK)))
        healing.cut((BLOCK, os.urandom(BLOCK)))
        healing.cut((BLOCK, os.urandom(BLOCK)))
        assert agent(monkeypatch, "heal", "--config", config) == 0
        said = capsys.readouterr()
        assert "cdp-agent verify" in said.err
        healing.damage(key)
        report = config.with_name("report.json")
        assert agent(monkeypatch, "verify", "--config", config, "--report", report) == 27
        assert key in capsys.readouterr().out
        assert [one["key"] for one in json.loads(report.read_text())["findings"]] == [key]
        assert key in damage_of(load_last(healing.site.journal))
        assert agent(monkeypatch, "heal", "--plan", "--json", "--config", config) == 0
        assert json.loads(capsys.readouterr().out)["is_done"] is False
        (healing.container / lost).unlink()
        assert agent(monkeypatch, "heal", "--config", config) == 27  # that one's head is nowhere
        said = capsys.readouterr()
        assert f"{key}: healed by" in said.out
        assert lost in said.err
        assert damage_of(load_last(healing.site.journal)) == ""
        assert agent(monkeypatch, "verify", "--budget", "1KiB", "--json", "--config", config) == 27
        found = json.loads(capsys.readouterr().out)
        assert {one["key"]: one["needed"] for one in found["findings"]} == {key: False, lost: True}
        assert agent(monkeypatch, "verify", "--budget", "much", "--config", config) == 2


def test_files_of_trees_are_a_source_beside_volumes(healing: Healing, tmp_path: Path) -> None:
    folder = healing.site.journal / FOLDER
    folder.mkdir()
    index = Index(folder / INDEX_NAME)
    number = index.add_tree(b"t" * 16, "home")
    index.set_meta("epoch", 3)
    file = index.add_file(number, None, b"s" * 16, 6)
    index.put_name(number, b"a", None, FILE, file.id, b"", b"")
    index.put_sums(file.id, 0, tail_sum(b"hello\n"))
    index.close()
    (tmp_path / "a").write_bytes(b"hello\n")
    trees = (TreeIdentity("home", str(tmp_path), b"t" * 16),)
    site = Site(healing.site.settings, replace(healing.site.identity, trees=trees))
    with process._here(site) as here:
        assert here.files is not None
        tail = here.files.tail(b"s" * 16)
        assert tail is not None
        assert (here.files.epoch, tail.is_of(b"hello\n"), tail.is_of(b"hullo\n")) == (3, True, False)
        with here.files.opened(b"s" * 16) as fd:
            assert fd is not None
            assert os.pread(fd, 9, 0) == b"hello\n"
