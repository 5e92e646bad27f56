"""A bucket of its own on a test's S3 server, and stores in it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
import pytest

from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_settings import S3Settings
from tests.servers.s3 import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Bucket:
    """A fresh bucket; `admin` is a client that our stores have no part in."""

    server: S3Server
    name: str
    admin: S3Client


def s3_environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this server's credentials are found from now on, and nothing of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


@contextmanager
def fresh_bucket(server: S3Server) -> Iterator[Bucket]:
    """A bucket with a name that no other test has. It stays: servers of tests end with the tests."""
    admin = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
    )
    name = f"test-{secrets.token_hex(8)}"
    admin.create_bucket(Bucket=name)
    try:
        yield Bucket(server, name, admin)
    finally:
        admin.close()


@contextmanager
def opened(settings: S3Settings) -> Iterator[S3Store]:
    """A store, closed at the end."""
    store = S3Store(settings)
    try:
        yield store
    finally:
        store.close()
