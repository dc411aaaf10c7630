"""What Prometheus hears of a fleet: each tick's status, nothing of machines that are gone, and nothing by default."""

import re

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from provisioning.fleet import Demand
from provisioning.fleet_metrics import FleetMetrics, measured, served
from provisioning.status import FleetStatus, InstanceLine
from workers.errors import OptionError


def line(nonce: str, usd: float, state: str = "busy") -> InstanceLine:
    return InstanceLine(nonce, 1, "RTX 4090", state, usd, usd / 10, 3, 30.0, 60.0, 7, True, 10_000_000)


def status(*lines: InstanceLine, blind_since_ms: int | None = None) -> FleetStatus:
    return FleetStatus("night", 5_000_000, "run", 4, lines, Demand(), 1.25, 5.0, blind_since_ms, rented=9)


def heard(metrics: FleetMetrics) -> dict[str, float]:
    """Every sample by its name and labels, without the prefix and the fleet's name."""
    rows = re.findall(r"^whisperfleet_fleet_(\w+)\{(.*)\} (\S+)$", metrics.render().decode(), re.MULTILINE)
    return {
        ",".join([name, *re.findall(r'(?:state|worker)="(\w+)"', labels)]): float(value) for name, labels, value in rows
    }


def test_a_status_is_told_whole() -> None:
    metrics = FleetMetrics()
    metrics.show(status(line("aa", 0.25), line("bb", 0.5, "booting"), blind_since_ms=4_940_000))
    assert heard(metrics) == {
        "machines,busy": 1,
        "machines,booting": 1,
        "usd_per_hour,aa": 0.25,
        "usd_per_hour,bb": 0.5,
        "worker_spent_usd,aa": 0.025,
        "worker_spent_usd,bb": 0.05,
        "target_machines": 4,
        "spent_usd": 1.25,
        "budget_usd": 5,
        "rented_machines": 9,
        "blind_seconds": 60,
    }


def test_a_machine_that_is_gone_is_not_told_any_more() -> None:
    metrics = FleetMetrics()
    metrics.show(status(line("aa", 0.25)))
    metrics.show(status())
    assert not [name for name in heard(metrics) if name.startswith(("machines", "usd_per_hour", "worker"))]
    assert heard(metrics)["spent_usd"] == 1.25


def test_it_is_asked_over_http() -> None:
    metrics = FleetMetrics()
    metrics.show(status(line("aa", 0.25)))
    with served(metrics, "127.0.0.1:0") as port:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    assert 'whisperfleet_fleet_usd_per_hour{fleet="night",gpu="RTX 4090",worker="aa"} 0.25' in text


def test_without_an_address_nothing_listens() -> None:
    before = listening()
    with measured(None) as show:
        show(status())
        assert listening() == before
    with measured("127.0.0.1:0"):
        assert len(listening() - before) == 1


def listening() -> set[int]:
    """Ports of this process."""
    found = psutil.Process().net_connections("tcp")
    return {connection.laddr.port for connection in found if connection.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("address", ["7403", "host", ":7403", "127.0.0.1:x", "127.0.0.1:70000"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(OptionError, match="HOST:PORT"), measured(address):
        pass


def test_an_address_in_use_is_refused() -> None:
    with (
        served(FleetMetrics(), "127.0.0.1:0") as port,
        pytest.raises(OptionError, match=f"127.0.0.1:{port} cannot be listened at"),
        measured(f"127.0.0.1:{port}"),
    ):
        pass
