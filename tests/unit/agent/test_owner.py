"""`cdp-agent owner`: who may write, since when, and who did before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdp_agent.cli.owner import show_owner
from cdp_container.errors import MissingObject, NoSuchDomain
from cdp_container.format.domain import OwnerState
from cdp_container.format.keys import OWNER_KEY, epoch_key
from cdp_container.store.directory import DirectoryStore
from tests.containers import Site, busy_container


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "container").mkdir()
    path = tmp_path / "agent.yaml"
    path.write_text(
        f"domain: shop\nsite: hamburg\nstore: {tmp_path}/container\n"
        f"journal:\n  directory: {tmp_path}/journal\n"
        f"volumes:\n  - name: db01\n    path: {tmp_path}/db01.raw\n"
    )
    return path


@pytest.fixture
def site(config: Path) -> Site:
    return busy_container(DirectoryStore(config.parent / "container"))


def test_nothing_there(config: Path) -> None:
    with pytest.raises(NoSuchDomain):
        show_owner(config, as_json=False)


def test_a_record_that_is_gone_is_named(config: Path, site: Site) -> None:
    (config.parent / "container" / epoch_key(2)).unlink()
    with pytest.raises(MissingObject, match=epoch_key(2)):
        show_owner(config, as_json=False)


def test_without_the_owner_object_the_records_tell(
    config: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "container" / OWNER_KEY).unlink()
    assert show_owner(config, as_json=False) == 0
    shown = capsys.readouterr()
    assert f"note: {OWNER_KEY} is missing" in shown.err
    assert "epoch 6" in shown.out


def test_the_owner_and_all_who_were(config: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_owner(config, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["this_site"] == "hamburg"
    owner = found["owner"]
    assert (owner["site"], owner["state"], owner["epoch"]) == (site.owner.site, "active", 6)
    assert owner["protected"] == f"{site.owner.protected.epoch}.{site.owner.protected.cut}"
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2, 6]
    assert [epoch["base"] for epoch in found["epochs"]] == [None, "1.3", "2.3"]
    starts = [epoch["from_ns"] for epoch in found["epochs"]]
    assert [epoch["until_ns"] for epoch in found["epochs"]] == [*starts[1:], None]


def test_whom_it_was_released_to(config: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.write_owner(state=OwnerState.RELEASED, released_to="munich\x1b[2J")
    assert show_owner(config, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "domain: shop, this site: hamburg"
    assert "released to munich\\x1b[2J" in lines[1], "what stands in a container drives no terminal"
    assert lines[2].split() == ["EPOCH", "SITE", "FROM", "UNTIL", "BASE", "REASON", "OPERATOR"]
    assert len(lines) == 3 + 3
