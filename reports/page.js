// The page: figures drawn as they come near the window, filters, theme, contents, numbers beside figures, print.
// A section's own script is a file beside its Python, named in page.py, in a block of its own as this one.

const FILTERS = ["task", "setting", "architecture", "seed"];
// A list of the buttons wanted, not of those unwanted: Plotly's upload button can then never appear.
const CONFIG = {
  displayModeBar: "hover",
  displaylogo: false,
  showSendToCloud: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};
const root = document.documentElement;
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const plots = all(".plot");

// Plotly and the figures, compressed in the page -----------------------------------------------------------------------

function unpack(element) {
  const packed = atob(element.textContent);
  const bytes = new Uint8Array(packed.length);
  for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function start() {
  const script = document.createElement("script");
  script.textContent = await unpack(document.getElementById("plotly")); // the policy lets this very text run
  document.head.append(script);
}

const specifications = new Map();
const specification = (plot) => JSON.parse(specifications.get(plot));
async function read(plot) {
  specifications.set(plot, await unpack(plot.parentElement.querySelector("script")));
}
const unpacked = plots.length ? Promise.all([start(), ...plots.map(read)]) : null;

// Figures ------------------------------------------------------------------------------------------------------------
// Those near the window first, then the others while nothing else happens; a figure that cannot be seen (folded,
// filtered) waits until it can. A figure is stale until it is drawn with the present filters.

const stale = new Set(plots);
const near = new Set();
let working = false;

const next = () => [...near].find((plot) => stale.has(plot)) || [...stale].find((plot) => plot.clientWidth);
const pause = (idle) => new Promise((go) => (idle && window.requestIdleCallback ? requestIdleCallback(go) : setTimeout(go)));

async function work() {
  if (working) return;
  working = true;
  delete root.dataset.drawn;
  await unpacked;
  for (let plot = next(); plot; plot = next()) {
    stale.delete(plot);
    await draw(plot);
    if (![...near].some((other) => stale.has(other))) performance.mark("lengthwise:in-view");
    await pause(!near.size || ![...near].some((other) => stale.has(other)));
  }
  working = false;
  root.dataset.drawn = plots.filter((plot) => plot.data).length;
  performance.mark("lengthwise:all");
}

async function draw(plot) {
  try {
    if (plot.data) {
      await Plotly.restyle(plot, { visible: plot.data.map((trace) => !hides(trace.meta)) });
    } else {
      const figure = specification(plot);
      for (const trace of figure.data) if (hides(trace.meta)) trace.visible = false;
      await Plotly.newPlot(plot, figure.data, figure.layout, CONFIG);
      sizes.observe(plot);
    }
  } catch (error) {
    plot.textContent = "This figure could not be drawn.";
    console.error(error);
  }
}

const sight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) isIntersecting ? near.add(target) : near.delete(target);
    work();
  },
  { rootMargin: "400px" },
);
const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const drawn = target.querySelector(".main-svg");
    if (contentRect.width && drawn && Math.abs(drawn.clientWidth - contentRect.width) > 1) Plotly.Plots.resize(target);
  }
});

// Filters ------------------------------------------------------------------------------------------------------------
// What is hidden stands in the address, so that a view can be passed on; what a later report adds is then shown.

const hidden = Object.fromEntries(FILTERS.map((name) => [name, new Set()]));
const hides = (about) =>
  FILTERS.some((name) => hidden[name].has(about?.[name])) || hidden.architecture.has(about?.against); // it compares two
const controls = all("[data-filter]");
const marked = all(FILTERS.map((name) => `[data-${name}]`).join());

function apply() {
  for (const control of controls) {
    const shown = !hidden[control.dataset.filter].has(control.value);
    control.type === "checkbox" ? (control.checked = shown) : control.setAttribute("aria-pressed", shown);
  }
  for (const element of marked) element.classList.toggle("filtered", hides(element.dataset));
  for (const plot of plots) {
    const wrong = (trace) => hides(trace.meta) === (trace.visible !== false);
    if (plot.data?.some(wrong)) stale.add(plot);
  }
  tell();
  work();
}

function tell() {
  for (const menu of all("[data-menu]")) {
    const boxes = controls.filter((control) => control.dataset.filter === menu.dataset.menu);
    const shown = boxes.filter((box) => box.checked).length;
    menu.querySelector(".count").textContent = shown < boxes.length ? `${shown} of ${boxes.length}` : "";
  }
  const said = FILTERS.filter((name) => hidden[name].size).map((name) => `${name} ${[...hidden[name]].join(", ")}`);
  const everything = document.getElementById("everything");
  if (everything) everything.hidden = !said.length;
  const status = document.getElementById("shown");
  if (status) status.textContent = said.length ? `Hidden: ${said.join("; ")}.` : "Everything is shown.";
}

function remember(at) {
  const state = new URLSearchParams();
  for (const name of FILTERS) for (const value of hidden[name]) state.append(`hide-${name}`, value);
  if (root.dataset.theme) state.set("theme", root.dataset.theme);
  if (at && [...state].length) state.set("at", at);
  history.replaceState(null, "", `#${[...state].length ? state : at || ""}`);
}

