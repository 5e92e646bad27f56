"""Where images of an export go: files, or a bucket; and how each of them is made there.

Which volumes of which point does not belong here (export_command).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cdp_container.clock import Clock
from cdp_container.console import printable, say
from cdp_container.domain.durable import replace_file
from cdp_container.errors import UsageError
from cdp_container.telling import point_name
from rehydrate.cli.export_lines import ExportLines
from rehydrate.cli.export_targets import CONFIGURATION_SUFFIX, Targets, configuration_path, paths_of
from rehydrate.cli.held import tell
from rehydrate.export.bucket import Bucket
from rehydrate.export.content import Bytes, Reported
from rehydrate.export.delivery import NONCE, Delivery, Item, Prepared, Ways
from rehydrate.export.files import check_target
from rehydrate.export.formats import RAW, Shape
from rehydrate.export.images import make_image
from rehydrate.export.workspace import Identity, locked
from rehydrate.file_names import file_names
from rehydrate.ondemand.reader import Content, Reader
from rehydrate.plan import VolumePlan
from rehydrate.points import RestorePlan


@dataclass(frozen=True, slots=True)
class Opened:
    """The point that is exported, and the domain's id in hex."""

    domain: str
    made: RestorePlan


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume to be exported: what reading it takes, its image's file name, the size of the disk in it."""

    plan: VolumePlan
    file: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """An image that is whole where it was to go; `more` is what else is told of it."""

    volume: str
    image: str
    target: str
    disk_bytes: int
    image_bytes: int
    more: tuple[tuple[str, str | int], ...] = ()

    def members(self) -> dict[str, Any]:
        """For programs."""
        return {
            "volume": self.volume,
            "image": self.image,
            "target": self.target,
            "disk_bytes": self.disk_bytes,
            "image_bytes": self.image_bytes,
            **dict(self.more),
        }


class Destination(Protocol):
    """Where images go."""

    def check(self, volumes: Sequence[Volume], vm: tuple[str, bytes] | None) -> None:
        """See whether all of them, and the configuration of a VM (name, id), may go there."""
        ...

    def make(self, volume: Volume, reader: Reader, lines: ExportLines) -> Done:
        """Make one image, wholly or not at all."""
        ...

    def put_configuration(self, name: str, vm: bytes, data: bytes) -> str:
        """Write the configuration of a VM beside its disks; gives where."""
        ...

    def finish(self, volumes: Sequence[Volume]) -> None:
        """All of it is there: forget what whoever repeats the command would have gone on with."""
        ...

    def abort(self, volumes: Sequence[Volume]) -> int:
        """End what is unfinished of these; gives how many there were."""
        ...


@contextmanager
def opened_destination(
    targets: Targets, shape: Shape, opened: Opened, clock: Clock, check: Callable[[], None]
) -> Iterator[Destination]:
    """Where images go. `check` is called all the time, and ends what is under way by raising."""
    if targets.bucket is None:
        yield _Files(targets, shape, clock, check)
        return
    assert targets.workspace is not None, "checked"
    ended = threading.Event()
    ways = Ways(
        targets.workspace, targets.force, targets.restart, targets.uploads, ended, tell, check, os.urandom
    )
    with locked(targets.workspace), closing(Bucket(targets.bucket, clock, ended)) as bucket:
        try:
            yield _InBucket(bucket, Delivery(bucket, ways), ways, shape, opened, clock)
        finally:
            ended.set()


def _bytes(volume: Volume, reader: Reader, clock: Clock, reported: Reported) -> Bytes:
    content = Content(volume.plan.volume.space, volume.plan.volume.size_bytes)
    return Bytes(reader, content, volume.size_bytes, clock, tell, reported)


