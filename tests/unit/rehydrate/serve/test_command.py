"""`rehydrate serve` beside what it serves: which starts wait for a store that is away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.errors import NoSuchBucket, StoreUnavailable, TargetUnsuitable
from rehydrate.cli import serve_command
from rehydrate.cli.commands import Access
from rehydrate.container import Secret
from rehydrate.plan import Choice
from rehydrate.serve.kept import Kept, KeptVolume
from rehydrate.serve.process import Progress, Ways

AT = (1, 1)
LATER = Choice(time_ns=5)
VOLUMES = (KeptVolume(b"a" * 16, "db", "db", 1), KeptVolume(b"b" * 16, "log", "log", 1))
KEPT = Kept(bytes(16), "/c", AT, 0, VOLUMES, is_made=True)


def asked(overlay: Path, choice: Choice = LATER, *names: str) -> serve_command.Asked:
    return serve_command.Asked(Access("/c", None, None), choice, names, overlay, Ways(), False, 4)


def test_an_overlay_with_too_long_a_path_is_refused_before_anything_is_made_or_read(tmp_path: Path) -> None:
    overlay = tmp_path / ("a" * 100)
    with pytest.raises(TargetUnsuitable, match="may have 107"):
        serve_command.serve(asked(overlay))  # the container's address, too, is one that cannot be opened
    assert not overlay.exists()


def test_a_start_waits_for_the_store_where_guests_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = [StoreUnavailable("get", "away"), StoreUnavailable("get", "away"), NoSuchBucket("open", "gone")]

    def served(_: serve_command.Asked, kept: Kept | None, secret: Secret) -> bool:
        if errors:
            raise errors.pop(0)
        return True

    monkeypatch.setattr(serve_command, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(serve_command, "_serve_with_container", served)
    assert serve_command._serve_unfinished(asked(tmp_path), KEPT)
    assert capsys.readouterr().err.count("waited for") == 2
    for other in (
        None,
        replace(KEPT, is_made=False),
        replace(KEPT, address="/d"),
    ):
        errors.append(NoSuchBucket("open", "gone"))
        with pytest.raises(NoSuchBucket):
            serve_command._serve_unfinished(asked(tmp_path), other)


@pytest.mark.parametrize(
    ("choice", "names", "same"),
    [
        (Choice(), (), True), (Choice(at=AT), ("log", "db"), True), (Choice(), ("db", "62" * 16), True),
        (LATER, (), False), (Choice(at=(1, 2)), (), False), (Choice(), ("db",), False),
        (Choice(), ("db", "db"), False), (Choice(), ("db", "log", "other"), False),
    ],
)  # fmt: skip
def test_only_what_is_surely_of_the_same_point_is_served_before_the_container_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: Choice, names: tuple[str, ...], same: bool
) -> None:
    monkeypatch.setattr(serve_command, "_serve_before_opening", lambda *_: True)
    monkeypatch.setattr(serve_command, "_serve_with_container", lambda *_: False)
    assert serve_command._serve_unfinished(asked(tmp_path, choice, *names), KEPT) is same


def test_progress_is_told_with_a_rate_only_where_something_came(capsys: pytest.CaptureFixture[str]) -> None:
    serve_command._say_progress(Progress(3 << 20, 8 << 20, 1 << 20, 4.0))
    serve_command._say_progress(Progress(3 << 20, 8 << 20, 3 << 20, 4.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "streaming: 3.0 MiB of 8.0 MiB are here, 512.0 KiB/s, some 10 s left",
        "streaming: 3.0 MiB of 8.0 MiB are here",
    ]
