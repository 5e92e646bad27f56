"""An image on its way into a bucket: looked at before anything long begins, gone on with, verified, cleared.

    prepared = delivery.prepare(item)        # for each, before the first byte
    delivered = delivery.deliver(prepared, make, source)

How an image is made does not belong here (files, convert), nor how parts are sent (upload).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cdp_container.console import printable
from cdp_container.errors import NotFound, StoreRefused, TargetNotEmpty, TargetUnsuitable, counted
from cdp_container.telling import time_text
from rehydrate.export.bucket import Bucket, Stored
from rehydrate.export.content import Bytes
from rehydrate.export.files import check_target
from rehydrate.export.parts import part_bytes_for, parts_of, parts_there
from rehydrate.export.upload import STEP_BYTES, FileParts, PartSource, VolumeParts, send_parts
from rehydrate.export.workspace import (
    Identity,
    Made,
    Notes,
    State,
    clear,
    forget,
    is_whole,
    read_state,
    write_state,
)
from rehydrate.localio import os_errors

NONCE_BYTES: Final = 16
NONCE: Final = "cdp-export"
"""The metadata by which an object is known to be of one upload."""
MANIFEST_SUFFIX: Final = ".parts.json"

Reported = Callable[[int], None]
"""Told of bytes that were done, from any thread."""

Steps = Callable[[str, int], AbstractContextManager[Reported]]
"""Shows a step, by its name and how many bytes it has."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How it is done; `tell` is given lines for people, `check` is called all the time and may raise."""

    workspace: Path
    force: bool
    restart: bool
    at_once: int
    ended: threading.Event
    tell: Callable[[str], None]
    check: Callable[[], None]
    entropy: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """One image; `name` is that of its file, `is_streamed` where none is made."""

    name: str
    identity: Identity
    is_streamed: bool

    @property
    def key(self) -> str:
        """Of its object."""
        return self.identity.key


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found of it. `stored` where the object is there already, by this very upload."""

    item: Item
    state: State
    stored: Stored | None


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of it; `sha256` is empty where no image was made. Counts are of parts."""

    key: str
    size_bytes: int
    sha256: str
    sent: int
    there: int


