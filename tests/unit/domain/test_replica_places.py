"""Replicas are published without a machine's files, and read with the store's credentials unless given."""

from __future__ import annotations

import json

import pytest

from cdp_container.domain.replica_places import REPLICAS_MAX, published, read_as
from cdp_container.domain.settings import AgentSettings, dump_settings, parse_settings
from cdp_container.errors import ConfigInvalid, UsageError

OTHER = "s3://backups/shop?endpoint=https://other"
PAGE = """
domain: shop
site: bern
store: s3://backups/shop?endpoint=https://home&credentials=/etc/cdp/keys&ca=/etc/cdp/ca.pem
journal: {directory: /var/lib/cdp}
volumes: [{name: db, path: /vms/db.raw}]
"""


def settings(replicas: object) -> AgentSettings:
    return parse_settings(f"{PAGE}replicas: {json.dumps(replicas)}\n".encode(), "shop.yaml")


def addresses(replicas: list[str], own: list[str], store: str) -> list[str]:
    return [place.address() for place in read_as(replicas, own, store)]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/mnt/copy/", "/mnt/copy"),
        ("file:///mnt/copy", "/mnt/copy"),
        (OTHER, OTHER),
        (f"{OTHER}&region=eu-1&profile=dr&ca=/x.pem&credentials=/k&client=boto3", f"{OTHER}&region=eu-1"),
        (
            f"{OTHER}&credentials=/k&data=s3://locked/shop?versions=oldest%26credentials=/d",
            f"{OTHER}&data=s3://locked/shop?versions=oldest",
        ),
    ],
)
def test_what_is_published(given: str, shown: str) -> None:
    found = settings([given]).replicas
    assert found == [given]
    assert [published(one) for one in found or []] == [shown]
    assert published(shown) == shown


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["relative"], "relative path"),
        (["s3://backups/shop"], "names no endpoint"),
        (["s3://key:SECRET@backups/shop?endpoint=https://h"], "credentials must not stand in it"),
        ([f"{OTHER}&secret_access_key=SECRET"], "credentials must not stand in it"),
        ([""], "is empty"),
        ([OTHER, f"{OTHER}&profile=dr"], "two are the same place"),
        ([f"/mnt/{number}" for number in range(REPLICAS_MAX + 1)], "more than 8 items"),
        ("/mnt/copy", "must be a list"),
        ([5], "is no text"),
    ],
)
def test_what_is_refused_and_no_secret_is_repeated(given: object, why: str) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        settings(given)
    assert why in str(raised.value)
    assert "SECRET" not in str(raised.value)


def test_none_and_an_empty_list_are_not_the_same() -> None:
    assert parse_settings(PAGE.encode(), "shop.yaml").replicas is None
    assert settings([]).replicas == []
    for page in (settings([]), settings([f"{OTHER}&profile=dr"])):
        assert parse_settings(dump_settings(page), "again") == page


def test_the_stores_credentials_unless_given() -> None:
    home = "s3://backups/shop?endpoint=https://home&profile=p&credentials=/etc/keys&ca=/etc/ca.pem"
    assert addresses([OTHER], [], home) == [f"{OTHER}&ca=/etc/ca.pem&profile=p&credentials=/etc/keys"]
    own = f"{OTHER}&credentials=/etc/others&ca=/etc/other.pem"
    assert addresses([OTHER], [own], home) == [f"{OTHER}&ca=/etc/other.pem&credentials=/etc/others"]
    assert addresses([OTHER], [own, "/mnt/copy"], "/backup") == [
        own.replace("credentials=/etc/others&ca=/etc/other.pem", "ca=/etc/other.pem&credentials=/etc/others")
    ]
    assert addresses([OTHER, "/mnt/copy"], [], "/backup") == [OTHER, "/mnt/copy"]


def test_what_is_configured_here_and_not_published_is_not_read() -> None:
    assert addresses([], [OTHER], "/backup") == []


def test_the_store_itself_is_no_replica_of_itself() -> None:
    home = "s3://backups/shop?endpoint=https://OTHER:443/&profile=p"
    assert addresses([OTHER], [], home) == []
    assert addresses(["/backup", "/mnt/copy"], [], "dir:/backup") == ["/mnt/copy"]


def test_an_address_of_a_later_release_ends_the_pass() -> None:
    with pytest.raises(UsageError):
        read_as(["ftp://host/x"], [], "/backup")
