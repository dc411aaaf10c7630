"""What must hold before a machine is rented: each check is small, asks little, and says what to do.

`fleet doctor` shows all of them; `up` and `run` go through the same ones and stop at the first that fails, so that
what is refused late costs nothing. Whether the gateway is reached from everywhere
only a rented machine could tell: here it is its address, its certificate and its answer to this machine that count.
"""

import email.utils
import importlib.util
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import httpx

from provisioning.cloud import CloudRefused
from workers.errors import OptionError, ServerError, WhisperfleetError, one_line

if TYPE_CHECKING:
    from provisioning.fleet_place import Place

VAST = "https://console.vast.ai"
MAX_SKEW_S = 60.0
"""Tokens, labels and contracts end at a time that three clocks read: a minute is nothing to a life of hours, and more
than any clock kept by NTP is off."""
ANSWER_S = 10.0

Verdict = Literal["ok", "note", "fails"]
Resolve = Callable[[str, int], tuple[str, ...]]
Now = Callable[[], float]


@dataclass(frozen=True)
class Finding:
    """fails: nothing can be rented like this; note: something that a person may want to do."""

    what: str
    verdict: Verdict
    detail: str


class _Note(Exception):
    """What a check found is worth a word and no refusal."""


def examine(place: "Place", image: str | None) -> Iterator[Finding]:
    """All checks, one after the other, whatever the others have found."""
    for what, check in _checks(place, image):
        try:
            yield Finding(what, "ok", check())
        except _Note as note:
            yield Finding(what, "note", str(note))
        except WhisperfleetError as error:
            yield Finding(what, "fails", str(error))


def ensure_ready(place: "Place", image: str | None) -> None:
    """Raises the error of the first check that fails."""
    for _, check in _checks(place, image):
        try:
            check()
        except _Note:
            continue


def _checks(place: "Place", image: str | None) -> tuple[tuple[str, Callable[[], str]], ...]:
    """What is known here comes before what has to be asked for."""
    return (
        ("Vast.ai client", client_installed),
        ("Vast.ai key", lambda: key_kept(place)),
        ("Worker image", lambda: image_named(image)),
        ("Gateway from outside", lambda: gateway_public(place.renting.gateway, market_is_here(place))),
        ("Gateway's clock", lambda: clock_agrees("the gateway's", f"{place.renting.gateway}/health", place.time.now)),
        ("Gateway's other side", lambda: gateway_governed(place)),
        ("Conductor server", lambda: server_answers(place)),
        ("Vast.ai's clock", lambda: market_clock_agrees(place)),
        ("Account", lambda: account_ready(place)),
        ("Controller", lambda: controller_alone(place)),
    )


def client_installed() -> str:
    if importlib.util.find_spec("vastai") is None:
        raise OptionError('Renting needs Vast.ai\'s client: pip install "whisperfleet[vast]".')
    return "installed"


def key_kept(place: "Place") -> str:
    """Raises CloudRefused where there is no key; a note where others of this machine can read its file."""
    file = place.renting.vast_key_file
    length = len(place.key)
    if file is not None and file.stat().st_mode & 0o077:
        raise _Note(f"others on this machine can read {file}: chmod 600 {file}")
    return f"{length} characters from {file or 'VAST_API_KEY'}"


def image_named(image: str | None) -> str:
    if not image:
        raise OptionError(
            "No worker image is named: build provisioning/worker.Dockerfile, push it to a public registry, and name it "
            "by --image or WHISPERFLEET_WORKER_IMAGE."
        )
    if "@sha256:" not in image:
        raise _Note(f"{image} has no digest, so it may change between two machines: name it as NAME@sha256:…")
    return image


def market_is_here(place: "Place") -> bool:
    """A market on this very machine, an emulator, has its machines here too: they reach what is reached from here."""
    host = urlsplit(place.renting.vast_url or VAST).hostname or ""
    return host == "localhost" or _is_loopback(host)


def gateway_public(url: str | None, market_is_here: bool = False, resolve: Resolve | None = None) -> str:
    """Would a machine on the internet reach the gateway by this address, and know it by its certificate?

    Raises OptionError or ServerError.
    """
    if not url:
        raise OptionError("No gateway is named: say by --gateway or WHISPERFLEET_GATEWAY how rented machines reach it.")
    parts = urlsplit(url)
    host = parts.hostname or ""
    found: tuple[str, ...] = ()
    if not market_is_here:
        if parts.scheme != "https":
            raise OptionError(f"The gateway {url} is without TLS, so all on the way could read its tokens: use https.")
        found = (resolve or _addresses)(host, parts.port or 443)
        if not found:
            raise ServerError(f"The gateway's name {host} is known to no name server: check --gateway.")
        private = [address for address in found if not ipaddress.ip_address(address).is_global]
        if private:
            address = private[0] if private[0] == host else f"{host} is {private[0]}, and that"
            raise ServerError(
                f"The gateway {url} cannot be reached from outside: {address} is a loopback or private address; give "
                "it a public one."
            )
    _ask_health(url)
    return f"{url} answers" + (f", at {', '.join(found)}" if found else ", as does the market, on this machine")


