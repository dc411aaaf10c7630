"""`whisperfleet gateway`."""

import contextlib
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from provisioning.gateway import GatewaySpec
    from workers.settings import Settings

ANY_HOST = ("0.0.0.0", "::", "")


@click.command(short_help="Let rented machines work for a private server.")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:7401", show_default=True, help="For rented machines.")
@click.option("--admin", metavar="HOST:PORT", default="127.0.0.1:7402", show_default=True, help="For the fleet.")
@click.option("--public-url", metavar="URL", help="How rented machines reach it.  [default: --listen]")
@click.option("--server", metavar="URL", help="The Conductor server.  [default: the embedded one]")
@click.option("--storage", metavar="ADDR", help="A folder or s3://BUCKET/PREFIX that must be usable at the start.")
@click.option("--public-s3", metavar="URL", help="Where machines reach the S3 store, for audio.  [default: not at all]")
@click.option("--certificate", metavar="FILE", help="Chain of certificates, where no front does TLS.")
@click.option("--key", metavar="FILE", help="The certificate's key.")
@click.option("--canary-share", type=click.FloatRange(0, 0.5), default=0.0, help="Of tasks whose answer is known.")
@click.option("--duplicate-share", type=click.FloatRange(0, 0.5), default=0.0, help="Of chunks given to two machines.")
def gateway(
    listen: str,
    admin: str,
    public_url: str | None,
    server: str | None,
    storage: str | None,
    public_s3: str | None,
    certificate: str | None,
    key: str | None,
    canary_share: float,
    duplicate_share: float,
) -> None:
    """Stand between rented machines and the Conductor server until stopped.

    A rented machine reaches nothing else: it polls, and reads and writes the objects of the tasks that it holds. The
    fleet admits machines at --admin, which no stranger may reach, with the key in the file that
    WHISPERFLEET_GATEWAY_ADMIN_KEY_FILE names. Keys are made at the first start, in the data folder.
    """
    from workers import settings as environment

    settings, fleet = environment.load(), environment.fleet_settings()
    spec_of, load_key = _parts()
    chain, secret = _certificate(certificate, key)
    public, own = _address(listen, "--listen"), _address(admin, "--admin")
    outside = public_url or fleet.gateway or _of_listener(public, "https" if chain else "http")
    _check_storage(storage or settings.storage, settings)
    keys = load_key(fleet.signing_key_file), load_key(fleet.admin_key_file)
    with contextlib.ExitStack() as stack:
        address = environment.server_address(server)
        if address is None:
            from provisioning.conductor import ensure

            address = stack.enter_context(ensure(settings, _say)).url
        spec = spec_of(
            server=address,
            public_url=_url(outside, "--public-url"),
            listen=public,
            admin=own,
            folder=settings.home / "gateway",
            signing_key=keys[0],
            admin_key=keys[1],
            public_s3=_url(public_s3, "--public-s3") if public_s3 else None,
            certificate=chain,
            certificate_key=secret,
            canary_share=canary_share,
            duplicate_share=duplicate_share,
        )
        _run(spec, settings)


def _parts() -> "tuple[type[GatewaySpec], Callable[[Path], bytes]]":
    """Raises OptionError where the libraries of the gateway are not installed."""
    from workers.errors import OptionError

    try:
        import jwt  # noqa: F401  imported by need elsewhere: better to know now
        import prometheus_client  # noqa: F401

        from provisioning.gateway import GatewaySpec
        from provisioning.gateway_tokens import load_key
    except ModuleNotFoundError as error:
        raise OptionError(
            f'The gateway needs {error.name}, which is not installed: run `pip install "whisperfleet[gateway]"`.'
        ) from error
    return GatewaySpec, load_key


def _run(spec: "GatewaySpec", settings: "Settings") -> None:
    from provisioning.gateway import serve

    if spec.certificate is None and urlsplit(spec.public_url).scheme == "http" and spec.listen[0] in ANY_HOST:
        _say("There is no TLS here: tokens travel in the clear unless a front in between encrypts them.")
    serve(spec, settings, _say)


def _address(given: str, option: str) -> tuple[str, int]:
    from workers.errors import OptionError

    host, _, port = given.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise OptionError(f"{option} is '{given}': write HOST:PORT, 127.0.0.1:7401 say.")
    return host.strip("[]"), int(port)


def _of_listener(address: tuple[str, int], scheme: str) -> str:
    from workers.errors import OptionError

    host, port = address
    if host in ANY_HOST:
        raise OptionError(
            f"Say by --public-url, or in WHISPERFLEET_GATEWAY, how rented machines reach this: nobody can at {host}."
        )
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _url(given: str, option: str) -> str:
    from workers.errors import OptionError

    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise OptionError(f"{option} is '{given}': write https://HOST.")
    return given.rstrip("/").removesuffix("/api")


def _certificate(certificate: str | None, key: str | None) -> tuple[Path | None, Path | None]:
    """Raises OptionError where one of the two is missing, unreadable, or not the other's."""
    from workers.errors import OptionError, one_line

    if certificate is None and key is None:
        return None, None
    if certificate is None or key is None:
        raise OptionError("--certificate and --key belong together: give both, or neither where a front does TLS.")
    for option, name in (("--certificate", certificate), ("--key", key)):
        try:
            Path(name).read_bytes()
        except OSError as error:
            raise OptionError(f"{option} {name} cannot be read: {error.strerror}.") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise OptionError(
            f"{certificate} and {key} are no certificate and its key in PEM without a password: {one_line(error)}."
        ) from error
    return Path(certificate), Path(key)


def _check_storage(address: str, settings: "Settings") -> None:
    """Each job names its own storage; that this one can be used is known before a machine is paid for."""
    from workers.storage import open_storage

    open_storage(address, settings).check_writable()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
