"""What a plan of collection may say, and which of its victims late holds keep. PURE.

How a plan is carried out does not belong here (collecting), nor how victims are chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cdp_container.domain.held import unseen
from cdp_container.format.domain import Owner
from cdp_container.format.gc import FinalList, Kept, Plan
from cdp_container.format.holds import Hold
from cdp_container.format.keys import KeyKind, parse_key
from cdp_container.format.place import Place


def fault_of_plan(plan: Plan, owner: Owner, spared: Collection[str]) -> str:
    """Why a plan must not be named by this owner, "" where it may be.

    `spared`: the keys of what bases, ends and the newest whole cut name, and of what holds need.
    """
    if (plan.domain, plan.epoch) != (owner.domain, owner.epoch):
        return "it is not of the owner's epoch"
    if plan.before != owner.ledger:
        return "it was made over another ledger than the one in force"
    if any(hold.cut is None for hold in plan.holds):
        return "everything is held"
    if plan.protected != owner.protected:
        return "it was made of what another owner protected"
    own = {plan.ledger.key, *(name.key for name in plan.packs)}
    if owner.ledger is not None:
        own.add(owner.ledger.key)
    for key in plan.victims:
        if key in own:
            return f"{key} is what is to stand for its victims, or in force"
        if key in spared:
            return f"{key} is needed"
        if not _is_before(key, plan.protected):
            return f"{key} is not older than what is protected"
    return ""


def _is_before(key: str, protected: Place) -> bool:
    parsed = parse_key(key)
    assert parsed is not None, key
    if parsed.kind is not KeyKind.SEGMENT:
        return True
    return (parsed.epoch, parsed.number) < (protected.epoch, protected.seq)


def strike_off(plan: Plan, digest: bytes, site: str, holds: Mapping[str, Hold]) -> FinalList:
    """The final list of a plan that executes: a hold that it had not seen keeps every victim.

    A reader that goes on by the plan's own ledger needs none of them.
    """
    late = next(
        (one.hold_id for one in unseen(plan.holds, holds) if not _reads_on(plan, holds[one.hold_id])), None
    )
    return FinalList(
        domain=plan.domain,
        epoch=plan.epoch,
        n=plan.n,
        plan=digest,
        site=site,
        delete=plan.victims if late is None else (),
        kept=() if late is None else tuple(Kept(key, late) for key in plan.victims),
    )


def promises_late(plan: Plan, holds: Mapping[str, Hold]) -> bool:
    """Whether an operator was promised since the plan was made that a cut stays.

    Its objects would be kept all the same (`strike_off`), and yet be of no use: whoever restores the cut
    later reads by the ledger in force, and by that one it would be retired.
    """
    return any(holds[one.hold_id].until_ns is not None for one in unseen(plan.holds, holds))


def _reads_on(plan: Plan, hold: Hold) -> bool:
    """Whether its reader found the plan executing."""
    return hold.cut is not None and hold.ledger == plan.ledger


def fault_of_final(final: FinalList, plan: Plan, digest: bytes) -> str:
    """Why a final list is not that of this plan, "" where it is."""
    if (final.epoch, final.n, final.plan) != (plan.epoch, plan.n, digest):
        return "it is of another plan"
    if sorted((*final.delete, *(kept.key for kept in final.kept))) != list(plan.victims):
        return "it does not name the victims of its plan"
    return ""
