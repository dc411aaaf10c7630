// Where we are: the word, the playhead, the clock.

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
