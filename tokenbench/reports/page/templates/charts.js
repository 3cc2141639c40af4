// Charts: the specifications come with the page, and are given the rows that are chosen.

const MOST_POINTS = 1000;
const MOST_BANDS = 40;
const MANY = 5; // methods, from which on lines are drawn in a panel each

function chosen(all, most, name) {
  if (all.length <= most) return { list: all, note: "" };
  const best = all.filter((row) => frontsOf(row).length).slice(0, most);
  const rest = all.filter((row) => !frontsOf(row).length);
  const left = most - best.length;
  const even = Array.from({ length: left }, (_, i) => rest[Math.floor((i * rest.length) / left)]).filter(known);
  return { list: [...best, ...even], note: `${most} of ${all.length} ${name} are drawn, those on a front first; the table has all. ` };
}

let drawing = 0;
async function draw() {
  const mine = ++drawing;
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    await new Promise((go) => setTimeout(go)); // what is above is painted first
    if (mine !== drawing) return;
    await plot(figure);
  }
  if (mine === drawing) document.documentElement.dataset.drawn = String(mine);
}

const plotAccuracy = async () => {
  await plot(find("chart-accuracy"));
  await plot(find("chart-methods"));
};

function rowsOf(name, chart) {
  const members = rows.filter(inGroup);
  const sweeps = new Set(members.map((row) => row.sweep));
  const all = name === "batches" ? rows.filter((row) => sweeps.has(row.sweep) && !state.hidden.has(row.method)) : here();
  return ok(all).filter((row) => chart.needs.every((field) => known(row[field])));
}

async function plot(figure) {
  const name = figure.dataset.chart;
  const chart = page.charts[name === "methods" ? "accuracy" : name];
  const target = figure.querySelector(".plot");
  const group = chosenGroup();
  const all = rowsOf(name, chart);
  const methods = [...new Set(all.map((row) => row.method))].filter((method) => method !== "dense");
  const several = name !== "batches" || new Set(all.map((row) => row.batch)).size > 1;
  const panels = name === "methods" || (["tokens", "batches"].includes(name) && methods.length >= MANY);
  figure.hidden = !several || (name === "methods" && (methods.length < MANY || all.length < 12));
  for (const part of [target, ...target.querySelectorAll(".panel > div")]) {
    if (part.made) part.made.finalize();
    part.made = null;
  }
  if (figure.hidden) return target.replaceChildren();
  const { list, note } = chosen(all, chart.banded ? MOST_BANDS : MOST_POINTS, "settings");
  const settings = new Set(all.map(nameOf)).size;
  const under = name === "accuracy" ? list.filter((row) => metric().sign * row.score < floorOf(all)).length : 0;
  const below = under ? `${under === 1 ? "One setting is" : `${under} settings are`} less accurate than the chart goes down, and ${under === 1 ? "stands" : "stand"} at its edge with the value. ` : "";
  const caption = [note, below, name === "batches" ? `${settings} settings; ` : "", where(group, name)].join("");
  figure.querySelector("figcaption").textContent = caption;
  const keys = figure.querySelector(".keys");
  if (keys) keys.replaceChildren(...Object.entries(group.keys[name]).map(([part, colour]) => make("li", {}, make("i", { style: `background: var(--part-${colour})` }), part)));
  provenance(figure, all);
  const absent = (text) => target.replaceChildren(make("p", { class: "absent" }, text));
  if (!all.length) return absent("Not measured under these conditions.");
  if (typeof vegaEmbed === "undefined") return absent("Not drawn: the chart engine cannot start on the machine that made this page.");
  if (name === "batches") list.forEach((row) => (row.crossed = list.some((r) => r.name === row.name && r.batch < row.break_even)));
  const title = figure.querySelector("h2").textContent;
  if (!panels) {
    target.classList.remove("panels");
    await embed(target, chart, list, { joined: name !== "accuracy" || methods.length < MANY, description: `${title}. ${caption}` });
    if (name === "accuracy") dress(target);
    else if (["differences", "saved"].includes(name)) reach(target);
    return;
  }
  target.classList.add("panels");
  const shown = methods.slice(0, MOST_BANDS);
  const boxes = shown.map((method) => make("div", { class: "panel" }, make("h3", {}, mark(method), method), make("div")));
  target.replaceChildren(...boxes);
  for (const [i, method] of shown.entries()) {
    const mine = list.filter((row) => row.method === method || row.method === "dense");
    const others = list.filter((row) => row.method !== method && row.method !== "dense");
    if (!boxes[i].isConnected) return; // something else is being drawn by now
    await embed(boxes[i].lastChild, chart, mine, { others, height: 150, description: `${title}: ${method}. ${caption}` });
    if (name === "methods") dress(boxes[i].lastChild, method);
  }
}

