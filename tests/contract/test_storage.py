"""One contract over all storages; then what is particular to folders and to S3."""

import hashlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.conftest import BUCKET, settings_with
from workers.errors import ObjectMissing, OptionError, StorageError, StorageUnavailable, WhisperfleetError
from workers.storage import Storage, open_storage
from workers.storage.gateway import GatewayStorage

PARTS = st.text("abcXYZ019._-", min_size=1, max_size=12).filter(lambda part: not part.startswith("."))
KEYS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # every example asks a real disk and a real server


@FEW
@given(key=KEYS, data=st.binary(max_size=2000))
def test_what_was_put_comes_back(storage: Storage, key: str, data: bytes) -> None:
    storage.put_bytes(f"round/{key}/end", data)

    assert storage.get_bytes(f"round/{key}/end") == data
    assert storage.exists(f"round/{key}/end")
    assert f"round/{key}/end" in list(storage.keys("round/"))


@FEW
@given(
    keys=st.sets(st.tuples(PARTS, PARTS).map("/".join), max_size=6), prefix=st.one_of(PARTS, PARTS.map("{}/".format))
)
def test_keys_are_those_that_begin_with_the_prefix(storage: Storage, keys: set[str], prefix: str) -> None:
    for leftover in ("x/", "y/"):
        storage.delete(leftover)
    for key in keys:
        storage.put_bytes(f"x/{key}", b"")
    wanted = sorted(f"x/{key}" for key in keys if key.startswith(prefix))

    assert list(storage.keys(f"x/{prefix}")) == wanted
    assert storage.delete(f"x/{prefix}") == len(wanted)
    assert list(storage.keys("x/")) == sorted(f"x/{key}" for key in keys if not key.startswith(prefix))


def test_a_prefix_with_a_slash_does_not_reach_its_neighbour(storage: Storage) -> None:
    for key in ("a/b/1", "a/b/2", "a/bc", "a/b.txt"):
        storage.put_bytes(key, b"x")

    assert list(storage.keys("a/b/")) == ["a/b/1", "a/b/2"]
    assert list(storage.keys("a/b")) == ["a/b.txt", "a/b/1", "a/b/2", "a/bc"]
    assert storage.delete("a/b/") == 2
    assert list(storage.keys("")) == ["a/b.txt", "a/bc"]
    assert storage.delete("a/b/") == 0


def test_a_big_file_makes_the_round(storage: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(20 << 20))  # several pieces of a multipart upload

    storage.put_file("big/file.flac", source)
    storage.get_file("big/file.flac", target)

    assert _sha256(target) == _sha256(source)
    assert storage.get_bytes("big/file.flac") == source.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 16 << 20])
def test_files_of_the_sizes_where_the_way_changes(storage: Storage, tmp_path: Path, size: int) -> None:
    (tmp_path / "source").write_bytes(bytes(size))

    storage.put_file("sizes/file", tmp_path / "source")

    assert len(storage.get_bytes("sizes/file")) == size


def test_an_absent_object_is_missing(storage: Storage, tmp_path: Path) -> None:
    storage.put_bytes("there/object", b"x")

    for key in ("there/other", "there", "there/object/below", "else/where"):
        assert not storage.exists(key)
        with pytest.raises(ObjectMissing, match=key):
            storage.get_bytes(key)
        with pytest.raises(ObjectMissing, match=key):
            storage.get_file(key, tmp_path / "target")
    assert _visible_and_hidden(tmp_path, "target") == []


def test_discarding_takes_exactly_what_is_named(storage: Storage) -> None:
    for key in ("a/audio/1.flac", "a/audio/1.flac2", "a/audio/2.flac", "a/audio/2.json"):
        storage.put_bytes(key, b"x")

    storage.discard(["a/audio/1.flac", "a/audio/2.flac", "a/absent/3.flac"])
    storage.discard([])

    assert list(storage.keys("a/")) == ["a/audio/1.flac2", "a/audio/2.json"]


