"""What every benchmark needs besides its subject: a stage's services, a folder, a word on the machine."""

import os
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from workers.context import Context
from workers.errors import OptionError
from workers.settings import Settings
from workers.storage import open_storage


def make_context(home: Path, workers: int = 1, **services: Any) -> Context:
    """A stage's services, with storage in a folder below `home`; those that are not given refuse."""
    settings = Settings(
        home=home, server=None, storage=str(home / "objects"), s3_endpoint=None, ui=None, server_jar=None
    )

    def refused(*asked: object) -> Any:
        raise RuntimeError(f"the benchmark has none of this to give: {asked}")

    usual: dict[str, Any] = {
        "recognizer": refused,
        "diarizer": refused,
        "live_diarizers": lambda: workers,
        "siblings": lambda: (),
        "give_up": refused,
    }
    return Context(
        settings=settings,
        worker="benchmark",
        attempt=1,
        open_storage=lambda address: open_storage(address, settings),
        live_workers=lambda: workers,
        aborted=lambda: False,
        **{**usual, **services},
    )


@contextmanager
def working_folder(given: str | None) -> Iterator[Path]:
    """The existing folder `given`, or one that is deleted afterwards."""
    if given:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="whisperfleet-benchmark-") as folder:
        yield Path(folder)


@contextmanager
def bench_extra() -> Iterator[None]:
    """Import in this block what only the extra `bench` brings. Raises OptionError where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise OptionError(
            f'The benchmarks need {error.name}, which is not installed: pip install "whisperfleet[bench]".'
        ) from error


def machine(*packages: str) -> dict[str, Any]:
    """What the figures depend on besides the code: the machine, how busy it is, and the versions of `packages`."""
    return {
        # which kernel it was built with, and by whom, tells nobody how fast it is
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
        "python": platform.python_version(),
        **{name: installed(name) for name in packages},
    }


def installed(package: str) -> str | None:
    """The version of a package; None where it is not here."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def spread(values: Sequence[float]) -> str:
    """`min / median / max`."""
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"
