"""The end of a `rehydrate failback`: what is lost or left behind, and whether the domain is owned then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdp_container.domain.failback_note import drop_failback
from cdp_container.domain.history import read_history
from cdp_container.domain.owner_runner import OwnerRunner
from cdp_container.domain.owner_types import Activated, TakeOver
from cdp_container.errors import MissingObject, NoSuchPoint, OwnedElsewhere
from cdp_container.format.place import Place
from rehydrate.cli.commands import Access
from rehydrate.cli.failback import fail_back, what_of
from tests.overtaken import Overtaken
from tests.unit.rehydrate.test_takeback import (
    BLOCK,
    asked,
    assert_taken,
    newest,
    overtaken,
    release,
    run,
)


@pytest.fixture
def made(tmp_path: Path) -> Overtaken:
    return overtaken(tmp_path)


def word_of(made: Overtaken) -> tuple[int, bytes]:
    owner = read_history(made.store).owner
    return owner.epoch, owner.nonce


def test_one_that_owns_already_is_not_told_to_ask_the_site_before(
    made: Overtaken, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = newest(made)
    release(made)
    plain = OwnerRunner.take_over

    def take_over(self: OwnerRunner, wish: TakeOver) -> Activated:
        made.site.cut(not_whole=(made.spaces["disk"],))
        return plain(self, wish)

    with monkeypatch.context() as patch:
        patch.setattr(OwnerRunner, "take_over", take_over)
        with pytest.raises(NoSuchPoint):
            run(made)
    with pytest.raises(NoSuchPoint, match="not whole") as caught:
        run(made)
    epoch, nonce = word_of(made)
    assert caught.value.hint.startswith(f"--force {epoch}:{nonce.hex()}")
    run(made, (epoch, nonce))
    assert_taken(made, whole)


@pytest.mark.parametrize("as_json", [True, False])
def test_one_that_was_overtaken_at_the_very_end_does_not_say_that_it_owns(
    made: Overtaken, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release(made)

    def drop(directory: Path) -> None:
        drop_failback(directory)
        made.read_owner()
        made.site.write_owner(site="site-c", epoch=made.site.owner.epoch + 1)

    monkeypatch.setattr("rehydrate.cli.failback.drop_failback", drop)
    what = what_of(made.directory, None, False, False, as_json)
    with pytest.raises(OwnedElsewhere, match="site-c") as caught:
        fail_back(Access(made.store.address, None, None), asked(), what)
    assert "rehydrate failback" in caught.value.hint
    told = capsys.readouterr().out
    assert "owns the domain" not in told
    assert not as_json or json.loads(told)["owned"] is False


def test_without_a_start_it_says_who_renews(made: Overtaken, capsys: pytest.CaptureFixture[str]) -> None:
    release(made)
    fail_back(
        Access(made.store.address, None, None), asked(), what_of(made.directory, None, False, False, False)
    )
    assert "nobody renews the claim now: in 30 s any site may" in capsys.readouterr().out


# --- proven segments are gone from the store ----------------------------------------------------


def lose_the_newest(made: Overtaken) -> Place:
    """A cut that the other site proved is gone; gives the newest one that is left."""
    left = newest(made)
    made.other_writes("disk", 80 * BLOCK, b"lost")
    made.site.protect(made.other_cut())
    made.site.write_owner(site="site-b")
    made.store.delete([found.key for found in made.store.list("log/")][-1])
    return left


def test_lost_cuts_are_gone_without_only_where_that_is_accepted(made: Overtaken) -> None:
    left = lose_the_newest(made)
    before = made.paths["disk"].read_bytes()
    word = word_of(made)
    with pytest.raises(MissingObject) as caught:
        run(made, word)
    assert "--accept-loss" in caught.value.hint
    assert made.paths["disk"].read_bytes() == before
    run(made, word, accept_loss=True)
    assert_taken(made, left)
    history = read_history(made.store)
    assert "lost" in history.spans[history.owner.epoch].record.reason


def test_what_is_lost_while_the_disks_follow_is_asked_about_as_well(made: Overtaken) -> None:
    made.other_writes("disk", 80 * BLOCK, b"lost")
    left = newest(made)
    made.site.protect(made.other_cut())
    made.site.write_owner(site="site-b")
    run(made, once=True)
    made.store.delete([found.key for found in made.store.list("log/")][-1])
    with pytest.raises(MissingObject) as caught:
        run(made, word_of(made))
    assert "keep a copy of these disks first" in caught.value.hint
    run(made, word_of(made), accept_loss=True)
    assert_taken(made, left)
