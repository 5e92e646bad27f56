"""What an owner makes of the configuration in force: its own words, and everything else as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdp_container.domain.configured import SiteWord, wanted_config
from cdp_container.domain.identity import AgentIdentity, SourceIdentity, TreeIdentity
from cdp_container.domain.retention_policy import KEEP_ALL, Retention, parse_retention
from cdp_container.format.domain import DomainConfig, Encryption, Source, build_config, parse_config
from cdp_container.store.zones import Zone

DOMAIN = b"d" * 16
HOME = "s3://backups/shop?endpoint=https://s3.example.com&region=eu"
HOME_ZONE = Zone("s3.example.com", None, "backups", "shop")
OTHER = "s3://backups/shop?endpoint=https://gateway.example.com"
OTHER_ZONE = Zone("gateway.example.com", None, "backups", "shop")
DISK = SourceIdentity("db01", "/srv/db01.raw", b"s" * 16, 1 << 30)
TREE = Source("tree", "etc", b"t" * 16, 0)
IN_FORCE = DomainConfig(
    domain=DOMAIN,
    name="shop",
    encryption=Encryption.NONE,
    endpoints=(HOME,),
    replicas=("s3://copy/shop?endpoint=https://far.example.com",),
    ca="PEM of the home",
    retention={"every_cut_hours": 24},
    sources=(Source("volume", "db01", b"s" * 16, 1 << 30), TREE),
    members=({"kind": "vm", "name": "db01"},),
    credentials=b"sealed elsewhere",
    unknown={"future": [1]},
)
AT_HOME = SiteWord(HOME, HOME_ZONE)


def identity(*sources: SourceIdentity) -> AgentIdentity:
    return AgentIdentity(DOMAIN, "shop", "site-a", "none", b"", b"", b"", bytes(32), sources or (DISK,))


def test_one_who_wants_nothing_else_changes_nothing() -> None:
    assert wanted_config(IN_FORCE, identity(), AT_HOME) == IN_FORCE


def test_what_is_changed_leaves_everything_else() -> None:
    grown = replace(DISK, size_bytes=2 << 30)
    wanted = wanted_config(IN_FORCE, identity(grown), AT_HOME)
    volume = Source("volume", "db01", DISK.space, 2 << 30)
    assert wanted == replace(IN_FORCE, sources=(volume, TREE))
    assert wanted.unknown == IN_FORCE.unknown
    assert parse_config(build_config(wanted), "k", DOMAIN) == wanted


def test_volumes_that_come_and_go() -> None:
    second = SourceIdentity("db02", "/srv/db02.raw", b"2" * 16, 4096)
    wanted = wanted_config(IN_FORCE, identity(replace(DISK, removed=True), second), AT_HOME)
    assert wanted.sources == (Source("volume", "db02", b"2" * 16, 4096), TREE)


def test_another_order_is_no_other_configuration() -> None:
    second = SourceIdentity("db02", "/srv/db02.raw", b"2" * 16, 4096)
    both = wanted_config(IN_FORCE, identity(DISK, second), AT_HOME)
    assert wanted_config(both, identity(second, DISK), AT_HOME) == both


# --- the home ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_home", [False, True])
@pytest.mark.parametrize(
    "address",
    [
        HOME,
        "s3://backups/shop?endpoint=http://s3.example.com:80",
        "s3://backups/shop?endpoint=https://s3.example.com&region=us&addressing=path",
    ],
)
def test_another_spelling_of_the_same_home_is_not_pinned_anew(address: str, is_home: bool) -> None:
    word = SiteWord(address, HOME_ZONE, is_home)
    assert wanted_config(IN_FORCE, identity(), word) == IN_FORCE


def test_an_operator_s_word_pins_the_home_anew_and_its_ca_with_it() -> None:
    wanted = wanted_config(IN_FORCE, identity(), SiteWord(OTHER, OTHER_ZONE, is_home=True))
    assert wanted == replace(IN_FORCE, endpoints=(OTHER,), ca=None)
    assert wanted_config(wanted, identity(), SiteWord(OTHER, OTHER_ZONE)) == wanted, "the word can go"


def test_without_that_word_nothing_is_pinned_anew() -> None:
    assert wanted_config(IN_FORCE, identity(), SiteWord(OTHER, OTHER_ZONE)) == IN_FORCE


@pytest.mark.parametrize("endpoints", [(), ("/mnt/backups/shop",)])
def test_where_no_zone_is_pinned_none_is(endpoints: tuple[str, ...]) -> None:
    in_force = replace(IN_FORCE, endpoints=endpoints)
    for word in (SiteWord("/elsewhere", None, is_home=True), SiteWord(OTHER, OTHER_ZONE, is_home=True)):
        assert wanted_config(in_force, identity(), word) == in_force


def test_a_home_that_became_a_directory_is_pinned_by_the_word() -> None:
    wanted = wanted_config(IN_FORCE, identity(), SiteWord("/mnt/shop", None, is_home=True))
    assert wanted.endpoints == ("/mnt/shop",)


def test_a_site_that_names_no_ca_leaves_the_one_that_is_there() -> None:
    assert wanted_config(IN_FORCE, identity(), AT_HOME).ca == IN_FORCE.ca
    assert wanted_config(IN_FORCE, identity(), replace(AT_HOME, ca="PEM, renewed")).ca == "PEM, renewed"


def test_replicas_are_taken_out_by_an_empty_list_and_by_no_silence() -> None:
    in_force = replace(IN_FORCE, replicas=("/mnt/copy",))
    assert wanted_config(in_force, identity(), AT_HOME).replicas == ("/mnt/copy",)
    for said in ((), ("s3://b/p?endpoint=https://other", "/mnt/copy")):
        assert wanted_config(in_force, identity(), replace(AT_HOME, replicas=said)).replicas == said


# --- credentials -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seals", "wanted"), [(None, b"sealed elsewhere"), (True, b"sealed here"), (False, None)]
)
def test_credentials_are_left_or_sealed_or_taken_out(seals: bool | None, wanted: bytes | None) -> None:
    word = replace(AT_HOME, seals=seals, credentials=b"sealed here" if seals else None)
    assert wanted_config(IN_FORCE, identity(), word) == replace(IN_FORCE, credentials=wanted)


# --- retention ---------------------------------------------------------------------------------


def test_a_policy_replaces_the_one_in_force_and_none_leaves_it() -> None:
    policy = Retention(86400, hourly_seconds=7 * 86400)
    wanted = wanted_config(IN_FORCE, identity(), replace(AT_HOME, retention=policy))
    assert parse_retention(wanted.retention, "k") == policy
    assert wanted_config(wanted, identity(), AT_HOME) == wanted
    assert wanted_config(wanted, identity(), replace(AT_HOME, retention=KEEP_ALL)).retention == {}


def test_a_site_with_trees_says_which_and_one_without_leaves_them() -> None:
    assert wanted_config(IN_FORCE, identity(), AT_HOME).sources == IN_FORCE.sources
    trees = (TreeIdentity("home", "/home", b"h" * 16), TreeIdentity("old", "/old", b"o" * 16, removed=True))
    wanted = wanted_config(IN_FORCE, replace(identity(), trees=trees), AT_HOME)
    assert wanted.sources == (IN_FORCE.sources[0], Source("tree", "home", b"h" * 16, 0))
    assert parse_config(build_config(wanted), "config", DOMAIN).sources == wanted.sources
