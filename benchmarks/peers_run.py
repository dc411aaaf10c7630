"""One peer in a process of its own: loads its model once, says so, then transcribes whatever it is told to.

`PYTHON peers_run.py '{"engine": …}'`. It needs nothing of Whisperfleet: whisperX and Ray live in another environment.
A line of JSON each way: first it says {"ready": true, "load_s", "note", "versions"}, then it answers each request
{"media": [paths], "words": bool} with {"began", "ended", "start_s", "recordings"}: seconds of the epoch between which
it transcribed with its model loaded, the seconds it spent on starting up before that, and what it heard, one list of
segments for each path. Whatever the libraries print goes to standard error.
"""

import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
Heard = Callable[[list[str], bool], Answer]

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
TOGETHER_S = 120.0  # for the actors of one run to have loaded their models


def main() -> None:
    """Answer until standard input ends; an engine's failure is an answer too."""
    wish: dict[str, Any] = json.loads(sys.argv[1])
    answers = _take_standard_output()
    began = time.time()
    try:
        hear, note = ENGINES[wish["engine"]](wish)
    except Exception as error:  # whatever keeps a peer from loading is told in its row of the table
        _say(answers, {"error": f"{type(error).__name__}: {error}"})
        return
    versions = {name: importlib.metadata.version(name) for name in wish["packages"]}
    _say(answers, {"ready": True, "load_s": time.time() - began, "note": note, "versions": versions})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            _say(answers, hear(request["media"], request["words"]))
        except Exception as error:
            _say(answers, {"error": f"{type(error).__name__}: {error}"})


def _take_standard_output() -> int:
    """The descriptor for answers; what else is printed, by native code too, goes to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _say(answers: int, answer: Answer) -> None:
    os.write(answers, (json.dumps(answer) + "\n").encode())


def _one_by_one(hear: Callable[[str, bool], list[Answer]]) -> Heard:
    """An engine that hears one recording at a time."""

    def heard(media: list[str], words: bool) -> Answer:
        began = time.time()
        recordings = [hear(path, words) for path in media]
        return {"began": began, "ended": time.time(), "start_s": 0.0, "recordings": recordings}

    return heard


def _segment(start: float, end: float, text: str, words: Iterator[tuple[float, float, str]]) -> Answer:
    return {
        "start_ms": round(start * 1000),
        "end_ms": round(end * 1000),
        "text": text.strip(),
        "words": [[round(at * 1000), round(until * 1000), word.strip()] for at, until, word in words],
    }


def _openai_whisper(wish: dict[str, Any]) -> tuple[Heard, str]:
    torch, whisper = importlib.import_module("torch"), importlib.import_module("whisper")
    torch.set_num_threads(wish["threads"])
    model = whisper.load_model(wish["openai_model"], device=_device(wish))

    def hear(path: str, words: bool) -> list[Answer]:
        torch.manual_seed(0)  # it samples where it falls back to a temperature
        found = model.transcribe(
            path,
            language=wish["language"],
            fp16=_device(wish) != "cpu",
            condition_on_previous_text=False,
            word_timestamps=words,
        )
        return [
            _segment(
                float(segment["start"]),
                float(segment["end"]),
                segment["text"],
                ((float(word["start"]), float(word["end"]), word["word"]) for word in segment.get("words", ())),
            )
            for segment in found["segments"]
        ]

    return _one_by_one(hear), "its transcribe() with its own defaults (greedy, falling back to temperatures)"


def _ct2_model(wish: dict[str, Any]) -> tuple[Any, Any]:
    library = importlib.import_module("faster_whisper")
    model = library.WhisperModel(
        wish["model"], device=_device(wish), compute_type=wish["compute_type"], cpu_threads=wish["threads"]
    )
    return library, model


def _device(wish: dict[str, Any]) -> str:
    return str(wish.get("device", "cpu"))


def _ct2_segments(segments: Any) -> list[Answer]:
    return [
        _segment(
            segment.start,
            segment.end,
            segment.text,
            ((word.start, word.end, word.word) for word in segment.words or ()),
        )
        for segment in segments
    ]


def _faster_whisper(wish: dict[str, Any]) -> tuple[Heard, str]:
    _, model = _ct2_model(wish)

    def hear(path: str, words: bool) -> list[Answer]:
        segments, _ = model.transcribe(
            path,
            language=wish["language"],
            beam_size=wish["beam"],
            vad_filter=True,
            condition_on_previous_text=False,
            word_timestamps=words,
        )
        return _ct2_segments(segments)

    return _one_by_one(hear), "WhisperModel.transcribe() with vad_filter=True, as its README recommends"


def _faster_whisper_batched(wish: dict[str, Any]) -> tuple[Heard, str]:
    return _batched(wish, lambda path: {}), f"BatchedInferencePipeline with batch_size={wish['batch']} and its own VAD"


def _faster_whisper_windows(wish: dict[str, Any]) -> tuple[Heard, str]:
    """The bare engine: which windows it hears, [start, end] in seconds, is in the wish, so it looks for no speech."""

    def windows(path: str) -> dict[str, Any]:
        clips = [{"start": start, "end": end} for start, end in wish["windows"][path]]
        return {"clip_timestamps": clips, "without_timestamps": False}

    return _batched(wish, windows), f"BatchedInferencePipeline with batch_size={wish['batch']} on windows it was given"


def _batched(wish: dict[str, Any], more: Callable[[str], dict[str, Any]]) -> Heard:
    """faster-whisper's pipeline; more: what else it is asked for, by path."""
    library, model = _ct2_model(wish)
    pipeline = library.BatchedInferencePipeline(model=model)

    def hear(path: str, words: bool) -> list[Answer]:
        segments, _ = pipeline.transcribe(
            path,
            language=wish["language"],
            beam_size=wish["beam"],
            batch_size=wish["batch"],
            word_timestamps=words,
            **more(path),
        )
        return _ct2_segments(segments)

    return _one_by_one(hear)


