"""What an epoch begins with: which batches are in the container, and which are as if they had never been.

What an undone batch touched is not known any more: names are told anew, blocks are sent anew, whatever the
index says. An index that does not know the base cut gives up: it is made anew (anew.py).
"""

from __future__ import annotations

from collections.abc import Callable

from cdp_agent.watcher.index import BLOCKS, CHUNK_BYTES, GHOST, UNKNOWN, Index, TouchedSpace, joined
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.place import Place

Found = Callable[[int, bytes], None]
"""Told the tree (its number in the index) and the path of what must be looked at again."""


def begin_epoch(index: Index, epoch: int, base: Place, found: Found) -> bool:
    """Settle what is in the container and undo the rest; False where the index does not know the base.

    Within a transaction of the caller's. An epoch that was begun before is gone on with: the base is then the
    newest cut of it that counts, or the epoch's own.
    """
    current, own = _number(index, "epoch"), (_number(index, "base_epoch"), _number(index, "base_cut"))
    settled = _number(index, "settled_cut")
    if current == 0:
        if base:
            return False
    elif (base.epoch, base.cut) == own:
        if settled:
            return False  # what was in the container for good is not there
        _resolve(index, 0, epoch == current, found)
    elif base.epoch == current and base.cut >= settled and epoch >= current:
        _resolve(index, base.cut, epoch == current, found)
    else:
        return False
    if epoch != current:
        note_epoch(index, epoch, base)
    return True


def note_epoch(index: Index, epoch: int, base: Place) -> None:
    """From now on batches are for this epoch."""
    for key, value in (
        ("epoch", epoch), ("base_epoch", base.epoch), ("base_cut", base.cut), ("settled_cut", 0)
    ):  # fmt: skip
        index.set_meta(key, value)


def settle(index: Index, epoch: int, cut: int) -> None:
    """The batches up to a cut are in the container for good."""
    if epoch != _number(index, "epoch"):
        return
    for number, _, for_cut in index.batches():
        if for_cut <= cut:
            index.settle_batch(number)
    index.set_meta("settled_cut", max(cut, _number(index, "settled_cut")))


def _resolve(index: Index, up_to: int, is_same: bool, found: Found) -> None:
    for number, _, cut in reversed(index.batches()):
        if cut > up_to:
            _undo(index, number, found)
        elif not is_same:
            index.settle_batch(number)


def _undo(index: Index, batch: int, found: Found) -> None:
    run = index.run
    run(
        "INSERT OR IGNORE INTO names (tree, parent, name, type, file, stamp, digest) "
        "SELECT tree, parent, name, ?, NULL, x'', x'' FROM touched_names "
        "WHERE batch=? AND parent IS NOT NULL AND tree IN (SELECT number FROM trees WHERE gone=0)",
        (GHOST, batch),
    )
    run(
        "UPDATE names SET stamp=x'', digest=x'' WHERE id IN (SELECT n.id FROM touched_names t JOIN names n "
        "ON n.tree=t.tree AND n.parent=t.parent AND n.name=t.name WHERE t.batch=?)",
        (batch,),
    )
    run(
        "UPDATE trees SET told=NULL, gone=0 WHERE number IN "
        "(SELECT tree FROM touched_names WHERE batch=? AND parent IS NULL)",
        (batch,),
    )
    rows = run("SELECT tree, parent, name FROM touched_names WHERE batch=? AND parent IS NOT NULL", (batch,))
    for tree, parent, name in rows.fetchall():
        found(tree, joined(parent, name))
    for touched in index.touched_spaces(batch):
        _undo_space(index, touched, found)
    index.settle_batch(batch)


def _undo_space(index: Index, touched: TouchedSpace, found: Found) -> None:
    row = index.run("SELECT id, tree, size FROM files WHERE space=?", (touched.space,)).fetchone()
    if row is None:
        # It may be in the container, and no name of ours has it.
        index.run("INSERT OR IGNORE INTO dead VALUES (?)", (touched.space,))
        return
    file, tree, size = row
    index.run("UPDATE files SET doubt=1 WHERE id=?", (file,))
    for first, beyond in touched.chunks or ():
        for chunk in range(first, min(beyond, -(-size // CHUNK_BYTES))):
            blocks = min(BLOCKS, -(-(size - chunk * CHUNK_BYTES) // SUM_BLOCK_BYTES))
            index.put_sums(file, chunk, UNKNOWN * blocks)
    index.run("UPDATE names SET stamp=x'' WHERE file=?", (file,))
    for path in index.names_of(file):
        found(tree, path)


def _number(index: Index, key: str) -> int:
    value = index.meta(key)
    return value if isinstance(value, int) else 0
