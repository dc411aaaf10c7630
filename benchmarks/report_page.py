"""Pure: all results as one HTML page that loads nothing: from a phone to paper, on light and on dark ground."""

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.command import NAMES
from benchmarks.result import Result, Table, Target

REACHED, MISSED, UNKNOWN = "reached", "missed", "not measured"
_MARKS = {REACHED: "✓", MISSED: "✗", UNKNOWN: "–"}
_CLASSES = {REACHED: "reached", MISSED: "missed", UNKNOWN: "unknown"}
_NOT_VERSIONS = ("load_before", "load_after")


def page(found: Mapping[str, Result], order: Sequence[str], pictures: Mapping[str, str]) -> str:
    """The whole page. order: of the benchmarks; others follow. pictures: data URIs by benchmark.

    Every text from a result is escaped, and nothing comes from elsewhere.
    """
    names = _ordered(found, order)
    absent = [name for name in order if name not in found]
    targets = [(found[name], target) for name in names for target in found[name].targets]
    sections = "".join(_section(found[name], pictures.get(name)) for name in names)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>Whisperfleet, measured</title>
<style>{_STYLE}</style></head>
<body><header><h1>Whisperfleet, measured</h1>
<p>{escape(counted(found, order))}</p>
<nav aria-label="Benchmarks">{"".join(_link(name) for name in names)}</nav>
{_absent(absent)}</header>
<main>
<section><h2>Targets</h2>{_targets(targets, named=True)}
</section>
{sections}</main>
</body></html>
"""


def counted(found: Mapping[str, Result], order: Sequence[str]) -> str:
    """One line: how many targets were reached, how many were not; from when to when; what was run quickly."""
    words = [_verdict(one, target) for one in found.values() for target in one.targets]
    told = [f"{words.count(REACHED)} of {len(words)} targets reached"] if words else ["no targets"]
    told += [f"{words.count(word)} {word}" for word in (MISSED, UNKNOWN) if word in words]
    days = sorted(one.began[:10] for one in found.values())
    told.append(f"measured {days[0]}" + (f" to {days[-1]}" if days[-1] != days[0] else ""))
    quick = [name for name in _ordered(found, order) if found[name].quick]
    if quick:
        told.append(f"quick runs, whose figures mean nothing: {', '.join(quick)}")
    return "; ".join(told)


def verdicts(found: Mapping[str, Result], order: Sequence[str]) -> Iterator[str]:
    """A line for each target, and one for what is absent, for a terminal."""
    for name in _ordered(found, order):
        quick = " (quick run)" if found[name].quick else ""
        for target in found[name].targets:
            word = _verdict(found[name], target)
            yield f"{word:<12} {name}{quick}: {target.name}: wanted {target.wanted}, found {target.found}"
    absent = [name for name in order if name not in found]
    if absent:
        yield f"Not measured: {', '.join(absent)}."


def cell(value: str | int | float | None) -> str:
    """As a person reads it: four digits of a fraction, none of a large number."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def _ordered(found: Mapping[str, Result], order: Sequence[str]) -> list[str]:
    return [*(name for name in order if name in found), *sorted(name for name in found if name not in order)]


def _verdict(one: Result, target: Target) -> str:
    """What a quick run reached or missed means nothing."""
    return UNKNOWN if one.quick or target.reached is None else REACHED if target.reached else MISSED


def _link(name: str) -> str:
    return f'<a href="#{_anchor(name)}">{escape(name)}</a>'


def _anchor(name: str) -> str:
    return "b-" + re.sub(r"[^a-z0-9]+", "-", name.lower())


def _absent(names: Sequence[str]) -> str:
    if not names:
        return ""
    items = "".join(
        f"<li>{escape(name)}: {escape(NAMES.get(name, ''))} (<code>whisperfleet bench {escape(name)}</code>)</li>"
        for name in names
    )
    return f'<div class="absent"><p>Not measured:</p><ul>{items}</ul></div>'


# ---- one benchmark ----


def _section(one: Result, picture: str | None) -> str:
    about = NAMES.get(one.benchmark, "")
    quick = '<p class="quick">A quick run: it shows that the benchmark works, its figures mean nothing.</p>'
    targets = _targets([(one, target) for target in one.targets], named=False) if one.targets else ""
    return f"""<section id="{_anchor(one.benchmark)}"><h2>{escape(one.benchmark)}
<small>{escape(about)}</small></h2>
{quick if one.quick else ""}{_picture(one, picture)}
<h3>What it shows</h3>{_list(one.shows)}
{"<h3>Targets</h3>" + targets if targets else ""}
{"".join(_table(table) for table in one.tables)}
<h3>What it does not tell</h3>{_list(one.caveats)}
<h3>How it was measured</h3>{_facts(one)}
</section>
"""


def _picture(one: Result, picture: str | None) -> str:
    if picture is None:
        return ""
    alt = f"{NAMES.get(one.benchmark, one.benchmark)}. {one.shows[0]}"
    return f'<div class="scroll picture"><img src="{escape(picture)}" alt="{escape(alt)}"></div>'


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _targets(targets: Sequence[tuple[Result, Target]], named: bool) -> str:
    """As blocks and not as a table: wanted and found are sentences, which no phone shows side by side."""
    if not targets:
        return "<p>None of these benchmarks has a target.</p>"
    return f'<ul class="targets">{"".join(_target(one, target, named) for one, target in targets)}</ul>'


