// What all of the page's script uses: the transcript, elements, clocks.

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
const SPACES = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/;
const oneLine = text => text.split(SPACES).filter(Boolean).join(" ");

// The index of the last entry of ascending `values` that is at most `value`; -1 where there is none.
function lastAtMost(values, value) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= value) low = middle + 1; else high = middle;
  }
  return low - 1;
}
