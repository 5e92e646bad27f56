"""Plans and final lists come back, and what no plan may say is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format import domain, gc, limits
from cdp_container.format.keys import segment_key
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

PLAN = domain.PlanName(3, 2, samples.fixed("plan", 32), domain.PlanState.NAMED)


def altered(data: bytes, **members: Any) -> bytes:  # noqa: ANN401
    return orjson.dumps(orjson.loads(data) | members)


def test_they_come_back() -> None:
    plan = replace(samples.gc_plan(), before=None, holds=(gc.SeenHold("0" * 32, None),))
    for one in (samples.gc_plan(), plan):
        assert gc.parse_plan(gc.build_plan(one), "k", DOMAIN) == one
    assert gc.parse_final(gc.build_final(samples.gc_final()), "k", DOMAIN) == samples.gc_final()


@pytest.mark.parametrize("state", domain.PlanState)
def test_an_owner_names_a_plan(state: domain.PlanState) -> None:
    owner = replace(samples.owner(), plan=replace(PLAN, state=state))
    assert domain.parse_owner(domain.build_owner(owner), "k", DOMAIN) == owner


@pytest.mark.parametrize("wrong", [{"epoch": 0}, {"n": 0}, {"digest": "00"}, {"state": "done"}, {"state": 5}])
def test_an_owner_s_plan_that_is_none(wrong: dict[str, Any]) -> None:
    data = domain.build_owner(replace(samples.owner(), plan=PLAN))
    with pytest.raises(DamagedObject):
        domain.parse_owner(altered(data, plan=orjson.loads(data)["plan"] | wrong), "k", DOMAIN)


@pytest.mark.parametrize(
    "victims",
    [
        ["domain/owner"],
        ["domain/gc/0000000003/000000000001"],
        ["log/1/1"],
        ["../owner"],
        [segment_key(3, 2), segment_key(3, 1)],
        [segment_key(3, 1), segment_key(3, 1)],
    ],
)
def test_what_is_never_a_victim(victims: list[str]) -> None:
    with pytest.raises(DamagedObject, match="'victims'"):
        gc.parse_plan(altered(gc.build_plan(samples.gc_plan()), victims=victims), "k", DOMAIN)
    final = gc.build_final(samples.gc_final())
    with pytest.raises(DamagedObject, match="'delete'"):
        gc.parse_final(altered(final, delete=victims), "k", DOMAIN)
    kept = [{"key": key, "hold": "h"} for key in victims]
    with pytest.raises(DamagedObject, match="'kept'"):
        gc.parse_final(altered(final, kept=kept), "k", DOMAIN)


def test_what_is_kept_is_not_deleted() -> None:
    final = gc.build_final(samples.gc_final())
    kept = [{"key": samples.gc_final().delete[0], "hold": "h"}]
    with pytest.raises(DamagedObject, match="'kept'"):
        gc.parse_final(altered(final, kept=kept), "k", DOMAIN)


def test_a_plan_without_a_ledger() -> None:
    with pytest.raises(DamagedObject, match="'ledger'"):
        gc.parse_plan(altered(gc.build_plan(samples.gc_plan()), ledger=None), "k", DOMAIN)


def test_a_plan_of_the_most_victims_and_one_more() -> None:
    most = tuple(segment_key(3, seq) for seq in range(1, limits.VICTIMS_MAX + 1))
    plan = replace(samples.gc_plan(), victims=most)
    kept = tuple(gc.Kept(key, "f" * 32) for key in most)
    gc.build_plan(plan)
    gc.build_final(replace(samples.gc_final(), delete=(), kept=kept))
    with pytest.raises(LimitExceeded, match="VICTIMS_MAX"):
        gc.build_plan(replace(plan, victims=(*most, segment_key(4, 1))))
    with pytest.raises(LimitExceeded, match="VICTIMS_MAX"):
        gc.build_final(replace(samples.gc_final(), delete=(*most, segment_key(4, 1)), kept=()))
