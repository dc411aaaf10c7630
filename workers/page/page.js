(() => {
"use strict";
const at = id => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
const { transcript, speakers } = data;
const field = Object.fromEntries(data.word_fields.map((name, index) => [name, index]));
const DURATION = Math.max(1, transcript.duration_ms);
const COLOURS = 8, MARKS = 4;      // as page.css has them
const DOUBTFUL = 0.5;              // a word the engine gives less than even odds
const LINGER_MS = 400;             // a word stays lit in a pause as short as this
const STEP_MS = 5000, JUMP_MS = 10000;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function make(name, settings = {}, ...children) {
  const element = document.createElement(name);
  Object.assign(element, settings);
  element.append(...children);
  return element;
}

function draw(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function clock(ms) {
  const seconds = Math.floor(ms / 1000), two = n => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

function tell(text) {
  const toast = at("toast");
  toast.textContent = text;
  toast.classList.add("up");
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => toast.classList.remove("up"), 4000);
}

// White space as Python's str.split takes it, so that both write a name alike.
const oneLine = text => text.split(/[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/).filter(Boolean).join(" ");

// The index of the last entry of ascending `values` that is at most `value`; -1 where there is none.
function lastAtMost(values, value) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= value) low = middle + 1; else high = middle;
  }
  return low - 1;
}

// ---- units: what can be clicked and lit, a word each, or a segment where it has no words ----

const units = { start: [], end: [], text: [], doubtful: [], block: [] };
const blocks = [...document.querySelectorAll(".block")].map(readBlock);
const blockOf = new Map(blocks.map(block => [block.element, block]));

function readBlock(element, index) {
  const paragraph = element.querySelector("p"), first = units.start.length;
  let reached = first ? units.start[first - 1] : 0;
  for (let s = +element.dataset.from; s <= +element.dataset.to; s++) {
    const segment = transcript.segments[s];
    const rows = segment.words.length
      ? segment.words.map(row => [row[field.start_ms], row[field.end_ms], row[field.text], row[field.probability]])
      : [[segment.start_ms, segment.end_ms, segment.text, 1]];
    for (const [start, end, text, probability] of rows) {
      reached = Math.max(reached, start);   // ascending, so that it can be searched by halves
      units.start.push(reached);
      units.end.push(Math.max(end, reached));
      units.text.push(oneLine(text));
      units.doubtful.push(probability < DOUBTFUL);
      units.block.push(index);
    }
  }
  return { element, index, paragraph, text: paragraph.textContent, first, last: units.start.length - 1, spans: null, hits: [] };
}

// Cut a paragraph into a span a unit. Only those near the screen: ninety thousand spans would take seconds.
function fill(block) {
  const parts = document.createDocumentFragment(), spans = [];
  let reached = 0;
  for (let unit = block.first; unit <= block.last; unit++) {
    const text = units.text[unit], found = text ? block.text.indexOf(text, reached) : -1;
    if (found < 0 || found > reached + 40) { spans.push(null); continue; }   // not its place: leave it plain
    addText(parts, block, reached, found);
    const span = make("span", { className: units.doubtful[unit] ? "w low" : "w" });
    span.dataset.unit = unit;
    reached = found + text.length;
    addText(span, block, found, reached);
    parts.append(span);
    spans.push(span);
  }
  addText(parts, block, reached, block.text.length);
  block.paragraph.replaceChildren(parts);
  block.spans = spans;
  if (units.block[lit.unit] === block.index) lightUnit(lit.unit);
}

// The text from..to with what was searched for marked.
function addText(parent, block, from, to) {
  for (const hit of block.hits) {
    if (hit.to <= from || hit.from >= to) continue;
    if (hit.from > from) parent.append(block.text.slice(from, hit.from));
    const start = Math.max(hit.from, from), end = Math.min(hit.to, to);
    const mark = make("mark", { className: hit === search.hits[search.now] ? "this" : "" }, block.text.slice(start, end));
    parent.append(mark);
    (hit.marks ??= []).push(mark);
    from = end;
  }
  if (from < to) parent.append(block.text.slice(from, to));
}

const lit = { unit: -1, block: null, span: null };
const search = { hits: [], now: -1, query: "" };

const nearby = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const block = blockOf.get(entry.target);
    if (entry.isIntersecting && !block.spans) fill(block);
  }
}, { rootMargin: "1000px 0px" });