function recall() {
  const hash = location.hash.slice(1);
  if (!hash.includes("=")) {
    if (hash) remember(hash); // a link within the page: it keeps what is hidden
    return;
  }
  const state = new URLSearchParams(hash);
  for (const name of FILTERS) hidden[name] = new Set(state.getAll(`hide-${name}`));
  theme(state.get("theme"));
  apply();
  document.getElementById(state.get("at"))?.scrollIntoView();
}

for (const control of controls) {
  control.addEventListener(control.type === "checkbox" ? "change" : "click", () => {
    const { filter } = control.dataset;
    if (!hidden[filter].delete(control.value)) hidden[filter].add(control.value);
    apply();
    remember();
  });
}
document.getElementById("everything")?.addEventListener("click", () => {
  for (const name of FILTERS) hidden[name].clear();
  apply();
  remember();
});

// Theme, menus, contents ---------------------------------------------------------------------------------------------

function theme(wanted) {
  if (wanted === "light" || wanted === "dark") root.dataset.theme = wanted;
  else delete root.dataset.theme;
  for (const radio of all("[name=theme]")) radio.checked = radio.value === (root.dataset.theme || "");
}
for (const radio of all("[name=theme]")) {
  radio.addEventListener("change", () => {
    theme(radio.value);
    remember();
  });
}

const menus = all(".menu");
for (const menu of menus) {
  menu.addEventListener("toggle", () => menu.open && menus.forEach((other) => (other.open = other === menu)));
}
addEventListener("pointerdown", (event) => {
  for (const menu of menus) if (!menu.contains(event.target)) menu.open = false;
});
addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && menus.find((one) => one.open);
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

for (const section of all("section[id]")) {
  const title = section.querySelector("h2");
  if (!title) continue;
  const link = document.createElement("a");
  link.href = `#${section.id}`;
  link.textContent = title.textContent;
  document.getElementById("contents")?.append(link);
}

// The numbers of a figure as a table, made when somebody opens it ------------------------------------------------------

const MOST = 12; // of a series; longer ones are thinned evenly, their last point kept
const plain = (text) =>
  String(text ?? "")
    .replace(/<br>/g, ", ")
    .replace(/<[^>]*>/g, "")
    .replace(/&(lt|gt|amp);/g, (_, name) => ({ lt: "<", gt: ">", amp: "&" })[name]);
const rounded = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : plain(value));

function numbers(figure) {
  const { data, layout } = specification(figure.querySelector(".plot"));
  const [x, y] = [layout.xaxis, layout.yaxis].map((axis) => axis?.title?.text || "");
  return data.filter((trace) => !hides(trace.meta)).flatMap((trace) => (trace.z ? cells(trace) : series(trace, x, y)));
}

const cells = ({ x, y, z }) => z.flatMap((line, row) => values(line).map((one, at) => [y[row], `${x[at]}: ${rounded(one)}`]));

function series(trace, x, y) {
  const [across, up] = [values(trace.x), values(trace.y)];
  const every = Math.max(1, Math.ceil(across.length / MOST));
  const kept = [...across.keys()].filter((place) => place % every === 0 || place === across.length - 1);
  return kept.map((place) => {
    const said = Array.isArray(trace.hovertext) && plain(trace.hovertext[place].replace(/^<b>.*?<\/b><br>/, ""));
    return [plain(trace.name), said || `${x} ${rounded(across[place])}: ${y} ${rounded(up[place])}`];
  });
}

// Plotly writes arrays of numbers as base64 where they came from Polars or NumPy.
const KINDS = { f8: Float64Array, f4: Float32Array, i4: Int32Array, i2: Int16Array, i1: Int8Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };
function values(given) {
  if (!given?.bdata) return given || [];
  const bytes = Uint8Array.from(atob(given.bdata), (letter) => letter.charCodeAt(0));
  return [...new KINDS[given.dtype](bytes.buffer)];
}

for (const fold of all(".numbers-of")) {
  fold.addEventListener("toggle", async () => {
    if (!fold.open) return;
    await unpacked;
    const table = document.createElement("table");
    const body = table.createTBody();
    for (const line of numbers(fold.closest("figure"))) {
      const row = body.insertRow();
      for (const value of line) row.insertCell().textContent = value;
    }
    fold.querySelector("div").replaceChildren(table);
  });
}

// Print --------------------------------------------------------------------------------------------------------------
// Paper has two columns of panels, three of small ones (page.css); every figure is drawn, to their width.

addEventListener("beforeprint", () => {
  if (!window.Plotly || specifications.size < plots.length) return;
  sizes.disconnect();
  for (const plot of plots) {
    if (!plot.clientWidth) continue;
    stale.delete(plot);
    if (!plot.data) draw(plot);
    const width = plot.closest(".small") ? 215 : plot.closest(".panels") ? 330 : 680;
    Plotly.relayout(plot, { autosize: false, width });
  }
});
addEventListener("afterprint", () => {
  for (const plot of plots) {
    if (!plot.data) continue;
    Plotly.relayout(plot, { autosize: true, width: null });
    sizes.observe(plot);
  }
});

addEventListener("hashchange", recall);
for (const plot of plots) sight.observe(plot);
recall();
tell();
work();
