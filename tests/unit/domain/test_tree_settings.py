"""`trees` in the configuration: what is accepted, and every fault that can be told without looking."""

from __future__ import annotations

import pytest

from cdp_container.domain.settings import dump_settings, parse_settings
from cdp_container.errors import ConfigInvalid

BEFORE = b"""
domain: shop
site: hamburg
store: /srv/container
journal:
  directory: /srv/journal
"""
VOLUME = b"""
volumes:
  - {name: db, path: /srv/disks/db.raw}
"""


def faults(trees: bytes, volumes: bytes = VOLUME) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parse_settings(BEFORE + volumes + trees, "x.yaml")
    return str(caught.value)


def test_a_tree_and_what_it_is_like_without_a_word() -> None:
    text = b"""
trees:
  - {name: home, path: /home, exclude: ["*.tmp", cache/], include: [k.tmp], scan: 2h, one_file_system: no}
  - {name: etc, path: /etc}
"""
    settings = parse_settings(BEFORE + VOLUME + text, "x.yaml")
    home, etc = settings.trees
    assert (home.exclude, home.include, home.scan) == (["*.tmp", "cache/"], ["k.tmp"], 7200.0)
    assert (home.one_file_system, etc.one_file_system, etc.scan) == (False, True, 6 * 3600.0)
    assert parse_settings(dump_settings(settings), "again") == settings


def test_trees_alone_are_a_domain_and_nothing_is_none() -> None:
    assert parse_settings(BEFORE + b"trees: [{name: home, path: /home}]\n", "x.yaml").volumes == []
    assert "there is nothing to protect" in faults(b"", b"")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/srv", "the disk of volume db is in it"),
        ("/srv", "journal.directory is in it"),
        ("/srv", "the store's directory is in it"),
        ("/srv/journal", "journal.directory is in it"),
        ("/srv/container/log", "is in the store's directory"),
        ("/srv/journal/journal", "is in journal.directory"),
        ("/", "is the root of everything"),
        ("/home/", "roundabout"),
        ("/home/../etc", "roundabout"),
        ("//home", "roundabout"),
        ("home", "is not an absolute path"),
    ],
)
def test_where_a_tree_cannot_be(path: str, why: str) -> None:
    assert why in faults(f"trees: [{{name: home, path: {path}}}]\n".encode())


def test_all_faults_are_told_at_once() -> None:
    text = faults(
        b"trees:\n  - {name: db, path: /home}\n  - {name: one, path: /home/one}\n  - {name: t, path: /srv}\n"
    )
    assert "two sources have the same name: db" in text
    assert "db and one overlap" in text
    assert "t: journal.directory is in it" in text


def test_names_that_begin_alike_are_no_overlap() -> None:
    text = b"trees:\n  - {name: a, path: /srv/a}\n  - {name: ab, path: /srv/ab}\n"
    assert len(parse_settings(BEFORE + VOLUME + text, "x.yaml").trees) == 2


@pytest.mark.parametrize("pattern", ["''", "/", '"a\\0b"', "x" * 5000])
def test_what_is_no_pattern(pattern: str) -> None:
    assert "exclude" in faults(f"trees: [{{name: home, path: /home, exclude: [{pattern}]}}]\n".encode())


def test_an_unknown_key_names_the_known_ones() -> None:
    assert "did you mean exclude?" in faults(b"trees: [{name: home, path: /home, exlude: []}]\n")


def test_there_are_not_more_sources_than_a_cut_can_name() -> None:
    trees = "".join(f"  - {{name: t{number}, path: /t/{number}}}\n" for number in range(1024))
    assert "more than 1024 together" in faults(f"trees:\n{trees}".encode())
