// The answer: for the budget that is set, the sentence that was written for it.

const LIMITS = { drop: "accuracy lost", latency_p50: "latency", gmacs: "GMAC", peak_memory_mb: "memory" };

function slider() {
  const { sliders } = chosenGroup().answers;
  return sliders[state.limit === "drop" ? `drop ${axisNow()}` : state.limit] || sliders[`drop ${axisNow()}`] || Object.values(sliders)[0];
}

// Which step is set: the nearest to the value that was chosen, or where the slider begins.
function step(of) {
  if (!known(state.value)) return of.start;
  const away = of.values.map((value) => Math.abs(value - state.value));
  return away.indexOf(Math.min(...away));
}

function said() {
  const { said, sliders } = chosenGroup().answers;
  const of = slider();
  if (!of) return { ...said[0], limit: "" };
  const at = step(of);
  return { ...said[of.at[at]], limit: of.texts[at] };
}

function answer() {
  const group = chosenGroup();
  const c = group.conditions;
  const axis = page.axes.find((one) => one.field === axisNow());
  const { headline, lead, limit, use } = said();
  const filled = headline.replace("{limit}", limit).replace("{Limit}", limit.slice(0, 1).toUpperCase() + limit.slice(1));
  find("headline").replaceChildren(known(use) ? mark(rows[use].method) : "", tight(minus(filled)));
  find("lead").replaceChildren(...lead.map((part) => (Array.isArray(part) ? make("strong", {}, ...part) : tight(minus(part)))));
  const parts = [c.weights === "random" ? "random weights" : `weights ${c.weights}`, `${c["image size"]}`, c.data, c.hardware, c.precision, `batch ${c.batch}`, c.mode];
  const badges = [group.subset, c.weights === "random" ? "random weights" : null].filter(known);
  find("conditions").replaceChildren(...badges.map((text) => make("span", { class: "badge" }, text)), `${c.backbone}; ${parts.join("; ")}.`);
  const shown = ok(here()).filter((row) => frontsOf(row).includes(axisNow())).sort((a, b) => metric().sign * (b.score - a.score));
  const columns = measured([SETTING, ...COLUMNS.filter((column) => !column.spare)], shown);
  find("front").replaceChildren(shown.length ? table(columns, shown, { caption: `Beaten by no other in both ${metric().noun} and ${axis.short}` }) : "");
  find("notes").replaceChildren(...group.notes.map((note) => make("li", {}, minus(note))));
  budget();
}

// The slider as it stands.
function budget() {
  const of = slider();
  const { sliders } = chosenGroup().answers;
  find("budget").hidden = !of || of.values.length < 2;
  if (find("budget").hidden) return;
  for (const input of find("limit").querySelectorAll("input")) {
    input.checked = input.value === state.limit;
    input.parentElement.hidden = input.value !== "drop" && !(input.value in sliders);
  }
  const amount = find("amount");
  const at = step(of);
  Object.assign(amount, { min: 0, max: of.values.length - 1, value: at });
  amount.setAttribute("aria-valuetext", minus(of.texts[at]));
  find("amount-text").textContent = minus(of.texts[at]);
  for (const input of find("axis").querySelectorAll("input")) {
    input.checked = input.value === axisNow();
    input.parentElement.hidden = !ok(here()).some((row) => known(row[input.value]));
  }
}

// Where the budget lies in the chart of accuracy: a cost, or the least accuracy.
function budgetLine() {
  const of = slider();
  if (!of) return [];
  const value = of.values[step(of)];
  const inside = (at, all) => at >= Math.min(...all) && at <= Math.max(...all);
  if (state.limit !== "drop") {
    const costs = ok(here()).map((row) => row[axisNow()]).filter(known);
    return state.limit === axisNow() && inside(value, costs) ? [{ x: value, label: "budget" }] : [];
  }
  const dense = ok(here()).filter((row) => row.method === "dense" && known(row.score) && !row.trained);
  if (!dense.length || !metric().points) return [];
  const best = Math.max(...dense.map((row) => metric().sign * row.score));
  const least = metric().sign * (best - value);
  return inside(least, ok(here()).map((row) => row.score).filter(known)) ? [{ y: least, label: "budget" }] : [];
}

function controls() {
  for (const [value, text] of Object.entries(LIMITS)) {
    find("limit").append(make("label", {}, make("input", { type: "radio", name: "limit", value }), make("span", {}, text)));
  }
  find("limit").addEventListener("change", (event) => {
    Object.assign(state, { limit: event.target.value, value: null });
    if (state.limit !== "drop") state.axis = state.limit;
    answer();
    plotAccuracy();
    remember();
  });
  find("amount").addEventListener("input", (event) => {
    state.value = slider().values[Number(event.target.value)];
    answer();
    moveBudget();
    remember();
  });
  find("budget").addEventListener("submit", (event) => event.preventDefault());
  find("axis").addEventListener("change", (event) => {
    state.axis = event.target.value;
    if (state.limit !== "drop") Object.assign(state, { limit: "drop", value: null });
    answer();
    plotAccuracy();
    remember();
  });
}
