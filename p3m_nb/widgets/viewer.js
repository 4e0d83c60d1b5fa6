// The viewer of p3m_nb: pictures drawn from tiles that the kernel sends on demand.
// Documented in nbs/widgets/viewer.ipynb.
const SIDE = 512; // of a tile in pixels
// tiles that are asked for at once: what is seen now is not kept waiting by what was seen before
const IN_FLIGHT = { moving: 2, resting: 6 };
const KEPT = 400; // tiles in memory
const LARGEST_PIXEL = 40; // of the screen for one of the picture
const CELL = 256; // side of a piece of the drawn picture, in pixels of the screen
const WORK = { moving: 190000, resting: 900000 }; // pixels times layers that are put together in one frame
const SLOW = 25; // milliseconds: a frame that took longer was late
const REST = 120; // milliseconds without a movement after which it rests
const TOLD = 400; // milliseconds between two messages about a movement that goes on
const PATIENCE = 8000; // milliseconds without an answer before we say so
const KEYS = [
  ['wheel', 'zoom at the pointer'],
  ['drag', 'move'],
  ['double-click, 0', 'show all'],
  ['1', 'full size'],
  ['+ −', 'zoom'],
  ['arrows', 'move'],
  ['[ ]', 'move the wipe line'],
  ['m', 'small map'],
  ['?', 'this list'],
];
const TOOLS = {
  move: 'drag the picture',
  add: 'paint what belongs to the person',
  remove: 'paint what does not belong to the person',
  soften: 'paint over an edge that is too hard',
  hair: 'paint over fine hair: its strands are looked for again',
};
const STROKE = {
  add: 'rgba(0,170,0,.45)',
  remove: 'rgba(220,0,0,.45)',
  soften: 'rgba(0,90,220,.45)',
  hair: 'rgba(255,140,0,.45)',
};

const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

function make(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (k === 'text') e.textContent = v;
    else e.setAttribute(k, v);
  }
  e.append(...children);
  return e;
}

function canvasOf(width, height) {
  const canvas = make('canvas', { width, height });
  return { canvas, context: canvas.getContext('2d', { alpha: false }) };
}

function send(model, message) {
  // a model whose kernel is gone throws; the viewer goes on with what it has
  try {
    model.send(message);
  } catch (e) {
    console.warn(`p3m viewer: ${e.message}`);
  }
}

// Bytes become a picture in a thread of its own: making a blob of them takes milliseconds too.
const DECODER = `onmessage = async ({ data: { id, bytes, type } }) => {
  try {
    const bitmap = await createImageBitmap(new Blob([bytes], { type }), { premultiplyAlpha: 'premultiply' });
    postMessage({ id, bitmap }, [bitmap]);
  } catch (e) { postMessage({ id, error: String(e) }); }
}`;

class Decoder {
  constructor() {
    Object.assign(this, { waiting: new Map(), next: 0 });
    try {
      const url = URL.createObjectURL(new Blob([DECODER], { type: 'text/javascript' }));
      this.worker = new Worker(url);
      this.worker.onmessage = ({ data: { id, bitmap, error } }) => {
        const { resolve, reject } = this.waiting.get(id);
        this.waiting.delete(id);
        if (bitmap) resolve(bitmap);
        else reject(new Error(error));
      };
      this.worker.onerror = () => this.alone(); // some pages allow no threads
    } catch {
      this.alone();
    }
  }
  alone() {
    this.worker = null;
    for (const { bytes, type, resolve, reject } of this.waiting.values()) this.here(bytes, type).then(resolve, reject);
    this.waiting.clear();
  }
  here(bytes, type) {
    return createImageBitmap(new Blob([bytes], { type }), { premultiplyAlpha: 'premultiply' });
  }
  decode(bytes, type) {
    if (!this.worker) return this.here(bytes, type);
    return new Promise((resolve, reject) => {
      const id = this.next++,
        own = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength).slice();
      this.waiting.set(id, { resolve, reject, bytes, type });
      this.worker.postMessage({ id, bytes: own, type }, [own.buffer]);
    });
  }
  close() {
    this.worker?.terminate();
  }
}

class Tiles {
  // Tiles by key; asks for those that are missing, the most wanted first.
  constructor(model, arrived) {
    Object.assign(this, { model, arrived, kept: new Map(), asked: new Map(), wanted: [], decoder: new Decoder() });
    this.most = IN_FLIGHT.resting;
    this.patience = PATIENCE;
    this.listen = (message, buffers) => this.take(message, buffers);
    model.on('msg:custom', this.listen);
  }
  close() {
    this.closed = true;
    this.decoder.close();
    this.model.off('msg:custom', this.listen);
    for (const t of this.kept.values()) t.close();
    this.kept.clear();
  }
  get(key) {
    const t = this.kept.get(key);
    if (t) {
      this.kept.delete(key);
      this.kept.set(key, t);
    } // used last goes last
    return t;
  }
  want(list) {
    // of [key, layer, version, level, column, row], the most wanted first
    this.wanted = list.filter((w) => !this.kept.has(w[0]));
    this.ask();
  }
  ask() {
    const next = this.wanted.filter((w) => !this.asked.has(w[0])).slice(0, Math.max(0, this.most - this.asked.size));
    if (next.length <= 0) return;
    for (const w of next) this.asked.set(w[0], performance.now());
    send(this.model, { kind: 'tiles', tiles: next.map((w) => w.slice(1)) });
  }
  async take(message, buffers) {
    if (message.kind !== 'tile') return;
    const key = message.tile.join('/');
    this.asked.delete(key);
    if (message.type) {
      const bitmap = await this.decoder.decode(buffers[0], message.type);
      if (this.closed || this.kept.has(key)) bitmap.close();
      else this.kept.set(key, bitmap);
      for (const [k, t] of this.kept) {
        if (this.kept.size <= KEPT) break;
        t.close();
        this.kept.delete(k);
      }
    }
    if (this.closed) return;
    this.ask();
    this.arrived();
  }
  silent() {
    // whether the kernel owes an answer for long
    const now = performance.now();
    return [...this.asked.values()].some((t) => now - t > this.patience);
  }
  retry() {
    this.asked.clear();
    this.ask();
  }
}

