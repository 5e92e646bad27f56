"""`cdp-agent attest` as a user runs it: on a directory, on a real Ceph gateway, and where nothing is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Done, run
from tests.e2e.site import BIN
from tests.servers.bucket import fresh_bucket
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.e2e


def cdp_agent(tmp_path: Path, secrets: Mapping[str, str], *words: str) -> Done:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8", **secrets}
    return run([str(BIN / "cdp-agent"), *words], environment)


def attest(tmp_path: Path, secrets: Mapping[str, str], *words: str) -> Done:
    return cdp_agent(tmp_path, secrets, "attest", *words)


def verdicts(done: Done) -> dict[str, dict[str, Any]]:
    return {row["promise"]: row for row in done.json["rows"]}


def test_a_directory(tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.mkdir()
    done = attest(tmp_path, {}, str(place), "--json").must()
    rows = verdicts(done)
    assert len(rows) == 17
    assert all(row["verdict"] == "kept" for row in rows.values() if row["must"])
    assert [path for path in place.rglob("*") if path.is_file() and "probe" in str(path)] == []
    table = attest(tmp_path, {}, str(place), "--rounds", "1").must().out
    assert "must hold:" in table
    assert "  kept     of simultaneous conditional writes" in table


def test_the_configured_store(tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.mkdir()
    config = tmp_path / "agent.yaml"
    members = {
        "domain": "shop",
        "site": "a",
        "store": str(place),
        "journal": {"directory": str(tmp_path / "j"), "limit": "1GiB"},
        "volumes": [{"name": "db", "path": str(tmp_path / "db.raw")}],
    }
    config.write_text(json.dumps(members))
    attest(tmp_path, {}, "--config", str(config), "--rounds", "1").must()


def test_there_is_no_such_place(tmp_path: Path) -> None:
    done = attest(tmp_path, {}, str(tmp_path / "nowhere"), "--rounds", "1")
    assert done.code == 11, done


@pytest.mark.ceph
def test_a_ceph_gateway(ceph: S3Server, tmp_path: Path) -> None:
    with fresh_bucket(ceph) as bucket:
        address = f"s3://{bucket.name}/place?endpoint={ceph.endpoint}"
        done = attest(tmp_path, ceph.environment(), address, "--json").must()
        rows = verdicts(done)
        assert all(row["verdict"] == "kept" for row in rows.values() if row["must"])
        # Releases differ in these; but one of the two spellings must do.
        spellings = [row["verdict"] for promise, row in rows.items() if "quotes" in promise]
        assert len(spellings) == 2
        assert "kept" in spellings
        assert bucket.admin.list_objects_v2(Bucket=bucket.name).get("Contents", []) == []
        assert ceph.secret_key not in done.out + done.err

        bucket.admin.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
        refused = attest(tmp_path, ceph.environment(), address, "--rounds", "1").must(42)
        assert "BROKEN   the bucket keeps no old versions" in refused.out
        assert "keeps old versions" in refused.err
        disk = tmp_path / "db.raw"
        disk.write_bytes(bytes(4096))
        config = tmp_path / "agent.yaml"
        members = {
            "domain": "shop",
            "site": "a",
            "store": address,
            "journal": {"directory": str(tmp_path / "j")},
            "volumes": [{"name": "db", "path": str(disk)}],
        }
        config.write_text(json.dumps(members))
        for command in ("init", "check-config"):
            done = cdp_agent(tmp_path, ceph.environment(), command, "--config", str(config))
            assert "keeps old versions" in done.must(42).err

        denied = attest(tmp_path, ceph.environment() | {"AWS_SECRET_ACCESS_KEY": "wrong"}, address)
        assert denied.code == 32, denied
