"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const MISSING = "–";
  const NOWRAP = "\u00a0";
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
  const number = (value, digits = 1) => (known(value) ? value.toFixed(digits).replace("-", "−") : MISSING);
  const signed = (value, digits = 1) => (known(value) && value >= 0 ? "+" : "") + number(value, digits);
  const percent = (value, form = number) => (known(value) ? `${form(100 * value, 0)}${NOWRAP}%` : MISSING);
  const between = (low, high, form) => (known(low) && known(high) ? `[${form(low)}, ${form(high)}]` : "");
  const rate = (value) => number(value, value < 10 ? 1 : 0);
  const times = (value) => number(value, 2);
  const saving = (value) => (known(value) ? percent(-value, signed) : MISSING);

  function words(row) {
    const speed = between(row.speedup_low, row.speedup_high, times);
    const latency = between(row.latency_p10, row.latency_p90, number);
    const noise = row.inside_noise ? ", inside the noise" : "";
    const inner = row.label.includes("[") ? row.label.slice(row.label.indexOf("[") + 1, -1) : row.label;
    return {
      ...row,
      ...Object.fromEntries(page.axes.map((axis) => [`front_${axis.field}`, row.fronts.includes(axis.field)])),
      t_setting: inner.replace("keep_rate=", ""),
      t_score: `${number(row.score)} ${between(row.score_low, row.score_high, number)}`,
      t_diff: `${signed(row.diff_dense)} ${between(row.diff_dense_low, row.diff_dense_high, signed)}${noise}`,
      t_p: known(row.p_value) ? (row.p_value < 0.001 ? "< 0.001" : number(row.p_value, 3)) : MISSING,
      t_gmacs: number(row.gmacs, 3) + (known(row.saved) ? ` (${saving(row.saved)})` : ""),
      t_speed: rate(row.images_per_s),
      t_speedup: `${times(row.speedup)} ${speed}`,
      t_latency: `${number(row.latency_p50)} ${latency}`,
      t_images: known(row.images) ? row.images.toLocaleString("en") : MISSING,
      t_timed: known(row.runs) ? String(row.runs) : MISSING,
      t_saved: percent(row.saved),
      t_time_saved: `${percent(row.time_saved)} ${between(row.time_saved_low, row.time_saved_high, percent)}`,
      t_came_true: row.saved > 0.01 && known(row.time_saved) ? percent(row.time_saved / row.saved) : MISSING,
      t_even: known(row.break_even) ? String(row.break_even) : "none of these",
      t_share: percent(row.reduction_share),
      t_tokens: (row.tokens_mean || []).map((n) => (known(n) ? number(n, 0) : MISSING)).join(" "),
      t_parts: page.parts.filter((part) => known(row[`part_${part}`])).map((part) => `${part} ${number(row[`part_${part}`], 3)}`).join(", "),
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
  const interval = (low, high, form) => small(between(low, high, form).replace(/[[\]]/g, "").replace(", ", " to "));

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

  const SETTING = { title: "setting", value: (row) => row.name, show: (row) => [setting(row), small(row.trained ? `weights ${row.trained}` : "")] };
  const COLUMNS = [
    { get title() { return new Set(page.groups.map((group) => group.metric.heading)).size === 1 ? metric(0).heading : "score"; }, value: (row) => row.score, show: (row) => [number(row.score), interval(row.score_low, row.score_high, number)] },
    {
      title: "Δ dense",
      value: (row) => row.diff_dense,
      show: (row) => [
        make("span", { class: row.inside_noise ? "noise" : null, title: row.inside_noise ? "inside the noise" : null }, signed(row.diff_dense, 1).replace("+–", MISSING)),
        interval(row.diff_dense_low, row.diff_dense_high, signed),
      ],
    },
    ...page.others.filter((other) => other.shown).map(({ name, heading, digits }) => ({ title: heading, spare: true, value: (row) => row[name], show: (row) => number(row[name], digits) })),
    { title: "GMAC", value: (row) => row.gmacs, show: (row) => [number(row.gmacs, 3), small(known(row.saved) ? saving(row.saved) : "")] },
    { title: "images/s", value: (row) => row.images_per_s, show: (row) => rate(row.images_per_s) },
    { title: "speed-up", value: (row) => row.speedup, show: (row) => [times(row.speedup), interval(row.speedup_low, row.speedup_high, times)] },
    { title: "latency ms", value: (row) => row.latency_p50, show: (row) => [number(row.latency_p50), interval(row.latency_p10, row.latency_p90, number)] },
    { title: "selecting", spare: true, value: (row) => row.reduction_share, show: (row) => percent(row.reduction_share) },
    { title: "peak MiB", spare: true, value: (row) => row.peak_memory_mb, show: (row) => number(row.peak_memory_mb, 0) },
    { title: "params M", spare: true, value: (row) => row.params_m, show: (row) => number(row.params_m, 2) },
    { title: "last tokens", spare: true, value: (row) => (row.tokens_mean || []).at(-1), show: (row) => number((row.tokens_mean || []).at(-1), 0) },
  ];
  const metric = (group = state.group) => page.groups[group || 0].metric;
  const measured = (columns, list) => columns.filter((column) => list.some((row) => known(column.value(row))));

  // ---- the answer

  function answer() {
    const group = page.groups[state.group];
    const c = group.conditions;
    const axis = page.axes.find((a) => a.field === state.axis);
    const all = ok(rows.filter((row) => row.group === state.group));
    const scored = all.filter((row) => known(row.score));
    const front = scored.filter((row) => row.fronts.includes(state.axis) && row.method !== "dense");
    const held = Map.groupBy(front, (row) => row.method);
    const methods = [...held.keys()].sort((a, b) => held.get(b).length - held.get(a).length);
    find("headline").textContent = !scored.length
      ? `${c.backbone}: no ${metric().noun} was measured here`
      : `${c.backbone}: ${list(methods) || "nothing but dense"} ${methods.length > 1 ? "are" : "is"} on the front of ${metric().noun} against ${axis.short}`;
    find("lead").replaceChildren(...lead(all, scored, front));
    const parts = [c.weights === "random" ? "random weights" : `weights ${c.weights}`, `${c["image size"]}`, c.data, c.hardware, c.precision, `batch ${c.batch}`, c.mode];
    const badges = [group.subset, c.weights === "random" ? "random weights" : null].filter(known);
    find("conditions").replaceChildren(...badges.map((text) => make("span", { class: "badge" }, text)), parts.join("; ") + ".");
    const shown = ok(here()).filter((row) => row.fronts.includes(state.axis)).sort((a, b) => metric().sign * (b.score - a.score));
    const columns = measured([SETTING, ...COLUMNS.filter((column) => !column.spare)], shown);
    find("front").replaceChildren(shown.length ? table(columns, shown, { caption: `On the front of ${metric().noun} against ${axis.short}` }) : "");
  }

  function lead(all, scored, front) {
    const better = scored.filter((row) => known(row.diff_dense_low) && row.diff_dense_low > 0);
    const close = scored.filter((row) => row.inside_noise);
    const fine = [...better, ...close].sort((a, b) => (b.saved || 0) - (a.saved || 0));
    const said = [];
    if (!scored.length) {
      const why = [...new Set(all.map((row) => row.reason).filter(known))];
      said.push(why.length ? `Why: ${why.join("; ")}. ` : "", "GMACs, speed, memory and tokens were.");
    } else {
      said.push(`${front.length} of ${scored.length - 1} settings ${front.length === 1 ? "is" : "are"} beaten by no other. `);
      if (fine.length) {
        const best = fine[0];
        const images = `on ${(best.images || 0).toLocaleString("en")} images`;
        const speed = known(best.speedup) ? `; speed-up ${times(best.speedup)} ${between(best.speedup_low, best.speedup_high, times)}` : "";
        const count = (rows, one, many) => (rows.length ? [rows.length === 1 ? one : `${rows.length} ${many}`] : []);
        const told = [
          ...count(better, "one is more accurate than dense", "are more accurate than dense"),
          ...count(close, "one cannot be told from dense", "cannot be told from dense"),
        ].join(", ");
        said.push(
          `${told[0].toUpperCase()}${told.slice(1)} ${images}${fine.length === 1 ? ": " : "; of these "}`,
          make("strong", {}, best.name),
          `${fine.length === 1 ? ", " : " saves most: "}${saving(best.saved)} GMAC for ${signed(best.diff_dense)} `,
          `${between(best.diff_dense_low, best.diff_dense_high, signed)} points${speed}.`
        );
      } else if (scored.some((row) => known(row.diff_dense))) {
        said.push("Every one is less accurate than dense by more than the noise.");
      }
    }
    return said;
  }

  const list = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);

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
        t_published: `${number(made.published_top1, 2)}${made.published_trained ? " (trained)" : ""}`,
        t_why: made.reasons.join("; "),
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
      { title: "published top-1 %", show: (made) => [number(made.published_top1, 2), small(made.published_trained ? "trained" : "off the shelf")] },
      { title: "measured", show: (made) => [number(made.of.score), interval(made.of.score_low, made.of.score_high, number)] },
      {
        title: "difference",
        show: (made) => [make("span", { class: made.inside ? "noise" : null }, known(made.difference) ? signed(made.difference) : MISSING), small(made.inside ? "inside the interval" : "")],
      },
      { title: "published GMAC", show: (made) => number(made.published_gmacs, 2) },
      { title: "measured", show: (made) => [number(made.of.gmacs, 2), small(known(made.gmacs_ratio) ? `${signed(100 * made.gmacs_ratio)}${NOWRAP}%` : "")] },
      { title: "what differs", text: true, show: (made) => made.reasons.join("; ") },
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
