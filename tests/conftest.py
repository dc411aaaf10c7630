"""What all tests share: a clean environment, and real services started once for the whole run."""

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmarks.speech import Recorded, Script, no_pause_script, record, record_bilingual
from tests.support.browser import ConductorUi, chromium
from tests.support.services import absent, require
from workers import settings as environment
from workers.errors import ServerError
from workers.settings import Settings

BUCKET = "whisperfleet-tests"
_FOREIGN = ("AWS_", "CONDUCTOR_", "HF_", "HUGGING", "OPENAI_", "WHISPERFLEET_")

# Read before anything of the product is imported: huggingface_hub looks at its variables once, at import.
_server_jar = os.environ.get("WHISPERFLEET_SERVER_JAR")
_cache = Path(os.environ.get("WHISPERFLEET_TEST_CACHE") or Path.home() / ".cache" / "whisperfleet-tests").absolute()
_ui_archive = Path(
    os.environ.get("WHISPERFLEET_TEST_UI") or Path(__file__).parent / "data" / "conductor-ui.tgz"
).absolute()
_pictures = os.environ.get("WHISPERFLEET_TEST_PICTURES")
for _name in [name for name in os.environ if name.startswith(_FOREIGN)]:
    del os.environ[_name]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own for every test: nothing of the user's is touched, no test finds another's objects."""
    folder = tmp_path / "home"
    monkeypatch.setenv("WHISPERFLEET_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def test_cache() -> Path:
    """Kept from run to run: recordings. WHISPERFLEET_TEST_CACHE names another folder."""
    _cache.mkdir(parents=True, exist_ok=True)
    return _cache


# ---- Conductor ----


@dataclass(frozen=True)
class Conductor:
    """A running server. url ends in /api; settings are those of its data folder, and name no server."""

    url: str
    settings: Settings


@pytest.fixture(scope="session")
def server_jar() -> Path | None:
    """The jar that WHISPERFLEET_SERVER_JAR brought, if any; else the product's own code has fetched the server once."""
    from provisioning.server_jar import obtain

    require("java")
    brought = Path(_server_jar) if _server_jar else None
    try:
        obtain(replace(environment.load(), server_jar=brought), print)
    except ServerError as error:
        absent(f"needs the Conductor server: {error}")
    return brought


@pytest.fixture(scope="session")
def start_conductor(
    server_jar: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path | None], Conductor]]:
    """Start a server of one's own (with a UI folder to serve, or None); all end with the run."""
    from provisioning import conductor

    leases = []

    def start(ui: Path | None) -> Conductor:
        own = replace(
            environment.load(), home=tmp_path_factory.mktemp("conductor"), server=None, server_jar=server_jar, ui=ui
        )
        lease = conductor.ensure(own, print)
        leases.append((own, lease))
        return Conductor(lease.url, own)

    yield start
    for own, lease in leases:
        lease.release()
        conductor.stop(own, print)


@pytest.fixture(scope="session")
def conductor(start_conductor: Callable[[Path | None], Conductor], ui_folder: Path) -> Conductor:
    """The one embedded server of this run, with the UI; pass `conductor.url` as --server."""
    return start_conductor(ui_folder)


# ---- S3 ----


@dataclass(frozen=True)
class S3:
    """moto's S3 on 127.0.0.1 with one bucket. address is what --storage takes."""

    endpoint: str
    bucket: str

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}"


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(_moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An empty bucket; credentials and endpoint are in the environment, for this process and its children."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("WHISPERFLEET_S3_ENDPOINT", _moto)
    bucket = boto3.resource("s3", endpoint_url=_moto).Bucket(BUCKET)
    bucket.create()
    yield S3(_moto, BUCKET)
    bucket.objects.delete()
    bucket.delete()


# ---- recordings ----


class Studio:
    """Makes recordings of known words, each once and then from the cache."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def recording(self, script: Script) -> Recorded:
        return record(script, self._cache)

    def no_pause(self, seconds: float = 600) -> Recorded:
        """Nowhere a breath: every cut has to overlap."""
        return record(no_pause_script(seconds), self._cache)

    def bilingual(self, seconds: float = 120) -> Recorded:
        """First half English, second half Spanish."""
        return record_bilingual(seconds, self._cache)


@pytest.fixture(scope="session")
def studio(test_cache: Path) -> Studio:
    """`studio.recording(Script(seconds=60, speakers=2))` gives a FLAC path and the truth."""
    require("espeak-ng", "flite")
    return Studio(test_cache / "speech")


# ---- the UI ----


@pytest.fixture(scope="session")
def ui_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Conductor UI, unpacked (tests/data/README.md)."""
    folder = tmp_path_factory.mktemp("conductor-ui")
    with tarfile.open(_ui_archive) as archive:
        # Python before 3.11.4 has no filters, and later ones warn where none is chosen
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(folder)
    return folder


@pytest.fixture
def conductor_ui(conductor: Conductor, tmp_path: Path) -> Iterator[ConductorUi]:
    """The UI of `conductor` in headless Chromium."""
    require("chromium")
    with chromium(tmp_path / "profile") as driver:
        yield ConductorUi(driver, conductor.url.removesuffix("/api"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: the folder WHISPERFLEET_TEST_PICTURES, else one that pytest clears away."""
    return Path(_pictures).absolute() if _pictures else tmp_path
