// Names beside the points of a chart, where there is room, and points that the keyboard reaches.

const NEAR = [[8, -7, "start"], [-8, -7, "end"], [9, 4, "start"], [-9, 4, "end"], [0, -10, "middle"], [0, 19, "middle"], [8, 16, "start"], [-8, 16, "end"]];
const FAR = [[22, -18, "start"], [-22, -18, "end"], [22, 26, "start"], [-22, 26, "end"], [34, 4, "start"], [-34, 4, "end"], [0, -30, "middle"], [0, 38, "middle"]];
const FONT = "11px system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif";
const ruler = document.createElement("canvas").getContext("2d");
const LONGEST = 26;

const brief = (row, alone) => {
  const inner = row.t_setting === row.label ? "" : ` ${row.t_setting}`;
  if (alone && inner) return inner.trim();
  const text = `${row.method}${inner}${row.trained ? " trained" : ""}${isTogether() ? `, ${row.backbone}` : ""}`;
  return text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text;
};

// The points of a drawn chart: their elements, rows and places in the plot.
function pointsOf(target) {
  return [...target.querySelectorAll(".points_marks > path")]
    .map((element) => ({ element, item: element.__data__ }))
    .filter(({ item }) => item && item.datum)
    .map(({ element, item }) => ({ element, item, row: rows[item.datum.index], x: item.x, y: item.y }));
}

// Where the line of the budget and its word are drawn.
function limitOf(target) {
  return [...target.querySelectorAll("[class*=budget_] > *")]
    .map((element) => element.__data__ && element.__data__.bounds)
    .filter(Boolean)
    .map(({ x1, x2, y1, y2 }) => ({ left: x1 - 1, right: x2 + 1, top: y1, bottom: y2 }));
}

const touch = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

// Puts a name beside each point, the important ones first; what finds no room has its name in the panels and on hover.
function label(target, method = null) {
  target.querySelector(".names")?.remove();
  const view = target.made.view;
  const points = pointsOf(target);
  const root = points[0]?.element.parentElement.parentElement;
  if (!root) return;
  ruler.font = FONT;
  const names = shape("g", { class: "names", "aria-hidden": "true" });
  const taken = [...points.map(({ x, y }) => ({ left: x - 6, right: x + 6, top: y - 6, bottom: y + 6 })), ...limitOf(target)];
  const { use } = said();
  const axis = axisNow();
  const weight = ({ row }) => 8 * state.pair.includes(row.index) + 4 * (row.index === use) + 2 * frontsOf(row).includes(axis) + (row.method === "dense");
  const wide = view.width();
  const order = points.filter(({ row }) => !method || row.method === method).sort((a, b) => weight(b) - weight(a) || b.y - a.y);
  for (const point of order) {
    const important = weight(point) > 0;
    if (wide < 420 && !important && !method) continue;
    const { datum } = point.item;
    const text = brief(point.row, method) + (datum.drawn === datum.score ? "" : `: ${point.row.t_score.split(" [")[0]} ↓`);
    const long = ruler.measureText(text).width;
    const places = important ? [...NEAR, ...FAR] : NEAR;
    for (const [dx, dy, anchor] of places) {
      const from = point.x + dx - (anchor === "end" ? long : anchor === "middle" ? long / 2 : 0);
      const box = { left: from - 2, right: from + long + 2, top: point.y + dy - 10, bottom: point.y + dy + 3 };
      if (box.left < 0 || box.right > wide + 8 || box.top < -6 || box.bottom > view.height() + 2) continue;
      if (taken.some((other) => touch(box, other))) continue;
      taken.push(box);
      if (FAR.some((place) => place[0] === dx && place[1] === dy)) {
        const end = { start: box.left, end: box.right, middle: (box.left + box.right) / 2 }[anchor];
        names.append(shape("line", { x1: point.x, y1: point.y, x2: end, y2: dy < 0 ? box.bottom : dy > 10 ? box.top : point.y + dy - 4 }));
      }
      const attributes = { x: point.x + dx, y: point.y + dy, "text-anchor": anchor, fill: looks.get(point.row.method).colour };
      names.append(shape("text", point.row.index === use ? { ...attributes, class: "use" } : attributes, text));
      break;
    }
  }
  root.append(names);
}

// Points take the focus: arrow keys go from one to the next, Enter picks it to be compared.
function reach(target) {
  const view = target.made.view;
  const points = pointsOf(target).sort((a, b) => a.x - b.x || a.y - b.y);
  const tell = (point, shown) => {
    const box = point.element.getBoundingClientRect();
    view.tooltip()(view, { clientX: box.right, clientY: box.bottom, vegaType: "focus" }, point.item, shown ? point.item.tooltip : null);
  };
  points.forEach((point, i) => {
    const { element, row } = point;
    element.setAttribute("tabindex", i ? "-1" : "0");
    element.setAttribute("role", "button");
    element.setAttribute("aria-pressed", String(state.pair.includes(row.index)));
    element.setAttribute("aria-label", minus(`${nameOf(row)}: ${metric().short} ${row.t_score}, GMAC ${row.t_gmacs}, ${row.t_latency} ms a batch`));
    element.addEventListener("focus", () => tell(point, true));
    element.addEventListener("blur", () => tell(point, false));
    element.addEventListener("click", () => pick(row));
    element.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (by) {
        const next = points[(i + by + points.length) % points.length].element;
        element.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      } else if (event.key === "Enter" || event.key === " ") {
        pick(row);
        tell(point, !state.pair.length); // what is compared now is not to be covered
      } else return;
      event.preventDefault();
    });
  });
}
