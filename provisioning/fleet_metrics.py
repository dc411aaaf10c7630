"""What Prometheus asks a fleet's controller: its machines, what they cost an hour, and what was spent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provisioning.status import FleetStatus
from workers.errors import OptionError


class FleetMetrics:
    """The newest status as gauges, in a registry of its own; `show` is what `Controller.run` calls after each tick.

    worker: the machine's nonce, as in the gateway's metrics. Money is US dollars. All are gauges, the totals too: the
    ledger counts, and a controller that takes over shows what it finds there.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Gauge

        self.registry = registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"whisperfleet_fleet_{name}", text, ("fleet", *labels), registry=registry)

        self._machines = gauge("machines", "Machines that bill or may bill.", "state")
        self._rate = gauge("usd_per_hour", "What a machine bills an hour.", "worker", "gpu")
        self._worker_spent = gauge("worker_spent_usd", "What a machine has cost so far.", "worker", "gpu")
        self._target = gauge("target_machines", "How many machines are wanted.")
        self._spent = gauge("spent_usd", "What this fleet has cost, machines that are gone included.")
        self._budget = gauge("budget_usd", "What it may cost.")
        self._rented = gauge("rented_machines", "Machines rented so far.")
        self._blind = gauge("blind_seconds", "Since when the market's list has not come whole; 0 where it has.")

    def show(self, status: FleetStatus) -> None:
        fleet = status.fleet
        for changing in (self._machines, self._rate, self._worker_spent):
            changing.clear()  # machines and states that are no more
        for state, count in status.by_state.items():
            self._machines.labels(fleet, state).set(count)
        for line in status.lines:
            self._rate.labels(fleet, line.nonce, line.gpu_name).set(line.usd_per_hour)
            self._worker_spent.labels(fleet, line.nonce, line.gpu_name).set(line.spent_usd)
        blind_ms = 0 if status.blind_since_ms is None else status.at_ms - status.blind_since_ms
        for gauge, value in (
            (self._target, status.target),
            (self._spent, status.spent_usd),
            (self._budget, status.max_usd),
            (self._rented, status.rented),
            (self._blind, blind_ms / 1000),
        ):
            gauge.labels(fleet).set(value)

    def render(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


@contextmanager
def measured(address: str | None) -> Iterator[Callable[[FleetStatus], None]]:
    """What is to be called after each tick so that Prometheus finds the fleet at `address`; nothing where it is None.

    Raises OptionError where that address is none or in use, or the library is not installed.
    """
    if address is None:
        yield lambda _: None
        return
    try:
        metrics = FleetMetrics()
    except ModuleNotFoundError:
        raise OptionError(
            '--metrics needs prometheus-client, which is not installed: run `pip install "whisperfleet[gateway]"`.'
        ) from None
    with served(metrics, address):
        yield metrics.show


@contextmanager
def served(metrics: FleetMetrics, address: str) -> Iterator[int]:
    """Answer GET /metrics at `address`, HOST:PORT, from a thread; gives the port, which for port 0 is a free one.

    Raises OptionError where the address is none, or cannot be listened at.
    """
    from prometheus_client import start_http_server

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise OptionError(f"--metrics is '{address}', which is no address to listen at: write HOST:PORT.")
    try:
        server, thread = start_http_server(int(port), host, metrics.registry)
    except OSError as error:
        raise OptionError(f"--metrics {address} cannot be listened at: {error.strerror or error}.") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
