// Tables: measured beside published, what failed, and every row to filter and sort.

const A_PAGE = 50;

function comparison() {
  const all = page.published.map((made) => ({ ...made, of: rows[made.row] }));
  const group = (made) => page.groups[made.of.group].name;
  const columns = [
    { title: "setting", show: (made) => setting(made.of, made.of.name) },
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
      (!form.here.checked || inGroup(row)) &&
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
  remember();
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
