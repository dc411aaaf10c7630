"""Pure: a timeline as one HTML page that loads nothing, works from a phone to a wall, by mouse and by keyboard."""

from html import escape

from workflows.display import printable, short_time, speed
from workflows.progress import TASK_TYPES, JobView, TaskView
from workflows.timeline import PHASES, Bar, Lane, Timeline, ticks

# Phase to its colour on light and on dark ground. Hues after Okabe and Ito's palette, which stays
# distinct with every kind of colour blindness; what went wrong is striped as well.
COLOURS = {
    "plan": ("#7a828c", "#98a1ad"),
    "language": ("#a98600", "#d9b93b"),
    "split": ("#d98200", "#f0a83c"),
    "fetch": ("#56b4e9", "#7cc8f5"),
    "inference": ("#0067a8", "#3d94d6"),
    "store": ("#b8659a", "#d68bb9"),
    "speech": ("#8a6a3b", "#c9a876"),
    "diarize": ("#3d2b7a", "#b9a5f5"),
    "cluster": ("#16102e", "#f1ecff"),
    "stitch": ("#00875f", "#2fb58c"),
    "await": ("#d9d3ec", "#4d4666"),
    "running": ("#9fc4de", "#4a708b"),
    "failed": ("#cf4500", "#f0743c"),
    "cancelled": ("#8d959e", "#6d7681"),
    "waiting": ("#c3cad2", "#4b545f"),
}
THIN = 0.006  # share of the axis below which stripes would leave nothing of a bar to be seen
STRIPED = {"failed": "////", "cancelled": "....", "running": "\\\\\\\\"}  # phase to matplotlib's hatch


def page(lines: Timeline) -> str:
    """The whole page; every text from outside is escaped, and no script or style comes from elsewhere."""
    title, facts = headline(lines)
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    reason = f'<p class="reason">{_text(lines.view.reason)}</p>' if lines.view.reason else ""
    lanes = "".join(_lane(lane, lines.wall_ms) for lane in lines.lanes)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_colours()}{_STYLE}</style></head>
<body><header><h1>{escape(title)}</h1>{reason}<dl class="facts">{items}</dl></header>
<main>
<h2 id="timeline">Timeline</h2>
<ul class="legend" aria-label="Colours">{_legend(lines)}</ul>
<div class="scroll" role="group" aria-labelledby="timeline" aria-describedby="keys">
<div class="chart">{_waiting(lines)}{lanes}{_axis(lines.wall_ms)}</div>
</div>
<p class="small" id="keys">Point at a bar, or step into the timeline and use the arrow keys: left and right along a
worker, up and down between workers.</p>
<p class="small">{escape(what_it_means())}</p>
<h2>Tasks</h2>
{_table(lines)}
</main>
<div id="tip" role="status" hidden></div>
<script>{_SCRIPT}</script>
</body></html>
"""


def headline(lines: Timeline) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Title, and the figures below it as (name, value)."""
    view = lines.view
    chunks = f"{view.chunks_done} of {view.chunks_total}" if view.chunks_total else "none yet"
    if view.chunks_retried:
        chunks += f", {view.chunks_retried} tried again"
    if view.chunks_failed:
        chunks += f", {view.chunks_failed} lost"
    facts = [
        ("state", view.stage),
        ("media", "unknown" if view.duration_ms is None else short_time(view.duration_ms)),
        ("wall", short_time(lines.wall_ms)),
        ("speed", "unknown" if view.rtfx is None else f"{speed(view.rtfx)}× real time"),
        ("chunks", chunks),
        ("recognizing workers", str(lines.recognizing_workers)),
        ("not inference", _percent(lines.not_inference)),
        ("workers' inference", _percent(lines.busy)),
    ]
    if view.diarized:
        facts.append(("speakers", _speakers(view)))
    return printable(f"{view.media_name or 'no name'} — job {view.id}"), tuple(facts)


def _speakers(view: JobView) -> str:
    """`3 (12 of 12 parts)`, or how far it is."""
    parts = f"{view.parts_done} of {view.parts_total} parts"
    if view.parts_failed:
        parts += f", {view.parts_failed} lost"
    found = "unknown" if view.speakers is None else view.speakers
    return f"{found} ({parts})" if view.stage == "done" else parts


def what_it_means() -> str:
    """How the two shares of the header are defined."""
    return (
        "Not inference = 1 − (time in which at least one chunk was in inference) / wall time of the job. "
        "Workers' inference = inference seconds of all workers / (wall time × workers)."
    )