// ---- the recording ----

const media = at("media");
const player = { position: 0, follow: true, ready: false, chosen: null, url: null, source: media.getAttribute("src") };
const playing = () => player.ready && !media.paused;

function seek(ms, play) {
  player.position = Math.min(Math.max(0, ms), DURATION);
  if (player.ready) {
    media.currentTime = player.position / 1000;
    if (play) start();
  } else if (play) {
    tell(media.hasAttribute("src") && !media.error ? "The recording is still being opened." : "Choose the recording to listen.");
  }
  show(true);
}

function start() {
  // a refusal is told by the element's own error event, and an interrupted start is none
  media.play().catch(error => { if (error.name === "NotAllowedError") tell("The browser wants a click on play first."); });
}

function toggle() {
  if (!player.ready) seek(player.position, true);
  else if (media.paused) start();
  else media.pause();
}

function opened() {
  player.ready = true;
  at("missing").hidden = true;
  media.currentTime = player.position / 1000;
  at("picture").parentElement.hidden = !media.videoWidth;
  showPicture();
  const found = media.duration * 1000;
  if (player.chosen && Number.isFinite(found) && Math.abs(found - DURATION) > Math.max(2000, DURATION / 100)) {
    ask(`“${player.chosen}” lasts ${clock(found)} and the transcript ${clock(DURATION)}: is it the right one?`);
  }
}

function showPicture() {
  media.classList.toggle("blank", !media.videoWidth || !at("picture").checked);
}

function ask(why) {
  at("why").textContent = why;
  at("missing").hidden = false;
}

function unavailable() {
  player.ready = false;
  const name = player.chosen ?? media.dataset.name;
  ask(player.chosen ? `This browser cannot play “${name}”.`
    : name ? `The recording “${name}” cannot be opened from here.` : "To listen along, open the recording.");
  media.classList.add("blank");
}

function choose(file) {
  if (player.url) URL.revokeObjectURL(player.url);
  player.url = URL.createObjectURL(file);
  player.chosen = file.name;
  player.ready = false;
  media.src = player.url;
  media.playbackRate = +at("speed").value;
}

function listen() {
  media.addEventListener("loadedmetadata", opened);
  media.addEventListener("error", unavailable);
  for (const name of ["play", "pause", "ended"]) media.addEventListener(name, played);
  media.addEventListener("timeupdate", () => { if (player.ready) { player.position = media.currentTime * 1000; show(); } });
  if (!media.hasAttribute("src") || media.error || media.networkState === HTMLMediaElement.NETWORK_NO_SOURCE) unavailable();
  else if (media.readyState >= HTMLMediaElement.HAVE_METADATA) opened();
  at("play").onclick = toggle;
  at("back").onclick = () => seek(player.position - JUMP_MS);
  at("forward").onclick = () => seek(player.position + JUMP_MS);
  at("speed").onchange = () => { media.defaultPlaybackRate = media.playbackRate = +at("speed").value; };
  at("follow").onclick = () => setFollow(!player.follow);
  at("picture").onchange = showPicture;
  at("choose").onclick = () => at("file").click();
  at("file").onchange = () => { if (at("file").files.length) choose(at("file").files[0]); };
  at("seek").max = Math.ceil(DURATION / 1000);
  at("seek").oninput = () => seek(+at("seek").value * 1000);
  at("total").textContent = ` / ${clock(DURATION)}`;
  // whoever scrolls while it plays wants to read elsewhere
  for (const name of ["wheel", "touchmove"]) addEventListener(name, event => { if (playing() && !at("overview").contains(event.target)) setFollow(false); }, { passive: true });
}

