"""Addresses of stores: what is read, what is refused, and that no secret is ever repeated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdp_container.errors import UsageError
from cdp_container.store.address import DirectoryPlace, below, open_store, parse_address
from cdp_container.store.s3_settings import S3Settings

FULL = (
    "s3://bucket/a/b?endpoint=https://host:9000&region=eu-1&addressing=virtual&ca=/etc/ca.pem&profile=dr"
    "&etag=unquoted&client=boto3"
)


@pytest.mark.parametrize(
    "text", ["/backup/vm", "dir:/backup/vm", "file:///backup/vm", "file://localhost/backup/vm"]
)
def test_a_directory(text: str) -> None:
    place = parse_address(text)
    assert place == DirectoryPlace(Path("/backup/vm"))
    assert place.address() == "/backup/vm"


def test_a_relative_directory_is_made_absolute() -> None:
    assert parse_address("dir:backup") == DirectoryPlace(Path(os.getcwd()) / "backup")


def test_every_option_of_s3() -> None:
    place = parse_address(FULL)
    assert place == S3Settings(
        "bucket", "a/b", "https://host:9000", "eu-1", "virtual", "/etc/ca.pem", "dr", "unquoted", "boto3"
    )
    assert place.address() == FULL
    assert parse_address(place.address()) == place


def test_the_least_of_s3() -> None:
    for text in ("s3://bucket", "s3://bucket/", "S3://bucket"):
        assert parse_address(text) == S3Settings("bucket")
    assert (
        parse_address("s3://bucket/p/?endpoint=http://host/").address()
        == "s3://bucket/p?endpoint=http://host"
    )


def test_the_style_is_path_only_where_an_endpoint_is_named() -> None:
    assert not S3Settings("bucket").in_path
    assert S3Settings("bucket", endpoint="https://host").in_path
    assert S3Settings("bucket", addressing="path").in_path
    assert not S3Settings("bucket", endpoint="https://host", addressing="virtual").in_path


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "backup", "ftp://host/x", "http://host/bucket", "dir:", "file:relative", "file://host/x", "file:///x?y=1",
        "s3:bucket", "s3://", "s3:///prefix", "s3://b", "s3://bucket/a b", "s3://bucket/../x", "s3://bucket/a//b",
        "s3://bucket#x", "s3://bucket?", "s3://bucket?endpoint=host:9000", "s3://bucket?endpoint=ftp://host",
        "s3://bucket?endpoint=https://host/path", "s3://bucket?endpoint=https://host:port", "s3://bucket?endpoint=https://",
        "s3://bucket?addressing=magic", "s3://bucket?ca=relative.pem", "s3://bucket?region=eu%201", "s3://bucket?colour=red",
        "s3://bucket?region=a&region=b", "s3://bucket?region=", "s3://bucket?etag=x", "s3://bucket?client=curl",
        "s3://bucket?profile=a/b", "/back\nup", "/" + "x" * 3000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_a_hint(text: str) -> None:
    if text == "s3://bucket?":
        assert parse_address(text) == S3Settings("bucket")
        return
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIAHIDDEN:hidden@bucket/x",
        "s3://bucket?endpoint=https://user:hidden@host",
        "s3://bucket?secret_access_key=hidden",
        "s3://bucket?aws_secret_access_key=hidden",
        "s3://bucket?access_key=hidden",
        "s3://bucket?AWSAccessKeyId=hidden",
        "s3://bucket?session_token=hidden",
        "s3://bucket?password=hidden",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="credentials must not stand in it") as caught:
        parse_address(text)
    shown = f"{caught.value} {caught.value.hint}"
    assert "hidden" not in shown.lower()
    assert "profile" in shown


def test_a_place_below_a_place() -> None:
    assert below(DirectoryPlace(Path("/backup")), "vm/a").address() == "/backup/vm/a"
    assert below(S3Settings("bucket"), "vm").address() == "s3://bucket/vm"
    assert (
        below(S3Settings("bucket", "p", "http://h"), "vm/a").address()
        == "s3://bucket/p/vm/a?endpoint=http://h"
    )
    for prefix in ("", "..", "/x", "a b"):
        with pytest.raises(UsageError):
            below(S3Settings("bucket"), prefix)


def test_an_address_opens_its_store(tmp_path: Path) -> None:
    store = open_store(f"dir:{tmp_path}")
    store.put_new("a", b"1")
    assert open_store(str(tmp_path)).get("a").data == b"1"
    assert store.address == str(tmp_path)


def test_an_s3_address_opens_its_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    for client in ("obstore", "boto3"):
        address = f"s3://bucket/p?endpoint=http://127.0.0.1:1&client={client}"
        store = open_store(address)
        assert parse_address(store.address) == parse_address(address)
        store.close()
