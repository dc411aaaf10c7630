"""One `transcribe` command: check everything that can be checked, then run its jobs to their end."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from workers import models
from workers.diarizers import loading as diarizers
from workers.errors import MediaError, OptionError, ServerError, SourceUnavailable, WhisperfleetError
from workers.messages import SPEAKER_OPTIONS, JobInput
from workers.pool import check_device
from workers.recognizers.options import check_options
from workers.settings import Settings, server_address
from workers.sources import check_remote, identity_of, is_remote, open_source
from workers.stages.plan import clip_samples, look_into, needed_bytes
from workers.storage import Storage, open_storage
from workflows import outputs
from workflows.display import Display
from workflows.progress import JobView
from workflows.session import Session, WorkerWish, interruptible, session
from workflows.watch import Watched


@dataclass(frozen=True)
class Wish:
    """The command line, sorted: what is a job's, and what is this command's."""

    media: tuple[str, ...]
    output_dir: Path
    processes: int | None
    threads: int | None
    device: str
    follow: bool
    server: str | None
    options: tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Request:
    """One media that passed the checks."""

    job: JobInput
    name: str
    stem: str
    media: str
    """As it is reached from here: where workers reach a copy, this stays the file."""


def run(wish: Wish, settings: Settings, display: Display) -> int:
    """Transcribe what is wished; returns the exit code: that of the first file that failed, or 0.

    A bad file is told and left out; the others of the command are done all the same.
    """
    settings = replace(settings, server=server_address(wish.server))
    requests, code = prepare(wish, settings, display)
    if not requests:
        return code
    first = requests[0].job
    if _works_here(wish, settings):
        check_device(wish.device)
        # a worker would fetch it too, but with nobody watching
        models.bring(first.model, first.engine, display.note)
    workers = WorkerWish(first.engine, first.model, wish.processes, wish.threads, wish.device)
    with interruptible(), session(settings, workers, display) as running:
        beginning = (_begin(running, request, wish, settings, display) for request in requests)
        jobs = running.run(beginning, display, wish.follow)
    return code or next((job.error.exit_code for job in jobs if job.error is not None), 0)


def prepare(wish: Wish, settings: Settings, display: Display) -> tuple[list[Request], int]:
    """All checks that need no server: options, model, folders, media.

    Returns what passed them, and the exit code so far.
    """
    given = {**dict(wish.options), "storage": settings.storage}
    works_here = _works_here(wish, settings)
    jobs = [_decoded({**given, "media": media}) for media in wish.media]
    check_options(jobs[0].recognize_options())
    check_speaker_options(jobs[0])
    models.check_name(jobs[0].model, jobs[0].engine)
    if jobs[0].diarize:
        (diarizers.check if works_here else diarizers.check_anywhere)(jobs[0].diarizer, jobs[0].diarizer_model)
    outputs.check_folder(wish.output_dir)
    storage = open_storage(settings.storage, settings)
    storage.check_writable()
    stems = outputs.stems([_name(media) for media in wish.media])
    if settings.server is not None:
        _warn_of_local_storage(settings, display)
    of_speakers = _speaker_files(jobs[0], storage, settings, ask=works_here)
    requests, code = [], 0
    for job, stem in zip(jobs, stems, strict=True):
        try:
            checked = _checked(job.model_copy(update=of_speakers), storage, settings, ask=works_here)
            placed = _placed(checked, storage, settings)
            requests.append(Request(placed, _name(job.media), stem, checked.media))
        except WhisperfleetError as error:
            display.failed(_name(job.media), error)
            code = code or error.exit_code
    return requests, code


def _decoded(given: Mapping[str, object]) -> JobInput:
    """The job. A refusal begins with the name of a field, which is an option on the command line."""
    try:
        return JobInput.decode(given)
    except OptionError as error:
        field, _, rest = str(error).partition(" ")
        if field == "speaker_names":  # a form has them after commas, a command line each for itself
            said = ", ".join(map(str, given["speaker_names"])) if isinstance(given["speaker_names"], list) else ""
            raise OptionError(
                f"--speaker-names is '{said}': write NAME=CLIP, once for each person, with a NAME that nobody else "
                "has and that does not begin with SPEAKER_."
            ) from None
        raise OptionError(f"{'MEDIA' if field == 'media' else _option(field)} {_TWO_WORDS.sub(_named, rest)}") from None


# a second field in a sentence; what stands in quotes is the user's, and a field of one word may be just a word
_TWO_WORDS = re.compile(rf"(?<!')\b(?:{'|'.join(name for name in JobInput.model_fields if '_' in name)})\b(?!')")


def _named(field: re.Match[str]) -> str:
    return _option(field[0])


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def check_speaker_options(job: JobInput) -> None:
    """Refuse what would quietly have no effect.

    Raises OptionError naming the option.
    """
    changed = [
        name
        for name, field in JobInput.model_fields.items()
        if name in SPEAKER_OPTIONS and getattr(job, name) != field.get_default(call_default_factory=True)
    ]
    if not job.diarize and len(changed) > 1:
        useless = next(name for name in changed if name != "diarize")
        raise OptionError(f"{_option(useless)} has no meaning with --no-diarize: leave one of them out.")
    if not job.diarize and job.formats == ("rttm",):
        raise OptionError("--formats rttm holds speakers only, and --no-diarize asks for none: change one of them.")
    if job.speaker_wait != "auto" and not job.allow_gaps:
        raise OptionError(
            "--speaker-wait has no meaning without --allow-gaps, which lets the text do without speakers."
        )
    if job.speakers and (job.min_speakers or job.max_speakers):
        raise OptionError("--speakers is the exact number, so it leaves no room for --min-speakers and --max-speakers.")


def _works_here(wish: Wish, settings: Settings) -> bool:
    """Whether this command's own workers do the work: then what this machine lacks is known before it begins."""
    return settings.server is None or wish.processes is not None


