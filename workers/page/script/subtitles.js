// SRT of a transcript, letter for letter as workers/formats.py writes it: where a line breaks depends on the
// names, so subtitles with other names are other subtitles. A test holds the two together.
function subtitles(transcript, rules) {
  const SENTENCE_END = /[.?!…。？！]["'”’»)\]]*$/u, CLAUSE_END = /[,;:–—、，；：]["'”’»)\]]*$/u;
  const SPACES = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/;  // Python's str.split
  const LINE = rules.line_width;
  const words = text => text.split(SPACES).filter(Boolean);
  const oneLine = text => words(text).join(" ");
  const length = text => [...text].length;   // code points, as Python counts

  function isWide(sign) {
    const code = sign.codePointAt(0);
    let low = 0, high = rules.wide.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rules.wide[middle][0] <= code) low = middle + 1; else high = middle;
    }
    return low > 0 && code <= rules.wide[low - 1][1];
  }

  function width(text) {
    let columns = 0;
    for (const sign of text) columns += sign > "\u036f" && isWide(sign) ? 2 : 1;
    return columns;
  }

  const first = text => String.fromCodePoint(text.codePointAt(0));
  const last = text => [...text.slice(-2)].at(-1);

  // ---- tokens: a word each, with the space before it ----

  function tokensOf(segment) {
    const tokens = segment.words.length ? fromWords(segment) : spread(segment);
    if (!tokens.length) return [];
    tokens[0].text = tokens[0].text.trimStart();
    tokens.at(-1).endsSegment = true;
    return tokens;
  }

  const token = (start, end, text, speaker) => ({ start, end, text, columns: 0, speaker, endsSegment: false });

  function fromWords(segment) {
    const text = oneLine(segment.text), tokens = [];
    let at = 0;
    for (const word of segment.words) {
      let shown = oneLine(word.text);
      const found = text.indexOf(shown, at);
      if (found >= 0 && length(text.slice(at, Math.min(found, at + 9))) <= 3) {
        const end = found + shown.length;
        shown = text.slice(at, end);
        at = end;
      } else shown = ` ${shown}`;
      tokens.push(token(word.start_ms, word.end_ms, shown, word.speaker || segment.speaker));
    }
    return tokens.filter(one => one.text.trim());
  }

  function spread(segment) {
    const pieces = words(segment.text).flatMap(word => sliced(` ${word}`));
    const total = pieces.reduce((sum, piece) => sum + length(piece), 0), lasts = segment.end_ms - segment.start_ms;
    const time = reached => segment.start_ms + Math.floor(lasts * reached / total);
    let reached = 0;
    return pieces.map(piece => {
      const start = time(reached);
      reached += length(piece);
      return token(start, time(reached), piece, segment.speaker);
    });
  }

  function sliced(word) {
    if (width(word) <= LINE) return [word];
    const signs = [...word], step = Math.floor(LINE / (width(word) > signs.length ? 4 : 2)), pieces = [];
    for (let at = 0; at < signs.length; at += step) pieces.push(signs.slice(at, at + step).join(""));
    return pieces;
  }

  // ---- groups of tokens: what a cue shows ----

  function groupsOf(segments, named) {
    const groups = [];
    let group = [];
    for (const one of segments.flatMap(tokensOf)) {
      if (!named) one.speaker = null;
      const before = group.at(-1);
      if (before?.endsSegment && !(isWide(last(before.text)) && isWide(first(one.text)))) one.text = ` ${one.text}`;
      one.columns = width(one.text);
      if (before && mustBreak(before, one)) {
        groups.push(group);
        group = [];
      }
      while (group.length && !fits([...group, one])) {
        const at = bestBreak(group);
        groups.push(group.slice(0, at));
        group = group.slice(at);
      }
      group.push(one);
    }
    return group.length ? [...groups, group] : groups;
  }

  function mustBreak(before, one) {
    const pause = one.start - before.end;
    const endsHere = before.endsSegment && (pause >= rules.breath_ms || SENTENCE_END.test(before.text));
    return endsHere || pause >= rules.long_pause_ms || one.speaker !== before.speaker;
  }

  function fits(group) {
    if (group.at(-1).end - group[0].start > rules.longest_ms) return false;
    const indent = indentOf(group), columns = group.reduce((sum, one) => sum + one.columns, indent);
    if (!(LINE < columns && columns <= rules.max_lines * LINE + rules.max_lines)) return columns <= LINE;
    const [head, ...rest] = broken(group);
    return indent + width(head) <= LINE && rest.every(line => width(line) <= LINE);
  }

  const label = speaker => `[${oneLine(speaker)}] `;
  const indentOf = ([{ speaker }]) => speaker ? Math.min(width(label(speaker)), Math.floor(LINE / 2)) : 0;

  function bestBreak(group) {
    let best = null;
    for (let at = Math.max(1, Math.floor(group.length / 3)); at <= group.length; at++) {
      const before = group[at - 1], mark = SENTENCE_END.test(before.text) ? 2 : CLAUSE_END.test(before.text) ? 1 : 0;
      const pause = at < group.length ? group[at].start - before.end : 0, score = Math.floor(pause / 100) * 100 + at;
      if (!best || mark > best.mark || (mark === best.mark && score > best.score)) best = { at, mark, score };
    }
    return best.at;
  }

  function broken(group) {
    const texts = group.map(one => one.text), indent = indentOf(group), whole = texts.join("").trim();
    if (indent + width(whole) <= LINE || texts.length === 1) return [whole];
    let best = null;
    for (let at = 1; at < texts.length; at++) {
      const both = [texts.slice(0, at).join("").trim(), texts.slice(at).join("").trim()];
      const longest = Math.max(indent + width(both[0]), width(both[1]));
      if (!best || longest < best.longest) best = { both, longest };
    }
    return best.both;
  }

  // ---- cues, and the text of the file ----

  function cuesOf() {
    const said = new Set(transcript.segments.flatMap(one => [one.speaker, ...one.words.map(word => word.speaker)]));
    said.delete(null);
    const cues = groupsOf(transcript.segments, said.size > 1).map(group => {
      const end = group.reduce((latest, one) => Math.max(latest, one.end), 0), { start, speaker } = group[0];
      return { start, end: Math.min(end, start + rules.longest_ms), lines: broken(group), speaker };
    });
    const gaps = transcript.gaps.map(({ start_ms: start, end_ms: end, reason }) => {
      const period = `${clock(start).slice(0, -4)}–${clock(end).slice(0, -4)}`;
      return { start, end, lines: wrapped(`[not transcribed ${period}: ${oneLine(reason)}]`), speaker: null };
    });
    return timed([...cues, ...gaps].sort((a, b) => a.start - b.start));
  }

  function wrapped(text) {
    const lines = [""];
    for (const word of words(text)) {
      if (lines.at(-1) && length(lines.at(-1)) + 1 + length(word) > LINE) lines.push("");
      lines.push(`${lines.pop()} ${word}`.trim());
    }
    return lines;
  }

  function timed(cues) {
    let reached = 0;
    return cues.map((cue, index) => {
      const start = Math.max(cue.start, reached);
      let end = Math.max(cue.end, start + rules.shortest_ms);
      if (index + 1 < cues.length) end = Math.min(end, cues[index + 1].start - rules.cue_gap_ms);
      reached = Math.max(end, start + 1);
      return { ...cue, start, end: reached };
    });
  }

  function clock(ms) {
    const padded = (number, digits = 2) => String(number).padStart(digits, "0");
    const [hours, minutes, seconds] = [3600000, 60000, 1000].map(part => Math.floor(ms / part));
    return `${padded(hours)}:${padded(minutes % 60)}:${padded(seconds % 60)},${padded(ms % 1000, 3)}`;
  }

  return cuesOf().map(({ start, end, lines, speaker }, index) => {
    const text = ((speaker ? label(speaker) : "") + lines.join("\n")).replaceAll("-->", "→");
    return `${index + 1}\n${clock(start)} --> ${clock(end)}\n${text}\n`;
  }).join("\n");
}
