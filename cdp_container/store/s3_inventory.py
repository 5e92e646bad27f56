"""What takes space below a prefix of an S3 bucket: versions, delete markers, uploads that nobody ended.

Each call is one request, made once; what is asked in pages is asked page by page. See `inventory`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from cdp_container.clock import SystemClock
from cdp_container.errors import NotFound, StoreRefused
from cdp_container.store.inventory import Rules, Standing, Taken
from cdp_container.store.s3_clients import nanoseconds, open_clients
from cdp_container.store.s3_errors import LIBRARY_ERRORS, Verb, typed_error
from cdp_container.store.s3_settings import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PAGES_MAX: Final = 1_000_000
"""Of one listing: a stop for a server whose pages never end."""
_NO_LOCK: Final = frozenset({"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"})
_DAYS_OF_YEAR: Final = 365


class S3Inventory:
    """See `inventory.Inventory`."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        control, _ = open_clients(settings, SystemClock())
        self._client: S3Client = control

    @property
    def address(self) -> str:
        """See `Inventory`."""
        return self._settings.address()

    def rules(self) -> Rules:
        """See `Inventory`."""
        with self._errors("look at"):
            status = self._client.get_bucket_versioning(Bucket=self._settings.bucket).get("Status", "")
            try:
                answer = self._client.get_object_lock_configuration(Bucket=self._settings.bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] not in _NO_LOCK:
                    raise
                return Rules(versioned=status == "Enabled")
        found = answer.get("ObjectLockConfiguration", {})
        default = found.get("Rule", {}).get("DefaultRetention", {})
        days = default.get("Days", 0) or _DAYS_OF_YEAR * default.get("Years", 0)
        return Rules(
            versioned=status == "Enabled",
            locks=found.get("ObjectLockEnabled") == "Enabled",
            lock_mode=str(default.get("Mode", "")),
            lock_days=days or None,
        )

    def objects(self) -> Iterator[Taken]:
        """See `Inventory`."""
        oldest = self._settings.versions == "oldest"
        before: Taken | None = None
        for taken, is_latest in self._all_versions():
            if taken.standing is Standing.MARKER or not oldest:
                other = taken.standing is Standing.CURRENT and not is_latest
                yield replace(taken, standing=Standing.OTHER) if other else taken
                continue
            # Versions of a key follow one another, the newest first: what the next one is older than is not
            # what readers get.
            if before is not None:
                is_object = before.name != taken.name
                yield before if is_object else replace(before, standing=Standing.OTHER)
            before = taken
        if before is not None:
            yield before

    def _all_versions(self) -> Iterator[tuple[Taken, bool]]:
        """Versions as if each were an object, with whether it is the latest of its key; delete markers."""
        base = len(self._prefix)
        for page in self._versions():
            for version in page.get("Versions", []):
                modified_ns = nanoseconds(version["LastModified"])
                name = _version(version.get("VersionId", ""))
                taken = Taken(version["Key"][base:], version["Size"], modified_ns, version=name)
                yield taken, version["IsLatest"]
            for marker in page.get("DeleteMarkers", []):
                modified_ns = nanoseconds(marker["LastModified"])
                name = _version(marker["VersionId"])
                yield Taken(marker["Key"][base:], 0, modified_ns, Standing.MARKER, name), marker["IsLatest"]

    def current(self) -> Iterator[Taken]:
        """See `Inventory`."""
        base = len(self._prefix)
        for page in self._newest():
            for found in page.get("Contents", []):
                yield Taken(found["Key"][base:], found["Size"], nanoseconds(found["LastModified"]))

    def uploads(self) -> Iterator[Taken]:
        """See `Inventory`."""
        base = len(self._prefix)
        for page in self._uploads():
            for upload in page.get("Uploads", []):
                key, name = upload["Key"], upload["UploadId"]
                size_bytes = sum(part["Size"] for part in self._parts(key, name))
                began_ns = nanoseconds(upload["Initiated"])
                yield Taken(key[base:], size_bytes, began_ns, Standing.UPLOAD, upload=name)

    def abort(self, upload: Taken) -> None:
        """See `Inventory`."""
        assert upload.standing is Standing.UPLOAD, upload
        key = self._settings.full_key(upload.name)
        try:
            with self._errors("delete", upload.name):
                self._client.abort_multipart_upload(
                    Bucket=self._settings.bucket, Key=key, UploadId=upload.upload
                )
        except NotFound:
            return

    def close(self) -> None:
        """See `Inventory`."""
        self._client.close()

    def _versions(self) -> Iterator[Any]:
        """Pages of all versions; a bucket that was never versioned has one of each object."""
        markers: dict[str, str] = {}
        for _ in range(PAGES_MAX):
            with self._errors("list"):
                page = self._client.list_object_versions(
                    Bucket=self._settings.bucket,
                    Prefix=self._prefix,
                    **markers,  # type: ignore[arg-type]  # names of two optional words
                )
            yield page
            if not page.get("IsTruncated"):
                return
            after = {"KeyMarker": page["NextKeyMarker"]}
            if page.get("NextVersionIdMarker"):
                after["VersionIdMarker"] = page["NextVersionIdMarker"]
            self._check_progress(markers, after)
            markers = after
        raise self._endless()

    def _newest(self) -> Iterator[Any]:
        """Pages of the newest versions alone."""
        after: dict[str, str] = {}
        for _ in range(PAGES_MAX):
            with self._errors("list"):
                page = self._client.list_objects_v2(
                    Bucket=self._settings.bucket,
                    Prefix=self._prefix,
                    **after,  # type: ignore[arg-type]  # names of an optional word
                )
            yield page
            if not page.get("IsTruncated"):
                return
            before, after = after, {"ContinuationToken": page["NextContinuationToken"]}
            self._check_progress(before, after)
        raise self._endless()

    def _uploads(self) -> Iterator[Any]:
        markers: dict[str, str] = {}
        for _ in range(PAGES_MAX):
            with self._errors("list"):
                page = self._client.list_multipart_uploads(
                    Bucket=self._settings.bucket,
                    Prefix=self._prefix,
                    **markers,  # type: ignore[arg-type]  # names of two optional words
                )
            yield page
            if not page.get("IsTruncated"):
                return
            after = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
            self._check_progress(markers, after)
            markers = after
        raise self._endless()

    def _parts(self, key: str, upload: str) -> Iterator[Any]:
        marker = 0
        for _ in range(PAGES_MAX):
            try:
                with self._errors("list", key):
                    page = self._client.list_parts(
                        Bucket=self._settings.bucket, Key=key, UploadId=upload, PartNumberMarker=marker
                    )
            except NotFound:
                return  # it was completed or aborted meanwhile
            yield from page.get("Parts", [])
            if not page.get("IsTruncated"):
                return
            if page["NextPartNumberMarker"] <= marker:
                break
            marker = page["NextPartNumberMarker"]
        raise self._endless()

    @property
    def _prefix(self) -> str:
        return self._settings.full_key("")

    def _check_progress(self, before: dict[str, str], after: dict[str, str]) -> None:
        if before == after:
            raise self._endless()

    def _endless(self) -> StoreRefused:
        return StoreRefused(f"look through {self.address}", "the store's listing does not end")

    @contextmanager
    def _errors(self, verb: Verb, key: str = "") -> Iterator[None]:
        try:
            yield
        except LIBRARY_ERRORS as error:
            raise typed_error(error, f"{verb} {key or 'everything'} in {self.address}", verb) from error


def _version(name: str) -> str:
    """The id of a version; servers call that of a bucket without versions `null`."""
    return "" if name == "null" else name