class Mosaic {
  // What a stack of layers looks like at one scale, in pieces that are put together once and then only copied:
  // copying is quick even without a graphics card, scaling and blending layers is not.
  constructor(scale, pool, most = Infinity) {
    Object.assign(this, { scale, pool, most, cells: new Map() });
  }
  // the pieces between two corners of the canvas, [first column, first row, last column, last row]
  range(where, size) {
    const k = this.scale / where.scale,
      whole = (i) => Math.ceil((size[1 - i] * this.scale) / CELL) - 1,
      from = [where.from - where.left, where.above - where.top],
      to = [where.width - where.left, where.height - where.top];
    return [
      ...[0, 1].map((i) => Math.max(0, Math.floor((from[i] * k) / CELL))),
      ...[0, 1].map((i) => Math.min(whole(i), Math.ceil((to[i] * k) / CELL) - 1)),
    ];
  }
  *places(where, size) {
    const [left, top, right, bottom] = this.range(where, size);
    for (let row = top; row <= bottom; row++) for (let column = left; column <= right; column++) yield [column, row];
  }
  full(where, size) {
    for (const at of this.places(where, size)) if (!this.cells.has(at.join('/'))) return false;
    return true;
  }
  draw(c, where, size, smooth) {
    const k = where.scale / this.scale;
    c.imageSmoothingEnabled = k !== 1 && smooth;
    c.imageSmoothingQuality = 'low';
    const edge = (origin, n) => Math.round(origin + n * CELL * k);
    for (const [column, row] of this.places(where, size)) {
      const key = `${column}/${row}`,
        cell = this.cells.get(key);
      if (!cell) continue;
      this.cells.delete(key);
      this.cells.set(key, cell); // used last goes last
      const [x, y] = [edge(where.left, column), edge(where.top, row)];
      if (k === 1) c.drawImage(cell.canvas, x, y);
      else c.drawImage(cell.canvas, x, y, edge(where.left, column + 1) - x, edge(where.top, row + 1) - y);
    }
  }
  // the next piece that is missing or out of date, or null
  due(where, size, tiles) {
    for (const at of this.places(where, size)) {
      const cell = this.cells.get(at.join('/'));
      if (!cell || cell.missing.some((key) => tiles.kept.has(key))) return at;
    }
    return null;
  }
  // a canvas for the piece at `at`: its own, or that of the piece that was seen longest ago
  canvas([column, row]) {
    const key = `${column}/${row}`,
      own = this.cells.get(key);
    if (own) return own;
    const cell = this.cells.size < this.most ? this.pool.pop() || canvasOf(CELL, CELL) : this.oldest();
    cell.missing = [];
    this.cells.set(key, cell);
    return cell;
  }
  oldest() {
    const [[key, cell]] = this.cells;
    this.cells.delete(key);
    return cell;
  }
  close() {
    for (const cell of this.cells.values()) if (this.pool.length < KEPT) this.pool.push(cell);
    this.cells.clear();
  }
}

class Stack {
  // Layers over each other in one pane: the whole picture in small, what was drawn last, what is being drawn.
  constructor(pane) {
    Object.assign(this, { pane, key: '', names: [], overview: null, shown: null, next: null });
  }
  // the layers are `names` from now on; what was seen stays until the new is there
  follow(names) {
    const { scene, paneColour } = this.pane.viewer,
      key = JSON.stringify([names.map((n) => [n, scene.layers[n]]), paneColour, this.pane.ratio, scene.size]);
    this.names = names;
    if (key === this.key) return;
    const same = String(scene.size) === this.size;
    Object.assign(this, { key, size: String(scene.size) });
    this.hold(same ? (this.shown ?? this.next) : null, null);
    this.overview = null;
  }
  // what is shown and what is made from now on; the canvases of what is neither are used again
  hold(shown, next) {
    const old = new Set([this.shown, this.next]);
    Object.assign(this, { shown, next });
    for (const mosaic of old) if (mosaic && mosaic !== shown && mosaic !== next) mosaic.close();
  }
  // what is seen between the columns `where.from` and `where.width` from now on, and which tiles that takes
  plan(where, wanted) {
    this.area = { ...where, above: 0 };
    this.choose(this.area);
    // tiles for what is being drawn: in a zoom that goes on not of each level that it passes
    const k = this.next.scale / where.scale,
      drawn = { ...where, scale: this.next.scale, left: where.left * k, top: where.top * k };
    for (const side of ['from', 'width', 'height']) drawn[side] *= k;
    for (const name of this.names) this.pane.want(name, drawn, wanted);
  }
  draw(c) {
    const { area, next, shown } = this,
      { scene, rough } = this.pane.viewer;
    if (area.from >= area.width) return;
    c.save();
    c.beginPath();
    c.rect(area.from, 0, area.width - area.from, area.height);
    c.clip();
    if (!next.full(area, scene.size)) {
      if (!shown?.full(area, scene.size)) this.overview?.draw(c, area, scene.size, !rough);
      shown?.draw(c, area, scene.size, !rough);
    }
    next.draw(c, area, scene.size, !rough);
    c.restore();
  }
  // at which scale the pieces are made
  choose(area) {
    const { scene, fine, pool } = this.pane.viewer,
      { next } = this;
    if (next && next.scale === area.scale) return;
    if (next && this.near(next) && !fine) return; // a zoom that goes on: what there is will do for a moment
    const shown = next && (!this.shown || next.full(area, scene.size)) ? next : this.shown;
    const [w, h] = [area.width, area.height].map((n) => Math.ceil(n / CELL) + 3);
    // half as fine while a zoom goes on: that is a quarter of the work
    this.hold(shown, new Mosaic(fine ? area.scale : area.scale / 2, pool, Math.ceil(1.25 * w * h)));
  }
  near(mosaic) {
    const ratio = mosaic.scale / this.area.scale;
    return ratio < 4 && ratio > 0.16;
  }
  // put pieces together until the work for this frame is done; whether something of what is seen is still to do
  work(budget) {
    const { area } = this,
      { scene, fine } = this.pane.viewer;
    if (area.from >= area.width || !this.begun()) return false;
    this.overview ??= this.small(scene.size);
    if (!fine && this.next.scale !== area.scale && this.shown && this.near(this.shown)) return false;
    if (!this.fill(area, budget)) return true;
    if (this.next.scale !== area.scale) return false;
    this.hold(this.next, this.next);
    const { width, height } = area;
    this.fill({ ...area, from: -CELL, above: -CELL, width: width + CELL, height: height + CELL }, budget);
    return false;
  }
  // whether there is something of every layer; until then what was seen before stays
  begun() {
    return this.names.every((name) => {
      const { scene, tiles } = this.pane.viewer,
        version = scene.layers[name];
      return version === undefined || tiles.kept.has([name, version, this.pane.viewer.topLevel(), 0, 0].join('/'));
    });
  }
  empty() {
    return !this.shown && !this.overview && !this.begun();
  }
  fill(area, budget) {
    const { scene, tiles } = this.pane.viewer;
    for (let at; (at = this.next.due(area, scene.size, tiles)); ) {
      if (budget.left <= 0) return false;
      budget.left -= CELL * CELL * Math.max(1, this.names.length);
      this.put(at);
    }
    return true;
  }
  put(at) {
    const cell = this.next.canvas(at),
      [left, top] = at.map((n) => -n * CELL),
      where = { scale: this.next.scale, left, top, from: 0, above: 0, width: CELL, height: CELL };
    cell.missing = this.compose(cell.context, where);
  }
  compose(c, where) {
    c.fillStyle = this.pane.viewer.paneColour;
    c.fillRect(0, 0, where.width, where.height);
    const missing = [];
    for (const name of this.names) this.pane.layer(c, name, where, missing);
    return missing;
  }
  small(size) {
    const scale = Math.min(1, CELL / Math.max(...size)),
      made = new Mosaic(scale, []),
      [height, width] = size.map((n) => Math.max(1, Math.round(n * scale)));
    this.compose(made.canvas([0, 0]).context, { scale, left: 0, top: 0, from: 0, above: 0, width, height });
    return made;
  }
}

