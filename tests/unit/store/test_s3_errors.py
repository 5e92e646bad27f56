"""Every answer of an S3 server becomes one typed error, the same from both clients, and tells no secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cdp_container.errors import (
    AccessDenied,
    CdpError,
    Contention,
    NoSuchBucket,
    NotFound,
    PreconditionFailed,
    StoreFull,
    StoreRefused,
    StoreThrottled,
    StoreUnavailable,
    UsageError,
)
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_settings import DataClientName, S3Settings
from tests.servers.bucket import opened, s3_environment
from tests.servers.front import Front, Scripted, running_front
from tests.servers.s3 import S3Server

SECRET = "never-show-this-secret"

ANSWERS: tuple[tuple[int, str, type[CdpError]], ...] = (
    (400, "InvalidArgument", StoreRefused),
    (400, "AuthorizationHeaderMalformed", UsageError),
    (400, "ExpiredToken", AccessDenied),
    (400, "InvalidToken", AccessDenied),
    (400, "IllegalLocationConstraintException", UsageError),
    (401, "", AccessDenied),
    (403, "", AccessDenied),
    (403, "AccessDenied", AccessDenied),
    (403, "InvalidAccessKeyId", AccessDenied),
    (403, "SignatureDoesNotMatch", AccessDenied),
    (403, "RequestTimeTooSkewed", AccessDenied),
    (403, "QuotaExceeded", StoreFull),
    (404, "NoSuchBucket", NoSuchBucket),
    (405, "MethodNotAllowed", StoreRefused),
    (409, "", Contention),
    (409, "ConditionalRequestConflict", Contention),
    (412, "PreconditionFailed", PreconditionFailed),
    (429, "", StoreThrottled),
    (429, "TooManyRequests", StoreThrottled),
    (500, "", StoreUnavailable),
    (500, "InternalError", StoreUnavailable),
    (500, "SlowDown", StoreThrottled),
    (501, "NotImplemented", StoreRefused),
    (502, "", StoreUnavailable),
    (503, "", StoreThrottled),
    (503, "SlowDown", StoreThrottled),
    (504, "", StoreUnavailable),
    (507, "", StoreFull),
    (507, "XMinioStorageFull", StoreFull),
)

Request = Callable[[S3Store], object]

WITH_BODIES: dict[str, Request] = {
    "put_new": lambda store: store.put_new("a", b"x"),
    "put_if": lambda store: store.put_if("a", b"x", '"tag"'),
    "get": lambda store: store.get("a"),
    "get_unless": lambda store: store.get_unless("a", '"tag"'),
    "get_range": lambda store: store.get_range("a", 0, 1),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("a"),
}


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with running_front("") as front:
        yield front


@pytest.fixture(scope="module", params=["obstore", "boto3"])
def store(request: pytest.FixtureRequest, front: Front) -> Iterator[S3Store]:
    client: DataClientName = request.param
    with pytest.MonkeyPatch.context() as patch:
        s3_environment(S3Server(front.endpoint, "the-access-key", SECRET), patch)
        with opened(S3Settings("bucket", endpoint=front.endpoint, data_client=client)) as store:
            yield store


def answer(status: int, code: str, **headers: str) -> Scripted:
    body = f"<Error><Code>{code}</Code><Message>hear {SECRET}</Message></Error>" if code else ""
    return Scripted(status, body.encode(), headers)


def failure(store: S3Store, front: Front, request: Request, scripted: Scripted) -> CdpError:
    front.script[:] = [scripted]
    with pytest.raises(CdpError) as caught:
        request(store)
    assert front.script == []
    error = caught.value
    assert SECRET not in f"{error} {error.hint}"
    assert store.address in str(error)
    assert error.hint
    return error


@pytest.mark.parametrize("name", ["put_new", "put_if"])  # the one by the data client, the other by boto3
def test_an_answer_has_its_type(store: S3Store, front: Front, name: str) -> None:
    for status, code, expected in ANSWERS:
        error = failure(store, front, WITH_BODIES[name], answer(status, code))
        assert type(error) is expected, (status, code, error)


def test_an_answer_means_the_same_to_every_request(store: S3Store, front: Front) -> None:
    for name, request in WITH_BODIES.items():
        for status, code, expected in (
            (403, "QuotaExceeded", StoreFull),
            (404, "NoSuchBucket", NoSuchBucket),
        ):
            assert type(failure(store, front, request, answer(status, code))) is expected, name


def test_a_head_has_no_body_and_still_its_type(store: S3Store, front: Front) -> None:
    statuses: tuple[tuple[int, type[CdpError]], ...] = (
        (403, AccessDenied), (500, StoreUnavailable), (503, StoreThrottled), (507, StoreFull),
    )  # fmt: skip
    for status, expected in statuses:
        assert type(failure(store, front, lambda s: s.head("a"), Scripted(status))) is expected


def test_an_absent_object(store: S3Store, front: Front) -> None:
    for name in ("get", "get_unless", "get_range"):
        assert type(failure(store, front, WITH_BODIES[name], answer(404, "NoSuchKey"))) is NotFound
    assert type(failure(store, front, WITH_BODIES["put_if"], answer(404, "NoSuchKey"))) is PreconditionFailed
    front.script[:] = [answer(404, "NoSuchKey")]
    store.delete("a")


def test_the_answer_to_a_head_cannot_say_whether_the_bucket_is_there(store: S3Store, front: Front) -> None:
    for of_bucket, expected in ((404, NoSuchBucket), (403, NotFound), (200, NotFound)):
        front.script[:] = [Scripted(404), Scripted(of_bucket)]
        with pytest.raises(CdpError) as caught:
            store.head("a")
        assert type(caught.value) is expected
        assert front.script == []
    assert type(failure(store, front, lambda s: s.head("a"), Scripted(404))) is NotFound


def test_a_clock_that_is_wrong_is_named(store: S3Store, front: Front) -> None:
    for request in WITH_BODIES.values():
        error = failure(store, front, request, answer(403, "RequestTimeTooSkewed"))
        assert "clock" in error.why
        assert "clock" in error.hint


def test_a_bucket_in_another_region_is_named(store: S3Store, front: Front) -> None:
    for name in ("get", "put_new"):
        error = failure(store, front, WITH_BODIES[name], answer(301, "PermanentRedirect"))
        assert type(error) is UsageError
        assert "?region=" in error.hint


def test_how_long_to_wait_is_kept(store: S3Store, front: Front) -> None:
    for after, expected in (("7", 7.0), ("99999999", 3600.0), ("soon", None), ("-1", None)):
        scripted = answer(503, "SlowDown", **{"retry-after": after})
        error = failure(store, front, WITH_BODIES["list"], scripted)
        assert isinstance(error, StoreThrottled)
        assert error.retry_after_seconds == expected


def test_nobody_listens(store: S3Store, front: Front) -> None:
    settings = S3Settings("bucket", endpoint="http://127.0.0.1:1", data_client=store.settings.data_client)
    with opened(settings) as alone:
        for request in WITH_BODIES.values():
            with pytest.raises(StoreUnavailable, match="connection failed"):
                request(alone)


def test_an_answer_that_breaks_off(store: S3Store, front: Front) -> None:
    headers = {"content-length": "100", "etag": '"x"', "last-modified": "Fri, 20 Nov 2026 00:00:00 GMT",
               "connection": "close", "content-range": "bytes 0-99/100"}  # fmt: skip
    for name, status in (("get", 200), ("get_unless", 200), ("get_range", 206)):
        request: Request = (lambda s: s.get_range("a", 0, 100)) if name == "get_range" else WITH_BODIES[name]
        error = failure(store, front, request, Scripted(status, b"half", headers))
        assert type(error) is StoreUnavailable


def test_an_answer_without_an_etag_is_refused(store: S3Store, front: Front) -> None:
    for name in ("put_new", "put_if"):
        error = failure(store, front, WITH_BODIES[name], Scripted(200))
        assert type(error) is StoreRefused
    when = {"last-modified": "Fri, 20 Nov 2026 00:00:00 GMT"}
    for request in (WITH_BODIES["get"], WITH_BODIES["get_unless"], lambda s: s.head("a")):
        assert type(failure(store, front, request, Scripted(200, b"x", when))) is StoreRefused
