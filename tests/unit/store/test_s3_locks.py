"""Locks of a place where an object is its oldest version: none is weakened, shortened, or taken for none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cdp_container.errors import AccessDenied, CdpError, StoreUnavailable
from cdp_container.store.s3_oldest import OldestS3Store
from cdp_container.store.s3_settings import S3Settings
from tests.servers.bucket import fresh_bucket, s3_environment
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.slow


@pytest.fixture
def store(_moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[OldestS3Store]:
    with fresh_bucket(_moto) as bucket:
        s3_environment(_moto, monkeypatch)
        bucket.admin.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
        settings = S3Settings(
            bucket.name, "shop", bucket.server.endpoint, data_client="boto3", versions="oldest"
        )
        store = OldestS3Store(settings)
        control = store._control
        yield store
        store._control = control  # what the test put in its place
        store.close()


class Retentions:
    """What a server says of locks, and does: it lets a mode be weakened, as some do."""

    def __init__(self, mode: str, until: datetime) -> None:
        self.held = {"Mode": mode, "RetainUntilDate": until}
        self.asked = 0

    def get_object_retention(self, **asked: object) -> dict[str, object]:
        return {"Retention": dict(self.held)}

    def put_object_retention(self, Retention: dict[str, Any], **asked: object) -> None:  # noqa: N803
        self.held = Retention
        self.asked += 1


@pytest.mark.parametrize(
    ("held", "default", "days", "left"),
    [
        ("COMPLIANCE", "COMPLIANCE", 20, ("COMPLIANCE", 20)),
        ("COMPLIANCE", "GOVERNANCE", 20, ("COMPLIANCE", 20)),
        ("GOVERNANCE", "COMPLIANCE", 20, ("COMPLIANCE", 20)),
        ("COMPLIANCE", "COMPLIANCE", 5, ("COMPLIANCE", 10)),
        ("GOVERNANCE", "GOVERNANCE", 5, ("GOVERNANCE", 10)),
    ],
)
def test_a_lock_is_never_made_shorter_or_weaker(
    store: OldestS3Store, held: str, default: str, days: int, left: tuple[str, int]
) -> None:
    """Where the bucket's default changed since: its mode, or its length."""
    store.put_new("log/1", b"x")
    day = datetime(2026, 1, 1, tzinfo=UTC)
    server = Retentions(held, day + timedelta(10))
    store._control = server  # type: ignore[assignment]  # what it asks of it
    store.extend("log/1", default, int((day + timedelta(days)).timestamp()) * 10**9)
    assert server.held == {"Mode": left[0], "RetainUntilDate": day + timedelta(left[1])}
    assert server.asked == (days > 10)


class Silent(Retentions):
    """A server that does not tell how a version is locked."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__("COMPLIANCE", datetime(2026, 1, 1, tzinfo=UTC))
        self._answer = {
            "Error": {"Code": code, "Message": ""},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }

    def get_object_retention(self, **asked: object) -> dict[str, object]:
        raise ClientError(self._answer, "GetObjectRetention")  # type: ignore[arg-type]  # what of it is read

    def delete_object(self, **asked: object) -> None:
        denied = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        raise ClientError(denied, "DeleteObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "code", "extending", "deleting"),
    [
        (503, "SlowDown", StoreUnavailable, StoreUnavailable),
        (500, "InternalError", StoreUnavailable, StoreUnavailable),
        (403, "AccessDenied", AccessDenied, AccessDenied),
        (404, "NoSuchObjectLockConfiguration", None, AccessDenied),
        (400, "InvalidRequest", None, AccessDenied),
    ],
)
def test_a_lock_of_which_nobody_tells_is_no_missing_lock(
    store: OldestS3Store,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    extending: type[CdpError] | None,
    deleting: type[CdpError],
) -> None:
    """It is not replaced by another, and nothing is said of it: it may be longer, or stricter."""
    store.put_new("log/1", b"x")
    server = Silent(status, code)
    versions = store._versions_of("log/1")
    monkeypatch.setattr(store, "_versions_of", lambda key: versions)
    monkeypatch.setattr(store, "_renew", lambda: None)
    store._control = server  # type: ignore[assignment]  # what it asks of it
    with contextlib.nullcontext() if extending is None else pytest.raises(extending):
        store.extend("log/1", "GOVERNANCE", 1_800_000_000 * 10**9)
    assert server.asked == (extending is None)
    with pytest.raises(deleting):
        store.delete("log/1")
