"""`rehydrate failback` in one process: who may claim when, what is left behind, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.carried import CARRIED_NAME, CarriedVolume, load_carried
from cdp_container.domain.failback_note import load_failback
from cdp_container.domain.history import read_history
from cdp_container.domain.identity import AgentIdentity, load_identity
from cdp_container.domain.notes import load_notes, save_notes
from cdp_container.domain.owner_runner import OwnerRunner
from cdp_container.domain.owner_types import Activated, TakeOver
from cdp_container.errors import (
    AlreadyRunning,
    CdpError,
    ConfigInvalid,
    ForeignObject,
    NoSuchPoint,
    OwnedElsewhere,
    StoreUnavailable,
    UsageError,
)
from cdp_container.format.domain import Owner, OwnerState
from cdp_container.format.place import Place
from cdp_container.store.directory import DirectoryStore
from rehydrate import agent_files
from rehydrate.cli.commands import Access
from rehydrate.cli.failback import fail_back, what_of
from rehydrate.failback import Failback
from rehydrate.failover import Asked, parse_force
from rehydrate.takeback import TakeBack
from tests.overtaken import Overtaken
from tests.waiting import wait_until

SIZE = 1 << 20
BLOCK = 4096


def new_store(path: Path) -> DirectoryStore:
    path.mkdir()
    return DirectoryStore(path, SystemClock())


@pytest.fixture
def made(tmp_path: Path) -> Overtaken:
    return overtaken(tmp_path)


def overtaken(tmp_path: Path) -> Overtaken:
    """Site A wrote what it never sent; site B has owned since."""
    made = Overtaken(tmp_path, {"disk": SIZE}, encrypted=False, store=new_store(tmp_path / "store"))
    made.write("disk", 0, b"a" * 9 * BLOCK)
    made.cut()
    made.write("disk", 20 * BLOCK, b"never sent")
    made.stop()
    made.other_takes_over()
    made.other_writes("disk", 40 * BLOCK, b"z" * BLOCK)
    made.site.protect(made.other_cut())
    made.site.write_owner(site="site-b")
    return made


def asked(force: tuple[int, bytes] | None = None, accept_loss: bool = False) -> Asked:
    return Asked("", "someone", "failback", force, accept_loss)


def run(
    made: Overtaken,
    force: tuple[int, bytes] | None = None,
    once: bool = False,
    config: Path | None = None,
    accept_loss: bool = False,
) -> int:
    access = Access(made.store.address, None, None)
    what = what_of(made.directory, config, False, once, True)
    return fail_back(access, asked(force, accept_loss), what)


def release(made: Overtaken, to: str = "site-a") -> None:
    made.site.write_owner(state=OwnerState.RELEASED, released_to=to)


def newest(made: Overtaken) -> Place:
    return max(made.site.images)


def assert_taken(made: Overtaken, place: Place) -> None:
    made.assert_disks_are(place)
    history = read_history(made.store)
    assert history.owner.site == "site-a"
    assert history.owner.state is OwnerState.ACTIVE
    assert history.spans[history.owner.epoch].record.base == place
    assert history.owner.nonce in load_notes(made.directory).nonces
    carried = load_carried(made.directory)
    assert carried is not None
    assert carried.place == place
    assert all(volume.is_untouched for volume in carried.volumes)
    assert load_failback(made.directory) is None
    assert not (made.directory / "journal").exists()
    assert [source.space for source in load_identity(made.directory).sources] == [made.spaces["disk"]]


def test_a_released_domain_is_taken_at_its_final_cut(
    made: Overtaken, capsys: pytest.CaptureFixture[str]
) -> None:
    release(made)
    assert run(made) == 0
    assert_taken(made, newest(made))
    report = json.loads(capsys.readouterr().out)
    assert report["point"] == "2.1"
    assert report["epoch"] == 3
    assert report["changed_bytes"] == 2 * BLOCK
    assert report["evidence"].endswith("diverged-1")


def test_one_pass_takes_nothing(made: Overtaken, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(made, once=True) == 0
    made.assert_disks_are(newest(made))
    assert read_history(made.store).owner.site == "site-b"
    assert load_failback(made.directory) is not None
    assert json.loads(capsys.readouterr().out)["epoch"] is None


def test_it_follows_an_active_owner_and_takes_over_when_it_is_given(
    made: Overtaken, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rehydrate.takeback.POLL_SECONDS", 0.05)
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(run(made)), daemon=True)
    thread.start()
    told: list[str] = []

    def says(what: str) -> Callable[[], bool]:
        def look() -> bool:
            told.append(capsys.readouterr().err)
            return what in "".join(told)

        return look

    wait_until(says("cdp-agent release --to site-a"), "the operator is told what to do", 30)
    made.other_writes("disk", 50 * BLOCK, b"meanwhile")
    made.site.protect(made.other_cut())
    wait_until(says("the disks are the cut 2.2"), "it follows", 30)
    made.other_writes("disk", 60 * BLOCK, b"the last")
    made.other_cut()
    release(made)
    thread.join(60)
    assert ended == [0]
    assert_taken(made, newest(made))


def test_cuts_that_are_not_whole_yet_are_waited_for_in_peace(
    made: Overtaken, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A volume that came at the other site is copied for hours: no cut after it can be on our disks.
    made.site.protect(made.site.cut(not_whole=(made.spaces["disk"],)))
    monkeypatch.setattr("rehydrate.takeback.POLL_SECONDS", 0.0)
    plain, looks, naps = TakeBack.look, [0], [0]

    def look(self: TakeBack) -> Owner:
        looks[0] += 1
        if looks[0] == 9:
            raise KeyboardInterrupt
        return plain(self)

    def sleep(self: SystemClock, seconds: float) -> None:
        naps[0] += 1

    monkeypatch.setattr(TakeBack, "look", look)
    monkeypatch.setattr(SystemClock, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        run(made)
    assert naps[0] >= looks[0] - 4  # one for each look, but for those before the first pass
    assert capsys.readouterr().err.count("the disks are the cut 2.1") == 1


def test_what_was_released_to_a_third_site_that_is_gone_can_be_forced(
    made: Overtaken, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release(made, to="site-c")

    def sleep(self: SystemClock, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SystemClock, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        run(made)
    word = f"{made.site.owner.epoch}:{made.site.owner.nonce.hex()}"
    assert f"--force {word}" in capsys.readouterr().err
    run(made, parse_force(word))
    assert_taken(made, newest(made))


def test_a_store_that_is_away_for_a_while_does_not_end_the_following(
    made: Overtaken, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rehydrate.takeback.POLL_SECONDS", 0.05)
    plain, looks = TakeBack.look, [0]

    def look(self: TakeBack) -> Owner:
        looks[0] += 1
        if looks[0] == 4:
            raise StoreUnavailable("read domain/owner", "no route")
        if looks[0] == 5:
            release(made)
        return plain(self)

    monkeypatch.setattr(TakeBack, "look", look)
    run(made)
    assert_taken(made, newest(made))
    assert "still trying: read domain/owner: no route" in capsys.readouterr().err


def test_a_cut_that_comes_in_between_is_fetched_under_our_claim(
    made: Overtaken, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(made)
    plain = OwnerRunner.take_over

    def take_over(self: OwnerRunner, wish: TakeOver) -> Activated:
        made.other_writes("disk", 70 * BLOCK, b"just before")
        made.other_cut()
        return plain(self, wish)

    monkeypatch.setattr(OwnerRunner, "take_over", take_over)
    run(made)
    assert_taken(made, newest(made))


def test_force_takes_the_version_that_was_seen(made: Overtaken) -> None:
    run(made, (made.site.owner.epoch, made.site.owner.nonce))
    assert_taken(made, newest(made))


def test_force_of_another_version_is_refused_before_anything_changes(made: Overtaken) -> None:
    before = made.paths["disk"].read_bytes()
    with pytest.raises(OwnedElsewhere, match="site-b") as caught:
        run(made, (2, bytes(16)))
    assert f"--force 2:{made.site.owner.nonce.hex()}" in caught.value.hint
    assert made.paths["disk"].read_bytes() == before
    assert (made.directory / "journal").exists()


def test_a_last_cut_that_is_not_whole_is_only_left_behind_by_force(made: Overtaken) -> None:
    whole = newest(made)
    made.site.cut(not_whole=(made.spaces["disk"],))
    release(made)
    with pytest.raises(NoSuchPoint, match="not whole") as caught:
        run(made)
    assert "release --cancel` there" in caught.value.hint
    assert "--force" in caught.value.hint
    run(made, (made.site.owner.epoch, made.site.owner.nonce))
    assert_taken(made, whole)


@pytest.mark.parametrize("step", ["replace_file", "save_carried"])
def test_what_dies_after_the_claim_is_gone_on_with(
    made: Overtaken, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(made)
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise CdpError("test", "killed")

        patch.setattr(f"rehydrate.cli.failback.{step}", die)
        with pytest.raises(CdpError, match="killed"):
            run(made)
    assert load_failback(made.directory) is not None
    assert not (made.directory / CARRIED_NAME).exists()
    run(made)
    assert_taken(made, newest(made))
    assert read_history(made.store).owner.epoch == 4


def test_a_site_that_owns_has_nothing_to_fail_back(made: Overtaken) -> None:
    made.site.write_owner(site="site-a")
    save_notes(made.directory, replace(load_notes(made.directory), nonces=(made.site.owner.nonce,)))
    with pytest.raises(UsageError, match="this site owns the domain") as caught:
        run(made)
    assert "cdp-agent run" in caught.value.hint
    with pytest.raises(UsageError, match="this site owns the domain"):
        run(made, (made.site.owner.epoch, b"w" * 16))  # as it was said the last time
    assert load_failback(made.directory) is None
    # Its agent refuses disks that are of another cut: then this is the only way that reverts nothing.
    run(made, (made.site.owner.epoch, made.site.owner.nonce))
    assert_taken(made, newest(made))


def test_a_host_that_was_reverted_gets_its_disks_by_force_from_its_own_later_run(made: Overtaken) -> None:
    # Its agent finds the domain owned elsewhere, though by this site: nothing else brings it back.
    made.site.write_owner(site="site-a")
    with pytest.raises(UsageError, match="knows nothing") as caught:
        run(made)
    word = f"{made.site.owner.epoch}:{made.site.owner.nonce.hex()}"
    assert f"--force {word}" in caught.value.hint
    assert load_failback(made.directory) is None
    run(made, parse_force(word))
    assert_taken(made, newest(made))


def test_a_site_that_gives_the_domain_away_has_to_wait(made: Overtaken) -> None:
    made.site.write_owner(site="site-a", state=OwnerState.RELEASED, released_to="site-b")
    with pytest.raises(UsageError, match="about to give the domain away") as caught:
        run(made)
    assert "--cancel" in caught.value.hint


def test_a_running_agent_is_refused(made: Overtaken) -> None:
    with agent_files.journal_lock(made.directory), pytest.raises(AlreadyRunning):
        run(made)
    assert (made.directory / "journal").exists()


def test_another_domains_container_is_refused(made: Overtaken, tmp_path: Path) -> None:
    other = Overtaken(tmp_path / "other", {"disk": SIZE}, 5, store=new_store(tmp_path / "store-2"))
    other.cut()
    access = Access(other.store.address, None, None)
    with pytest.raises(ForeignObject):
        fail_back(access, asked(), what_of(made.directory, None, False, False, True))


def test_a_directory_without_an_agent_is_refused(made: Overtaken, tmp_path: Path) -> None:
    access = Access(made.store.address, None, None)
    with pytest.raises(ConfigInvalid, match="no agent in"):
        fail_back(access, asked(), what_of(tmp_path, None, False, False, True))


def test_the_agents_configuration_must_be_known_to_start_it(made: Overtaken) -> None:
    with pytest.raises(UsageError, match="nothing names its configuration"):
        what_of(made.directory, None, True, False, True)


def test_a_configuration_with_other_volumes_is_refused(made: Overtaken, tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"""
domain: shop
site: site-a
store: {made.store.address}
encryption: none
journal: {{directory: {made.directory}}}
volumes:
  - {{name: disk, path: {made.paths["disk"]}}}
  - {{name: gone, path: {tmp_path / "gone.raw"}}}
