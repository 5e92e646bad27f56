"""A VM that a command names: by its id or its name, and never one of several."""

from __future__ import annotations

import pytest

from cdp_container.domain.image import Cut
from cdp_container.domain.machine import Description
from cdp_container.domain.machine_records import Configuration, Member, Native
from cdp_container.errors import NoSuchVm, UsageError
from cdp_container.format.place import Place
from rehydrate.vms import VmsAt, member_called


def member(vm: str, name: str) -> Member:
    return Member(bytes.fromhex(vm), Configuration(name, Description(name), Native("description", "")))


A, B, C, D = member("aa", "web"), member("bb", "web"), member("cc", "db"), member("dd", "cc")
SEEN = VmsAt(Cut(Place(1, 1, 1), 0, (), ()), (A, B, C, D), {}, {})


def test_it_is_known_by_its_name_or_its_id() -> None:
    assert member_called(SEEN, "db") == C
    assert member_called(SEEN, "bb") == B
    assert member_called(SEEN, "dd") == D


def test_of_several_with_a_name_none_is_taken() -> None:
    with pytest.raises(UsageError, match="2 VMs are called so at this point: aa, bb"):
        member_called(SEEN, "web")


def test_an_id_is_nobody_elses_name() -> None:
    assert member_called(SEEN, "cc") == C, "the other one could not be named else"


def test_where_there_is_none_the_others_are_named() -> None:
    with pytest.raises(NoSuchVm, match="there are: web, web, db, cc"):
        member_called(SEEN, "old")
