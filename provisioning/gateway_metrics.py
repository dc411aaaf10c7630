"""What Prometheus asks the gateway: by machine what it did, and how quickly Conductor answers."""

from collections.abc import Iterable

from provisioning.gateway_leases import Lease
from provisioning.gateway_state import Rented

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Counters of one gateway, in a registry of its own. worker: the machine's nonce, which is no secret."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

        # when a counter began is one more series each, and nobody asks for it
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        by_kind, by_worker = ("worker", "kind"), ("worker",)
        self.polls = Counter("whisperfleet_gateway_polls", "Polls by rented machines.", by_kind, registry=registry)
        self.handed_out = Counter("whisperfleet_gateway_handed_out", "Tasks handed out.", by_kind, registry=registry)
        self.results = Counter("whisperfleet_gateway_results", "Results taken.", by_kind, registry=registry)
        self.failures = Counter("whisperfleet_gateway_failures", "Tasks that failed there.", by_kind, registry=registry)
        self.broken = Counter(
            "whisperfleet_gateway_broken_results", "Results that broke the contract.", by_kind, registry=registry
        )
        self.strikes = Counter("whisperfleet_gateway_strikes", "Strikes.", by_worker, registry=registry)
        self.lost = Counter("whisperfleet_gateway_tasks_taken_back", "Tasks of lost machines.", registry=registry)
        self.refusals = Counter("whisperfleet_gateway_refusals", "Requests refused.", ("status",), registry=registry)
        self.audio = Counter(
            "whisperfleet_gateway_audio_seconds", "Audio that was done, in seconds.", by_kind, registry=registry
        )
        self.rtfx = Gauge(
            "whisperfleet_gateway_rtfx", "Audio seconds per second of a machine.", by_worker, registry=registry
        )
        self.held = Gauge("whisperfleet_gateway_held_tasks", "Tasks a machine holds.", by_worker, registry=registry)
        self.machines = Gauge(
            "whisperfleet_gateway_live_machines", "Machines with a sign of life within a minute.", registry=registry
        )
        self.leases = Gauge("whisperfleet_gateway_leases", "Tasks held by rented machines.", registry=registry)
        self.held_audio = Gauge(
            "whisperfleet_gateway_held_audio_seconds", "Audio of tasks that are held.", registry=registry
        )
        self.queued = Gauge("whisperfleet_gateway_queued_tasks", "Tasks that wait.", ("kind",), registry=registry)
        self.upstream = Histogram(
            "whisperfleet_gateway_upstream_seconds",
            "How long Conductor took to answer.",
            ("request",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._workers: set[str] = set()

    def timed(self, request: str, seconds: float) -> None:
        self.upstream.labels(request).observe(seconds)

    def look(self, machines: Iterable[Rented], leases: Iterable[Lease], now_ms: int) -> None:
        """Set what is a state and no count. Machines that are revoked are forgotten."""
        held: dict[str, int] = {}
        audio_ms = 0
        for lease in leases:
            held[lease.nonce] = held.get(lease.nonce, 0) + 1
            audio_ms += lease.audio_ms
        live = 0
        for rented in machines:
            if rented.revoked_ms is not None or rented.expires_ms < now_ms:
                self._forget(rented.nonce)
                continue
            self._workers.add(rented.nonce)
            self.held.labels(rented.nonce).set(held.get(rented.nonce, 0))
            if rented.rtfx is not None:
                self.rtfx.labels(rented.nonce).set(rented.rtfx)
            live += rented.last_seen_ms is not None and now_ms - rented.last_seen_ms < 60_000
        self.machines.set(live)
        self.leases.set(sum(held.values()))
        self.held_audio.set(audio_ms / 1000)

    def render(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def _forget(self, nonce: str) -> None:
        """A fleet that runs for months rents thousands of machines; each would stay in every answer."""
        if nonce not in self._workers:
            return
        self._workers.discard(nonce)
        for gauge in (self.held, self.rtfx):
            gauge.remove_by_labels({"worker": nonce})
        for counter in (self.polls, self.handed_out, self.results, self.failures, self.broken, self.audio):
            counter.remove_by_labels({"worker": nonce})
        self.strikes.remove_by_labels({"worker": nonce})
