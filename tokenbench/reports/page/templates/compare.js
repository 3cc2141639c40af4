// Two rows beside each other; what is said of them was written when the page was made.

function pick(row) {
  state.pair = state.pair.includes(row.index) ? state.pair.filter((index) => index !== row.index) : [...state.pair.slice(-1), row.index];
  for (const element of document.querySelectorAll(".pick")) element.setAttribute("aria-pressed", String(state.pair.includes(Number(element.dataset.row))));
  beside();
  picked();
  remember();
}

function beside() {
  const box = find("compare");
  box.hidden = !state.pair.length;
  document.documentElement.classList.toggle("comparing", !box.hidden);
  if (box.hidden) return;
  const [first, second] = [...state.pair].sort((a, b) => a - b).map((index) => rows[index]);
  const close = make("button", { type: "button", class: "close", "aria-label": "Close the comparison", onclick: () => ((state.pair = [first.index]), pick(first)) }, "×");
  if (!second) {
    box.replaceChildren(make("p", {}, mark(first.method), make("strong", {}, nameOf(first)), ": pick another row, or another point, to compare it with."), close);
    return;
  }
  const head = make("h2", {}, mark(first.method), nameOf(first), make("span", { class: "to" }, " → "), mark(second.method), nameOf(second));
  const told = page.pairs[`${first.index} ${second.index}`];
  if (!told) {
    const other = first.group === second.group ? "They are not among the settings that are compared here; use tokenbench compare." : `They were measured under other conditions (${page.groups[first.group].name}; ${page.groups[second.group].name}), so they are not compared.`;
    box.replaceChildren(head, make("p", {}, other), close);
    return;
  }
  const lines = told.map((index) => page.lines[index]);
  const items = lines.map(([name, change, verdict]) => make("div", {}, make("dt", {}, name), make("dd", {}, ...cell(change)), make("dd", { class: "verdict" }, minus(verdict))));
  const note = make("p", { class: "small" }, "The second against the first: points, or the ratio. Intervals are 95 %; p is of this pair alone, and of many pairs looked at some differ by chance.");
  box.replaceChildren(head, make("dl", {}, ...items), note, ...pictures(first, second), close);
}

// Shows both in the token maps, if there are any of them.
function pictures(first, second) {
  const maps = document.querySelector(".tb-maps");
  const select = maps && maps.querySelector("select");
  const labels = select ? [...select.options].map((option) => option.textContent) : [];
  if (![first, second].every((row) => labels.includes(row.label))) return [];
  const show = () => {
    maps.dispatchEvent(new CustomEvent("choose", { detail: [first.label, second.label] }));
    find("maps").scrollIntoView({ block: "start" });
  };
  return [make("button", { type: "button", onclick: show }, "Their pictures")];
}
