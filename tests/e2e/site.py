"""A protected site with real processes, and a recovery site that has nothing of it.

Everything of the protected site lies below `Site.root`. A recovery command sees an empty directory
there (in a mount namespace of its own where we are root) and has another HOME, so that the container
and the passphrase are all that it can use. Whatever was started dies with `new_site`, also when a test
fails. What does not belong here: judging what came back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdp_container.errors import AgentNotRunning
from cdp_container.format.seal import public_of
from tests.e2e.processes import Done, children_of, group_members, is_gone, run
from tests.nbd_client import NbdClient
from tests.waiting import wait_until

MIB = 1 << 20
BIN = Path(sys.executable).parent
OPEN_SECONDS_MAX = 120.0
END_SECONDS_MAX = 90.0
PROTECTED_SECONDS_MAX = 90.0
PASSPHRASE = "correct horse battery staple"
PRIVATE_KEY = hashlib.sha256(b"a recipient of the tests").digest()
SECRET_VARIABLE = "AWS_SECRET_ACCESS_KEY"


@dataclass(slots=True)
class Agent:
    """A `cdp-agent run` and its children, in a process group of their own."""

    process: subprocess.Popen[bytes]
    log_path: Path

    def log(self) -> str:
        """What all three wrote so far."""
        return self.log_path.read_text(errors="replace")

    def child(self, name: str) -> int | None:
        """The pid of "splitter" or "streamer", None while it is not there."""
        return children_of(self.process.pid).get(name)

    def kill(self, *names: str) -> None:
        """SIGKILL to children; one that is just not there is no matter."""
        pids = [self.child(name) for name in names]
        for pid in pids:
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for pid in pids:
            if pid is not None:
                wait_until(lambda pid=pid: is_gone(pid), f"process {pid} is dead", END_SECONDS_MAX)  # type: ignore[misc]

    def kill_group(self) -> None:
        """SIGKILL to supervisor and children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(END_SECONDS_MAX)
        wait_until(lambda: not group_members(self.process.pid), "the group is dead", END_SECONDS_MAX)

    def stop(self) -> int:
        """SIGTERM to the supervisor; gives its exit code. If it hangs, the log gets every thread's stack."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            for pid in group_members(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGABRT)
            raise

    def interrupt(self) -> int:
        """Ctrl-C, which reaches the whole process group; gives the supervisor's exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(END_SECONDS_MAX)

    @property
    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self.process.poll() is None


