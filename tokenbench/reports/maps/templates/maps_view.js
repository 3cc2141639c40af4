// Choosing. `view` brings one section to life; the numbers come with the maps and are only shown here.

function view(root) {
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const [rows, columns] = data.grid, patches = rows * columns;
  const find = query => root.querySelector(query);
  const add = (parent, tag, properties = {}, text = "") => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(text);
    parent.append(element);
    return element;
  };
  const sides = [{is: "a", other: "left"}, {is: "b", other: "right"}].map((side, i) => Object.assign(side, {
    method: data.start[i], layer: canvas(1, 1), box: find(`.side.${side.is}`), select: find(`.${side.is} select`),
    corner: find(`.corner.${side.other}`),
  }));
  const stage = find(".stage"), board = find(".stage canvas"), divider = find(".divider"), status = find(".status");
  const now = {image: 0, block: data.depth - 1, split: 50, lit: null, held: null, token: [null, null]};
  const loaded = new Map();
  let scene = null, queued = 0;

  // The bytes of an image are unpacked when it is first looked at.
  async function load(index) {
    const {picture, strip, maps} = data.images[index];
    const image = Object.assign(new Image(), {src: picture});
    const bytes = Uint8Array.from(atob(strip), letter => letter.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const [buffer] = await Promise.all([new Response(unpacked).arrayBuffer(), image.decode()]);
    const states = maps.map(method => method.states.map(state => ({
      ...state,
      labels: new Uint16Array(buffer, state.hard, patches),
      heat: token => new Uint8Array(buffer, state.soft + token * patches, patches),
    })));
    const fixed = {rows, columns, pixelated: data.pixelated, colours: data.colours, glow: data.glow.map(rgb)};
    return {...fixed, ...pixels(image, rows, columns), at: (method, block) => states[method][maps[method].blocks[block]]};
  }

  const state = side => scene.at(side.method, now.block);
  const tokens = side => data.images[now.image].maps[side.method].tokens;
  const percent = share => `${Math.round(100 * share)} %`;
  const unit = count => count === 1 ? "patch" : "patches";

  // A new size, theme, image, method or block draws the two layers; the pointer and the divider only lay them together.
  function redraw() {
    if (!scene) return;
    const wide = Math.round(stage.clientWidth * devicePixelRatio);
    const high = Math.round(stage.clientHeight * devicePixelRatio);
    if (!wide || !high) return;  // in a part of the page that is not shown now
    Object.assign(scene, {
      width: wide, height: high, x: borders(columns, wide), y: borders(rows, high), line: Math.max(1, devicePixelRatio),
      paper: getComputedStyle(stage).backgroundColor, blue: getComputedStyle(stage).color, edge: getComputedStyle(board).color,
    });
    sides.forEach((side, i) => {
      Object.assign(side.layer, {width: wide, height: high});
      draw(side.layer.getContext("2d"), scene, state(side), now.token[i]);
    });
    Object.assign(board, {width: wide, height: high});
    paint();
  }

  function paint() {
    const context = board.getContext("2d"), cut = Math.round(now.split / 100 * scene.width);
    context.drawImage(sides[1].layer, 0, 0);
    if (cut) context.drawImage(sides[0].layer, 0, 0, cut, scene.height, 0, 0, cut, scene.height);
    const lit = now.lit ?? now.held;
    if (lit && lit.label !== DROPPED && now.token[lit.side] === null) light(context, scene, state(sides[lit.side]).labels, lit.label);
    divider.style.left = `${now.split}%`;
    divider.setAttribute("aria-valuenow", Math.round(now.split));
    say(lit);
  }

  function say(lit) {
    status.replaceChildren();
    const token = now.token.findIndex(token => token !== null);
    if (!lit && token < 0) return status.append("Point at a cluster, or tap it, to light its patches.");
    const side = sides[lit ? lit.side : token], {labels} = state(side), method = data.methods[side.method];
    const label = lit ? lit.label : now.token[token], count = labels.reduce((sum, other) => sum + (other === label), 0);
    add(status, "b", {style: `--method:${method.colour}`}, method.label);
    const soft = state(side).heats;
    if (kept(label)) {
      const what = soft ? `semantic token ${label + 1}` : `token ${label + 1}`;
      const share = `${count} ${unit(count)}, ${percent(count / patches)} of the image`;
      status.append(` ${what}: ${soft ? "most of " : ""}${count ? share : "no patch is mostly its own"}`);
      if (soft && now.token[lit ? lit.side : token] === label) status.append("; its attention is drawn");
    } else {
      const gone = labels[lit.patch];
      let first = now.block;
      while (first > 0 && !kept(scene.at(side.method, first - 1).labels[lit.patch])) first--;
      status.append(` dropped after block ${first}${gone === FUSED ? `, into a fused token of ${count} ${unit(count)}` : ""}`);
    }
  }

  // The numbers beside the pictures.
  function numbers() {
    const largest = found => found.sizes[0]?.[0] ?? 0;  // none where all is dropped
    const most = Math.max(1, ...sides.map(side => state(side).clusters)), tall = Math.max(1, ...sides.map(side => largest(state(side))));
    for (const side of sides) {
      const method = data.methods[side.method], found = state(side), list = side.box.querySelector("dl");
      side.box.style.setProperty("--method", method.colour);
      side.select.value = side.method;
      side.box.querySelector(".note").textContent = method.note;
      const lines = [
        ["tokens", tokens(side)[now.block]], ["kept", percent(found.share), `${found.kept} of ${patches} patches`],
        ["clusters", found.clusters], ["largest", largest(found), unit(largest(found))],
        ["median", found.median, unit(found.median)], ["entropy", found.entropy.toFixed(2), "bits"],
      ];
      list.replaceChildren();
      for (const [name, value, word] of lines) {
        const line = add(list, "div");
        add(line, "dt", {}, name);
        if (word) add(add(line, "dd", {}, `${value} `), "small", {}, word);
        else add(line, "dd", {}, `${value}`);
      }
      let x = 0, steps = "M0 40";
      for (const [size, count] of found.sizes) steps += `V${40 - 40 * size / tall}H${x += 100 * count / most}`;
      side.box.querySelector("path").setAttribute("d", `${steps}V40Z`);
      side.corner.textContent = method.label;
      side.corner.style.setProperty("--method", method.colour);
    }
    const box = find(".agreement"), [a, b] = sides.map(side => side.method);
    box.replaceChildren();
    if (a === b) return;
    const [low, high] = [Math.min(a, b), Math.max(a, b)], before = low * (2 * data.methods.length - low - 1) / 2;
    const [iou, nmi] = data.images[now.image].pairs[before + high - low - 1][now.block];
    add(box, "h3", {}, "Agreement of the two");
    for (const [name, full, value] of [["IoU", "of the kept patches", iou], ["NMI", "of the clusters", nmi]]) {
      const line = add(box, "p", {title: `${name} ${full}, from 0 to 1`});
      add(line, "span", {className: "name"}, name);
      add(line, "span", {className: "bar"}).style.setProperty("--value", value);
      add(line, "span", {className: "value"}, value.toFixed(2));
      add(line, "small", {}, full);
    }
  }

  // A column a block: its tokens in both methods; the columns are the buttons that choose the block.
  function columnsOfBlocks() {
    const most = Math.max(...sides.flatMap(tokens));
    const box = find(".blocks"), every = Math.ceil(data.depth / 16), had = box.contains(document.activeElement);
    box.replaceChildren();
    for (let block = 0; block < data.depth; block++) {
      const counts = sides.map(side => tokens(side)[block]);
      const title = `After block ${block}: ${sides.map((side, i) => `${data.methods[side.method].label} ${counts[i]}`).join(", ")} tokens`;
      const button = add(box, "button", {type: "button", title, onclick: () => go({block})});
      button.setAttribute("aria-label", title);
      if (block === now.block) button.setAttribute("aria-current", "step");
      const bars = add(button, "span", {className: "bars"});
      sides.forEach((side, i) => {
        const bar = add(bars, "i");
        bar.style.setProperty("--method", data.methods[side.method].colour);
        bar.style.setProperty("--value", counts[i] / most);
      });
      add(button, "span", {className: "number"}, block % every ? "" : `${block}`);
    }
    if (had) box.children[now.block].focus({preventScroll: true});
  }

  const pressed = ({dataset}) => now.token[dataset.side] === Number(dataset.token);

  // Each token of a soft map as a small picture of its attention.
  function sheets() {
    const box = find(".sheets"), had = box.contains(document.activeElement) && {...document.activeElement.dataset};
    box.replaceChildren();
    sides.forEach((side, i) => {
      const found = state(side);
      if (!found.heats || (i && side.method === sides[0].method)) return;
      const method = data.methods[side.method], sheet = add(box, "div", {className: "sheet"});
      const title = add(sheet, "h3", {}, "Attention of the semantic tokens of ");
      add(title, "b", {style: `--method:${method.colour}`}, method.label);
      add(title, "small", {}, " each up to its own maximum; choose one to see it over the image");
      const strip = add(sheet, "div", {className: "strip"});
      const edge = Math.round(72 * Math.min(2, devicePixelRatio)), ratio = data.size[0] / data.size[1];
      const small = {...scene, width: Math.round(edge / Math.max(1, ratio)), height: Math.round(edge * Math.min(1, ratio))};
      for (let token = 0; token < found.heats; token++) {
        const button = add(strip, "button", {type: "button", onclick: () => choose(i, token)});
        Object.assign(button.dataset, {side: i, token});
        button.setAttribute("aria-label", `Semantic token ${token + 1}`);
        button.setAttribute("aria-pressed", pressed(button));
        button.style.setProperty("--token", data.colours[token % data.colours.length]);
        button.onpointerenter = button.onfocus = () => { now.lit = {side: i, label: token}; paint(); };
        button.onpointerleave = button.onblur = () => { now.lit = null; paint(); };
        const picture = canvas(small.width, small.height);
        heat(picture.getContext("2d"), small, found.heat(token));
        button.append(picture);
        add(button, "span", {}, `${token + 1}`);
      }
    });
    if (had) box.querySelector(`[data-side="${had.side}"][data-token="${had.token}"]`)?.focus({preventScroll: true});
  }

  // Show another token's attention, or the clusters again.
  function choose(side, token) {
    now.token[side] = now.token[side] === token ? null : token;
    now.held = null;
    if (now.token[side] !== null) now.split = side ? Math.min(now.split, 50) : Math.max(now.split, 50);
    for (const button of root.querySelectorAll(".strip button")) button.setAttribute("aria-pressed", pressed(button));
    redraw();
  }

  /** Go where `change` says: another image, block or method. */
  async function go(change = {}) {
    Object.assign(now, change, {lit: null, held: null});
    now.block = Math.min(data.depth - 1, Math.max(0, now.block));
    now.image = Math.min(data.images.length - 1, Math.max(0, now.image));
    const mine = ++queued, index = now.image;
    if (!loaded.has(index)) loaded.set(index, load(index));
    const found = await loaded.get(index);
    if (mine !== queued) return;
    scene = found;
    sides.forEach((side, i) => {
      if (!state(side).heats || now.token[i] >= state(side).heats) now.token[i] = null;
    });
    root.querySelectorAll(".images button").forEach((button, i) => {
      button.setAttribute("aria-pressed", i === now.image);
      if (i === now.image && "image" in change) button.scrollIntoView({block: "nearest", inline: "nearest"});
    });
    board.setAttribute("aria-label", `${data.images[now.image].name} after block ${now.block}`);
    redraw();
    numbers();
    columnsOfBlocks();
    sheets();
    frames();
  }

  // A clip is so many images, one after the other; `turn` stays within it, and playing goes round.
  const clock = {timer: 0, wait: 250};
  function turn(by) {
    const first = now.image - now.image % data.frames;
    return go({image: first + (now.image - first + by + data.frames) % data.frames});
  }

  function play(on = !clock.timer) {
    clearInterval(clock.timer);
    clock.timer = on ? setInterval(() => { if (!document.hidden) turn(1); }, clock.wait) : 0;
    find(".play").textContent = on ? "Pause" : "Play";
    find(".play").setAttribute("aria-pressed", on);
  }

  function frames() {
    const box = find(".time");
    if (!box) return;
    box.querySelector("input").value = now.image % data.frames;
    box.querySelector("output").textContent = `frame ${now.image % data.frames + 1} of ${data.frames}`;
  }

  function under(event) {
    const box = board.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return null;
    const side = 100 * x < now.split ? 0 : 1, patch = Math.floor(y * rows) * columns + Math.floor(x * columns);
    return {side, patch, label: state(sides[side]).labels[patch]};
  }

  function slide(split) {
    now.split = Math.min(100, Math.max(0, split));
    paint();
  }

  function keys(event) {
    if (!scene || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key], other = {"[": -1, "]": 1}[event.key];
    const end = {Home: 0, End: 1}[event.key], sliding = event.target === divider;
    if (step && (event.shiftKey || sliding)) slide(now.split + 5 * step);
    else if (step) go({block: now.block + step});
    else if (other) go({image: now.image + other});
    else if (end !== undefined && sliding) slide(100 * end);
    else if (event.key === "p" && data.frames > 1) play();
    else if (event.key === "Escape") { now.token = [null, null]; go(); }
    else return;
    event.preventDefault();
  }

  // What was chosen, and from where.
  root.style.setProperty("--ratio", data.size[1] / data.size[0]);
  root.classList.toggle("pixelated", data.pixelated);
  data.images.forEach(({name, picture}, image) => {
    const button = add(find(".images"), "button", {type: "button", title: name, onclick: () => go({image})});
    add(button, "img", {src: picture, alt: "", loading: "lazy"});
    add(button, "span", {}, name);
  });
  sides.forEach((side, i) => {
    data.methods.forEach(({label}, method) => add(side.select, "option", {value: method}, label));
    side.select.onchange = () => { side.method = Number(side.select.value); now.token[i] = null; go(); };
  });
  root.querySelectorAll(".time .go").forEach(button => button.onclick = () => { play(false); turn(Number(button.dataset.frame)); });
  if (data.frames > 1) {
    find(".play").onclick = () => play();
    find(".time input").oninput = event => { play(false); go({image: now.image - now.image % data.frames + Number(event.target.value)}); };
  }
  root.querySelectorAll(".steps .go").forEach(button => button.onclick = () => go({block: now.block + Number(button.dataset.step)}));
  divider.onpointerdown = event => { divider.setPointerCapture(event.pointerId); divider.focus({preventScroll: true}); event.preventDefault(); };
  divider.onpointermove = event => {
    if (!divider.hasPointerCapture(event.pointerId)) return;
    const box = board.getBoundingClientRect();
    slide(100 * (event.clientX - box.left) / box.width);
  };
  board.onpointermove = event => { if (scene) { now.lit = under(event); paint(); } };
  board.onpointerleave = () => { if (scene) { now.lit = null; paint(); } };
  board.onclick = event => {
    const hit = scene && under(event);
    if (!hit) return;
    if (state(sides[hit.side]).heats && kept(hit.label)) return choose(hit.side, hit.label);
    now.held = now.held && now.held.side === hit.side && now.held.label === hit.label ? null : hit;
    paint();
  };
  document.addEventListener("keydown", event => {
    const alone = event.target === document.body && (root.matches(":hover") || document.querySelectorAll(".tb-maps").length === 1 && root.parentElement === document.body);
    if (root.contains(event.target) || alone) keys(event);
  });
  root.addEventListener("choose", ({detail}) => {  // another part of the page asks for two settings
    detail.forEach((label, i) => {
      const method = data.methods.findIndex(one => one.label === label);
      if (method >= 0) sides[i].method = method;
    });
    now.token = [null, null];
    go();
  });
  new ResizeObserver(redraw).observe(stage);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new MutationObserver(redraw).observe(document.documentElement, {attributes: true});
  go();
}