def test_deleting_everything_is_refused(storage: Storage) -> None:
    with pytest.raises(ValueError, match="everything"):
        storage.delete("")


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.b", ".", "a\\b", "a b", "ä", "a\n"])
def test_names_that_could_leave_the_storage_are_refused(storage: Storage, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_bytes(b"")

    for use in (
        lambda: storage.put_bytes(key, b""),
        lambda: storage.put_file(key, tmp_path / "file"),
        lambda: storage.get_bytes(key),
        lambda: storage.get_file(key, tmp_path / "target"),
        lambda: storage.exists(key),
        lambda: storage.url(key),
    ):
        with pytest.raises(StorageError):
            use()


def test_an_overwritten_object_is_never_seen_in_parts(storage: Storage) -> None:
    versions = [bytes([number]) * 300_000 for number in range(6)]
    storage.put_bytes("shared/object", versions[0])
    seen: list[bytes] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(storage.get_bytes("shared/object"))

    def write(mine: list[bytes]) -> None:
        for version in mine:
            storage.put_bytes("shared/object", version)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(mine,)) for mine in (versions[:3] * 3, versions[3:] * 3)]
    for thread in (reader, *writers):
        thread.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()

    assert seen
    assert set(seen) <= set(versions)
    assert storage.get_bytes("shared/object") in (versions[2], versions[5])
    assert list(storage.keys("")) == ["shared/object"]


def test_a_file_that_cannot_arrive_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    storage.put_bytes("some/object", b"x" * 100_000)
    (tmp_path / "folder" / "full").mkdir(parents=True)

    for target in (tmp_path / "absent" / "file", tmp_path / "folder"):  # no such folder; a folder in the way
        with pytest.raises(StorageError, match="Cannot write"):
            storage.get_file("some/object", target)
    with _files_limited_to(50_000), pytest.raises(StorageError, match="no space is left"):
        storage.get_file("some/object", tmp_path / "target")

    assert _visible_and_hidden(tmp_path, "target") == []
    assert _visible_and_hidden(tmp_path, "folder") == [tmp_path / "folder"]


def test_the_address_opens_the_same_storage_again(storage: Storage, tmp_path: Path, s3_endpoint: str) -> None:
    storage.put_bytes("some/object", b"x")

    again = open_storage(storage.address, settings_with(tmp_path, s3_endpoint))

    assert again.address == storage.address
    assert again.get_bytes("some/object") == b"x"
    assert unquote(urlsplit(again.url("some/object")).path).endswith("/some/object")


def test_a_writable_storage_says_so_and_stays_empty(storage: Storage) -> None:
    if isinstance(storage, GatewayStorage):  # it holds a task's objects, and no job begins there
        with pytest.raises(StorageError, match="objects of one task"):
            storage.check_writable()
    else:
        storage.check_writable()

    assert list(storage.keys("")) == []


# ---- addresses ----


@pytest.mark.parametrize(
    "address",
    [
        "",
        " ",
        "http://host/x",
        "http://host/objects/short",
        "https:///objects/0123456789abcdef",
        "gs://bucket/x",
        "s3://",
        "s3:///x",
        "s3://b",
        "s3://bad bucket/x",
        "s3://bu/a//b",
    ],
)
def test_an_address_that_is_none_is_an_option_error(address: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is no storage"):
        open_storage(address, settings_with(tmp_path))


def test_a_file_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="another machine"):
        open_storage("file://server/share", settings_with(tmp_path))


def test_a_file_address_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    storage = open_storage(folder.as_uri(), settings_with(tmp_path / "home"))
    storage.put_bytes("a/b", b"x")

    assert storage.address == str(folder)
    assert storage.url("a/b") == (folder / "a" / "b").as_uri()


# ---- folders ----


def test_a_folder_that_is_not_on_this_machine_is_not_made_up(tmp_path: Path) -> None:
    mine = settings_with(tmp_path / "home")
    with pytest.raises(StorageError, match="not on this machine"):
        open_storage(str(tmp_path / "share" / "objects"), mine)

    in_a_parent_that_is_there = open_storage(str(tmp_path / "objects"), mine)
    with pytest.raises(StorageError, match="not on this machine"):
        in_a_parent_that_is_there.get_bytes("jobs/a/plan.json")
    in_a_parent_that_is_there.put_bytes("jobs/a/plan.json", b"{}")

    own = open_storage(str(tmp_path / "home" / "deep" / "objects"), mine)
    with pytest.raises(ObjectMissing):
        own.get_bytes("jobs/a/plan.json")
    own.put_bytes("jobs/a/plan.json", b"{}")
    assert own.exists("jobs/a/plan.json")