def _ask_health(url: str) -> None:
    try:
        answer = httpx.get(f"{url}/health", timeout=ANSWER_S, verify=_authorities())
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ServerError(
                f"The certificate of the gateway {url} is not valid ({one_line(error)}): rented machines would "
                "refuse it."
            ) from None
        raise ServerError(
            f"The gateway {url} cannot be reached from outside ({one_line(error)}): start it, and let your router "
            "and firewall pass its port."
        ) from None
    if answer.status_code != httpx.codes.OK:
        raise ServerError(
            f"{url}/health answers {answer.status_code} and not 200: the gateway is not well, or it is something else."
        )


class ClockOff(ServerError):
    """Two clocks are known to differ by more than MAX_SKEW_S."""


def market_clock_agrees(place: "Place") -> str:
    """Raises ClockOff; another ServerError where the market does not answer."""
    return clock_agrees("Vast.ai's", place.renting.vast_url or VAST, place.time.now)


def clock_warning(place: "Place") -> str | None:
    """The sentence where this machine's clock is known not to be the market's; for commands that end machines.

    None also where the market does not tell its time: the command itself will say what is the matter.
    """
    try:
        market_clock_agrees(place)
    except ClockOff as error:
        return str(error)
    except (ServerError, _Note):
        return None
    return None


def clock_agrees(whose: str, url: str, now: Now = time.time) -> str:
    """By the answer's Date, whatever else it says; half a second is what that rounds away.

    Raises ClockOff where the clocks differ by more than MAX_SKEW_S, ServerError where nobody answers.
    """
    began = now()
    try:
        answer = httpx.head(url, timeout=ANSWER_S, verify=_authorities())
    except httpx.HTTPError as error:
        raise ServerError(f"{url} does not answer ({one_line(error)}), so the clocks cannot be compared.") from None
    middle = (began + now()) / 2
    try:
        ahead = middle - email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp() - 0.5
    except (KeyError, ValueError):
        raise _Note(f"{url} does not say what time it has") from None
    if abs(ahead) > MAX_SKEW_S:
        raise ClockOff(
            f"This machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {whose}: set it by "
            "NTP, as the end of every token and machine is reckoned by it."
        )
    return f"{abs(ahead):.0f} s apart"


def server_answers(place: "Place") -> str:
    """Raises ServerError where the Conductor server does not answer, or none is running."""
    from provisioning import conductor

    if not conductor.answers(place.server):
        raise ServerError(
            f"The Conductor server {place.server} does not answer: start it, or name another by --server."
        )
    return f"{place.server} answers"


def gateway_governed(place: "Place") -> str:
    """Raises what GatewayAdmin does, and ServerError where its key is not here."""
    _, workers = place.gateway.workers(only_looking=True)
    return f"{place.renting.gateway_admin} answers, and knows {len(workers)} machines"


def account_ready(place: "Place") -> str:
    """Raises CloudRefused for a wrong key, an empty account, and variables that every machine would be told."""
    account = place.cloud.account()
    if account.environment:
        names = ", ".join(account.environment)
        raise CloudRefused(
            f"Your Vast.ai account has environment variables ({names}), and gives them to every machine that it rents: "
            "delete them in its settings, as the owners of the machines can read them."
        )
    if account.credit_usd <= 0:
        raise CloudRefused(
            "Your Vast.ai account has no credit left: add some on its page of billing, and a fleet can begin; store no "
            "card there, and leave automatic billing off."
        )
    return (
        f"${account.credit_usd:.2f} of credit, no environment variables; no more than that can be lost, as long as the "
        "account has no card and no automatic billing"
    )


def controller_alone(place: "Place") -> str:
    """A note where one runs: a second one would be refused, and each command knows how to ask the first."""
    if place.controlled():
        raise _Note(f"one of fleet '{place.fleet}' runs on this machine; a second one would be refused")
    return f"none of fleet '{place.fleet}' runs on this machine"


@cache
def _authorities() -> ssl.SSLContext:
    """Those that httpx trusts; reading them takes as long as a request."""
    return httpx.create_ssl_context()


def _addresses(host: str, port: int) -> tuple[str, ...]:
    try:
        return tuple(sorted({str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}))
    except OSError:
        return ()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