class Pane {
  constructor(viewer) {
    this.viewer = viewer;
    this.canvas = make('canvas', { class: 'p3m-picture', 'aria-hidden': 'true' });
    this.title = make('div', { class: 'p3m-title' });
    this.wipe = make('div', {
      class: 'p3m-wipe',
      role: 'slider',
      tabindex: '0',
      'aria-label': 'wipe line',
      'aria-valuemin': '0',
      'aria-valuemax': '100',
      'aria-orientation': 'horizontal',
      title: 'drag: compare with the photograph',
    });
    this.element = make('div', { class: 'p3m-pane' }, this.canvas, this.title, this.wipe);
    this.stacks = [new Stack(this), new Stack(this)]; // the layers, and those left of the wipe line
    this.size = [1, 1];
    viewer.listenPane(this);
  }
  resize(width, height, ratio) {
    Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    this.element.style.height = `${height}px`;
    this.size = [width, height];
    this.ratio = ratio;
  }
  // where the picture stands: its left upper corner and the size of a pixel, on the screen
  place() {
    const { scene, x, y, zoom } = this.viewer,
      [h, w] = scene.size,
      [width, height] = this.size;
    const scale = Math.min(width / w, height / h) * zoom;
    return { scale, left: width / 2 - x * w * scale, top: height / 2 - y * h * scale };
  }
  at(clientX, clientY) {
    // of the picture, in pixels
    const box = this.canvas.getBoundingClientRect(),
      p = this.place();
    return [(clientX - box.left - p.left) / p.scale, (clientY - box.top - p.top) / p.scale];
  }
  wipeColumn() {
    const p = this.place(),
      right = Math.min(this.size[0], p.left + this.viewer.scene.size[1] * p.scale),
      left = Math.max(0, p.left);
    return left + this.viewer.wipe * (right - left);
  }
  wipeShare(clientX) {
    const box = this.canvas.getBoundingClientRect(),
      p = this.place();
    const right = Math.min(this.size[0], p.left + this.viewer.scene.size[1] * p.scale),
      left = Math.max(0, p.left);
    return clamp((clientX - box.left - left) / Math.max(1, right - left), 0, 1);
  }
  // where all stands, and which tiles are wanted for it
  plan(spec, wanted) {
    const { canvas, ratio } = this,
      p = this.place();
    this.where = {
      scale: p.scale * ratio,
      left: Math.round(p.left * ratio), // whole pixels: a picture that moves is copied, not drawn anew
      top: Math.round(p.top * ratio),
      from: 0,
      width: canvas.width,
      height: canvas.height,
    };
    const line = spec.wipe.length ? Math.round(this.wipeColumn() * ratio) : 0,
      [base, over] = this.stacks;
    this.seen = line > 0 ? this.stacks : [base];
    base.follow(spec.layers);
    base.plan({ ...this.where, from: line }, wanted);
    over.follow(spec.wipe);
    if (line > 0) over.plan({ ...this.where, width: line }, wanted);
  }
  // put together what is missing; whether something of what is seen is still to do
  work(budget) {
    return this.seen.map((stack) => stack.work(budget)).some(Boolean);
  }
  draw(spec) {
    // opaque: the page behind need not be blended in
    const c = (this.context ??= this.canvas.getContext('2d', { alpha: false })),
      { canvas, where } = this;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.fillStyle = this.viewer.paneColour;
    c.fillRect(0, 0, canvas.width, canvas.height);
    for (const stack of this.seen) stack.draw(c);
    for (const box of spec.boxes) this.box(c, box, where);
    this.viewer.strokes(c, where);
    this.ring(c);
    this.handle(spec);
    const drawing = this.viewer.tool !== 'move',
      waits = this.seen.some((stack) => stack.empty());
    if (this.waits !== waits) this.element.classList.toggle('p3m-waits', (this.waits = waits));
    if (this.drawing !== drawing) this.canvas.classList.toggle('p3m-drawing', (this.drawing = drawing));
    if (this.titled === spec.title) return;
    this.titled = this.title.textContent = spec.title;
    this.title.classList.toggle('p3m-hidden', !spec.title);
  }
  ring(c) {
    // how large the brush is
    const { over, tool, model } = this.viewer;
    if (tool === 'move' || over?.pane !== this) return;
    const box = this.canvas.getBoundingClientRect(),
      [x, y] = [over.at[0] - box.left, over.at[1] - box.top].map((v) => v * this.ratio);
    for (const [width, colour] of [
      [3, '#000000'],
      [1.5, '#ffffff'],
    ]) {
      c.lineWidth = width * this.ratio;
      c.strokeStyle = colour;
      c.beginPath();
      c.arc(x, y, model.get('brush') * this.ratio, 0, 2 * Math.PI);
      c.stroke();
    }
  }
  handle(spec) {
    // only what changed is written: each write costs a layout
    const none = !spec.wipe.length,
      column = none ? 0 : this.wipeColumn(),
      share = Math.round(this.viewer.wipe * 100);
    if (this.wiped !== none) this.wipe.classList.toggle('p3m-hidden', (this.wiped = none));
    if (this.column !== column) this.wipe.style.transform = `translateX(${(this.column = column)}px)`;
    if (this.share === share) return;
    this.share = share;
    this.wipe.setAttribute('aria-valuenow', share);
    this.wipe.setAttribute('aria-valuetext', `${share} % of the width`);
  }
  // the tiles of a layer between two corners, as [column, row], and their size on the screen
  tilesOf(where) {
    const [h, w] = this.viewer.scene.size,
      level = clamp(Math.floor(Math.log2(1 / where.scale) + 0.01), 0, this.viewer.topLevel()),
      step = SIDE * 2 ** level,
      size = step * where.scale,
      list = [];
    const first = (n, from) => Math.max(0, Math.floor((from - n) / size)),
      last = (n, length, whole) => Math.min(Math.ceil(whole / step), Math.ceil((length - n) / size)) - 1;
    const columns = [first(where.left, where.from), last(where.left, where.width, w)];
    for (let row = first(where.top, 0); row <= last(where.top, where.height, h); row++)
      for (let column = columns[0]; column <= columns[1]; column++) list.push([column, row]);
    return { level, list };
  }
  want(name, where, wanted) {
    if (name === 'checkerboard' || name[0] === '#') return;
    const version = this.viewer.scene.layers[name],
      top = this.viewer.topLevel(),
      { level, list } = this.tilesOf(where);
    const add = (to, tile) => {
      const key = tile.join('/');
      if (!this.viewer.tiles.get(key)) to.push([key, ...tile]); // getting it keeps it from being forgotten
    };
    for (const at of list) add(wanted.seen, [name, version, level, ...at]);
    if (level < top) add(wanted.rest, [name, version, top, 0, 0]);
  }
  layer(c, name, where, missing) {
    const [h, w] = this.viewer.scene.size;
    if (name === 'checkerboard' || name[0] === '#') {
      c.save();
      c.translate(where.left, where.top); // the squares move with the picture
      c.fillStyle = name === 'checkerboard' ? this.viewer.checkerboard(c) : name;
      c.fillRect(0, 0, Math.round(w * where.scale), Math.round(h * where.scale));
      c.restore();
      return;
    }
    c.imageSmoothingEnabled = where.scale < 2;
    c.imageSmoothingQuality = 'low'; // a tile is shrunk to no less than half
    const { level, list } = this.tilesOf(where);
    for (const at of list) this.tile(c, [name, this.viewer.scene.layers[name], level, ...at], where, missing);
  }
  tile(c, tile, where, missing) {
    const [name, version, level, column, row] = tile,
      key = tile.join('/'),
      top = this.viewer.topLevel();
    let bitmap = this.viewer.tiles.get(key),
      up = 0;
    while (!bitmap && level + up <= top) {
      missing.push([name, version, level + up, column >> up, row >> up].join('/'));
      up += 1;
      bitmap = this.viewer.tiles.get([name, version, level + up, column >> up, row >> up].join('/'));
    }
    if (!bitmap) return;
    const part = SIDE >> up,
      sx = (column * part) % SIDE,
      sy = (row * part) % SIDE;
    const sw = Math.min(part, bitmap.width - sx),
      sh = Math.min(part, bitmap.height - sy);
    if (sw <= 0 || sh <= 0) return;
    const pixel = 2 ** (level + up) * where.scale,
      step = SIDE * 2 ** level * where.scale;
    const x = Math.round(where.left + column * step),
      y = Math.round(where.top + row * step);
    c.drawImage(
      bitmap,
      sx,
      sy,
      sw,
      sh,
      x,
      y,
      Math.round(where.left + column * step + sw * pixel) - x,
      Math.round(where.top + row * step + sh * pixel) - y,
    );
  }
  box(c, box, where) {
    const [left, top, right, bottom] = box.box.map((v, i) => v * where.scale + (i % 2 ? where.top : where.left));
    c.lineWidth = 2 * this.ratio;
    c.strokeStyle = box.colour;
    c.strokeRect(left, top, right - left, bottom - top);
  }
}