function played() {
  at("player").classList.toggle("playing", playing());
  at("play").setAttribute("aria-label", playing() ? "Pause" : "Play");
  cancelAnimationFrame(played.frame);
  if (playing()) tick();
}

// timeupdate comes four times a second: too late for short words
function tick() {
  player.position = media.currentTime * 1000;
  show();
  played.frame = requestAnimationFrame(tick);
}

function setFollow(on) {
  player.follow = on;
  at("follow").setAttribute("aria-pressed", on);
  if (on) bringIntoView(true);
}

// ---- where we are: the word, the playhead, the clock ----

function show(sought = false) {
  const second = Math.floor(player.position / 1000);
  if (second !== show.second) {
    show.second = second;
    at("now").textContent = clock(player.position);
    at("seek").value = second;
    at("seek").setAttribute("aria-valuetext", clock(player.position));
    at("tracks").setAttribute("aria-valuenow", second);
    at("tracks").setAttribute("aria-valuetext", clock(player.position));
  }
  const share = (100 * player.position / DURATION).toFixed(3);
  if (share !== show.share) at("playhead").style.left = `${show.share = share}%`;
  const unit = lastAtMost(units.start, player.position);
  const on = unit >= 0 && player.position < units.end[unit] + LINGER_MS ? unit : -1;
  if (on !== lit.unit) lightUnit(on);
  if (player.follow && (playing() || sought)) bringIntoView(sought);
  if (sought || playing()) keepPlayheadInView();
}

function lightUnit(unit) {
  const block = unit < 0 ? null : blocks[units.block[unit]];
  if (block !== lit.block) {
    lit.block?.element.classList.remove("on");
    block?.element.classList.add("on");
    lit.block = block;
  }
  lit.span?.classList.remove("on");
  lit.unit = unit;
  lit.span = block?.spans?.[unit - block.first] ?? null;
  lit.span?.classList.add("on");
}

function bringIntoView() {
  if (!lit.block) return;
  if (!lit.block.spans) fill(lit.block);
  scrollToElement(lit.span ?? lit.block.element);
}

// Only where it left the middle of the screen; at once where it is far, as a page that rushes by tells nothing.
function scrollToElement(element) {
  const box = element.getBoundingClientRect(), shown = media.getBoundingClientRect();
  const high = Math.min(at("player").getBoundingClientRect().top, shown.height ? shown.top : Infinity);
  if (box.top > 0.14 * high && box.bottom < 0.8 * high) return;
  const by = box.top - 0.3 * high, far = Math.abs(by) > 1.5 * high;
  if (scrollToElement.goal && performance.now() < scrollToElement.goal) return;
  scrollBy({ top: by, behavior: far || calm.matches ? "instant" : "smooth" });
  scrollToElement.goal = far ? 0 : performance.now() + 400;
}

// ---- speakers: names that can be changed, everywhere at once ----

const called = new Map(speakers.map(name => [name, name]));
const nameOf = speaker => speaker === null ? null : called.get(speaker);
const storeKey = `whisperfleet names ${transcript.provenance.job} ${JSON.stringify(transcript.speakers)}`;

// One row a name: two speakers who were given the same name are one person.
function people() {
  const rows = new Map();
  speakers.forEach((speaker, index) => {
    const name = nameOf(speaker);
    if (!rows.has(name)) rows.set(name, { name, index, speakers: new Set() });
    rows.get(name).speakers.add(speaker);
  });
  return [...rows.values()];
}

const look = index => `s${index % COLOURS} m${Math.floor(index / COLOURS) % MARKS}`;

function rename(from, to) {
  const name = oneLine(to);
  if (!name || name === from) return;
  const joined = [...called.values()].includes(name);
  for (const [speaker, now] of called) if (now === from) called.set(speaker, name);
  keepNames();
  showNames();
  tell(joined ? `${from} and ${name} are now one person.` : `${from} is now ${name}, everywhere.`);
}