class Delivery:
    """Brings images into one bucket; the workspace is locked by whoever has it."""

    def __init__(self, bucket: Bucket, ways: Ways) -> None:
        self._bucket = bucket
        self._ways = ways

    def prepare(self, item: Item) -> Prepared:
        """See what is there, here and in the bucket, and whether anything may be written.

        Raises:
            TargetNotEmpty: an object of this name is there and there is no `force`; or something else than
                this was left in the workspace.
            AccessDenied, NoSuchBucket, StoreUnavailable and their kin: as the bucket says.
        """
        ways, bucket = self._ways, self._bucket
        state = None if ways.restart else read_state(ways.workspace, item.name)
        if ways.restart:
            self._discard(item)
        if state is not None and state.identity != item.identity:
            raise _of_another(item, state)
        stored = bucket.head(item.key)
        if stored is not None and state is not None and stored.metadata.get(NONCE) == state.nonce:
            return Prepared(item, state, stored)
        if stored is not None and not ways.force:
            raise self._occupied(item.key, stored)
        if item.is_streamed:
            self._check_manifest(item, state, is_alone=stored is None)
        elif state is None:
            check_target(ways.workspace / item.name, ways.force)
        if stored is not None:
            ways.tell(f"overwriting {bucket.address_of(item.key)}: {counted(stored.size_bytes, 'byte')}")
        if state is None or not state.upload:
            self._tell_of_others(item)
            bucket.check_may_write(item.key)
        if state is None:
            state = State(item.identity, ways.entropy(NONCE_BYTES).hex())
        return Prepared(item, state, None)

    def deliver(
        self,
        prepared: Prepared,
        make: Callable[[Path], None],
        source: Bytes,
        steps: Steps,
    ) -> Delivered:
        """Bring one into the bucket, and clear the workspace of all but the note that it is there.

        Args:
            prepared: what was found of it.
            make: makes the image at a path, over whatever is there; not called where none is made.
            source: of the bytes of one that is not made.
            steps: see `Steps`.

        Raises as `make`, `send_parts`; StoreRefused: what is there in the end is not what was sent.
        """
        item, state = prepared.item, prepared.state
        workspace = self._ways.workspace
        if prepared.stored is not None:  # it was complete when this was killed
            self._note_done(item, state)
            sha256 = "" if state.made is None else state.made.sha256
            return Delivered(item.key, prepared.stored.size_bytes, sha256, 0, 0)
        write_state(workspace, item.name, state)
        path = workspace / item.name
        parts: PartSource
        if item.is_streamed:
            size_bytes, parts = item.identity.size_bytes, VolumeParts(source, workspace)
        else:
            state = self._with_image(item, state, path, make, steps)
            assert state.made is not None, "made"
            size_bytes, parts = state.made.size_bytes, FileParts(path)
        with steps("uploading", size_bytes) as report:
            delivered = self._send(item, state, size_bytes, parts, report)
        self._note_done(item, state)
        return delivered

    def finish(self, items: Iterable[Item]) -> None:
        """Clear the workspace of all that was delivered: the command that asked for it is through."""
        for item in items:
            forget(self._ways.workspace, item.name, not item.is_streamed)

    def check_free(self, key: str, ours: Collection[str]) -> None:
        """Of what is small and written at once: see whether it may be. Raises TargetNotEmpty.

        `ours`: nonces; what has one of them was written by this command, before it was interrupted.
        """
        stored = None if self._ways.force else self._bucket.head(key)
        if stored is not None and stored.metadata.get(NONCE) not in ours:
            raise self._occupied(key, stored)

    def abort(self, item: Item) -> int:
        """End all uploads of its object, and clear the workspace of it; gives how many there were."""
        ended = self._discard(item)
        for one in self._bucket.begun(item.key) or ():
            self._bucket.abort(item.key, one.upload)
            ended.add(one.upload)
        return len(ended)

    # --- inside ----------------------------------------------------------------------------------

    def _note_done(self, item: Item, state: State) -> None:
        """Whoever repeats the command, which has others to bring there, is to know this one as its own."""
        write_state(self._ways.workspace, item.name, replace(state, upload=""))
        clear(self._ways.workspace, item.name, not item.is_streamed)

    def _occupied(self, key: str, stored: Stored, hint: str | None = None) -> TargetNotEmpty:
        why = f"an object of {counted(stored.size_bytes, 'byte')} is there"
        return TargetNotEmpty(f"export to {self._bucket.address_of(key)}", why, hint)

    def _check_manifest(
        self, item: Item, state: State | None, is_alone: bool, hint: str | None = None
    ) -> None:
        """Whether the list of digests beside an object is nobody else's. Raises TargetNotEmpty.

        `is_alone`: there is no such object; then a list that an export made is one that it never finished.
        """
        if self._ways.force:
            return
        key = item.key + MANIFEST_SUFFIX
        stored = self._bucket.head(key)
        if stored is None or (is_alone and NONCE in stored.metadata):
            return
        if state is None or stored.metadata.get(NONCE) != state.nonce:
            raise self._occupied(key, stored, hint)

    def _check_still_free(self, item: Item, state: State) -> None:
        """Whether somebody else has made the object in the hours since `prepare`. The upload stays as it is.

        Between this and the end of the upload it may still be made, and be lost: not all stores know a
        condition (If-None-Match) there, and those that do not would pass over it in silence.
        """
        if self._ways.force:
            return
        stored = self._bucket.head(item.key)
        hint = (
            "all parts were sent, and are kept: once that object is moved away, or with --force, the "
            "same command goes on with them; --abort ends the upload"
        )
        if stored is not None and stored.metadata.get(NONCE) != state.nonce:
            raise self._occupied(item.key, stored, hint)
        if item.is_streamed:
            self._check_manifest(item, state, stored is None, hint)

    def _discard(self, item: Item) -> set[str]:
        """End the upload that the workspace knows of, and clear that of it; gives its id, if any."""
        ended: set[str] = set()
        state = _read_leniently(self._ways.workspace, item)
        if state is None:
            return ended
        if state.upload and state.identity.address == item.identity.address:
            self._bucket.abort(state.identity.key, state.upload)
            ended.add(state.upload)
        elif state.upload:
            where = f"{state.identity.key} at {state.identity.address}"
            self._ways.tell(f"an upload is left unfinished elsewhere: {where}")
        forget(self._ways.workspace, item.name, not item.is_streamed)
        return ended

    def _tell_of_others(self, item: Item) -> None:
        begun = self._bucket.begun(item.key)
        if begun is None:
            self._ways.tell("these credentials may not list uploads: abandoned ones are not told of")
            return
        for one in begun:
            where, since = self._bucket.address_of(item.key), time_text(one.began_ns)
            self._ways.tell(f"{where} has an unfinished upload since {since}; --abort ends it")

    def _with_image(
        self, item: Item, state: State, path: Path, make: Callable[[Path], None], steps: Steps
    ) -> State:
        """The state once the image is whole, and its digest known."""
        workspace, ways = self._ways.workspace, self._ways
        if is_whole(path, state.made):
            return state
        if state.made is not None:
            ways.tell(f"{path} was changed or removed since: it is made anew")
        if state.upload:
            self._bucket.abort(item.key, state.upload)
        Notes(workspace, item.name).clear()
        state = State(item.identity, state.nonce)
        write_state(workspace, item.name, state)
        make(path)
        with os_errors(f"look at {path}"):
            size_bytes = path.stat().st_size
        with steps("hashing", size_bytes) as hashed:
            state = replace(state, made=made_of(path, hashed, ways.check))
        write_state(workspace, item.name, state)
        return state

    def _send(
        self, item: Item, state: State, size_bytes: int, source: PartSource, report: Reported
    ) -> Delivered:
        bucket, ways, notes = self._bucket, self._ways, Notes(self._ways.workspace, item.name)
        listed = bucket.listed(item.key, state.upload) if state.upload else None
        if listed is None:
            if state.upload:
                ways.tell(f"the upload of {item.name} was ended by somebody: another is begun")
            part_bytes = part_bytes_for(size_bytes)
            notes.clear()
            upload = bucket.begin(item.key, self._metadata(state))
            state = replace(state, upload=upload, part_bytes=part_bytes)
            write_state(ways.workspace, item.name, state)
            listed = []
        parts = parts_of(size_bytes, state.part_bytes)
        there = parts_there(parts, listed, notes.read())
        missing = [part for part in parts if part.number not in there]
        if there:
            count = counted(len(there), "part")
            ways.tell(
                f"going on with the interrupted upload of {item.name}: {count} of {len(parts)} are there"
            )
            report(sum(part.length for part in parts if part.number in there))
        sent = send_parts(
            bucket,
            item.key,
            state.upload,
            missing,
            source,
            notes,
            ways.at_once,
            ways.ended,
            report,
            ways.check,
        )
        everything = sorted([*there.values(), *sent], key=lambda one: one.number)
        assert [one.number for one in everything] == [part.number for part in parts], "all were sent"
        sha256 = "" if state.made is None else state.made.sha256
        self._check_still_free(item, state)
        if item.is_streamed:
            digests = [one.sha256 for one in everything]
            self._put_manifest(item, state, size_bytes, digests)
        try:
            bucket.complete(item.key, state.upload, everything)
        except NotFound:  # the reply was lost; or somebody ended it just now
            ways.tell(f"the upload of {item.name} is not there any more: the object is looked at")
        check_complete(item.key, bucket.head(item.key), size_bytes, (NONCE, state.nonce))
        return Delivered(item.key, size_bytes, sha256, len(sent), len(there))

    def _metadata(self, state: State) -> dict[str, str]:
        one = state.identity
        members = {
            "cdp-domain": one.domain,
            "cdp-point": one.point,
            "cdp-volume": one.volume,
            "cdp-format": one.image,
            NONCE: state.nonce,
        }
        return members if state.made is None else {**members, "sha256": state.made.sha256}

    def _put_manifest(self, item: Item, state: State, size_bytes: int, digests: list[str]) -> None:
        """The digests of parts, beside the object: metadata has to be told before the first byte."""
        members = {
            **self._metadata(state),
            "size_bytes": size_bytes,
            "part_bytes": state.part_bytes,
            "sha256_of_parts": digests,
        }
        data = json.dumps(members, indent=1).encode()
        self._bucket.put(item.key + MANIFEST_SUFFIX, data, {NONCE: state.nonce})