class Viewer {
  constructor(model, el) {
    Object.assign(this, {
      model,
      frames: [], // milliseconds between frames while it moves
      costs: [], // milliseconds that drawing took of each
      fine: true,
      pool: [], // canvases for pieces
      late: 0, // frames
      quick: 0,
      rough: true,
      pointers: new Map(),
      drawn: [], // strokes
      strokesBegun: 0,
      panes: [],
      dirty: true,
      moved: 0,
      asleep: true,
    });
    for (const name of ['zoom', 'x', 'y', 'wipe', 'tool']) this[name] = model.get(name);
    this.scene = model.get('_scene');
    this.tiles = new Tiles(model, () => this.wake());
    this.build(el);
    this.listeners = [];
    for (const name of ['zoom', 'x', 'y', 'wipe', 'tool']) this.on(`change:${name}`, () => this.follow(name));
    this.on('change:_scene', () => {
      this.scene = model.get('_scene');
      this.lay();
    });
    this.on('change:brush', () => this.followBrush());
    this.on('change:height', () => this.lay());
    this.on('change:theme', () => this.dress());
    this.on('change:status', () => this.say(model.get('status')));
    this.on('change:tools', () => this.showTools());
    this.on('msg:custom', (message) => {
      if (message.kind === 'pixel') this.showPixel(message);
      // a stroke is seen until the kernel has answered it; all go with the picture
      if (message.kind === 'done') this.drawn = this.drawn.filter((s) => s.number !== message.stroke);
      if (message.kind === 'clear') this.drawn = [];
      if (message.kind === 'done' || message.kind === 'clear') this.wake();
    });
    this.observer = new ResizeObserver(() => this.lay());
    this.observer.observe(this.root);
    this.dresser = new MutationObserver(() => this.dress()); // another theme of the notebook
    for (const e of [document.documentElement, document.body])
      this.dresser.observe(e, { attributes: true, attributeFilter: THEME_MARKS });
    this.wishes = WISHES.map((wish) => matchMedia(wish)); // another theme of the system
    this.redress = () => this.dress();
    for (const wish of this.wishes) wish.addEventListener('change', this.redress);
    this.clock = setInterval(() => this.listen(), 1000);
    this.dress();
    this.showTools();
    this.say(model.get('status'));
    this.lay();
  }
  on(event, call) {
    this.model.on(event, call);
    this.listeners.push([event, call]);
  }
  close() {
    for (const [event, call] of this.listeners) this.model.off(event, call);
    clearInterval(this.clock);
    clearTimeout(this.later);
    this.observer.disconnect();
    this.dresser.disconnect();
    for (const wish of this.wishes) wish.removeEventListener('change', this.redress);
    this.tiles.close();
    this.gone = true;
  }
  build(el) {
    const button = (text, label, onclick) =>
      make('button', { type: 'button', text, title: label, 'aria-label': label, onclick });
    this.values = make('span', { class: 'p3m-values', 'aria-live': 'off' });
    this.message = make('span', { role: 'status', class: 'p3m-values' });
    this.help = make('p', { class: 'p3m-help p3m-hidden', id: `p3m-help-${Math.random().toString(36).slice(2)}` });
    for (const [key, what] of KEYS) this.help.append(make('kbd', { text: key }), ` ${what}  `);
    this.toolButtons = make('span', { role: 'group', 'aria-label': 'brush', class: 'p3m-hidden' });
    for (const [tool, what] of Object.entries(TOOLS))
      this.toolButtons.append(
        make('button', {
          type: 'button',
          text: tool,
          'data-tool': tool,
          title: `${tool}: ${what}`,
          onclick: () => {
            this.model.set('tool', tool);
            this.model.save_changes();
            this.follow('tool');
          },
        }),
      );
    this.brush = make('input', {
      type: 'range',
      min: '2',
      max: '100',
      'aria-label': 'size of the brush',
      title: 'size of the brush',
      oninput: () => {
        this.model.set('brush', Number(this.brush.value));
        this.model.save_changes();
        this.wake();
      },
    });
    this.brushes = make('label', { class: 'p3m-hidden' }, 'size ', this.brush);
    const bar = make(
      'div',
      { class: 'p3m-bar', role: 'toolbar', 'aria-label': 'view' },
      button('−', 'zoom out', () => this.zoomBy(1 / 1.5)),
      button('+', 'zoom in', () => this.zoomBy(1.5)),
      button('fit', 'fit: show all (0)', () => this.fit()),
      button('1:1', '1:1, full size (1)', () => this.fullSize()),
      button('?', 'keys and mouse (?)', () => this.help.classList.toggle('p3m-hidden')),
      this.toolButtons,
      this.brushes,
    );
    // a line of its own: the picture must not move when the text gets longer
    const line = make('div', { class: 'p3m-line' }, this.values, this.message);
    this.grid = make('div', { class: 'p3m-panes' });
    this.mini = make('canvas', { class: 'p3m-mini', 'aria-hidden': 'true' });
    this.root = make(
      'div',
      {
        class: 'p3m-viewer',
        tabindex: '0',
        role: 'group',
        'aria-roledescription': 'picture viewer',
        'aria-label': this.model.get('label'),
        'aria-describedby': this.help.id,
      },
      bar,
      line,
      this.help,
      this.grid,
    );
    this.root.addEventListener('keydown', (e) => this.key(e));
    this.mini.addEventListener('pointerdown', (e) => {
      e.preventDefault();
      this.mini.setPointerCapture(e.pointerId);
      this.toMini(e);
    });
    this.mini.addEventListener('pointermove', (e) => {
      if (e.buttons) this.toMini(e);
    });
    this.root.p3m = this; // for measurements
    el.append(this.root);
  }
  listenPane(pane) {
    const { canvas, wipe } = pane;
    canvas.addEventListener(
      'wheel',
      (e) => {
        e.preventDefault();
        const pixels = e.deltaY * (e.deltaMode === 1 ? 30 : e.deltaMode === 2 ? 300 : 1);
        this.zoomBy(Math.exp(-clamp(pixels, -400, 400) * (e.ctrlKey ? 0.01 : 0.002)), pane, e.clientX, e.clientY);
      },
      { passive: false },
    );
    canvas.addEventListener('dblclick', () => {
      if (this.tool === 'move') this.fit();
    });
    canvas.addEventListener('pointerdown', (e) => this.press(e, pane));
    canvas.addEventListener('pointermove', (e) => this.drag(e, pane));
    for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, (e) => this.release(e));
    canvas.addEventListener('pointerleave', () => {
      this.values.textContent = '';
      this.over = null;
      if (this.tool !== 'move') this.wake();
    });
    wipe.addEventListener('pointerdown', (e) => {
      wipe.setPointerCapture(e.pointerId);
      e.stopPropagation();
    });
    wipe.addEventListener('pointermove', (e) => {
      if (e.buttons) {
        this.wipe = pane.wipeShare(e.clientX);
        this.change();
      }
    });
    wipe.addEventListener('keydown', (e) => {
      const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1, PageDown: -0.1, PageUp: 0.1 }[e.key];
      if (step === undefined) return;
      e.preventDefault();
      e.stopPropagation();
      this.wipe = clamp(this.wipe + step, 0, 1);
      this.change();
    });
  }
  // the pointer
  press(e, pane) {
    this.root.focus({ preventScroll: true });
    if (e.button > 1) return;
    e.preventDefault();
    pane.canvas.setPointerCapture(e.pointerId);
    this.pointers.set(e.pointerId, [e.clientX, e.clientY]);
    if (this.tool !== 'move' && e.button === 0 && this.pointers.size === 1) {
      this.stroke = {
        number: ++this.strokesBegun,
        tool: this.tool,
        radius: this.model.get('brush') / pane.place().scale,
        points: [pane.at(e.clientX, e.clientY)],
      };
      this.drawn.push(this.stroke);
    }
    pane.canvas.classList.add('p3m-moving');
    this.wake();
  }
  drag(e, pane) {
    const before = this.pointers.get(e.pointerId);
    if (this.tool !== 'move') {
      this.over = { pane, at: [e.clientX, e.clientY] };
      this.wake();
    }
    if (!before) return this.point(e, pane);
    if (this.stroke) {
      for (const each of e.getCoalescedEvents?.() ?? [e]) this.stroke.points.push(pane.at(each.clientX, each.clientY));
      this.pointers.set(e.pointerId, [e.clientX, e.clientY]);
      return this.wake();
    }
    const two = [...this.pointers.values()],
      spread = (p) => Math.hypot(p[0][0] - p[1][0], p[0][1] - p[1][1]),
      middle = (p) => [0, 1].map((i) => (p[0][i] + p[1][i]) / 2);
    if (two.length === 2) {
      const [gap, at] = [spread(two), middle(two)];
      this.pointers.set(e.pointerId, [e.clientX, e.clientY]);
      const now = [...this.pointers.values()],
        to = middle(now);
      this.moveBy(to[0] - at[0], to[1] - at[1], pane);
      if (gap > 0) this.zoomBy(spread(now) / gap, pane, ...to);
      return;
    }
    this.pointers.set(e.pointerId, [e.clientX, e.clientY]);
    this.moveBy(e.clientX - before[0], e.clientY - before[1], pane);
  }
  release(e) {
    this.pointers.delete(e.pointerId);
    for (const p of this.panes) p.canvas.classList.remove('p3m-moving');
    if (!this.stroke) return;
    send(this.model, { kind: 'stroke', ...this.stroke });
    this.stroke = null;
  }
  point(e, pane) {
    const [x, y] = pane.at(e.clientX, e.clientY).map(Math.floor),
      [h, w] = this.scene.size;
    this.pixel = x >= 0 && y >= 0 && x < w && y < h ? [x, y] : null;
    if (!this.pixel) {
      this.values.textContent = '';
      return;
    }
    if (this.probing) return;
    this.probing = performance.now();
    this.probed = String(this.pixel);
    send(this.model, { kind: 'pixel', x, y });
  }
  showPixel(message) {
    this.probing = null;
    if (this.pixel) this.values.textContent = message.text;
    if (this.pixel && String(this.pixel) !== this.probed) {
      // it went on in the meantime
      this.probing = performance.now();
      this.probed = String(this.pixel);
      send(this.model, { kind: 'pixel', x: this.pixel[0], y: this.pixel[1] });
    }
  }
  toMini(e) {
    const box = this.mini.getBoundingClientRect();
    this.x = clamp((e.clientX - box.left) / box.width, 0, 1);
    this.y = clamp((e.clientY - box.top) / box.height, 0, 1);
    this.change();
  }
  key(e) {
    const tag = e.target.tagName;
    if (e.altKey || e.metaKey || e.ctrlKey || tag === 'INPUT' || tag === 'SELECT') return;
    const step = 0.1 * Math.min(...(this.panes[0]?.size ?? [100]));
    const act = {
      '+': () => this.zoomBy(1.25),
      '=': () => this.zoomBy(1.25),
      '-': () => this.zoomBy(0.8),
      0: () => this.fit(),
      Home: () => this.fit(),
      1: () => this.fullSize(),
      ArrowLeft: () => this.moveBy(step, 0),
      ArrowRight: () => this.moveBy(-step, 0),
      ArrowUp: () => this.moveBy(0, step),
      ArrowDown: () => this.moveBy(0, -step),
      '[': () => {
        this.wipe = clamp(this.wipe - 0.02, 0, 1);
        this.change();
      },
      ']': () => {
        this.wipe = clamp(this.wipe + 0.02, 0, 1);
        this.change();
      },
      m: () => {
        this.noMini = !this.noMini;
        this.wake();
      },
      '?': () => this.help.classList.toggle('p3m-hidden'),
    }[e.key];
    if (!act) return;
    e.preventDefault();
    e.stopPropagation(); // the notebook has keys of its own
    act();
  }
  // the view
  largest(pane = this.panes[0]) {
    return Math.max(1, LARGEST_PIXEL / (pane.place().scale / this.zoom));
  }
  zoomBy(factor, pane = this.panes[0], clientX = null, clientY = null) {
    const [h, w] = this.scene.size,
      zoom = clamp(this.zoom * factor, 1, Math.min(1000, this.largest(pane)));
    if (clientX !== null) {
      const box = pane.canvas.getBoundingClientRect(),
        [px, py] = pane.at(clientX, clientY),
        fit = pane.place().scale / this.zoom;
      this.x = (px - (clientX - box.left - pane.size[0] / 2) / (fit * zoom)) / w;
      this.y = (py - (clientY - box.top - pane.size[1] / 2) / (fit * zoom)) / h;
    }
    this.zoom = zoom;
    this.change();
  }
  moveBy(dx, dy, pane = this.panes[0]) {
    const [h, w] = this.scene.size,
      { scale } = pane.place();
    this.x -= dx / (w * scale);
    this.y -= dy / (h * scale);
    this.change();
  }
  fit() {
    Object.assign(this, { zoom: 1, x: 0.5, y: 0.5 });
    this.change();
  }
  fullSize() {
    const p = this.panes[0];
    this.zoom = clamp(this.zoom / (p.place().scale * p.ratio), 1, this.largest());
    this.change();
  }
  change() {
    // a picture that is smaller than its pane in one direction stays in the middle of it
    const pane = this.panes[0],
      [h, w] = this.scene.size;
    if (pane) {
      const { scale } = pane.place(),
        half = (length, whole) => Math.min(0.5, length / (2 * whole * scale));
      const [hx, hy] = [half(pane.size[0], w), half(pane.size[1], h)];
      this.x = clamp(this.x, hx, 1 - hx);
      this.y = clamp(this.y, hy, 1 - hy);
    }
    this.moved = performance.now();
    this.wake();
    this.later ??= setTimeout(() => this.tell(), REST);
  }
  tell() {
    // the kernel hears where the view is when it rests, and now and then while it moves
    const now = performance.now();
    if (now - this.moved < REST - 5 && now - (this.told ?? 0) < TOLD) {
      this.later = setTimeout(() => this.tell(), REST - (now - this.moved));
      return;
    }
    this.later = null;
    this.told = now;
    for (const name of ['zoom', 'x', 'y', 'wipe']) this.model.set(name, this[name]);
    this.model.save_changes();
  }
  follow(name) {
    if (name !== 'tool' && this.later) return; // what the hand does now counts more
    this[name] = this.model.get(name);
    for (const b of this.toolButtons.children) b.setAttribute('aria-pressed', String(b.dataset.tool === this.tool));
    this.brushes.classList.toggle('p3m-hidden', !this.model.get('tools'));
    this.wake();
  }
  // what is seen
  topLevel() {
    return Math.max(0, Math.ceil(Math.log2(Math.max(...this.scene.size) / SIDE)));
  }
  lay() {
    const { panes } = this.scene,
      ratio = window.devicePixelRatio || 1,
      width = Math.max(50, this.root.clientWidth - 8),
      height = this.model.get('height');
    while (this.panes.length < panes.length) {
      this.panes.push(new Pane(this));
      this.grid.append(this.panes.at(-1).element);
    }
    while (this.panes.length > panes.length) this.panes.pop().element.remove();
    const [h, w] = this.scene.size,
      fitted = (n) => {
        const rows = Math.ceil(panes.length / n);
        return Math.min(width / n / w, height / rows / h);
      };
    let columns = this.scene.columns || 1;
    if (!this.scene.columns)
      for (let n = 2; n <= panes.length; n++) if (fitted(n) > fitted(columns) * 1.001) columns = n;
    const rows = Math.ceil(panes.length / columns),
      across = (width - 4 * (columns - 1)) / columns - 2;
    const down = Math.max(60, Math.min(height / rows - 4, Math.max(160 / rows, (across * h) / w)));
    this.grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    for (const p of this.panes) p.resize(across, down, ratio);
    if (this.panes[0] && this.mini.parentElement !== this.panes[0].element) this.panes[0].element.append(this.mini);
    this.wake();
  }
  dress() {
    const theme = this.model.get('theme'),
      body = document.body,
      dark = pageIsDark();
    const contrast = matchMedia(WISHES[1]).matches || body.classList.contains('vscode-high-contrast');
    const worn = theme === 'auto' ? (contrast ? 'contrast' : dark ? 'dark' : 'light') : theme;
    for (const name of ['dark', 'contrast']) this.root.classList.toggle(`p3m-${name}`, worn === name);
    this.paneColour = getComputedStyle(this.root).getPropertyValue('--p3m-pane').trim() || '#ececec';
    this.wake();
  }
  showTools() {
    this.toolButtons.classList.toggle('p3m-hidden', !this.model.get('tools'));
    this.followBrush();
    this.follow('tool');
  }
  followBrush() {
    this.brush.value = this.model.get('brush');
    this.wake();
  }
  say(text) {
    if (this.message.textContent !== text) this.message.textContent = text;
  }
  nameControls() {
    // ipywidgets gives sliders and colour fields no names that a screen reader could say
    const box = this.root.closest('.widget-vbox') ?? this.root;
    for (const e of box.querySelectorAll('.noUi-handle:not([aria-label]), input[type="color"]:not([aria-label])')) {
      const control = e.closest('.widget-inline-hbox'),
        name = control?.querySelector('label')?.textContent.trim() || e.closest('[title]')?.title;
      e.setAttribute('aria-label', name || 'colour');
    }
  }
  listen() {
    this.nameControls();
    const unanswered = this.probing && performance.now() - this.probing > this.tiles.patience;
    const silent = this.tiles.silent() || unanswered;
    if (silent)
      this.say('the kernel does not answer: it is busy or has stopped; what was seen already can still be seen');
    else if (this.silent) this.say(this.model.get('status'));
    if (silent && !this.silent) this.tiles.retry();
    if (unanswered && this.silent) this.probing = null; // the next movement asks again
    this.silent = silent;
  }
  checkerboard(c) {
    if (this.board) return this.board;
    const side = 12 * (window.devicePixelRatio || 1),
      tile = make('canvas', { width: 2 * side, height: 2 * side }),
      d = tile.getContext('2d');
    d.fillStyle = '#ffffff';
    d.fillRect(0, 0, 2 * side, 2 * side);
    d.fillStyle = '#cdcdcd';
    d.fillRect(0, 0, side, side);
    d.fillRect(side, side, side, side);
    return (this.board = c.createPattern(tile, 'repeat'));
  }
  strokes(c, where) {
    for (const s of this.drawn) {
      c.strokeStyle = STROKE[s.tool];
      c.lineWidth = 2 * s.radius * where.scale;
      c.lineCap = c.lineJoin = 'round';
      c.beginPath();
      s.points.forEach(([x, y], i) =>
        c[i ? 'lineTo' : 'moveTo'](
          where.left + x * where.scale,
          where.top + y * where.scale + (s.points.length === 1 ? 0.01 : 0),
        ),
      );
      if (s.points.length === 1)
        c.lineTo(where.left + s.points[0][0] * where.scale + 0.01, where.top + s.points[0][1] * where.scale);
      c.stroke();
    }
  }
  drawMini() {
    const pane = this.panes[0],
      spec = this.scene.panes[0],
      name = spec?.layers.find((l) => this.scene.layers[l] !== undefined),
      top = this.topLevel();
    const show = this.zoom > 1.05 && !this.noMini && name;
    if (this.miniShown !== !!show) this.mini.classList.toggle('p3m-hidden', !(this.miniShown = !!show));
    if (!show) return;
    const [h, w] = this.scene.size,
      scale = 120 / Math.max(h, w),
      p = pane.place();
    const size = [Math.round(w * scale), Math.round(h * scale)];
    if (this.mini.width !== size[0] || this.mini.height !== size[1])
      Object.assign(this.mini, { width: size[0], height: size[1] });
    const c = this.mini.getContext('2d', { alpha: false }),
      key = [name, this.scene.layers[name], top, 0, 0].join('/'),
      bitmap = this.tiles.get(key);
    if (!bitmap) {
      c.fillStyle = '#808080';
      c.fillRect(0, 0, ...size);
    } else c.drawImage(this.smallPicture(bitmap, [key, ...size].join('/'), size), 0, 0);
    c.lineWidth = 2;
    c.strokeStyle = '#ff00c8';
    c.strokeRect(
      (-p.left / p.scale) * scale,
      (-p.top / p.scale) * scale,
      (pane.size[0] / p.scale) * scale,
      (pane.size[1] / p.scale) * scale,
    );
  }
  smallPicture(bitmap, key, [width, height]) {
    // made once: shrinking a tile in every frame costs as much as a pane
    if (this.small?.key === key) return this.small.canvas;
    const canvas = make('canvas', { width, height }),
      c = canvas.getContext('2d', { alpha: false });
    c.fillStyle = '#808080';
    c.fillRect(0, 0, width, height);
    c.imageSmoothingQuality = 'high';
    c.drawImage(bitmap, 0, 0, bitmap.width, bitmap.height, 0, 0, width, height);
    this.small = { key, canvas };
    return canvas;
  }
  wake() {
    this.dirty = true;
    if (this.asleep && !this.gone) {
      this.asleep = false;
      this.last = null;
      requestAnimationFrame((t) => this.frame(t));
    }
  }
  frame(time) {
    if (this.gone) return;
    const now = performance.now(),
      rests = now - this.moved > REST;
    if (this.last && time - this.moved < 150) {
      this.count(this.frames, time - this.last);
      this.judge(time - this.last);
    }
    this.last = time;
    if (rests !== this.fine) {
      this.fine = rests;
      this.dirty = true;
    }
    if (this.dirty) {
      this.dirty = false;
      this.draw(rests);
      this.drawnAt = performance.now();
      if (!rests) this.count(this.costs, this.drawnAt - now);
    }
    if (this.dirty || now - this.moved < 300 || this.pointers.size) requestAnimationFrame((t) => this.frame(t));
    else this.asleep = true;
  }
  judge(gap) {
    // pictures that grow or shrink are smoothed where the computer is quick enough for it; one trial decides
    this.late = Math.max(0, this.late + (gap > SLOW ? 1 : -0.1));
    this.quick = gap > SLOW ? 0 : this.quick + 1;
    if (!this.rough && this.late > 2) this.rough = true;
    else if (this.rough && !this.tried && this.quick > 40) {
      this.tried = true;
      this.rough = false;
    }
  }
  count(list, value) {
    list.push(value);
    if (list.length > 2000) list.shift();
  }
  draw(rests) {
    const wanted = { seen: [], rest: [] },
      budget = { left: WORK[rests ? 'resting' : 'moving'] };
    this.scene.panes.forEach((spec, i) => this.panes[i].plan(spec, wanted));
    const busy = this.panes.map((pane) => pane.work(budget)).some(Boolean);
    this.scene.panes.forEach((spec, i) => this.panes[i].draw(spec));
    if (busy || budget.left <= 0) this.dirty = true; // the next frame goes on
    this.drawMini();
    this.tiles.most = IN_FLIGHT[rests ? 'resting' : 'moving'];
    const coarse = wanted.rest.slice(0, 2);
    this.tiles.want([...new Map([...coarse, ...wanted.seen, ...wanted.rest].map((w) => [w[0], w])).values()]);
  }
}

// JupyterLab and Notebook 7, VS Code, Colab and marimo each say in their own way whether they are dark
const WISHES = ['(prefers-color-scheme: dark)', '(prefers-contrast: more)'];
const THEME_MARKS = ['class', 'theme', 'data-theme', 'data-jp-theme-light'];
const THEME_WORDS = [
  [false, ['vscode-light', 'vscode-high-contrast-light', 'light', 'light-theme']],
  [true, ['vscode-dark', 'vscode-high-contrast', 'dark', 'dark-theme']],
];
function pageIsDark() {
  const jupyter = document.body.dataset.jpThemeLight;
  if (jupyter) return jupyter === 'false';
  const said = [document.documentElement, document.body].flatMap((e) => [
    ...e.classList,
    e.getAttribute('theme'),
    e.dataset.theme,
  ]);
  for (const [dark, words] of THEME_WORDS) if (words.some((word) => said.includes(word))) return dark;
  return matchMedia(WISHES[0]).matches;
}

function render({ model, el }) {
  const viewer = new Viewer(model, el);
  return () => viewer.close();
}

export default { render };
