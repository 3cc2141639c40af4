// Rows, what is chosen now, and the small parts that everything is made of.

const page = JSON.parse(document.getElementById("data").textContent);
const MISSING = "–";
const find = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined;
const minus = (text) => text.replace(/(?<![\w])-(?=\d)/g, "−");

const tight = (text) => text.replace(/(?<=\d) (?=%|points?|ms|MiB|GMAC)/g, "\u00a0");

function unpack(columns, count) {
  const made = Array.from({ length: count }, (_, index) => ({ index }));
  for (const [name, { values, at, same }] of Object.entries(columns)) {
    for (let i = 0; i < count; i++) made[i][name] = at ? values[at[i]] : values[same ? 0 : i];
  }
  return made;
}

const rows = unpack(page.columns, page.count);
const looks = new Map(page.methods.map((method, i) => [method.name, { ...method, colour: `var(--method-${i})` }]));
const state = { group: 0, axis: null, hidden: new Set(), limit: "drop", value: null, pair: [], sort: null, down: false, first: 0 };

const chosenGroup = () => page.groups[state.group];
const isTogether = () => chosenGroup().members.length > 1;
const metric = (group = chosenGroup()) => group.metric;
const axisNow = () => state.axis || chosenGroup().answers.axis;
const nameOf = (row) => (isTogether() ? `${row.name} on ${row.backbone}` : row.name);
const frontsOf = (row) => (isTogether() ? row.fronts_across : row.fronts);
const inGroup = (row) => chosenGroup().members.includes(row.group);
const here = () => rows.filter((row) => inGroup(row) && !state.hidden.has(row.method));
const ok = (list) => list.filter((row) => row.status === "ok");

// A row as charts take it.
function words(row) {
  return {
    ...row,
    ...Object.fromEntries(Object.entries(row).filter(([name]) => name.startsWith("t_")).map(([name, text]) => [name, minus(text)])),
    ...Object.fromEntries(page.axes.map((axis) => [`front_${axis.field}`, frontsOf(row).includes(axis.field)])),
    name: nameOf(row),
    chosen: state.pair.includes(row.index),
    t_even: known(row.break_even) ? String(row.break_even) : "none of these",
    blocks: row.tokens_mean ? row.tokens_mean.map((_, i) => i) : null,
    tokens_low: row.tokens_mean ? row.tokens_mean.map((mean, i) => mean - ((row.tokens_std || [])[i] || 0)) : null,
    tokens_high: row.tokens_mean ? row.tokens_mean.map((mean, i) => mean + ((row.tokens_std || [])[i] || 0)) : null,
  };
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && known(value)) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(known));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(text);
  return element;
}

function mark(method, hollow = false) {
  const look = looks.get(method);
  const svg = shape("svg", { class: "mark", viewBox: "-1 -1 2 2", "aria-hidden": "true" });
  const path = shape("path", { d: look ? look.outline : "M0.8,0A0.8,0.8,0,1,1,-0.8,0A0.8,0.8,0,1,1,0.8,0Z", fill: hollow ? "none" : look.colour });
  if (hollow) path.setAttribute("style", "stroke: currentColor; stroke-width: 0.3");
  svg.append(path);
  return svg;
}

const small = (text) => (text ? make("small", {}, text) : null);

// A setting, which can be picked to stand beside another.
function setting(row, shown = nameOf(row)) {
  const pressed = state.pair.includes(row.index);
  return make("button", { type: "button", class: "pick", "data-row": row.index, "aria-pressed": String(pressed), title: "Compare with another row", onclick: () => pick(row) }, mark(row.method), shown);
}

// A cell's value, and its interval in small.
function cell(text) {
  const [value, ends] = minus(text).split(" [");
  return [value, small(ends && ends.slice(0, -1).replace(", ", " to "))];
}

function table(columns, list, options = {}) {
  const head = make("tr");
  for (const column of columns) {
    const direction = options.sort === column ? (options.down ? "descending" : "ascending") : null;
    const title = options.onsort ? make("button", { type: "button", onclick: () => options.onsort(column) }, column.title) : column.title;
    head.append(make("th", { scope: "col", class: column.text ? "text" : null, "aria-sort": direction }, title));
  }
  const body = make("tbody");
  for (const row of list) {
    const line = make("tr");
    for (const column of columns) {
      const shown = column.show(row);
      line.append(make("td", { class: column.text ? "text" : null }, ...(Array.isArray(shown) ? shown : [shown])));
    }
    body.append(line);
  }
  return make("table", {}, options.caption ? make("caption", {}, options.caption) : null, make("thead", {}, head), body);
}

// ---- columns

const budgetOf = (row) => (row.t_budget === MISSING ? null : row.t_budget);
const SETTING = {
  title: "setting",
  value: (row) => row.name,
  show: (row) => [setting(row), small([row.trained ? `weights ${row.trained}` : null, budgetOf(row)].filter(known).join(", "))],
};
const headings = new Set(page.groups.map((group) => group.metric.heading));
const COLUMNS = page.cells.map(({ title, name, field, spare }) => ({
  title: name === "score" && headings.size > 1 ? "score" : title,
  spare,
  text: name === "verdict",
  value: (row) => row[field],
  show: (row) => cell(row[`t_${name}`]),
  filled: (row) => row[`t_${name}`] !== MISSING,
}));
const measured = (columns, list) => columns.filter((column) => list.some(column.filled || ((row) => known(column.value(row)))));

// ---- the address keeps what is chosen, so that a link shows the same

const byDefault = {};

function remember() {
  const form = find("filters");
  const now = {
    conditions: chosenGroup().name,
    axis: axisNow(),
    hide: [...state.hidden].join(","),
    limit: state.limit,
    at: known(state.value) ? String(state.value) : "",
    pair: state.pair.map((index) => rows[index].id).join(","),
    find: form.text.value,
    method: form.method.value,
    status: form.status.value,
    here: form.here.checked ? "1" : "",
    sort: state.sort ? `${state.down ? "-" : ""}${state.sort.title}` : "",
    theme: document.documentElement.dataset.theme || "",
  };
  if (!("conditions" in byDefault)) return void Object.assign(byDefault, now);
  const changed = Object.entries(now).filter(([name, value]) => value !== byDefault[name]);
  const hash = changed.length ? `#${new URLSearchParams(changed)}` : "";
  try {
    history.replaceState(null, "", hash || location.href.split("#")[0]);
  } catch {
    // a page inside another may not change its address
  }
}

function recall() {
  const given = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const group = page.groups.findIndex((one) => one.name === given.get("conditions"));
  if (group >= 0) state.group = group;
  if (page.axes.some((axis) => axis.field === given.get("axis"))) state.axis = given.get("axis");
  for (const name of (given.get("hide") || "").split(",")) if (looks.has(name)) state.hidden.add(name);
  if (given.get("limit")) state.limit = given.get("limit");
  if (given.get("at")) state.value = Number(given.get("at"));
  const ids = (given.get("pair") || "").split(",");
  state.pair = ids.map((id) => rows.findIndex((row) => row.id === id)).filter((index) => index >= 0).slice(0, 2);
  const form = find("filters");
  form.text.value = given.get("find") || "";
  for (const name of ["method", "status"]) if ([...form[name].options].some((option) => option.value === given.get(name))) form[name].value = given.get(name);
  form.here.checked = given.get("here") === "1";
  const sort = given.get("sort") || "";
  state.sort = tableColumns.find((column) => column.title === sort.replace(/^-/, "")) || null;
  state.down = sort.startsWith("-");
  if (["light", "dark"].includes(given.get("theme"))) document.documentElement.dataset.theme = given.get("theme");
}
