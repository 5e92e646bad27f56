"""The four changes of `domain/owner` that a pass of collection is made of, and no other. PURE.

A plan is named; executed, its ledger in force with the same swap; dropped; done. When each is due is decided
in `collecting.py`; the swap itself is the owner's machine's (`ChangePlan`).
"""

from __future__ import annotations

from dataclasses import replace

from cdp_container.domain.owner_types import ChangePlan
from cdp_container.format.domain import ObjectName, Owner, PlanName, PlanState


def name_plan(owner: Owner, n: int, digest: bytes) -> ChangePlan:
    """This plan of the owner's epoch is to be carried out; it still may be dropped."""
    assert owner.plan is None, owner.plan
    plan = PlanName(owner.epoch, n, digest, PlanState.NAMED)
    return ChangePlan(owner.epoch, None, owner.ledger, plan, owner.ledger)


def execute_plan(owner: Owner, ledger: ObjectName) -> ChangePlan:
    """From here on its victims are gone for readers, and whoever owns the domain deletes them."""
    assert owner.plan is not None
    executing = replace(owner.plan, state=PlanState.EXECUTING)
    return ChangePlan(owner.epoch, owner.plan, owner.ledger, executing, ledger)


def end_plan(owner: Owner) -> ChangePlan:
    """Drop a plan that is merely named, or be done with one that executed."""
    assert owner.plan is not None
    return ChangePlan(owner.epoch, owner.plan, owner.ledger, None, owner.ledger)


def fault_of(change: ChangePlan) -> str:
    """Why this is none of the four changes, "" where it is one."""
    before, after = change.plan_before, change.plan
    if after is None:
        if before is None:
            return "there is no plan to end"
        return "" if change.ledger == change.ledger_before else "a plan that ends changes no ledger"
    if after.epoch != change.epoch:
        return "a plan of another epoch cannot go on, only end"
    if after.state is PlanState.NAMED:
        if before is not None:
            return "there is a plan already"
        return "" if change.ledger == change.ledger_before else "a plan that is named changes no ledger"
    if before != replace(after, state=PlanState.NAMED):
        return "only a plan that is named can execute"
    return "" if change.ledger not in (None, change.ledger_before) else "its ledger is not a new one"
