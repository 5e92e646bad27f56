"""What `status` says of file trees, whoever owns the domain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cdp_agent.cli import tree_status
from cdp_agent.cli.tree_status import tree_lines, tree_members, tree_problems
from cdp_container.domain.identity import AgentIdentity, TreeIdentity
from cdp_container.domain.notes import Notes

IDENTITY = AgentIdentity(
    b"d" * 16, "shop", "a", "none", b"", b"", b"", bytes(32), (), (TreeIdentity("home", "/home", b"t" * 16),)
)
TREE = {"name": "home", "path": "/home", "names": 3, "scanning": False, "watched": True, "why_not_whole": []}


class Client:
    """A watcher that watches, whoever owns."""

    def __init__(self, directory: Path) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {"ok": True, "ready": True, "dirty": 2, "trees": [TREE]}


@pytest.fixture(autouse=True)
def watching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_status, "WatcherClient", Client)


@pytest.mark.parametrize(
    ("notes", "why"),
    [(Notes(fenced="another site"), "fenced"), (Notes(released_to="b"), "released to site 'b'")],
)
@pytest.mark.parametrize("running", [True, False])
def test_trees_of_a_domain_that_is_another_sites_are_not_called_protected(
    tmp_path: Path, notes: Notes, why: str, running: bool
) -> None:
    members = tree_members(tmp_path, IDENTITY, {"trees": {"not_whole": []}}, notes)
    (problem,) = tree_problems(members, running)
    assert why in problem
    assert "evidence" in problem
    assert "changed since the last cut: 2" in problem
    assert "not protected from here" in tree_lines(members)[1][1]


def test_trees_that_are_whole_are_no_problem(tmp_path: Path) -> None:
    members = tree_members(tmp_path, IDENTITY, {"trees": {"not_whole": []}}, Notes(releasing_to="b"))
    assert tree_problems(members, running=True) == []
    assert "protected" not in tree_lines(members)[1][1]
    assert tree_members(tmp_path, IDENTITY, {}, Notes()) is not None
