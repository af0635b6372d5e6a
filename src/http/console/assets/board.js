// How things are: phase, requests, what happened, accounts, the log, the configuration.
import { $, because, bytes, clock, el, span, t } from './words.js';
import { post } from './net.js';

const COLOURS = { ready: 'good', needs_operator: 'bad', stopped: 'bad', backoff: 'bad' };
const LEVELS = ['TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR'];
const KEPT = 1000;
let lines = [], again = () => {};

export function askAbout(poll) { again = poll; }

// Which of several browsers is looked at, from 1.
export const browser = () => Number($('browser').value || 1);

function showEach(each) {
  const select = $('browser');
  select.hidden = each.length < 2;
  const words = each.map((it, n) => `${t('browser')} ${n + 1}: ${t(`p_${it.phase}`)}, ${it.running} ${t('running')}`);
  if (select.dataset.now === words.join('\n')) return;
  select.dataset.now = words.join('\n');
  const chosen = browser();
  while (select.options.length < each.length) select.append(el('option'));
  words.forEach((it, n) => { select.options[n].textContent = it; select.options[n].value = String(n + 1); });
  select.value = String(chosen);
}

export function showState(state) {
  showEach(state.each);
  const paused = (phase) => state.paused && phase === 'ready';
  const colourOf = (phase) => (paused(phase) ? 'wait' : COLOURS[phase] ?? 'wait');
  const colour = colourOf(state.phase);
  $('pill').textContent = paused(state.all) ? t('p_paused') : t(`p_${state.all}`);
  $('pill').className = `pill ${colourOf(state.all)}`;
  $('phase').textContent = t(`p_${state.phase}`) + (state.paused ? ` · ${t('p_paused')}` : '');
  $('phase').className = colour;
  $('means').textContent = t(`m_${state.phase}`);
  $('reason').textContent = state.phase === 'ready' ? '' : because(state.reason);
  const times = [`${t('since')} ${span(state.since)}`];
  if (state.usual !== null && state.phase !== 'ready') times.push(`${t('usually')} ${span(state.usual)}`);
  if (state.until !== null) times.push(`${t('left')} ${span(state.until)}`);
  $('times').textContent = times.join(' · ');
  $('go-live').hidden = state.phase !== 'needs_operator';
  for (const button of document.querySelectorAll('[data-do]')) {
    if (button.dataset.do === 'drain') button.hidden = state.paused;
    if (button.dataset.do === 'resume') button.hidden = !state.paused;
  }
  $('counts').textContent =
    `${state.running} ${t('of')} ${state.places} ${t('running')}, ${state.queued} ${t('waiting')}`;
  fill($('requests'), state.requests.map(request));
  fill($('timeline'), state.timeline.map(happened));
  fill($('accounts'), accounts(state));
  const site = [state.origin, state.browser].filter(Boolean).join(' · ');
  $('about').textContent = `tabproxy ${state.version} · ${site}`;
  addLines(state.log);
}

function fill(list, rows) {
  // What a finger may be on stays where it is, as long as nothing has changed.
  const now = [t('none'), ...rows.map((it) => it.textContent)].join('\n');
  if (list.dataset.now === now && list.childElementCount) return;
  list.dataset.now = now;
  list.replaceChildren(...(rows.length ? rows : [el('li', t('none'), 'quiet-text')]));
}

function row(...cells) {
  const item = el('li');
  item.append(...cells);
  return item;
}

function request(it) {
  const stop = el('button', t('stop'), 'small quiet');
  stop.type = 'button';
  stop.dataset.stop = it.id;
  return row(
    el('span', `${it.method} ${it.path}`, 'what'),
    el('span', t(`r_${it.stage}`), it.stage === 'answers' ? 'good' : 'wait'),
    el('span', `${span(Math.floor(it.age))} · ${bytes(it.bytes)}`, 'side'),
    stop,
  );
}

function happened(it) {
  const lasted = it.lasted === null ? t('still') : span(it.lasted);
  return row(
    el('span', clock(it.at), 'side'),
    el('span', t(`p_${it.phase}`), COLOURS[it.phase] ?? 'wait'),
    el('span', because(it.reason), 'what quiet-text'),
    el('span', lasted, 'side'),
  );
}

function accounts(state) {
  const page = state.signed_in === null ? 'unknown' : state.signed_in ? 'signed_in' : 'signed_out';
  const own = row(el('span', t('a_page'), 'what'), el('span', t(page), state.signed_in ? 'good' : 'wait'));
  return [own, ...state.accounts.map((it) => {
    const rests = it.rests === null ? '' : ` ${span(it.rests)}`;
    const colour = { ready: 'good', busy: 'good', refused: 'bad' }[it.state] ?? 'wait';
    return row(el('span', it.name, 'what'), el('span', t(`a_${it.state}`) + rests, colour), el('span', `${it.running}`, 'side'));
  })];
}

function isWanted(it) {
  const wanted = $('filter').value.toLowerCase();
  return LEVELS.indexOf(it.level) >= LEVELS.indexOf($('level').value)
    && (!wanted || it.text.toLowerCase().includes(wanted));
}

function line(it) {
  const colour = { ERROR: 'bad', WARN: 'wait' }[it.level];
  return el('li', `${clock(it.at)} ${it.level} ${it.text}`, colour);
}

function addLines(more) {
  if (!more.length) return;
  lines = lines.concat(more).slice(-KEPT);
  const list = $('lines');
  list.append(...more.filter(isWanted).map(line));
  while (list.childElementCount > KEPT) list.firstElementChild.remove();
  if ($('follow').checked) list.scrollTop = list.scrollHeight;
}

function refilter() {
  $('lines').replaceChildren(...lines.filter(isWanted).map(line));
  $('lines').scrollTop = $('lines').scrollHeight;
}

export function showConfig(config) {
  $('config').replaceChildren(...config.map(([name, value]) => {
    const tr = el('tr');
    tr.append(el('td', name), el('td', value));
    return tr;
  }));
}

async function act(body) {
  try {
    await post('api/do', body);
    $('did').textContent = t('done');
  } catch (error) {
    $('did').textContent = `${t('failed')} ${error.message}`;
  }
  again();
}

for (const button of document.querySelectorAll('[data-do]')) {
  button.addEventListener('click', () => {
    const what = button.dataset.do;
    if (what === 'resume' || confirm(t(`sure_${what}`))) act({ do: what, browser: browser() });
  });
}
$('requests').addEventListener('click', (event) => {
  const id = event.target.dataset.stop;
  if (id) act({ do: 'stop', id });
});
$('browser').addEventListener('change', () => again());
$('filter').addEventListener('input', refilter);
$('level').addEventListener('change', refilter);
