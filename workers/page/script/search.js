// Search.

function find(query) {
  const touched = new Set(search.hits.map(hit => hit.block));
  search.query = query;
  search.hits = [];
  search.now = -1;
  for (const block of touched) block.hits = [];
  const words = oneLine(query).split(" ").filter(Boolean).map(word => word.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&"));
  if (words.length) {
    const pattern = new RegExp(words.join("\\s+"), "giu");
    for (const block of blocks) {
      for (const { 0: text, index } of block.text.matchAll(pattern)) {
        search.hits.push({ block, from: index, to: index + text.length });
      }
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
  if (!count) {
    at("count").textContent = search.query.trim() ? "no hits" : "";
    return;
  }
  search.now = (number + count) % count;
  at("count").textContent = `${search.now + 1} of ${count}`;
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
