"""`whisperfleet fleet offers` and `plan`: what there is and what a job would cost; nothing is rented."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioning.commands.fleet_options import fleet_options, json_option, market_options

if TYPE_CHECKING:
    from provisioning.fleet_offering import Wanted
    from provisioning.fleet_place import Place
    from provisioning.offers import Estimate, Ranked


@click.command(short_help="What can be rented, cheapest per hour of audio first.")
@click.option("-n", "count", metavar="N", type=click.IntRange(1, 64), default=15, show_default=True)
@market_options
@fleet_options
@json_option
def offers(place: "Place", wanted: "Wanted", count: int, as_json: bool) -> None:
    """List offers by what an hour of audio costs on them.

    In that are the GPU's price, its speed for the model (measured where this fleet has had one, else guessed), the
    disk, the traffic and the boot. The price is what would be bid, with the disk.
    """
    import json
    from dataclasses import asdict

    from provisioning.cloud import CloudRefused
    from provisioning.fleet_display import print_table
    from provisioning.fleet_glance import books
    from provisioning.fleet_offering import nothing_found, search

    found, seen = search(place, wanted, books(place, wanted.model).speeds)
    if not found:
        raise CloudRefused(nothing_found(place, wanted, seen))
    shown = found[:count]
    if as_json:
        print(json.dumps([asdict(each) for each in shown], indent=1))
        return
    print_table(_OFFER_HEADS, [_offer_row(each) for each in shown])
    guessed = "guessed until this fleet has run one" if any(each.speed.source != "measured" for each in shown) else ""
    print(f"{len(shown)} of {len(found)} offers that fit; RTFx of {wanted.model} is {guessed or 'measured'}.")


_OFFER_HEADS = ("GPU", ">$/h", "", ">RTFx", ">$/h audio", ">Boot $", ">Mbit/s", ">Reliable", "Where", ">Offer")


def _offer_row(each: "Ranked") -> tuple[str, ...]:
    offer = each.offer
    return (
        offer.gpu_name[:14],
        f"{each.usd_per_hour:.3f}",
        "fixed" if each.bid_usd_per_hour is None else "bid",
        f"{each.speed.rtfx:.0f}{'' if each.speed.source == 'measured' else '?'}",
        f"{each.usd_per_audio_hour:.5f}",
        f"{each.boot_usd:.3f}",
        f"{offer.inet_down_mbps:.0f}",
        f"{offer.reliability:.3f}",
        offer.geolocation.rpartition(", ")[2][:5],
        str(offer.id),
    )


@click.command(short_help="How many machines a job would take, how long, how much.")
@click.option(
    "--media", metavar="FILE", type=click.Path(path_type=Path), multiple=True, help="A recording; again for the next."
)
@click.option("--hours", metavar="H", type=click.FloatRange(0, min_open=True), help="So much audio, without a file.")
@click.option("--gpus", metavar="N", type=click.IntRange(1, 256), default=8, show_default=True, help="At most so many.")
@click.option(
    "--within",
    "within_min",
    metavar="MINUTES",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="How soon it should be done.",
)
@market_options
@fleet_options
@json_option
def plan(place: "Place", wanted: "Wanted", media: tuple[Path, ...], hours: float | None, as_json: bool) -> None:
    """Say before anything is rented what recordings would take: machines, time and dollars.

    With boots, traffic and disks, at the prices of this moment. Without --budget and --max-price any will do.
    """
    import json
    from dataclasses import asdict, replace

    from provisioning.cloud import CloudRefused
    from provisioning.fleet_glance import books
    from provisioning.fleet_offering import ensure_affordable, limits, nothing_found, search
    from provisioning.offers import estimate

    audio_ms = _audio_ms(media, hours)
    known = books(place, wanted.model)
    found, seen = search(place, wanted, known.speeds)
    if not found:
        raise CloudRefused(nothing_found(place, wanted, seen))
    if wanted.budget is not None:
        ensure_affordable(place, wanted, found, 0.0)
    priced = replace(wanted, budget=wanted.budget or _ANY, max_price=wanted.max_price or _ANY)
    told = estimate(audio_ms, found, limits(priced), known.speeds)
    if told.choice is None:
        raise CloudRefused(told.problem or "No number of machines would do.")
    if as_json:
        print(json.dumps({**asdict(told), "usd_per_audio_hour": told.choice.usd_per_audio_hour(audio_ms)}, indent=1))
    else:
        _show(told, found[0])


_ANY = 1e6  # dollars: where nobody said how many


def _audio_ms(media: tuple[Path, ...], hours: float | None) -> int:
    """Raises OptionError where nothing is named, MediaError where a file is no recording."""
    from workers.errors import MediaError, OptionError
    from workers.media import count_duration, probe

    if not media and hours is None:
        raise OptionError("Say what is to be transcribed: --media FILE, or --hours H.")
    total = round((hours or 0.0) * 3_600_000)
    for file in media:
        if not file.exists():
            raise MediaError(f"{file} does not exist: check the path.")
        info = probe(file)
        if not info.audio_tracks:
            raise MediaError(f"{file} has no sound.")
        total += info.duration_ms or count_duration(file, 0)
    return total


def _show(told: "Estimate", best: "Ranked") -> None:
    from provisioning.fleet_display import print_table
    from workflows.display import short_time

    choice = told.choice
    assert choice is not None
    rows = [
        (
            "→" if each == choice else "",
            str(each.machines),
            short_time(each.duration_ms),
            f"{each.usd:.2f}",
            f"{each.usd_per_hour:.2f}",
            f"{each.usd_per_audio_hour(told.audio_ms):.4f}",
            ", ".join(f"{count} × {name}" for name, count in each.gpus.items()),
        )
        for each in told.choices
    ]
    print_table(("", ">Machines", ">Done in", ">$", ">$/h", ">$/h audio", "GPUs"), rows)
    machines = "1 machine" if choice.machines == 1 else f"{choice.machines} machines"
    speed = "measured" if best.speed.source == "measured" else best.speed.source
    print(
        f"{short_time(told.audio_ms)} of audio in {told.chunks} chunks: {machines}, done in about "
        f"{short_time(choice.duration_ms)}, for ${choice.usd:.2f}."
    )
    print(
        f"A machine boots in about {short_time(round(told.boot_s * 1000))}; the speed is a {speed}."
        if speed != "measured"
        else f"A machine boots in about {short_time(round(told.boot_s * 1000))}; the speed is measured."
    )