function showNames() {
  const byName = new Map(people().map(person => [person.name, person]));
  for (const { element } of blocks) {
    if (element.dataset.speaker === undefined) continue;
    const name = nameOf(speakers[+element.dataset.speaker]);
    const shown = element.querySelector(".name");
    if (shown) shown.textContent = oneLine(name);
    element.className = `block ${look(byName.get(name).index)}${element.classList.contains("more") ? " more" : ""}${element === lit.block?.element ? " on" : ""}`;
  }
  drawLanes();
  at("forget").hidden = speakers.every(speaker => nameOf(speaker) === speaker);
  at("naming").hidden = !speakers.some(speaker => /^SPEAKER_\d+$/.test(nameOf(speaker)));
}

// A text field in the place of the name: Enter or leaving takes it, Escape does not.
function editName(element, name, refocus) {
  if (element.querySelector("input")) return;
  const input = make("input", { value: name, autocomplete: "off", spellcheck: false });
  input.setAttribute("aria-label", `New name of ${name}`);
  let over = false;
  const end = take => {
    if (over) return;
    over = true;
    const value = input.value;
    showNames();
    if (take) rename(name, value);
    if (refocus) at("legend").querySelector(`button[data-name="${CSS.escape(take && oneLine(value) || name)}"]`)?.focus();
  };
  input.onkeydown = event => {
    event.stopPropagation();
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    end(event.key === "Enter");
  };
  input.onblur = () => { refocus = false; end(true); };
  element.replaceChildren(input);
  input.focus();
  input.select();
}

function keepNames() {
  try {
    localStorage.setItem(storeKey, JSON.stringify([...called]));
  } catch (error) {
    console.info("Names last until this page is closed:", error.name);   // private windows keep nothing
  }
}

// Those that this page was saved with, and then those that were given in this browser.
function recallNames() {
  const take = text => {
    for (const [speaker, name] of JSON.parse(text ?? "[]")) if (called.has(speaker)) called.set(speaker, String(name));
  };
  take(at("text").dataset.names);
  try {
    take(localStorage.getItem(storeKey));
  } catch (error) {
    console.info("No names are kept here:", error.name);
  }
}

function forgetNames() {
  for (const speaker of speakers) called.set(speaker, speaker);
  keepNames();
  showNames();
  tell("The names are as they were.");
}

// ---- timeline: a lane a person, one path each, so that five thousand turns stay one thing to paint ----

const spoken = transcript.turns.length
  ? transcript.turns
  : transcript.segments.filter(segment => segment.text.trim());
const unnamed = transcript.segments.filter(segment => segment.speaker === null && segment.text.trim());

function bars(spans) {
  return spans.map(({ start_ms: start, end_ms: end }) => `M${start} 0h${end - start}v1h${start - end}z`).join("");
}

