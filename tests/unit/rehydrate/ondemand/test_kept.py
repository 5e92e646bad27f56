"""What is kept within a limit of bytes: never more, the longest unused goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rehydrate.ondemand.kept import Kept


def test_the_longest_unused_goes_first() -> None:
    kept: Kept[str, str] = Kept(10)
    for key in "abc":
        kept.put(key, key.upper(), 3)
    assert kept.get("a") == "A"
    kept.put("d", "D", 3)
    assert [kept.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    assert (kept.total_bytes, len(kept)) == (9, 3)


def test_what_is_larger_than_all_is_not_kept_and_drives_nothing_out() -> None:
    kept: Kept[str, str] = Kept(10)
    kept.put("a", "A", 10)
    kept.put("b", "B", 11)
    assert (kept.get("a"), kept.get("b"), kept.total_bytes) == ("A", None, 10)
    kept.put("a", "much more", 11)
    assert (kept.get("a"), kept.total_bytes) == (None, 0)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40), st.booleans()), max_size=60),
    st.integers(0, 100),
)
def test_the_limit_holds_and_the_count_is_right(steps: list[tuple[int, int, bool]], limit_bytes: int) -> None:
    kept: Kept[int, int] = Kept(limit_bytes)
    model: dict[int, int] = {}
    for key, size, puts in steps:
        if puts:
            kept.put(key, size, size)
            model.pop(key, None)
            if size <= limit_bytes:
                model[key] = size
                while sum(model.values()) > limit_bytes:
                    del model[next(iter(model))]
        elif key in model:
            model[key] = model.pop(key)
            assert kept.get(key) == model[key]
        else:
            assert kept.get(key) is None
        assert kept.total_bytes == sum(model.values()) <= limit_bytes
    kept.clear()
    assert (kept.total_bytes, len(kept)) == (0, 0)
