"""`rehydrate holds`, `hold` and `unhold`: what readers and operators keep from being collected.

What a reader's own hold does stands in `cdp_container.domain.holding`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Final

from cdp_container.clock import Clock, SystemClock
from cdp_container.console import answer, printable, say
from cdp_container.domain.history import read_config
from cdp_container.domain.hold_rules import with_hold, without_hold
from cdp_container.domain.holding import Reader
from cdp_container.domain.home import check_home
from cdp_container.domain.ledgers import read_ledger
from cdp_container.domain.roster import Roster, change_roster, read_roster, renew_roster
from cdp_container.errors import KeyMissing, MissingObject, NoSuchPoint, NotFound, UsageError, counted
from cdp_container.format.domain import ObjectName, Owner, PlanState
from cdp_container.format.gc import parse_plan
from cdp_container.format.holds import Hold
from cdp_container.format.keys import gc_key
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.members import I64_MAX
from cdp_container.format.place import Place
from cdp_container.store.api import Store
from rehydrate.cli.commands import Access, open_asking, store_of
from rehydrate.cli.console import read_secret
from rehydrate.cli.held import holding_for, tell, user_name
from rehydrate.cli.hold_views import hold_members, holds_text, state_of
from rehydrate.container import Container
from rehydrate.plan import Choice
from rehydrate.points import find_cut, scope_of
from rehydrate.request import read_owner

ALL: Final = "all"
PREFIX_DIGITS_MIN: Final = 4
"""Of an id that is named in short."""


def holds(address: str, as_json: bool) -> int:
    """`rehydrate holds`."""
    wall_ns = SystemClock().wall_ns()
    with store_of(address) as store:
        roster = read_roster(store, read_owner(store).domain)
    listed = sorted(roster.holds.holds.items(), key=lambda one: (one[1].since_ns, one[0]))
    members = [hold_members(hold_id, hold, roster.stored_ns, wall_ns) for hold_id, hold in listed]
    answer(json.dumps({"holds": members}, indent=2) if as_json else holds_text(members))
    return 0


def hold(access: Access, choice: Choice, until_ns: int, reason: str, as_json: bool) -> int:
    """`rehydrate hold`: of one point, or of everything where none is named."""
    clock = SystemClock()
    if until_ns <= clock.wall_ns():
        raise UsageError("read --until", "that time is over", "write one that is to come")
    if until_ns > I64_MAX:
        raise UsageError("read --until", "it lies beyond the year 2262", "write an earlier one")
    with store_of(access.address) as store:
        owner = read_owner(store)
        _check_home(store, owner)
        if choice == Choice():
            cut = None
            hold_id = _keep(store, owner, None, None, until_ns, reason, clock)
        else:
            # Under a hold of everything, so that the point is still there when its own hold stands.
            with holding_for(store, "hold") as holding:
                holding.place()
                container, cut = _chosen(store, access, choice)
                hold_id = _keep(store, owner, cut, container.history.owner.ledger, until_ns, reason, clock)
                if is_going(container, cut):
                    change_roster(
                        store, owner.domain, lambda found: without_hold(found, hold_id), clock, os.urandom
                    )
                    why = "a collection that began before is taking it away"
                    hint = "choose another point, or try again in some minutes: it may be given up"
                    raise NoSuchPoint(f"hold the point {cut.epoch}.{cut.cut}", why, hint)
    point = None if cut is None else f"{cut.epoch}.{cut.cut}"
    answer(json.dumps({"id": hold_id, "point": point}) if as_json else hold_id)
    if cut is None:
        say("note: nothing at all is collected until then; --at holds one point alone")
    return 0


def unhold(address: str, named: str, force: bool) -> int:
    """`rehydrate unhold`."""
    clock = SystemClock()
    with store_of(address) as store:
        owner = read_owner(store)
        _check_home(store, owner)
        if named == ALL:
            _renew(store, owner, force)
            return 0
        roster = read_roster(store, owner.domain)
        hold_id = _named(roster, named)
        if not force:
            _check_free(roster, hold_id, clock)

        def change(found: Mapping[str, Hold]) -> Mapping[str, Hold] | None:
            return without_hold(found, hold_id)

        change_roster(store, owner.domain, change, clock, os.urandom)
        hold = roster.holds.holds[hold_id]
        answer(printable(f"taken away: {hold_id}, of {hold.site} for {hold.purpose}"))
    return 0


def _keep(
    store: Store,
    owner: Owner,
    cut: Place | None,
    ledger: ObjectName | None,
    until_ns: int,
    reason: str,
    clock: Clock,
) -> str:
    hold_id = os.urandom(ID_BYTES).hex()
    who = Reader(platform.node(), user_name(), reason or "hold")
    kept = Hold(who.site, who.operator, who.purpose, cut, 0, 0, clock.wall_ns(), until_ns, ledger)
    change_roster(store, owner.domain, lambda found: with_hold(found, hold_id, kept), clock, os.urandom)
    return hold_id


def is_going(container: Container, cut: Place) -> bool:
    """Whether a plan that was named before the cut was held may retire it: later ones heed the hold.

    Where that cannot be told (without a key, or as the plan is just being dropped) it is.
    """
    store, owner = container.store, read_owner(container.store)
    names = [owner.ledger]
    if owner.plan is not None and owner.plan.state is PlanState.NAMED:
        try:
            key = gc_key(owner.plan.epoch, owner.plan.n)
            names.append(parse_plan(store.get(key).data, key, owner.domain).ledger)
        except NotFound:
            return True
    try:
        ledgers = [read_ledger(store, replace(owner, ledger=name), container.keys) for name in names]
    except (KeyMissing, MissingObject):
        return names != [container.history.owner.ledger]
    return any(ledger.is_retired(cut.epoch, cut.seq) for ledger in ledgers)


def _chosen(store: Store, access: Access, choice: Choice) -> tuple[Container, Place]:
    """The cut that is meant, and the container in which it was found."""
    secret = read_secret(access.passphrase_file, access.key_file)
    container, _ = open_asking(store, secret, replica=False)
    if choice.marker is not None:
        container.require_key()  # the names of cuts are sealed
    for note in container.history.notes:
        tell(note)
    with closing(container.gather(scope_of(container.history, choice))) as contents:
        return container, find_cut(container.history, contents, choice).place


def _check_home(store: Store, owner: Owner) -> None:
    """Raises NotHome: a hold in a copy of the container is seen by nobody."""
    if any(owner.config):
        check_home(read_config(store, owner), store)


def _named(roster: Roster, named: str) -> str:
    what = f"find the hold {named[:40]!r}"
    fitting = [hold_id for hold_id in roster.holds.holds if hold_id.startswith(named)]
    hint = "`rehydrate holds` lists them"
    if len(named) < PREFIX_DIGITS_MIN:
        raise UsageError(what, f"give at least {PREFIX_DIGITS_MIN} digits of its id", hint)
    if not fitting:
        raise NotFound(what, "the roster has none whose id begins so", hint)
    if len(fitting) > 1:
        raise UsageError(what, f"{counted(len(fitting), 'id')} begin so", "give more of the id")
    return fitting[0]


def _check_free(roster: Roster, hold_id: str, clock: Clock) -> None:
    """Raises UsageError where a reader may live behind a hold."""
    hold = roster.holds.holds[hold_id]
    if state_of(hold, roster.stored_ns, clock.wall_ns()) == "alive":
        why = f"it is that of a reader that lives: {hold.purpose} at {hold.site} by {hold.operator}"
        hint = "stop that; or --force: it looks for what it reads anew, and its point may be gone"
        raise UsageError(f"take the hold {hold_id[:8]} away", why, hint)


def _renew(store: Store, owner: Owner, force: bool) -> None:
    if not force:
        why = "that takes the holds of living readers away, too"
        raise UsageError(
            "write an empty roster", why, "--force does it, where no reader is left that needs one"
        )
    renew_roster(store, owner.domain, os.urandom)
    answer("the roster is empty")