@dataclass(slots=True)
class Site:
    """The protected site, and the commands that are given there and elsewhere."""

    base: Path
    store: str
    volumes: Mapping[str, int]
    secrets: Mapping[str, str]
    settings: str
    encrypted: bool = True
    with_key: bool = False
    agents: list[Agent] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """Everything of the protected site."""
        return self.base / "a"

    @property
    def journal(self) -> Path:
        """The journal directory."""
        return self.root / "j"

    @property
    def config(self) -> Path:
        """The agent's configuration."""
        return self.root / "agent.yaml"

    @property
    def socket(self) -> Path:
        """Where the exports listen."""
        return self.journal / "nbd.sock"

    @property
    def passphrase(self) -> Path:
        """What was kept in the safe."""
        return self.base / "passphrase"

    @property
    def private_key(self) -> Path:
        """The other way to open the container: a recipient's private key. Quicker than any passphrase."""
        return self.base / "private-key"

    @property
    def container(self) -> Path:
        """The directory store's directory."""
        assert self.store.startswith("/")
        return Path(self.store)

    def backing(self, volume: str) -> Path:
        """The file that a volume lies in."""
        return self.root / f"{volume}.raw"

    def uri(self, volume: str) -> str:
        """What NBD clients call an export."""
        return f"nbd+unix:///{volume}?socket={self.socket}"

    def write_config(self, *extra: str) -> None:
        """agent.yaml, with further lines."""
        lines = [f"domain: shop\nsite: a\nstore: {json.dumps(self.store)}", self.settings, *extra]
        lines += ["volumes:"] if self.volumes else []
        lines += [f"  - {{name: {name}, path: {self.backing(name)}}}" for name in self.volumes]
        self.config.write_text("\n".join(lines) + "\n")

    def environment(self, home: Path) -> dict[str, str]:
        """Nothing of whoever runs the tests, but PATH."""
        home.mkdir(parents=True, exist_ok=True)
        here = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "PYTHONFAULTHANDLER": "1"}
        return {**here, **self.secrets}

    # --- at the protected site ---------------------------------------------------------------

    def agent_command(self, *argv: str, environment: Mapping[str, str] | None = None) -> Done:
        """Run a `cdp-agent` command to its end."""
        words = [str(BIN / "cdp-agent"), *argv, "--config", str(self.config)]
        return run(words, environment or self.environment(self.root / "home"))

    def init(self) -> Done:
        """Create the domain; the recovery kit is in `kit.txt`."""
        return self.agent_command(
            "init", "--passphrase-file", str(self.passphrase), "--kit", str(self.base / "kit.txt")
        )

    def launch(self, *flags: str, environment: Mapping[str, str] | None = None) -> Agent:
        """Start `run` without waiting for anything."""
        log_path = self.base / f"agent-{len(self.agents)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [str(BIN / "cdp-agent"), "run", "--config", str(self.config), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(environment or self.environment(self.root / "home")),
                start_new_session=True,
            )
        agent = Agent(process, log_path)
        self.agents.append(agent)
        return agent

    def start(self, *flags: str, environment: Mapping[str, str] | None = None) -> Agent:
        """Start `run` and wait until every export answers."""
        agent = self.launch(*flags, environment=environment)
        wait_until(lambda: self.is_open(agent), "the exports are open", OPEN_SECONDS_MAX)
        return agent

    def is_open(self, agent: Agent) -> bool:
        """Whether clients find all exports now; a `run` that ended is an error."""
        assert agent.alive, f"the agent ended with {agent.process.returncode}:\n{agent.log()}"
        try:
            for volume in self.volumes:
                self.client(volume).close()
        except OSError:
            return False
        return True

    def client(self, volume: str) -> NbdClient:
        """A connection to an export."""
        return NbdClient(self.socket, volume)

    def status(self) -> Done:
        """`status --json`; its exit code is 0 or 3."""
        done = self.agent_command("status", "--json")
        assert done.code in (0, 3), done
        return done

    def flush(self, timeout_seconds: float = 60.0) -> Done:
        """Wait until everything acknowledged by now is protected."""
        return self.agent_command("flush", "--timeout", str(timeout_seconds))

    def flush_when_ready(self) -> None:
        """Flush, also where the streamer or its store has yet to come back."""
        last = Done(-1, "", "")

        def flushed() -> bool:
            nonlocal last
            last = self.flush(5.0)
            return last.code == 0

        try:
            wait_until(flushed, "everything is protected", PROTECTED_SECONDS_MAX)
        except AssertionError:
            raise AssertionError(f"{last}\n{self.facts()}") from None

    def wait_until_whole(self) -> None:
        """Wait until the newest recovery point holds all of every source: exports open before that."""

        def is_whole() -> bool:
            points = self.points()
            return bool(points) and points[-1]["whole"] is True

        wait_until(is_whole, "the newest point is whole", PROTECTED_SECONDS_MAX)

    def facts(self) -> dict[str, Any]:
        """What the streamer shows of itself, {} before it first did."""
        try:
            members: dict[str, Any] = json.loads((self.journal / "streamer.json").read_bytes())
        except FileNotFoundError:
            return {}
        return members

    def marker(self, name: str, *options: str) -> Done:
        """Name this instant; a streamer that is not there yet, as exports open before, is asked again."""
        done = Done(-1, "", "")

        def is_answered() -> bool:
            nonlocal done
            done = self.agent_command("marker", name, *options)
            return done.code != AgentNotRunning.exit_code

        wait_until(is_answered, "the streamer answers", OPEN_SECONDS_MAX)
        return done

    # --- elsewhere ---------------------------------------------------------------------------

    def rehydrate(self, *argv: str, environment: Mapping[str, str] | None = None) -> Done:
        """Run a `rehydrate` command for this container where nothing of the protected site exists."""
        command, *rest = argv
        words = [str(BIN / "rehydrate"), command, self.store, *rest, *self.secret_options()]
        return run([*self._apart(), *words], environment or self.environment(self.base / "b" / "home"))

    def secret_options(self) -> list[str]:
        """What opens the container for `rehydrate`."""
        if not self.encrypted:
            return []
        if self.with_key:
            return ["--key-file", str(self.private_key)]
        return ["--passphrase-file", str(self.passphrase)]

    def restore(self, volume: str, target: Path, *choice: str) -> dict[str, Any]:
        """Restore one volume; gives the report."""
        return (
            self.rehydrate("restore", "--volume", volume, "--target", str(target), "--json", *choice)
            .must()
            .json
        )

    def restore_all(self, folder: Path, *choice: str) -> dict[str, Any]:
        """Restore every volume to `folder`/NAME.raw; gives the report."""
        folder.mkdir(parents=True)
        return self.rehydrate("restore", "--all", "--target-dir", str(folder), "--json", *choice).must().json

    def points(self) -> list[dict[str, Any]]:
        """Every recovery point, oldest first."""
        found: list[dict[str, Any]] = self.rehydrate("points", "--last", "0", "--json").must().json["points"]
        return found

    def read_independently(self, volume: str, target: Path, container: Path, *choice: str) -> None:
        """Restore with the reader that shares no code with the project, from a copy of the container."""
        reader = Path(__file__).parents[1] / "reader.py"
        key = ["--passphrase-file", str(self.passphrase)] if self.encrypted else []
        words = [sys.executable, str(reader), str(container), "restore", volume, str(target), *choice, *key]
        run([*self._apart(), *words], self.environment(self.base / "b" / "home")).must()

    def _apart(self) -> list[str]:
        """What makes the protected site vanish, and a container in a directory read-only, for one command.

        Without root only HOME is another.
        """
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            return []
        script = f"mount -t tmpfs none {self.root} && "
        if Path(self.store).is_dir():
            script += f"mount --bind {self.store} {self.store} && mount -o remount,ro,bind {self.store} && "
        script += 'exec "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


