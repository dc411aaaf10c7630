"""The only reader of the environment. Every variable is optional; an error names the variable."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from workers.errors import OptionError

GATEWAY_ADMIN = "http://127.0.0.1:7402"  # where the gateway's own side listens unless it is told otherwise


@dataclass(frozen=True)
class Settings:
    """What the environment says, checked.

    home: data folder (server, database, objects); server: API address of a Conductor server, or None
    for the embedded one; storage: folder or s3://bucket/prefix; s3_endpoint: S3 service other than
    AWS; ui: folder of a Conductor UI for the embedded server to serve; server_jar: a server jar
    brought by hand, for machines that reach no Maven repository.
    """

    home: Path
    server: str | None
    storage: str
    s3_endpoint: str | None
    ui: Path | None
    server_jar: Path | None


def load() -> Settings:
    """Read the environment.

    Raises OptionError naming the variable whose value cannot be used.
    """
    home = Path(os.environ.get("WHISPERFLEET_HOME") or _default_home()).expanduser().absolute()
    return Settings(
        home=home,
        server=server_address(),
        storage=os.environ.get("WHISPERFLEET_STORAGE") or str(home / "objects"),
        s3_endpoint=_url("WHISPERFLEET_S3_ENDPOINT"),
        ui=_existing("WHISPERFLEET_UI"),
        server_jar=_existing("WHISPERFLEET_SERVER_JAR"),
    )


def server_address(given: str | None = None) -> str | None:
    """API address of the server to use: `given`, else the environment's, else None (embedded)."""
    if given:
        return normal_server("--server", given)
    for variable in ("WHISPERFLEET_SERVER", "CONDUCTOR_SERVER_URL"):
        if os.environ.get(variable):
            return normal_server(variable, os.environ[variable])
    return None


