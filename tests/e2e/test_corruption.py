"""Containers that the real agent wrote, damaged: found, named, and never restored as something else.

Every point was restored from the sound container first. Whatever is done to an object, a restore gives the
image of the point that it names, or is refused with the object's name and leaves no target. Packs and
ledgers, which no agent writes yet, are damaged in the tests of `rehydrate`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdp_agent.streamer.control import call
from cdp_container.console import guarded
from cdp_container.errors import (
    DamagedObject,
    ForeignObject,
    LimitExceeded,
    MissingObject,
    NewerFormat,
    PointsDamaged,
)
from rehydrate.cli import commands, restoring, verifying
from rehydrate.cli.targets import Targets
from rehydrate.cli.verifying import Wanted
from rehydrate.plan import Choice
from tests.e2e.site import MIB, PROTECTED_SECONDS_MAX, Site, new_site

pytestmark = pytest.mark.e2e

VOLUMES = {"db": 2 * MIB, "log": MIB // 2}
CUTS = 17
"""One more than a catalog bundles."""
FLIPS_OF_EACH = 3
SEGMENTS_SAMPLED = 6
CODES = {kind.exit_code for kind in (DamagedObject, MissingObject, NewerFormat, ForeignObject, LimitExceeded)}
UNSIGNED = ("domain/owner", "domain/epochs/", "domain/holds")
"""What carries no digest of its own: not every flip can be found, but none may lead to a wrong image."""

Images = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Sound:
    """A container, what each of its points holds, and the newest one."""

    site: Site
    images: dict[str, Images]
    newest: str

    def objects(self, *beginnings: str) -> list[Path]:
        """Its objects, or those whose keys begin so."""
        paths = (path for path in sorted(self.site.container.rglob("*")) if path.is_file())
        keyed = [path for path in paths if not path.relative_to(self.site.container).parts[0].startswith(".")]
        return [path for path in keyed if self.key(path).startswith(beginnings or "")]

    def key(self, path: Path) -> str:
        return path.relative_to(self.site.container).as_posix()


@pytest.fixture(scope="module")
def sound() -> Iterator[Sound]:
    """Three epochs, a catalog, overwriting, zeroes and discards."""
    with new_site(VOLUMES, with_key=True) as site:
        site.init().must()
        rng = random.Random(5)
        for run, cuts in enumerate((CUTS, 3, 1)):
            agent = site.start()
            site.flush_when_ready()
            for cut in range(cuts):
                with site.client("db") as db, site.client("log") as log:
                    db.write(cut * 100_000, rng.randbytes(60_000))
                    db.write(rng.randrange(MIB), rng.randbytes(5_000))
                    db.trim(cut * 90_000, 8_000)
                    log.write(cut * 4096, rng.randbytes(4096))
                    log.write_zeroes(cut * 2048, 1000)
                request = {"command": "marker", "name": f"{run}-{cut}"}
                assert call(site.journal, request, PROTECTED_SECONDS_MAX)["ok"]
            assert agent.stop() == 0
        points = site.points()
        images = {point["point"]: restored_images(site, point["point"]) for point in points}
        assert images[points[-1]["point"]] == {name: site.backing(name).read_bytes() for name in VOLUMES}
        yield Sound(site, images, points[-1]["point"])


def access(site: Site) -> commands.Access:
    return commands.Access(site.store, None, site.private_key)


def restored_images(site: Site, point: str | None) -> Images:
    """Restore in this process."""
    with tempfile.TemporaryDirectory() as folder:
        choice = commands.choice_of(point, None, None)
        restoring.restore(access(site), choice, Targets([], None, True, Path(folder), False), None, True)
        return {path.stem: path.read_bytes() for path in Path(folder).iterdir()}


@contextmanager
def replaced(path: Path, data: bytes | None) -> Iterator[None]:
    """Another content for a while; None: the object is gone."""
    before = path.read_bytes()
    try:
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        yield
    finally:
        path.write_bytes(before)


def assert_never_wrong(sound: Sound, capsys: pytest.CaptureFixture[str], *keys: str) -> None:
    """Restore the newest point: it is right, or it is refused by the name of one of these objects."""
    capsys.readouterr()
    with tempfile.TemporaryDirectory() as folder:
        targets = Targets([], None, True, Path(folder), False)
        code = guarded(lambda: restoring.restore(access(sound.site), Choice(), targets, None, True))
        found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    said = capsys.readouterr()
    if code == 0:
        point = json.loads(said.out)["point"]
        for name, content in sound.images[point].items():
            assert found[f"{name}.raw"] == content, f"{keys}: {point} is restored wrongly"
        return
    assert code in CODES, f"{keys}: exit code {code}\n{said.err}"
    # What is wrong in an object without a digest may show only in what it speaks of.
    assert keys[0].startswith(UNSIGNED) or any(key in said.err for key in keys), f"{keys}:\n{said.err}"
    assert "hint: " in said.err
    assert "Traceback" not in said.err
    assert not found, "what failed must leave no target"


def assert_verify_names(sound: Sound, capsys: pytest.CaptureFixture[str], *keys: str) -> None:
    capsys.readouterr()
    code = guarded(lambda: verifying.verify(access(sound.site), Wanted(), None, True))
    said = capsys.readouterr()
    assert code != 0, f"verify found nothing wrong with {keys}"
    assert any(key in said.out + said.err for key in keys), f"{keys}: {said.out}{said.err}"
    assert "Traceback" not in said.err


# --- in this process: many ways of damage -------------------------------------------------------


def test_the_sound_container_has_every_kind(sound: Sound, capsys: pytest.CaptureFixture[str]) -> None:
    for beginning in (
        "domain/owner",
        "domain/epochs/",
        "domain/config/",
        "log/0000000001/",
        "log/",
        "catalog/",
    ):
        assert sound.objects(beginning), beginning
    code = guarded(lambda: verifying.verify(access(sound.site), Wanted(), None, True))
    assert code == 0, capsys.readouterr()
    assert len(sound.images) > CUTS


def sampled(paths: list[Path], rng: random.Random) -> list[Path]:
    return rng.sample(paths, min(len(paths), SEGMENTS_SAMPLED))


@pytest.mark.parametrize("kind", ["log/", "catalog/", "domain/"])
def test_a_flipped_bit(sound: Sound, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    rng = random.Random(6)
    for path in sampled(sound.objects(kind), rng):
        data, key = path.read_bytes(), sound.key(path)
        places = {len(data) - 1}
        places |= {rng.randrange(len(data)) for _ in range(FLIPS_OF_EACH)}
        for at in sorted(places):
            flipped = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            with replaced(path, flipped):
                assert_never_wrong(sound, capsys, key)
                if not key.startswith(UNSIGNED):
                    assert_verify_names(sound, capsys, key)


def test_an_object_cut_short(sound: Sound, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(7)
    for path in [*sound.objects("domain/", "catalog/"), *sampled(sound.objects("log/"), rng)]:
        data, key = path.read_bytes(), sound.key(path)
        for length in (0, rng.randrange(1, len(data)), len(data) - 1):
            with replaced(path, data[:length]):
                assert_never_wrong(sound, capsys, key)
                assert_verify_names(sound, capsys, key)


def test_two_objects_swapped(sound: Sound, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [*sound.objects("domain/", "catalog/"), *sampled(sound.objects("log/"), random.Random(8))]
    for one, two in zip(paths, [*paths[1:], paths[0]], strict=True):
        keys = sound.key(one), sound.key(two)
        first, second = one.read_bytes(), two.read_bytes()
        with replaced(one, second), replaced(two, first):
            assert_never_wrong(sound, capsys, *keys)
            assert_verify_names(sound, capsys, *keys)


def test_an_object_deleted(sound: Sound, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sound.objects():
        key = sound.key(path)
        with replaced(path, None):
            # A container is known by its owner; without it there is none here, by any name.
            assert_never_wrong(sound, capsys, key, "no container")


# --- through the commands: a few, with their exit codes -------------------------------------------


def assert_refused_by_both(sound: Sound, code: int, key: str) -> None:
    """`restore` ends with this code, `verify` with its own; both name the object, and leave nothing."""
    folder = sound.site.base / "b" / "refused"
    folder.mkdir(exist_ok=True)
    restore = ("restore", "--all", "--target-dir", str(folder))
    for words, own_code in ((restore, code), (("verify",), PointsDamaged.exit_code)):
        done = sound.site.rehydrate(*words)
        assert done.code == own_code, (words, done)
        assert key in done.err + done.out
        assert "Traceback" not in done.err
        assert not list(folder.iterdir())


def needed_segment(sound: Sound) -> Path:
    """No catalog tells of it, and as its epoch has ended, the newest point cannot be without it."""
    return sound.objects("log/0000000002/")[1]


def test_a_damaged_frame_through_the_commands(sound: Sound) -> None:
    path = needed_segment(sound)
    data = path.read_bytes()
    with replaced(path, data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]):
        assert_refused_by_both(sound, DamagedObject.exit_code, sound.key(path))


def test_a_missing_segment_through_the_commands(sound: Sound) -> None:
    path = needed_segment(sound)
    with replaced(path, None):
        assert_refused_by_both(sound, MissingObject.exit_code, sound.key(path))


def test_a_segment_of_another_domain_through_the_commands(sound: Sound) -> None:
    path = needed_segment(sound)
    with new_site(VOLUMES, with_key=True) as other:
        other.init().must()
        other.start()
        other.flush_when_ready()
        with replaced(path, next((other.container / "log/0000000001").iterdir()).read_bytes()):
            assert_refused_by_both(sound, ForeignObject.exit_code, sound.key(path))


def test_a_segment_of_a_newer_format_through_the_commands(sound: Sound) -> None:
    path = needed_segment(sound)
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    preamble = data[:8] + (2).to_bytes(2, "little") + data[10 : length - 32]
    preamble += hashlib.sha256(preamble).digest()
    body = preamble + data[length:-32]
    with replaced(path, body + hashlib.sha256(body).digest()):
        assert_refused_by_both(sound, NewerFormat.exit_code, sound.key(path))


@pytest.mark.parametrize("damage", [None, b"", b"no catalog"])
def test_catalogs_are_never_needed(sound: Sound, damage: bytes | None) -> None:
    target = sound.site.base / "b" / "without-catalogs"
    with ExitStack() as stack:
        for path in sound.objects("catalog/"):
            stack.enter_context(replaced(path, damage))
        report = sound.site.restore_all(target)
    for name, content in sound.images[sound.newest].items():
        assert (target / f"{name}.raw").read_bytes() == content
    assert report["point"] == sound.newest
    shutil.rmtree(target)