def _target(one: Result, target: Target, named: bool) -> str:
    word = _verdict(one, target)
    where = f'<a href="#{_anchor(one.benchmark)}">{escape(one.benchmark)}</a>: ' if named else ""
    quick = ", in a quick run" if one.quick else ""
    return (
        f'<li class="{_CLASSES[word]}"><b class="mark">{_MARKS[word]} {word}</b> '
        f"<div>{where}{escape(target.name)}<br><span>wanted {escape(target.wanted)}; "
        f"found {escape(target.found)}{quick}</span></div></li>"
    )


def _table(table: Table) -> str:
    numeric = [all(not isinstance(row[at], str) for row in table.rows) for at in range(len(table.columns))]

    def line(tag: str, cells: Sequence[Any]) -> str:
        kinds = ("" if number else ' class="text"' for number in numeric)
        written = zip(cells, kinds, strict=True)
        return "".join(f"<{tag}{kind}>{escape(cell(value))}</{tag}>" for value, kind in written)

    rows = "".join(f"<tr>{line('td', row)}</tr>" for row in table.rows)
    return (
        f'<h3>{escape(table.title)}</h3><div class="scroll" tabindex="0" role="group" '
        f'aria-label="{escape(table.title)}"><table><thead><tr>{line("th", table.columns)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _facts(one: Result) -> str:
    facts = [
        ("began", one.began),
        ("took", f"{one.seconds:.0f} s"),
        ("repetitions recorded", str(len(one.repetitions))),
        *((name, _told(value)) for name, value in one.options.items() if value is not None),
        *((name, _told(value)) for name, value in one.machine.items() if name not in _NOT_VERSIONS),
        ("load before, after", " – ".join(_told(one.machine[name]) for name in _NOT_VERSIONS if name in one.machine)),
    ]
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts if value)
    return f'<dl class="facts">{items}</dl>'


def _told(value: Any) -> str:
    """A fact of the machine or an option, whatever its shape."""
    if value is None:
        return "absent"
    if isinstance(value, float):
        return cell(round(value, 2))
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(each)}" for name, each in value.items())
    return str(value)


_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--panel:#f5f7f9;--ink:#1b1f24;--soft:#5b636d;--edge:#d5d9de;
--good:#00704f;--bad:#b93d00;--link:#0067a8}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--panel:#1d2227;--ink:#e6e9ed;--soft:#a2abb5;--edge:#343b43;
--good:#2fb58c;--bad:#f0743c;--link:#7cc8f5}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1100px;padding:1.2rem 1rem 3rem;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:0 0 .3rem}
h2{font-size:1.2rem;margin:2.4rem 0 .6rem;padding-top:.8rem;border-top:2px solid var(--edge)}
h2 small{font-weight:400;font-size:.9rem;color:var(--soft);margin-left:.5rem}
h3{font-size:.95rem;margin:1.3rem 0 .4rem}
header p{margin:.2rem 0;color:var(--soft)}
a{color:var(--link)}
nav{display:flex;flex-wrap:wrap;gap:.4rem;margin:.7rem 0}
nav a{border:1px solid var(--edge);border-radius:6px;padding:.3rem .7rem;text-decoration:none;background:var(--panel)}
ul{margin:.3rem 0;padding-left:1.2rem}
li{margin:.25rem 0}
.absent{font-size:.85rem;color:var(--soft)}
.quick{background:var(--bad);color:var(--ground);font-weight:600;padding:.4rem .7rem;border-radius:6px}
.targets{list-style:none;padding:0}
.targets li{display:grid;grid-template-columns:9rem 1fr;gap:.2rem .8rem;padding:.45rem .7rem;margin:.35rem 0;
border:1px solid var(--edge);border-left:5px solid var(--soft);border-radius:6px;background:var(--panel)}
.targets .reached{border-left-color:var(--good)}.targets .missed{border-left-color:var(--bad)}
.reached .mark{color:var(--good)}.missed .mark{color:var(--bad)}.unknown .mark{color:var(--soft)}
.targets span{color:var(--soft);font-size:.88rem}
.scroll{overflow-x:auto;border:1px solid var(--edge);border-radius:6px}
.picture{background:#fff}
.picture img{display:block;width:100%;min-width:620px;max-width:960px;height:auto;margin:0 auto}
table{border-collapse:collapse;width:100%;font-size:.82rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .6rem;text-align:right;border-bottom:1px solid var(--edge);white-space:nowrap}
th{color:var(--soft);font-weight:600;background:var(--panel);vertical-align:bottom;white-space:normal}
.text{text-align:left}
td.text{white-space:normal;min-width:5rem;max-width:24rem;overflow-wrap:break-word}
tr:last-child td{border-bottom:0}
.facts{display:flex;flex-wrap:wrap;gap:.4rem;margin:0}
.facts div{background:var(--panel);border:1px solid var(--edge);border-radius:6px;padding:.25rem .6rem;max-width:100%}
dt{font-size:.72rem;color:var(--soft)}
dd{margin:0;font-size:.85rem}
@media(max-width:600px){.targets li{grid-template-columns:1fr}h2 small{display:block;margin:0}}
@media print{:root{color-scheme:light;--ground:#fff;--panel:#fff;--ink:#000;--soft:#444;--edge:#bbb;--good:#00704f;
--bad:#b93d00;--link:#000}body{max-width:none;font-size:10pt;padding:0}nav{display:none}
.scroll{overflow:visible;border:0}.picture img{min-width:0}table{font-size:7pt}
th,td{white-space:normal;padding:.1rem .3rem}section{break-before:page}section:first-child{break-before:auto}
.targets li,tr,img{break-inside:avoid}}
"""
