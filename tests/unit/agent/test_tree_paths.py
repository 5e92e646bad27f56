"""Trees on this machine: where links lead counts, and what is not there is told by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_agent.tree_paths import refuse_trees
from cdp_container.domain.settings import AgentSettings, parse_settings
from cdp_container.errors import BackingUnreadable


def settings_of(root: Path, **trees: Path) -> AgentSettings:
    listed = "".join(f"  - {{name: {name}, path: {path}}}\n" for name, path in trees.items())
    text = (
        f"domain: d\nsite: a\nstore: {root}/store\njournal: {{directory: {root}/journal}}\ntrees:\n{listed}"
    )
    return parse_settings(text.encode(), "x.yaml")


def test_directories_that_are_apart_are_fit(tmp_path: Path) -> None:
    for name in ("one", "two", "journal", "store"):
        (tmp_path / name).mkdir()
    refuse_trees(settings_of(tmp_path, one=tmp_path / "one", two=tmp_path / "two"))


def test_every_fault_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "journal")
    settings = settings_of(tmp_path, gone=tmp_path / "gone", file=tmp_path / "file", linked=tmp_path / "link")
    with pytest.raises(BackingUnreadable) as caught:
        refuse_trees(settings)
    for part in ("gone: No such file", "is no directory", "linked: journal.directory is in it"):
        assert part in caught.value.why


def test_two_ways_to_one_directory_overlap(tmp_path: Path) -> None:
    (tmp_path / "one" / "below").mkdir(parents=True)
    (tmp_path / "other").symlink_to(tmp_path / "one" / "below")
    with pytest.raises(BackingUnreadable, match="one and other overlap"):
        refuse_trees(settings_of(tmp_path, one=tmp_path / "one", other=tmp_path / "other"))
