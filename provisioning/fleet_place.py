"""Which fleet a command is about, by which gateway and server, on whose account; and what is opened for it.

An option goes before the environment (`workers.settings`), which goes before the default. What is costly, the
market's client above all, is imported when it is first asked for.
"""

import re
import threading
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from provisioning.cloud import Cloud, CloudRefused
from provisioning.ledger import Ledger, database
from provisioning.locks import FileLock
from provisioning.steady import SteadyEpoch
from workers import settings as environment
from workers.errors import OptionError, ServerError
from workers.settings import FleetSettings, Settings

if TYPE_CHECKING:
    from provisioning.demand import GatewayAdmin

NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?")
"""A fleet's name is part of each machine's label, of file names and of what workers are called: it needs no quoting."""


@dataclass(frozen=True)
class Given:
    """What was said by options; None where nothing was."""

    fleet: str = "default"
    gateway: str | None = None
    gateway_admin: str | None = None
    server: str | None = None
    vast_key_file: Path | None = None


class Time:
    """The time that a command lives in: this machine's. Tests give one that costs no waiting."""

    def __init__(self) -> None:
        self._epoch = SteadyEpoch()

    def now(self) -> float:
        """Epoch seconds."""
        return self._epoch.ns() / 1e9

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def now_ms(self) -> int:
        return int(self.now() * 1000)

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return early when `stop` is set."""
        stop.wait(seconds)


@dataclass(frozen=True)
class Place:
    """Everything named; each thing is opened when it is first asked for."""

    fleet: str
    settings: Settings
    renting: FleetSettings
    time: Time = field(default_factory=Time)

    @cached_property
    def key(self) -> str:
        """The account's key.

        Raises CloudRefused where there is none, or the file that should have it cannot be read.
        """
        file = self.renting.vast_key_file
        if file is None:
            if self.renting.vast_key is None:
                raise CloudRefused(
                    "There is no Vast.ai key: put it into a file and name that by --vast-key-file or "
                    "WHISPERFLEET_VAST_KEY_FILE, or set VAST_API_KEY."
                )
            return self.renting.vast_key
        return _read_key(file, "Vast.ai key")

    @cached_property
    def cloud(self) -> Cloud:
        """The market. Raises CloudRefused without a key, OptionError where the extra `vast` is not installed."""
        key = self.key
        from provisioning.vast import VastCloud

        return VastCloud(
            key, self.renting.vast_url, clock=self.time.monotonic, sleep=self.time.sleep, epoch=self.time.now
        )

    @cached_property
    def gateway(self) -> "GatewayAdmin":
        """The gateway's admin side; nothing is asked of it yet.

        Raises CloudRefused where its key cannot be read.
        """
        from provisioning.demand import GatewayAdmin

        file = self.renting.admin_key_file
        if not file.exists():
            raise ServerError(
                f"The gateway's admin key {file} does not exist: start `whisperfleet gateway` on this machine, or name "
                "a copy of its key by WHISPERFLEET_GATEWAY_ADMIN_KEY_FILE."
            )
        return GatewayAdmin(self.renting.gateway_admin, _read_key(file, "gateway's admin key"))

    @cached_property
    def server(self) -> str:
        """API address of the Conductor server. Raises ServerError where none is named and none runs here."""
        from provisioning import conductor

        if self.settings.server:
            return self.settings.server
        state = conductor.status(self.settings)
        if not state.running or not state.url:
            raise ServerError(
                "No Conductor server runs: start one by `whisperfleet server start`, or name one by --server."
            )
        return environment.normal_server("the embedded server", state.url)

    @property
    def database(self) -> Path:
        return database(self.settings.home, self.fleet)

    @property
    def log(self) -> Path:
        """Where a controller writes that was started in the background."""
        return self.database.with_suffix(".log")

    def ledger(self) -> Ledger:
        """Opened anew each time. Raises StorageError."""
        return Ledger(self.database)

    def controlled(self) -> bool:
        """Does a controller of this fleet live on this machine?

        Asked of its lock, which the kernel takes from a process that dies. A controller that starts in the very
        microseconds of the question is refused, and says so.
        """
        if not self.database.exists():
            return False
        lock = FileLock(self.database.with_suffix(".lock"), shared=True)
        free = lock.acquire(timeout=0)
        lock.release()
        return not free


def resolve(given: Given, time: Time | None = None) -> Place:
    """Raises OptionError for what cannot be an address or a fleet's name."""
    if not NAME.fullmatch(given.fleet):
        raise OptionError(
            f"--fleet is '{given.fleet}': a fleet's name has 1 to 32 characters of a-z, 0-9, - and _, "
            "and begins and ends with a letter or digit."
        )
    renting = environment.fleet_settings()
    gateway = _url("--gateway", given.gateway) or renting.gateway
    return Place(
        given.fleet,
        replace(environment.load(), server=environment.server_address(given.server)),
        replace(
            renting,
            gateway=gateway and gateway.rstrip("/"),
            gateway_admin=(_url("--gateway-admin", given.gateway_admin) or renting.gateway_admin).rstrip("/"),
            vast_key_file=given.vast_key_file or (None if renting.vast_key else renting.vast_key_file),
        ),
        time or Time(),
    )


def _read_key(file: Path, what: str) -> str:
    try:
        key = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CloudRefused(
            f"The {what} in {file} cannot be read: {(error.strerror or 'no reason given').lower()}."
        ) from None
    except UnicodeDecodeError:
        raise CloudRefused(f"The {what} in {file} cannot be read: it is no text.") from None
    if len(key.split()) != 1:
        raise CloudRefused(f"The file {file} holds no {what}: it must have that and nothing else.")
    return key


def _url(option: str, value: str | None) -> str | None:
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OptionError(f"{option} is '{value}', which is no address: write https://HOST or http://HOST:PORT.")
    return value
