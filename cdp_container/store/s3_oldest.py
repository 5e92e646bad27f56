"""A place in a bucket that keeps versions, where an object is the oldest version of its key (decision 17).

What is put upon an object later hides nothing, nor does a delete marker: both are seen, and told. What is
enforced in such buckets differs, so a create-only PUT is judged by what is the oldest afterwards. The locks
are the bucket's: nothing here sets one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from botocore.exceptions import ClientError

from cdp_container.clock import Clock
from cdp_container.errors import (
    AccessDenied,
    NotFound,
    ObjectLocked,
    PreconditionFailed,
    StoreRefused,
    StoreUnavailable,
)
from cdp_container.store.api import Blob, Found
from cdp_container.store.keys import check_beginning, is_key
from cdp_container.store.s3 import LIST_PAGE_KEYS, S3Store
from cdp_container.store.s3_clients import Waits, nanoseconds, short_waits
from cdp_container.store.s3_settings import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3.literals import ObjectLockRetentionModeType
    from mypy_boto3_s3.type_defs import ListObjectVersionsRequestTypeDef

KNOWN_MAX: Final = 200_000
"""Keys whose oldest version is remembered: some 60 MiB."""
UNSURE_MAX: Final = 10_000
"""Keys whose PUT had no answer; a writer has a few of them on the way."""
PAGES_MAX: Final = 1_000_000
"""Of one listing: a stop for a server whose pages never end."""
LATER_MAX: Final = 100_000
"""Keys with something later upon them that are counted."""

_STRICT: Final = "COMPLIANCE"
"""The mode in which nobody can shorten a lock."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Version:
    """A version of an object, or (`marker`) a delete marker."""

    name: str
    found: Found
    marker: bool = False


@dataclass(frozen=True, slots=True)
class _Retention:
    """How a version is locked."""

    mode: str
    until: datetime

    @property
    def until_ns(self) -> int:
        """In nanoseconds since 1970."""
        return nanoseconds(self.until)


@dataclass(slots=True)
class Later:
    """What listings showed upon objects: later versions that are not the same again, and delete markers."""

    overwritten: set[str] = field(default_factory=set)
    marked: set[str] = field(default_factory=set)

    def notes(self) -> list[str]:
        """For people; none where there was nothing."""
        said = []
        for keys, what in ((self.overwritten, "a later version"), (self.marked, "a delete marker")):
            if keys:
                count = f"{len(keys)} keys have" if len(keys) > 1 else "1 key has"
                said.append(
                    f"{count} {what} upon the object, which counts all the same: {min(keys)} is the first"
                )
        return said


