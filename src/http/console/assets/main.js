// The page: who may come in, which tab is open, and the question every second how things are.
import { $, say, switchLanguage, t } from './words.js';
import { Refused, get, post, session } from './net.js';
import { askAbout, browser, showConfig, showState } from './board.js';
import { showCharts } from './charts.js';
import { closeLive, openLive } from './live.js';
import './try.js';

const EVERY = 1000;
let line = 0, timer = 0, chartsAt = 0, tab = 'now';

function outside(door, closed) {
  clearTimeout(timer);
  closeLive();
  session.token = null;
  $('inside').hidden = true;
  $('logout').hidden = true;
  $('browser').hidden = true;
  $('door').hidden = false;
  $('login').hidden = closed || door !== 'password';
  $('link').hidden = closed || door !== 'link';
  $('pill').textContent = closed ? t('closed') : '';
  if (door === 'password') $('password').focus();
}

async function begin() {
  try {
    const { door, token } = await get('api/session');
    if (!token) return outside(door);
    session.token = token;
    $('door').hidden = true;
    $('inside').hidden = false;
    $('logout').hidden = false;
    await open(location.hash.slice(1) || 'now');
  } catch (error) {
    outside(null, error instanceof Refused && error.status === 403);
    if (!(error instanceof Refused)) timer = setTimeout(begin, 3000);
  }
}

async function poll() {
  clearTimeout(timer);
  try {
    const state = await get(`api/state?log=${line}&of=${browser()}`);
    line = state.log.at(-1)?.n ?? line;
    showState(state);
    $('lost').hidden = true;
    if (tab === 'now' && Date.now() - chartsAt > 10_000) {
      chartsAt = Date.now();
      showCharts(await get('api/charts'));
    }
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return begin();
    $('lost').hidden = false;
  }
  // Nobody looks: less often.
  timer = setTimeout(poll, document.hidden ? 10 * EVERY : EVERY);
}

function open(name) {
  if (!$(`tab-${name}`)) name = 'now';
  tab = name;
  history.replaceState(null, '', `#${name}`);
  for (const button of document.querySelectorAll('nav button')) {
    button.setAttribute('aria-selected', String(button.dataset.tab === name));
    $(`tab-${button.dataset.tab}`).hidden = button.dataset.tab !== name;
  }
  if (name === 'live') openLive(); else closeLive();
  if (name === 'config') get('api/config').then(showConfig, () => {});
  chartsAt = 0;
  return poll();
}

$('login').addEventListener('submit', async (event) => {
  event.preventDefault();
  $('login-error').textContent = '';
  try {
    await post('login', { password: $('password').value });
    $('password').value = '';
    await begin();
  } catch (error) {
    $('login-error').textContent = error.code === 'admin_refused' ? t('wrong_password') : error.message;
  }
});
$('new-link').addEventListener('click', async () => {
  try {
    await post('link');
    $('link-said').textContent = t('link_written');
  } catch (error) {
    $('link-said').textContent = error.message;
  }
});
$('logout').addEventListener('click', async () => {
  await post('logout').catch(() => {});
  begin();
});
$('language').addEventListener('click', () => { switchLanguage(); $('did').textContent = ''; if (session.token) { chartsAt = 0; poll(); } });
for (const button of document.querySelectorAll('nav button')) {
  button.addEventListener('click', () => open(button.dataset.tab));
}
$('go-live').addEventListener('click', () => open('live'));
document.addEventListener('visibilitychange', () => {
  if (!session.token) return;
  if (document.hidden) closeLive();
  else { if (tab === 'live') openLive(); poll(); }
});
askAbout(poll);
say();
begin();
