(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const id = name => document.getElementById(name);
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const TAPS = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const DOTS = [0, 3.4, 2.2, 1.35]; // px of a dot's radius by level

  // -- geometry: the same arithmetic as seg.analysis.sampling ---------------------------------------------------------

  const decode = layer => {
    if (layer.offset === null || layer.values) return;
    const text = atob(layer.offset), bytes = new Uint8Array(text.length);
    for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
    const view = new DataView(bytes.buffer);
    layer.values = Float32Array.from({ length: bytes.length / 2 }, (_, k) => view.getInt16(2 * k, true) * layer.unit);
  };
  // half to even, as torch rounds
  const round = value => { const low = Math.floor(value), rest = value - low; return rest > .5 || (rest === .5 && low % 2 !== 0) ? low + 1 : low; };

  // where tap k of the filter at cell (y, x) looks, in cells of the map that the layer reads
  const tap = (layer, group, k, y, x) => {
    const [h, w] = layer.shape, i = Math.floor(k / 3), j = k % 3;
    const at = ((Math.min(group, layer.groups - 1) * 9 + k) * 2 * h + y) * w + x;
    const dy = layer.values ? layer.values[at] : 0, dx = layer.values ? layer.values[at + h * w] : 0;
    return [y * layer.stride[0] - layer.padding[0] + i * layer.dilation[0] + dy,
            x * layer.stride[1] - layer.padding[1] + j * layer.dilation[1] + dx];
  };
  const pixel = (layer, [y, x]) => [layer.origin + layer.step * y, layer.origin + layer.step * x];

  // the filter whose centre is nearest to a pixel
  const nearest = (layer, at) => at.map((value, axis) => {
    const cell = Math.ceil((value - layer.origin) / (layer.step * layer.stride[axis]) - .5);
    return Math.min(Math.max(cell, 0), layer.shape[axis] - 1);
  });
  const centre = (layer, cell) => cell.map((value, axis) => layer.origin + layer.step * layer.stride[axis] * value);

  // points in px of the unit of layers[last] that is nearest to a pixel, through `level` layers
  const points = (layers, last, level, at, group) => {
    let cells = [nearest(layers[last], at)], found = [];
    for (let depth = 0; depth < level && last - depth >= 0; depth++) {
      const layer = layers[last - depth], before = layers[last - depth - 1];
      found = [];
      for (const [y, x] of cells) for (const k of TAPS) found.push(pixel(layer, tap(layer, group, k, y, x)));
      if (!before) break;
      // to cells of the layer before, whose output this one read; a filter outside its map does not exist
      cells = found.map(point => point.map((value, axis) => round((value - before.origin) / (before.step * before.stride[axis]))))
        .filter(([y, x]) => y >= 0 && x >= 0 && y < before.shape[0] && x < before.shape[1]);
    }
    return found;
  };

  // mean distance of neighbouring taps at every cell, the mean over offset groups
  const dilations = layer => {
    if (layer.spread) return layer.spread;
    const [h, w] = layer.shape, found = new Float32Array(h * w);
    const pairs = TAPS.flatMap(k => [...(k % 3 < 2 ? [[k, k + 1]] : []), ...(k < 6 ? [[k, k + 3]] : [])]);
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      let sum = 0;
      for (let group = 0; group < layer.groups; group++) {
        const taps = TAPS.map(k => tap(layer, group, k, y, x));
        for (const [a, b] of pairs) sum += Math.hypot(taps[a][0] - taps[b][0], taps[a][1] - taps[b][1]);
      }
      found[y * w + x] = sum / pairs.length / layer.groups;
    }
    return layer.spread = found;
  };

  // -- state ----------------------------------------------------------------------------------------------------------

  const state = { image: 0, view: "image", level: 3, layer: -1, group: 0, at: null, held: false };
  const image = () => data.images[state.image];
  const place = net => net.layers.length - 1 - Math.min(state.layer, net.layers.length - 1); // counted from the last
  const longest = Math.max(...data.images[0].nets.map(net => net.layers.length));
  const named = data.images[0].nets.reduce((a, b) => b.layers.length > a.layers.length ? b : a).layers;
  state.layer = 0;
  for (const shown of data.images) for (const net of shown.nets) net.layers.forEach(decode);

  // one scale for all nets and images, so that colours can be compared: to the 99th percentile
  const top = (() => {
    const all = data.images.flatMap(shown => shown.nets.flatMap(net => net.layers.flatMap(layer => [...dilations(layer)]))).sort((a, b) => a - b);
    return Math.max(1, Math.ceil(2 * all[Math.floor(.99 * (all.length - 1))]) / 2);
  })();
  const colour = share => {
    const scaled = Math.min(Math.max(share, 0), 1) * (data.scale.length - 1), low = Math.min(Math.floor(scaled), data.scale.length - 2);
    return data.scale[low].map((value, k) => value + (scaled - low) * (data.scale[low + 1][k] - value));
  };

  // class ids of a grey picture, read once it is loaded
  const maps = new Map();
  const classes = uri => {
    if (uri && !maps.has(uri)) {
      maps.set(uri, null);
      const picture = new Image();
      picture.onload = () => {
        const canvas = make("canvas", { width: picture.width, height: picture.height });
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(picture, 0, 0);
        const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
        maps.set(uri, { width: canvas.width, height: canvas.height, ids: Uint8Array.from({ length: pixels.length / 4 }, (_, k) => pixels[4 * k]) });
        paint();
        draw();
      };
      picture.src = uri;
    }
    return maps.get(uri) || null;
  };
  const rgb = data.classes.map(({ colour }) => [1, 3, 5].map(k => parseInt(colour.slice(k, k + 2), 16)));

  // -- drawing --------------------------------------------------------------------------------------------------------

  let stages = [];
  const build = () => {
    const shown = image();
    id("nets").replaceChildren();
    id("nets").classList.toggle("few", shown.nets.length === 1);
    stages = shown.nets.map(net => {
      const note = make("span"), over = make("canvas", { class: "over" }), dots = make("canvas");
      const stage = make("div", { class: "stage", tabindex: "0", role: "application", "aria-label": `${net.label} on ${shown.name}: arrow keys move the unit` });
      stage.style.aspectRatio = `${shown.width} / ${shown.height}`;
      stage.append(make("img", { alt: "", src: shown.photo, draggable: "false" }), over, dots);
      id("nets").append(make("figure", {}, make("figcaption", {}, net.label, note), stage));
      listen(stage);
      return { net, stage, over, dots, note };
    });
    if (!state.at) state.at = [Math.round(shown.height / 2), Math.round(shown.width / 2)];
    state.at = [Math.min(state.at[0], shown.height - 1), Math.min(state.at[1], shown.width - 1)];
    paint();
    draw();
  };

  const fill = (canvas, width, height, of) => {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
    for (let k = 0; k < width * height; k++) {
      const value = of(k);
      if (value) pixels.data.set([...value, 255], 4 * k);
    }
    context.putImageData(pixels, 0, 0);
  };

  // what lies over the photograph
  const paint = () => {
    for (const { net, over } of stages) {
      over.hidden = state.view === "image";
      over.classList.toggle("smooth", state.view === "dilation");
      if (state.view === "dilation") {
        // every pixel has the colour of the filter nearest to it
        const layer = net.layers[place(net)], spread = dilations(layer), { width, height } = image();
        const columns = Array.from({ length: width }, (_, x) => nearest(layer, [0, x])[1]);
        const rows = Array.from({ length: height }, (_, y) => nearest(layer, [y, 0])[0]);
        fill(over, width, height, k => colour(spread[rows[Math.floor(k / width)] * layer.shape[1] + columns[k % width]] / top));
      } else if (state.view !== "image") {
        const map = classes(state.view === "truth" ? image().truth : net.prediction);
        if (map) fill(over, map.width, map.height, k => rgb[map.ids[k]]);
        else over.hidden = true;
      }
    }
    legend();
  };

  const draw = () => {
    for (const { net, stage, dots, note } of stages) {
      const { width, height } = stage.getBoundingClientRect(), ratio = window.devicePixelRatio || 1, shown = image();
      dots.width = Math.round(width * ratio);
      dots.height = Math.round(height * ratio);
      const context = dots.getContext("2d"), last = place(net);
      const scale = [dots.height / shown.height, dots.width / shown.width];
      const put = ([y, x], radius, style) => {
        context.fillStyle = style;
        context.beginPath();
        context.arc((x + .5) * scale[1], (y + .5) * scale[0], radius * ratio, 0, 2 * Math.PI);
        context.fill();
      };
      const level = Math.min(state.level, last + 1), size = DOTS[level] * Math.max(1, Math.min(width / 420, 1.5));
      const found = points(net.layers, last, level, state.at, state.group);
      for (const point of found) put(point, size + .9, "rgb(255 255 255 / .8)");
      for (const point of found) put(point, size, "#ff3b1f");
      const unit = centre(net.layers[last], nearest(net.layers[last], state.at));
      put(unit, 5.6, "#08331a");
      put(unit, 4.2, "#21e06b");
      const outside = found.filter(([y, x]) => y < 0 || x < 0 || y > shown.height - 1 || x > shown.width - 1).length;
      note.textContent = `${found.length} points${outside ? `, ${outside} outside` : ""}`;
    }
    read();
  };

  const at = map => map && map.ids[Math.floor((state.at[0] + .5) * map.height / image().height) * map.width + Math.floor((state.at[1] + .5) * map.width / image().width)];
  const word = map => { const value = at(map); return value === null ? "–" : value === undefined || !data.classes[value] ? "ignored" : data.classes[value].name; };
  const reach = found => found.reduce((sum, [y, x]) => sum + Math.hypot(y - state.at[0], x - state.at[1]), 0) / found.length;

  // the numbers at the pixel
  const read = () => {
    const nets = image().nets;
    id("place").textContent = `Row ${Math.round(state.at[0])}, column ${Math.round(state.at[1])}${state.held ? ", held" : ""}`;
    const row = (name, cells, now = false) => make("tr", now ? { class: "now" } : {}, make("th", { scope: "row" }, name), ...cells.map(text => make("td", {}, text)));
    const head = make("thead", {}, make("tr", {}, make("th"), ...nets.map(net => make("th", { scope: "col" }, net.label))));
    const body = make("tbody");
    if (image().truth) body.append(row("true class", nets.map(() => word(classes(image().truth)))));
    body.append(row("predicted", nets.map(net => word(classes(net.prediction)))));
    for (let k = longest - 1; k >= 0; k--) {
      const values = nets.map(net => {
        const layer = net.layers[net.layers.length - 1 - k];
        if (!layer) return "–";
        const [y, x] = nearest(layer, state.at);
        return dilations(layer)[y * layer.shape[1] + x].toFixed(2);
      });
      body.append(row(`effective dilation, ${named[named.length - 1 - k].name}`, values, k === state.layer));
    }
    body.append(row("mean distance of the points, px", nets.map(net => {
      const last = place(net);
      return reach(points(net.layers, last, Math.min(state.level, last + 1), state.at, state.group)).toFixed(1);
    })));
    id("readout").replaceChildren(head, body);
  };

  const legend = () => {
    const box = id("legend");
    if (state.view === "dilation") {
      const bar = make("div", { class: "bar" });
      bar.style.background = `linear-gradient(90deg, ${data.scale.map(c => `rgb(${c.join(" ")})`).join(", ")})`;
      const ends = [0, .25, .5, .75, 1].map(share => make("span", {}, `${+(share * top).toFixed(2)}${share === 1 ? "+" : ""}`));
      box.replaceChildren("Effective dilation, cells", bar, make("div", { class: "ends" }, ...ends));
    } else if (state.view === "image") {
      box.replaceChildren();
    } else {
      box.replaceChildren(make("ul", {}, ...data.classes.map(({ name, colour }) => {
        const swatch = make("i");
        swatch.style.background = colour;
        return make("li", {}, swatch, name);
      })));
    }
  };

  // -- controls -------------------------------------------------------------------------------------------------------

  const choices = (box, key, options, after) => {
    const buttons = options.map(([value, text]) => {
      const button = make("button", { type: "button", role: "radio" }, text);
      button.addEventListener("click", () => choose(key, value));
      return [value, button];
    });
    id(box).setAttribute("role", "radiogroup");
    id(box).replaceChildren(...buttons.map(([, button]) => button));
    shown[key] = () => { for (const [value, button] of buttons) button.setAttribute("aria-checked", String(state[key] === value)); after?.(buttons); };
    shown[key]();
  };
  const shown = {};
  const choose = (key, value) => {
    state[key] = value;
    for (const update of Object.values(shown)) update();
    if (key === "image") {
      if (state.view === "truth" && !image().truth) choose("view", "image");
      build();
    } else {
      paint();
      draw();
    }
  };

  const moved = (stage, event) => {
    const box = stage.getBoundingClientRect();
    const share = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
    state.at = share.map((value, axis) => Math.min(Math.max(value * [image().height, image().width][axis] - .5, 0), [image().height, image().width][axis] - 1));
    draw();
  };
  let waiting = false;
  const listen = stage => {
    stage.addEventListener("pointermove", event => {
      if ((state.held && !event.buttons) || waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; moved(stage, event); });
    });
    stage.addEventListener("pointerdown", event => {
      state.held = event.pointerType !== "mouse" || !state.held;
      moved(stage, event);
    });
  };
  const step = (axis, by) => {
    const net = image().nets[0], layer = net.layers[place(net)], cell = nearest(layer, state.at);
    cell[axis] += by;
    const limits = [image().height - 1, image().width - 1];
    state.at = centre(layer, nearest(layer, centre(layer, cell))).map((value, k) => Math.min(Math.max(value, 0), limits[k]));
    state.held = true;
    draw();
  };
  const VIEWS = [["image", "Image"], ["dilation", "Effective dilation"], ["prediction", "Prediction"], ["truth", "Ground truth"]];
  const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [1, -1], ArrowRight: [1, 1] };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase(), view = VIEWS.find(([name]) => name[0] === key);
    if (ARROWS[event.key]) step(ARROWS[event.key][0], ARROWS[event.key][1] * (event.shiftKey ? 4 : 1));
    else if (["1", "2", "3"].includes(key) && +key <= longest) choose("level", +key);
    else if (view && (key !== "t" || image().truth)) choose("view", view[0]);
    else if (key === "n") choose("image", (state.image + 1) % data.images.length);
    else if (key === "escape") { state.held = false; read(); }
    else return;
    event.preventDefault();
  });
  window.addEventListener("resize", draw);

  state.level = Math.min(3, longest);
  choices("views", "view", VIEWS, buttons => { for (const [value, button] of buttons) button.disabled = value === "truth" && !image().truth; });
  choices("levels", "level", [1, 2, 3].filter(k => k <= longest).map(k => [k, `${k} layer${k > 1 ? "s" : ""} · ${9 ** k}`]));
  choices("layers", "layer", named.map((layer, k) => [named.length - 1 - k, layer.name]));
  const groups = Math.max(...data.images[0].nets.flatMap(net => net.layers.map(layer => layer.groups)));
  choices("groups", "group", Array.from({ length: groups }, (_, k) => [k, String(k + 1)]));
  id("group").hidden = groups < 2;
  id("images").replaceChildren(...data.images.map((entry, k) => {
    const button = make("button", { type: "button", role: "radio", "aria-label": entry.name, title: entry.name }, make("img", { alt: "", src: entry.photo }));
    button.addEventListener("click", () => choose("image", k));
    return button;
  }));
  shown.image = () => [...id("images").children].forEach((button, k) => button.setAttribute("aria-checked", String(k === state.image)));
  shown.image();
  id("images").hidden = data.images.length < 2;
  build();
  // what a test or a console may ask: the points that are drawn for a pixel
  window.explorer = { points: (picture, net, last, level, at, group = 0) => points(data.images[picture].nets[net].layers, last, level, at, group), state };
})();