def test_deleting_prunes_folders_and_leftovers_but_not_the_storage(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path), settings_with(tmp_path / "home"))
    storage.put_bytes("jobs/a/audio/0.flac", b"x")
    storage.put_bytes("jobs/b/plan.json", b"x")
    (tmp_path / "jobs" / "a" / "audio" / ".1.flac.0123.part").write_bytes(b"from a writer that was killed")

    assert storage.delete("jobs/a/") == 1
    assert _visible_and_hidden(tmp_path / "jobs", "") == [tmp_path / "jobs" / "b"]
    assert storage.delete("jobs/b/plan.json") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence_and_keeps_the_old_object(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "objects"), settings_with(tmp_path / "home"))
    storage.put_bytes("a/object", b"old")
    (tmp_path / "source").write_bytes(bytes(100_000))

    with _files_limited_to(50_000):
        with pytest.raises(StorageError, match="No space is left"):
            storage.put_bytes("a/object", bytes(100_000))
        with pytest.raises(StorageError, match="No space is left"):
            storage.put_file("a/object", tmp_path / "source")
        with pytest.raises(StorageError, match="No space is left"):
            storage.check_writable()

    assert storage.get_bytes("a/object") == b"old"
    assert _visible_and_hidden(tmp_path / "objects" / "a", "") == [tmp_path / "objects" / "a" / "object"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_rights_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir(mode=0o500)
    storage = open_storage(str(tmp_path / "objects"), settings_with(tmp_path / "home"))

    with pytest.raises(StorageError, match="No permission"):
        storage.check_writable()


def test_a_file_where_the_folder_should_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "objects").write_bytes(b"")
    storage = open_storage(str(tmp_path / "objects"), settings_with(tmp_path / "home"))

    with pytest.raises(StorageError, match="objects"):
        storage.check_writable()


def test_writers_and_deleters_of_one_folder_do_not_stumble(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "objects"), settings_with(tmp_path / "home"))
    failures: list[BaseException] = []

    def write() -> None:
        for number in range(60):
            try:
                storage.put_bytes(f"jobs/deep/er/{number}", b"x")
            except StorageUnavailable:
                continue  # its temporary file was deleted with the job: trying again is right
            except BaseException as error:
                failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        storage.delete("jobs/")
    writer.join()

    assert failures == []


# ---- S3 ----


def test_a_bucket_that_does_not_exist_is_named(s3_endpoint: str, tmp_path: Path) -> None:
    storage = open_storage("s3://no-such-bucket/x", settings_with(tmp_path, s3_endpoint))

    with pytest.raises(StorageError, match="no bucket 'no-such-bucket'"):
        storage.check_writable()


