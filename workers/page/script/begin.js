// One listener for all words, times and names; keys.

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
