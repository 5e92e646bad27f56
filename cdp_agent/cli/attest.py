"""`cdp-agent attest`: the table of what a store promises and keeps, for whoever chooses one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cdp_container.console import answer, printable
from cdp_container.domain.settings import load_settings
from cdp_container.errors import UsageError
from cdp_container.store.address import open_store
from cdp_container.store.attest import HasDataPlace, KeepsOldest, probe_data
from cdp_container.store.attest_table import Row, Verdict, attest, judge

_SHOWN = {
    (True, Verdict.KEPT): "kept",
    (True, Verdict.BROKEN): "BROKEN",
    (True, Verdict.UNKNOWN): "UNKNOWN",
    (False, Verdict.KEPT): "yes",
    (False, Verdict.BROKEN): "no",
    (False, Verdict.UNKNOWN): "-",
}


def attest_store(address: str | None, config: Path, connections: int, rounds: int, *, as_json: bool) -> int:
    """Print the table. Raises StoreRefused where a row that must hold is broken, or what kept one unknown."""
    store = open_store(address or load_settings(config).store)
    try:
        if isinstance(store, KeepsOldest):
            raise UsageError(
                f"attest {store.address}",
                "what is put into a data place may be locked, so nothing is put there to try it",
                "attest the place of domain/; `init` looks whether the data place keeps versions",
            )
        if isinstance(store, HasDataPlace):
            probe_data(store.data, os.urandom)
        rows = attest(store, os.urandom, connections, rounds)
        answer(_as_json(store.address, rows) if as_json else _as_table(store.address, rows))
        judge(store, rows)
    finally:
        store.close()
    return 0


def _as_json(address: str, rows: list[Row]) -> str:
    members = [
        {"promise": row.promise, "must": row.must, "verdict": row.verdict.value, "said": row.said}
        for row in rows
    ]
    return json.dumps({"store": address, "rows": members})


def _as_table(address: str, rows: list[Row]) -> str:
    lines = [address]
    for must, title in ((True, "must hold:"), (False, "good to know, nothing rests on it:")):
        lines += ["", title]
        for row in rows:
            if row.must == must:
                said = f" ({printable(row.said)})" if row.said else ""
                lines.append(f"  {_SHOWN[must, row.verdict]:<8} {row.promise}{said}")
    return "\n".join(lines)
