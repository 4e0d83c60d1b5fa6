// The page of p3m_studio: photographs in, another background, files out. The kernel does the work.
// Documented in nbs/widgets/studio.ipynb.
const PART = { least: 1 << 16, first: 1 << 18, most: 1 << 21 }; // bytes of a file that are sent at once
const QUICK = 500; // milliseconds: after a part that took less comes a larger one; if four times as long, a smaller one
const PATIENCE = 15000; // milliseconds without a sign of life before we say so
const COMPARE = 'Press add or remove and paint over it. Drag the white line to compare with the photograph.';
const HINT = `Something missing, or too much? ${COMPARE}`;
const UNSURE = `Please check this one: is something missing, or too much? ${COMPARE}`;
const SESSION = 'p3m_studio_session';
const BACKGROUNDS = [
  ['transparent', 'Transparent'],
  ['colour', 'Colour'],
  ['picture', 'Picture'],
  ['blur', 'Blurred'],
  ['original', 'Keep the original'],
];
const HIDING = [
  ['zero', 'black (safe)'],
  ['replace', 'skin colour (safe)'],
  ['mosaic', 'blocks (weak)'],
  ['blur', 'blurred (weak)'],
];

function make(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (k === 'text') e.textContent = v;
    else if (v !== false) e.setAttribute(k, v === true ? '' : v);
  }
  e.append(...children);
  return e;
}
const fresh = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
const plural = (n, what) => `${n} ${what}${n === 1 ? '' : 's'}`;

