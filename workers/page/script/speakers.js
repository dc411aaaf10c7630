// Speakers: names that can be changed, everywhere at once.

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
    const kept = ["more", "on"].filter(one => element.classList.contains(one));
    element.className = ["block", look(byName.get(name).index), ...kept].join(" ");
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
    const now = take && oneLine(value) || name;
    if (refocus) at("legend").querySelector(`button[data-name="${CSS.escape(now)}"]`)?.focus();
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
    for (const [speaker, name] of JSON.parse(text ?? "[]")) {
      if (called.has(speaker)) called.set(speaker, String(name));
    }
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
