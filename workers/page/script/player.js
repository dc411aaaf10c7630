// The recording.

const media = at("media");
const player = {
  position: 0, follow: true, ready: false, chosen: null, url: null, source: media.getAttribute("src"),
};
const playing = () => player.ready && !media.paused;

function seek(ms, play) {
  player.position = Math.min(Math.max(0, ms), DURATION);
  if (player.ready) {
    media.currentTime = player.position / 1000;
    if (play) start();
  } else if (play) {
    const opening = media.hasAttribute("src") && !media.error;
    tell(opening ? "The recording is still being opened." : "Choose the recording to listen.");
  }
  show(true);
}

function start() {
  // a refusal is told by the element's own error event, and an interrupted start is none
  media.play().catch(error => {
    if (error.name === "NotAllowedError") tell("The browser wants a click on play first.");
  });
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
  media.addEventListener("timeupdate", () => {
    if (!player.ready) return;
    player.position = media.currentTime * 1000;
    show();
  });
  // what happened before anybody listened
  const failed = media.error || media.networkState === HTMLMediaElement.NETWORK_NO_SOURCE;
  if (failed || !media.hasAttribute("src")) unavailable();
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
  const scrolled = event => {
    if (playing() && !at("overview").contains(event.target)) setFollow(false);
  };
  for (const name of ["wheel", "touchmove"]) addEventListener(name, scrolled, { passive: true });
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
