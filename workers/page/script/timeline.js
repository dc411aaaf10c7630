// Timeline: a lane a person, one path each, so that five thousand turns stay one thing to paint.

const spoken = transcript.turns.length
  ? transcript.turns
  : transcript.segments.filter(segment => segment.text.trim());
const unnamed = transcript.segments.filter(segment => segment.speaker === null && segment.text.trim());

function bars(spans) {
  return spans.map(({ start_ms: start, end_ms: end }) => `M${start} 0h${end - start}v1h${start - end}z`).join("");
}

// A drawing as wide as the timeline, in milliseconds, with one path.
function stretched(path, attributes = {}) {
  const box = { viewBox: `0 0 ${DURATION} 1`, preserveAspectRatio: "none", "aria-hidden": "true" };
  return draw("svg", { ...box, ...attributes }, draw("path", path));
}

function lane(spans, className) {
  return make("div", { className: `lane ${className}` }, stretched({ d: bars(spans) }));
}

function legendRow(className, label, spans) {
  const total = spans.reduce((sum, span) => sum + span.end_ms - span.start_ms, 0);
  const spoken = make("small", { textContent: clock(Math.max(1000, total)), title: "spoken" });
  return make("li", { className }, label, spoken);
}

function drawLanes() {
  const lanes = [], rows = [];
  for (const person of people()) {
    const spans = spoken.filter(span => person.speakers.has(span.speaker));
    const name = oneLine(person.name);
    const button = make("button", { type: "button", textContent: name, title: `${name}: change the name` });
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

// Where several speak at once.
function overlaps() {
  const edges = transcript.turns.flatMap(turn => [[turn.start_ms, 1], [turn.end_ms, -1]]);
  edges.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const both = [];
  let depth = 0, since = 0;
  for (const [ms, step] of edges) {
    if (depth < 2 && depth + step >= 2) since = ms;
    if (depth >= 2 && depth + step < 2 && ms > since) both.push({ start_ms: since, end_ms: ms });
    depth += step;
  }
  return both;
}

// What nobody transcribed, hatched. Not stretched, which would bend the hatching.
function hatchedGaps() {
  const line = draw("line", { class: "hatch", x1: 0, y1: 0, x2: 0, y2: 7 });
  const tile = { id: "hatching", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  const percent = ms => 100 * ms / DURATION;
  const gaps = transcript.gaps.map(({ start_ms: start, end_ms: end }) => draw("rect", {
    class: "gap-mark", fill: "url(#hatching)", height: "100%", x: `${percent(start)}%`,
    width: `${Math.max(0.15, percent(end - start))}%`,
  }));
  return draw("svg", { "aria-hidden": "true" }, draw("defs", {}, draw("pattern", tile, line)), ...gaps);
}

// What lies over the lanes, on their whole height, and below them.
function drawOver() {
  const shared = stretched({ class: "both", d: bars(overlaps()) });
  const over = make("div", { className: "over" }, hatchedGaps(), shared);
  const marks = stretched({ id: "hit-marks", d: "" }, { class: "hits" });
  at("tracks").append(over, marks, make("div", { className: "axis", id: "axis", ariaHidden: "true" }));
}

const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800];

function drawAxis() {
  const width = at("tracks").clientWidth, seconds = DURATION / 1000;
  const step = STEPS_S.find(candidate => candidate / seconds * width >= 70) ?? 86400;
  const labels = [];
  for (let second = 0; second <= seconds && labels.length < 3000; second += step) {
    const share = second / seconds, className = share * width > width - 28 ? "last" : "";
    const label = make("span", { textContent: clock(second * 1000), className });
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
    const ends = { Home: -Infinity, End: Infinity };
    const steps = { ArrowUp: STEP_MS, ArrowDown: -STEP_MS, PageUp: far, PageDown: -far, ...ends };
    if (!(event.key in steps)) return;
    event.preventDefault();
    seek(player.position + steps[event.key]);
  };
  at("wider").onclick = () => zoom(2);
  at("narrower").onclick = () => zoom(0.5);
  new ResizeObserver(drawAxis).observe(tracks);
}
