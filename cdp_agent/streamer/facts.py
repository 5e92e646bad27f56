"""What the streamer shows of itself: streamer.json, and the answer to `status`. Values in, JSON out."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from cdp_agent.releases import release_members
from cdp_agent.streamer import steps
from cdp_agent.streamer.describing import vm_members
from cdp_agent.streamer.engine import Engine
from cdp_agent.streamer.filling_words import filling_members
from cdp_agent.streamer.settings import FACTS_NAME
from cdp_agent.streamer.trees import Trees
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Notes
from cdp_container.format.place import Place
from cdp_container.journal.shared import SplitterPage


def describe(
    engine: Engine | None,
    identity: AgentIdentity,
    splitter: SplitterPage | None,
    lag: dict[str, Any],
    wall_ns: int,
    waiting_for: str,
    notes: Notes,
) -> dict[str, Any]:
    """All facts as JSON members.

    `waiting_for` says what is missing before there is an engine; what is released is in the `notes` then.
    """
    shown: dict[str, Any] = {
        "time_ns": wall_ns,
        "pid": os.getpid(),
        "state": waiting_for,
        **lag,
        "overflowed": splitter is not None and splitter.overflowed,
        "release": release_members(notes, wall_ns),
        "filling": filling_members(notes, identity),
    }
    if engine is None:
        return shown
    run, stream = engine.run, engine.stream
    standing = "paused: the lease passed" if stream.paused else engine.shown.standing
    names = {source.space: source.name for source in identity.sources}
    return {
        **shown,
        "lag_seconds": _with_trees(shown["lag_seconds"], engine.trees, wall_ns),
        "state": engine.releasing.standing or standing,
        "release": engine.releasing.members(wall_ns),
        "owner": run.phase.value,
        "epoch": stream.epoch or run.epoch,
        "lease_seconds": run.seen.lease_seconds if run.seen is not None else None,
        "sent": place_of(stream.sent),
        "protected": place_of(
            stream.protected or (run.end.place if run.end is not None else stream.protected)
        ),
        "not_whole": [names[space] for space in engine.not_whole],
        "filled": [names[space] for space in engine.filling.lacking],
        "trees": _trees(engine, identity),
        "vms": vm_members(engine.describing.state),
        "images": _images(engine, identity),
        "window_bytes": steps.window_bytes(stream),
        "troubles": _troubles(engine),
        "last_error": engine.shown.last_error,
        "last_error_ns": engine.shown.last_error_ns,
        "counters": asdict(engine.counters),
    }


def _troubles(engine: Engine) -> dict[str, str]:
    """Why things fail, by topic. A ledger that a claim could not read stays until another claim can."""
    end = engine.run.end
    lasting = {"ledger": end.warning} if end is not None and end.warning else {}
    return engine.shown.troubles | lasting


def _with_trees(lag_seconds: float | None, trees: Trees | None, wall_ns: int) -> float | None:
    """The greater of what would be lost of volumes and of trees."""
    if lag_seconds is None or trees is None or trees.unprotected.since_ns is None:
        return lag_seconds
    return max(lag_seconds, round((wall_ns - trees.unprotected.since_ns) / 1e9, 3))


def _trees(engine: Engine, identity: AgentIdentity) -> dict[str, Any] | None:
    """Of the newest cut; None where there are no trees, or nothing is known of them yet."""
    trees = engine.trees
    if trees is None:
        return None
    lacking = engine.stream.lacking_trees
    return {
        "not_whole": [tree.name for tree in identity.active_trees if tree.tree in lacking],
        "skewed": trees.skewed,
        "trouble": trees.trouble,
    }


def _images(engine: Engine, identity: AgentIdentity) -> dict[str, Any] | None:
    """VMs whose volumes are not whole in the newest cut, with these; None where none is captured so."""
    if not identity.active_disks:
        return None
    lacking = engine.stream.lacking_trees
    found: dict[str, list[str]] = {}
    for disk in identity.active_disks:
        if disk.space in lacking:
            found.setdefault(disk.vm, []).append(disk.name)
    return {"not_whole": [{"vm": vm, "volumes": names} for vm, names in found.items()]}


def place_of(place: Place) -> dict[str, int] | None:
    """A place as JSON, None where there is none."""
    return {"epoch": place.epoch, "cut": place.cut, "seq": place.seq} if place else None


def write_facts(directory: Path, facts: dict[str, Any]) -> None:
    """Replace streamer.json, whole; not durable, and a full disk only makes it old."""
    path = directory / FACTS_NAME
    fresh = path.with_name(f"{FACTS_NAME}.new")
    try:
        fresh.write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        fresh.replace(path)
    except OSError:
        return  # facts carry their time: whoever reads old ones sees that they are old
