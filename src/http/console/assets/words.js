import { inChinese } from './reasons.js';

// The words of the page, in two languages, and the helpers that put them there.
const EN = {
  sign_in: 'Sign in', sign_out: 'Sign out', admin_password: 'Admin password', wrong_password: 'The password is wrong.',
  link_text: 'There is no admin password. A link that counts once has been written into the log of the proxy; open it in this browser, on the machine that the proxy runs on.',
  new_link: 'Write a new link into the log', link_written: 'It is in the log.', closed: 'The console is closed.',
  tab_now: 'Now', tab_live: 'Live view', tab_try: 'Try it', tab_log: 'Log', tab_config: 'Configuration',
  lost: 'The proxy does not answer. Trying again…', go_live: 'Open the live view',
  actions: 'Actions', restart_page: 'Restart the page', restart_browser: 'Restart the browser', drain: 'Let nobody in', resume: 'Let requests in again',
  sure_restart_page: 'Open the page again? Requests in it may end.', sure_restart_browser: 'Start the browser again? Every request that runs in it ends.',
  sure_drain: 'Refuse new requests? Those that run go on.', done: 'Done.', failed: 'It did not work:',
  requests: 'Requests', running: 'running', waiting: 'waiting', of: 'of', none: 'None.', stop: 'Stop', r_waits: 'waits for its turn', r_asked: 'asked', r_answers: 'answering',
  charts: 'The last hour', c_head: 'Time to the first byte', c_delay: 'Delay of events', c_streams: 'Running (and waiting)', c_memory: 'Memory: browser (and proxy)',
  repairs: 'What happened', accounts: 'Accounts', a_page: "The browser's own sign-in", signed_in: 'signed in', signed_out: 'not signed in', unknown: 'not known yet',
  a_ready: 'ready', a_busy: 'busy', a_resting: 'rests for', a_refused: 'refused: needs another token', s: 's', ms: 'ms', usually: 'usually', since: 'for', left: 'at most', still: 'so far',
  browser: 'Browser', site_tab: "The site's page", spare_tab: 'A carrier (only to look at)', take_over: 'Take over', keyboard: 'Keyboard', paste: 'Put text in', put_in: 'Put in', reload: 'Load again', drag: 'Drag instead of scroll',
  live_off: 'Connecting…', live_gone: 'There is no page just now.', you_drive: 'You drive.', other_drives: 'Somebody else drives; you look on.', watching: 'watching',
  live_help: 'Click into the picture to type; on a phone, “Keyboard” brings the keys. A tap is a click; a finger that moves scrolls, or drags where that is chosen; two fingers move an enlarged picture. Nothing that you type is kept or logged.',
  yes: 'OK', no: 'Cancel', send: 'Send', try_hint: 'Say something to the site…', events: 'events', first_byte: 'first byte after', whole: 'whole after', gap: 'longest gap',
  filter: 'Filter', follow: 'Follow', about: 'About', p_paused: 'nobody let in',
  p_starting: 'starting', p_warming: 'warming up', p_ready: 'ready', p_suspect: 'suspect', p_needs_operator: 'needs you', p_backoff: 'pausing', p_draining: 'stopping', p_stopped: 'stopped',
  m_starting: 'A browser is being started.', m_warming: "The site's page is being opened and tried.", m_ready: 'Requests are served.', m_suspect: 'The page has missed a beat; it may be a busy machine.',
  m_needs_operator: 'The site wants a person: open the live view and do what the page asks. It turns ready by itself a few seconds later.',
  m_backoff: 'Something failed. It is tried again after a pause.', m_draining: 'The proxy is stopping.', m_stopped: 'The proxy has stopped.',
};
const ZH = {
  sign_in: '登录', sign_out: '退出', admin_password: '管理员密码', wrong_password: '密码错误。',
  link_text: '没有设置管理员密码。代理的日志里有一个一次性链接；请在代理所在机器的这个浏览器中打开它。',
  new_link: '在日志里写一个新链接', link_written: '已写入日志。', closed: '控制台已关闭。',
  tab_now: '现况', tab_live: '实时画面', tab_try: '试一试', tab_log: '日志', tab_config: '配置',
  lost: '代理没有应答，正在重试……', go_live: '打开实时画面',
  actions: '操作', restart_page: '重开页面', restart_browser: '重启浏览器', drain: '暂停接入', resume: '恢复接入',
  sure_restart_page: '重新打开页面？其中的请求可能会中断。', sure_restart_browser: '重启浏览器？其中正在进行的请求都会中断。',
  sure_drain: '拒绝新请求？正在进行的会继续。', done: '完成。', failed: '没有成功：',
  requests: '请求', running: '进行中', waiting: '等待中', of: '/', none: '无。', stop: '停止', r_waits: '排队等待', r_asked: '已发出', r_answers: '应答中',
  charts: '最近一小时', c_head: '首字节时间', c_delay: '事件延迟', c_streams: '进行中（与等待中）', c_memory: '内存：浏览器（与代理）',
  repairs: '经过', accounts: '账号', a_page: '浏览器自身的登录', signed_in: '已登录', signed_out: '未登录', unknown: '尚未得知',
  a_ready: '就绪', a_busy: '使用中', a_resting: '休息剩余', a_refused: '被拒绝：需要新的令牌', s: '秒', ms: '毫秒', usually: '通常', since: '已持续', left: '最多还有', still: '至今',
  browser: '浏览器', site_tab: '站点页面', spare_tab: '载体页（只能看）', take_over: '接管', keyboard: '键盘', paste: '输入文本', put_in: '输入', reload: '重新加载', drag: '拖动（而非滚动）',
  live_off: '正在连接……', live_gone: '此刻没有页面。', you_drive: '由你操作。', other_drives: '其他人正在操作，你在观看。', watching: '人在看',
  live_help: '点击画面后即可输入；在手机上用“键盘”调出键盘。轻触即点击；单指移动为滚动，选中“拖动”则为拖动；放大后用两指移动画面。你输入的内容不会被保存，也不会写入日志。',
  yes: '确定', no: '取消', send: '发送', try_hint: '对站点说点什么……', events: '个事件', first_byte: '首字节', whole: '总共', gap: '最长间隔',
  filter: '过滤', follow: '跟随', about: '关于', p_paused: '暂停接入',
  p_starting: '启动中', p_warming: '预热中', p_ready: '就绪', p_suspect: '可疑', p_needs_operator: '需要你', p_backoff: '暂歇', p_draining: '停止中', p_stopped: '已停止',
  m_starting: '正在启动浏览器。', m_warming: '正在打开并试用站点页面。', m_ready: '正常服务。', m_suspect: '页面漏了一次心跳；可能只是机器忙。',
  m_needs_operator: '站点需要真人：打开实时画面，完成页面的要求。几秒后会自动恢复就绪。',
  m_backoff: '有失败，稍后重试。', m_draining: '代理正在停止。', m_stopped: '代理已停止。',
};

