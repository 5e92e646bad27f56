"""The same commands against a bucket: moto answers for S3 here, a real server in tests/e2e."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import boto3
import pytest

from cdp_container.store.address import open_store
from rehydrate.cli import app
from tests.containers import PASSPHRASE, busy_container
from tests.servers.s3 import S3Server


@pytest.fixture
def bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a prefix in a new bucket."""
    for name, value in moto_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CDP_PASSPHRASE", PASSPHRASE)
    boto3.client("s3", endpoint_url=moto_server.endpoint).create_bucket(Bucket="backups")
    return f"s3://backups/shop?endpoint={moto_server.endpoint}"


def answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["rehydrate", *arguments])
    code = app.main()
    return code, capsys.readouterr().out


@pytest.mark.slow
def test_a_container_in_a_bucket_is_found_listed_verified_and_restored(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = busy_container(open_store(bucket))
    root = bucket.replace("/shop?", "?")
    code, found = answer(capsys, monkeypatch, "domains", root, "--json")
    assert code == 0
    (domain,) = json.loads(found)["domains"]
    assert domain["name"] == "shop"
    code, found = answer(capsys, monkeypatch, "points", domain["address"], "--json")
    assert len(json.loads(found)["points"]) == 9
    assert answer(capsys, monkeypatch, "verify", bucket)[0] == 0
    assert answer(capsys, monkeypatch, "restore", bucket, "--all", "--target-dir", str(tmp_path))[0] == 0
    contents = {path.read_bytes() for path in tmp_path.iterdir()}
    assert contents == set(site.images[max(site.images)].values())


def test_a_missing_bucket_has_its_own_code(
    bucket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = bucket.replace("backups", "nowhere")
    assert answer(capsys, monkeypatch, "points", missing) == (11, "")
    assert answer(capsys, monkeypatch, "points", bucket) == (12, "")
