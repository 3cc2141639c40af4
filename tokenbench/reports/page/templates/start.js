// Controls, and the first drawing.

function legend() {
  const present = new Set(rows.map((row) => row.method));
  const buttons = page.methods
    .filter(({ name }) => present.has(name))
    .map(({ name }) => {
      const toggle = (event) => {
        state.hidden.has(name) ? state.hidden.delete(name) : state.hidden.add(name);
        event.currentTarget.setAttribute("aria-pressed", String(!state.hidden.has(name)));
        answer();
        draw();
        remember();
      };
      return make("button", { type: "button", "aria-pressed": String(!state.hidden.has(name)), onclick: toggle }, mark(name), name);
    });
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
  document.querySelector(".choose").hidden = page.groups.length < 2;
  const apart = page.groups.filter((group) => group.members.length === 1).length;
  const together = page.groups.length > apart ? " Backbones that saw the same images on the same machine can be weighed together, too." : "";
  find("apart").textContent = `${apart} sets of conditions, which differ in hardware, precision, batch, image size, weights, data or versions. Charts show one at a time, and no front, line or saving crosses them.${together}`;
  select.addEventListener("change", () => {
    Object.assign(state, { group: Number(select.value), value: null });
    answer();
    everything();
    draw();
    remember();
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
    remember();
  });
  system.addEventListener("change", say);
  return say;
}

// Links to sections leave the address to what is chosen.
function sections() {
  for (const link of document.querySelectorAll(".bar nav a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      find(link.hash.slice(1)).scrollIntoView({ behavior: "smooth" });
    });
  }
}

choose();
const sayTheme = theme();
sections();
controls();
for (const { name } of page.methods) find("filters").method.append(make("option", { value: name }, name));
for (const name of new Set(rows.map((row) => row.status))) find("filters").status.append(make("option", { value: name }, name));
remember(); // what nobody chose yet
recall();
sayTheme();
legend();
find("group").value = state.group;
find("filters").addEventListener("input", () => ((state.first = 0), everything(), remember()));
find("filters").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.pair.length) {
    const index = state.pair[0];
    state.pair = [index];
    pick(rows[index]);
  }
});
answer();
comparison();
failures();
everything();
beside();
remember();
addEventListener("DOMContentLoaded", draw);
