// Units: what can be clicked and lit, a word each, or a segment where it has no words.

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
  const last = units.start.length - 1;
  return { element, index, paragraph, text: paragraph.textContent, first, last, spans: null, hits: [] };
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
    const className = hit === search.hits[search.now] ? "this" : "";
    const mark = make("mark", { className }, block.text.slice(start, end));
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