"""
    )
    with pytest.raises(ConfigInvalid, match="gone: it was removed at the other site"):
        run(made, config=config)
    config.write_text(config.read_text().replace("site-a", "site-x"))
    with pytest.raises(ConfigInvalid, match="site: 'site-x'"):
        run(made, config=config)
    config.write_text(
        config.read_text().replace("site-x", "site-a").replace(made.store.address, "/elsewhere")
    )
    with pytest.raises(ConfigInvalid, match="store: '/elsewhere'"):
        run(made, config=config)
    assert (made.directory / "journal").exists()


def test_one_whose_agent_never_ran_since_the_last_failback_goes_on_from_that_cut(
    made: Overtaken, capsys: pytest.CaptureFixture[str]
) -> None:
    release(made)
    run(made)
    assert_taken(made, newest(made))
    capsys.readouterr()
    made.read_owner()
    made.other_takes_over()
    made.other_writes("disk", 30 * BLOCK, b"again")
    made.site.protect(made.other_cut())
    made.site.write_owner(site="site-b")
    release(made)
    run(made)
    assert_taken(made, newest(made))
    report = json.loads(capsys.readouterr().out)
    assert report["compared_bytes"] == BLOCK
    assert report["evidence"].endswith("diverged-3")


def test_a_disk_that_a_stranger_wrote_after_the_last_sync_is_not_called_the_cut(
    made: Overtaken, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(made)
    began = Failback.looks

    def late(disks: Failback, identity: AgentIdentity) -> tuple[CarriedVolume, ...]:
        with Path(identity.sources[0].path).open("r+b") as file:
            file.write(b"a stranger")
        return began(disks, identity)

    monkeypatch.setattr(Failback, "looks", late)
    run(made)
    carried = load_carried(made.directory)
    assert carried is not None
    assert not carried.volumes[0].is_untouched