class _Files:
    """See `Destination`."""

    def __init__(self, targets: Targets, shape: Shape, clock: Clock, check: Callable[[], None]) -> None:
        self._targets = targets
        self._shape = shape
        self._clock = clock
        self._check = check
        self._paths: dict[str, Path] = {}

    def check(self, volumes: Sequence[Volume], vm: tuple[str, bytes] | None) -> None:
        """See `Destination.check`."""
        sources = [one.plan.volume for one in volumes]
        paths = paths_of(self._targets, sources, self._shape) if sources else []
        self._paths = {one.file: path for one, path in zip(volumes, paths, strict=True)}
        beside = [] if vm is None else [configuration_path(self._targets, *vm)]
        if not {*beside}.isdisjoint(paths):
            raise UsageError("read --to", f"{beside[0]} is what the configuration of the VM is called")
        for path in (*paths, *beside):
            check_target(path, self._targets.force)

    def make(self, volume: Volume, reader: Reader, lines: ExportLines) -> Done:
        """See `Destination.make`."""
        path, data_bytes = self._paths[volume.file], volume.plan.totals.write_bytes
        with lines.step(path.name, "converting", data_bytes) as report:
            source = _bytes(volume, reader, self._clock, report)
            overwrote = make_image(
                path, source, self._shape, data_bytes, self._targets.force, os.environ, self._check
            )
        if overwrote:
            say(printable(f"overwrote: {overwrote}"))
        return Done(
            volume.plan.volume.name, self._shape.name, str(path), volume.size_bytes, path.stat().st_size
        )

    def put_configuration(self, name: str, vm: bytes, data: bytes) -> str:
        """See `Destination.put_configuration`."""
        path = configuration_path(self._targets, name, vm)
        check_target(path, self._targets.force)  # again: images took hours
        replace_file(path, data)
        return str(path)

    def finish(self, volumes: Sequence[Volume]) -> None:
        """See `Destination.finish`."""

    def abort(self, volumes: Sequence[Volume]) -> int:
        """See `Destination.abort`."""
        raise AssertionError("the options say that only a bucket has something unfinished")


class _InBucket:
    """See `Destination`."""

    def __init__(
        self, bucket: Bucket, delivery: Delivery, ways: Ways, shape: Shape, opened: Opened, clock: Clock
    ) -> None:
        self._bucket = bucket
        self._delivery = delivery
        self._ways = ways
        self._shape = shape
        self._opened = opened
        self._clock = clock
        self._prepared: dict[str, Prepared] = {}

    def check(self, volumes: Sequence[Volume], vm: tuple[str, bytes] | None) -> None:
        """See `Destination.check`."""
        for one in volumes:
            if one.file not in self._prepared:
                self._prepared[one.file] = self._delivery.prepare(self._item(one))
        if vm is not None:
            self._delivery.check_free(self._configuration_key(*vm), self._nonces)

    def make(self, volume: Volume, reader: Reader, lines: ExportLines) -> Done:
        """See `Destination.make`."""
        data_bytes, name = volume.plan.totals.write_bytes, volume.file
        content = Content(volume.plan.volume.space, volume.plan.volume.size_bytes)
        source = Bytes(reader, content, volume.size_bytes, self._clock, tell, ended=self._ways.ended)

        def make(path: Path) -> None:
            with lines.step(name, "converting", data_bytes) as report:
                read = _bytes(volume, reader, self._clock, report)
                make_image(path, read, self._shape, data_bytes, True, os.environ, self._ways.check)

        delivered = self._delivery.deliver(self._prepared[name], make, source, partial(lines.step, name))
        digest = (("sha256", delivered.sha256),) if delivered.sha256 else ()
        return Done(
            volume.plan.volume.name,
            self._shape.name,
            self._bucket.address_of(delivered.key),
            volume.size_bytes,
            delivered.size_bytes,
            (*digest, ("parts_sent", delivered.sent), ("parts_there", delivered.there)),
        )

    def put_configuration(self, name: str, vm: bytes, data: bytes) -> str:
        """See `Destination.put_configuration`."""
        key = self._configuration_key(name, vm)
        self._delivery.check_free(key, self._nonces)  # again: images took hours
        self._bucket.put(key, data, {NONCE: self._nonces[0]} if self._nonces else {})
        return self._bucket.address_of(key)

    def finish(self, volumes: Sequence[Volume]) -> None:
        """See `Destination.finish`."""
        self._delivery.finish(map(self._item, volumes))

    def abort(self, volumes: Sequence[Volume]) -> int:
        """See `Destination.abort`."""
        return sum(self._delivery.abort(self._item(one)) for one in volumes)

    @property
    def _nonces(self) -> list[str]:
        """By which what this command, begun before or now, wrote there is known."""
        return [one.state.nonce for one in self._prepared.values()]

    def _item(self, volume: Volume) -> Item:
        made, space = self._opened.made, volume.plan.volume.space.hex()
        place = made.cut.place
        identity = Identity(
            domain=self._opened.domain,
            point=point_name(place.epoch, place.cut),
            volume=space,
            rests_on=made.rests_on,
            image=self._shape.name,
            size_bytes=volume.size_bytes,
            address=self._bucket.settings.address(),
            key=self._key(volume.file, space + self._shape.suffix),
        )
        return Item(volume.file, identity, self._shape.format == RAW)

    def _configuration_key(self, name: str, vm: bytes) -> str:
        (file,) = file_names([(name, vm)], CONFIGURATION_SUFFIX)
        return self._key(file, vm.hex() + CONFIGURATION_SUFFIX)

    def _key(self, name: str, otherwise: str) -> str:
        key = self._bucket.key_of(name) or self._bucket.key_of(otherwise)
        assert key is not None, "an id can be a key"
        return key
