"""The store in S3: the suite against moto with both data clients, and what requests are really made."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import boto3
import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import (
    AccessDenied,
    LimitExceeded,
    StoreRefused,
    StoreUnavailable,
    UsageError,
)
from cdp_container.store.api import OBJECT_BYTES_MAX
from cdp_container.store.attest import probe
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_settings import DataClientName, S3Settings
from tests.conformance.store_suite import BIG_BYTES, StoreSuite
from tests.servers.bucket import Bucket, fresh_bucket, opened
from tests.servers.front import Scripted, running_front
from tests.servers.tls import make_ca

pytestmark = pytest.mark.slow


@pytest.fixture(params=["obstore", "boto3"])
def client(request: pytest.FixtureRequest) -> DataClientName:
    name: DataClientName = request.param
    return name


@pytest.fixture
def settings(moto_bucket: Bucket, client: DataClientName) -> S3Settings:
    prefix = f"place/{secrets.token_hex(8)}"
    return S3Settings(moto_bucket.name, prefix, moto_bucket.server.endpoint, data_client=client)


@pytest.fixture
def store(settings: S3Settings) -> Iterator[S3Store]:
    with opened(settings) as store:
        yield store


@pytest.fixture(scope="module", params=["obstore", "boto3"])
def shared(request: pytest.FixtureRequest, moto_bucket: Bucket) -> Iterator[S3Store]:
    """One store for the whole suite."""
    settings = S3Settings(
        moto_bucket.name, f"suite/{request.param}", moto_bucket.server.endpoint, data_client=request.param
    )
    with opened(settings) as store:
        yield store


class TestS3Store(StoreSuite):
    """See `StoreSuite`; no races, since moto is no judge of them."""

    @pytest.fixture
    def store(self, shared: S3Store) -> S3Store:
        for found in shared.list(""):
            shared.delete(found.key)
        return shared


def elsewhere(settings: S3Settings, endpoint: str, **more: str) -> S3Settings:
    """The same place, met through another endpoint."""
    return S3Settings(
        settings.bucket,
        settings.prefix,
        endpoint,
        data_client=settings.data_client,
        **more,  # type: ignore[arg-type]
    )


def test_keys_stand_below_the_prefix(store: S3Store, moto_bucket: Bucket) -> None:
    store.put_new("log/0001", b"x")
    prefix = store.settings.prefix
    for key in (f"{prefix}X", f"{prefix}/a b", f"{prefix}/log/"):
        moto_bucket.admin.put_object(Bucket=moto_bucket.name, Key=key, Body=b"")
    assert [found.key for found in store.list("")] == ["log/0001"]
    assert moto_bucket.admin.head_object(Bucket=moto_bucket.name, Key=f"{prefix}/log/0001")


def test_a_bucket_that_keeps_versions_is_refused_until_they_are_suspended(moto_bucket: Bucket) -> None:
    """Whoever may not ask for the bucket's configuration is told too: the version of an object says it."""
    with fresh_bucket(moto_bucket.server) as bucket:
        settings = S3Settings(bucket.name, "place", bucket.server.endpoint)
        with opened(settings) as store:
            version_bucket(bucket, "Enabled")
            with pytest.raises(StoreRefused, match="keeps old versions") as refused:
                probe(store, os.urandom)
            assert "suspend" in refused.value.hint
            version_bucket(bucket, "Suspended")
            probe(store, os.urandom)


def version_bucket(bucket: Bucket, status: Literal["Enabled", "Suspended"]) -> None:
    bucket.admin.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": status})


def test_a_store_may_be_a_whole_bucket(moto_bucket: Bucket) -> None:
    with opened(S3Settings(moto_bucket.name, endpoint=moto_bucket.server.endpoint)) as store:
        probe(store, os.urandom)
        store.put_new("whole/0001", b"x")
        assert [found.key for found in store.list("whole/")] == ["whole/0001"]


