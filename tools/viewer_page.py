"""The viewer in a page of its own, without Jupyter: a small server plays the kernel. For tests and measurements.

    python tools/viewer_page.py PHOTO ALPHA       # prints an address to open in a browser"""
import json, shutil, sys, threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
QUIET = ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--no-first-run', '--disable-component-update',
         '--disable-background-networking')
TRAITS = ('_scene', 'zoom', 'x', 'y', 'wipe', 'height', 'theme', 'label', 'status', 'tools', 'tool', 'brush')
PAGE = '''<!doctype html><html lang="en"><head><meta charset="utf-8"><title>viewer</title>
<link rel="stylesheet" href="/viewer.css"></head><body><main id="place"></main><script type="module">
import viewer from '/viewer.js';
const state = await (await fetch('/state')).json(), heard = {}, changed = {};
const fire = (event, ...args) => { for (const call of [...(heard[event] || [])]) call(...args); };
const post = (where, what) => fetch(where, { method: 'POST', body: JSON.stringify(what) });
// an answer is the length of a list, the list as JSON, and the bytes that belong to it, as a kernel sends them
const unpack = data => {
  const length = new DataView(data).getUint32(0), text = new TextDecoder().decode(new Uint8Array(data, 4, length));
  let at = 4 + length;
  return JSON.parse(text).map(({ content, sizes }) => ({ content, buffers: sizes.map(n => {
    at += n;
    return new DataView(data, at - n, n);
  }) }));
};
const model = {
  get: name => state[name],
  set: (name, value) => {
    if (state[name] === value) return;
    state[name] = changed[name] = value;
    fire(`change:${name}`);
  },
  save_changes: () => { const now = { ...changed }; for (const k in changed) delete changed[k]; post('/state', now); },
  on: (event, call) => (heard[event] ||= []).push(call),
  off: (event, call) => { heard[event] = (heard[event] || []).filter(c => c !== call); },
  send: async message => {
    if (window.dead) return;
    const answers = unpack(await (await post('/send', message)).arrayBuffer());
    for (const a of answers) fire('msg:custom', a.content, a.buffers);
  },
};
window.fromKernel = (name, value) => { state[name] = value; fire(`change:${name}`); };
let el = document.getElementById('place');
if (location.search === '?shadow') {  // as marimo shows a widget
  el = el.attachShadow({ mode: 'open' });
  el.append(document.querySelector('link').cloneNode(), document.createElement('div'));
  el = el.lastChild;
}
window.closeViewer = viewer.render({ model, el });
window.root = el.querySelector('.p3m-viewer');
</script></body></html>'''


class Handler(BaseHTTPRequestHandler):
    "Files of the viewer, its state, and what it answers."
    def do_GET(self):
        viewer = self.server.viewer
        pages = {'/': ('text/html; charset=utf-8', PAGE), '/viewer.js': ('text/javascript', viewer._esm),
                 '/viewer.css': ('text/css', viewer._css),
                 '/state': ('application/json', json.dumps({n: getattr(viewer, n) for n in TRAITS}))}
        found = pages.get(self.path.partition('?')[0])
        self.reply(*(found or ('text/plain', '')), 200 if found else 404)

    def do_POST(self):
        viewer, content = self.server.viewer, json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        answers = []
        with self.server.lock:  # a kernel does one thing after another
            if self.path == '/state':
                for name, value in content.items(): setattr(viewer, name, value)
            else:
                viewer.send = lambda content, buffers=(): answers.append((content, buffers))
                viewer._answer(viewer, content, [])
        head = json.dumps([dict(content=c, sizes=[len(b) for b in bs or ()]) for c, bs in answers]).encode()
        parts = [len(head).to_bytes(4, 'big'), head, *(b for _, bs in answers for b in bs or ())]
        self.reply('application/octet-stream', b''.join(parts))

    def reply(self, kind, text, status=200):
        data = text.encode() if isinstance(text, str) else text
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args): pass


@contextmanager
def serve(viewer):
    "The address of a page with `viewer`, on this machine only."
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.viewer, server.lock, server.daemon_threads = viewer, threading.Lock(), True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try: yield f'http://127.0.0.1:{server.server_port}/'
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def find_chromium():
    "Paths of Chromium and of its driver, or `None`."
    names = ('chromium', 'chromium-browser', 'google-chrome')
    return next(filter(None, map(shutil.which, names)), None), shutil.which('chromedriver')


@contextmanager
def browser(profile, size=(1200, 900), logs=True):
    "A headless Chromium with a profile in the folder `profile`."
    from selenium import webdriver
    chromium, driver = find_chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for a in (*QUIET, f'--window-size={size[0]},{size[1]}', f'--user-data-dir={profile}'): options.add_argument(a)
    if logs: options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try: yield chrome
    finally: chrome.quit()


if __name__ == '__main__':
    if len(sys.argv) != 3: sys.exit(__doc__)
    from p3m_nb.cutouts import Matte
    from p3m_nb.core import load_alpha, load_image
    from p3m_nb.widgets.matte import MatteViewer
    view = MatteViewer(Matte(load_image(sys.argv[1]), load_alpha(sys.argv[2])), split=.5)
    view.widget
    with serve(view.viewer) as address:
        print(address)
        threading.Event().wait()
