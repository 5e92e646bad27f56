"""An address may name a file of credentials: they are used, no others, and never repeated."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.errors import AccessDenied, UsageError
from cdp_container.store.address import open_store, parse_address
from cdp_container.store.credentials_file import credentials_text
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_settings import DataClientName, S3Settings
from cdp_container.store.zones import public_address
from tests.servers.bucket import Bucket
from tests.servers.front import running_front

CLIENTS: tuple[DataClientName, ...] = ("obstore", "boto3")


def write(path: Path, section: str = "default", session: str | None = None) -> Path:
    path.write_bytes(credentials_text(section, "AKIAFILE", "hidden", session))
    return path


@pytest.mark.parametrize("client", CLIENTS)
def test_it_wins_over_the_environment(moto_bucket: Bucket, tmp_path: Path, client: DataClientName) -> None:
    path = write(tmp_path / "credentials")
    with running_front(moto_bucket.server.endpoint) as front:
        settings = S3Settings(moto_bucket.name, client, front.endpoint, data_client=client)
        with closing(S3Store(replace(settings, credentials_file=str(path)))) as store:
            store.put_new("domain/a", b"1")
            assert store.get("domain/a").data == b"1"
            assert {
                one.headers["authorization"].split("Credential=")[1].split("/")[0] for one in front.asked
            } == {"AKIAFILE"}


@pytest.mark.parametrize("profile", ["", "&profile=dr"])
def test_its_section_is_that_of_the_profile(tmp_path: Path, profile: str) -> None:
    path = write(tmp_path / "credentials", "dr" if profile else "default", "token")
    address = f"s3://bucket/p?endpoint=http://127.0.0.1:1&credentials={path}{profile}"
    store = open_store(address)
    assert isinstance(store, S3Store)
    with closing(store):
        assert store.signing_keys() == ("AKIAFILE", "hidden", "token")
        assert parse_address(store.address) == parse_address(address)
        assert str(path) not in public_address(store)
        write(path, "dr" if profile else "default")
        assert store.signing_keys() == ("AKIAFILE", "hidden", None), "as they are now"


@pytest.mark.parametrize(
    "content", [None, b"", b"[other]\naws_access_key_id=hidden\naws_secret_access_key=hidden\n"]
)
def test_a_file_without_them_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "credentials"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AccessDenied, match=str(path)) as raised:
        open_store(f"s3://bucket?endpoint=http://127.0.0.1:1&credentials={path}")
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("content", [b"[default]\naws_access_key_id=hidden\n", b"hidden\n", b"\xff\xfe"])
def test_half_of_them_are_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "credentials"
    path.write_bytes(content)
    with pytest.raises(AccessDenied) as raised:
        open_store(f"s3://bucket?endpoint=http://127.0.0.1:1&credentials={path}")
    assert "hidden" not in str(raised.value)


def test_credentials_in_place_of_the_file_are_not_repeated() -> None:
    with pytest.raises(UsageError, match="credentials") as raised:
        parse_address("s3://bucket?credentials=AKIA:hidden")
    assert "hidden" not in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize("value", ["", "a b", "a\ncredential_process = x", "\u00e4"])
def test_what_is_no_word_is_never_written(value: str) -> None:
    for keys in ((value, "s", None), ("a", value, None), ("a", "s", value)):
        with pytest.raises(UsageError) as raised:
            credentials_text("default", *keys)
        assert "credential_process" not in str(raised.value)
