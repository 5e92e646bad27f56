"""The bucket that images go to: multipart uploads, one request after the other, each repeated with patience.

Which parts are sent does not belong here (upload), nor what is noted of them (workspace).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from cdp_container.clock import Clock
from cdp_container.errors import AccessDenied, CdpError, Incomplete, NotFound, StoreRefused
from cdp_container.store.keys import is_key
from cdp_container.store.retry import Patience, is_temporary
from cdp_container.store.s3_clients import CONNECT_SECONDS, Waits, nanoseconds, open_clients
from cdp_container.store.s3_errors import LIBRARY_ERRORS, Verb, typed_error
from cdp_container.store.s3_settings import S3Settings
from rehydrate.export.parts import Listed, Part, Sent

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PATIENCE: Final = Patience(attempts_max=12, deadline_seconds=300.0)
"""Of each request. What it does not outlast is gone on with by the next run."""

READ_SECONDS: Final = 120
"""How long an answer may take: that to the end of an upload comes when all of it was put together."""

UPLOADS_LISTED_MAX: Final = 1000
"""Unfinished uploads of one object that are told of, or ended."""

PAGES_MAX: Final = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that is there, and its metadata."""

    size_bytes: int
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that nobody has ended."""

    upload: str
    began_ns: int


class Bucket:
    """A place in a bucket. Any thread may ask.

    Args:
        settings: the place, and with whose credentials.
        clock: for the end of patience.
        ended: once it is set nobody waits any more.
    """

    def __init__(self, settings: S3Settings, clock: Clock, ended: threading.Event) -> None:
        self.settings = settings
        self._clock = clock
        self._ended = ended
        client, _ = open_clients(settings, clock, Waits(CONNECT_SECONDS, READ_SECONDS))
        self._client: S3Client = client

    def close(self) -> None:
        """Its connections."""
        self._client.close()

    def key_of(self, name: str) -> str | None:
        """The key of an object by its name; None where the name can be none."""
        key = self.settings.full_key(name)
        return key if is_key(key) else None

    def address_of(self, key: str) -> str:
        """For people and for clouds."""
        return f"s3://{self.settings.bucket}/{key}"

    def head(self, key: str) -> Stored | None:
        """What is there under a key."""

        def ask() -> Stored:
            answer = self._client.head_object(Bucket=self.settings.bucket, Key=key)
            return Stored(answer["ContentLength"], answer.get("Metadata", {}))

        try:
            return self._ask(f"look at {key}", "look at", ask)
        except NotFound:
            return None

    def check_may_write(self, key: str) -> None:
        """Begin an upload and abort it. Raises AccessDenied, NoSuchBucket: nothing could be written there."""
        self.abort(key, self.begin(key, {}))

    def begin(self, key: str, metadata: Mapping[str, str]) -> str:
        """Begin an upload; gives its id."""

        def ask() -> str:
            answer = self._client.create_multipart_upload(
                Bucket=self.settings.bucket,
                Key=key,
                Metadata=dict(metadata),
                ContentType="application/octet-stream",
            )
            return answer["UploadId"]

        return self._ask(f"begin to upload {key}", "create", ask)

    def listed(self, key: str, upload: str) -> list[Listed] | None:
        """The parts that the store has of an upload; None where there is no such upload any more."""
        found: list[Listed] = []
        marker = 0
        for _ in range(PAGES_MAX):
            page = self._page_of_parts(key, upload, marker)
            if page is None:
                return None
            found += [Listed(one["PartNumber"], one["ETag"], one["Size"]) for one in page.get("Parts", [])]
            after = int(page.get("NextPartNumberMarker") or 0)
            if not page.get("IsTruncated") or after <= marker:
                return found
            marker = after
        raise StoreRefused(f"list the parts of {key}", "the store's listing does not end")

    def _page_of_parts(self, key: str, upload: str, marker: int) -> Mapping[str, Any] | None:
        def ask() -> Mapping[str, Any]:
            return self._client.list_parts(
                Bucket=self.settings.bucket, Key=key, UploadId=upload, PartNumberMarker=marker
            )

        try:
            return self._ask(f"list the parts of {key}", "list", ask)
        except NotFound:
            return None

    def put_part(self, key: str, upload: str, part: Part, body: IO[bytes], md5: str) -> str:
        """Send a part; gives its ETag. `md5`: of its bytes, in base64; the store compares it."""

        def ask() -> str:
            body.seek(0)
            answer = self._client.upload_part(
                Bucket=self.settings.bucket,
                Key=key,
                UploadId=upload,
                PartNumber=part.number,
                Body=body,
                ContentLength=part.length,
                ContentMD5=md5,
            )
            return answer["ETag"]

        return self._ask(f"send part {part.number} of {key}", "create", ask)

    def complete(self, key: str, upload: str, sent: Sequence[Sent]) -> None:
        """Make the object of its parts. Raises NotFound: there is no such upload; it may be complete."""
        parts: Any = [{"PartNumber": one.number, "ETag": one.etag} for one in sent]

        def ask() -> None:
            self._client.complete_multipart_upload(
                Bucket=self.settings.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            )

        self._ask(f"complete {key}", "create", ask)

    def abort(self, key: str, upload: str) -> None:
        """End an upload; one that is not there is no matter."""

        def ask() -> None:
            self._client.abort_multipart_upload(Bucket=self.settings.bucket, Key=key, UploadId=upload)

        try:
            self._ask(f"abort the upload of {key}", "delete", ask)
        except NotFound:
            return

    def begun(self, key: str) -> list[Begun] | None:
        """Uploads of just this key that nobody has ended; None where the credentials may not ask."""

        def ask() -> list[Begun]:
            page = self._client.list_multipart_uploads(
                Bucket=self.settings.bucket, Prefix=key, MaxUploads=UPLOADS_LISTED_MAX
            )
            return [
                Begun(one["UploadId"], nanoseconds(one["Initiated"]))
                for one in page.get("Uploads", [])
                if one["Key"] == key
            ]

        try:
            return self._ask(f"list the uploads of {key}", "list", ask)
        except AccessDenied:
            return None

    def put(self, key: str, data: bytes, metadata: Mapping[str, str] = MappingProxyType({})) -> None:
        """A small object of JSON, over what is there."""

        def ask() -> None:
            self._client.put_object(
                Bucket=self.settings.bucket,
                Key=key,
                Body=data,
                Metadata=dict(metadata),
                ContentType="application/json",
            )

        self._ask(f"write {key}", "create", ask)

    def _ask(self, what: str, verb: Verb, ask: Callable[[], T]) -> T:
        """One request, again where it may well succeed later. Raises as `typed_error`, Incomplete."""
        what = f"{what} in {self.settings.bucket}"
        ends_at_ns = self._clock.boottime_ns() + int(PATIENCE.deadline_seconds * 1e9)
        for attempt in range(PATIENCE.attempts_max):
            try:
                return ask()
            except LIBRARY_ERRORS as error:
                found: CdpError = typed_error(error, what, verb)
            pause_seconds = min(PATIENCE.first_pause_seconds * 2.0**attempt, PATIENCE.pause_seconds_max)
            if (
                not is_temporary(found)
                or attempt + 1 == PATIENCE.attempts_max
                or self._clock.boottime_ns() + int(pause_seconds * 1e9) > ends_at_ns
            ):
                raise found
            if self._ended.wait(pause_seconds):
                raise Incomplete(what, "it was ended meanwhile", "the same command goes on")
        raise AssertionError("the last attempt returns or raises")
