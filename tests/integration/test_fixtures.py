"""The services that the other tests lean on: real, clean, and closed to the outside."""

import json
import os
import urllib.request
from pathlib import Path

import pytest
import soundfile

from benchmarks.scoring import word_error_rate
from benchmarks.speech import Script
from tests.conftest import S3, Conductor, Studio
from workers import settings

pytestmark = pytest.mark.integration


def test_no_foreign_variable_reaches_a_test(home: Path) -> None:
    foreign = ("AWS_ACCESS", "AWS_SECRET", "AWS_SESSION", "AWS_PROFILE", "HF_TOKEN", "OPENAI_", "CONDUCTOR_")
    assert [name for name in os.environ if name.startswith(foreign)] == []
    assert settings.load().home == home
    assert settings.load().server is None


def test_s3_is_this_machine_and_starts_empty(s3: S3) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3.endpoint)
    assert client.list_objects_v2(Bucket=s3.bucket)["KeyCount"] == 0
    client.put_object(Bucket=s3.bucket, Key="left behind", Body=b"x")  # and is empty again for the next test
    assert s3.endpoint.startswith("http://127.0.0.1:")


def test_conductor_is_the_real_server_on_loopback(conductor: Conductor) -> None:
    assert conductor.url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(conductor.url.removesuffix("/api") + "/health", timeout=10) as answer:
        assert json.load(answer)["healthy"] is True


def test_a_recording_is_as_long_as_its_script_and_made_once(studio: Studio) -> None:
    script = Script(seconds=12, speakers=2, seed=3)
    first, again = studio.recording(script), studio.recording(script)
    assert first == again
    assert soundfile.info(str(first.path)).duration == 12
    assert first.duration_ms == 12_000
    assert all(0 <= said.start_ms < said.end_ms <= 12_000 for said in first.truth)
    assert word_error_rate(first.text, first.text) == 0
