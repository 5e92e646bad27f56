"""`rehydrate rescue`: from whatever objects are left, without `domain/` and without catalogs.

Nobody's hold is placed: without `domain/` there is no roster, and nobody collects.
"""

from __future__ import annotations

import json
from contextlib import closing

from cdp_container.clock import SystemClock
from cdp_container.console import answer
from cdp_container.errors import KeyMissing, UsageError, counted
from cdp_container.format.layout import ID_BYTES
from cdp_container.store.api import Store
from rehydrate.cli import views
from rehydrate.cli.commands import Access, notes_of, store_of
from rehydrate.cli.console import ask_passphrase, read_secret
from rehydrate.cli.held import tell
from rehydrate.cli.restoring import report, say_plan, with_trees
from rehydrate.cli.stage_lines import StageLines
from rehydrate.cli.targets import Restored, Targets, check_targets, paths_of, restore_all
from rehydrate.cli.tree_restoring import TreesTo, check_maps, raise_if_not_set, restore_trees
from rehydrate.container import Secret
from rehydrate.flow import Flow
from rehydrate.plan import ASSUMED_BYTES_PER_SECOND, Choice, Totals
from rehydrate.points import plan_restore, points_of
from rehydrate.rehearsal.counting import Counts
from rehydrate.rehearsal.stages import Stages
from rehydrate.rescue import Rescued, open_rescued
from rehydrate.restore import Source


def rescue(
    access: Access,
    domain: str | None,
    choice: Choice,
    targets: Targets,
    rate: int | None,
    as_json: bool,
    trees: TreesTo | None = None,
) -> int:
    """`rehydrate rescue`; without a target it says what can be had."""
    trees = TreesTo() if trees is None else trees
    targets, trees = with_trees(targets, trees)
    only_look = not targets.has_volumes and not targets.has_trees
    if not only_look:
        check_targets(targets)
        check_maps(trees)
    wanted = _domain_of(domain)
    clock, flow = SystemClock(), Flow()
    began_ns = clock.boottime_ns()
    secret = read_secret(access.passphrase_file, access.key_file)
    with store_of(access.address, flow.refused) as store:
        found = _open_asking(store, secret, wanted, targets.has_trees)
        with closing(found.contents) as contents:
            container = found.container
            for note in notes_of(container, contents):
                tell(note)
            if only_look:
                return _show(found, as_json)
            made = plan_restore(
                container, contents, choice, targets.names, targets.tolerant, trees.names, targets.has_volumes
            )
            for note in made.notes:
                tell(note)
            source = Source(container.store, container.keys, contents, flow)
            restored = Restored([], Totals(), {})
            if targets.has_volumes:
                say_plan(views.plan_members(made, rate or ASSUMED_BYTES_PER_SECOND), as_json)
                restored = restore_all(source, made, paths_of(made, targets), targets, clock, as_json)
            stages = Stages(clock, Counts, StageLines(clock, as_json, stages=3))
            done = restore_trees(source, made, trees, stages, lambda: None)
    code = report(made, restored, (clock.boottime_ns() - began_ns) / 1e9, rate, as_json, done)
    raise_if_not_set(done, trees)
    return code


def _open_asking(store: Store, secret: Secret, domain: bytes | None, keeps_names: bool) -> Rescued:
    """Asks for a passphrase where one is needed and none was given."""
    try:
        return open_rescued(store, secret, domain, keeps_names)
    except KeyMissing:
        asked = Secret() if secret else ask_passphrase()
        if not asked:
            raise
    return open_rescued(store, asked, domain, keeps_names)


def _show(found: Rescued, as_json: bool) -> int:
    container = found.container
    listed = points_of(container, found.contents, None)
    members = {
        "domain": container.history.domain.hex(),
        "notes": notes_of(container, found.contents),
        "points": [views.point_members(point) for point in listed.points],
    }
    text = [
        f"domain {container.history.domain.hex()}: what is complete here",
        views.points_text(listed, keyless=False, kept=None),
    ]
    if listed.left_out:
        text.append(f"and {counted(listed.left_out, 'point')} between them")
    text.append(
        "--volume NAME --target PATH, --all --target-dir DIR, or --tree NAME=DIR, "
        "restores the newest, or the one of --at"
    )
    answer(json.dumps(members, indent=2) if as_json else "\n".join(text))
    return 0


def _domain_of(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        domain = bytes.fromhex(text)
    except ValueError:
        domain = b""
    if len(domain) != ID_BYTES:
        raise UsageError(f"--domain {text[:40]!r}", "a domain's id is 32 hex digits")
    return domain