def _checked(job: JobInput, storage: Storage, settings: Settings, ask: bool) -> JobInput:
    """The job with a media that the workers of this machine find.

    Local files are looked into at once; with `ask`, the server of an address is asked for it.
    """
    if job.media == models.DEMO and not Path(models.DEMO).exists():
        job = job.model_copy(update={"media": str(models.demo_recording())})
    if is_remote(job.media):
        if ask:
            check_remote(job.media, settings)
        return job
    source = open_source(job.media, settings, settings.home / "media", identity="not asked for")
    _, span = look_into(job, source)
    if ask:
        storage.check_writable(needed_bytes(span))
    return job.model_copy(update={"media": str(source.path)})


def _speaker_files(job: JobInput, storage: Storage, settings: Settings, ask: bool) -> dict[str, object]:
    """What of the job names files that tell its speakers: looked into, and where the workers find them.

    Raises MediaError that names the person whose reference clip is none.
    """
    clips = {}
    for name, clip in job.speaker_names.items():
        try:
            clips[name] = _sent(_checked_clip(clip, settings, ask), storage, settings)
        except (MediaError, SourceUnavailable) as error:
            raise type(error)(f"The reference clip of {name}: {error}") from error
    model = job.diarizer_model
    if model is not None and Path(model).expanduser().is_dir():
        model = str(Path(model).expanduser().absolute())
    return {"speaker_names": clips, "diarizer_model": model}


def _checked_clip(clip: str, settings: Settings, ask: bool) -> str:
    if is_remote(clip):
        if ask:
            check_remote(clip, settings)
        return clip
    source = open_source(clip, settings, settings.home / "media", identity="not asked for")
    clip_samples(source)
    return str(source.path)


def _placed(job: JobInput, storage: Storage, settings: Settings) -> JobInput:
    return job.model_copy(update={"media": _sent(job.media, storage, settings)})


def _sent(media: str, storage: Storage, settings: Settings) -> str:
    """With storage that other machines reach, a local file goes there first: its path means nothing to them."""
    if settings.server is None or not storage.address.startswith("s3://") or "://" in media:
        return media
    path = Path(media)
    key = f"media/{identity_of(path)}/{path.name}"
    if not storage.exists(key):
        storage.put_file(key, path)
    return storage.url(key)


def _warn_of_local_storage(settings: Settings, display: Display) -> None:
    host = urlsplit(settings.server or "").hostname or ""
    if not settings.storage.startswith("s3://") and host not in ("localhost", "127.0.0.1", "::1"):
        display.warn(
            f"Storage is the folder {settings.storage}: workers on other machines must see it under the same path; "
            "else set WHISPERFLEET_STORAGE=s3://BUCKET/PREFIX."
        )


def _begin(running: Session, request: Request, wish: Wish, settings: Settings, display: Display) -> Watched:
    """Start the job, or go on with the one that a killed command left running."""
    client = running.client
    job_id = client.running_like(request.job)
    if job_id is not None:
        display.note(f"{request.name}: going on with job {job_id}, which is still running.")
    else:
        job_id = client.start(request.job, request.name)
    return Watched(
        id=job_id,
        name=request.name,
        storage=lambda address: open_storage(address, settings),
        on_done=partial(delivered, settings=settings, folder=wish.output_dir, stem=request.stem, media=request.media),
    )


def delivered(
    _view: JobView,
    workflow: Mapping[str, object],
    *,
    settings: Settings,
    folder: Path,
    stem: str,
    media: str | None = None,
) -> Mapping[str, str]:
    """Copy a finished job's files to the output folder.

    media is the recording's path or address as this machine reaches it; else the one that the job was given.
    Raises StorageError where the folder or the storage refuses.
    """
    from workflows.watch import plan_output

    plan = plan_output(workflow) or {}
    output = workflow.get("output")
    files = output.get("files") if isinstance(output, dict) else None
    if not files:
        raise ServerError(
            "The job ended without files, so this server has the definitions of another version: "
            "run `whisperfleet workflows register`."
        )
    storage = open_storage(str(plan["storage"]), settings)
    given = workflow.get("input")
    media = media or (str(given.get("media") or "") if isinstance(given, dict) else "")
    return outputs.deliver(storage, str(plan["job"]), tuple(files), folder, stem, media)


def _name(media: str) -> str:
    """File name of a path or address."""
    if media == models.DEMO:
        return models.demo_recording().name
    if "://" not in media:
        return Path(media).name or media
    with contextlib.suppress(ValueError):  # an address that is none keeps its text, and is refused later
        return Path(urlsplit(media).path).name or media
    return media
