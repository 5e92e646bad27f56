"""A configuration that is half edited: the running agent is found all the same, and nobody else's."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from cdp_agent.cli.accepted import ACCEPTED_NAME, keep_accepted, load_running, standing, take_policy
from cdp_agent.cli.ask import HookWishes, ask_flush, ask_marker
from cdp_agent.cli.children import splitter_settings, streamer_settings
from cdp_agent.cli.init import initialise
from cdp_agent.cli.status import show_status
from cdp_container.clock import SystemClock
from cdp_container.domain.settings import load_settings
from cdp_container.errors import AgentNotRunning, ConfigInvalid
from cdp_container.format.keyblock import ScryptCost
from cdp_container.store.memory import MemoryStore

SECRET = "https://hooks.example.com/T0KEN"


def make_site(folder: Path, domain: str = "shop", journal: str = "journal") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "db01.raw").write_bytes(bytes(1 << 20))
    path = folder / "agent.yaml"
    path.write_text(
        f"domain: {domain}\nsite: hamburg\nstore: {folder}/container\nencryption: none\n"
        f"journal:\n  directory: {folder}/{journal}\nrpo_target: 7s\n"
        f"volumes:\n  - name: db01\n    path: {folder}/db01.raw\n"
        f"alerts:\n  webhook: {SECRET}\n"
    )
    clock, cost = SystemClock(), ScryptCost(n=16)
    initialise(load_settings(path), MemoryStore(clock), lambda: "", clock, os.urandom, cost)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return make_site(tmp_path)


def keep(config: Path) -> Path:
    return keep_accepted(config, load_settings(config))


HALF_EDITED = [
    ("rpo_target: 7s", "rpo_target: 7"),
    ("rpo_target: 7s", "rpo_target: 7s\n  limits: {"),
    ("domain: shop", "domain: shopp"),
    ("volumes:", "volumes\n"),
    ("journal:\n  ", "journal: {"),
    ("alerts:", "# directory: /elsewhere\nalert:"),
]


@pytest.mark.parametrize(("before", "after"), HALF_EDITED)
def test_the_running_agent_is_found_by_what_is_left_of_its_configuration(
    config: Path, before: str, after: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(config)
    text = config.read_text()
    assert before in text
    config.write_text(text.replace(before, after))
    agent = load_running(config)
    assert agent.settings.rpo_target == 7
    assert agent.identity.name == "shop"
    assert "agent.yaml is refused" in agent.fault
    assert "a running agent goes on with that of its last start" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "domain: shop\nsite: ham", "journal: {directory: relative", "directory: /x\0"]
)
def test_where_nothing_leads_to_the_agent_the_fault_is_told(config: Path, text: str) -> None:
    keep(config)
    config.write_text(text)
    with pytest.raises(ConfigInvalid, match=r"agent\.yaml"):
        load_running(config)


def test_two_directories_are_none(config: Path) -> None:
    keep(config)
    config.write_text(config.read_text() + "\njournal:\n  directory: /elsewhere\n")
    with pytest.raises(ConfigInvalid, match="twice"):
        load_running(config)


def test_an_agent_that_accepted_another_file_is_not_taken_for_this_one(tmp_path: Path) -> None:
    ours, theirs = make_site(tmp_path / "ours"), make_site(tmp_path / "theirs", domain="bank")
    keep(ours)
    keep(theirs)
    ours.write_text(ours.read_text().replace(f"{ours.parent}/journal", f"{theirs.parent}/journal"))
    with pytest.raises(ConfigInvalid, match="it is not what `init` was run with"):
        load_running(ours)


def test_an_agent_that_never_started_has_no_copy(config: Path) -> None:
    config.write_text(config.read_text().replace("7s", "7"))
    with pytest.raises(ConfigInvalid, match="rpo_target"):
        load_running(config)


def test_the_processes_do_not_depend_on_the_file_that_is_edited(config: Path) -> None:
    splitter, streamer = splitter_settings(config), streamer_settings(config)
    accepted = keep(config)
    config.write_text("half edited: [")
    assert splitter_settings(accepted) == splitter
    found = streamer_settings(accepted)
    assert found.describe[-1] == str(accepted), "who asks hypervisors goes by the copy, too"
    found = replace(found, describe=streamer.describe)
    assert replace(found, retention=streamer.retention, replicas=streamer.replicas) == streamer
    assert found.retention() is None
    assert found.replicas() is None


@pytest.mark.parametrize("journal", ["a folder", "it's", "ü"])
def test_folders_of_any_name_are_found(tmp_path: Path, journal: str) -> None:
    config = make_site(tmp_path, journal=journal)
    keep(config)
    config.write_text(config.read_text() + "junk: 1\n")
    assert load_running(config).fault


def test_the_copy_is_private_and_holds_no_secret(config: Path) -> None:
    path = keep(config)
    assert path == config.parent / "journal" / ACCEPTED_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "T0KEN" not in path.read_text()
    before = path.stat().st_ino
    keep(config)
    assert path.stat().st_ino == before  # a start that changes nothing writes nothing


def test_a_full_disk_stops_no_start(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    older = keep(config)
    config.write_text(config.read_text().replace("7s", "8s"))

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert keep(config) == config
    assert not older.exists()
    assert "must stay fit to be read" in capsys.readouterr().err


def test_status_answers_and_says_what_is_wrong(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(config)
    config.write_text(config.read_text().replace("7s", "7"))
    assert show_status(config, as_json=True) == 3  # it does not run; with 4 nobody would know
    shown = capsys.readouterr()
    document = orjson.loads(shown.out)
    assert "rpo_target" in document["configuration"]
    assert document["alerts"] == "not known"
    assert "note: " in shown.err


def test_marker_and_flush_ask_the_agent(config: Path) -> None:
    keep(config)
    config.write_text(config.read_text().replace("7s", "7"))
    with pytest.raises(AgentNotRunning):
        ask_flush(config, timeout_seconds=1)
    with pytest.raises(AgentNotRunning):
        ask_marker(config, "m", "", application=False, timeout_seconds=1)


def test_hooks_of_a_half_edited_file_are_not_guessed(config: Path) -> None:
    hooks = "marker_hooks: [{name: x, before: [/bin/false]}]\n"
    config.write_text(config.read_text() + hooks)
    keep(config)
    kept = (config.parent / "journal" / ACCEPTED_NAME).read_text()
    assert "/bin/false" not in kept
    assert standing(config, load_running(config)) == "as at the last start"
    with pytest.raises(AgentNotRunning):  # and not HookFailed: none is run for nothing
        ask_marker(config, "m", "", application=False, timeout_seconds=1)
    config.write_text(config.read_text().replace("7s", "7"))
    with pytest.raises(ConfigInvalid, match="which hooks"):
        ask_marker(config, "m", "", application=False, timeout_seconds=1)
    with pytest.raises(AgentNotRunning):
        ask_marker(config, "m", "", application=False, timeout_seconds=1, hooks=HookWishes(run=False))


def test_a_policy_is_taken_into_the_copy_and_nothing_else_is(config: Path) -> None:
    assert not take_policy(config, load_settings(config)), "there is no copy yet"
    path = keep(config)
    before = path.read_text()
    config.write_text(config.read_text().replace("7s", "8s") + "retention: {every: 2d}\n")
    assert take_policy(config, load_settings(config))
    kept = load_settings(path)
    assert kept.retention == load_settings(config).retention
    assert kept.rpo_target == 7.0
    assert not take_policy(config, load_settings(config)), "it was taken"
    assert standing(config, load_running(config)).startswith("edited since the last start")
    config.write_text(config.read_text().replace("8s", "7s"))
    assert standing(config, load_running(config)) == "as at the last start"
    config.write_text(config.read_text().replace("retention: {every: 2d}\n", ""))
    assert take_policy(config, load_settings(config))
    assert path.read_text() == before


def test_replicas_are_taken_into_the_copy_and_published_without_files(config: Path) -> None:
    path = keep(config)
    told = streamer_settings(path).replicas
    assert told() is None
    lines = [
        "replicas:",
        "  - s3://bucket/p?endpoint=https://other&credentials=/etc/cdp/others",
        "  - /mnt/copy",
        "",
    ]
    config.write_text(config.read_text() + "\n".join(lines))
    assert take_policy(config, load_settings(config))
    assert load_settings(path).replicas == load_settings(config).replicas
    assert told() == ["s3://bucket/p?endpoint=https://other", "/mnt/copy"]
    assert not take_policy(config, load_settings(config)), "they were taken"


@pytest.mark.parametrize("before", ["7s", "T0KEN", "domain: shop\n"])
def test_an_edit_that_waits_for_the_next_start_is_told(config: Path, before: str) -> None:
    def told() -> str:
        return standing(config, load_running(config))

    assert told() == "not known: no start kept a copy of this file"
    keep(config)
    assert told() == "as at the last start"
    after = {"7s": "8s", "T0KEN": "other"}.get(before, f"{before}cut_every: 2s\n")
    config.write_text(config.read_text().replace(before, after))
    assert told().startswith("edited since the last start")


def test_volumes_that_wait_for_reload_are_told(config: Path) -> None:
    keep(config)
    config.write_text(config.read_text().replace("db01.raw", "db02.raw"))
    assert "`cdp-agent reload`" in standing(config, load_running(config))


def test_a_fit_configuration_finds_its_copy_however_it_is_written(config: Path) -> None:
    keep(config)
    folder = f"{config.parent}/journal"
    config.write_text(config.read_text().replace(f"directory: {folder}", f'"dir\\x65ctory": {folder}'))
    assert standing(config, load_running(config)) == "as at the last start"


def test_a_copy_that_cannot_be_used_hides_no_other_fault(config: Path) -> None:
    path = keep(config)
    path.write_text(path.read_text() + "from_another_version: 1\n")
    assert standing(config, load_running(config)) == "not known: the copy of the last start cannot be used"
    config.write_text(config.read_text().replace("7s", "7"))
    with pytest.raises(ConfigInvalid, match="rpo_target"):
        load_running(config)
