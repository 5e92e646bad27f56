"""docs/vm-walkthrough.md: what it has people type and write is taken by the commands as they are."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import Final

import pytest
import typer.main

from cdp_agent.cli import app as agent
from cdp_container.domain.settings import parse_settings
from rehydrate.cli import app as rehydrate
from rehydrate.runbook.model import parse_runbook

PAGE: Final = (Path(__file__).parents[2] / "docs" / "vm-walkthrough.md").read_text()
APPS: Final = {"cdp-agent": agent.app, "rehydrate": rehydrate.app}
BLOCKS: Final = [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n)+", PAGE, flags=re.MULTILINE)]


def commands() -> list[str]:
    """Those of the blocks, and those amid sentences that have more than their name."""
    lines = [line for block in BLOCKS for line in block.splitlines()]
    spans = re.findall(r"`((?:cdp-agent|rehydrate) [a-z-]+ [^`]+)`", PAGE)
    return [line for line in [*lines, *spans] if line.split()[0] in APPS]


def block_with(word: str) -> bytes:
    (found,) = [block for block in BLOCKS if block.startswith(word)]
    return found.encode()


def parsed(line: str) -> str:
    """The name of the command that takes a line. Raises whatever click refuses it by."""
    program, name, *words = [word for word in shlex.split(line, comments=True) if word != "&"]
    group = typer.main.get_group(APPS[program])
    group.commands[name].make_context(name, words)
    return name


def test_the_page_shows_each_step() -> None:
    names = {shlex.split(line, comments=True)[1] for line in commands()}
    assert names >= {
        "attest", "init", "run", "adopt", "status", "describe", "points", "show", "check-runbook", "dr-test",
        "failover", "reload", "failback", "release",
    }  # fmt: skip


@pytest.mark.parametrize("line", commands())
def test_each_command_is_taken(line: str) -> None:
    parsed(line)


@pytest.mark.parametrize(
    "line", ["rehydrate show /c vms --none", "cdp-agent adopt", "rehydrate dr-test /c --boot"]
)
def test_what_is_no_command_is_not(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such option|missing"):
        parsed(line)


def test_each_configuration_is_taken() -> None:
    text = block_with("domain: shop")
    settings = parse_settings(text, "shop.yaml")
    assert [one.name for one in settings.vms] == ["shop-db"]
    libvirt = re.search(r"`(\{name: shop-db, libvirt: .*?\}\})`", PAGE)
    images = re.search(r"`(volumes: \[\{name: db01, vm: .*?\])`", PAGE)
    moved = re.search(r"`(vms: \[\{name: shop-db, qmp: DIRECTORY.*?\])`", PAGE)
    assert libvirt is not None
    assert images is not None
    assert moved is not None
    lines = text.decode().splitlines()
    for changed in (
        [*lines[:4], f"vms: [{libvirt[1]}]", lines[5]],
        [*lines[:5], images[1]],
        [*lines[:4], moved[1].replace("DIRECTORY", "/srv/recovered"), lines[5]],
    ):
        parse_settings("\n".join(changed).encode(), "shop.yaml")


def test_the_runbook_is_taken_and_has_a_rehearsal() -> None:
    runbook, _ = parse_runbook(block_with("target: qemu"), "runbook.yaml")
    assert runbook.test is not None
    assert set(runbook.vms) == {"shop-db"}


def test_what_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        name, _, heading = target.partition("#")
        text = (Path(__file__).parents[2] / "docs" / name).read_text()
        anchors = {
            re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        }
        assert not heading or heading in anchors, target
