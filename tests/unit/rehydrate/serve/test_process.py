"""A service around its images: what it tells while it streams, and what ends it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cdp_container.errors import StoreUnavailable, TargetUnsuitable
from rehydrate.serve import process
from rehydrate.serve.process import Progress, Service, Ways
from tests.unit.rehydrate.serve.test_image import SIZE, Bench, Point, benched, run
from tests.waiting import until


class Container:
    """Open at once, unless it fails to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.done: list[str] = []

    def opened(self) -> None:
        if self.failure is not None:
            raise self.failure

    def facts(self) -> Mapping[str, Any]:
        return {"opened": True}

    def look(self) -> None:
        raise StoreUnavailable("look", "away")

    def let_go(self) -> None:
        self.done.append("let go")

    def stop(self) -> None:
        self.done.append("stop")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="s-") as folder, benched(Path(folder), Point()) as made:
        yield made


def serviced(bench: Bench, container: Container, shown: list[Progress]) -> Service:
    folder = bench.base.parent
    return Service(
        folder, [bench.image()], bench.threads, container, Ways(), bench.told.append, shown.append, {"f": 1}
    )


def test_how_far_it_is_is_told_while_it_streams_and_not_after(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PROGRESS_SECONDS", 0.001)
    shown: list[Progress] = []

    async def story() -> None:
        bench.point.may_answer.clear()
        container = Container()
        service = serviced(bench, container, shown)
        assert service.status()["opened"] is True
        before = asyncio.all_tasks()
        filling = asyncio.create_task(service._fill())
        service._finish()
        await until(lambda: len(shown) >= 2, "it is told twice")
        bench.point.may_answer.set()
        await until(lambda: service.status()["finished"], "all is here")
        await until(lambda: asyncio.all_tasks() - before == {filling}, "nobody tells any more")
        assert container.done == ["let go"]
        filling.cancel()

    run(story())
    assert (shown[0].here_bytes, shown[0].began_bytes, shown[0].total_bytes) == (0, 0, SIZE)
    assert 0 < shown[0].seconds < shown[1].seconds


def test_whoever_asks_it_to_stream_is_told_that_it_does(bench: Bench) -> None:
    async def story() -> None:
        service = serviced(bench, Container(), [])
        assert service.status()["filling"] == "no"
        assert service._finish()["filling"] == "yes"
        filling = asyncio.create_task(service._fill())
        await until(lambda: service.status()["finished"], "all is here")
        assert service._finish()["filling"] == "finished"
        filling.cancel()

    run(story())


def test_an_overlay_whose_socket_nobody_could_use_is_refused() -> None:
    longest = Path("/" + "a" * (process.SOCKET_PATH_BYTES_MAX - len("//nbd.sock")))
    process.check_socket_path(longest)
    for longer in (Path(f"{longest}a"), Path(str(longest)[:-1] + "ä")):
        with pytest.raises(TargetUnsuitable, match="has 108 bytes"):
            process.check_socket_path(longer)


def test_a_container_that_cannot_be_opened_ends_all(bench: Bench) -> None:
    container, opened = Container(TargetUnsuitable("serve", "it is another domain's")), []

    async def story() -> None:
        with pytest.raises(TargetUnsuitable):
            await serviced(bench, container, []).run(lambda: opened.append(True))

    run(story())
    assert opened == [True]
    assert container.done == ["stop"]
    assert not (bench.base.parent / "nbd.sock").exists()
