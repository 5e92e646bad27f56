"""`rehydrate serve` beside what it serves: which starts wait for a store that is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_container.errors import NoSuchBucket, StoreUnavailable
from rehydrate.cli import serve_command
from rehydrate.cli.commands import Access
from rehydrate.plan import Choice
from rehydrate.serve.kept import Kept
from rehydrate.serve.process import Ways


def asked(overlay: Path) -> serve_command.Asked:
    return serve_command.Asked(Access("/c", None, None), Choice(), (), overlay, Ways(), False, 4)


def test_a_start_waits_for_the_store_where_guests_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = [StoreUnavailable("get", "away"), StoreUnavailable("get", "away"), NoSuchBucket("open", "gone")]

    def served(_: serve_command.Asked, kept: Kept | None) -> bool:
        if errors:
            raise errors.pop(0)
        return True

    monkeypatch.setattr(serve_command, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(serve_command, "_serve_with_container", served)
    kept = Kept(bytes(16), "/c", (1, 1), 0, (), is_made=True)
    assert serve_command._serve_unfinished(asked(tmp_path), kept)
    assert capsys.readouterr().err.count("waited for") == 2
    for other in (
        None,
        Kept(bytes(16), "/c", (1, 1), 0, ()),
        Kept(bytes(16), "/d", (1, 1), 0, (), is_made=True),
    ):
        errors.append(NoSuchBucket("open", "gone"))
        with pytest.raises(NoSuchBucket):
            serve_command._serve_unfinished(asked(tmp_path), other)
