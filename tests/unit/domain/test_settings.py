"""The configuration: every fault at once, each with its place; hostile YAML is refused in bounded memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.domain.settings import (
    CONFIG_BYTES_MAX,
    WindowSettings,
    dump_settings,
    load_settings,
    parse_settings,
)
from cdp_container.errors import ConfigInvalid

GOOD = b"""\
domain: shop
site: hamburg
store: /srv/containers/shop
journal:
  directory: /var/lib/cdp/shop
  limit: 20GiB
volumes:
  - name: db01
    path: /var/lib/vms/db01.raw
cut_every: 500ms
"""


def refusal(text: bytes) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parse_settings(text, "agent.yaml")
    return str(caught.value)


def test_good_configuration_with_units() -> None:
    settings = parse_settings(GOOD, "agent.yaml")
    assert settings.journal.limit == 20 << 30
    assert settings.cut_every == 0.5
    assert settings.socket_path == "/var/lib/cdp/shop/nbd.sock"
    assert settings.encryption == "aes-256-gcm"


def test_all_faults_at_once_with_line_and_nearest_key() -> None:
    text = GOOD.replace(b"domain:", b"domian:").replace(b"20GiB", b"20 GB").replace(b"    path:", b"    pth:")
    why = refusal(text)
    assert "agent.yaml:1: domian: unknown key (did you mean domain?)" in why
    assert "agent.yaml:6: journal.limit: '20 GB' is not a size" in why
    assert "agent.yaml:9: volumes[0].pth: unknown key (did you mean path?)" in why
    assert "domain: is missing" in why


TLS = b"  tls:\n    certificate: /c.pem\n    key: /k.pem\n    client_ca: /a.pem\n"


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        (b"127.0.0.1:10809", ("127.0.0.1", 10809)), (b"'[::1]:1'", ("::1", 1)),
        (b"127.9.9.9:65535", ("127.9.9.9", 65535)),
    ],
)  # fmt: skip
def test_loopback_may_be_served_without_tls(listen: bytes, endpoint: tuple[str, int]) -> None:
    nbd = parse_settings(GOOD + b"nbd:\n  listen: " + listen + b"\n", "agent.yaml").nbd
    assert nbd is not None
    assert nbd.endpoint == endpoint


@pytest.mark.parametrize(
    "listen", [b"0.0.0.0:10809", b"192.0.2.1:10809", b"'[::]:10809'", b"'[2001:db8::1]:1'"]
)
def test_beyond_loopback_tls_is_needed(listen: bytes) -> None:
    text = GOOD + b"nbd:\n  listen: " + listen + b"\n"
    assert "tls is needed there" in refusal(text)
    assert "agent.yaml:13: nbd.tls.client_ca: is missing" in refusal(
        text + TLS[: TLS.index(b"    client_ca")]
    )
    nbd = parse_settings(text + TLS, "agent.yaml").nbd
    assert nbd is not None
    assert nbd.tls is not None
    assert nbd.tls.client_ca == "/a.pem"


@pytest.mark.parametrize(
    "listen",
    [
        b"localhost:1",
        b"127.0.0.1",
        b"127.0.0.1:0",
        b"127.0.0.1:65536",
        b":10809",
        b"'::1:10809'",
        b"10809",
        b"''",
    ],
)
def test_an_endpoint_is_an_address_in_digits_and_a_port(listen: bytes) -> None:
    assert "is not an address" in refusal(GOOD + b"nbd:\n  listen: " + listen + b"\n")


def test_key_given_twice_is_a_fault() -> None:
    assert "agent.yaml:11: site: stands there twice" in refusal(GOOD + b"site: bremen\n")


def test_two_volumes_of_one_name() -> None:
    text = GOOD.replace(b"cut_every", b"  - name: db01\n    path: /x\ncut_every")
    assert "two have the same name: db01" in refusal(text)


@pytest.mark.parametrize("value", [b"5 minutes", b"-1s", b"1", b"[1]", b"1e9h", b"'1s '"])
def test_bad_durations(value: bytes) -> None:
    assert "cut_every" in refusal(GOOD.replace(b"500ms", value))


@pytest.mark.parametrize("path", [b"relative", b"''", b"~/x", b"3"])
def test_paths_are_absolute(path: bytes) -> None:
    assert "volumes[0].path" in refusal(GOOD.replace(b"/var/lib/vms/db01.raw", path))


def test_store_is_never_echoed_for_it_may_hold_a_secret_by_mistake() -> None:
    text = GOOD.replace(b"/srv/containers/shop", b"'" + b"s3cr3t" * 500 + b"'")
    assert "s3cr3t" not in refusal(text)


def test_socket_path_too_long_for_the_kernel() -> None:
    assert "socket" in refusal(GOOD + b"socket: /" + b"x" * 120 + b"\n")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"- a\n- b\n",
        b"\xff\xfe",
        b"domain: [",
        b"a: &x [1]\nb: *x\n",
        b"!!python/object/apply:os.system ['true']",
        b"{" * 5000,
        b"[" * 50000,
        b"domain: shop\x00",
    ],
)
def test_hostile_yaml_is_a_typed_error(text: bytes) -> None:
    assert "agent.yaml is refused" in refusal(text)


def test_what_is_no_mapping_is_said_in_words() -> None:
    assert "agent.yaml:1: (top): must be keys and values" in refusal(b"- a\n- b\n")
    assert "journal: must be keys and values" in refusal(b"domain: shop\njournal: 5\n")


def test_size_is_bounded() -> None:
    assert "larger than" in refusal(b"#" * (CONFIG_BYTES_MAX + 1))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_typed_error_or_settings(text: bytes) -> None:
    with contextlib.suppress(ConfigInvalid):
        parse_settings(text, "x")


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load_settings(tmp_path / "none.yaml")
    assert caught.value.exit_code == 4


@given(
    limit=st.integers(256 << 20, 16 << 40),
    seconds=st.floats(1, 3600),
    rate=st.floats(100_000, allow_nan=False),
    requests=st.floats(2, allow_nan=False),
)
def test_what_is_dumped_says_the_same(limit: int, seconds: float, rate: float, requests: float) -> None:
    settings = parse_settings(GOOD + b"nbd: {listen: '[::1]:10809'}\nlimits: {schedule: []}\n", "agent.yaml")
    window = WindowSettings.model_construct(cron="0 8 * * mon-fri", requests_per_second=requests)
    changed = settings.model_copy(
        update={
            "journal": settings.journal.model_copy(update={"limit": limit}),
            "cut_every": seconds,
            "copy_rate": rate,
            "limits": settings.limits.model_copy(update={"bytes_per_second": rate, "schedule": [window]}),
        }
    )
    assert parse_settings(dump_settings(changed), "agent.yaml") == changed


def test_verification_by_the_calendar() -> None:
    text = GOOD + b"verification: {schedule: 30 2 * * *, budget: 10GiB}\n"
    settings = parse_settings(text, "agent.yaml")
    assert settings.verification is not None
    assert (settings.verification.schedule, settings.verification.budget) == ("30 2 * * *", "10GiB")
    assert parse_settings(dump_settings(settings), "accepted") == settings
    assert parse_settings(GOOD, "agent.yaml").verification is None


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (b"{budget: 10GiB}", "schedule: is missing"),
        (b"{schedule: every night}", "is no crontab line"),
        (b"{schedule: 0 3 31 2 *}", "never comes"),
        (b"{schedule: 0 3 * * *, budget: 10}", "budget"),
        (b"{schedule: 0 3 * * *, budget: 10 GB}", "is no budget"),
        (b"{schedule: 0 3 * * *, every: 1h}", "unknown key"),
    ],
)
def test_verification_that_cannot_be(written: bytes, why: str) -> None:
    assert why in refusal(GOOD + b"verification: " + written + b"\n")
