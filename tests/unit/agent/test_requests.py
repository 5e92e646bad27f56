"""`cdp-agent owner`, `grant` and `deny`: the owner of a domain and those who ask for it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.cli.init import initialise
from cdp_agent.cli.owner import show_owner
from cdp_agent.cli.requests import deny, grant
from cdp_container.clock import SystemClock
from cdp_container.domain.requests import AGE_MAX_NS, KEPT_NS, ask, list_requests, read_request
from cdp_container.domain.settings import load_settings
from cdp_container.errors import AccessDenied, AgentNotRunning, NotFound, ReleaseRefused, RequestClosed
from cdp_container.format.domain import Owner, OwnerState, build_owner, parse_owner
from cdp_container.format.keyblock import ScryptCost
from cdp_container.format.keys import OWNER_KEY, REQUESTS_PREFIX, request_key
from cdp_container.format.request import Answer, OwnershipRequest
from cdp_container.store.directory import DirectoryStore

ID = "00112233445566aa"
CLOCK = SystemClock()


class Domain:
    """A domain that hamburg owns, and munich asked for."""

    def __init__(self, directory: Path) -> None:
        (directory / "container").mkdir()
        (directory / "db01.raw").write_bytes(bytes(1 << 20))
        self.config = directory / "agent.yaml"
        self.config.write_text(
            f"domain: shop\nsite: hamburg\nstore: {directory}/container\nencryption: none\n"
            f"journal:\n  directory: {directory}/journal\n"
            f"volumes:\n  - name: db01\n    path: {directory}/db01.raw\n"
        )
        self.store = DirectoryStore(directory / "container")
        initialise(load_settings(self.config), self.store, lambda: "", CLOCK, os.urandom, ScryptCost(n=16))
        self.released: list[str] = []
        self.owned(epoch=1, state=OwnerState.ACTIVE, released_to=None)

    def owned(self, **changes: object) -> Owner:
        blob = self.store.get(OWNER_KEY)
        owner = replace(parse_owner(blob.data, OWNER_KEY, None), **changes)  # type: ignore[arg-type]
        self.store.put_if(OWNER_KEY, build_owner(owner), blob.found.tag)
        return owner

    def ask(self, request_id: str = ID, reason: str = "drill") -> None:
        owner = parse_owner(self.store.get(OWNER_KEY).data, OWNER_KEY, None)
        wish = OwnershipRequest(
            owner.domain, request_id, "munich", "Sepp", reason, CLOCK.wall_ns(), owner.site, owner.epoch
        )
        ask(self.store, owner, wish)

    def release(self, site: str) -> None:
        self.released.append(site)
        self.owned(state=OwnerState.RELEASED, released_to=site)

    def said(self, request_id: str = ID) -> Answer | None:
        domain = parse_owner(self.store.get(OWNER_KEY).data, OWNER_KEY, None).domain
        return read_request(self.store, domain, request_id).request.answer


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return Domain(tmp_path)


def test_no_such_request(domain: Domain) -> None:
    with pytest.raises(NotFound):
        deny(domain.config, ID, "", "", CLOCK)
    with pytest.raises(NotFound):
        grant(domain.config, ID, "", "", CLOCK, domain.release)
    assert domain.released == []


def test_a_request_that_is_not_ours_to_answer(domain: Domain) -> None:
    domain.ask()
    domain.owned(site="cologne", epoch=2)
    with pytest.raises(RequestClosed, match="cologne owns the domain now"):
        deny(domain.config, ID, "", "", CLOCK)
    with pytest.raises(RequestClosed, match="cologne owns the domain now"):
        grant(domain.config, ID, "", "", CLOCK, domain.release)
    assert (domain.released, domain.said()) == ([], None)


def test_a_request_from_an_old_time(domain: Domain, tmp_path: Path) -> None:
    domain.ask()
    old_ns = CLOCK.wall_ns() - AGE_MAX_NS - 3600 * 1_000_000_000
    os.utime(tmp_path / "container" / request_key(ID), ns=(old_ns, old_ns))
    with pytest.raises(RequestClosed, match="25 hours old"):
        grant(domain.config, ID, "", "", CLOCK, domain.release)
    assert domain.released == []
    assert deny(domain.config, ID, "", "too late", CLOCK) == 0


def test_a_release_that_fails_answers_nothing(domain: Domain) -> None:
    def fails(site: str) -> None:
        raise AgentNotRunning("release", "no streamer")

    domain.ask()
    with pytest.raises(AgentNotRunning):
        grant(domain.config, ID, "", "", CLOCK, fails)
    assert domain.said() is None


def test_a_release_that_was_taken_back_answers_nothing(domain: Domain) -> None:
    domain.ask()
    with pytest.raises(ReleaseRefused, match="cancelled"):
        grant(domain.config, ID, "", "", CLOCK, lambda site: None)
    assert domain.said() is None


def test_who_claimed_before_the_answer_is_answered_even_so(domain: Domain) -> None:
    def claimed(site: str) -> None:
        domain.owned(site=site, epoch=2, previous=1)

    domain.ask()
    assert grant(domain.config, ID, "", "", CLOCK, claimed) == 0
    said = domain.said()
    assert said is not None
    assert said.granted


def test_granted_after_the_release_landed(domain: Domain) -> None:
    domain.ask()
    assert grant(domain.config, ID[:4], "Inge", "go ahead", CLOCK, domain.release) == 0
    said = domain.said()
    assert said is not None
    assert (said.granted, said.site, said.operator, said.reason) == (True, "hamburg", "Inge", "go ahead")
    assert domain.released == ["munich"]
    with pytest.raises(RequestClosed, match="granted by hamburg"):
        deny(domain.config, ID, "", "", CLOCK)


def test_a_grant_that_died_before_its_answer_is_repeated(domain: Domain) -> None:
    domain.ask()
    domain.release("munich")
    assert grant(domain.config, ID, "", "", CLOCK, domain.release) == 0
    assert domain.released == ["munich"], "released once"
    said = domain.said()
    assert said is not None
    assert said.granted


def test_denied(domain: Domain, capsys: pytest.CaptureFixture[str]) -> None:
    domain.ask()
    assert deny(domain.config, ID, "Inge", "month's end", CLOCK) == 0
    assert f"denied: request {ID} of munich" in capsys.readouterr().err
    owner = parse_owner(domain.store.get(OWNER_KEY).data, OWNER_KEY, None)
    assert list_requests(domain.store, owner.domain).pending == ()
    assert (owner.state, owner.epoch) == (OwnerState.ACTIVE, 1), "an answer moves nothing"
    with pytest.raises(RequestClosed, match=r"denied by hamburg \(Inge\): month's end"):
        grant(domain.config, ID, "", "", CLOCK, domain.release)


def test_the_owner_sees_who_asks(domain: Domain, capsys: pytest.CaptureFixture[str]) -> None:
    domain.ask(reason="drill\n\x1b[2J")
    domain.ask("ff" * 8)
    deny(domain.config, "ff", "", "", CLOCK)
    domain.store.put_new(request_key("ee" * 8), b"{")
    capsys.readouterr()
    domain.owned(epoch=0, previous=0)  # no epoch of which a record would be wanted
    assert show_owner(domain.config, as_json=False) == 0
    shown = capsys.readouterr()
    assert "1 request for the domain" in shown.out
    assert shown.out.splitlines()[-1].split()[:2] == [ID, "munich"]
    assert shown.out.splitlines()[-1].endswith("drill\\n\\x1b[2J"), "its words drive no terminal"
    assert request_key("ee" * 8) in shown.err
    assert show_owner(domain.config, as_json=True) == 0
    (told,) = json.loads(capsys.readouterr().out)["requests"]
    assert (told["id"], told["site"], told["operator"], told["of"]) == (ID, "munich", "Sepp", "hamburg")


def test_nobody_asks(domain: Domain, capsys: pytest.CaptureFixture[str]) -> None:
    domain.owned(epoch=0, previous=0)
    assert show_owner(domain.config, as_json=False) == 0
    assert "request" not in capsys.readouterr().out


@pytest.mark.parametrize("may_delete", [True, False])
@pytest.mark.parametrize("command", ["owner", "deny", "grant"])
def test_old_requests_go_where_they_are_listed_and_it_is_no_error_where_they_cannot(
    domain: Domain,
    command: str,
    may_delete: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    domain.ask("0e" * 8)
    path = Path(domain.config.parent, "container", request_key("0e" * 8))
    os.utime(path, ns=(0, CLOCK.wall_ns() - 2 * KEPT_NS))
    domain.ask()
    if not may_delete:

        def refuse(self: DirectoryStore, key: str) -> None:
            if key.startswith(REQUESTS_PREFIX):
                raise AccessDenied(f"delete {key}", "it may not be deleted")
            plain(self, key)

        plain = DirectoryStore.delete
        monkeypatch.setattr(DirectoryStore, "delete", refuse)
    if command == "owner":
        domain.owned(epoch=0, previous=0)
        assert show_owner(domain.config, as_json=False) == 0
    elif command == "deny":
        assert deny(domain.config, ID, "", "", CLOCK) == 0
    else:
        assert grant(domain.config, ID, "", "", CLOCK, domain.release) == 0
    assert path.exists() != may_delete
    told = "1 old request for the domain deleted"
    if not may_delete:
        told = "old requests for the domain were left there: it may not be deleted"
    assert f"note: {told}\n" in capsys.readouterr().err