class Studio {
  constructor(model, el) {
    Object.assign(this, { model, tiles: new Map(), queue: [], incoming: new Map(), turn: 0, answered: true });
    this.partSize = PART.first;
    this.patience = PATIENCE;
    this.session = sessionStorage.getItem(SESSION) || fresh();
    sessionStorage.setItem(SESSION, this.session);
    this.build(el);
    this.listen = (message, buffers) => this.take(message, buffers);
    this.follow = () => this.show();
    model.on('msg:custom', this.listen);
    model.on('change:_state', this.follow);
    this.clock = setInterval(() => this.beat(), 3000);
    this.leave = (e) => {
      if (this.unsaved) e.preventDefault();
    };
    addEventListener('beforeunload', this.leave);
    this.otherTabs();
    this.fit = () => this.tellRoom();
    this.observer = new ResizeObserver(this.fit);
    for (const e of [this.main, this.steps]) this.observer.observe(e);
    addEventListener('resize', this.fit);
    this.send({ kind: 'hello', session: this.session });
    this.show();
  }
  close() {
    this.model.off('msg:custom', this.listen);
    this.model.off('change:_state', this.follow);
    removeEventListener('beforeunload', this.leave);
    clearInterval(this.clock);
    this.channel?.close();
    this.observer.disconnect();
    removeEventListener('resize', this.fit);
  }
  // what is on the page
  build(el) {
    document.documentElement.lang = 'en';
    document.title = 'Portrait studio';
    const button = (text, onclick, more = {}) => make('button', { type: 'button', text, onclick, ...more });
    this.alert = make('div', { class: 'p3s-alert p3s-none', role: 'alert' });
    this.input = make('input', {
      type: 'file',
      multiple: true,
      class: 'p3s-file',
      'aria-label': 'photographs',
      tabindex: '-1',
    });
    this.input.addEventListener('change', () => {
      this.upload([...this.input.files]);
      this.input.value = '';
    });
    this.backdrop = make('input', {
      type: 'file',
      accept: 'image/*',
      class: 'p3s-file',
      'aria-label': 'picture for the background',
      tabindex: '-1',
    });
    this.backdrop.addEventListener('change', () => {
      this.queue.push({ file: this.backdrop.files[0], purpose: 'background' });
      this.backdrop.value = '';
      this.next();
    });
    this.drop = make(
      'div',
      { class: 'p3s-drop' },
      make('p', { text: 'Drop photographs here, or' }),
      button('Choose photographs', () => this.input.click(), { class: 'p3s-main' }),
      this.input,
    );
    this.look = this.buildLook(button);
    this.one = button('Download this photograph', () => this.download(this.state.selected), { class: 'p3s-main' });
    this.all = button('Download all as a zip', () => this.download(''));
    this.status = make('p', { class: 'p3s-status', role: 'status' });
    this.nextUnsure = button('Show the next one to check', () => this.showUnsure(), { class: 'p3s-none' });
    this.progress = make('progress', { class: 'p3s-none', max: '1', 'aria-label': 'photographs that are ready' });
    this.empty = make('p', {
      class: 'p3s-empty',
      text: 'Your photographs will appear here, cut out from their background.',
    });
    this.strip = make('ul', { class: 'p3s-strip', 'aria-label': 'photographs' });
    this.undo = button('Undo', () => this.send({ kind: 'undo' }));
    this.redo = button('Redo', () => this.send({ kind: 'redo' }));
    this.hint = make('p', { class: 'p3s-hint', text: HINT });
    this.fine = button('It is fine', () => this.send({ kind: 'fine', key: this.state.selected }), {
      title: 'take the mark from this photograph',
    });
    this.correct = make('div', { class: 'p3s-correct' }, this.hint, this.fine, this.undo, this.redo);
    const step = (n, title, ...children) =>
      make(
        'section',
        { class: 'p3s-step', 'aria-labelledby': `p3s-${n}` },
        make('h2', { id: `p3s-${n}`, text: `${n}. ${title}` }),
        ...children,
      );
    this.steps = make(
      'div',
      { class: 'p3s-steps' },
      step(1, 'Photographs', this.drop),
      step(2, 'Background', ...this.look),
      step(3, 'Download', this.one, this.all, this.progress, this.status, this.nextUnsure),
    );
    // on a wide page the viewer stands below it, beside the steps (studio.css)
    this.main = make('div', { class: 'p3s-stage' }, this.empty, this.strip, this.correct);
    const head = make(
      'header',
      {},
      make('h1', { text: 'Portrait studio' }),
      make('p', { text: 'All work is done on this computer; nothing is sent over the internet.' }),
    );
    this.root = make('div', { class: 'p3s-studio' }, make('div', { class: 'p3s-top' }, head, this.alert));
    this.root.append(this.steps, this.main);
    this.listenDrop();
    el.append(this.root);
    this.root.p3s = this; // for tests
  }
  buildLook(button) {
    this.colour = make('input', { type: 'color', value: '#ffffff', 'aria-label': 'colour of the background' });
    this.colour.addEventListener('input', () => this.choose('colour'));
    const extra = { colour: this.colour, picture: button('Choose picture', () => this.backdrop.click()) };
    this.kinds = new Map(
      BACKGROUNDS.map(([kind]) => [
        kind,
        make('input', { type: 'radio', name: 'p3s-background', value: kind, onchange: () => this.choose(kind) }),
      ]),
    );
    const rows = BACKGROUNDS.map(([kind, text]) =>
      make('div', {}, make('label', {}, this.kinds.get(kind), ` ${text}`), ...(extra[kind] ? [extra[kind]] : [])),
    );
    this.hide = make('input', { type: 'checkbox', onchange: () => this.sendLook() });
    this.how = make(
      'select',
      {
        'aria-label': 'how faces are hidden',
        onchange: () => {
          this.hide.checked = true; // who chooses how wants them hidden
          this.sendLook();
        },
      },
      ...HIDING.map(([value, text]) => make('option', { value, text })),
    );
    return [
      make(
        'fieldset',
        {},
        make('legend', { class: 'p3s-hidden', text: 'what stands behind the person' }),
        ...rows,
        this.backdrop,
      ),
      make('div', { class: 'p3s-faces' }, make('label', {}, this.hide, ' Hide faces'), this.how),
    ];
  }
  listenDrop() {
    const over = (e) => {
      e.preventDefault();
      this.drop.classList.toggle('p3s-over', e.type === 'dragover');
    };
    for (const kind of ['dragover', 'dragleave']) document.addEventListener(kind, over);
    document.addEventListener('drop', (e) => {
      over(e);
      if (e.dataTransfer?.files.length) this.upload([...e.dataTransfer.files]);
    });
  }
  say(text) {
    if (this.status.textContent !== text) this.status.textContent = text;
  }
  warn(text, act, what) {
    this.alert.replaceChildren(make('span', { text }));
    const [label, onclick] = act ? [what, act] : ['OK', () => this.warn('')];
    this.alert.append(make('button', { type: 'button', text: label, onclick }));
    this.alert.classList.toggle('p3s-none', !text);
  }
  // what the user does
  choose(kind) {
    if (kind === 'picture' && !this.state.look.picture) {
      this.backdrop.click();
      return this.show();
    }
    this.kinds.get(kind).checked = true;
    this.sendLook();
  }
  sendLook() {
    // the kernel may be slow: until it has heard the last wish, the page shows the wish
    this.turn += 1;
    this.unsaved = this.state.photos.length > 0;
    const background = [...this.kinds].find(([, radio]) => radio.checked)[0];
    this.send({
      kind: 'look',
      background,
      colour: this.colour.value,
      hide: this.hide.checked ? this.how.value : '',
      turn: this.turn,
    });
  }
  upload(files) {
    const { files: most, bytes } = this.state.limits,
      room = most - this.state.photos.length - this.queue.length;
    if (files.length > room)
      this.warn(
        `${plural(files.length, 'file')} at once, but at most ${most} photographs fit: ` +
          `${plural(files.length - Math.max(0, room), 'file')} left out. ` +
          'Download and remove some, then choose them again.',
      );
    for (const file of files.slice(0, Math.max(0, room)))
      this.queue.push({ file, purpose: 'photograph', large: file.size > bytes });
    this.unsaved = true;
    this.next();
  }
  async next() {
    // one file after the other, each in parts; the kernel says when it has a part
    if (this.sending || !this.queue.length) return;
    const { file, purpose, large } = this.queue[0],
      id = fresh();
    this.sending = { id, file, purpose, at: 0, large };
    this.part();
    this.show();
  }
  async part() {
    const s = this.sending,
      end = s.large ? 0 : Math.min(s.file.size, s.at + this.partSize),
      last = s.large || end >= s.file.size;
    let data;
    try {
      data = await s.file.slice(s.at, end).arrayBuffer();
    } catch {
      this.warn(`${s.file.name}: the file can no longer be read; choose it again.`);
      return this.sent();
    }
    s.at = end;
    s.last = last;
    s.since = performance.now();
    this.send({ kind: 'upload', id: s.id, name: s.file.name, size: s.file.size, purpose: s.purpose, last }, [data]);
  }
  pace(took) {
    // on a slow network small parts: other messages must come through between them
    if (took < QUICK) this.partSize = Math.min(PART.most, this.partSize * 2);
    else if (took > 4 * QUICK) this.partSize = Math.max(PART.least, this.partSize / 2);
  }
  sent() {
    this.queue.shift();
    this.sending = null;
    this.next();
    this.show();
  }
  download(key) {
    this.fetching = true; // until it is there
    this.send({ kind: 'download', key });
    this.show();
    this.say('making the file ...');
  }
  fetched() {
    this.fetching = false;
    this.show();
  }
  // what the kernel says
  take(message, buffers) {
    this.answered = true;
    const act = {
      got: () => {
        if (this.sending?.id !== message.id) return;
        this.pace(performance.now() - this.sending.since);
        if (this.sending.last || message.enough) this.sent();
        else this.part();
        this.show();
      },
      thumb: () => {
        const tile = this.tiles.get(message.key);
        if (!tile) return;
        if (tile.image.src) URL.revokeObjectURL(tile.image.src);
        tile.image.src = URL.createObjectURL(new Blob([buffers[0]], { type: 'image/jpeg' }));
      },
      offer: () => {
        this.incoming.set(message.id, { ...message, parts: [], at: 0 });
        this.pull(message.id);
      },
      part: () => this.receive(message.id, buffers[0]),
      busy: () => {
        // the kernel before this one still works in our folder, or a copy of this tab does
        this.refused = true;
        this.channel.postMessage({ kind: 'opened', session: this.session });
        this.say('your photographs appear as soon as earlier work with them has ended ...');
        setTimeout(() => this.send({ kind: 'hello', session: this.session }), 700);
      },
      open: () => {
        this.refused = false;
        this.sending = null; // what was sent before was not heard
        this.next();
        this.fetched();
      },
      warn: () => {
        this.warn(message.text);
        this.fetched();
      },
    }[message.kind];
    if (act) act();
  }
  pull(id) {
    const f = this.incoming.get(id);
    f.since = performance.now();
    this.send({ kind: 'part', id, at: f.at, most: this.partSize });
    this.say(`downloading ${f.name}: ${Math.round((100 * f.at) / Math.max(1, f.size))} %`);
  }
  receive(id, data) {
    const f = this.incoming.get(id);
    if (!f) return;
    this.pace(performance.now() - f.since);
    f.parts.push(data);
    f.at += data.byteLength;
    if (f.at < f.size) return this.pull(id);
    this.incoming.delete(id);
    this.send({ kind: 'taken', id });
    const link = make('a', { href: URL.createObjectURL(new Blob(f.parts, { type: f.type })), download: f.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    this.unsaved = false;
    this.fetched();
    this.say(`${f.name} is in your downloads`);
  }
  show() {
    const s = (this.state = this.model.get('_state')),
      count = (state) => s.photos.filter((p) => p.state === state).length;
    const ready = count('ready'),
      open = count('waiting') + count('working') + this.queue.length,
      total = s.photos.length + this.queue.length;
    this.showStrip(s);
    if (s.look.turn >= this.turn) this.showLook(s.look);
    const chosen = s.photos.find((p) => p.key === s.selected);
    this.one.disabled = chosen?.state !== 'ready' || this.fetching;
    this.all.disabled = ready === 0 || open > 0 || this.fetching;
    this.all.classList.toggle('p3s-main', ready > 1); // what one wants then
    this.one.classList.toggle('p3s-main', ready <= 1);
    this.all.textContent = ready > 1 ? `Download all ${ready} as a zip` : 'Download all as a zip';
    this.undo.disabled = !s.undo;
    this.redo.disabled = !s.redo;
    this.correct.classList.toggle('p3s-none', chosen?.state !== 'ready');
    this.hint.textContent = chosen?.unsure ? UNSURE : HINT;
    this.fine.classList.toggle('p3s-none', !chosen?.unsure);
    this.progress.classList.toggle('p3s-none', open === 0);
    if (open === total)
      this.progress.removeAttribute('value'); // the bar moves: something is being done
    else Object.assign(this.progress, { max: total, value: total - open });
    if (s.message) this.say(s.message);
    else if (this.fetching) return; // it has its own words
    else if (open)
      this.say(
        this.sending
          ? `${this.sending.file.name} is being read${this.share(this.sending)}; ${total - open} of ${total} ready`
          : `working: ${total - open} of ${total} ready${this.left(total - open, open)}`,
      );
    else this.say(this.summary(s, ready));
    this.nextUnsure.classList.toggle('p3s-none', !s.photos.some((p) => p.state === 'ready' && p.unsure));
    if (!open) this.began = null;
  }
  share({ at, file }) {
    return file.size > PART.most ? ` (${Math.round((100 * at) / file.size)} %)` : '';
  }
  tellRoom() {
    // how high the viewer may be, so that all is seen at once
    const height = Math.round(innerHeight - this.main.getBoundingClientRect().bottom - scrollY - 82);
    if (Math.abs(height - (this.room ?? 0)) < 8) return;
    this.room = height;
    this.send({ kind: 'room', height });
  }
  showLook(look) {
    this.kinds.get(look.background).checked = true;
    if (document.activeElement !== this.colour) this.colour.value = look.colour;
    this.hide.checked = look.hide !== '';
    if (look.hide) this.how.value = look.hide;
  }
  left(done, open) {
    this.began ??= { at: performance.now(), done };
    const n = done - this.began.done;
    if (n < 1) return '';
    const seconds = Math.ceil((((performance.now() - this.began.at) / n) * open) / 1000);
    return seconds < 90 ? `, about ${seconds} s left` : `, about ${Math.round(seconds / 60)} min left`;
  }
  showUnsure() {
    const unsure = this.state.photos.filter((p) => p.state === 'ready' && p.unsure),
      at = unsure.findIndex((p) => p.key === this.state.selected),
      next = unsure[(at + 1) % unsure.length];
    this.tiles.get(next.key).element.scrollIntoView({ block: 'nearest' });
    this.send({ kind: 'select', key: next.key });
  }
  summary(s, ready) {
    if (!s.photos.length) return 'No photographs yet.';
    const failed = s.photos.length - ready,
      unsure = s.photos.filter((p) => p.state === 'ready' && p.unsure).length,
      faceless = s.look.hide ? s.photos.filter((p) => p.faces === 0).length : 0;
    return (
      [
        `${plural(ready, 'photograph')} ready`,
        unsure ? `please check the ${unsure === 1 ? 'one that is' : `${unsure} that are`} marked` : '',
        failed ? `${failed} could not be used` : '',
        faceless
          ? `no face was found in ${faceless}: look at ${faceless === 1 ? 'it' : 'them'} before you publish`
          : '',
      ]
        .filter(Boolean)
        .join('; ') + '.'
    );
  }
  showStrip(s) {
    const keys = new Set(s.photos.map((p) => p.key));
    for (const [key, tile] of this.tiles) {
      if (keys.has(key)) continue;
      tile.element.remove();
      this.tiles.delete(key);
    }
    for (const p of s.photos) {
      if (!this.tiles.has(p.key)) this.newTile(p);
      const tile = this.tiles.get(p.key);
      const note = this.note(p, s.look),
        unsure = p.state === 'ready' && p.unsure,
        key = JSON.stringify([p.state, note, unsure, p.key === s.selected]);
      if (tile.key === key) continue; // with hundreds of photographs each change counts
      tile.key = key;
      tile.note.textContent = note;
      tile.note.title = unsure ? UNSURE : '';
      tile.element.className = `p3s-tile p3s-${p.state}${unsure ? ' p3s-unsure' : ''}`;
      tile.pick.setAttribute('aria-current', String(p.key === s.selected));
    }
    this.empty.classList.toggle('p3s-none', s.photos.length > 0);
    this.strip.classList.toggle('p3s-none', s.photos.length === 0);
  }
  note(p, look) {
    // what stands below a photograph
    if (p.state !== 'ready') return { waiting: 'waiting', working: 'working ...', failed: p.reason }[p.state] ?? '';
    const faces = p.faces > 0 ? `${plural(p.faces, 'face')} hidden` : 'no face found';
    return [p.unsure ? 'please check' : '', look.hide && p.faces >= 0 ? faces : ''].filter(Boolean).join('; ');
  }
  newTile(p) {
    const image = make('img', { alt: '' }),
      note = make('span', { class: 'p3s-note' });
    const pick = make(
      'button',
      { type: 'button', class: 'p3s-pick', title: p.name, onclick: () => this.send({ kind: 'select', key: p.key }) },
      image,
      make('span', { class: 'p3s-name', text: p.name }),
      note,
    );
    const remove = make('button', {
      type: 'button',
      class: 'p3s-remove',
      text: '×',
      title: `remove ${p.name}`,
      'aria-label': `remove ${p.name}`,
      onclick: () => this.send({ kind: 'remove', key: p.key }),
    });
    const element = make('li', {}, pick, remove);
    this.tiles.set(p.key, { element, image, note, pick });
    this.strip.append(element);
  }
  // whether the other side lives, and whether we are alone
  send(message, buffers) {
    try {
      this.model.send(message, undefined, buffers);
    } catch {
      this.stopped(); // there is no connection any more
    }
  }
  stopped() {
    if (this.dead) return;
    this.dead = true;
    this.answered = false;
    this.unsaved = false;
    this.warn(
      'The studio does not answer: it is very busy, or has stopped. Your photographs and corrections are kept. ' +
        'Wait a moment, or press Continue.',
      () => location.reload(),
      'Continue',
    );
    this.serverLives();
  }
  async serverLives() {
    try {
      await fetch(new URL('/voila/static/voila.js', location.origin), { method: 'HEAD', cache: 'no-store' });
    } catch {
      this.warn(
        'The studio was closed. Start p3m_studio again: it opens a new page. What was not downloaded from this one ' +
          'has to be chosen again.',
      );
    }
  }
  beat() {
    // a tab in the background beats rarely: what counts is how long a question waits, not when the last one was
    if (this.answered) {
      if (this.dead) this.warn('');
      this.dead = this.answered = false;
      this.asked = performance.now();
    } else if (performance.now() - this.asked > this.patience) this.stopped();
    this.send({ kind: 'ping' });
  }
  otherTabs() {
    this.channel = new BroadcastChannel('p3m_studio');
    this.channel.onmessage = ({ data }) => {
      if (data.kind === 'opened') this.channel.postMessage({ kind: 'here', session: this.session });
      else if (this.refused && data.session === this.session) {
        // this tab is a copy of that one: it gets photographs of its own
        this.refused = false;
        sessionStorage.setItem(SESSION, (this.session = fresh()));
      }
      this.warn(
        'The studio is also open in another tab. Each tab has photographs of its own; ' +
          'this one does not see those of the other.',
      );
    };
    this.channel.postMessage({ kind: 'opened', session: this.session });
  }
}

function render({ model, el }) {
  const studio = new Studio(model, el);
  return () => studio.close();
}

export default { render };
