"""Bringing the server's program: resumed, started over, refused; unpacked whole or not at all."""

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from provisioning import server_jar
from provisioning.server_jar import Artifact, Unreachable, WrongHash, download, unpack
from provisioning.server_java import environment
from workers.errors import ServerError
from workers.settings import Settings

CONTENT = bytes(range(256)) * 4096


class Repository(ThreadingHTTPServer):
    """Serves CONTENT; breaks off after `patience` bytes of each answer; remembers what ranges were asked for."""

    patience = len(CONTENT)
    ranges = True
    status = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[int] = []

    @property
    def artifact(self) -> Artifact:
        digest = hashlib.sha256(CONTENT).hexdigest()
        return Artifact(f"http://127.0.0.1:{self.server_address[1]}/server.jar", digest, len(CONTENT))


class Answer(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.server.asked.append(begin)
        begin = begin if self.server.ranges else 0
        self.send_response(self.server.status or (206 if self.server.ranges else 200))
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        self.wfile.write(CONTENT[begin:][: self.server.patience])

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def repository() -> Iterator[Repository]:
    with Repository() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(repository: Repository, target: Path, artifact: Artifact | None = None) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    download(artifact or repository.artifact, target, lambda done, total: told.append((done, total)), pause=0)
    return told


def test_whole_file_arrives_under_its_name(repository: Repository, tmp_path: Path) -> None:
    told = fetch(repository, tmp_path / "server.jar")
    assert (tmp_path / "server.jar").read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == ["server.jar"]


def test_cut_off_download_goes_on_where_it_was(repository: Repository, tmp_path: Path) -> None:
    repository.patience = len(CONTENT) // 3
    fetch(repository, tmp_path / "server.jar")
    assert (tmp_path / "server.jar").read_bytes() == CONTENT
    assert repository.asked == sorted(set(repository.asked))
    assert len(repository.asked) >= 3


def test_what_an_earlier_command_left_is_used(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "server.jar.part").write_bytes(CONTENT[:1000])
    fetch(repository, tmp_path / "server.jar")
    assert (tmp_path / "server.jar").read_bytes() == CONTENT
    assert repository.asked == [1000]


def test_server_without_ranges_starts_over(repository: Repository, tmp_path: Path) -> None:
    repository.ranges = False
    (tmp_path / "server.jar.part").write_bytes(b"x" * 1000)
    fetch(repository, tmp_path / "server.jar")
    assert (tmp_path / "server.jar").read_bytes() == CONTENT


def test_damaged_file_is_thrown_away(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "server.jar.part").write_bytes(b"x" * 1000)
    with pytest.raises(WrongHash):
        fetch(repository, tmp_path / "server.jar")
    assert list(tmp_path.iterdir()) == []


def test_damaged_remainder_is_fetched_once_more(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "server.jar.part").write_bytes(b"x" * 1000)
    told: list[str] = []
    server_jar._download(repository.artifact, tmp_path / "server.jar", told.append)
    assert (tmp_path / "server.jar").read_bytes() == CONTENT
    assert repository.asked == [1000, 0]


def test_wrong_file_is_refused_with_a_sentence(repository: Repository, tmp_path: Path) -> None:
    wrong = Artifact(repository.artifact.url, "0" * 64, len(CONTENT))
    with pytest.raises(ServerError, match=r"SHA-256 differs.*WHISPERFLEET_SERVER_JAR"):
        server_jar._download(wrong, tmp_path / "server.jar", lambda text: None)


@pytest.mark.parametrize("status", [404, 503])
def test_refusal_is_reported_after_some_tries(repository: Repository, tmp_path: Path, status: int) -> None:
    repository.status = status
    with pytest.raises(Unreachable, match=str(status)):
        fetch(repository, tmp_path / "server.jar")
    assert len(repository.asked) > 1


def test_no_room_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"MB are free"):
        server_jar._check_space(tmp_path, 1 << 60)


def test_brought_jar_of_other_content_is_refused(tmp_path: Path) -> None:
    jar = tmp_path / "other.jar"
    jar.write_bytes(b"no server")
    settings = Settings(tmp_path, None, "objects", None, None, jar)
    with pytest.raises(ServerError, match=r"other\.jar.*not Conductor server"):
        server_jar.obtain(settings, lambda text: None)


def boot_jar(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/build-info.properties", "build.version=1")
        archive.writestr("BOOT-INF/classes/application.properties", "a=b")
        archive.writestr("BOOT-INF/lib/b.jar", "B")
        archive.writestr("BOOT-INF/lib/a.jar", "A")
        archive.writestr("BOOT-INF/classpath.idx", '- "BOOT-INF/lib/b.jar"\n- "BOOT-INF/lib/a.jar"\n')
        archive.writestr("org/springframework/boot/loader/Launcher.class", "not needed")
    return path


def test_unpacked_program_is_loaded_in_the_order_of_its_index(tmp_path: Path) -> None:
    program = tmp_path / "server"
    unpack(boot_jar(tmp_path / "boot.jar"), program)
    assert environment(program)["CLASSPATH"].split(":") == [
        str(program / "classes"),
        str(program / "lib/b.jar"),
        str(program / "lib/a.jar"),
    ]
    assert (program / "classes/META-INF/build-info.properties").read_text() == "build.version=1"


def test_program_that_lost_a_part_is_unpacked_again(tmp_path: Path) -> None:
    program = tmp_path / "server"
    jar = boot_jar(tmp_path / "boot.jar")
    unpack(jar, program)
    assert server_jar.obtain(Settings(tmp_path, None, "objects", None, None, program), print) == program
    (program / "lib/a.jar").write_bytes(b"")
    assert not server_jar._whole(program)
    unpack(jar, program)
    assert server_jar._whole(program)


def test_server_sees_nobodys_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    program = tmp_path / "server"
    unpack(boot_jar(tmp_path / "boot.jar"), program)
    assert "secret" not in environment(program).values()
