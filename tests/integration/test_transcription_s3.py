"""What `transcribe` puts into the bucket for workers on other machines, before a job begins. Against moto's server."""

from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from tests.conftest import S3
from workers import settings as environment
from workers.models import demo_recording
from workflows.display import PlainDisplay
from workflows.transcription import Wish, prepare

pytestmark = pytest.mark.integration


def test_reference_clips_go_to_the_bucket_as_media_do(s3: S3, tmp_path: Path) -> None:
    settings = replace(
        environment.load(), home=tmp_path, server="http://127.0.0.1:9/api", storage=f"s3://{s3.bucket}/prefix"
    )
    options = {
        "model": "demo",
        "speaker_names": [f"Ann={demo_recording()}", f"Bob=s3://{s3.bucket}/bob.wav"],
        "diarizer": "onnx",
        "diarizer_model": "/on/the/workers/machine",
    }
    wish = Wish(("demo",), tmp_path / "out", None, None, "auto", False, settings.server, tuple(options.items()))
    (request,), code = prepare(wish, settings, PlainDisplay())

    assert code == 0
    assert request.job.speaker_names == {"Ann": request.job.media, "Bob": f"s3://{s3.bucket}/bob.wav"}
    assert request.job.diarizer_model == "/on/the/workers/machine", "it is nobody's business here what is there"
    key = request.job.media.removeprefix(f"s3://{s3.bucket}/")
    stored = boto3.client("s3", endpoint_url=s3.endpoint).get_object(Bucket=s3.bucket, Key=key)["Body"].read()
    assert stored == demo_recording().read_bytes()
