"""stopped.json: what is saved is loaded, and what makes no sense is refused."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from cdp_container.domain.carried import CarriedVolume
from cdp_container.domain.stopped import STOPPED_NAME, Stopped, load_stopped, save_stopped
from cdp_container.errors import ConfigInvalid

STOPPED = Stopped(0xA1, (CarriedVolume(b"s" * 16, "/disk", 4096, 7, 8),))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert load_stopped(tmp_path) is None
    save_stopped(tmp_path, STOPPED)
    assert load_stopped(tmp_path) == STOPPED


@pytest.mark.parametrize(
    "changes", [{"format": 2}, {"generation": 7}, {"generation": "x"}, {"volumes": [{}]}]
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    save_stopped(tmp_path, STOPPED)
    path = tmp_path / STOPPED_NAME
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **changes}))
    with pytest.raises(ConfigInvalid):
        load_stopped(tmp_path)
