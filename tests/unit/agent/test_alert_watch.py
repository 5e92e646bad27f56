"""The watch and its hook: what is told from the files, and that no hook can hold the supervisor up."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.alerts.hook import HOOK_SECONDS_MAX
from cdp_agent.alerts.rules import DOWN_SECONDS_MIN, REPEAT_SECONDS
from cdp_agent.alerts.shown import shown_error
from cdp_agent.alerts.watch import Watch, open_watch
from cdp_agent.splitter.settings import LOCK_NAME
from cdp_agent.supervisor import take_lock
from cdp_container.clock import SystemClock
from cdp_container.domain.notes import Notes, save_notes
from cdp_container.domain.settings import parse_settings
from cdp_container.journal.shared import SharedPages, SplitterPage
from tests.waiting import wait_until

DEADLINE_SECONDS = 20.0
MIB = 1 << 20
KEEPS = '#!/bin/sh\n{ cat; env | grep -c "AWS_\\|CDP_" || true ; } >> "$1"\n'


class SettableClock:
    """Boot time as it is set; a pause ends at once and counts."""

    def __init__(self) -> None:
        self.now_ns = 10**15

    def wall_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        threading.Event().wait(seconds)
        self.now_ns += int(seconds * 1e9)


class Place:
    """A journal directory with a watch over it."""

    def __init__(self, root: Path, alerts: dict[str, Any]) -> None:
        self.root = root
        self.heard = root / "heard"
        members = {
            "domain": "shop",
            "site": "a",
            "store": "/srv/shop",
            "journal": {"directory": str(root)},
            "volumes": [{"name": "db", "path": "/srv/db.raw"}],
            "alerts": alerts,
        }
        self.settings = parse_settings(json.dumps(members).encode(), "agent.yaml")
        self.pages = SharedPages(root / "shared")
        self.serve()
        self.lock = take_lock(root / LOCK_NAME, SystemClock())
        self.clock = SettableClock()
        self.watch = self.opened()

    def opened(self) -> Watch:
        watch = open_watch(self.settings, self.pages, self.clock)
        assert watch is not None
        return watch

    def serve(self, is_open: bool = True) -> None:
        """What a splitter publishes that serves, or not yet."""
        page = SplitterPage(limit_bytes=1000 * MIB, running=True, exports_open=is_open)
        self.pages.splitter.publish(page)

    def show(self, name: str, **members: object) -> None:
        (self.root / f"{name}.json").write_text(json.dumps(members))

    def later(self, seconds: float = 1.0) -> None:
        self.clock.now_ns += int(seconds * 1e9)
        self.watch.poll()

    def events(self) -> list[dict[str, Any]]:
        """What the command was told so far."""
        lines = self.heard.read_text().splitlines() if self.heard.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{")]

    def must_hear(self, *kinds: str) -> list[dict[str, Any]]:
        """Poll until so many events came; they are of these kinds."""

        def came() -> bool:
            self.watch.poll()
            return len(self.events()) >= len(kinds) and not self.watch.hook.busy

        wait_until(came, f"the hook was told of {kinds}", DEADLINE_SECONDS)
        assert sorted(f"{event['kind']} {event['state']}" for event in self.events()) == sorted(kinds)
        return self.events()


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    command = script(tmp_path / "hook", KEEPS)
    place = Place(tmp_path, {"command": [command, str(tmp_path / "heard")]})
    yield place
    place.watch.hook.end()
    place.pages.close()


def test_nothing_is_watched_where_nothing_is_configured(place: Place) -> None:
    settings = place.settings.model_copy(update={"alerts": None})
    assert open_watch(settings, place.pages, place.clock) is None


def test_exports_that_were_closed_on_purpose_are_no_trouble(place: Place) -> None:
    place.pages.splitter.publish(SplitterPage(limit_bytes=1000 * MIB, running=True, writes_closed=True))
    for _ in range(60):
        place.later()
    assert place.events() == []


def test_a_breach_is_told_with_the_figures_and_without_secrets(place: Place) -> None:
    place.pages.splitter.publish(SplitterPage(limit_bytes=1000 * MIB, used_bytes=10))
    place.show("streamer", lag_seconds=31.5, state="streaming")
    place.show("splitter", state="serving")
    place.later()
    event = place.must_hear("rpo-breach on")[0]
    assert event["domain"] == "shop"
    assert event["lag_seconds"] == 31.5
    assert (event["journal_used_bytes"], event["journal_limit_bytes"]) == (10, 1000 * MIB)
    assert place.heard.read_text().splitlines()[-1] == "0", "no variable of ours"
    place.later(2.0)
    assert len(place.events()) == 1
    place.show("streamer", lag_seconds=0.0, state="streaming")
    place.later()
    place.must_hear("rpo-breach on", "rpo-breach over")
    assert shown_error(place.root) == ""


def test_a_streamer_that_shows_nothing_new_falls_behind(place: Place) -> None:
    place.show("streamer", lag_seconds=1.0, state="streaming")
    place.later()
    place.later(20.0)
    assert place.events() == []
    place.later(20.0)
    place.must_hear("rpo-breach on")


def test_journal_damage_and_refusals(place: Place) -> None:
    place.pages.splitter.publish(SplitterPage(limit_bytes=1000 * MIB, used_bytes=800 * MIB, sync_failed=True))
    place.show("streamer", lag_seconds=0.0, state="waiting", store_refused="trust the store: it lies")
    place.later()
    heard = place.must_hear("journal-high on", "refused on", "damage on")
    assert any("it lies" in event["message"] for event in heard)


def test_a_vm_that_hangs_for_long_is_told_and_its_end(place: Place) -> None:
    vm = {"name": "web", "problem": "it did not answer in time", "unprotected": []}
    place.show("splitter", state="serving")
    for second in range(119):
        place.show("streamer", time_ns=second, lag_seconds=0.0, state="streaming", vms=[vm])
        place.later()
    assert place.events() == []
    place.later(3.0)
    assert "VM web cannot be asked" in place.must_hear("vms on")[0]["message"]
    place.show("streamer", lag_seconds=0.0, state="streaming", vms=[vm | {"problem": None}])
    place.later()
    place.must_hear("vms on", "vms over")


def test_a_fenced_site_is_told(place: Place) -> None:
    save_notes(place.root, Notes(fenced="epoch 4 is of another run"))
    place.later()
    assert "epoch 4" in place.must_hear("fenced on")[0]["message"]


def test_what_an_earlier_run_left_is_no_news(tmp_path: Path, place: Place) -> None:
    place.show("splitter", state="refused", error={"type": "X", "what": "cannot start", "why": "old"})
    place.show("streamer", lag_seconds=99.0, state="streaming")
    place.watch = place.opened()
    place.later()
    place.later(40.0)
    assert place.events() == []


def test_a_run_that_ends_for_good_says_why_before_it_ends(place: Place) -> None:
    fault = {"type": "BackingChanged", "what": "cannot start", "why": "the disk was changed"}
    place.show("splitter", state="refused", error=fault)
    place.watch.finish()
    assert "the disk was changed" in place.must_hear("refused on")[0]["message"]

    # Started again and again by systemd, it says the same only seldom.
    for number in range(3):
        place.watch = place.opened()
        place.show("splitter", state="refused", error=fault | {"n": number})
        place.watch.finish()
    assert len(place.events()) == 1
    place.clock.now_ns += REPEAT_SECONDS * 10**9
    place.watch = place.opened()
    place.show("splitter", state="refused", error=fault | {"n": 99})
    place.watch.finish()
    assert [event["state"] for event in place.events()] == ["on", "on"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("#!/bin/sh\nexit 3\n", "exit code 3"),
        ("#!/bin/sh\nkill -9 $$\n", "signal 9"),
        ("#!/nonexistent\n", "cannot be started"),
    ],
)
def test_a_hook_that_fails_is_shown(tmp_path: Path, text: str, error: str) -> None:
    place = Place(tmp_path, {"command": [script(tmp_path / "hook", text)]})
    place.show("streamer", lag_seconds=99.0, state="streaming")
    place.later()

    def failed() -> bool:
        place.watch.poll()
        return error in shown_error(place.root)

    wait_until(failed, "the error is shown", DEADLINE_SECONDS)
    place.pages.close()


def test_a_hook_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    place = Place(tmp_path, {"command": [script(tmp_path / "hook", "#!/bin/sh\nsleep 1000 & wait\n")]})
    place.show("streamer", lag_seconds=99.0, state="streaming")
    place.later()
    assert place.watch.hook.busy
    place.later(HOOK_SECONDS_MAX - 2)
    assert place.watch.hook.busy
    place.clock.now_ns += 3 * 10**9

    def ended() -> bool:
        place.watch.poll()
        return "took longer" in shown_error(place.root)

    wait_until(ended, "it is killed", DEADLINE_SECONDS)
    place.pages.close()


def test_a_splitter_that_was_killed_and_does_not_come_back(place: Place) -> None:
    """Its page says that all is well: it could not take that back."""
    place.later()
    os.close(place.lock)
    place.later(DOWN_SECONDS_MIN - 1)
    place.later(0)
    assert not place.watch.hook.busy
    place.later(5)
    heard = place.must_hear("splitter-down on")[0]
    assert "no volume was served for 14 s" in heard["message"]
    place.later(60)
    assert len(place.events()) == 1
    place.lock = take_lock(place.root / LOCK_NAME, SystemClock())
    place.show("splitter", state="serving")
    place.show("streamer", lag_seconds=0.0, state="streaming")
    place.later()
    place.must_hear("splitter-down on", "splitter-down over")


def test_a_splitter_that_lives_and_does_not_open_its_exports(place: Place) -> None:
    place.serve(is_open=False)
    place.later(DOWN_SECONDS_MIN)
    place.must_hear("splitter-down on")


def test_a_restart_is_no_news(place: Place) -> None:
    for _ in range(5):
        place.serve(is_open=False)
        place.later(DOWN_SECONDS_MIN - 1)
        place.serve()
        place.later()
    assert place.events() == []


def test_a_planned_stop_is_no_news_however_long_it_takes(place: Place) -> None:
    place.later()
    place.serve(is_open=False)
    os.close(place.lock)
    place.clock.now_ns += 60 * 10**9
    place.watch.finish()
    assert place.events() == []


def test_a_run_that_ends_while_it_is_down_does_not_say_that_it_is_over(place: Place) -> None:
    place.show("splitter", state="serving")
    place.show("streamer", lag_seconds=0.0, state="streaming")
    place.serve(is_open=False)
    place.later(DOWN_SECONDS_MIN)
    place.must_hear("splitter-down on")
    place.watch.finish()
    place.must_hear("splitter-down on")


def test_a_new_run_does_not_say_that_it_is_over_before_anything_is_served(place: Place) -> None:
    place.serve(is_open=False)
    place.later(DOWN_SECONDS_MIN)
    place.must_hear("splitter-down on")
    place.watch.finish()
    place.watch = place.opened()
    place.show("splitter", state="redo")
    place.show("streamer", lag_seconds=0.0, state="connecting")
    for _ in range(3):
        place.later()
        assert not place.watch.hook.busy
    place.serve()
    place.later()
    place.must_hear("splitter-down on", "splitter-down over")


@pytest.mark.parametrize("state", ["opening", "redo"])
def test_a_splitter_that_tries_again_is_not_over_what_kept_it(place: Place, state: str) -> None:
    error = {"type": "JournalDamaged", "what": "opening the journal", "why": "a file is gone"}
    place.show("streamer", lag_seconds=0.0, state="streaming")
    place.show("splitter", state="refused", error=error)
    place.later()
    place.must_hear("damage on")
    place.show("splitter", state=state)
    place.later()
    assert not place.watch.hook.busy
    place.watch.finish()
    place.watch = place.opened()  # a run that is started again knows no more
    place.show("streamer", lag_seconds=0.0, state="connecting")
    place.show("splitter", state=state, pid=2)
    place.later()
    assert not place.watch.hook.busy
    place.show("splitter", state="serving")
    place.later()
    place.must_hear("damage on", "damage over")


def test_a_page_that_cannot_be_read_is_damage_and_ends_nothing(place: Place) -> None:
    (place.root / "shared").write_bytes(b"\xff" * 8192)
    place.later()
    assert "cannot be read" in place.must_hear("damage on")[0]["message"]


@pytest.mark.parametrize(("status", "error"), [(204, ""), (500, "answered with an error"), (302, "an error")])
def test_a_webhook(tmp_path: Path, status: int, error: str) -> None:
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        place = Place(tmp_path, {"webhook": f"http://127.0.0.1:{server.server_port}/hook/s3cret"})
        place.show("streamer", lag_seconds=99.0, state="streaming")
        place.watch.finish()
        server.shutdown()
        thread.join()
    assert json.loads(bodies[0])["kind"] == "rpo-breach"
    assert len(bodies) == 1
    assert error in shown_error(tmp_path)
    assert "s3cret" not in (tmp_path / "alerts.json").read_text()
    place.pages.close()


def test_a_webhook_without_a_server(tmp_path: Path) -> None:
    place = Place(tmp_path, {"webhook": "https://127.0.0.1:1/s3cret"})
    place.show("streamer", lag_seconds=99.0, state="streaming")
    place.watch.finish()
    assert "did not answer" in shown_error(tmp_path)
    place.pages.close()
