"""docker-compose.yml read, and its services run as processes of this machine, from the same files.

What is not the same is written down in `Native`: addresses and folders, because here all services share one machine's,
and the programs, because an image has its own. Everything else of a service (its environment files, its command, its
configuration, its secrets' names) is taken from the deployment.
"""

import os
import pwd
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import yaml

from tests.support.services import found
from workers.settings import bare_environment

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DEPLOY = ROOT / "provisioning" / "deploy"

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<other>[^}]*))?\}")
_PATIENCE_S = 200.0  # Conductor took 12 to 40 s to start on 2 cores, and 128 s where many programs wanted them


# ---- the file ----


def compose() -> dict[str, Any]:
    """docker-compose.yml with its anchors resolved and its variables as they stand."""
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return loaded


def interpolated(value: str, variables: Mapping[str, str]) -> str:
    """`value` with `${NAME}`, `${NAME:-default}` and `${NAME:?message}` replaced, as Compose does it."""

    def one(match: re.Match[str]) -> str:
        given = variables.get(match["name"])
        if given or not match["how"]:
            return given or ""
        assert match["how"] == ":-", f"{match['name']} is needed: {match['other']}"
        return str(match["other"])

    return _VARIABLE.sub(one, value)


def read_env(path: Path) -> dict[str, str]:
    """An environment file as Compose reads it; quotes and escapes, which it has rules of its own for, are not used."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    for name, equals, value in pairs:
        assert equals, f"{path.name}: {name}"
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", name), f"{path.name}: {name}"
        assert not re.search(r"""['"$\\]|\s#""", value), f"{path.name}: {name} has what Compose would take for its own"
    return {name: value for name, _, value in pairs}


def environment_of(service: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
    """What the service's process finds in its environment, besides what its image sets."""
    values: dict[str, str] = {}
    for file in service.get("env_file", []):
        values |= read_env(ROOT / file)
    return values | {name: interpolated(value, variables) for name, value in service.get("environment", {}).items()}


# ---- the services, native ----


@dataclass
class Native:
    """The services of docker-compose.yml on 127.0.0.1, each at a port of its own.

    folder: for data, logs and secrets; variables: what the file .env would say. `close` ends all.
    """

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    _homes: dict[str, str] = field(default_factory=dict)
    _started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = compose()["services"]
        for name in ("postgres:5432", "conductor:8080", "s3:7070", "gateway:7401", "gateway-admin:7402", "fleet:7403",
                     "front:443", "front:80", "prometheus:9090", "grafana:3000", "127.0.0.1:2020", "127.0.0.1:8080",
                     "127.0.0.1:3000"):  # fmt: skip
            self.ports[name] = _free_port()
        self.variables.setdefault("WHISPERFLEET_DOMAIN", f"localhost:{self.ports['front:443']}")
        self.secrets = self.folder / "secrets"
        subprocess.run(["sh", DEPLOY / "secrets.sh", self.secrets], check=True, capture_output=True, timeout=60)
        for secret in self.secrets.iterdir():
            secret.chmod(0o600)  # no container reads them here, and our own services insist on it
        shutil.copy(self.secrets / "postgres_password", self._made("properties") / "spring.datasource.password")
        self._homes = {
            **{name: self.at(name) for name in self.ports},
            "localhost:8080": f"localhost:{self.ports['127.0.0.1:8080']}",
            "localhost:3000": f"localhost:{self.ports['127.0.0.1:3000']}",
            "0.0.0.0:7401": self.at("gateway:7401"),
            "0.0.0.0:7403": self.at("fleet:7403"),
            "configtree:/run/secrets/": f"configtree:{self.folder}/properties/",
            "/run/secrets/": f"{self.secrets}/",
            "/data/": f"{self._made('objects')}/",
            "=/data": f"={self._made('objects')}",
            "/var/lib/conductor": str(self._made("conductor")),
            "/etc/prometheus/": f"{self._made('prometheus')}/",
            "=/prometheus": f"={self._made('prometheus')}/data",
        }

    def at(self, name: str) -> str:
        """HOST:PORT here of what the deployment calls `name`."""
        return f"127.0.0.1:{self.ports[name]}"

    def close(self) -> None:
        """All are told at once; who waits for another that ends does not wait long."""
        for process in reversed(self._started):
            process.terminate()
        for process in reversed(self._started):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def environment(self, service: str, **own: str) -> dict[str, str]:
        """Of a service of ours or of somebody else's, as it would be in its container, but for where things are."""
        told = environment_of(self.services[service], self.variables)
        here = {"PATH", "CLASSPATH", "SERVER_ADDRESS", "WHISPERFLEET_HOME", "HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"}
        no_internet = {"WHISPERFLEET_VAST_URL", "SSL_CERT_FILE"}
        assert set(own) <= here | no_internet | set(told), "a service natively knows nothing more"
        return {**bare_environment(), **{name: self.rehomed(value) for name, value in told.items()}, **own}

    def command(self, service: str, part: str = "command") -> list[str]:
        return [self.rehomed(interpolated(str(word), self.variables)) for word in self.services[service][part]]

    def rehomed(self, text: str) -> str:
        """`text` with addresses and folders of containers replaced by those of this machine, the longest first."""
        longest = sorted(self._homes, key=len, reverse=True)
        pattern = "|".join(("" if there.startswith("=") else r"(?<![\w.-])") + re.escape(there) for there in longest)
        return re.sub(pattern, lambda match: self._homes[match[0]], text)

    def run(self, name: str, command: list[str], environment: dict[str, str], **more: Any) -> "subprocess.Popen[bytes]":
        """Start a process that ends with this object; what it says is in `log(name)`."""
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **more
            )
        self._started.append(process)
        return process

    def ours(self, name: str, service: str, **own: str) -> "subprocess.Popen[bytes]":
        """A service whose image is provisioning/service.Dockerfile's: its entry point is the command whisperfleet."""
        home = str(self._made(f"home-{name}"))
        environment = self.environment(service, WHISPERFLEET_HOME=home, HOME=home, **own)
        return self.run(name, whisperfleet(*self.command(service)), environment, cwd=self.folder)

    def arguments(self) -> list[bytes]:
        """The argument lists of all that runs for this, children included: what any user of the machine can see."""
        mine = [psutil.Process(process.pid) for process in self._started if process.poll() is None]
        all_of_them = {one.pid for process in mine for one in (process, *process.children(recursive=True))}
        return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in all_of_them if Path(f"/proc/{pid}").exists()]

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def last_words(self) -> str:
        """The end of every log, for a test that fails."""
        return "\n\n".join(f"{log.stem}:\n{tail(log, 6)}" for log in sorted(self.folder.glob("*.log")))

    def healthy(self, name: str, url: str, process: "subprocess.Popen[bytes]", **more: Any) -> None:
        """Wait until `url` answers 2xx."""

        def answers() -> bool:
            assert process.poll() is None, f"{name} ended: {tail(self.log(name))}"
            try:
                return httpx.get(url, timeout=5, **more).is_success
            except httpx.HTTPError:
                return False

        wait_until(answers, lambda: f"{name} is not healthy: {tail(self.log(name))}")

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    # ---- one by one ----

    def postgres(self) -> None:
        """A cluster of its own in a folder of its own, made as the image makes it; PostgreSQL refuses to be root."""
        told = self.environment("postgres")
        cluster = self._made("postgres")
        password = cluster / "password"
        shutil.copyfile(told["POSTGRES_PASSWORD_FILE"], password)
        as_user: dict[str, Any] = {"cwd": cluster, "env": bare_environment()}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            for path in (cluster, password):
                os.chown(path, user.pw_uid, user.pw_gid)
            as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        initdb, postgres, createdb = (str(found(program)) for program in ("initdb", "postgres", "createdb"))
        port = str(self.ports["postgres:5432"])
        data, user_name, extra = str(cluster / "data"), told["POSTGRES_USER"], told["POSTGRES_INITDB_ARGS"]
        made = subprocess.run(
            [initdb, "-D", data, "-U", user_name, f"--pwfile={password}", "--no-sync", *extra.split()],
            capture_output=True, text=True, timeout=120, check=False, **as_user,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        listen = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": str(cluster)}
        arguments = [word for name, value in listen.items() for word in ("-c", f"{name}={value}")]
        self.run("postgres", [postgres, "-D", data, *arguments], **({"environment": as_user.pop("env")} | as_user))
        passwords = self.folder / "pgpass"
        passwords.write_text(f"*:*:*:*:{password.read_text()}")
        passwords.chmod(0o600)
        creating = [createdb, *self.postgres_options, "-U", user_name, told["POSTGRES_DB"]]

        def created() -> bool:
            return subprocess.run(creating, env=self.postgres_client, capture_output=True, check=False).returncode == 0

        wait_until(created, lambda: f"PostgreSQL does not answer: {tail(self.log('postgres'))}")

    @property
    def postgres_options(self) -> list[str]:
        return ["--host=127.0.0.1", f"--port={self.ports['postgres:5432']}", "--no-password"]

    @property
    def postgres_client(self) -> dict[str, str]:
        """The environment of a program that speaks to PostgreSQL: the password is in a file."""
        return bare_environment(PGPASSFILE=str(self.folder / "pgpass"))

    def sql(self, database: str, statement: str) -> str:
        command = [
            str(found("psql")),
            *self.postgres_options,
            "-U",
            "conductor",
            "-d",
            database,
            "-At",
            "-c",
            statement,
        ]
        return subprocess.run(
            command, env=self.postgres_client, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def conductor(self, java: Path, classpath: str) -> "subprocess.Popen[bytes]":
        """The same jar that the image has, by the class that its manifest starts."""
        where = {"SERVER_PORT": str(self.ports["conductor:8080"]), "SERVER_ADDRESS": "127.0.0.1"}
        environment = self.environment("conductor", CLASSPATH=classpath, **where)
        command = [str(java), "com.netflix.conductor.Conductor"]
        return self.run("conductor", command, environment, cwd=self.folder / "conductor")

    def s3(self, program: Path) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join((str(program.parent), os.environ.get("PATH", os.defpath)))
        environment = self.environment("s3", VGW_PORT=self.at("s3:7070"), PATH=path)
        return self.run("s3", ["sh", str(DEPLOY / "s3.sh")], environment, cwd=self.folder)

    def another_s3(self, program: Path, data: Path) -> str:
        """A second store over `data`, a copy of the first one's folder; its HOST:PORT."""
        address = f"127.0.0.1:{_free_port()}"
        path = os.pathsep.join((str(program.parent), os.environ.get("PATH", os.defpath)))
        environment = self.environment("s3", VGW_PORT=address, PATH=path, VGW_FOLDER=str(data / "objects"))
        process = self.run("s3-restored", ["sh", str(DEPLOY / "s3.sh")], environment, cwd=data)
        self.healthy("s3-restored", f"http://{address}/health", process)
        return address

    def front(self) -> "subprocess.Popen[bytes]":
        """The front, with a certificate of its own authority: no other would certify this machine."""
        ports = {"FRONT_LISTEN": "127.0.0.1", "FRONT_HTTP_PORT": str(self.ports["front:80"])}
        return self._caddy("front", FRONT_TLS="tls internal", **ports)

    def ui(self) -> "subprocess.Popen[bytes]":
        return self._caddy("ui", UI_LISTEN="127.0.0.1", UI_HEALTH=f"http://127.0.0.1:{_free_port()}")

    def _caddy(self, service: str, **own: str) -> "subprocess.Popen[bytes]":
        data = str(self._made(service))
        environment = self.environment(service, HOME=data, XDG_DATA_HOME=data, XDG_CONFIG_HOME=data, **own)
        config = str(DEPLOY / f"{service}.Caddyfile")
        command = [str(found("caddy")), "run", "--adapter", "caddyfile", "--config", config]
        return self.run(service, command, environment, cwd=data)

    @property
    def authority(self) -> Path:
        """The certificate of the front's own authority, once it runs."""
        return self.folder / "front" / "caddy" / "pki" / "authorities" / "local" / "root.crt"

    def prometheus(self) -> "subprocess.Popen[bytes]":
        """Asking fifteen times as often as it will: a test has no minutes to wait for."""
        config = self.rehomed((DEPLOY / "prometheus.yml").read_text()).replace("interval: 15s", "interval: 1s")
        (self.folder / "prometheus" / "prometheus.yml").write_text(config.replace("timeout: 10s", "timeout: 1s"))
        listen = f"--web.listen-address={self.at('prometheus:9090')}"
        command = [str(found("prometheus")), *self.command("prometheus"), listen]
        return self.run("prometheus", command, self.environment("prometheus"), cwd=self.folder)


def whisperfleet(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "workflows.cli", *(str(argument) for argument in arguments)]


def wait_until(holds: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.1)


def tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "no word"


_PORTS = list(range(20_080, 30_080))  # below those that systems take for outgoing connections
random.shuffle(_PORTS)


def _free_port() -> int:
    """One that nobody has, and that is given out once."""
    while True:
        port = _PORTS.pop()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
