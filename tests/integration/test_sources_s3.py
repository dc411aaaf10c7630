"""s3:// media, against moto's server."""

from pathlib import Path

import boto3
import pytest

from tests.conftest import S3
from workers import settings as environment
from workers.errors import MediaError, SourceUnavailable
from workers.sources import open_source

pytestmark = pytest.mark.integration


def test_an_object_is_fetched_once_and_again_when_it_changed(s3: S3, tmp_path: Path) -> None:
    settings = environment.load()
    bucket = boto3.resource("s3", endpoint_url=s3.endpoint).Bucket(s3.bucket)
    bucket.put_object(Key="talks/a talk.mp3", Body=b"one")
    address = f"s3://{s3.bucket}/talks/a talk.mp3"
    first = open_source(address, settings, tmp_path)
    assert (first.path.read_bytes(), first.name) == (b"one", "a talk.mp3")
    written = first.path.stat().st_ino
    assert open_source(address, settings, tmp_path).path.stat().st_ino == written
    bucket.put_object(Key="talks/a talk.mp3", Body=b"two")
    assert open_source(address, settings, tmp_path).path.read_bytes() == b"two"


def test_what_is_not_there(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        open_source(f"s3://{s3.bucket}/nothing.mp3", environment.load(), tmp_path)
    with pytest.raises(MediaError, match="does not exist"):
        open_source("s3://no-such-bucket/nothing.mp3", environment.load(), tmp_path)


def test_without_credentials(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(MediaError, match="there are no S3 credentials"):
        open_source(f"s3://{s3.bucket}/talk.mp3", environment.load(), tmp_path)


def test_a_service_that_is_down(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPERFLEET_S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceUnavailable, match="does not answer"):
        open_source(f"s3://{s3.bucket}/talk.mp3", environment.load(), tmp_path)