// The least accuracy that the chart shows: a few settings far below all others would press those into a line.
function floorOf(list) {
  const sign = metric().sign;
  const worth = list.filter((row) => known(row.score)).sort((a, b) => sign * (b.score - a.score));
  const least = (row) => Math.min(...[row.score, row.score_low, row.score_high].filter(known).map((value) => sign * value));
  for (let i = Math.ceil(0.75 * worth.length); i < worth.length; i++) {
    const top = sign * worth[0].score;
    const floor = Math.min(...worth.slice(0, i).map(least));
    if (floor - sign * worth[i].score > 0.8 * (top - floor)) return floor - 0.08 * (top - floor);
  }
  return -Infinity;
}

// Axes of a small panel need no titles, which stand above all panels, and marks that do not hide each other.
function bare(spec) {
  for (const { encoding } of spec.layer) {
    for (const name of ["x", "y"]) if (encoding[name]) encoding[name].title = null;
    for (const size of [encoding.size, encoding.size?.condition].flat()) if (size?.value) size.value /= 2;
  }
}

async function embed(target, chart, list, { others = [], height = null, joined = true, description }) {
  const wording = JSON.stringify(chart.specs[axisNow()] || chart.specs[""]);
  const spec = JSON.parse(wording.replace(/\{(axis|heading|short|points)\}/g, (_, name) => JSON.stringify(metric()[name]).slice(1, -1)));
  spec.description = description;
  if (height) {
    spec.height = height;
    bare(spec);
  }
  const floor = floorOf(rowsOf("accuracy", page.charts.accuracy));
  const placed = (row) => ({ ...words(row), drawn: metric().sign * Math.max(metric().sign * row.score, floor), floor: Number.isFinite(floor) ? floor : null, knob: joined ? row.knob : null });
  if (chart.banded) spec.height *= new Set(list.map(nameOf)).size;
  const members = chosenGroup().members;
  const printed = page.published.filter((made) => members.includes(rows[made.row].group) && list.some((row) => row.index === made.row));
  spec.datasets = {
    ...spec.datasets,
    rows: list.map(placed),
    others: others.map(placed),
    budget: height ? budgetLine().map((line) => ({ ...line, label: "" })) : budgetLine(),
    published: printed.map((made) => ({ ...placed(rows[made.row]), ...made, name: nameOf(rows[made.row]), t_published: `${made.t_published} (${made.t_how})` })),
  };
  const config = height ? { ...page.config, axis: { ...page.config.axis, titleFontSize: 11, labelFontSize: 10, titlePadding: 6, tickCount: 3 } } : page.config;
  target.style.minHeight = `${target.offsetHeight}px`;
  target.made = await vegaEmbed(target, spec, { actions: false, renderer: "svg", ast: true, logLevel: 1, config, tooltip: { theme: "own", disableDefaultStyle: true } });
  target.style.minHeight = "";
}

// Names, keys and what follows the width of the window.
function dress(target, method) {
  label(target, method);
  reach(target);
  const view = target.made.view;
  view.addSignalListener("width", () => view.runAsync().then(() => target.made && (label(target, method), reach(target))));
}

function moveBudget() {
  for (const target of [find("chart-accuracy").querySelector(".plot"), ...find("chart-methods").querySelectorAll(".panel > div")]) {
    if (!target.made) continue;
    const method = target.parentElement.classList.contains("panel") ? target.previousSibling.textContent : null;
    const lines = method ? budgetLine().map((line) => ({ ...line, label: "" })) : budgetLine();
    target.made.view.data("budget", lines).runAsync().then(() => target.made && label(target, method));
  }
}

// The points that are picked get a ring.
function picked() {
  for (const element of document.querySelectorAll(".points_marks > path")) {
    const datum = element.__data__ && element.__data__.datum;
    const on = Boolean(datum) && state.pair.includes(datum.index);
    element.classList.toggle("picked", on);
    element.setAttribute("aria-pressed", String(on));
  }
}

function where(group, name) {
  const c = group.conditions;
  const data = ["accuracy", "methods", "differences"].includes(name) ? `${c.data}; ` : "";
  const subset = data && group.subset ? `${group.subset}; ` : "";
  const batch = name === "batches" ? "" : `, batch ${c.batch}`;
  return `${c.backbone}, ${c["image size"]}; ${subset}${data}${c.hardware}, ${c.precision}${batch}, ${c.mode}.`;
}

function provenance(figure, all) {
  const details = figure.querySelector("details");
  const fill = () => {
    const group = chosenGroup();
    const shown = all.slice(0, 200).map((row) => row.id);
    const conditions = { ...group.conditions, ...(group.subset ? { subset: group.subset } : {}) };
    if (figure.dataset.chart === "batches") conditions.batch = [...new Set(all.map((row) => row.batch))].sort((a, b) => a - b).join(", ");
    const facts = { ...conditions, ...group.environment, rows: shown.join(" ") + (all.length > shown.length ? ` and ${all.length - shown.length} more` : "") };
    const entries = Object.entries(facts).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]);
    details.querySelector("div").replaceChildren(make("dl", {}, ...entries));
  };
  details.ontoggle = () => details.open && fill();
  if (details.open) fill();
}
