// Steps through failed rollouts beside the oracle. What models wrote goes into the page as text, never as markup.
(async () => {
  const viewer = document.getElementById("viewer");
  if (!viewer) return;

  const ROLES = ["question", "thought", "command", "observation", "output", "end"];
  const SIDES = ["oracle", "model"];
  const AROUND = 24; // tokens shown on each side of the current one
  const CELLS = 200; // a memory of more cells shows only those near a pointer, the last ones and what just changed
  const NEAR = 8;
  const part = (name) => viewer.querySelector(`[data-part="${name}"]`);
  const [pick, slider, status, strip] = ["pick", "place", "status", "strip"].map(part);

  async function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  function node(tag, text, name) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  }

  let data;
  try {
    data = await unpack(viewer.dataset.failures);
  } catch (error) {
    console.warn("The viewer cannot unpack its data in this browser.", error);
    return;
  }
  const names = data.names;
  const cards = [...document.querySelectorAll("[data-failure]")];
  let failure, place, last;

  // Memory and pointers of a side once the token at an offset has been taken. Going back begins anew: it is quick.
  function held(side, offset) {
    if (!side.now || side.now.offset > offset) {
      side.now = { offset: 0, edits: 0, moves: 0, memory: [...side.memory], pointers: { ...side.pointers }, fresh: [] };
    }
    const now = side.now;
    if (now.offset !== offset) now.fresh = [];
    for (; now.edits < side.edits.length && side.edits[now.edits][0] <= offset; now.edits++) {
      const [when, cell, removed, put] = side.edits[now.edits];
      now.memory.splice(cell, removed, ...put);
      if (when === offset) now.fresh = put.map((_, index) => cell + index);
    }
    for (; now.moves < side.moves.length && side.moves[now.moves][0] <= offset; now.moves++) {
      Object.assign(now.pointers, side.moves[now.moves][1]);
    }
    now.offset = offset;
    return now;
  }

  const shown = (token) => (token.trim() ? token : JSON.stringify(token));

  // Question and observations, which the model is given, stand in angle brackets, as `lengthwise trace` writes them.
  function written(side, offset) {
    const token = shown(names[side.tokens[offset]]);
    return "03".includes(side.roles[offset]) ? `<${token}>` : token;
  }

  const roleOf = (side, offset) => ROLES[side.roles[offset]];

  function said(name) {
    const side = failure[name];
    if (place < side.tokens.length) return `${name}: ${roleOf(side, place)} ${written(side, place)}`;
    return `${name}: ${name === "oracle" || failure.known === "whole" ? "has ended" : "not known"}`;
  }

  function where() {
    const away = place - failure.at;
    if (away < 0) return `${-away} before the divergence`;
    return away ? `${away} past the divergence` : "first wrong token";
  }

  function step() {
    const [, number, name] = failure.steps.findLast(([offset]) => offset <= place) || [0, 0, ""];
    return place > failure.at || !name ? "" : `, solver step ${number} (${name})`;
  }

  function beyond() {
    if (failure.known === "wrong token") return "Not rolled out: what the model would have done next is not known.";
    return failure.known === "part" ? "The rollout goes on; only its first tokens are kept." : "";
  }

  function showStatus() {
    const position = (failure.start + place).toLocaleString("en-US");
    status.replaceChildren(node("b", `Token ${position}${step()}: ${where()}`), ` · ${SIDES.map(said).join(" · ")}`);
    if (place >= failure.model.tokens.length - 1 && beyond()) status.append(node("small", beyond()));
  }

  function showStrip() {
    const from = Math.max(0, place - AROUND), to = Math.min(last, place + AROUND);
    const head = node("tr");
    head.append(node("th", "token"));
    const rows = SIDES.map((name) => {
      const row = node("tr");
      const title = row.appendChild(node("th", name));
      title.scope = "row";
      return row;
    });
    for (let offset = from; offset <= to; offset++) {
      const marks = [offset === place && "here", offset === failure.at && "divergence"].filter(Boolean).join(" ");
      const number = head.appendChild(node("th", (failure.start + offset).toLocaleString("en-US"), marks));
      number.scope = "col";
      number.dataset.offset = offset;
      SIDES.forEach((name, index) => {
        const side = failure[name];
        const inside = offset < side.tokens.length;
        const differs = offset >= failure.at && inside && side.tokens[offset] !== failure.oracle.tokens[offset];
        const classes = [marks, inside ? `role ${roleOf(side, offset)}` : "", differs && name === "model" ? "differs" : ""];
        const cell = rows[index].appendChild(node("td", inside ? written(side, offset) : "", classes.filter(Boolean).join(" ")));
        cell.dataset.offset = offset;
        if (inside) cell.title = `token ${failure.start + offset}: ${roleOf(side, offset)}`;
        if (offset === place) cell.setAttribute("aria-current", "step");
      });
    }
    strip.replaceChildren(node("caption", "Oracle and model, token by token"), head, ...rows);
    const here = head.querySelector(".here"), box = strip.parentElement;
    box.scrollLeft = here.offsetLeft - (box.clientWidth - here.offsetWidth) / 2;
  }

  function visible(now, size) {
    if (size <= CELLS) return [...Array(size).keys()];
    const centres = [...Object.values(now.pointers), ...now.fresh, now.memory.length - 1];
    const cells = new Set(centres.flatMap((centre) => [...Array(2 * NEAR + 1).keys()].map((by) => centre - NEAR + by)));
    return [...cells].filter((cell) => cell >= 0 && cell < size).sort((one, other) => one - other);
  }

  function showMemory(name, other) {
    const now = held(failure[name], Math.min(place, failure[name].tokens.length - 1));
    const standing = new Map();
    for (const [pointer, cell] of Object.entries(now.pointers)) standing.set(cell, [...(standing.get(cell) || []), pointer]);
    const size = Math.max(now.memory.length, ...[...standing.keys()].map((cell) => cell + 1));
    const box = part(name);
    box.replaceChildren();
    if (!size) box.append(node("span", "nothing", "gap"));
    let before = -1;
    for (const cell of visible(now, size)) {
      if (cell > before + 1) box.append(node("span", "…", "gap"));
      before = cell;
      const differs = place >= failure.at && now.memory[cell] !== other.memory[cell];
      const classes = [standing.has(cell) && "pointed", now.fresh.includes(cell) && "fresh", differs && "differs"];
      const made = node("span", cell < now.memory.length ? shown(names[now.memory[cell]]) : "▫", classes.filter(Boolean).join(" "));
      if (standing.has(cell)) made.append(node("sup", standing.get(cell).join("·")));
      made.title = `cell ${cell}${standing.has(cell) ? `, pointer ${standing.get(cell).join(" and ")}` : ""}`;
      box.append(made);
    }
  }

  function show(next) {
    place = Math.max(0, Math.min(last, next));
    slider.value = place;
    slider.setAttribute("aria-valuetext", `token ${failure.start + place}, ${where()}`);
    viewer.dataset.place = place;
    showStatus();
    showStrip();
    const [oracle, model] = SIDES.map((name) => held(failure[name], Math.min(place, failure[name].tokens.length - 1)));
    showMemory("oracle", model);
    showMemory("model", oracle);
  }

  function choose(index) {
    failure = data.failures[index];
    last = Math.max(...SIDES.map((name) => failure[name].tokens.length)) - 1;
    slider.max = last;
    for (const card of cards) card.hidden = card.dataset.failure !== pick.value;
    show(failure.at);
  }

  const GO = {
    first: () => 0,
    back: (by) => place - by,
    forward: (by) => place + by,
    last: () => last,
    divergence: () => failure.at,
  };
  const KEYS = { Home: "first", ArrowLeft: "back", ArrowRight: "forward", End: "last", d: "divergence" };

  pick.addEventListener("change", () => choose(pick.selectedIndex));
  slider.addEventListener("input", () => show(Number(slider.value)));
  viewer.addEventListener("click", (event) => {
    const button = event.target.closest("[data-go]"), cell = event.target.closest("[data-offset]");
    if (button) show(GO[button.dataset.go](1));
    else if (cell) show(Number(cell.dataset.offset));
  });
  viewer.addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.target === pick || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    show(GO[KEYS[event.key]](event.shiftKey ? 10 : 1));
  });
  addEventListener("resize", () => show(place));
  viewer.hidden = false;
  choose(0);
})();