def test_a_listing_of_several_pages(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdp_container.store.s3.LIST_PAGE_KEYS", 3)
    keys = [f"log/{number:04}" for number in range(10)]
    for key in keys:
        store.put_new(key, b"")
    assert [found.key for found in store.list("log/")] == keys
    assert [found.key for found in store.list("log/", "log/0004")] == keys[5:]


def test_no_multipart_upload_is_ever_begun(settings: S3Settings, moto_bucket: Bucket) -> None:
    with (
        running_front(moto_bucket.server.endpoint) as front,
        opened(elsewhere(settings, front.endpoint)) as store,
    ):
        tag = store.put_new("log/0001", os.urandom(BIG_BYTES))
        store.put_if("log/0001", os.urandom(BIG_BYTES), tag)
        assert [asked.method for asked in front.asked] == ["PUT", "PUT"]
        assert front.began_multipart() == []
    assert moto_bucket.admin.list_multipart_uploads(Bucket=moto_bucket.name).get("Uploads", []) == []


def test_the_record_would_show_a_multipart_upload(moto_bucket: Bucket) -> None:
    with running_front(moto_bucket.server.endpoint) as front:
        admin = boto3.client("s3", endpoint_url=front.endpoint)
        admin.create_multipart_upload(Bucket=moto_bucket.name, Key="x")
        admin.close()
        assert len(front.began_multipart()) == 1


def test_every_write_is_conditional_and_every_read_past_caches(
    settings: S3Settings, moto_bucket: Bucket
) -> None:
    with (
        running_front(moto_bucket.server.endpoint) as front,
        opened(elsewhere(settings, front.endpoint)) as store,
    ):
        tag = store.put_new("a", b"x")
        store.put_if("a", b"y", tag)
        created, replaced = front.asked
        assert created.headers["if-none-match"] == "*"
        assert replaced.headers["if-match"] == tag
        front.asked.clear()
        store.get("a")
        store.get_unless("a", tag)
        store.get_range("a", 0, 1)
        store.head("a")
        assert len(list(store.list(""))) == 1
        assert len(front.asked) == 5
        for asked in front.asked:
            assert asked.headers["cache-control"] == "no-cache", asked
            assert "cache-control" in asked.headers["authorization"], (
                "it must be signed, or a proxy may drop it"
            )


def test_no_checksum_that_a_server_may_not_know(settings: S3Settings, moto_bucket: Bucket) -> None:
    with (
        running_front(moto_bucket.server.endpoint) as front,
        opened(elsewhere(settings, front.endpoint)) as store,
    ):
        store.put_if("a", b"y", store.put_new("a", b"x"))
        store.get("a")
        for asked in front.asked:
            assert not [name for name in asked.headers if "checksum" in name or "trailer" in name], asked


def test_the_spelling_of_tags(settings: S3Settings, moto_bucket: Bucket) -> None:
    with (
        running_front(moto_bucket.server.endpoint) as front,
        opened(elsewhere(settings, front.endpoint)) as store,
    ):
        tag = store.put_new("a", b"x")
        store.spell_tags("unquoted")
        store.put_if("a", b"y", tag)
        assert front.asked[-1].headers["if-match"] == tag.strip('"') != tag
        assert "etag=unquoted" in store.address
        store.get_unless("a", tag)
        assert front.asked[-1].headers["if-none-match"] == tag


@pytest.mark.parametrize("status", [500, 503])
def test_no_request_is_repeated(settings: S3Settings, client: DataClientName, status: int) -> None:
    with running_front("") as front, opened(elsewhere(settings, front.endpoint)) as store:
        for request in (
            lambda: store.put_new("a", b"x"),
            lambda: store.put_if("a", b"x", '"tag"'),
            lambda: store.get("a"),
            lambda: store.get_range("a", 0, 1),
            lambda: store.head("a"),
            lambda: store.delete("a"),
            lambda: list(store.list("")),
        ):
            front.script[:] = [Scripted(status)] * 3
            with pytest.raises(StoreUnavailable):
                request()
            assert len(front.script) == 2


def test_an_object_that_is_too_large_is_refused_unread(settings: S3Settings) -> None:
    size = {
        "content-length": str(OBJECT_BYTES_MAX + 1),
        "etag": '"x"',
        "last-modified": "Fri, 20 Nov 2026 00:00:00 GMT",
    }
    with running_front("") as front, opened(elsewhere(settings, front.endpoint)) as store:
        gets: list[Callable[[], object]] = [lambda: store.get("a"), lambda: store.get_unless("a", '"y"')]
        for get in gets:
            front.script[:] = [Scripted(200, b"the beginning", size)]
            with pytest.raises(LimitExceeded):
                get()


def test_a_server_that_ignores_ranges_is_refused(settings: S3Settings) -> None:
    whole = Scripted(200, b"0123456789", {"etag": '"x"', "last-modified": "Fri, 20 Nov 2026 00:00:00 GMT"})
    with running_front("") as front, opened(elsewhere(settings, front.endpoint)) as store:
        front.script[:] = [whole]
        with pytest.raises(StoreRefused):
            store.get_range("a", 0, 4)


def test_a_listing_that_never_ends_is_refused(settings: S3Settings) -> None:
    entry = (
        "<Contents><Key>{}</Key><Size>1</Size><ETag>x</ETag>"
        "<LastModified>2026-11-20T00:00:00Z</LastModified></Contents>"
    )
    page = "<ListBucketResult><IsTruncated>true</IsTruncated>{}</ListBucketResult>"
    for contents in ("", entry.format(f"{settings.prefix}/b") + entry.format(f"{settings.prefix}/a")):
        with running_front("") as front, opened(elsewhere(settings, front.endpoint)) as store:
            front.script[:] = [Scripted(200, page.format(contents).encode())] * 2
            with pytest.raises(StoreRefused):
                list(store.list(""))


def test_a_private_authority_reaches_both_clients(
    settings: S3Settings, moto_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = make_ca(tmp_path)
    with running_front(moto_bucket.server.endpoint, tls=ca.server) as front:
        with opened(elsewhere(settings, front.endpoint, ca_file=str(ca.ca_file))) as store:
            probe(store, os.urandom)
        assert {asked.method for asked in front.asked} == {"GET", "PUT", "HEAD", "DELETE"}
        with opened(elsewhere(settings, front.endpoint)) as stranger:
            for request in (lambda: stranger.get("a"), lambda: stranger.head("a")):
                with pytest.raises(StoreUnavailable, match="certificate") as caught:
                    request()
                assert "?ca=" in caught.value.hint
        monkeypatch.setenv("AWS_CA_BUNDLE", str(ca.ca_file))
        with opened(elsewhere(settings, front.endpoint)) as store:
            probe(store, os.urandom)


def test_a_ca_file_that_is_none_is_named(settings: S3Settings, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("absent.pem", "empty.pem", "."):
        with pytest.raises(UsageError, match="CA file"):
            S3Store(elsewhere(settings, "https://127.0.0.1:1", ca_file=str(tmp_path / name)))


def test_virtual_style(settings: S3Settings, moto_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front is both clients' HTTP proxy here, so that names that no DNS knows reach it."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with running_front(moto_bucket.server.endpoint, virtual_of="s3.test") as front:
        monkeypatch.setenv("HTTP_PROXY", front.endpoint)
        monkeypatch.setenv("http_proxy", front.endpoint)
        virtual = elsewhere(settings, "http://s3.test", addressing="virtual")
        with opened(virtual) as store:
            probe(store, os.urandom)
            store.put_new("log/0001", b"x")
        assert {asked.headers["host"].removesuffix(":80") for asked in front.asked} == {
            f"{settings.bucket}.s3.test"
        }
        assert not [asked for asked in front.asked if f"/{settings.bucket}/" in asked.path]
    moto_bucket.admin.head_object(Bucket=moto_bucket.name, Key=f"{settings.prefix}/log/0001")


def test_credentials_of_a_named_profile(
    settings: S3Settings, moto_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text("[dr]\naws_access_key_id=ofprofile\naws_secret_access_key=hidden\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with (
        running_front(moto_bucket.server.endpoint) as front,
        opened(elsewhere(settings, front.endpoint, profile="dr")) as store,
    ):
        store.put_new("a", b"x")
        store.head("a")
        store.get("a")
        assert all("Credential=ofprofile/" in asked.headers["authorization"] for asked in front.asked)
    with pytest.raises(AccessDenied, match="no profile"):
        S3Store(elsewhere(settings, "http://127.0.0.1:1", profile="nobody"))


def test_no_credentials_at_all(settings: S3Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDenied, match="no usable credentials"), opened(settings) as store:
        store.get("a")


def test_obstore_asks_the_chain_again_when_credentials_grow_old(
    moto_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that gives credentials for a short time, as many sites have one."""
    # So near that boto3 asks the program every time, so far that what it gives is still good.
    expires = datetime.now(tz=UTC) + timedelta(minutes=12)
    script = tmp_path / "give"
    script.write_text(
        "#!/bin/sh\n"
        f"echo x >> {tmp_path}/calls; n=$(wc -l < {tmp_path}/calls)\n"
        'echo "{\\"Version\\": 1, \\"AccessKeyId\\": \\"key$n\\", \\"SecretAccessKey\\": \\"s\\",'
        f' \\"SessionToken\\": \\"t\\", \\"Expiration\\": \\"{expires:%Y-%m-%dT%H:%M:%SZ}\\"}}"\n'
    )
    script.chmod(0o755)
    (tmp_path / "config").write_text(f"[profile short]\ncredential_process={script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setattr("cdp_container.store.s3_clients.CREDENTIALS_SECONDS", 0)
    with running_front(moto_bucket.server.endpoint) as front:
        with opened(S3Settings(moto_bucket.name, endpoint=front.endpoint, profile="short")) as store:
            for key in ("short/a", "short/b", "short/c"):
                store.put_new(key, b"x")
        keys = [asked.headers["authorization"].split("Credential=")[1].split("/")[0] for asked in front.asked]
        assert all(asked.headers["x-amz-security-token"] == "t" for asked in front.asked)
    assert len(keys) == len(set(keys)) == 3


def test_many_threads_share_one_store(store: S3Store) -> None:
    store.put_new("a", b"0123456789" * 100)
    wrong: list[bytes] = []

    def read() -> None:
        for start in range(0, 1000, 100):
            data = store.get_range("a", start, 100)
            if data != b"0123456789" * 10:
                wrong.append(data)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_opening_makes_no_request(settings: S3Settings) -> None:
    with running_front("") as front:
        S3Store(elsewhere(settings, front.endpoint), SystemClock()).close()
        assert front.asked == []
