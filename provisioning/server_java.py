"""How the embedded server is run: what is switched off, what is made small, what is made quick."""

import os
from pathlib import Path

from provisioning.server_state import Files
from workers.settings import bare_environment


def command(java: Path, files: Files, port: int, ui: Path | None) -> list[str]:
    """Program and arguments; no secret is among them."""
    properties = _properties(files, port, ui)
    settings = [f"--{name}={value}" for name, value in properties.items()]
    return [str(java), *_jvm(files), "com.netflix.conductor.Conductor", *settings]


def environment(program: Path) -> dict[str, str]:
    """The server's environment: nobody's keys (it would look for a dozen), and what Java is to load.

    The order is that of the index that the jar brought. It is given here because it is 25 kB long.
    """
    index = (program / "classpath.idx").read_text("utf-8")
    names = [line.removeprefix("- ").strip('"').removeprefix("BOOT-INF/") for line in index.splitlines() if line]
    paths = [program / "classes", *(program / name for name in names)]
    return bare_environment(CLASSPATH=os.pathsep.join(str(path) for path in paths))


def _jvm(files: Files) -> list[str]:
    return [
        "-Xmx1g",
        "-XX:+UseSerialGC",
        # The optimizing compiler pays off after hours, and most servers here live for minutes. Without it a start takes
        # 13 to 18 processor seconds instead of 22 to 25, a first job two thirds as much a task, a later one no more.
        "-XX:TieredStopAtLevel=1",
        "--enable-native-access=ALL-UNNAMED",  # the SQLite driver is native; without it Java warns
        f"-Djava.io.tmpdir={files.root}",
    ]


def _properties(files: Files, port: int, ui: Path | None) -> dict[str, str]:
    properties = {
        # it would listen on every interface, and it knows no authentication
        "server.address": "127.0.0.1",
        "server.port": str(port),
        "conductor.grpc-server.enabled": "false",
        # synchronous: the server sets NORMAL itself, but on one of its ten connections; on the others each of some ten
        # commits a task waited for the disk, one after the other (4 ms each instead of 0.1). With the write-ahead log
        # NORMAL cannot damage the database. A power cut, not a crash of the server, may undo the last moments as a
        # whole: tasks done in them are handed out again, and find their results in storage.
        "spring.datasource.url": (
            f"jdbc:sqlite:{files.database}?busy_timeout=15000&journal_mode=WAL&synchronous=NORMAL"
        ),
        "conductor.integrations.ai.enabled": "false",
        "conductor.scheduler.enabled": "false",
        "spring.jmx.enabled": "false",
        "conductor.file-storage.parentDir": str(files.root / "files"),  # it would make a folder in the user's home
        # Every 100 ms the server looks at some of the JOINs that wait, twice as many as it has processors, and each
        # look reads the whole job. With the defaults (50 ms, and up to 100 for more to come) one job is looked at as
        # often, but ten of two chunks take 0.22 of a processor instead of 0.10.
        "conductor.app.systemTaskWorkerPollInterval": "100ms",
        "conductor.app.systemTaskQueuePopTimeout": "0ms",
        # So for the first 1200 looks of each, two minutes or more, in which a second would be felt; then every second,
        # never as seldom as the default's 30 s: with 100 chunks the looks at one job take an eighth of a processor.
        "conductor.app.systemTaskPostponeThreshold": "1200",
        "conductor.app.systemTaskWorkerCallbackDuration": "1s",
        # Where two branches end at once, whoever is second waits so long for the job's lock, by default 0.5 s, and
        # then decides nothing: on a busy machine the job stood still until the sweeper came, two minutes later.
        "conductor.app.lockTimeToTry": "10s",
    }
    if ui:
        properties["spring.web.resources.static-locations"] = f"{ui.absolute().as_uri()}/"
    return properties
