"""`rehydrate serve`, from its options to its end: the point is opened under a hold, an overlay served.

How it is served stands in rehydrate.serve; the options in serving.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cdp_container.clock import SystemClock
from cdp_container.console import printable, say
from cdp_container.errors import (
    CdpError,
    Incomplete,
    NoSuchBucket,
    StoreUnavailable,
    TargetUnsuitable,
    UsageError,
    counted,
)
from cdp_container.format.place import Place
from cdp_container.store.address import parse_address
from cdp_container.telling import point_name, time_text
from nbd_export.files import OsFiles
from nbd_export.polling import polling_loop
from rehydrate.anew import read_until_found
from rehydrate.cli import opening as containers
from rehydrate.cli.commands import Access
from rehydrate.cli.console import read_secret
from rehydrate.cli.held import hold_on, tell
from rehydrate.cli.text import seconds_text, size_text
from rehydrate.container import Secret
from rehydrate.file_names import file_names
from rehydrate.ondemand.reader import Content, Reader
from rehydrate.plan import Choice
from rehydrate.points import RestorePlan, plan_restore
from rehydrate.restore import Source
from rehydrate.serve import directory as overlays_of
from rehydrate.serve import process
from rehydrate.serve.image import Image, Threads
from rehydrate.serve.kept import Kept, KeptVolume, save_kept
from rehydrate.serve.opening import Held, Opening
from rehydrate.serve.origin import Origin
from rehydrate.serve.overlay import Overlay

CACHE_BYTES: Final = 64 << 20
"""Frames that are kept in memory: what is fetched is kept on disk."""

AGAIN_SECONDS: Final = 5.0
"""Until the container is opened again, where an overlay goes on and the store is away."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be served, from where to where, and how."""

    access: Access
    choice: Choice
    names: tuple[str, ...]
    overlay: Path
    ways: process.Ways
    read_only: bool
    at_once: int


@dataclass(slots=True)
class _Job:
    """One run of the command; `asked` has the very point, once it is known."""

    asked: Asked
    kept: Kept | None
    opening: containers.Opening


class _Ended(Exception):
    """It was ended before all was here: the hold is left to its term, for who goes on."""


def serve(asked: Asked) -> int:
    """`rehydrate serve`, until it is ended. Raises as a restore, `directory.locked`, `check_socket_path`."""
    asked = replace(asked, overlay=asked.overlay.absolute())
    process.check_socket_path(asked.overlay)
    with overlays_of.locked(asked.overlay) as kept:
        if kept is not None and kept.is_finished:
            _check_finished(asked, kept)
            is_durable = _served(asked, kept, None)
        else:
            is_durable = _serve_unfinished(asked, kept)
    if not is_durable:
        raise Incomplete("end", "what was written last could not be made durable", "see above what failed")
    say("ended: what was acknowledged is durable")
    return 0


def _serve_unfinished(asked: Asked, kept: Kept | None) -> bool:
    """Where guests had it before, they wait for it to be back: so it waits for the store."""
    clock, said = SystemClock(), ""
    secret = read_secret(asked.access.passphrase_file, asked.access.key_file)
    address = parse_address(asked.access.address).address()
    has_begun = kept is not None and kept.is_made and kept.address == address
    is_asked_for = bool(secret) or not sys.stdin.isatty()  # nobody answers a question amid a run
    if kept is not None and has_begun and is_asked_for and _is_same(asked, kept):
        return _serve_before_opening(asked, kept, secret)
    while True:
        try:
            return _serve_with_container(asked, kept, secret)
        except (StoreUnavailable, NoSuchBucket) as error:  # a disk may not be mounted yet
            if not has_begun:
                raise
            if str(error) != said:
                said = str(error)
                tell(f"{said}: it is waited for, and nothing is served before")
            clock.sleep(AGAIN_SECONDS)


def _is_same(asked: Asked, kept: Kept) -> bool:
    """Whether an overlay is of what is asked for, as far as can be told without the container."""
    known = {one.space.hex(): one for one in kept.volumes} | {one.name: one for one in kept.volumes}
    spaces = {known[name].space for name in asked.names if name in known}
    is_all = not asked.names or (len(spaces) == len(kept.volumes) and set(asked.names) <= set(known))
    return is_all and asked.choice in (Choice(), Choice(at=kept.point))


