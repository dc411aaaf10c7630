"""A person at the Conductor UI: start by the form, see it run, read the finished execution."""

from pathlib import Path

import pytest
import soundfile

from tests.conftest import Conductor
from tests.support.browser import ConductorUi
from tests.support.command import background, whisperfleet
from workers.messages import DEFAULT_FORMATS, JobInput
from workers.models import demo_recording

# a cold server, a browser and a job, perhaps on two busy cores
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_the_form_with_only_the_media_gives_a_transcript(
    conductor: Conductor, conductor_ui: ConductorUi, tmp_path: Path, pictures: Path
) -> None:
    media = demo_recording()
    registered = whisperfleet("workflows", "register", "--server", conductor.url)
    assert registered.returncode == 0, registered.stderr

    proposed = conductor_ui.open_form("transcribe_media")
    assert set(proposed) == set(JobInput.model_fields)
    assert set(proposed.values()) == {""}
    conductor_ui.fill(media=str(media), model="demo")
    conductor_ui.screenshot(pictures / "ui-form.png")
    execution = conductor_ui.run()

    # no worker yet, so it cannot be over before it was seen running
    conductor_ui.open_execution(execution)
    assert conductor_ui.status() == "Running"
    assert "plan_media" in conductor_ui.diagram()

    worker = ("worker", "--server", conductor.url, "--model", "demo", "--processes", "1")
    with background(*worker, log=tmp_path / "worker.log"):
        conductor_ui.wait_for_status(execution, "Completed", timeout_s=200)

    conductor_ui.fit_diagram(last="stitch_transcript")
    conductor_ui.screenshot(pictures / "ui-execution.png")
    given, made = conductor_ui.input_and_output(execution)
    conductor_ui.screenshot(pictures / "ui-output.png")
    assert given == {**proposed, "media": str(media), "model": "demo"}
    assert made["duration_ms"] == round(soundfile.info(str(media)).duration * 1000)
    assert made["language"] == "en"
    assert made["words"] > 0
    assert made["gaps"] == 0
    assert set(made["files"]) == set(DEFAULT_FORMATS)
