// The viewer of p3m_nb: pictures drawn from tiles that the kernel sends on demand.
// Documented in nbs/widgets/viewer.ipynb.
const SIDE = 512; // of a tile in pixels
const IN_FLIGHT = 6; // tiles that are asked for at once: what is seen now is not kept waiting by what was seen before
const KEPT = 400; // tiles in memory
const LARGEST_PIXEL = 40; // of the screen for one of the picture
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
const TOOLS = ['move', 'add', 'remove', 'soften', 'hair'];
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

function send(model, message) {
  // a model whose kernel is gone throws; the viewer goes on with what it has
  try {
    model.send(message);
  } catch (e) {
    console.warn(`p3m viewer: ${e.message}`);
  }
}

class Tiles {
  // Tiles by key; asks for those that are missing, the most wanted first.
  constructor(model, arrived) {
    Object.assign(this, { model, arrived, kept: new Map(), asked: new Map(), wanted: [] });
    this.listen = (message, buffers) => this.take(message, buffers);
    model.on('msg:custom', this.listen);
  }
  close() {
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
    const next = this.wanted.filter((w) => !this.asked.has(w[0])).slice(0, IN_FLIGHT - this.asked.size);
    if (next.length <= 0) return;
    for (const w of next) this.asked.set(w[0], performance.now());
    send(this.model, { kind: 'tiles', tiles: next.map((w) => w.slice(1)) });
  }
  async take(message, buffers) {
    if (message.kind !== 'tile') return;
    const key = message.tile.join('/');
    this.asked.delete(key);
    if (message.type) {
      const bitmap = await createImageBitmap(new Blob([buffers[0]], { type: message.type }), {
        premultiplyAlpha: 'premultiply',
      });
      if (this.kept.has(key)) bitmap.close();
      else this.kept.set(key, bitmap);
      for (const [k, t] of this.kept) {
        if (this.kept.size <= KEPT) break;
        t.close();
        this.kept.delete(k);
      }
    }
    this.ask();
    this.arrived();
  }
  silent() {
    // whether the kernel owes an answer for long
    const now = performance.now();
    return [...this.asked.values()].some((t) => now - t > PATIENCE);
  }
  retry() {
    this.asked.clear();
    this.ask();
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
  draw(spec, wanted) {
    const c = this.canvas.getContext('2d'),
      { canvas, ratio } = this,
      p = this.place();
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, canvas.width, canvas.height);
    const where = {
      scale: p.scale * ratio,
      left: p.left * ratio,
      top: p.top * ratio,
      width: canvas.width,
      height: canvas.height,
    };
    for (const layer of spec.layers) this.layer(c, layer, where, wanted);
    const wiped = spec.wipe.length && this.viewer.wipe > 0;
    if (wiped) {
      c.save();
      c.beginPath();
      c.rect(0, 0, this.wipeColumn() * ratio, canvas.height);
      c.clip();
      for (const layer of spec.wipe) this.layer(c, layer, where, wanted);
      c.restore();
    }
    for (const box of spec.boxes) this.box(c, box, where);
    this.viewer.strokes(c, where);
    this.handle(spec);
    this.canvas.classList.toggle('p3m-drawing', this.viewer.tool !== 'move');
    if (this.title.textContent !== spec.title) this.title.textContent = spec.title;
    this.title.classList.toggle('p3m-hidden', !spec.title);
  }
  handle(spec) {
    this.wipe.classList.toggle('p3m-hidden', !spec.wipe.length);
    this.wipe.style.left = `${this.wipeColumn()}px`;
    this.wipe.setAttribute('aria-valuenow', Math.round(this.viewer.wipe * 100));
    this.wipe.setAttribute('aria-valuetext', `${Math.round(this.viewer.wipe * 100)} % of the width`);
  }
  layer(c, name, where, wanted) {
    const [h, w] = this.viewer.scene.size;
    if (name === 'checkerboard' || name[0] === '#') {
      c.fillStyle = name === 'checkerboard' ? this.viewer.checkerboard(c) : name;
      c.fillRect(where.left, where.top, w * where.scale, h * where.scale);
      return;
    }
    const version = this.viewer.scene.layers[name],
      top = this.viewer.topLevel();
    const level = clamp(Math.floor(Math.log2(1 / where.scale) + 0.01), 0, top);
    const step = SIDE * 2 ** level,
      size = step * where.scale;
    c.imageSmoothingEnabled = where.scale < 2;
    c.imageSmoothingQuality = 'medium';
    const first = (n) => Math.max(0, Math.floor(-n / size)),
      last = (n, length, whole) => Math.min(Math.ceil(whole / step), Math.ceil((length - n) / size)) - 1;
    for (let row = first(where.top); row <= last(where.top, where.height, h); row++)
      for (let column = first(where.left); column <= last(where.left, where.width, w); column++)
        this.tile(c, [name, version, level, column, row], where, wanted, top);
    if (level < top) wanted.rest.push([[name, version, top, 0, 0].join('/'), name, version, top, 0, 0]);
  }
  tile(c, tile, where, wanted, top) {
    const [name, version, level, column, row] = tile,
      key = tile.join('/');
    let bitmap = this.viewer.tiles.get(key),
      up = 0;
    if (!bitmap) wanted.seen.push([key, ...tile]);
    while (!bitmap && level + ++up <= top)
      bitmap = this.viewer.tiles.get([name, version, level + up, column >> up, row >> up].join('/'));
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
      frames: [],
      pointers: new Map(),
      drawn: [],
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
      this.drawn = [];
      this.lay();
    });
    this.on('change:height', () => this.lay());
    this.on('change:theme', () => this.dress());
    this.on('change:status', () => this.say(model.get('status')));
    this.on('change:tools', () => this.showTools());
    this.on('msg:custom', (message) => {
      if (message.kind === 'pixel') this.showPixel(message);
      if (message.kind === 'clear') {
        this.drawn = [];
        this.wake();
      }
    });
    this.observer = new ResizeObserver(() => this.lay());
    this.observer.observe(this.root);
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
    for (const tool of TOOLS)
      this.toolButtons.append(
        make('button', {
          type: 'button',
          text: tool,
          'data-tool': tool,
          title: `${tool}: drag over the picture`,
          onclick: () => {
            this.model.set('tool', tool);
            this.model.save_changes();
            this.follow('tool');
          },
        }),
      );
    const bar = make(
      'div',
      { class: 'p3m-bar', role: 'toolbar', 'aria-label': 'view' },
      button('−', 'zoom out', () => this.zoomBy(1 / 1.5)),
      button('+', 'zoom in', () => this.zoomBy(1.5)),
      button('fit', 'fit: show all (0)', () => this.fit()),
      button('1:1', '1:1, full size (1)', () => this.fullSize()),
      button('?', 'keys and mouse (?)', () => this.help.classList.toggle('p3m-hidden')),
      this.toolButtons,
      this.values,
      this.message,
    );
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
    this.point(e, pane);
    const before = this.pointers.get(e.pointerId);
    if (!before) return;
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
    if (!this.later)
      this.later = setTimeout(() => {
        this.later = null;
        this.tell();
      }, 100);
  }
  tell() {
    for (const name of ['zoom', 'x', 'y', 'wipe']) this.model.set(name, this[name]);
    this.model.save_changes();
  }
  follow(name) {
    if (name !== 'tool' && this.later) return; // what the hand does now counts more
    this[name] = this.model.get(name);
    for (const b of this.toolButtons.children) b.setAttribute('aria-pressed', String(b.dataset.tool === this.tool));
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
      body = document.body;
    const jupyter = body.dataset.jpThemeLight,
      dark = jupyter
        ? jupyter === 'false'
        : body.classList.contains('vscode-dark') || matchMedia('(prefers-color-scheme: dark)').matches;
    const contrast = matchMedia('(prefers-contrast: more)').matches || body.classList.contains('vscode-high-contrast');
    const worn = theme === 'auto' ? (contrast ? 'contrast' : dark ? 'dark' : 'light') : theme;
    for (const name of ['dark', 'contrast']) this.root.classList.toggle(`p3m-${name}`, worn === name);
  }
  showTools() {
    this.toolButtons.classList.toggle('p3m-hidden', !this.model.get('tools'));
    this.follow('tool');
  }
  say(text) {
    if (this.message.textContent !== text) this.message.textContent = text;
  }
  listen() {
    const unanswered = this.probing && performance.now() - this.probing > PATIENCE;
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
    this.mini.classList.toggle('p3m-hidden', !show);
    if (!show) return;
    const [h, w] = this.scene.size,
      scale = 120 / Math.max(h, w),
      p = pane.place();
    const size = [Math.round(w * scale), Math.round(h * scale)];
    if (this.mini.width !== size[0] || this.mini.height !== size[1])
      Object.assign(this.mini, { width: size[0], height: size[1] });
    const c = this.mini.getContext('2d'),
      bitmap = this.tiles.get([name, this.scene.layers[name], top, 0, 0].join('/'));
    c.fillStyle = '#808080';
    c.fillRect(0, 0, ...size);
    if (bitmap) c.drawImage(bitmap, 0, 0, bitmap.width, bitmap.height, 0, 0, ...size);
    c.lineWidth = 2;
    c.strokeStyle = '#ff00c8';
    c.strokeRect(
      (-p.left / p.scale) * scale,
      (-p.top / p.scale) * scale,
      (pane.size[0] / p.scale) * scale,
      (pane.size[1] / p.scale) * scale,
    );
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
    if (this.last && time - this.moved < 150) {
      this.frames.push(time - this.last);
      if (this.frames.length > 2000) this.frames.shift();
    }
    this.last = time;
    if (this.dirty) {
      this.dirty = false;
      const wanted = { seen: [], rest: [] };
      this.scene.panes.forEach((spec, i) => this.panes[i].draw(spec, wanted));
      this.drawMini();
      this.drawnAt = performance.now();
      const unique = new Map(
        [...wanted.rest.filter((w) => !this.tiles.kept.has(w[0])).slice(0, 2), ...wanted.seen, ...wanted.rest].map(
          (w) => [w[0], w],
        ),
      );
      this.tiles.want([...unique.values()]);
    }
    if (performance.now() - this.moved < 300 || this.pointers.size) requestAnimationFrame((t) => this.frame(t));
    else this.asleep = true;
  }
}

function render({ model, el }) {
  const viewer = new Viewer(model, el);
  return () => viewer.close();
}

export default { render };