let chinese = (localStorage.getItem('language') ?? navigator.language ?? '').startsWith('zh');

export const because = (reason) => (chinese ? inChinese(reason) : reason);
export const t = (key) => (chinese ? ZH : EN)[key] ?? EN[key] ?? key;

// Puts the words where the page wants them.
export function say() {
  document.documentElement.lang = chinese ? 'zh-CN' : 'en';
  for (const node of document.querySelectorAll('[data-t]')) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll('[data-tp]')) node.placeholder = t(node.dataset.tp);
  document.getElementById('prompt').placeholder = t('try_hint');
  document.getElementById('language').textContent = chinese ? 'English' : '中文';
}

export function switchLanguage() {
  chinese = !chinese;
  localStorage.setItem('language', chinese ? 'zh' : 'en');
  say();
}

export const $ = (id) => document.getElementById(id);

// An element with text. Whatever comes from elsewhere goes through here: it is never markup.
export function el(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

export function bytes(n) {
  if (n < 1024) return `${n} B`;
  const units = ['kB', 'MB', 'GB'];
  let value = n / 1024, unit = 0;
  while (value >= 1000 && unit < 2) { value /= 1024; unit += 1; }
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}

export function span(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} ${t('s')}`;
  if (seconds < 120) return `${Math.round(seconds)} ${t('s')}`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export const clock = (at) => new Date(at).toLocaleTimeString(chinese ? 'zh-CN' : 'en-GB');
