// The live view: pictures from the browser, and what the person does back to it.
import { $, t } from './words.js';
import { socket } from './net.js';
import { browser } from './board.js';

const screen = $('screen'), keys = $('keys'), pen = screen.getContext('2d');
let line = null, wanted = false, retry = 0, role = { drives: false, driven: false, viewers: 0 }, gone = true, frames = 0;

export function openLive() {
  wanted = true;
  if (line || document.hidden) return;
  status(t('live_off'));
  line = socket();
  line.binaryType = 'blob';
  const mine = line;
  line.onopen = () => { if ($('which').value !== 'site' || browser() !== 1) look(); };
  line.onmessage = (event) => (typeof event.data === 'string' ? told(JSON.parse(event.data)) : picture(event.data, mine));
  line.onclose = () => {
    if (line !== mine) return;
    line = null;
    role = { drives: false, driven: false, viewers: 0 };
    tell();
    if (wanted) retry = setTimeout(openLive, 1000);
  };
}

export function closeLive() {
  wanted = false;
  clearTimeout(retry);
  const was = line;
  line = null;
  was?.close();
}

function send(what) {
  if (line?.readyState === WebSocket.OPEN) line.send(JSON.stringify(what));
}

function put(what) { if (role.drives) send(what); }

async function picture(data, from) {
  try {
    const image = await createImageBitmap(data);
    if (from !== line) return;
    if (screen.width !== image.width || screen.height !== image.height) {
      screen.width = image.width;
      screen.height = image.height;
    }
    pen.drawImage(image, 0, 0);
    image.close();
    frames += 1;
    screen.dataset.frames = String(frames);
    if (gone) { gone = false; tell(); }
  } finally {
    // Only now is there room for another one.
    if (from === line) send({ t: 'seen' });
  }
}

function told(it) {
  if (it.kind === 'role') role = it;
  if (it.kind === 'gone') gone = true;
  if (it.kind === 'question') {
    $('question').hidden = it.text === null;
    $('question-text').textContent = it.text ?? '';
  }
  tell();
}

function tell() {
  $('stage').classList.toggle('drives', role.drives);
  $('take').hidden = role.drives || !line;
  for (const id of ['keyboard', 'paste', 'reload', 'yes', 'no']) $(id).disabled = !role.drives;
  if (!line) return status(t('live_off'));
  const who = role.drives ? t('you_drive') : t('other_drives');
  status(`${gone ? `${t('live_gone')} ` : ''}${who} ${role.viewers} ${t('watching')}`);
}

function status(text) { $('live-status').textContent = text; }

// --- the mouse, and fingers in its place

const modifiers = (e) => (e.altKey ? 1 : 0) | (e.ctrlKey ? 2 : 0) | (e.metaKey ? 4 : 0) | (e.shiftKey ? 8 : 0);
const BUTTONS = ['left', 'middle', 'right'];
let moved = null, moving = 0, fingers = new Map(), touch = null;

// Two fingers move the picture itself, where it is larger than its frame.
function pan(e) {
  const before = fingers.get(e.pointerId);
  $('stage').scrollBy((before.clientX - e.clientX) / fingers.size, (before.clientY - e.clientY) / fingers.size);
  fingers.set(e.pointerId, e);
}

function at(e) {
  const box = screen.getBoundingClientRect();
  return { x: (e.clientX - box.left) / box.width, y: (e.clientY - box.top) / box.height };
}

// One move for each frame that the screen shows is enough.
function moveSoon(what) {
  moved = what;
  if (!moving) moving = requestAnimationFrame(flush);
}

function flush() {
  cancelAnimationFrame(moving);
  moving = 0;
  if (moved) put(moved);
  moved = null;
}

const click = (e, k, b, held, n) => { flush(); put({ t: 'mouse', k, ...at(e), b, held, n, m: modifiers(e) }); };

screen.addEventListener('pointerdown', (e) => {
  e.preventDefault();
  screen.setPointerCapture(e.pointerId);
  if (e.pointerType !== 'touch') {
    keys.focus({ preventScroll: true });
    return click(e, 'down', BUTTONS[e.button] ?? 'none', e.buttons, e.detail || clicks(e));
  }
  fingers.set(e.pointerId, e);
  if (fingers.size > 1) {
    if (touch?.drag) click(e, 'up', 'left', 0, 1);
    touch = null;
    return;
  }
  touch = { x: e.clientX, y: e.clientY, lastX: e.clientX, lastY: e.clientY, moved: false, drag: $('drag').checked };
  if (touch.drag) { put({ t: 'mouse', k: 'move', ...at(e) }); click(e, 'down', 'left', 1, 1); }
});

screen.addEventListener('pointermove', (e) => {
  if (e.pointerType !== 'touch') return moveSoon({ t: 'mouse', k: 'move', ...at(e), b: e.buttons & 1 ? 'left' : 'none', held: e.buttons, m: modifiers(e) });
  if (fingers.size > 1 && fingers.has(e.pointerId)) return pan(e);
  if (!touch || !fingers.has(e.pointerId)) return;
  if (touch.drag) return moveSoon({ t: 'mouse', k: 'move', ...at(e), b: 'left', held: 1 });
  if (!touch.moved && Math.hypot(e.clientX - touch.x, e.clientY - touch.y) < 8) return;
  touch.moved = true;
  const scale = screen.width / screen.getBoundingClientRect().width;
  put({ t: 'wheel', ...at(e), dx: (touch.lastX - e.clientX) * scale, dy: (touch.lastY - e.clientY) * scale });
  [touch.lastX, touch.lastY] = [e.clientX, e.clientY];
});

