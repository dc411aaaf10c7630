// Saving, with the names as they are now.

function renamed() {
  const value = (name, given) => name === "speaker" ? nameOf(given) : given;
  const word = row => Object.fromEntries(data.word_fields.map((name, index) => [name, value(name, row[index])]));
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
  // the policy lets the script move things, and forbids the attribute that is left of it
  copy.querySelectorAll("[style]").forEach(element => element.removeAttribute("style"));
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