def _read_leniently(workspace: Path, item: Item) -> State | None:
    """What was left, where it makes sense; what makes none is removed, as nobody could go on with it."""
    try:
        return read_state(workspace, item.name)
    except TargetUnsuitable:
        forget(workspace, item.name, not item.is_streamed)
        return None


def made_of(path: Path, hashed: Reported, check: Callable[[], None]) -> Made:
    """The size and digest of an image that is whole."""
    digest = hashlib.sha256()
    with os_errors(f"read {path}"), path.open("rb") as file:
        while data := file.read(STEP_BYTES):
            digest.update(data)
            hashed(len(data))
            check()
        status = os.fstat(file.fileno())
    return Made(status.st_size, digest.hexdigest(), status.st_ino, status.st_mtime_ns)


def _of_another(item: Item, state: State) -> TargetNotEmpty:
    """Why what was left in the workspace cannot be gone on with."""
    there, wanted = state.identity, item.identity
    what = f"export {item.name}"
    same_point = replace(there, point=wanted.point, rests_on=wanted.rests_on) == wanted
    if same_point:
        why = f"an interrupted export of point {there.point} was left in the workspace"
        hint = f"--at {there.point} goes on with it; --restart discards it and starts anew"
    else:
        why = printable(f"an interrupted export of another kind, volume or bucket was left: {there.image}, "
                        f"s3://…/{there.key}")  # fmt: skip
        hint = "another --workspace; or --restart, which discards it and starts anew"
    return TargetNotEmpty(what, why, hint)


def check_complete(key: str, stored: Stored | None, size_bytes: int, mark: tuple[str, str]) -> None:
    """Raises StoreRefused where an object is not what was sent."""
    name, value = mark
    if stored is None:
        raise StoreRefused(f"look at {key}", "its upload was completed, and it is not there", "run it again")
    if stored.size_bytes != size_bytes or stored.metadata.get(name) != value:
        why = f"{size_bytes} bytes were sent, and {stored.size_bytes} are there, or another's object"
        raise StoreRefused(f"look at {key}", why, "somebody else may have written it: run it again")
