"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const MISSING = "–";
  const MOST_POINTS = 1000;
  const MOST_BANDS = 40;
  const A_PAGE = 50;
  const rows = unpack(page.columns, page.count);
  const looks = new Map(page.methods.map((method, i) => [method.name, { ...method, colour: `var(--method-${i})` }]));
  const state = { group: 0, axis: page.axes[0].field, hidden: new Set(), sort: null, down: false, first: 0 };
  const find = (id) => document.getElementById(id);

  // ---- rows

  function unpack(columns, count) {
    const names = Object.keys(columns);
    const made = Array.from({ length: count }, (_, index) => ({ index }));
    for (const name of names) {
      const { values, at } = columns[name];
      for (let i = 0; i < count; i++) made[i][name] = at ? values[at[i]] : values[i];
    }
    return made;
  }

  const known = (value) => value !== null && value !== undefined;
  const minus = (text) => text.replace(/(?<![\w])-(?=\d)/g, "−");

  function words(row) {
    return {
      ...row,
      ...Object.fromEntries(Object.entries(row).filter(([name]) => name.startsWith("t_")).map(([name, text]) => [name, minus(text)])),
      ...Object.fromEntries(page.axes.map((axis) => [`front_${axis.field}`, row.fronts.includes(axis.field)])),
      t_even: known(row.break_even) ? String(row.break_even) : "none of these",
      blocks: row.tokens_mean ? row.tokens_mean.map((_, i) => i) : null,
      tokens_low: row.tokens_mean ? row.tokens_mean.map((mean, i) => mean - ((row.tokens_std || [])[i] || 0)) : null,
      tokens_high: row.tokens_mean ? row.tokens_mean.map((mean, i) => mean + ((row.tokens_std || [])[i] || 0)) : null,
    };
  }

  const here = () => rows.filter((row) => row.group === state.group && !state.hidden.has(row.method));
  const ok = (list) => list.filter((row) => row.status === "ok");

  // ---- small parts of the page

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && known(value)) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter(known));
    return element;
  }

  function mark(method, hollow = false) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    const path = document.createElementNS(space, "path");
    const look = looks.get(method);
    svg.setAttribute("class", "mark");
    svg.setAttribute("viewBox", "-1 -1 2 2");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", look ? look.outline : "M0.8,0A0.8,0.8,0,1,1,-0.8,0A0.8,0.8,0,1,1,0.8,0Z");
    path.setAttribute("fill", hollow ? "none" : look.colour);
    if (hollow) {
      path.setAttribute("stroke", "currentColor");
      path.setAttribute("stroke-width", "0.3");
    }
    svg.append(path);
    return svg;
  }

  const setting = (row) => make("span", {}, mark(row.method), row.name);
  const small = (text) => (text ? make("small", {}, text) : null);

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

  const SETTING = { title: "setting", value: (row) => row.name, show: (row) => [setting(row), small([row.trained ? `weights ${row.trained}` : null, row.t_budget === MISSING ? null : row.t_budget].filter(known).join(", "))] };
  const headings = new Set(page.groups.map((group) => group.metric.heading));
  const COLUMNS = page.cells.map(({ title, name, field, spare }) => ({
    title: name === "score" && headings.size > 1 ? "score" : title,
    spare,
    text: name === "verdict",
    value: (row) => row[field],
    show: (row) => cell(row[`t_${name}`]),
    filled: (row) => row[`t_${name}`] !== MISSING,
  }));
  const metric = (group = state.group) => page.groups[group].metric;
  const measured = (columns, list) => columns.filter((column) => list.some(column.filled || ((row) => known(column.value(row)))));

  // ---- the answer

  function answer() {
    const group = page.groups[state.group];
    const c = group.conditions;
    const axis = page.axes.find((a) => a.field === state.axis);
    const { headline, lead } = group.answers[state.axis];
    find("headline").textContent = headline;
    find("lead").replaceChildren(...lead.map((part) => (Array.isArray(part) ? make("strong", {}, ...part) : minus(part))));
    const parts = [c.weights === "random" ? "random weights" : `weights ${c.weights}`, `${c["image size"]}`, c.data, c.hardware, c.precision, `batch ${c.batch}`, c.mode];
    const badges = [group.subset, c.weights === "random" ? "random weights" : null].filter(known);
    find("conditions").replaceChildren(...badges.map((text) => make("span", { class: "badge" }, text)), parts.join("; ") + ".");
    const shown = ok(here()).filter((row) => row.fronts.includes(state.axis)).sort((a, b) => metric().sign * (b.score - a.score));
    const columns = measured([SETTING, ...COLUMNS.filter((column) => !column.spare)], shown);
    find("front").replaceChildren(shown.length ? table(columns, shown, { caption: `On the front of ${metric().noun} against ${axis.short}` }) : "");
    find("notes").replaceChildren(...group.notes.map((note) => make("li", {}, minus(note))));
  }

  // ---- charts

  function chosen(all, most, name) {
    if (all.length <= most) return { list: all, note: "" };
    const step = all.length / most;
    const best = all.filter((row) => row.fronts.length).slice(0, most);
    const rest = all.filter((row) => !row.fronts.length);
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

  async function plot(figure) {
    const name = figure.dataset.chart;
    const chart = page.charts[name];
    const target = figure.querySelector(".plot");
    const group = page.groups[state.group];
    const sweep = (rows.find((row) => row.group === state.group) || {}).sweep;
    let all = name === "batches" ? rows.filter((row) => row.sweep === sweep && !state.hidden.has(row.method)) : here();
    all = ok(all).filter((row) => chart.needs.every((field) => known(row[field])));
    const several = name !== "batches" || new Set(all.map((row) => row.batch)).size > 1;
    const settings = new Set(all.map((row) => row.name)).size;
    figure.hidden = name === "batches" && !several;
    if (figure.hidden) return;
    const bands = !["accuracy", "saved"].includes(name);
    const { list, note } = chosen(all, bands && name !== "batches" ? MOST_BANDS : MOST_POINTS, "settings");
    const caption = [note, name === "batches" ? `${settings} settings; ` : "", where(group, name)].join("");
    figure.querySelector("figcaption").textContent = caption;
    const keys = figure.querySelector(".keys");
    if (keys) keys.replaceChildren(...Object.entries(group.keys[name]).map(([part, colour]) => make("li", {}, make("i", { style: `background: var(--part-${colour})` }), part)));
    provenance(figure, all);
    if (target.made) target.made.finalize();
    target.made = null;
    if (!all.length) {
      target.replaceChildren(make("p", { class: "absent" }, "Not measured under these conditions."));
      return;
    }
    if (typeof vegaEmbed === "undefined") {
      target.replaceChildren(make("p", { class: "absent" }, "Not drawn: the chart engine cannot start on the machine that made this page."));
      return;
    }
    const wording = JSON.stringify(chart.specs[state.axis] || chart.specs[""]);
    const spec = JSON.parse(wording.replace(/\{(axis|heading|short|points)\}/g, (_, name) => JSON.stringify(metric()[name]).slice(1, -1)));
    spec.description = `${figure.querySelector("h2").textContent}. ${caption}`;
    if (name === "batches") list.forEach((row) => (row.crossed = list.some((r) => r.name === row.name && r.batch < row.break_even)));
    if (chart.banded) spec.height *= new Set(list.map((row) => row.name)).size;
    spec.datasets = { ...spec.datasets, rows: list.map(words), published: printed() };
    const height = target.offsetHeight;
    target.style.minHeight = `${height}px`;
    target.made = await vegaEmbed(target, spec, {
      actions: false,
      renderer: "svg",
      ast: true,
      logLevel: 1,
      config: page.config,
      tooltip: { theme: "own", disableDefaultStyle: true },
    });
    target.style.minHeight = "";
  }

  const printed = () =>
    page.published
      .filter((made) => rows[made.row].group === state.group && !state.hidden.has(rows[made.row].method))
      .map((made) => ({
        ...rows[made.row],
        ...made,
        t_published: `${made.t_published} (${made.t_how})`,
      }));

  function where(group, name) {
    const c = group.conditions;
    const data = ["accuracy", "differences"].includes(name) ? `${c.data}; ` : "";
    const subset = data && group.subset ? `${group.subset}; ` : "";
    const batch = name === "batches" ? "" : `, batch ${c.batch}`;
    return `${c.backbone}, ${c["image size"]}; ${subset}${data}${c.hardware}, ${c.precision}${batch}, ${c.mode}.`;
  }

  function provenance(figure, all) {
    const details = figure.querySelector("details");
    const fill = () => {
      const group = page.groups[state.group];
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

  // ---- tables below

  function comparison() {
    const all = page.published.map((made) => ({ ...made, of: rows[made.row] }));
    const group = (made) => page.groups[made.of.group].name;
    const columns = [
      { title: "setting", show: (made) => setting(made.of) },
      page.groups.length > 1 ? { title: "conditions", text: true, show: group } : null,
      { title: "published top-1 %", show: (made) => [made.t_published, small(made.t_how)] },
      { title: "measured", show: (made) => cell(made.of.t_score) },
      { title: "difference", show: (made) => [make("span", { class: made.inside ? "noise" : null }, minus(made.t_difference)), small(made.t_inside)] },
      { title: "published GMAC", show: (made) => made.t_published_gmacs },
      { title: "measured", show: (made) => [made.of.t_gmacs, small(minus(made.t_ratio))] },
      { title: "what differs", text: true, show: (made) => made.t_why },
    ].filter(known);
    find("comparison").replaceChildren(
      all.length ? table(columns, all.slice(0, 200)) : make("p", { class: "note" }, "No paper printed a number for any of these settings.")
    );
  }

  function failures() {
    const found = new Map();
    for (const row of rows) {
      if (row.status === "ok") continue;
      const key = `${row.status}\n${row.reason}`;
      found.set(key, [...(found.get(key) || []), row]);
    }
    find("failures").hidden = !found.size;
    const labels = (list) => [...new Set(list.map((row) => `${row.name} on ${row.backbone}`))];
    const columns = [
      { title: "settings", text: true, show: ([, list]) => labels(list).slice(0, 20).join(", ") + (labels(list).length > 20 ? ` and ${labels(list).length - 20} more` : "") },
      { title: "rows", show: ([, list]) => String(list.length) },
      { title: "status", show: ([key]) => key.split("\n")[0] },
      { title: "reason", text: true, show: ([, list]) => list[0].reason },
    ];
    if (found.size) find("reasons").replaceChildren(table(columns, [...found].slice(0, 200)));
  }

  function everything() {
    const form = find("filters");
    const text = form.text.value.trim().toLowerCase();
    const matching = rows.filter(
      (row) =>
        (!form.method.value || row.method === form.method.value) &&
        (!form.status.value || row.status === form.status.value) &&
        (!form.here.checked || row.group === state.group) &&
        (!text || [row.name, row.backbone, row.reason || "", row.status, page.groups[row.group].name, row.id].join(" ").toLowerCase().includes(text))
    );
    const { sort, down } = state;
    if (sort) {
      matching.sort((a, b) => {
        const [x, y] = [sort.value(a), sort.value(b)];
        if (!known(x) || !known(y)) return known(y) - known(x);
        const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
        return down ? -order : order;
      });
    }
    state.first = Math.min(state.first, Math.max(0, Math.floor((matching.length - 1) / A_PAGE) * A_PAGE));
    const last = Math.min(matching.length, state.first + A_PAGE);
    find("table").replaceChildren(table(tableColumns, matching.slice(state.first, last), { sort, down, onsort }));
    find("found").textContent =
      `${matching.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows` +
      (matching.length > A_PAGE ? `, ${state.first + 1} to ${last} shown` : "");
    const turn = (by) => () => ((state.first += by), everything());
    find("pages").replaceChildren(
      ...(matching.length > A_PAGE
        ? [
            make("button", { type: "button", disabled: state.first === 0, onclick: turn(-A_PAGE) }, "Previous"),
            make("button", { type: "button", disabled: last === matching.length, onclick: turn(A_PAGE) }, "Next"),
          ]
        : [])
    );
  }

  function onsort(column) {
    state.down = state.sort === column ? !state.down : typeof column.value(rows.find((row) => known(column.value(row)))) !== "string";
    state.sort = column;
    state.first = 0;
    everything();
    [...find("table").querySelectorAll("th button")].find((button) => button.textContent === column.title).focus();
  }

  const tableColumns = [
    SETTING,
    ...measured(COLUMNS, rows),
    page.groups.length > 1 ? { title: "conditions", text: true, value: (row) => page.groups[row.group].name, show: (row) => page.groups[row.group].name } : null,
    rows.some((row) => row.status !== "ok" || row.reason)
      ? { title: "status", text: true, value: (row) => row.status, show: (row) => [row.status, small(row.reason || "")] }
      : null,
  ].filter(known);

  // ---- controls

  function legend() {
    const buttons = page.methods.map(({ name }) =>
      make(
        "button",
        {
          type: "button",
          "aria-pressed": "true",
          onclick: (event) => {
            state.hidden.has(name) ? state.hidden.delete(name) : state.hidden.add(name);
            event.currentTarget.setAttribute("aria-pressed", String(!state.hidden.has(name)));
            answer();
            draw();
          },
        },
        mark(name),
        name
      )
    );
    const hollow = page.published.some((made) => known(made.published_top1));
    find("legend").append(...buttons, hollow ? make("span", { class: "key" }, mark("", true), "published") : "");
  }

  function choose() {
    const select = find("group");
    page.groups.forEach((group, i) => select.append(make("option", { value: i }, group.name)));
    const scored = page.groups.map((_, i) => rows.filter((row) => row.group === i && known(row.score)).length);
    const sizes = page.groups.map((_, i) => rows.filter((row) => row.group === i).length);
    const rank = (i) => scored[i] * 1e6 + sizes[i] + Number(page.groups[i].conditions.batch) * 1e-9;
    state.group = page.groups.map((_, i) => i).reduce((best, i) => (rank(i) > rank(best) ? i : best), 0);
    select.value = state.group;
    document.querySelector(".choose").hidden = page.groups.length < 2;
    find("apart").textContent = `${page.groups.length} sets of conditions, which differ in hardware, precision, batch, image size, weights, data or versions. Charts show one at a time, and no front, line or saving crosses them.`;
    select.addEventListener("change", () => {
      state.group = Number(select.value);
      answer();
      everything();
      draw();
    });
  }

  function theme() {
    const button = find("theme");
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)");
    const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
    const say = () => {
      button.textContent = dark() ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`);
    };
    button.removeAttribute("aria-pressed");
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      say();
    });
    system.addEventListener("change", say);
    say();
  }

  choose();
  theme();
  legend();
  for (const { name } of page.methods) find("filters").method.append(make("option", { value: name }, name));
  for (const name of new Set(rows.map((row) => row.status))) find("filters").status.append(make("option", { value: name }, name));
  find("filters").addEventListener("input", () => ((state.first = 0), everything()));
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("axis").addEventListener("change", (event) => {
    state.axis = event.target.value;
    answer();
    plot(find("chart-accuracy"));
  });
  answer();
  comparison();
  failures();
  everything();
  draw();
})();
