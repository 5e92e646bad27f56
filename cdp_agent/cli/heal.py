"""`cdp-agent heal`: what is damaged, healed from the journal, volumes and trees; what it says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cdp_agent.cli.accepted import load_running
from cdp_agent.cli.children import software
from cdp_agent.collector.process import Site
from cdp_agent.healing.heal import Healed, Outcome
from cdp_agent.healing.process import heal_once
from cdp_agent.verifier.last import load_last
from cdp_container.clock import SystemClock
from cdp_container.console import answer, printable, say
from cdp_container.errors import PointsDamaged, counted


def heal_now(config: Path, *, plan: bool, as_json: bool) -> int:
    """What `cdp-agent heal` does.

    Raises PointsDamaged where something cannot be healed, AlreadyRunning, and CdpError wherever it ended.
    """
    agent = load_running(config)
    site = Site(agent.settings, agent.identity)
    if not load_last(site.journal).report:
        say("note: nothing was verified here yet, so only what is missing is known: `cdp-agent verify`")
    report = (lambda _: None) if as_json else say
    healed = heal_once(site, software(), SystemClock(), report, plan_only=plan)
    answer(json.dumps(healed_members(healed)) if as_json else "\n".join(healed_text(healed)))
    left = [one for one in healed.outcomes if one.why_not]
    if left:
        why = f"{counted(len(left), 'object')} cannot be healed from here: {left[0].key}: {left[0].why_not}"
        raise PointsDamaged("the container is not whole", why)
    return 0


def healed_members(healed: Healed) -> dict[str, Any]:
    """What came of it, for programs."""
    return {"is_done": healed.is_done, "objects": [_outcome_members(one) for one in healed.outcomes]}


def _outcome_members(one: Outcome) -> dict[str, Any]:
    return {
        "key": one.key,
        "why_not": one.why_not,
        "lost_bytes": one.lost_bytes,
        "found_bytes": one.found_bytes,
        "pack": None if one.pack is None else one.pack.key,
    }


def healed_text(healed: Healed) -> list[str]:
    """The same, for people."""
    if not healed.outcomes:
        return ["nothing that recovery points need is known to be damaged"]
    lines = []
    for one in healed.outcomes:
        if one.why_not:
            lines.append(printable(f"{one.key}: cannot be healed: {one.why_not}"))
        elif one.pack is None:
            lines.append(
                printable(f"{one.key}: can be healed; {counted(one.found_bytes, 'byte')} found here")
            )
        else:
            lines.append(printable(f"{one.key}: healed by {one.pack.key}"))
    return lines
