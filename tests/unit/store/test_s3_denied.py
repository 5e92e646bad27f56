"""403 instead of 404, as servers say to who may list only a part of a bucket: absent is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cdp_container.errors import AccessDenied, NotFound
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_settings import DataClientName, S3Settings
from tests.servers.bucket import Bucket, opened
from tests.servers.front import Front, Scripted, running_front

DENIED = Scripted(403, b"<Error><Code>AccessDenied</Code></Error>")
READS: dict[str, Callable[[S3Store, str], object]] = {
    "get": lambda store, key: store.get(key),
    "range": lambda store, key: store.get_range(key, 0, 9),
    "unless": lambda store, key: store.get_unless(key, '"0"'),
}
EVERY_READ = pytest.mark.parametrize("read", READS.values(), ids=READS)


@contextmanager
def behind(bucket: Bucket, client: DataClientName) -> Iterator[tuple[S3Store, Front]]:
    with running_front(bucket.server.endpoint) as front:
        settings = S3Settings(bucket.name, f"denied/{client}", front.endpoint, data_client=client)
        with opened(settings) as store:
            yield store, front


@EVERY_READ
@pytest.mark.parametrize("client", ["obstore", "boto3"])
def test_what_may_not_be_read_and_is_not_listed_is_not_there(
    moto_bucket: Bucket, client: DataClientName, read: Callable[[S3Store, str], object]
) -> None:
    with behind(moto_bucket, client) as (store, front):
        store.put_new("log/0002", b"x")
        store.put_new("log/00010", b"a key that begins with the one that is absent")
        front.script[:] = [DENIED]
        with pytest.raises(NotFound):
            read(store, "log/0001")
        for found in store.list(""):
            store.delete(found.key)


@EVERY_READ
@pytest.mark.parametrize("client", ["obstore", "boto3"])
def test_what_is_listed_is_denied(
    moto_bucket: Bucket, client: DataClientName, read: Callable[[S3Store, str], object]
) -> None:
    with behind(moto_bucket, client) as (store, front):
        store.put_new("log/0001", b"x")
        front.script[:] = [DENIED]
        with pytest.raises(AccessDenied):
            read(store, "log/0001")
        store.delete("log/0001")


@EVERY_READ
def test_where_listing_is_denied_too_nothing_is_known(
    moto_bucket: Bucket, read: Callable[[S3Store, str], object]
) -> None:
    with behind(moto_bucket, "obstore") as (store, front):
        front.script[:] = [DENIED, DENIED]
        with pytest.raises(AccessDenied):
            read(store, "log/0001")


def test_writes_are_denied_whatever_is_listed(moto_bucket: Bucket) -> None:
    with behind(moto_bucket, "obstore") as (store, front):
        front.script[:] = [DENIED]
        with pytest.raises(AccessDenied):
            store.put_new("a", b"x")
        front.script[:] = [DENIED]
        with pytest.raises(AccessDenied):
            store.put_if("a", b"x", '"0"')