def _serve_before_opening(asked: Asked, kept: Kept, secret: Secret) -> bool:
    """Guests go on with what is here while the container is opened, however long that takes."""
    opening = Opening(lambda opening: _open_beside(asked, kept, secret, opening))
    opening.begin()
    try:
        return _served(asked, kept, opening)
    finally:
        opening.end()


def _open_beside(asked: Asked, kept: Kept, secret: Secret, opening: Opening) -> None:
    said = ""
    while True:
        try:
            with _container_of(asked, kept, secret) as (_, held):
                opening.give(held)
                opening.wait_for_end()
            return
        except _Ended:
            return
        except (StoreUnavailable, NoSuchBucket) as error:
            if opening.given is not None:
                raise
            if str(error) != said:
                said = str(error)
                tell(f"{said}: it is waited for, and what is here is served")
            if opening.wait_for_end(AGAIN_SECONDS):
                return


def _check_finished(asked: Asked, kept: Kept) -> None:
    """What can be told without the container."""
    what = f"serve into {asked.overlay}"
    if asked.choice.at not in (None, kept.point):
        raise TargetUnsuitable(
            what, f"it is of the point {point_name(*kept.point)}", "choose another directory"
        )
    unknown = (
        set(asked.names) - {one.name for one in kept.volumes} - {one.space.hex() for one in kept.volumes}
    )
    if unknown:
        raise TargetUnsuitable(what, f"it has no volume {min(unknown)!r}", "choose another directory")


def _serve_with_container(asked: Asked, kept: Kept | None, secret: Secret) -> bool:
    is_durable = False
    with suppress(_Ended), _container_of(asked, kept, secret) as (made, held):
        is_durable = _served(asked, made, held)
    return is_durable


@contextmanager
def _container_of(asked: Asked, kept: Kept | None, secret: Secret) -> Iterator[tuple[Kept, _Held]]:
    """The point under its hold, and an overlay that is made for it.

    Raises _Ended at the end, where it was not let go of; else as a restore.
    """
    with containers.opening_for("serve", asked.access, secret, SystemClock(), as_json=False) as opening:
        job = _Job(asked, kept, opening)
        holding = opening.holding
        holding.place(
            (kept.hold,) if kept is not None and kept.hold else (), None if kept is None else kept.point
        )
        source, made = read_until_found(lambda _: _opened(job), holding, opening.is_moved, tell)
        wanted = _wanted(job, made)
        if kept is None or not kept.is_made:
            if kept is not None:
                overlays_of.check_same(asked.overlay, kept, wanted)
            kept = overlays_of.make(asked.overlay, OsFiles(), wanted)
        else:
            overlays_of.check_same(asked.overlay, kept, wanted)
            kept = replace(kept, hold=wanted.hold)
            save_kept(asked.overlay, kept)
        reader = Reader(source, made.branch, _unread, CACHE_BYTES, asked.at_once)
        with closing(reader):
            held = _Held(job, kept, reader, made.cut.place)
            yield kept, held
        if not held.is_let_go:
            holding.keeps = True
            raise _Ended


def _opened(job: _Job) -> tuple[Source, RestorePlan]:
    """One reading: everything but content."""
    asked, kept, opening = job.asked, job.kept, job.opening
    container = opening.open()
    if kept is not None and container.history.domain != kept.domain:
        why = f"it is of the domain {kept.domain.hex()}"
        raise TargetUnsuitable(f"serve into {asked.overlay}", why, "choose another, empty directory")
    choice = asked.choice
    if kept is not None and choice == Choice():
        choice = Choice(at=kept.point)
    contents = opening.gather(container, choice)
    names = asked.names
    if kept is not None and not names:
        names = tuple(one.space.hex() for one in kept.volumes)
    made = plan_restore(container, contents, choice, names, counts=False)
    job.asked = replace(asked, choice=opening.settle(container, made))
    return opening.patient_source(container, contents), made