function lane(spans, className) {
  const svg = draw("svg", { viewBox: `0 0 ${DURATION} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, draw("path", { d: bars(spans) }));
  return make("div", { className: `lane ${className}` }, svg);
}

function legendRow(className, label, spans) {
  const total = spans.reduce((sum, span) => sum + span.end_ms - span.start_ms, 0);
  return make("li", { className }, label, make("small", { textContent: clock(Math.max(1000, total)), title: "spoken" }));
}

function drawLanes() {
  const lanes = [], rows = [];
  for (const person of people()) {
    const spans = spoken.filter(span => person.speakers.has(span.speaker));
    const button = make("button", { type: "button", textContent: oneLine(person.name), title: `${oneLine(person.name)}: change the name` });
    button.dataset.name = person.name;
    lanes.push(lane(spans, look(person.index)));
    rows.push(legendRow(look(person.index), button, spans));
  }
  if (unnamed.length) {
    const label = make("span", { className: "label", textContent: speakers.length ? "Unknown" : "Speech" });
    lanes.push(lane(unnamed, "s-none"));
    rows.push(legendRow("s-none", label, unnamed));
  }
  at("legend").replaceChildren(...rows);
  at("tracks").querySelectorAll(".lane").forEach(old => old.remove());
  at("tracks").prepend(...lanes);
}

// Where several speak at once, on the lanes' whole height; and what nobody transcribed, hatched.
function drawOver() {
  const edges = transcript.turns.flatMap(turn => [[turn.start_ms, 1], [turn.end_ms, -1]]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const both = [];
  let depth = 0, since = 0;
  for (const [ms, step] of edges) {
    if (depth < 2 && depth + step >= 2) since = ms;
    if (depth >= 2 && depth + step < 2 && ms > since) both.push({ start_ms: since, end_ms: ms });
    depth += step;
  }
  const shared = draw("svg", { viewBox: `0 0 ${DURATION} 1`, preserveAspectRatio: "none" }, draw("path", { class: "both", d: bars(both) }));
  const pattern = draw("pattern", { id: "hatching", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    draw("line", { class: "hatch", x1: 0, y1: 0, x2: 0, y2: 7 }));
  const gaps = transcript.gaps.map(gap => draw("rect", { class: "gap-mark", fill: "url(#hatching)", height: "100%", x: `${100 * gap.start_ms / DURATION}%`,
    width: `${Math.max(0.15, 100 * (gap.end_ms - gap.start_ms) / DURATION)}%` }));
  const over = make("div", { className: "over" }, gaps.length ? draw("svg", {}, draw("defs", {}, pattern), ...gaps) : "", both.length ? shared : "");
  const marks = draw("svg", { class: "hits", viewBox: `0 0 ${DURATION} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, draw("path", { id: "hit-marks", d: "" }));
  over.ariaHidden = "true";
  at("tracks").append(over, marks, make("div", { className: "axis", id: "axis", ariaHidden: "true" }));
}

const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800];

function drawAxis() {
  const width = at("tracks").clientWidth, seconds = DURATION / 1000;
  const step = STEPS_S.find(candidate => candidate / seconds * width >= 70) ?? 86400;
  const labels = [];
  for (let second = 0; second <= seconds && labels.length < 3000; second += step) {
    const share = second / seconds, label = make("span", { textContent: clock(second * 1000), className: share * width > width - 28 ? "last" : "" });
    label.style.left = `${100 * share}%`;
    labels.push(label);
  }
  at("axis").replaceChildren(...labels);
}

function zoom(factor) {
  const strip = at("strip"), most = Math.max(1, Math.min(64, DURATION / 1000 * 20 / strip.clientWidth));
  zoom.now = Math.min(Math.max(1, (zoom.now ?? 1) * factor), most);
  at("tracks").style.width = `${100 * zoom.now}%`;
  at("narrower").disabled = zoom.now <= 1;
  at("wider").disabled = zoom.now >= most;
  strip.scrollLeft = player.position / DURATION * at("tracks").clientWidth - strip.clientWidth / 2;
}

function keepPlayheadInView() {
  const strip = at("strip");
  if ((zoom.now ?? 1) === 1) return;
  const x = player.position / DURATION * at("tracks").clientWidth - strip.scrollLeft;
  if (x < 0 || x > strip.clientWidth) strip.scrollLeft += x - strip.clientWidth * 0.2;
}

function msUnder(event) {
  const box = at("tracks").getBoundingClientRect();
  return Math.min(Math.max(0, (event.clientX - box.left) / box.width), 1) * DURATION;
}

function handleTimeline() {
  const tracks = at("tracks"), bubble = at("bubble");
  tracks.setAttribute("aria-valuemax", Math.floor(DURATION / 1000));
  tracks.onclick = event => seek(msUnder(event));
  tracks.onpointermove = event => {
    if (event.pointerType === "touch") return;
    if (event.buttons === 1) seek(msUnder(event));
    const ms = msUnder(event);
    bubble.textContent = clock(ms);
    bubble.style.left = `${Math.min(Math.max(ms / DURATION * tracks.clientWidth, 24), tracks.clientWidth - 24)}px`;
    bubble.hidden = false;
  };
  tracks.onpointerleave = () => { bubble.hidden = true; };
  tracks.onkeydown = event => {
    const far = Math.max(STEP_MS, DURATION / 20);
    const ms = { ArrowUp: player.position + STEP_MS, ArrowDown: player.position - STEP_MS, PageUp: player.position + far, PageDown: player.position - far, Home: 0, End: DURATION }[event.key];
    if (ms === undefined) return;
    event.preventDefault();
    seek(ms);
  };
  at("wider").onclick = () => zoom(2);
  at("narrower").onclick = () => zoom(0.5);
  new ResizeObserver(drawAxis).observe(tracks);
}