def normal_server(source: str, value: str) -> str:
    """`http://host:port` or the same with `/api`, always returned with `/api`."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OptionError(f"{source} is '{value}', which is no address of a server: write http://HOST:PORT.")
    return value.rstrip("/").removesuffix("/api") + "/api"


@dataclass(frozen=True)
class FleetSettings:
    """What the environment says of renting.

    gateway: address of the gateway as a rented machine sees it; gateway_admin: where this machine reaches its
    other side, with the key in admin_key_file; vast_key: an account's key itself, which no repr shows, or the file
    it is in; vast_url: another market that speaks Vast.ai's language; worker_image: what rented machines run.
    """

    gateway: str | None
    gateway_admin: str
    admin_key_file: Path
    signing_key_file: Path
    vast_key: str | None = field(repr=False)
    vast_key_file: Path | None
    vast_url: str | None
    worker_image: str | None


def fleet_settings() -> FleetSettings:
    """Read the environment.

    Raises OptionError naming the variable whose value cannot be used.
    """
    keys = load().home / "gateway"
    return FleetSettings(
        gateway=_url("WHISPERFLEET_GATEWAY"),
        gateway_admin=_url("WHISPERFLEET_GATEWAY_ADMIN") or GATEWAY_ADMIN,
        admin_key_file=_path("WHISPERFLEET_GATEWAY_ADMIN_KEY_FILE") or keys / "admin.key",
        signing_key_file=_path("WHISPERFLEET_GATEWAY_SIGNING_KEY_FILE") or keys / "signing.key",
        vast_key=(os.environ.get("VAST_API_KEY") or "").strip() or None,
        vast_key_file=_path("WHISPERFLEET_VAST_KEY_FILE"),
        vast_url=_url("WHISPERFLEET_VAST_URL"),
        worker_image=os.environ.get("WHISPERFLEET_WORKER_IMAGE") or None,
    )


MARKET = "https://console.vast.ai"


@dataclass(frozen=True)
class Container:
    """What the market tells a rented container of itself. market: whose API ends it, with a key for it alone."""

    id: str
    key: str = field(repr=False)
    market: str


def container() -> Container | None:
    """None where this is no rented machine. Raises nothing: a machine with wrong settings must still end itself."""
    number, key = os.environ.get("CONTAINER_ID", "").strip(), os.environ.get("CONTAINER_API_KEY", "").strip()
    market = (os.environ.get("WHISPERFLEET_VAST_URL") or "").rstrip("/")
    if not number.isdigit() or not key:
        return None
    return Container(number, key, market if market.startswith(("http://", "https://")) else MARKET)


@dataclass(frozen=True)
class RentedSettings:
    """What a rented machine is told. token: its own, in no repr; kinds: task types, with commas between them.

    ttl_s: hard life from the container's start; idle_s without a task, silence_s without the gateway until it ends
    itself. needs_gpu: the image says so, its worker is of no use on a processor.
    """

    gateway: str
    nonce: str
    token: str = field(repr=False)
    kinds: str
    model: str
    ttl_s: float
    idle_s: float
    silence_s: float
    needs_gpu: bool


def rented_settings() -> RentedSettings:
    """Read the environment.

    Raises OptionError naming the variable that is missing or whose value cannot be used.
    """
    needed = ("WHISPERFLEET_GATEWAY", "CONDUCTOR_AUTH_KEY", "CONDUCTOR_AUTH_SECRET", "WHISPERFLEET_TASKS")
    if missing := [name for name in needed if not os.environ.get(name)]:
        raise OptionError(f"{missing[0]} is not set: a rented machine is told it by whoever rents it.")
    return RentedSettings(
        gateway=(_url("WHISPERFLEET_GATEWAY") or "").rstrip("/"),
        nonce=os.environ["CONDUCTOR_AUTH_KEY"],
        token=os.environ["CONDUCTOR_AUTH_SECRET"],
        kinds=os.environ["WHISPERFLEET_TASKS"],
        model=os.environ.get("WHISPERFLEET_MODEL") or "turbo",
        ttl_s=_seconds("WHISPERFLEET_TTL_S", 6 * 3_600.0),
        idle_s=_seconds("WHISPERFLEET_IDLE_S", 900.0),
        silence_s=_seconds("WHISPERFLEET_SILENCE_S", 600.0),
        needs_gpu=os.environ.get("WHISPERFLEET_NEEDS_GPU") == "1",
    )


def rented_worker_environment(gateway: str) -> dict[str, str]:
    """For what runs below the supervisor: its server is the gateway, and only the supervisor can end the instance."""
    around = worker_environment(WHISPERFLEET_SERVER=f"{gateway}/api", PYTHONUNBUFFERED="1")
    return {name: value for name, value in around.items() if name != "CONTAINER_API_KEY"}


def pyannote_models() -> tuple[str, ...]:
    """Names on the Hugging Face hub that the operator lets the diarizer pyannote take, besides pyannote's own.

    Raises OptionError where one is no such name.
    """
    names = tuple(
        name.strip() for name in os.environ.get("WHISPERFLEET_PYANNOTE_MODELS", "").split(",") if name.strip()
    )
    for name in names:
        if name.count("/") != 1:
            raise OptionError(
                f"WHISPERFLEET_PYANNOTE_MODELS has '{name}', which is no name on the hub: write OWNER/NAME,OWNER/NAME."
            )
    return names


# Threads of CTranslate2's OpenMP spin while they wait, 200 ms by default; with more of them running than there are free
# cores that is most of the time: 30 s of audio took 30 s at a load of 10, and 2.8 s without spinning. A thousand turns
# are a few microseconds: nobody is kept from a core for long, and on a quiet machine ten minutes took 6.6 s instead of
# 7.6 without any (two threads).
_LITTLE_SPINNING = {"KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "1000"}


def worker_environment(**changes: str) -> dict[str, str]:
    """This process's environment for a worker, which needs it whole (credentials, proxies), with changes."""
    return {**_LITTLE_SPINNING, **os.environ, **changes}


def refuse_telemetry() -> None:
    """For this process and its children, before pyannote.audio is imported: it reports each load to its makers."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"


def bare_environment(**changes: str) -> dict[str, str]:
    """An environment without anybody's secrets, for programs that must not see them."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "TEMP", "SYSTEMROOT")
    gpus = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")  # where CUDA's libraries are, and which are this process's
    return {**{name: os.environ[name] for name in (*kept, *gpus) if name in os.environ}, **changes}


def _default_home() -> Path:
    import platformdirs  # here, so that `--help` does not pay for it

    return platformdirs.user_data_path("whisperfleet")


def _url(variable: str) -> str | None:
    value = os.environ.get(variable)
    if value and urlsplit(value).scheme not in ("http", "https"):
        raise OptionError(f"{variable} is '{value}': write http://HOST:PORT or https://HOST.")
    return value or None


def _seconds(variable: str, default: float) -> float:
    value = os.environ.get(variable)
    try:
        seconds = float(value) if value else default
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise OptionError(f"{variable} is '{value}': write a number of seconds.")
    return seconds


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().absolute() if value else None


def _existing(variable: str) -> Path | None:
    value = os.environ.get(variable)
    if not value:
        return None
    path = Path(value).expanduser().absolute()
    if not path.exists():
        raise OptionError(f"{variable} is '{value}', which does not exist.")
    return path