@contextlib.contextmanager
def new_site(
    volumes: Mapping[str, int],
    *,
    store: str | None = None,
    secrets: Mapping[str, str] | None = None,
    encrypted: bool = True,
    with_key: bool = False,
    journal_limit: str = "256MiB",
    extra: tuple[str, ...] = (),
) -> Iterator[Site]:
    """A site with empty backing files and a configuration; not initialised.

    Its folder has a short name, because unix sockets lie in it. `store` is an address; without one it is a
    new directory beside the site. With `with_key` recovery uses a recipient's key, not the passphrase.
    """
    with tempfile.TemporaryDirectory(prefix="cdp-", ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        (base / "a").mkdir()
        (base / "b").mkdir()
        if store is None:
            (base / "c").mkdir()
        settings = f"journal: {{directory: {base}/a/j, limit: {journal_limit}}}\ncut_every: 200ms\nlease: 5s"
        if not encrypted:
            settings += "\nencryption: none"
        if with_key:
            settings += f"\nrecipients: ['{public_of(PRIVATE_KEY).hex()}']"
        site = Site(base, store or str(base / "c"), volumes, secrets or {}, settings, encrypted, with_key)
        site.private_key.write_text(PRIVATE_KEY.hex() + "\n")
        site.passphrase.write_text(PASSPHRASE + "\n")
        site.passphrase.chmod(0o600)
        for name, size_bytes in volumes.items():
            with site.backing(name).open("wb") as file:
                file.truncate(size_bytes)
        site.write_config(*extra)
        try:
            yield site
            check_logs(site)
        finally:
            for agent in site.agents:
                agent.kill_group()
                # pytest shows it where the test failed.
                print(f"--- {agent.log_path.name}\n{agent.log()}")


def check_logs(site: Site) -> None:
    """No traceback and no secret in anything that the agent said."""
    for agent in site.agents:
        text = agent.log()
        assert "Traceback" not in text, text
        assert PASSPHRASE not in text
        secret = site.secrets.get(SECRET_VARIABLE)
        assert secret is None or secret not in text
