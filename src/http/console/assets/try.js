// The chat box: a real conversation through the public route, and every event with its delay.
import { $, el, t } from './words.js';
import { stream } from './net.js';

const SHOWN = 400;
let parent = crypto.randomUUID?.() ?? id(), conversation, running = null;

// `randomUUID` is only there over TLS and on loopback.
function id() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (it) => it.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function turn(prompt) {
  const body = {
    action: 'next',
    messages: [{ id: id(), author: { role: 'user' }, content: { content_type: 'text', parts: [prompt] }, metadata: {} }],
    model: 'auto',
    parent_message_id: parent,
    timezone_offset_min: new Date().getTimezoneOffset(),
  };
  if (conversation) body.conversation_id = conversation;
  return body;
}

// What the site says, as far as it is a snapshot; in the delta format, what is appended to the text.
function text(event, before) {
  let data;
  try { data = JSON.parse(event); } catch { return before; }
  const message = data.message ?? data.v?.message;
  conversation = data.conversation_id ?? data.v?.conversation_id ?? conversation;
  if (message) {
    if (message.author?.role !== 'assistant') return before;
    parent = message.id ?? parent;
    return message.content?.parts?.[0] ?? before;
  }
  if (data.error) return `${before}\n${typeof data.error === 'string' ? data.error : data.error.message}`;
  const steps = data.o === 'patch' || (Array.isArray(data.v) && !data.p) ? data.v : [data];
  for (const step of Array.isArray(steps) ? steps : []) {
    const isText = !step.p || step.p === '/message/content/parts/0';
    if (isText && typeof step.v === 'string' && (step.o ?? 'append') === 'append') before += step.v;
  }
  return before;
}

async function converse(prompt) {
  $('chat').append(el('p', prompt, 'mine'));
  const theirs = el('p', '', 'theirs');
  $('chat').append(theirs);
  $('events').replaceChildren();
  const began = performance.now();
  let first = null, last = began, gap = 0, count = 0, said = '', rest = '';
  const figures = () => {
    const now = ((performance.now() - began) / 1000).toFixed(2);
    const head = first === null ? '–' : `${Math.round(first - began)} ${t('ms')}`;
    $('figures').textContent =
      `${count} ${t('events')} · ${t('first_byte')} ${head} · ${t('gap')} ${Math.round(gap)} ${t('ms')} · ${t('whole')} ${now} ${t('s')}`;
  };
  running = new AbortController();
  try {
    const answer = await stream('try', turn(prompt), running.signal);
    if (!answer.ok || !answer.body) {
      const told = await answer.text();
      throw new Error(`HTTP ${answer.status} ${told.slice(0, 300)}`);
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const now = performance.now();
      first ??= now;
      rest += value;
      const parts = rest.split('\n\n');
      rest = parts.pop();
      for (const part of parts) {
        count += 1;
        if (count > 1) gap = Math.max(gap, now - last);
        note(`+${Math.round(now - last)} ${t('ms')}`, part);
        last = now;
        const data = part.split('\n').filter((it) => it.startsWith('data: ')).map((it) => it.slice(6)).join('\n');
        if (data && data !== '[DONE]') said = text(data, said);
      }
      theirs.textContent = said;
      figures();
    }
  } catch (error) {
    theirs.textContent = said ? `${said}\n— ${error.message}` : error.message;
    theirs.classList.add('bad');
  } finally {
    running = null;
    figures();
    $('send').disabled = false;
    $('cancel').hidden = true;
  }
}

function note(delay, event) {
  const list = $('events');
  list.append(el('li', `${delay.padStart(9)}  ${event.length > 300 ? `${event.slice(0, 300)}…` : event}`));
  if (list.childElementCount > SHOWN) list.firstElementChild.remove();
  list.scrollTop = list.scrollHeight;
}

$('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  const prompt = $('prompt').value.trim();
  if (!prompt || running) return;
  $('prompt').value = '';
  $('send').disabled = true;
  $('cancel').hidden = false;
  converse(prompt);
});
$('prompt').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $('ask').requestSubmit();
  }
});
$('cancel').addEventListener('click', () => running?.abort());