def describe(task: TaskView, start_ms: int, end_ms: int) -> str:
    """All that is known of an attempt, in lines."""
    name = _name(task)
    again = f", attempt {task.attempt}" if task.attempt > 1 or task.retried else ""
    rows = [
        f"{name}{again}: {_outcome(task)}",
        f"worker {task.worker or 'unknown'}",
        f"{short_time(start_ms)} to {short_time(end_ms)}, {(end_ms - start_ms) / 1000:.1f} s",
    ]
    if task.seconds:
        rows.append(", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in task.seconds.items()))
    if task.audio_ms:
        rows.append(f"{task.audio_ms / 1000:.1f} s of audio{_chunk_speed(task)}")
    if task.reason:
        rows.append(task.reason)
    return "\n".join(map(printable, rows))


def _name(task: TaskView) -> str:
    if task.chunk is not None:
        return f"chunk {task.chunk}"
    return f"voices of part {task.part}" if task.part is not None else task.type.replace("_", " ")


def _outcome(task: TaskView) -> str:
    if task.failed:
        return f"{task.error}{', tried again' if task.retried else ', given up'}"
    if task.done:
        return "done, result of an earlier run" if task.reused else "done"
    return task.status.lower().replace("_", " ")


def _chunk_speed(task: TaskView) -> str:
    heard = _hearing(task)
    return f", {speed(task.audio_ms / 1000 / heard)}× real time" if heard else ""


def _hearing(task: TaskView) -> float:
    """Seconds in which the engine or the diarizer was at it; 0 where nobody tells."""
    return task.seconds.get("inference", 0.0) or task.seconds.get("diarize", 0.0)


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _text(text: str | None) -> str:
    return escape(printable(text or ""))


def _legend(lines: Timeline) -> str:
    return "".join(f'<li><i class="{phase}"></i>{escape(PHASES[phase])}</li>' for phase in lines.phases)


def _waiting(lines: Timeline) -> str:
    """The step function of waiting chunks as an area; it holds no text, so it may be stretched."""
    most = max(count for _, count in lines.waiting)
    points = ["0 1"]
    level = 0
    for at, count in lines.waiting:
        x = f"{1000 * min(at, lines.wall_ms) / lines.wall_ms:.2f}"
        points += [f"{x} {1 - level / max(1, most):.4f}", f"{x} {1 - count / max(1, most):.4f}"]
        level = count
    points += [f"1000 {1 - level / max(1, most):.4f}", "1000 1"]
    return (
        f'<div class="name">waiting <b>≤ {most}</b></div><div class="track high"><svg viewBox="0 0 1000 1" '
        f'preserveAspectRatio="none" role="img" aria-label="Chunks waiting for audio or a worker, at most {most}">'
        f'<path d="M{" L".join(points)}Z"/></svg></div>'
    )


def _lane(lane: Lane, wall_ms: int) -> str:
    bars = "".join(_bar(bar, wall_ms) for bar in lane.bars)
    name = _text(lane.name)
    return f'<div class="name" title="{name}">{name}</div><div class="track" data-lane>{bars}</div>'


def _bar(bar: Bar, wall_ms: int) -> str:
    """A button, coloured by its phases one after the other."""
    length = max(1, bar.end_ms - bar.start_ms)
    kind = bar.pieces[-1].phase
    if len(bar.pieces) == 1:
        thin = " thin" if length < THIN * wall_ms else ""
        ground = f'class="{kind}{thin}"'
        colour = ""
    else:
        stops = ",".join(
            f"var(--{piece.phase}) {100 * (piece.start_ms - bar.start_ms) / length:.2f}% "
            f"{100 * (piece.end_ms - bar.start_ms) / length:.2f}%"
            for piece in bar.pieces
        )
        ground, colour = 'class="phases"', f";background:linear-gradient(90deg,{stops})"
    place = f"left:{100 * bar.start_ms / wall_ms:.3f}%;width:{100 * length / wall_ms:.3f}%"
    text = escape(describe(bar.task, bar.start_ms, bar.end_ms))
    label = f"<span>{bar.label}</span>" if bar.label else ""
    return f'<button {ground} style="{place}{colour}" aria-label="{text}" tabindex="-1">{label}</button>'


def _axis(wall_ms: int) -> str:
    marks = ticks(wall_ms)
    lines = "".join(f'<i style="left:{100 * mark / wall_ms:.3f}%"></i>' for mark in marks)
    labels = "".join(_mark(mark, wall_ms) for mark in marks)
    grid = f'<div class="grid" aria-hidden="true"><div></div><div class="rules">{lines}</div></div>'
    return f'<div class="name"></div><div class="track axis">{labels}</div>{grid}'


def _mark(mark: int, wall_ms: int) -> str:
    """A time below the axis; what would reach past the right edge ends at it."""
    last = " class=last" if mark > 0.96 * wall_ms else ""
    return f'<span style="left:{100 * mark / wall_ms:.3f}%"{last}>{short_time(mark)}</span>'


def _table(lines: Timeline) -> str:
    tasks = sorted(lines.view.tasks, key=_table_order)
    if not tasks:
        return "<p>No task has begun yet.</p>"
    names = (
        "task",
        "attempt",
        "worker",
        "began",
        "took s",
        "wait s",
        "fetch s",
        "inference s",
        "store s",
        "audio s",
        "speed",
        "outcome",
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(_row(task, lines.view.started_ms) for task in tasks)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _table_order(task: TaskView) -> tuple[int, int, int]:
    return TASK_TYPES.index(task.type), task.chunk or task.part or 0, task.scheduled_ms


def _row(task: TaskView, started_ms: int) -> str:
    begun = task.busy_from_ms
    heard = _hearing(task)
    cells = [
        _name(task),
        str(task.attempt),
        task.worker or "",
        "" if begun is None else short_time(max(0, begun - started_ms)),
        "" if begun is None or task.ended_ms is None else f"{(task.ended_ms - begun) / 1000:.1f}",
        *(f"{task.seconds[phase]:.2f}" if phase in task.seconds else "" for phase in ("wait", "fetch")),
        f"{heard:.2f}" if heard else "",
        f"{task.seconds['store']:.2f}" if "store" in task.seconds else "",
        f"{task.audio_ms / 1000:.1f}" if task.audio_ms else "",
        f"{speed(task.audio_ms / 1000 / heard)}×" if heard and task.audio_ms else "",
        _outcome(task) + (f": {task.reason}" if task.reason else ""),
    ]
    bad = ' class="bad"' if task.failed else ""
    return f"<tr{bad}>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"


def _colours() -> str:
    """Custom properties for both grounds, and a class a phase."""
    light = "".join(f"--{phase}:{pair[0]};" for phase, pair in COLOURS.items())
    dark = "".join(f"--{phase}:{pair[1]};" for phase, pair in COLOURS.items())
    plain = "".join(f".{phase}{{background:var(--{phase})}}" for phase in COLOURS)
    striped = "".join(
        f".{phase}{{background:repeating-linear-gradient(135deg,var(--{phase}) 0 4px,var(--stripe) 4px 6px)}}"
        for phase in STRIPED
    )
    return (
        f":root{{color-scheme:light dark;--ground:#fff;--panel:#f5f7f9;--ink:#1b1f24;--soft:#5b636d;--edge:#d5d9de;"
        f"--stripe:#ffffff99;--label:#fff;{light}}}"
        f"@media(prefers-color-scheme:dark){{:root{{--ground:#14171b;--panel:#1d2227;--ink:#e6e9ed;--soft:#a2abb5;"
        f"--edge:#343b43;--stripe:#00000080;--label:#0b0d10;{dark}}}}}{plain}{striped}"
    )


_STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:1500px;padding:1.2rem 1rem 3rem;background:var(--ground);color:var(--ink);
font:15px/1.45 system-ui,sans-serif}
h1{font-size:1.35rem;margin:0 0 .6rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:1.6rem 0 .5rem}
.facts{display:flex;flex-wrap:wrap;gap:.5rem;margin:0}
.facts div{background:var(--panel);border:1px solid var(--edge);border-radius:6px;padding:.35rem .7rem}
dt{font-size:.75rem;color:var(--soft)}
dd{margin:0;font-weight:600}
.reason{color:var(--failed);font-weight:600;margin:.2rem 0 .8rem;overflow-wrap:anywhere}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;list-style:none;padding:0;margin:0 0 .7rem;font-size:.85rem}
.legend i{display:inline-block;width:1.1em;height:.85em;border-radius:2px;margin-right:.4em;vertical-align:-.05em}
.scroll{overflow-x:auto;border:1px solid var(--edge);border-radius:6px}
.chart{position:relative;display:grid;grid-template-columns:clamp(5.5rem,20vw,11rem) 1fr;min-width:660px;
padding:.5rem .9rem .2rem 0}
.name{position:sticky;left:0;z-index:3;background:var(--ground);font-size:.78rem;line-height:24px;text-align:right;
padding:0 .6rem;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.name b{font-weight:400;color:var(--soft)}
.track{position:relative;height:24px;z-index:1}
.track.high{height:40px;margin-bottom:6px}
.track.high svg{position:absolute;inset:0;width:100%;height:100%}
.track.high path{fill:var(--waiting)}
.track.axis{height:22px;font-size:.75rem;color:var(--soft)}
.axis span{position:absolute;top:3px;transform:translateX(-50%);white-space:nowrap}
.axis span:first-child{transform:none}.axis span.last{transform:translateX(-100%)}
.grid{position:absolute;top:.5rem;bottom:24px;right:.9rem;left:0;z-index:0;display:grid;
grid-template-columns:clamp(5.5rem,20vw,11rem) 1fr}
.rules{position:relative}
.rules i{position:absolute;top:0;bottom:0;width:1px;background:var(--edge)}
.track button{position:absolute;top:2px;height:20px;min-width:2px;padding:0;border:0;border-radius:2px;
box-shadow:inset 1px 0 var(--ground);overflow:hidden;container-type:inline-size;cursor:default}
.track button.failed{min-width:5px}
.track button.thin{box-shadow:none}.thin.failed{background:var(--failed)}.thin.cancelled{background:var(--cancelled)}
.track button:hover,.track button:focus{outline:2px solid var(--ink);outline-offset:1px;z-index:2}
.track button span{font:600 10px/14px system-ui,sans-serif;display:inline-block;padding:0 3px;border-radius:2px;
color:var(--label);vertical-align:top;margin-top:3px;pointer-events:none}
.failed span{background:var(--failed)}.cancelled span{background:var(--cancelled)}
.track button.running span{background:var(--running);color:var(--ink)}
@container (max-width:26px){.track button span{display:none}}
.small{font-size:.82rem;color:var(--soft);margin:.5rem 0}
table{border-collapse:collapse;width:100%;font-size:.82rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .6rem;text-align:right;border-bottom:1px solid var(--edge);white-space:nowrap}
th{color:var(--soft);font-weight:600;background:var(--panel)}
th:first-child,td:first-child,th:nth-child(3),td:nth-child(3),th:last-child,td:last-child{text-align:left}
td:last-child{white-space:normal;min-width:13rem;overflow-wrap:anywhere}
tr:last-child td{border-bottom:0}
.bad td{color:var(--failed)}
#tip{position:fixed;z-index:9;max-width:min(26rem,92vw);padding:.5rem .7rem;border-radius:6px;white-space:pre-line;
background:var(--ink);color:var(--ground);font-size:.8rem;pointer-events:none;overflow-wrap:anywhere}
#tip[hidden]{display:none}
"""

# One bar at a time can be reached by Tab, as in a toolbar: a thousand stops would shut keyboard users out.
_SCRIPT = """
const tip=document.getElementById('tip');
const lanes=[...document.querySelectorAll('[data-lane]')].filter(l=>l.children.length);
function show(bar){tip.textContent=bar.getAttribute('aria-label');tip.hidden=false;
const b=bar.getBoundingClientRect(),t=tip.getBoundingClientRect();
tip.style.left=Math.max(6,Math.min(b.left+b.width/2-t.width/2,innerWidth-t.width-6))+'px';
tip.style.top=(b.top>t.height+12?b.top-t.height-8:b.bottom+8)+'px'}
function hide(){tip.hidden=true}
function go(from,to){from.tabIndex=-1;to.tabIndex=0;to.focus()}
function nearest(lane,x){return [...lane.children].reduce((best,bar)=>{const at=b=>{const r=b.getBoundingClientRect();
return Math.abs(r.left+r.width/2-x)};return at(bar)<at(best)?bar:best})}
lanes.forEach((lane,row)=>[...lane.children].forEach((bar,column,bars)=>{
bar.onmouseenter=bar.onfocus=()=>show(bar);bar.onmouseleave=bar.onblur=hide;bar.onclick=()=>show(bar);
bar.onkeydown=event=>{const r=bar.getBoundingClientRect(),x=r.left+r.width/2;
const to={ArrowRight:()=>bars[column+1],ArrowLeft:()=>bars[column-1],Home:()=>bars[0],End:()=>bars[bars.length-1],
ArrowDown:()=>lanes[row+1]&&nearest(lanes[row+1],x),ArrowUp:()=>lanes[row-1]&&nearest(lanes[row-1],x)}[event.key];
if(event.key==='Escape')hide();
if(to){event.preventDefault();const next=to();if(next)go(bar,next)}}}));
if(lanes.length)lanes[0].children[0].tabIndex=0;
addEventListener('scroll',hide,true);
"""
