"""`cdp-agent gc`: one pass of collection, or what one would do. What it says, and nothing of what it does."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cdp_agent.cli.accepted import load_running
from cdp_agent.cli.children import load_agent, software
from cdp_agent.collector.pass_types import Found, Passed
from cdp_agent.collector.process import Site, collect_all, look_once, wishes_of
from cdp_container.clock import SystemClock
from cdp_container.console import answer, say, secret_in_file
from cdp_container.domain.retention import PastCut
from cdp_container.errors import UsageError, counted
from cdp_container.format.seal import public_of

NICENESS: Final = 10
"""Of a scheduled pass: the streamer and guests come first."""
RETIRED_SHOWN_MAX: Final = 10
REQUESTS_PER_VICTIM: Final = 2
"""A delete, and a look whether it is done."""
REQUESTS_PER_PACKED: Final = 1
REQUESTS_PER_PACK: Final = 3
"""Written, read back, and looked for before it counts."""
PACK_BYTES: Final = 8 << 20


def collect_garbage(config: Path, key_file: Path | None, *, plan: bool, as_json: bool) -> int:
    """What `cdp-agent gc` does. Raises AlreadyRunning, UsageError, and CdpError wherever the pass ended."""
    agent = load_running(config)
    site = Site(agent.settings, agent.identity)
    wishes = wishes_of(agent.settings, _private_key(site, key_file), software())
    report = (lambda _: None) if as_json else say
    if plan:
        found = look_once(site, wishes, SystemClock(), report)
        answer(json.dumps(planned_members(found)) if as_json else "\n".join(planned_text(found)))
        return 0
    passes = collect_all(site, wishes, SystemClock(), report)
    if as_json:
        answer(json.dumps({"passes": [passed_members(passed) for passed in passes]}))
    else:
        answer("\n".join(line for passed in passes for line in passed_text(passed)))
    return 0


def scheduled_pass(config: Path) -> int:
    """A pass that the supervisor started: quietly, and after everything else on this machine."""
    os.nice(NICENESS)
    settings, identity = load_agent(config, other_volumes=True)
    collect_all(
        Site(settings, identity), wishes_of(settings, None, software()), SystemClock(), lambda _: None
    )
    return 0


def _private_key(site: Site, path: Path | None) -> bytes | None:
    """The domain's, where a file is given. Raises UsageError, KeyMissing."""
    if path is None:
        return None
    what = f"read the key in {path}"
    try:
        key = bytes.fromhex(secret_in_file(path))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError(what, "it is not 64 hex digits")
    if public_of(key) != site.identity.public_key:
        raise UsageError(what, "it is not the private key of this domain")
    return key


# --- what is said ------------------------------------------------------------------------------


def planned_members(found: Found) -> dict[str, Any]:
    """What a pass would do, for programs."""
    chosen = found.chosen
    return {
        "cuts": len(found.cuts),
        "kept": len(found.kept),
        "retired": [_cut_members(cut) for cut in found.retired] if chosen.victims else [],
        "victims": len(chosen.victims),
        "deleted": len(chosen.unnamed) + len(chosen.dead),
        "packed": len(chosen.packed),
        "freed_bytes": chosen.freed_bytes,
        "copied_bytes": chosen.copied_bytes,
        "requests": _requests(found),
        "is_all": chosen.is_all,
        "doubts": list(found.doubts),
    }


def planned_text(found: Found) -> list[str]:
    """The same, for people."""
    chosen = found.chosen
    if not chosen.victims:
        kept = f"{counted(len(found.kept), 'cut')} of {len(found.cuts)} kept"
        return [f"nothing is to be collected; {kept}", *found.doubts]
    saved = _mib(chosen.freed_bytes - chosen.copied_bytes)
    kinds = (
        f"{len(chosen.unnamed)} that nothing names, {len(chosen.dead)} dead, {len(chosen.packed)} packed anew"
    )
    costs = f"{_mib(chosen.copied_bytes)} to be written, and about {_requests(found)} requests"
    lines = [
        f"{counted(len(chosen.victims), 'object')} would go, {_mib(chosen.freed_bytes)}: {kinds}",
        f"it costs {costs}; {saved} are saved",
        f"{counted(len(found.retired), 'cut')} of {len(found.cuts)} would not be offered any more",
    ]
    shown = found.retired[:RETIRED_SHOWN_MAX]
    lines += [f"  {cut.place.epoch}.{cut.place.cut}  {_time(cut.cut_time_ns)}" for cut in shown]
    if len(found.retired) > len(shown):
        lines.append(f"  and {len(found.retired) - len(shown)} more; --json has all of them")
    if not chosen.is_all:
        lines.append("that is as much as one plan does; there is more")
    return [*lines, *found.doubts]


def passed_members(passed: Passed) -> dict[str, Any]:
    """What a pass did, for programs."""
    done, found, before = passed.finished, passed.found, passed.finished_before
    collected = done is not None and found is not None
    return {
        "note": passed.why_not,
        "deleted": 0 if done is None else done.deleted,
        "kept_for_holds": 0 if done is None else done.kept,
        "freed_bytes": found.chosen.freed_bytes if collected and found is not None else 0,
        "packs": passed.packing.packs,
        "packed_bytes": passed.packing.packed_bytes,
        "kept_dead_bytes": passed.packing.kept_dead_bytes,
        "retired": [_cut_members(cut) for cut in found.retired] if collected and found is not None else [],
        "is_all": found is None or found.chosen.is_all,
        "doubts": [] if found is None else list(found.doubts),
        "finished_before": None if before is None else before.deleted,
    }


def passed_text(passed: Passed) -> list[str]:
    """The same, for people."""
    lines = []
    if passed.finished_before is not None:
        lines.append(f"an earlier plan was finished: {passed.finished_before.deleted} objects deleted")
    done, found = passed.finished, passed.found
    lines += [] if found is None else found.doubts
    if done is None or found is None:
        return [*lines, f"nothing was collected: {passed.why_not}"]
    lines.append(
        f"{counted(done.deleted, 'object')} deleted, {_mib(found.chosen.freed_bytes)}; "
        f"{counted(passed.packing.packs, 'pack')} written, {_mib(passed.packing.packed_bytes)}; "
        f"{counted(len(found.retired), 'cut')} not offered any more"
    )
    if done.kept:
        lines.append(f"{counted(done.kept, 'object')} kept, as a reader took a hold meanwhile")
    if passed.packing.kept_dead_bytes:
        lines.append(
            f"{_mib(passed.packing.kept_dead_bytes)} of what was packed are dead: --key-file would split them"
        )
    return lines


def _requests(found: Found) -> int:
    chosen = found.chosen
    packs = -(-chosen.copied_bytes // PACK_BYTES)
    return (
        REQUESTS_PER_VICTIM * len(chosen.victims)
        + REQUESTS_PER_PACKED * len(chosen.packed)
        + REQUESTS_PER_PACK * (packs + 2)
    )


def _cut_members(cut: PastCut) -> dict[str, Any]:
    place = cut.place
    return {"epoch": place.epoch, "cut": place.cut, "time_ns": cut.cut_time_ns}


def _time(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _mib(count_bytes: int) -> str:
    return f"{count_bytes / 2**20:.1f} MiB"