def _whisperx_segments(found: Any) -> list[Answer]:
    return [_segment(float(part["start"]), float(part["end"]), part["text"], iter(())) for part in found["segments"]]


def _whisperx_model(wish: dict[str, Any]) -> Any:
    torch, whisperx = importlib.import_module("torch"), importlib.import_module("whisperx")
    torch.set_num_threads(wish["threads"])
    return whisperx.load_model(
        wish["model"],
        "cpu",
        compute_type=wish["compute_type"],
        language=wish["language"],
        asr_options={"beam_size": wish["beam"]},
        threads=wish["threads"],
    )


_WHISPERX_NOTE = "its transcribe(), batch_size={batch}, VAD by the pyannote file in its package; no alignment"


def _whisperx(wish: dict[str, Any]) -> tuple[Heard, str]:
    whisperx, model = importlib.import_module("whisperx"), _whisperx_model(wish)

    def hear(path: str, words: bool) -> list[Answer]:
        return _whisperx_segments(model.transcribe(whisperx.load_audio(path), batch_size=wish["batch"]))

    return _one_by_one(hear), _WHISPERX_NOTE.format(batch=wish["batch"])


# ---- Ray: one whole run of it for each request, timed from the moment its last model was loaded ----


def _whisperx_ray(wish: dict[str, Any]) -> tuple[Heard, str]:
    """The real whisperx-batch where it is installed, else the same stages on Ray Data.

    Raises ImportError where neither Ray nor whisperX is here.
    """
    importlib.import_module("ray.data")
    importlib.import_module("whisperx")
    real = importlib.util.find_spec("whisperx_batch") is not None
    _adopt_orphans()

    def heard(media: list[str], words: bool) -> Answer:
        # Within one recording it can do nothing at once; for many, an actor a core with a thread each
        actors = min(wish["threads"], len(media))
        threads = max(1, wish["threads"] // actors)
        folder = Path(wish["folder"]) / f"ray-{time.time_ns()}"
        loaded, written = folder / "loaded", folder / "written"
        loaded.mkdir(parents=True)
        written.mkdir()
        began = time.time()
        (_real_run if real else _adapted_run)(wish, media, actors, threads, loaded, written)
        ready = max(float(stamp.read_text()) for stamp in loaded.iterdir())
        files = [written / f"{Path(path).stem}.json" for path in media]
        return {
            "began": ready,
            "ended": max(file.stat().st_mtime for file in files),
            "start_s": ready - began,
            "recordings": [_whisperx_segments(json.loads(file.read_text())) for file in files],
        }

    which = "whisperx-batch itself" if real else "not whisperx-batch itself but its stages, rebuilt on Ray Data"
    return heard, f"{which}: load, transcribe, write as a pipeline; an actor a recording up to the number of cores"


def _adopt_orphans() -> None:
    """What Ray leaves behind becomes this process's child, so that its processor time is still found here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _real_run(wish: dict[str, Any], media: list[str], actors: int, threads: int, loaded: Path, written: Path) -> None:
    """whisperx-batch's own command, in this process; its actor only leaves a time stamp when its model is loaded."""
    command = importlib.import_module("whisperx_batch")
    batch: Any = importlib.import_module("whisperx_batch.batch")
    actor: Any = importlib.import_module("whisperx_batch.actors").TranscriptionActor

    class Stamped(actor):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            importlib.import_module("torch").set_num_threads(threads)  # as whisperx-batch does for itself alone
            super().__init__(**options)
            stamp(loaded, actors)

    stamp = _stamp
    batch.TranscriptionActor = Stamped
    listed = loaded.parent / "media.txt"
    listed.write_text("".join(f"{path}\n" for path in media))
    cpus = {1: "1"}.get(actors, str(0.5))  # Ray's bookkeeping alone: what is left goes to the two loading tasks
    sys.argv = [
        *("whisperx-batch", "--model", wish["model"], "--language", wish["language"], "--device", "cpu"),
        *("--compute_type", wish["compute_type"], "--batch_size", str(wish["batch"]), "--threads", str(threads)),
        *("--beam_size", str(wish["beam"]), "--no_align", "--output_format", "json", "--output_dir", str(written)),
        *("--batch_file", str(listed), "--transcribe_actor_size", str(actors), "--transcribe_num_gpus", "0"),
        *("--transcribe_num_cpus", cpus, "--load_audio_num_cpus", "0.25" if wish["threads"] < 3 else "0.5"),
    ]
    command.main()


def _stamp(folder: Path, actors: int) -> None:
    """Say that this actor's model is loaded, and wait for the others': no work is done before the clock starts."""
    (folder / f"{os.getpid()}-{time.time_ns()}").write_text(str(time.time()))
    ends = time.monotonic() + TOGETHER_S
    while len(list(folder.iterdir())) < actors and time.monotonic() < ends:
        time.sleep(0.01)


def _adapted_run(
    wish: dict[str, Any], media: list[str], actors: int, threads: int, loaded: Path, written: Path
) -> None:
    """A task that loads, an actor that transcribes, and each file written as it comes: a pipeline of Ray Data."""
    ray, data = importlib.import_module("ray"), importlib.import_module("ray.data")

    stamp, build, load = _stamp, _whisperx_model, importlib.import_module("whisperx").load_audio

    def with_audio(row: Answer) -> Answer:
        return {**row, "audio": load(row["path"])}

    class Transcriber:
        def __init__(self) -> None:
            self.model = build({**wish, "threads": threads})
            stamp(loaded, actors)

        def __call__(self, row: Answer) -> Answer:
            found = self.model.transcribe(row["audio"], batch_size=wish["batch"])
            return {"path": row["path"], "found": json.dumps(found)}

    ray.init()
    try:
        rows = data.from_items([{"path": path} for path in media]).map(with_audio, num_cpus=0.25)
        pool = data.ActorPoolStrategy(size=actors)
        for row in rows.map(Transcriber, compute=pool, num_cpus=0.5).iter_rows():
            (written / f"{Path(row['path']).stem}.json").write_text(row["found"])
    finally:
        ray.shutdown()


ENGINES: dict[str, Callable[[dict[str, Any]], tuple[Heard, str]]] = {
    "openai-whisper": _openai_whisper,
    "faster-whisper": _faster_whisper,
    "faster-whisper-batched": _faster_whisper_batched,
    "faster-whisper-windows": _faster_whisper_windows,
    "whisperx": _whisperx,
    "whisperx-on-ray": _whisperx_ray,
}


if __name__ == "__main__":
    main()