screen.addEventListener('pointerup', (e) => {
  if (e.pointerType !== 'touch') return click(e, 'up', BUTTONS[e.button] ?? 'none', e.buttons, clickCount);
  fingers.delete(e.pointerId);
  if (!touch) return;
  if (touch.drag) click(e, 'up', 'left', 0, 1);
  else if (!touch.moved) {
    put({ t: 'mouse', k: 'move', ...at(e) });
    click(e, 'down', 'left', 1, 1);
    click(e, 'up', 'left', 0, 1);
  }
  touch = null;
});
screen.addEventListener('pointercancel', (e) => {
  fingers.delete(e.pointerId);
  if (touch?.drag) click(e, 'up', 'left', 0, 1);
  touch = null;
});

// Pointer events do not count clicks.
let clickCount = 1, lastDown = { at: 0, x: 0, y: 0 };
function clicks(e) {
  const near = Math.hypot(e.clientX - lastDown.x, e.clientY - lastDown.y) < 5 && e.timeStamp - lastDown.at < 500;
  clickCount = near ? Math.min(clickCount + 1, 3) : 1;
  lastDown = { at: e.timeStamp, x: e.clientX, y: e.clientY };
  return clickCount;
}

screen.addEventListener('wheel', (e) => {
  if (!role.drives) return;
  e.preventDefault();
  const unit = [1, 40, 800][e.deltaMode] ?? 1;
  put({ t: 'wheel', ...at(e), dx: e.deltaX * unit, dy: e.deltaY * unit, m: modifiers(e) });
}, { passive: false });
screen.addEventListener('contextmenu', (e) => e.preventDefault());
screen.addEventListener('focus', () => keys.focus({ preventScroll: true }));

// --- keys, input methods, and what is pasted

function key(k, e) {
  put({ t: 'key', k, key: e.key, code: e.code, n: e.keyCode, m: modifiers(e), again: e.repeat });
}

const isOurs = (e) => e.isComposing || e.keyCode === 229 || e.key === 'Unidentified';
const isPaste = (e) => (e.ctrlKey || e.metaKey) && e.key.toLowerCase() === 'v';

keys.addEventListener('keydown', (e) => {
  // An input method has it, or the paste that follows.
  if (isOurs(e) || isPaste(e)) return;
  e.preventDefault();
  key('down', e);
});
keys.addEventListener('keyup', (e) => { if (!isOurs(e) && !isPaste(e)) { e.preventDefault(); key('up', e); } });

const press = (name, number) => {
  for (const k of ['down', 'up']) put({ t: 'key', k, key: name, code: name, n: number, m: 0, again: false });
};

keys.addEventListener('beforeinput', (e) => {
  // Keyboards on glass say only what they do to the text.
  if (e.isComposing) return;
  if (e.inputType === 'deleteContentBackward') press('Backspace', 8);
  else if (e.inputType === 'insertLineBreak') press('Enter', 13);
  else if (e.data) put({ t: 'text', s: e.data });
  e.preventDefault();
});
keys.addEventListener('compositionend', (e) => {
  if (e.data) put({ t: 'text', s: e.data });
  keys.value = '';
});
keys.addEventListener('input', (e) => { if (!e.isComposing) keys.value = ''; });
keys.addEventListener('paste', (e) => {
  e.preventDefault();
  const text = e.clipboardData.getData('text');
  if (text) put({ t: 'text', s: text });
});

// --- the bar

$('zoom').addEventListener('click', () => {
  const stage = $('stage'), zoom = (Number(stage.dataset.zoom ?? 1) % 3) + 1;
  stage.dataset.zoom = String(zoom);
  $('zoom').textContent = `${zoom}×`;
  // What one signs in to is most often in the middle.
  stage.scrollTo((screen.offsetWidth - stage.clientWidth) / 2, (screen.offsetHeight - stage.clientHeight) / 2);
});
$('keyboard').addEventListener('click', () => keys.focus({ preventScroll: true }));
$('paste').addEventListener('click', () => {
  $('paste-box').hidden = !$('paste-box').hidden;
  if (!$('paste-box').hidden) $('paste-text').focus();
});
$('paste-box').addEventListener('submit', (e) => {
  e.preventDefault();
  put({ t: 'text', s: $('paste-text').value });
  $('paste-text').value = '';
  $('paste-box').hidden = true;
});
$('reload').addEventListener('click', () => put({ t: 'reload' }));
$('take').addEventListener('click', () => send({ t: 'take' }));
const look = () => { gone = true; tell(); send({ t: 'look', at: $('which').value, of: browser() }); };
$('which').addEventListener('change', look);
$('browser').addEventListener('change', look);
$('yes').addEventListener('click', () => put({ t: 'answer', yes: true }));
$('no').addEventListener('click', () => put({ t: 'answer', yes: false }));
