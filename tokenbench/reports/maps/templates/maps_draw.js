// Drawing. A scene is one image on one size of canvas; what is drawn follows from the map, as in overlays.py.

const FUSED = 0xfffe, DROPPED = 0xffff;
const kept = label => label < FUSED;
const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
const canvas = (width, height) => Object.assign(document.createElement("canvas"), {width, height});

/** Where the columns or rows of patches begin on a canvas: whole pixels, so that patches meet without seams. */
const borders = (count, length) => Array.from({length: count + 1}, (_, i) => Math.round(i * length / count));

/** The picture in its own pixels: in grey, in grey of full contrast, and the sum of colour in each patch. */
function pixels(picture, rows, columns) {
  const width = picture.naturalWidth, height = picture.naturalHeight;
  const plain = canvas(width, height).getContext("2d", {willReadFrequently: true});
  plain.drawImage(picture, 0, 0);
  const data = plain.getImageData(0, 0, width, height).data;
  const luma = new Uint8ClampedArray(width * height);
  let chroma = 0;
  const sums = Array.from({length: rows * columns}, () => [0, 0, 0, 0]);
  for (let p = 0; p < luma.length; p++) {
    const x = p % width, y = (p - x) / width;
    const sum = sums[Math.floor(y * rows / height) * columns + Math.floor(x * columns / width)];
    for (let c = 0; c < 3; c++) sum[c] += data[4 * p + c];
    sum[3]++;
    const colour = data.slice(4 * p, 4 * p + 3);
    chroma = Math.max(chroma, Math.max(...colour) - Math.min(...colour));
    luma[p] = 0.299 * data[4 * p] + 0.587 * data[4 * p + 1] + 0.114 * data[4 * p + 2];
  }
  const ordered = luma.slice().sort();
  const low = ordered[Math.floor(0.02 * luma.length)], high = ordered[Math.floor(0.98 * (luma.length - 1))];
  const grey = level => {
    const made = canvas(width, height), context = made.getContext("2d"), image = context.createImageData(width, height);
    luma.forEach((value, p) => image.data.set([level(value), level(value), level(value), 255], 4 * p));
    context.putImageData(image, 0, 0);
    return made;
  };
  const stretched = value => 45 + 0.82 * 255 * Math.min(1, Math.max(0, (value - low) / Math.max(1, high - low)));
  return {picture, sums, coloured: chroma >= 8, grey: grey(value => value), contrast: grey(stretched), dim: grey(value => 0.75 * value)};
}

/** The patches whose label is `chosen`, by index. */
const where = (labels, chosen) => [...labels.keys()].filter(p => chosen(labels[p]));

/** Patches as one path. */
function path(scene, patches) {
  const cells = new Path2D(), {x, y, columns} = scene;
  for (const p of patches) {
    const column = p % columns, row = (p - column) / columns;
    cells.rect(x[column], y[row], x[column + 1] - x[column], y[row + 1] - y[row]);
  }
  return cells;
}

/** The borders between patches of which `apart(a, b)` is true, as one path. */
function outline(scene, labels, apart) {
  const lines = new Path2D(), {x, y, columns, rows} = scene;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const here = labels[row * columns + column];
      if (column + 1 < columns && apart(here, labels[row * columns + column + 1])) {
        lines.moveTo(x[column + 1], y[row]);
        lines.lineTo(x[column + 1], y[row + 1]);
      }
      if (row + 1 < rows && apart(here, labels[(row + 1) * columns + column])) {
        lines.moveTo(x[column], y[row + 1]);
        lines.lineTo(x[column + 1], y[row + 1]);
      }
    }
  }
  return lines;
}

/** The patches of dropped tokens, nearly in the colour of the page; in a grey picture, where that is a tone like others, blue. */
function fade(ctx, scene, labels) {
  const gone = path(scene, where(labels, label => !kept(label)));
  ctx.fillStyle = scene.coloured ? scene.paper : scene.blue;
  ctx.fill(gone);
  ctx.save();
  ctx.clip(gone);
  ctx.globalAlpha = 0.2;
  ctx.drawImage(scene.grey, 0, 0, scene.width, scene.height);
  ctx.restore();
}

