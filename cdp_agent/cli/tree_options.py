"""`cdp-agent trees`: its options. What it does stands in tree_requests."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cdp_container.clock import SystemClock
from cdp_container.console import guarded


class TreeAction(StrEnum):
    """What is wanted of trees."""

    LIST = "list"
    ACCEPT = "accept"
    SCAN = "scan"


def trees(
    action: Annotated[TreeAction, typer.Argument(help="Accept what is there now, or look at all of it.")]
    = TreeAction.LIST,
    name: Annotated[str | None, typer.Argument(help="The tree to accept or to scan.")] = None,
    config: Annotated[Path, typer.Option("--config", "-c", help="The agent's YAML configuration.")]
    = Path("/etc/cdp/agent.yaml"),
    yes: Annotated[bool, typer.Option("--yes", help="Accept what is told: what is gone is gone.")] = False,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Scan: read all content, whatever sizes and times say.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Scan: return when all was looked at and read.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="List: for programs.")] = False,
) -> int:  # fmt: skip
    """File trees: what each is like; accept a changed directory or mount; scan."""

    def work() -> int:
        from cdp_agent.cli import tree_requests

        if action is TreeAction.LIST:
            return tree_requests.show_trees(config, name, as_json=json)
        if action is TreeAction.ACCEPT:
            return tree_requests.accept_tree(config, name, is_sure=yes)
        return tree_requests.scan_tree(config, name, SystemClock(), read_all=checksum, waits=wait)

    return guarded(work)
