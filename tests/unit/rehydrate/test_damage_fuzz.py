"""Containers hurt at random, restored despite it: every wrong block is in a map, or the command refuses."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from cdp_container.errors import RestoredWithDamage, WrongPassphrase
from cdp_container.format.place import Place
from cdp_container.store.directory import DirectoryStore
from tests.containers import Site, Write, discard, write, zero
from tests.unit.rehydrate.conftest import Run

BLOCK: Final = 512
SIZE: Final = 256 << 10
WRITE_BLOCKS_MAX: Final = 120
SEEDS: Final = range(16)
NAMES: Final = ("disk", "log")


@dataclass(frozen=True)
class Made:
    """A container of two volumes in one to three epochs; everything of it is proven."""

    site: Site
    spaces: tuple[bytes, ...]
    newest: Place


def made(place: Path, rng: random.Random, encrypted: bool) -> Made:
    site = Site(DirectoryStore(place), seed=rng.randrange(1 << 30), encrypted=encrypted)
    spaces = tuple(site.add_volume(name, SIZE) for name in NAMES)
    for epoch in range(rng.randrange(1, 4)):
        site.begin_epoch()
        if epoch:
            announce_again(site, spaces)
        for _ in range(rng.randrange(1, 6)):
            writes = [any_write(rng, rng.choice(spaces)) for _ in range(rng.randrange(1, 5))]
            site.cut(writes, segments=rng.choice((1, 1, 2, 3)))
    newest = max(site.images)
    site.protect(newest)
    if rng.random() < 0.5:
        site.catalog([built.key for built in site.objects if built.key.split("/")[1] == last_epoch(site)])
    return Made(site, spaces, newest)


def announce_again(site: Site, spaces: tuple[bytes, ...]) -> None:
    """The agent says in the first cut of every epoch which volumes there are."""
    for space, name in zip(spaces, NAMES, strict=True):
        held = bytes(site._line.image[space])
        site.add_again(space, name, SIZE)
        site._line.image[space] = bytearray(held)


def any_write(rng: random.Random, space: bytes) -> Write:
    length = rng.randrange(1, WRITE_BLOCKS_MAX) * BLOCK
    at = rng.randrange(0, SIZE - length + 1, BLOCK)
    data = rng.randbytes(length) if rng.random() < 0.6 else bytes([rng.randrange(256)]) * length
    return rng.choice((write(space, at, data),) * 4 + (zero(space, at, length), discard(space, at, length)))


def last_epoch(site: Site) -> str:
    return site.objects[-1].key.split("/")[1]


def hurt(place: Path, rng: random.Random, site: Site) -> list[str]:
    """Damage one to three segments; gives what was done."""
    keys = [built.key for built in site.objects]
    chosen = rng.sample(keys, min(len(keys), rng.choice((1, 1, 2, 3))))
    done: list[str] = []
    for key in chosen:
        how = rng.choice(("flip", "flip", "flips", "cut", "gone", "garbage", "swap", "grow", "zeros"))
        other = (place / rng.choice(keys)).read_bytes() if not done else b"nothing"
        data = (place / key).read_bytes()
        (place / key).unlink()
        if how != "gone":
            (place / key).write_bytes(hurt_bytes(rng, how, data, other))
        done.append(f"{how} {key}")
    return done


def hurt_bytes(rng: random.Random, how: str, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    at = rng.randrange(len(data))
    if how in ("flip", "flips"):
        for _ in range(1 if how == "flip" else 20):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del changed[at:]
    elif how == "zeros":
        changed[at : at + 4096] = bytes(len(changed[at : at + 4096]))
    elif how == "grow":
        changed += rng.randbytes(100)
    else:
        changed = bytearray(other if how == "swap" else rng.randbytes(len(data)))
    return bytes(changed)


def unlisted(target: Path, expected: bytes) -> list[int]:
    """The blocks that are wrong and not in the map."""
    found, path = target.read_bytes(), target.with_name(target.name + ".damage.json")
    assert len(found) == len(expected)
    listed: set[int] = set()
    if path.exists():
        for part in json.loads(path.read_bytes())["damage"]:
            # A block counts only where the whole of it is listed.
            listed.update(range(-(-part["offset"] // BLOCK), (part["offset"] + part["length"]) // BLOCK))
    return [
        block
        for block in range(len(expected) // BLOCK)
        if block not in listed
        and found[block * BLOCK : (block + 1) * BLOCK] != expected[block * BLOCK : (block + 1) * BLOCK]
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_wrong_is_listed_or_it_refuses(
    seed: int, run: Run, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    encrypted = seed % 2 == 0
    container = made(place, rng, encrypted)
    if not encrypted:
        monkeypatch.delenv("CDP_PASSPHRASE")  # a passphrase for what is not sealed is refused
    images = {(at.epoch, at.cut): image for at, image in container.site.images.items()}
    what = hurt(place, rng, container.site)
    code, stdout, stderr = run("restore", place, "--all", "--target-dir", out, "--on-damage", "map", "--json")
    assert code != WrongPassphrase.exit_code
    if code not in (0, RestoredWithDamage.exit_code):
        assert not list(out.glob("*.raw")), (what, code, stderr)
        return
    report = json.loads(stdout)
    epoch, cut = map(int, report["point"].split("."))
    if (epoch, cut) != (container.newest.epoch, container.newest.cut):
        assert code == RestoredWithDamage.exit_code, (what, report["point"], stderr)
    assert (code == 0) == (not list(out.glob("*.damage.json")))
    names = [volume["name"] for volume in report["volumes"]]
    assert names == list(NAMES) or code == RestoredWithDamage.exit_code, (what, names)
    for space, name in zip(container.spaces, NAMES, strict=True):
        if name in names:
            assert unlisted(out / f"{name}.raw", images[epoch, cut][space]) == [], (what, name, code)
