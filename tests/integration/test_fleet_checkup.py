"""The gateway's address, certificate and clock, as `fleet doctor` judges them; the true handshakes and answers."""

import datetime
import email.utils
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from provisioning.fleet_checkup import MAX_SKEW_S, clock_agrees, gateway_public
from workers.errors import OptionError, ServerError

pytestmark = pytest.mark.integration


class _Handler(BaseHTTPRequestHandler):
    date: str | None = None

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    do_HEAD = do_GET

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(timestamp) if self.date is None else self.date

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def self_signed(folder: Path) -> Path:
    """A certificate that nobody vouches for, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "gateway.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_a_certificate_that_nobody_vouches_for_is_refused(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(ServerError, match=r"^The certificate of the gateway https://localhost:\d+ is not valid"):
        gateway_public(f"https://localhost:{server.server_port}", resolve=lambda host, port: ("93.184.215.14",))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.1.1", "fe80::1", "fd00::1"],
)  # fmt: skip
def test_an_address_that_is_not_the_internets_is_refused(address: str) -> None:
    with pytest.raises(ServerError, match=r"from outside: gateway\.example is .*, and that is a loopback or private"):
        gateway_public("https://gateway.example", resolve=lambda host, port: ("93.184.215.14", address))


def test_a_name_that_nobody_knows_and_an_address_without_tls_are_refused() -> None:
    with pytest.raises(ServerError, match=r"gateway\.example is known to no name server"):
        gateway_public("https://gateway.example", resolve=lambda host, port: ())
    with pytest.raises(OptionError, match="is without TLS"):
        gateway_public("http://gateway.example", resolve=lambda host, port: ("93.184.215.14",))
    with pytest.raises(OptionError, match="No gateway is named"):
        gateway_public(None)


def test_a_market_on_this_machine_has_its_machines_here(server: ThreadingHTTPServer) -> None:
    assert "on this machine" in gateway_public(f"http://127.0.0.1:{server.server_port}", market_is_here=True)


@pytest.mark.parametrize(("ahead_s", "wrong"), [(0, False), (50, False), (-50, False), (75, True), (-3_600, True)])
def test_a_clock_may_be_off_by_a_minute(server: ThreadingHTTPServer, ahead_s: float, wrong: bool) -> None:
    said_at = 1_800_000_000.0
    _Handler.date = email.utils.formatdate(said_at, usegmt=True)
    try:
        url = f"http://127.0.0.1:{server.server_port}/health"
        if not wrong:
            assert abs(ahead_s) < MAX_SKEW_S
            assert clock_agrees("the gateway's", url, lambda: said_at + ahead_s).endswith("s apart")
            return
        side = "ahead of" if ahead_s > 0 else "behind"
        with pytest.raises(ServerError, match=rf"clock is \d+ s {side} the gateway's: set it by NTP"):
            clock_agrees("the gateway's", url, lambda: said_at + ahead_s)
    finally:
        _Handler.date = None
