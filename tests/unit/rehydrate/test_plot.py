"""The picture of recovery points: the same bytes every time, sound XML, and names that are text alone."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.domain import contents
from cdp_container.domain.retention_policy import Retention, build_retention
from cdp_container.errors import UsageError
from cdp_container.format.head import Head, open_head
from cdp_container.format.holds import Hold
from cdp_container.format.keys import HOLDS_KEY, segment_key
from cdp_container.format.place import Place
from rehydrate import plot
from rehydrate.plot import BINS, NAMES_MAX, Drawing, svg_of
from tests.containers import CUT_NS, FIRST_CUT_NS, Site, write
from tests.rosters import give_roster
from tests.unit.rehydrate.conftest import Run, answer

SVG = "{http://www.w3.org/2000/svg}"
HOUR_NS = 3600 * 10**9
START = 1_800_000_000 * 10**9
HOSTILE = [
    "</title></line><script>alert(1)</script>",
    '" onload="alert(1)',
    "]]>&amp;&lt;",
    "\x00\x08\x1b[2J\ud800\ufffe",
    "\u202eevil",
    "x" * 5000,
]


def drawing(**changes: object) -> Drawing:
    plain = Drawing(
        title="shop",
        start_ns=START,
        end_ns=START + 48 * HOUR_NS,
        total=3,
        counts=[1] + [0] * (BINS - 2) + [1],
        side_counts=[0] * 9 + [1] + [0] * (BINS - 10),
        gaps=[(START + HOUR_NS, START + 40 * HOUR_NS)],
        names=[(START, "before-upgrade"), (START + HOUR_NS, "after")],
        holds=[(None, "restore (b)"), (START + HOUR_NS, "audit (a)")],
        shares=[0.5, None, 0.0, *[None] * (BINS - 3)],
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def parsed(found: str) -> ET.Element:
    return ET.fromstring(found)


def of_class(root: ET.Element, kind: str) -> list[ET.Element]:
    return [one for one in root if one.get("class") == kind]


def told(one: ET.Element) -> str:
    title = one.find(f"{SVG}title")
    assert title is not None
    return title.text or ""


def test_everything_is_drawn_once() -> None:
    root = parsed(svg_of(drawing()))
    counts = {
        kind: len(of_class(root, kind)) for kind in ("points", "side", "gap", "marker", "hold", "share")
    }
    assert counts == {"points": 2, "side": 1, "gap": 1, "marker": 2, "hold": 1, "share": 2}
    words = [one.text for one in root.iter(f"{SVG}text")]
    assert "before-upgrade" in words
    assert "everything: restore (b)" in words
    assert [told(one) for one in of_class(root, "share")] == ["50 %", "0 %"]
    assert (root.get("width"), root.get("viewBox")) == ("1200", "0 0 1200 500")


def test_the_same_points_give_the_same_bytes() -> None:
    assert svg_of(drawing()) == svg_of(drawing())
    assert "None" not in svg_of(drawing())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text(name: str) -> None:
    found = svg_of(drawing(title=name, names=[(START, name)], holds=[(None, name), (START, name)]))
    root = parsed(found.encode("utf-8").decode())
    assert {one.tag.removeprefix(SVG) for one in root.iter()} == {"svg", "rect", "line", "text", "title"}
    allowed = {
        "class", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "fill", "stroke", "text-anchor",
        "font-size", "font-family", "viewBox", "role",
    }  # fmt: skip
    assert {key for one in root.iter() for key in one.keys()} <= allowed  # noqa: SIM118 (no mapping)
    assert "\u202e" not in found


def test_more_names_than_there_is_room_for() -> None:
    names = [(START + number * 10**9, f"marker {number}") for number in range(NAMES_MAX + 7)]
    root = parsed(svg_of(drawing(names=names)))
    assert len(of_class(root, "marker")) == NAMES_MAX
    assert "7 more markers" in [one.text for one in root.iter(f"{SVG}text")]


def test_labels_of_a_row_do_not_lie_over_each_other() -> None:
    names = [(START + number * HOUR_NS, f"marker {number}") for number in range(48)]
    rows: dict[str, float] = {}
    for one in parsed(svg_of(drawing(names=names))).iter(f"{SVG}text"):
        if (one.text or "").startswith("marker ") and one.get("text-anchor") == "start":
            row, x = one.get("y", ""), float(one.get("x", "0"))
            assert x >= rows.get(row, 0.0)
            rows[row] = x + len(one.text or "") * 6.5


def test_no_point_at_all() -> None:
    root = parsed(svg_of(drawing(total=0)))
    assert "There is none." in [one.text for one in root.iter(f"{SVG}text")]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_any_span_of_time_has_few_ticks(a: int, b: int) -> None:
    start, end = sorted((a, b))
    root = parsed(svg_of(drawing(start_ns=start, end_ns=end, gaps=[(start, end)], names=[], holds=[])))
    assert len(of_class(root, "tick")) <= 9
    assert all(70 <= float(one.get("x1", "0")) <= 1150.1 for one in of_class(root, "tick"))


# --- of a container ----------------------------------------------------------------------------


def busy(site: Site, monkeypatch: pytest.MonkeyPatch, policy: Retention | None = None) -> bytes:
    """A disk whose first cut compresses and whose later ones do not; two names."""
    config = site._config()
    retention = {} if policy is None else build_retention(policy)
    monkeypatch.setattr(site, "_config", lambda: replace(config, retention=retention, sources=()))
    disk = site.add_volume("disk", 1 << 20)
    site.begin_epoch()
    site.cut([write(disk, 0, b"a" * 65536)], marker="first")
    for _ in range(20):
        site.cut([write(disk, 0, site.rng.randbytes(65536))])
    site.protect(site.cut([write(disk, 0, site.rng.randbytes(4096))], marker="<last>"))
    return disk


def test_a_container_is_drawn(
    run: Run, empty: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(empty, monkeypatch)
    hold = Hold("b", "me", "audit", Place(1, 3, 3), 0, 0, FIRST_CUT_NS, 2 * FIRST_CUT_NS)
    give_roster(empty.store, empty.domain, {"0" * 32: hold})
    picture = out / "points.svg"
    assert run("points", place, "--plot", picture)[0] == 0
    first = picture.read_bytes()
    assert run("points", place, "--plot", picture, "--last", "1")[0] == 0
    assert picture.read_bytes() == first
    root = parsed(first.decode())
    assert [told(one).split(" (")[0] for one in of_class(root, "marker")] == ["first", "<last>"]
    assert told(of_class(root, "hold")[0]).startswith("audit (b)")
    shares = [told(one) for one in of_class(root, "share")]
    assert shares[0] == "0 %"
    assert shares[-1] == "100 %"
    assert sum(int(told(one)) for one in of_class(root, "points")) == 22


def test_without_a_key_there_are_points_and_no_names(
    run: Run, empty: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(empty, monkeypatch)
    monkeypatch.delenv("CDP_PASSPHRASE")
    assert run("points", place, "--plot", out / "p.svg")[0] == 0
    root = parsed((out / "p.svg").read_text())
    assert of_class(root, "points")
    assert not of_class(root, "marker")
    assert not of_class(root, "share")


def test_a_picture_needs_a_place(run: Run, empty: Site, place: Path, out: Path) -> None:
    empty.begin_epoch()
    assert run("points", place, "--plot", out)[0] == UsageError.exit_code
    assert run("points", place, "--plot", out / "absent" / "p.svg")[0] != 0
    assert run("points", place, "--plot", out / "p.svg")[0] == 0
    assert "There is none." in (out / "p.svg").read_text()


def test_holds_that_cannot_be_read_are_told(run: Run, empty: Site, place: Path) -> None:
    empty.begin_epoch()
    empty.store.put_new(HOLDS_KEY, b"{")
    code, _, stderr = run("points", place)
    assert code == 0
    assert "note: which points are held is not known" in stderr


# --- what is listed ----------------------------------------------------------------------------


def test_a_person_sees_some_and_a_program_all(
    run: Run, empty: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(empty, monkeypatch)
    lines = run("points", place)[1].splitlines()
    assert lines[-1] == "and 11 more points in between: --all, --last N or --json"
    assert len(lines) == 1 + 11 + 1
    assert "first" in lines[1]
    assert len(run("points", place, "--all")[1].splitlines()) == 1 + 22
    assert len(answer(run, "points", place)["points"]) == 22
    found = json.loads(run("points", place, "--json", "--last", "3")[1])
    assert (len(found["points"]), found["left_out"]) == (3, 19)


def test_how_long_a_point_is_kept_is_told(
    run: Run, empty: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(empty, monkeypatch, Retention(3600, markers_seconds=None))
    title, first, *_, last, _ = run("points", place)[1].splitlines()
    assert "KEPT UNTIL ABOUT" in title
    assert first.endswith("for ever (marker)")
    assert "newest" in last
    found = answer(run, "points", place)["points"]
    assert found[0]["kept"] == {"why": ["marker"], "until_ns": None, "for_ever": True}
    assert found[1]["kept"] == {"why": [], "until_ns": None, "for_ever": False}
    assert "the next collection" in run("points", place, "--all")[1]


def test_a_policy_of_a_later_release_is_told(
    run: Run, empty: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = empty._config()
    monkeypatch.setattr(empty, "_config", lambda: replace(config, retention={"yearly_seconds": 1}))
    empty.begin_epoch()
    code, stdout, stderr = run("points", place)
    assert code == 0
    assert "KEPT" not in stdout
    assert "yearly_seconds" in stderr


@pytest.mark.parametrize(
    "spaces",
    [None, {}, "x", 7, [7], [None], [{"raw_bytes": -1}], [{"raw_bytes": True}], [{"raw_bytes": 1 << 80}]],
)
def test_figures_of_a_header_that_make_no_sense_are_nothing(
    empty: Site, monkeypatch: pytest.MonkeyPatch, spaces: object
) -> None:
    """They are for people, and whoever can write to a container without a key chooses them."""
    head = replace(_head(empty, monkeypatch), header={} if spaces is None else {"spaces": spaces})
    assert contents._told_bytes(head, "raw_bytes") == 0


def _head(site: Site, monkeypatch: pytest.MonkeyPatch) -> Head:
    busy(site, monkeypatch)
    key = segment_key(1, 1)
    return open_head(site.store.get(key).data, key, site.domain, site.reader_keys())


def test_a_time_without_a_span_is_at_its_end() -> None:
    assert plot._bin(FIRST_CUT_NS + CUT_NS, FIRST_CUT_NS, FIRST_CUT_NS) == BINS - 1