def _wanted(job: _Job, made: RestorePlan) -> Kept:
    """What the overlay is for, by the container."""
    container = job.opening.container
    assert container is not None, "opened"
    volumes = [plan.volume for plan in made.volumes]
    if not volumes:
        raise UsageError("serve", "the point has no volumes", "`rehydrate mount` shows file trees")
    files = file_names([(one.name, one.space) for one in volumes], "")
    return Kept(
        domain=container.history.domain,
        address=parse_address(job.asked.access.address).address(),
        point=(made.cut.place.epoch, made.cut.place.cut),
        time_ns=made.cut.time_ns,
        volumes=tuple(
            KeptVolume(one.space, one.name, file, one.size_bytes)
            for one, file in zip(volumes, files, strict=True)
        ),
        hold=job.opening.holding.hold_id,
    )


class _Held:
    """See `opening.Held`."""

    def __init__(self, job: _Job, kept: Kept, reader: Reader, place: Place) -> None:
        self._job = job
        self._kept = kept
        self._reader = reader
        self._place = place
        self.is_let_go = False

    def opened(self) -> None:
        """See `Container.opened`."""

    def facts(self) -> dict[str, Any]:
        """See `Container.facts`."""
        counts = self._job.opening.counting.counts
        return {"opened": True, "requests": counts.requests, "received_bytes": counts.received_bytes}

    def origin(self, volume: KeptVolume) -> Origin:
        """Where what is not here of a volume is."""
        return Origin(self._reader, Content(volume.space, volume.size_bytes))

    def look(self) -> None:
        """See `Container.look`."""
        container = self._job.opening.container
        assert container is not None, "opened"
        if not self.is_let_go:
            hold_on(self._job.opening.holding, self._place, container.history.owner.ledger)

    def let_go(self) -> None:
        """See `Container.let_go`."""
        save_kept(self._job.asked.overlay, replace(self._kept, is_finished=True, hold=""))
        self.is_let_go = True
        self._job.opening.holding.drop()

    def stop(self) -> None:
        """See `Container.stop`."""
        self._reader.stop()


def _served(asked: Asked, kept: Kept, held: Held | None) -> bool:
    with (
        overlays_of.opened(asked.overlay, OsFiles(), kept, overlays_of.boot_id()) as overlays,
        _threads() as threads,
        asyncio.Runner(loop_factory=polling_loop) as runner,
    ):
        return runner.run(_run(asked, kept, held, overlays, threads))


@contextmanager
def _threads() -> Iterator[Threads]:
    threads = Threads()
    try:
        yield threads
    finally:
        threads.end()


async def _run(
    asked: Asked, kept: Kept, held: Held | None, overlays: Sequence[Overlay], threads: Threads
) -> bool:
    images = [
        Image(one.file, overlay, threads, None if held is None else held.origin(one), tell, asked.read_only)
        for one, overlay in zip(kept.volumes, overlays, strict=True)
    ]
    facts: dict[str, Any] = {"point": point_name(*kept.point), "container": kept.address}
    service = process.Service(asked.overlay, images, threads, held, asked.ways, tell, _say_progress, facts)
    return await service.run(lambda: say(_opened_text(asked, kept, images)))


def _opened_text(asked: Asked, kept: Kept, images: Sequence[Image]) -> str:
    total_bytes = sum(image.size_bytes for image in images)
    here_bytes = sum(image.overlay.here_bytes for image in images)
    here = (
        "all is here" if kept.is_finished else f"{size_text(here_bytes)} of {size_text(total_bytes)} are here"
    )
    socket = asked.overlay / process.NBD_SOCKET
    return printable(
        f"serving {asked.overlay}: point {point_name(*kept.point)} of {time_text(kept.time_ns)}, "
        f"{counted(len(images), 'volume')}, {here}: "
        + ", ".join(f"nbd+unix:///{image.name}?socket={socket}" for image in images)
    )


def _say_progress(done: process.Progress) -> None:
    came_bytes = done.here_bytes - done.began_bytes
    line = f"streaming: {size_text(done.here_bytes)} of {size_text(done.total_bytes)} are here"
    if came_bytes > 0:
        per_second = came_bytes / done.seconds
        left_seconds = (done.total_bytes - done.here_bytes) / per_second
        line += f", {size_text(int(per_second))}/s, some {seconds_text(left_seconds)} left"
    say(line)


def _unread(error: CdpError) -> None:
    """Images tell what it means."""
