"""A container with damage, a volume that holds some of its content, and a pass of healing over both."""

from __future__ import annotations

from pathlib import Path

from cdp_agent.collector.pass_types import Around
from cdp_agent.healing.heal import Healed, Here, heal
from cdp_container.domain.collecting import Collector
from cdp_container.domain.held_look import look_at_holds
from cdp_container.format.holds import Hold
from tests.containers import write
from tests.unit.collector.collecting_site import CollectedSite, Effects


class HealedSite(CollectedSite):
    """See the module. `volume`: the file that the guest has."""

    def __init__(self, directory: Path, encrypted: bool = True) -> None:
        super().__init__(encrypted, every_hours=1000)
        self.directory = directory
        self.disk = self.add_disk("disk", 64 * 4096)
        self.begin_epoch()

    def blocks(self, *numbers: int) -> None:
        """A cut that writes these blocks, all of them new."""
        self.time.sleep(1200)
        self.cut([write(self.disk, number * 4096, self.rng.randbytes(4096)) for number in numbers])
        self.protect(max(self.images))

    def here(self, content: bytes | None = None) -> Here:
        """What the guest's volume holds: the newest image, or this."""
        path = self.directory / "disk.img"
        path.write_bytes(self.images[max(self.images)][self.disk] if content is None else content)
        return Here({self.disk: path})

    def damage(self, key: str, at: int = -60) -> None:
        data = bytearray(self.store.get(key).data)
        data[at] ^= 1
        self.replace(key, bytes(data))

    def replace(self, key: str, data: bytes) -> None:
        self.store.delete(key)
        self.store.put_new(key, data)

    def heal(
        self, *known: str, here: Here | None = None, plan_only: bool = False, effects: Effects | None = None
    ) -> Healed:
        """One pass of healing."""
        effects = effects or Effects()
        collector_in = self.directory / "collector"
        collector_in.mkdir(exist_ok=True)

        def holds() -> dict[str, Hold]:
            now_ns = self.time.wall_ns()
            entropy = self.rng.randbytes
            watch = look_at_holds(
                self.store, self.domain, collector_in, bytes(16), self.time, entropy, now_ns
            )
            return dict(watch.holds)

        collector = Collector(
            self.store,
            self.replicas,
            self.domain,
            "site-a",
            holds,
            lambda wanted: effects.do("change", lambda: self._change(wanted)),
            self.time.sleep,
        )
        around = Around(
            self._identity(),
            collector_in,
            collector,
            self.store,
            self.time,
            self.rng.randbytes,
            lambda _: None,
        )
        self.watched.effects = effects
        try:
            return heal(around, here or self.here(), known, "tests", plan_only)
        finally:
            self.watched.effects = None