class OldestS3Store(S3Store):
    """See `cdp_container.store.api.Store`; a PUT takes one request more, and so does a key not yet seen."""

    def __init__(self, settings: S3Settings, clock: Clock | None = None, waits: Waits | None = None) -> None:
        super().__init__(settings, clock, waits)
        self._known: dict[str, Version] = {}
        self._unsure: set[str] = set()
        self._later = Later()

    @property
    def later(self) -> Later:
        """What was seen so far; all of it once everything was listed."""
        return self._later

    def later_notes(self) -> Sequence[str]:
        """See `cdp_container.domain.places.TellsLater`."""
        return self._later.notes()

    def limited(self, limit_seconds: int) -> OldestS3Store:
        """See `prompt.LimitsAnswers`."""
        return OldestS3Store(self._settings, self._clock, short_waits(limit_seconds))

    def check_versions(self) -> None:
        """Raises StoreRefused where the bucket keeps none: then what is put upon an object is the object."""
        with self._errors("look at", ""):
            status = self._control.get_bucket_versioning(Bucket=self._settings.bucket).get("Status")
        if status != "Enabled":
            why = "its bucket keeps no versions, so what was overwritten is gone"
            hint = "enable versions (an Object Lock has them), or leave versions=oldest out of the address"
            raise StoreRefused(f"trust the data place {self.address}", why, hint)

    # --- reading -------------------------------------------------------------------------------

    def get(self, key: str) -> Blob:
        """See `Store.get`."""
        name = self._full(key)
        with self._errors("read", key):
            return self._read(key, lambda version: self._blob(key, self._data.get(name, version)))

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """See `Store.get_unless`; nothing here ever changes."""
        return None if self.head(key).tag == tag else self.get(key)

    def head(self, key: str) -> Found:
        """See `Store.head`; what is remembered does not count."""
        found = self._look(key)
        if found is None:
            raise NotFound(f"look at {key} in {self.address}", "there is no such object")
        return found.found

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store.list`; keys that no store takes are left out."""
        beginning = self._settings.full_key(check_beginning(prefix))
        after = self._settings.full_key(start_after) if start_after else ""
        for oldest in self._groups(beginning, after):
            if is_key(oldest.found.key):
                self._remember(oldest)
                yield oldest.found

    def _range(self, key: str, start: int, length: int) -> bytes:
        name = self._full(key)
        return self._read(key, lambda version: self._data.get_range(name, start, length, version))

    def _read(self, key: str, ask: Callable[[str], T]) -> T:
        oldest = self._known.get(key) or self._look(key)
        if oldest is None:
            raise NotFound(f"read {key} in {self.address}", "there is no such object")
        try:
            return ask(oldest.name)
        except (FileNotFoundError, ClientError):
            self._known.pop(key, None)  # it may have been collected
            raise

    # --- writing -------------------------------------------------------------------------------

    def put_new(self, key: str, data: bytes) -> str:
        """See `Store.put_new`. PreconditionFailed: another version is the oldest, whatever the store said."""
        if key in self._unsure and self._look(key) is not None:
            self._unsure.discard(key)
            raise PreconditionFailed(f"create {key} in {self.address}", "an object has this key already")
        if len(self._unsure) >= UNSURE_MAX:
            self._unsure.clear()  # at worst a version is stored, and locked, twice
        self._unsure.add(key)
        try:
            tag = super().put_new(key, data)
        except PreconditionFailed:
            self._unsure.discard(key)
            raise
        oldest = self._look(key)
        if oldest is None:
            raise StoreUnavailable(f"create {key} in {self.address}", "the store does not show what it took")
        self._unsure.discard(key)
        if oldest.found.tag.strip('"') != tag.strip('"'):
            raise PreconditionFailed(f"create {key} in {self.address}", "another version of it is older")
        return tag

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """See `Store.put_if`: nothing is replaced here."""
        raise StoreRefused(
            f"replace {key} in {self.address}", "its bucket keeps versions, where conditions may be ignored"
        )

    def delete(self, key: str) -> None:
        """See `Store.delete`: all versions and delete markers, the oldest last. Raises ObjectLocked."""
        self._known.pop(key, None)
        for version in self._versions_of(key):
            try:
                with self._errors("delete", key):
                    self._control.delete_object(
                        Bucket=self._settings.bucket, Key=self._full(key), VersionId=version.name
                    )
            except NotFound:
                continue
            except AccessDenied as error:
                raise self._locked(key, version) or error from error  # or StoreUnavailable: it may be locked

    def extend(self, key: str, mode: str, until_ns: int) -> None:
        """Lock an object until then at least, in a mode of S3 or as strictly as it is locked already.

        Nothing is changed where nobody can tell how it is locked. Raises NotFound, AccessDenied,
        StoreUnavailable.
        """
        oldest = self._known.get(key) or self._look(key)
        if oldest is None:
            raise NotFound(f"lock {key} in {self.address}", "there is no such object")
        held = self._retention(key, oldest)
        if held is not None and held.until_ns >= until_ns:
            return  # the bucket's default was longer, and nobody may shorten that
        if held is not None and held.mode == _STRICT:
            mode = _STRICT  # some stores would let us weaken it
        until = datetime.fromtimestamp(-(-until_ns // 1_000_000_000), UTC)
        with self._errors("look at", key):
            self._control.put_object_retention(
                Bucket=self._settings.bucket,
                Key=self._full(key),
                VersionId=oldest.name,
                Retention={"Mode": cast("ObjectLockRetentionModeType", mode), "RetainUntilDate": until},
            )

    def _retention(self, key: str, version: Version) -> _Retention | None:
        """A version's lock, None where the store says that it has none, or knows none.

        Raises AccessDenied, StoreUnavailable and their kin: nobody knows then, and it may well be locked.
        """
        try:
            with self._errors("look at", key):
                answer = self._control.get_object_retention(
                    Bucket=self._settings.bucket, Key=self._full(key), VersionId=version.name
                )
        except (NotFound, StoreRefused):
            return None
        found = answer.get("Retention", {})
        until = found.get("RetainUntilDate")
        return None if until is None else _Retention(found.get("Mode", ""), until)

    def _locked(self, key: str, version: Version) -> ObjectLocked | None:
        """What it means that a version cannot be deleted: its lock, or None where nothing tells of one.

        Where we may not ask, either, the denial stands, and is told.
        """
        try:
            held = self._retention(key, version)
        except AccessDenied:
            return None
        if held is None:
            return None
        locked = ObjectLocked(
            f"delete {key} in {self.address}", f"it is locked until {held.until:%Y-%m-%d %H:%M} UTC"
        )
        locked.until_ns = held.until_ns
        return locked

    def _is_absent(self, key: str) -> bool:
        """A denial is one: what is absent was told by the listing that named the version."""
        return False

    # --- versions ------------------------------------------------------------------------------

    def _look(self, key: str) -> Version | None:
        """The oldest version of a key as it stands now."""
        oldest = None
        for version in self._versions_of(key):
            oldest = oldest if version.marker else version
        if oldest is not None:
            self._remember(oldest)
        return oldest

    def _versions_of(self, key: str) -> Sequence[Version]:
        """The newest first; delete markers stand before the versions of their page."""
        name, found = self._full(key), []
        for page in self._pages(name, ""):
            entries = [*_markers(page), *_versions(page)]
            found += [self._version(entry, marker) for entry, marker in entries if entry["Key"] == name]
            if any(entry["Key"] != name for entry, _ in entries):
                break  # the key itself sorts before all others that begin with it
        return found

    def _groups(self, beginning: str, after: str) -> Iterator[Version]:
        """The oldest version of each key."""
        newer: list[str] = []
        oldest: Version | None = None
        last = after
        for page in self._pages(beginning, after):
            for entry, _ in _markers(page):
                self._count(self._later.marked, self._version(entry, True).found.key)
            for entry, _ in _versions(page):
                if entry["Key"] <= after:
                    continue  # some servers begin with the key after which they were asked
                if entry["Key"] < last:
                    raise StoreRefused(f"list {self.address}", "the store does not list in the order of keys")
                version, last = self._version(entry, False), entry["Key"]
                if oldest is not None and oldest.found.key != version.found.key:
                    self._judge(oldest, newer)
                    yield oldest
                    newer = []
                elif oldest is not None:
                    newer.append(oldest.found.tag)
                oldest = version
        if oldest is not None:
            self._judge(oldest, newer)
            yield oldest

    def _judge(self, oldest: Version, newer: Sequence[str]) -> None:
        """The same bytes again are our own PUT whose answer was lost."""
        if any(tag != oldest.found.tag for tag in newer):
            self._count(self._later.overwritten, oldest.found.key)

    def _count(self, keys: set[str], key: str) -> None:
        if len(keys) < LATER_MAX:
            keys.add(key)

    def _pages(self, beginning: str, after: str) -> Iterator[Any]:
        request: ListObjectVersionsRequestTypeDef = {
            "Bucket": self._settings.bucket,
            "Prefix": beginning,
            "MaxKeys": LIST_PAGE_KEYS,
        }
        if after:
            request["KeyMarker"] = after
        for _ in range(PAGES_MAX):
            with self._errors("list", beginning):
                page = self._control.list_object_versions(**request)
            yield page
            if not page.get("IsTruncated"):
                return
            asked = (request.get("KeyMarker"), request.get("VersionIdMarker"))
            request["KeyMarker"] = page["NextKeyMarker"]
            request.pop("VersionIdMarker", None)
            if page.get("NextVersionIdMarker"):
                request["VersionIdMarker"] = page["NextVersionIdMarker"]
            if asked == (request["KeyMarker"], request.get("VersionIdMarker")):
                break
        raise StoreRefused(f"list {self.address}", "the store's listing does not end")

    def _version(self, entry: Any, marker: bool) -> Version:  # noqa: ANN401
        key = entry["Key"][len(self._settings.full_key("")) :]
        modified_ns = nanoseconds(entry["LastModified"])
        found = Found(key, entry.get("Size", 0), entry.get("ETag", ""), modified_ns)
        return Version(entry["VersionId"], found, marker)

    def _remember(self, oldest: Version) -> None:
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[oldest.found.key] = oldest


def _versions(page: Any) -> list[tuple[Any, bool]]:  # noqa: ANN401
    return [(entry, False) for entry in page.get("Versions", [])]


def _markers(page: Any) -> list[tuple[Any, bool]]:  # noqa: ANN401
    return [(entry, True) for entry in page.get("DeleteMarkers", [])]