/** Fill the patches of every cluster with `colour(label, its patches)`. */
function fill(ctx, scene, labels, opacity, colour) {
  const clusters = new Map();
  for (const p of where(labels, kept)) clusters.has(labels[p]) ? clusters.get(labels[p]).push(p) : clusters.set(labels[p], [p]);
  ctx.globalAlpha = opacity;
  for (const [label, patches] of clusters) {
    ctx.fillStyle = colour(label, patches);
    ctx.fill(path(scene, patches));
  }
  ctx.globalAlpha = 1;
}

/** The mean colour of patches. */
function mean(sums, patches) {
  const total = [0, 0, 0, 0];
  for (const p of patches) sums[p].forEach((value, c) => total[c] += value);
  return `rgb(${total.slice(0, 3).map(value => Math.round(value / total[3])).join()})`;
}

/** A heat map over the image in grey. */
function heat(ctx, scene, values) {
  const {columns, rows, width, height} = scene;
  const small = canvas(columns, rows), image = small.getContext("2d").createImageData(columns, rows);
  values.forEach((value, p) => {
    const level = value / 255, step = level * (scene.glow.length - 1);
    const low = scene.glow[Math.floor(step)], high = scene.glow[Math.ceil(step)], part = step % 1;
    const colour = low.map((c, i) => c + (high[i] - c) * part);
    image.data.set([...colour, 255 * (0.15 + 0.85 * level ** 0.7)], 4 * p);
  });
  small.getContext("2d").putImageData(image, 0, 0);
  ctx.drawImage(scene.dim, 0, 0, width, height);
  ctx.imageSmoothingEnabled = true;
  ctx.drawImage(small, 0, 0, width, height);
  ctx.imageSmoothingEnabled = !scene.pixelated;
}

/** One state of a method on the scene's image: `token` asks for its heat map where the map is soft. */
function draw(ctx, scene, state, token) {
  const {labels} = state;
  ctx.imageSmoothingEnabled = !scene.pixelated;
  ctx.imageSmoothingQuality = "high";
  if (state.heats && token !== null) {
    heat(ctx, scene, state.heat(token));
    ctx.strokeStyle = scene.colours[token % scene.colours.length];
    ctx.lineWidth = 2 * scene.line;
    ctx.stroke(outline(scene, labels, (a, b) => (a === token) !== (b === token)));
    return;
  }
  const merged = state.clusters < state.kept;
  ctx.drawImage(state.heats ? scene.contrast : scene.picture, 0, 0, scene.width, scene.height);
  if (state.heats) fill(ctx, scene, labels, 0.52, label => scene.colours[label % scene.colours.length]);
  else if (merged) fill(ctx, scene, labels, 0.85, (_, patches) => mean(scene.sums, patches));
  fade(ctx, scene, labels);
  const apart = state.heats || merged ? (a, b) => a !== b && (kept(a) || kept(b)) : (a, b) => kept(a) !== kept(b);
  ctx.strokeStyle = state.heats ? "rgba(255,255,255,.9)" : merged ? "rgba(255,255,255,.6)" : scene.edge;
  ctx.lineWidth = scene.line;
  ctx.stroke(outline(scene, labels, apart));
}

/** Everything but one cluster steps back, and it gets a line around it. */
function light(ctx, scene, labels, label) {
  ctx.globalAlpha = 0.62;
  ctx.fillStyle = scene.paper;
  ctx.fill(path(scene, where(labels, other => other !== label)));
  ctx.globalAlpha = 1;
  const around = outline(scene, labels, (a, b) => (a === label) !== (b === label));
  for (const [colour, width] of [["#fff", 4], ["#111", 2]]) {
    ctx.strokeStyle = colour;
    ctx.lineWidth = width * scene.line;
    ctx.stroke(around);
  }
}
