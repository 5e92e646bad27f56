"""Golden documents as they are rendered for each hypervisor: tests/golden/rendered.

`python -m tests.unit.rehydrate.render.test_golden` writes them anew; read the difference before you keep it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_container.errors import RenderRefused
from rehydrate.render.documents import Target, documents_of
from tests.unit.rehydrate.render.vms import recovered
from tests.unit.vms.test_golden import DOCUMENTS, parsed

DIRECTORY = Path(__file__).parents[3] / "golden" / "rendered"
VARIANTS: dict[str, dict[str, object]] = {
    "": {},
    "-test": {
        "rehearsal": True,
        "new_macs": True,
        "emulate": True,
        "cpus": 3,
        "memory_bytes": 1 << 30,
        "networks": {},
        "seed": "/srv/recovered/web/seed.iso",
    },
}
CASES = [
    (name, target, variant)
    for name in DOCUMENTS
    for target in Target
    for variant in VARIANTS
    if not (variant and target is Target.QEMU)
]


def rendered(name: str, target: Target, variant: str) -> str:
    """A document, and in words what is not in it."""
    try:
        made = documents_of(recovered(parsed(name), **VARIANTS[variant]), target)
    except RenderRefused as error:
        return f"refused: {error}\n"
    return made.text + "".join(f"## {word}\n" for word in made.not_rendered)


@pytest.mark.parametrize(("name", "target", "variant"), CASES)
def test_a_document_is_rendered_as_it_was(name: str, target: Target, variant: str) -> None:
    assert rendered(name, target, variant) == (DIRECTORY / f"{name}{variant}.{target}").read_text()


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for case in CASES:
        (DIRECTORY / f"{case[0]}{case[2]}.{case[1]}").write_text(rendered(*case))
