"""Credentials that expired are looked for again: what an operator puts in place is used without a restart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdp_container.errors import AccessDenied
from cdp_container.store.s3 import RENEW_SECONDS, S3Store
from cdp_container.store.s3_settings import S3Settings
from tests.servers.bucket import Bucket
from tests.servers.front import Front, Scripted, running_front

EXPIRED = Scripted(403, b"<Error><Code>ExpiredToken</Code></Error>", {"content-type": "application/xml"})


class SettableClock:
    def __init__(self) -> None:
        self.now_ns = 10**18

    def wall_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with credentials, in place of the environment's."""
    path = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    fill(path, "first")
    return path


@pytest.fixture
def front(moto_bucket: Bucket) -> Iterator[Front]:
    with running_front(moto_bucket.server.endpoint) as front:
        yield front


def fill(path: Path, name: str) -> None:
    path.write_text(f"[default]\naws_access_key_id={name}\naws_secret_access_key=hidden\n")


def last_key(front: Front) -> str:
    return front.asked[-1].headers["authorization"].split("Credential=")[1].split("/")[0]


@pytest.mark.slow
@pytest.mark.parametrize("client", ["obstore", "boto3"])
def test_renewed_credentials_are_found(moto_bucket: Bucket, front: Front, file: Path, client: str) -> None:
    clock = SettableClock()
    settings = S3Settings(moto_bucket.name, f"renew/{client}", front.endpoint, data_client=client)  # type: ignore[arg-type]
    with closing(S3Store(settings, clock)) as store:
        store.put_new("a", b"x")
        fill(file, "second")
        for request in (lambda: store.put_new("b", b"x"), lambda: store.head("a")):
            request()
            assert last_key(front) == "first"

        front.script = [EXPIRED]
        with pytest.raises(AccessDenied, match="expired"):
            store.put_new("c", b"x")
        for request in (lambda: store.put_new("c", b"x"), lambda: store.head("a")):
            request()
            assert last_key(front) == "second"

        # Denied again at once: the file is not read with every request.
        fill(file, "third")
        front.script = [EXPIRED]
        with pytest.raises(AccessDenied):
            store.get("a")
        store.get("a")
        assert last_key(front) == "second"
        clock.now_ns += RENEW_SECONDS * 10**9
        front.script = [EXPIRED]
        with pytest.raises(AccessDenied):
            store.get("a")
        store.get("a")
        assert last_key(front) == "third"


def test_a_file_that_is_just_being_written_changes_nothing(
    moto_bucket: Bucket, front: Front, file: Path
) -> None:
    with closing(S3Store(S3Settings(moto_bucket.name, "broken", front.endpoint), SettableClock())) as store:
        store.put_new("a", b"x")
        file.write_text("")
        front.script = [EXPIRED]
        with pytest.raises(AccessDenied, match="expired"):
            store.get("a")
        assert store.get("a").data == b"x"
        assert last_key(front) == "first"
