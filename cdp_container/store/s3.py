"""A store in an S3 bucket: AWS, Ceph RGW, MinIO and their like.

boto3 asks and decides (conditional replacement, HEAD, LIST, DELETE), a data client moves bytes.
Every method is one request, made once. Retries, and whether the server keeps its word, do not
belong here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from botocore.exceptions import ClientError

from cdp_container.clock import Clock, SystemClock
from cdp_container.errors import (
    AccessDenied,
    NoSuchBucket,
    NotFound,
    StoreRefused,
    StoreUnavailable,
    UsageError,
)
from cdp_container.store.api import Blob, Found
from cdp_container.store.keys import check_beginning, check_key, is_key
from cdp_container.store.put_pace import PutPace
from cdp_container.store.s3_clients import (
    Fetched,
    Waits,
    fetched,
    nanoseconds,
    open_clients,
    short_waits,
    signing_keys,
)
from cdp_container.store.s3_errors import (
    LIBRARY_ERRORS,
    Verb,
    is_past_the_end,
    is_refused_by_policy,
    typed_error,
)
from cdp_container.store.s3_settings import Addressing, S3Settings, TagSpelling

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef, ListObjectsV2RequestTypeDef

LIST_PAGE_KEYS = 1000

RENEW_SECONDS = 10
"""A store that denies us makes us look for other credentials, but no more often than this."""


class S3Store:
    """See `cdp_container.store.api.Store`.

    Opening it makes no request. It must not be carried over a fork: obstore has threads.

    Args:
        settings: which place; `tag_spelling` changes when `spell_tags` is told what the probe found.
        clock: tells when to look for credentials again, and how long puts take.
        waits: how long an answer is waited for.
    """

    def __init__(self, settings: S3Settings, clock: Clock | None = None, waits: Waits | None = None) -> None:
        self._settings = settings
        self._clock = clock if clock is not None else SystemClock()
        self._waits = waits if waits is not None else Waits()
        self._pace = PutPace(self._waits.put_seconds)
        self._renewing = threading.Lock()
        self._renew_at_ns = 0
        self._control, self._data = open_clients(settings, self._clock, self._waits)
        self._bucket_seen = False

    @property
    def settings(self) -> S3Settings:
        """The settings in force."""
        return self._settings

    @property
    def resolved(self) -> S3Settings:
        """The settings with the endpoint and region that a profile or the provider's defaults gave."""
        meta, way = self._control.meta, "path" if self._settings.in_path else "virtual"
        return replace(
            self._settings,
            endpoint=meta.endpoint_url.rstrip("/"),
            region=meta.region_name,
            addressing=cast(Addressing, way),
        )

    @property
    def address(self) -> str:
        """See `Store.address`."""
        return self._settings.address()

    def signing_keys(self) -> tuple[str, str, str | None]:
        """See `s3_settings.SignsRequests`."""
        return signing_keys(self._settings)

    def spell_tags(self, spelling: TagSpelling) -> None:
        """Send tags in If-Match like this from now on (see `cdp_container.store.attest.probe`)."""
        self._settings = replace(self._settings, tag_spelling=spelling)

    def limited(self, limit_seconds: int) -> S3Store:
        """See `prompt.LimitsAnswers`; with what is known of the server by now."""
        return S3Store(self._settings, self._clock, short_waits(limit_seconds))

    def get(self, key: str) -> Blob:
        """See `Store.get`."""
        with self._errors("read", key):
            return self._blob(key, self._data.get(self._full(key)))

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """See `Store.get_unless`."""
        with self._errors("read", key):
            name = self._full(key)
            try:
                # Reads take the tag as the server spelled it, whatever If-Match wants.
                answer = self._control.get_object(Bucket=self._settings.bucket, Key=name, IfNoneMatch=tag)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 304:
                    return None
                raise
            return self._blob(key, fetched(name, answer))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.get_range`."""
        assert min(start, length) >= 0, (start, length)
        if length == 0:
            self.head(key)
            return b""
        with self._errors("read", key):
            try:
                data = self._range(key, start, length)
            except LIBRARY_ERRORS as error:
                if is_past_the_end(error):
                    return b""
                raise
        assert len(data) <= length, (len(data), length)
        return data

    def head(self, key: str) -> Found:
        """See `Store.head`."""
        try:
            with self._errors("look at", key):
                answer = self._control.head_object(Bucket=self._settings.bucket, Key=self._full(key))
        except NotFound as absent:
            self._check_bucket(absent)
            raise
        return Found(
            key=key,
            size=answer["ContentLength"],
            tag=self._checked_tag(key, answer.get("ETag", "")),
            modified_ns=nanoseconds(answer["LastModified"]),
        )

    def put_new(self, key: str, data: bytes) -> str:
        """See `Store.put_new`."""
        limit_seconds, began_ns = self._pace.limit_seconds, self._clock.boottime_ns()
        try:
            with self._errors("create", key):
                tag = self._checked_tag(key, self._data.put_new(self._full(key), data, limit_seconds))
        except StoreUnavailable:
            self._pace.failed(limit_seconds, self._seconds_since(began_ns))
            raise
        self._pace.succeeded(self._seconds_since(began_ns))
        return tag

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """See `Store.put_if`."""
        spelled = tag if self._settings.tag_spelling == "as-given" else tag.strip('"')
        with self._errors("replace", key):
            answer = self._control.put_object(
                Bucket=self._settings.bucket, Key=self._full(key), Body=data, IfMatch=spelled
            )
            return self._checked_tag(key, answer.get("ETag", ""))

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        try:
            with self._errors("delete", key):
                self._control.delete_object(Bucket=self._settings.bucket, Key=self._full(key))
        except NotFound:
            return

    def delete_if(self, key: str, tag: str) -> None:
        """See `store.attest_table.DeletesConditionally`: asked to know a store, never relied upon."""
        spelled = tag if self._settings.tag_spelling == "as-given" else tag.strip('"')
        with self._errors("delete", key):
            self._control.delete_object(Bucket=self._settings.bucket, Key=self._full(key), IfMatch=spelled)

    def version_of(self, key: str) -> str:
        """See `cdp_container.store.attest.TellsVersions`."""
        with self._errors("look at", key):
            answer = self._control.head_object(Bucket=self._settings.bucket, Key=self._full(key))
        return answer.get("VersionId", "")

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store.list`; keys that no store takes are left out."""
        beginning = self._settings.full_key(check_beginning(prefix))
        after = self._settings.full_key(start_after) if start_after else ""
        base = len(self._settings.full_key(""))
        while True:
            with self._errors("list", prefix):
                page = self._page(beginning, after)
            objects = page.get("Contents", [])
            for entry in objects:
                if entry["Key"] <= after:
                    raise StoreRefused(f"list {self.address}", "the store does not list in the order of keys")
                after = entry["Key"]
                if is_key(after[base:]):
                    modified_ns = nanoseconds(entry["LastModified"])
                    yield Found(after[base:], entry["Size"], entry["ETag"], modified_ns)
            if not page["IsTruncated"]:
                return
            if not objects:
                raise StoreRefused(
                    f"list {self.address}", "the store says that there is more, but gives nothing"
                )

    def close(self) -> None:
        """See `Store.close`."""
        self._control.close()

    def _range(self, key: str, start: int, length: int) -> bytes:
        """Raises what the client raises."""
        return self._data.get_range(self._full(key), start, length)

    def _page(self, beginning: str, after: str) -> ListObjectsV2OutputTypeDef:
        request: ListObjectsV2RequestTypeDef = {
            "Bucket": self._settings.bucket,
            "Prefix": beginning,
            "MaxKeys": LIST_PAGE_KEYS,
        }
        if after:
            request["StartAfter"] = after
        return self._control.list_objects_v2(**request)

    def _full(self, key: str) -> str:
        return self._settings.full_key(check_key(key))

    def _blob(self, key: str, got: Fetched) -> Blob:
        tag = self._checked_tag(key, got.tag)
        return Blob(Found(key, len(got.data), tag, got.modified_ns), got.data)

    def _checked_tag(self, key: str, tag: str) -> str:
        if not tag:
            raise StoreRefused(f"use {key} in {self.address}", "the store gives no ETag")
        return tag

    def _seconds_since(self, began_ns: int) -> float:
        return (self._clock.boottime_ns() - began_ns) / 1e9

    def _check_bucket(self, absent: NotFound) -> None:
        """Raise NoSuchBucket where the bucket is what is absent: the answer to a HEAD cannot say so."""
        if self._bucket_seen:
            return
        try:
            self._control.head_bucket(Bucket=self._settings.bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise NoSuchBucket(absent.what, "there is no such bucket") from error
            return  # perhaps we may not ask; then the first answer stands
        self._bucket_seen = True

    @contextmanager
    def _errors(self, verb: Verb, key: str) -> Iterator[None]:
        try:
            yield
        except LIBRARY_ERRORS as error:
            typed = typed_error(error, f"{verb} {key or 'everything'} in {self.address}", verb)
            if isinstance(typed, AccessDenied):
                asked = verb in ("read", "look at") and is_refused_by_policy(error)
                if key and asked and self._is_absent(key):
                    raise NotFound(typed.what, "there is no such object") from error
                self._renew()
            raise typed from error

    def _is_absent(self, key: str) -> bool:
        """Whether a listing that we may see lacks the key that we were refused.

        A server says 403 instead of 404 to whoever may list only a part of the bucket, as one who may not see
        the other domains in it must (deploy/policies).
        """
        name = self._full(key)
        try:
            page = self._control.list_objects_v2(Bucket=self._settings.bucket, Prefix=name, MaxKeys=1)
        except LIBRARY_ERRORS:
            return False  # the denial stands
        # The key itself sorts before all others that begin with it.
        return not any(found["Key"] == name for found in page.get("Contents", []))

    def _renew(self) -> None:
        """Open both clients again: the next request finds credentials that were put in place meanwhile.

        boto3 reads a file with credentials once in a client's life, and obstore keeps them for minutes.
        The old clients are left to the requests that they may still be making.
        """
        with self._renewing:
            now_ns = self._clock.boottime_ns()
            if now_ns < self._renew_at_ns:
                return
            self._renew_at_ns = now_ns + RENEW_SECONDS * 1_000_000_000
            # A file that is just being written: the denial itself is reported, and this tried again.
            with suppress(AccessDenied, UsageError):
                self._control, self._data = open_clients(self._settings, self._clock, self._waits)
