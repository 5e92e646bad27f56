"""The imager as a child of `cdp-agent run`: its hidden command."""

from __future__ import annotations

from cdp_agent.cli.vm_options import DEFAULT_CONFIG, Config
from cdp_container.console import guarded


def imager_process(config: Config = DEFAULT_CONFIG) -> int:
    """The imager of volumes that are captured from their VMs; started by `run`."""

    def work() -> int:
        from cdp_agent.cli.children import imager_settings
        from cdp_agent.cli.run import die_with_parent
        from cdp_agent.imager.process import run_imager

        die_with_parent()
        return run_imager(imager_settings(config))

    return guarded(work)
