"""`whisperfleet worker`."""

import contextlib
import sys

import click


@click.command(short_help="Work for a server: split, recognize, diarize, stitch.")
@click.option("--tasks", metavar="LIST", help="Task types to take, see above.  [default: all]")
@click.option("--model", metavar="NAME|DIR", default="turbo", show_default=True, help="Loaded before work is taken.")
@click.option("--engine", metavar="NAME", default="faster-whisper", show_default=True)
@click.option("--processes", type=click.IntRange(1, 256), help="How many.  [default: one a GPU, or cores / 4]")
@click.option("--threads", type=click.IntRange(1, 256), help="Processor threads of each.  [default: cores / processes]")
@click.option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0,1.")
@click.option("--server", metavar="URL", help="The Conductor server.  [default: the embedded one]")
def worker(
    tasks: str | None,
    model: str,
    engine: str,
    processes: int | None,
    threads: int | None,
    device: str,
    server: str | None,
) -> None:
    """Take tasks from a Conductor server until stopped.

    Ctrl-C once finishes what is in hand; twice stops at once, and other workers do it again.

    Task types can be divided among machines, with a comma between them:

    \b
      words     detect_language,transcribe_chunk
      speakers  diarize_chunk,map_speech,cluster_speakers
      media     plan_media,split_media,await_speakers,stitch_transcript

    Who takes speakers loads the diarizer that a job asks for when its first task comes.
    """
    from workers import models
    from workers import settings as environment
    from workers.lanes import ALL_TASKS, RECOGNIZER_TASKS
    from workers.pool import PoolSpec, WorkerPool

    settings = environment.load()
    kinds = _kinds(tasks, ALL_TASKS)
    if any(kind in RECOGNIZER_TASKS for kind in kinds):
        models.check_name(model, engine)
    address = environment.server_address(server)
    with contextlib.ExitStack() as stack:
        if address is None:
            from provisioning.conductor import ensure

            address = stack.enter_context(ensure(settings, lambda text: print(text, file=sys.stderr))).url
        spec = PoolSpec(address, kinds, engine, model, processes, threads, device)
        pool = WorkerPool(spec, sys.stderr, lambda text: print(text, file=sys.stderr))
        _serve(pool, address)


def _serve(pool: object, address: str) -> None:
    """Run the pool in the foreground, until Ctrl-C or SIGTERM, or until its processes give up."""
    import signal
    import threading

    from workers.pool import WorkerPool

    assert isinstance(pool, WorkerPool)
    asked = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        if asked.is_set():
            pool.kill()
            sys.exit(130)
        asked.set()
        print("Finishing what is in hand; press Ctrl-C again to stop at once.", file=sys.stderr)
        pool.drain()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    pool.start()
    print(f"{pool.size} worker process{'es' if pool.size > 1 else ''} for {address}; Ctrl-C stops.", file=sys.stderr)
    try:
        while pool.alive() or not asked.is_set():
            pool.check()
            asked.wait(0.5) if not asked.is_set() else pool.join(0.5)
    finally:
        pool.stop(grace_s=0.0)


def _kinds(tasks: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    from workers.errors import OptionError

    if tasks is None:
        return known
    wanted = tuple(dict.fromkeys(part.strip() for part in tasks.split(",") if part.strip()))
    for kind in wanted:
        if kind not in known:
            raise OptionError(f"--tasks names '{kind}', which is no task: choose from {', '.join(known)}.")
    if not wanted:
        raise OptionError(f"--tasks is empty: choose from {', '.join(known)}.")
    return wanted