@pytest.mark.usefixtures("_credentials")
def test_an_unreachable_service_is_known_soon(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"  # bound, never listening: refused
        storage = open_storage(f"s3://{BUCKET}", settings_with(tmp_path, endpoint))

        with pytest.raises(StorageUnavailable, match="did not answer"):
            storage.check_writable()


def test_without_credentials_the_sentence_says_where_they_belong(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    storage = open_storage(f"s3://{BUCKET}", settings_with(tmp_path, s3_endpoint))

    with pytest.raises(StorageError, match=r"No credentials.*AWS_ACCESS_KEY_ID"):
        storage.get_bytes("a/b")


def test_interrupted_uploads_go_with_the_job(s3_endpoint: str, tmp_path: Path) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_multipart_upload(Bucket=BUCKET, Key="kept/jobs/other/audio")
    client.create_multipart_upload(Bucket=BUCKET, Key="kept/jobs/mine/audio")

    open_storage(f"s3://{BUCKET}/kept", settings_with(tmp_path, s3_endpoint)).delete("jobs/mine/")

    left = client.list_multipart_uploads(Bucket=BUCKET, Prefix="kept/").get("Uploads", [])
    assert [upload["Key"] for upload in left] == ["kept/jobs/other/audio"]


class _Answers(BaseHTTPRequestHandler):
    """An S3 service that gives one prepared answer, and remembers what it was asked."""

    status = 200
    code = ""
    body = b""
    headers_out: tuple[tuple[str, str], ...] = ()
    asked: list[dict[str, str]]

    def _answer(self) -> None:
        received = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append({**{name.lower(): value for name, value in self.headers.items()}, "body": str(len(received))})
        error = f"<Error><Code>{self.code}</Code><Message>said the service</Message></Error>".encode()
        body = error if self.code else self.body
        self.send_response(self.status)
        for name, value in self.headers_out:
            self.send_header(name, value)
        if not any(name == "Content-Length" for name, _ in self.headers_out):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """The test's output is no place for a server's log."""


@contextmanager
def _service(
    status: int = 200, code: str = "", body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    asked: list[dict[str, str]] = []
    handler = type(
        "Handler", (_Answers,), {"status": status, "code": code, "body": body, "headers_out": headers, "asked": asked}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (403, "AccessDenied", StorageError, "No rights"),
        (403, "InvalidAccessKeyId", StorageError, "not accepted"),
        (403, "SignatureDoesNotMatch", StorageError, "not accepted"),
        (400, "ExpiredToken", StorageError, "not accepted"),
        (404, "NoSuchBucket", StorageError, "no bucket"),
        (404, "NoSuchKey", ObjectMissing, "is not in"),
        (507, "XMinioStorageFull", StorageError, "No space"),
        (400, "InvalidArgument", StorageError, "said the service"),
        (500, "InternalError", StorageUnavailable, "could not answer"),
        (503, "SlowDown", StorageUnavailable, "could not answer"),
        (400, "BadDigest", StorageUnavailable, "could not answer"),
    ],
)
@pytest.mark.usefixtures("_credentials")
def test_what_a_service_refuses_becomes_a_sentence(
    status: int, code: str, kind: type[WhisperfleetError], says: str, tmp_path: Path
) -> None:
    with _service(status, code) as (endpoint, _):
        storage = open_storage(f"s3://{BUCKET}/x", settings_with(tmp_path, endpoint))
        with pytest.raises(kind, match=says) as caught:
            storage.get_bytes("a/b")

    assert type(caught.value) is kind
    assert BUCKET in str(caught.value)
    assert endpoint in str(caught.value)


@pytest.mark.usefixtures("_credentials")
def test_writing_asks_only_for_the_checksum_that_every_service_knows(tmp_path: Path) -> None:
    with _service(headers=(("ETag", '"x"'),)) as (endpoint, asked):
        storage = open_storage(f"s3://{BUCKET}", settings_with(tmp_path, endpoint))
        storage.put_bytes("a/b", b"hello")
        (tmp_path / "file").write_bytes(b"hello")
        storage.put_file("a/c", tmp_path / "file")

    for headers in asked:
        assert headers["content-md5"] == "XUFAKrxLKna5cZ2REBfFkg=="  # RFC 1864 of "hello"
        assert headers["x-amz-meta-sha256"] == hashlib.sha256(b"hello").hexdigest()
        assert headers["body"] == "5"
        assert not any(name.startswith("x-amz-checksum") or name == "x-amz-trailer" for name in headers)
    assert len(asked) == 2


@pytest.mark.usefixtures("_credentials")
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"other bytes", (("x-amz-meta-sha256", hashlib.sha256(b"right bytes").hexdigest()),)),
        (b"broken off", (("Content-Length", "1000"),)),
    ],
)
def test_what_does_not_arrive_whole_does_not_arrive(
    body: bytes, headers: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    with _service(body=body, headers=headers) as (endpoint, _):
        storage = open_storage(f"s3://{BUCKET}", settings_with(tmp_path, endpoint))
        with pytest.raises(StorageUnavailable):
            storage.get_bytes("a/b")
        with pytest.raises(StorageUnavailable):
            storage.get_file("a/b", tmp_path / "target")

    assert list(tmp_path.iterdir()) == []


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _visible_and_hidden(folder: Path, containing: str) -> list[Path]:
    return sorted(path for path in folder.iterdir() if containing in path.name)


@contextmanager
def _files_limited_to(size: int) -> Iterator[None]:
    """The kernel refuses to let files of this process grow beyond `size`, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