// ---- search ----

function find(query) {
  const touched = new Set(search.hits.map(hit => hit.block));
  search.query = query;
  search.hits = [];
  search.now = -1;
  for (const block of touched) block.hits = [];
  const words = query.trim().split(/\s+/).filter(Boolean).map(word => word.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&").replaceAll("\\-", "-"));
  if (words.length) {
    const pattern = new RegExp(words.join("\\s+"), "giu");
    for (const block of blocks) {
      for (const match of block.text.matchAll(pattern)) search.hits.push({ block, from: match.index, to: match.index + match[0].length });
    }
  }
  for (const hit of search.hits) { hit.block.hits.push(hit); touched.add(hit.block); }
  for (const block of touched) if (block.spans) fill(block);
  at("hit-marks").setAttribute("d", search.hits.map(hit => `M${timeOf(hit)} 0v1`).join(""));
  at("previous").disabled = at("next").disabled = !search.hits.length;
  const below = search.hits.findIndex(hit => hit.block.element.getBoundingClientRect().bottom > 0);
  goToHit(Math.max(0, below));
}

function timeOf(hit) {
  const { block } = hit, length = Math.max(1, block.text.length), count = block.last - block.first + 1;
  return units.start[block.first + Math.min(count - 1, Math.floor(hit.from / length * count))];
}

function goToHit(number) {
  const count = search.hits.length, before = search.hits[search.now];
  at("count").textContent = search.query.trim() ? (count ? `${((number % count) + count) % count + 1} of ${count}` : "no hits") : "";
  if (!count) return;
  search.now = ((number % count) + count) % count;
  before?.marks?.forEach(mark => mark.classList.remove("this"));
  const hit = search.hits[search.now];
  if (!hit.block.spans) fill(hit.block);
  hit.marks?.forEach(mark => mark.classList.add("this"));
  if (playing()) setFollow(false);
  scrollToElement.goal = 0;
  scrollToElement(hit.marks?.[0] ?? hit.block.element);
}

function handleSearch() {
  const query = at("query");
  query.oninput = () => { clearTimeout(find.timer); find.timer = setTimeout(() => find(query.value), 120); };
  query.onkeydown = event => {
    if (event.isComposing) return;
    if (event.key === "Enter") {
      event.preventDefault();
      if (query.value !== search.query) { clearTimeout(find.timer); find(query.value); }
      else goToHit(search.now + (event.shiftKey ? -1 : 1));
    } else if (event.key === "Escape") {
      query.value = "";
      find("");
      query.blur();
    }
  };
  at("next").onclick = () => goToHit(search.now + 1);
  at("previous").onclick = () => goToHit(search.now - 1);
}

// ---- saving, with the names as they are now ----

function renamed() {
  const word = row => Object.fromEntries(data.word_fields.map((name, index) => [name, name === "speaker" ? nameOf(row[index]) : row[index]]));
  const segment = one => ({ ...one, speaker: nameOf(one.speaker), words: one.words.map(word) });
  const merged = new Map();
  for (const one of transcript.speakers) {
    const name = nameOf(one.name), known = merged.get(name);
    if (known) known.spoken_ms += one.spoken_ms;
    // no reference clip gave a name that was typed
    else merged.set(name, { ...one, name, similarity: name === one.name ? one.similarity : null });
  }
  return {
    ...transcript,
    segments: transcript.segments.map(segment),
    speakers: [...merged.values()],
    turns: transcript.turns.map(turn => ({ ...turn, speaker: nameOf(turn.speaker) })),
  };
}

function save(extension, type, text) {
  const name = `${(transcript.provenance.media || "transcript").replace(/(.)\.[^.]*$/, "$1")}.${extension}`;
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  tell(`Saved ${name}.`);
}

// This page as it was opened, but with the names: its text, style and script are the same, so its policy holds.
function wholePage() {
  const copy = document.documentElement.cloneNode(true), inCopy = id => copy.querySelector(`#${id}`);
  copy.querySelectorAll(".block").forEach((element, index) => {
    element.classList.remove("on");
    element.querySelector("p").textContent = blocks[index].text;
  });
  copy.querySelectorAll("[style]").forEach(element => element.removeAttribute("style"));   // the policy forbids them in HTML
  inCopy("legend").replaceChildren();
  inCopy("tracks").replaceChildren(...["playhead", "bubble"].map(inCopy));
  for (const id of ["overview", "search", "player", "missing"]) inCopy(id).hidden = true;
  inCopy("toast").replaceChildren();
  inCopy("toast").className = "toast";
  if (player.source === null) inCopy("media").removeAttribute("src");
  else inCopy("media").setAttribute("src", player.source);
  inCopy("text").dataset.names = JSON.stringify([...called]);
  return `<!doctype html>\n${copy.outerHTML}\n`;
}

// ---- one listener for all words, times and names; keys ----

function handleText() {
  at("text").addEventListener("click", event => {
    const word = event.target.closest(".w"), time = event.target.closest(".time"), name = event.target.closest(".name");
    if (time) {
      event.preventDefault();
      setFollowQuietly();
      seek(1000 * time.hash.slice(3), true);
    } else if (name && !event.target.closest("input")) {
      editName(name, nameOf(speakers[+name.closest(".block").dataset.speaker]), false);
    } else if (word && getSelection().isCollapsed) {
      setFollowQuietly();
      seek(units.start[+word.dataset.unit], true);
    }
  });
  at("legend").addEventListener("click", event => {
    const button = event.target.closest("button");
    if (button) editName(button.parentElement, button.dataset.name, true);
  });
  at("uncertain").onchange = () => at("text").classList.toggle("doubts", at("uncertain").checked);
  at("doubt").hidden = !units.doubtful.includes(true);
  at("save-json").onclick = () => save("json", "application/json", `${JSON.stringify(renamed(), null, 2)}\n`);
  at("save-srt").onclick = () => save("srt", "application/x-subrip", subtitles(renamed(), data.subtitles));
  at("save-page").onclick = () => save("html", "text/html", wholePage());
  at("forget").onclick = forgetNames;
}

function setFollowQuietly() {
  player.follow = true;
  at("follow").setAttribute("aria-pressed", true);
}

function handleKeys() {
  addEventListener("keydown", event => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input:not([type=checkbox]):not([type=range]), select, textarea");
    if (typing) return;
    const presses = event.target.closest("button, input[type=checkbox]");
    const slides = event.target.closest("input[type=range]");
    const act = {
      " ": presses ? null : toggle,
      ArrowLeft: slides ? null : () => seek(player.position - STEP_MS),
      ArrowRight: slides ? null : () => seek(player.position + STEP_MS),
      "/": () => { at("query").focus(); at("query").select(); },
      f: () => setFollow(!player.follow),
    }[event.key];
    if (act) {
      event.preventDefault();
      act();
    } else if (["PageUp", "PageDown", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key) && playing()) {
      setFollow(false);
    }
  });
}

function nameLanguage() {
  const shown = at("language");
  if (!shown) return;
  try {
    shown.textContent = new Intl.DisplayNames(["en"], { type: "language" }).of(transcript.language);
  } catch (error) {
    console.info("Not a language this browser knows:", error.message);
  }
}

function begin() {
  for (const id of ["overview", "search", "player"]) at(id).hidden = false;
  nameLanguage();
  recallNames();
  drawOver();
  showNames();
  handleTimeline();
  zoom(1);
  handleSearch();
  handleText();
  handleKeys();
  listen();
  const asked = /^#t=(\d+(?:\.\d+)?)$/.exec(location.hash);
  if (asked) seek(asked[1] * 1000);
  else show();
  for (const block of blocks) nearby.observe(block.element);
}

begin();
})();
