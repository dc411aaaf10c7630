"""The storages that the contract is checked against: the real adapters, S3 served by moto on this machine.

The gateway's is served by the gateway's own routes over a folder, with everything granted: what it refuses to whom is
another matter (tests/integration/test_gateway_objects.py), here it is a storage like the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from provisioning.gateway_leases import Lease
from tests.support.objects import OpenObjects, Served, lease, serve
from workers.settings import Settings
from workers.storage import Storage, open_storage

BUCKET = "whisperfleet-contract"


def settings_with(home: Path, s3_endpoint: str | None = None) -> Settings:
    return Settings(home=home, server=None, storage="", s3_endpoint=s3_endpoint, ui=None, server_jar=None)


@pytest.fixture(scope="module")
def _credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Made-up credentials, and nobody's own profile: a test must not reach a real account.

    For one module, not the session: other tests are about having no credentials at all.
    """
    absent = str(tmp_path_factory.mktemp("aws") / "none")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", absent)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", absent)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def s3_endpoint(_credentials: None) -> Iterator[str]:
    """Address of an S3 service with the bucket BUCKET."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
    yield endpoint
    server.stop()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway; the storage of a lease is the folder that it names."""

    def opened(one: Lease) -> Storage:
        return open_storage(one.storage, settings_with(Path(one.storage).parent))

    with serve(tmp_path_factory.mktemp("gateway"), opened, OpenObjects) as served:
        yield served


@pytest.fixture(params=["local", "s3", "gateway"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, fresh_prefix: Callable[[], str]) -> Storage:
    """Every adapter in turn, empty."""
    if request.param == "local":
        return open_storage(str(tmp_path / "objects"), settings_with(tmp_path / "home"))
    if request.param == "gateway":
        served: Served = request.getfixturevalue("gateway")
        address = served.add(replace(lease(), storage=str(tmp_path / "objects")))
        return open_storage(address, settings_with(tmp_path / "home"))
    endpoint: str = request.getfixturevalue("s3_endpoint")
    return open_storage(f"s3://{BUCKET}/{fresh_prefix()}", settings_with(tmp_path / "home", endpoint))


@pytest.fixture(scope="session")
def fresh_prefix() -> Callable[[], str]:
    """Names that no other test of the run uses, so that tests share one bucket and nothing in it."""
    numbers = iter(range(1_000_000))
    return lambda: f"test {next(numbers)}/ü"
