"""The command line of the embedded server: what is switched off, what is made small, what is made quick."""

from pathlib import Path

from provisioning.server_state import Files


def command(java: Path, jar: Path, files: Files, port: int, ui: Path | None) -> list[str]:
    """Program and arguments; no secret is among them."""
    return [
        str(java),
        *_jvm(files),
        "-jar",
        str(jar),
        *(f"--{name}={value}" for name, value in _properties(files, port, ui).items()),
    ]


def _jvm(files: Files) -> list[str]:
    return [
        "-Xmx1g",
        "-XX:+UseSerialGC",
        "--enable-native-access=ALL-UNNAMED",  # the SQLite driver is native; without it Java warns
        f"-Djava.io.tmpdir={files.root}",
    ]


def _properties(files: Files, port: int, ui: Path | None) -> dict[str, str]:
    properties = {
        # it would listen on every interface, and it knows no authentication
        "server.address": "127.0.0.1",
        "server.port": str(port),
        "conductor.grpc-server.enabled": "false",
        "spring.datasource.url": f"jdbc:sqlite:{files.database}?busy_timeout=15000&journal_mode=WAL",
        "conductor.integrations.ai.enabled": "false",
        "conductor.scheduler.enabled": "false",
        "spring.jmx.enabled": "false",
    }
    if ui:
        properties["spring.web.resources.static-locations"] = f"{ui.absolute().as_uri()}/"
    return properties
