// The last hour in lines, drawn as SVG.
import { $, bytes, el, t } from './words.js';

const SVG = 'http://www.w3.org/2000/svg';
const W = 360, H = 60;
const ms = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ${t('ms')}`;

const CHARTS = [
  { title: 'c_head', of: [(it) => it.head], show: ms },
  { title: 'c_delay', of: [(it) => it.delay], show: ms },
  { title: 'c_streams', of: [(it) => it.running, (it) => it.queued], show: (value) => `${value}` },
  { title: 'c_memory', of: [(it) => it.browser, (it) => it.memory], show: bytes },
];

// After a start the few samples that there are fill the chart, five minutes at least.
export function showCharts({ samples, kept: most }) {
  const kept = Math.min(most, Math.max(samples.length, 30));
  $('charts').replaceChildren(...CHARTS.map((chart) => draw(chart, samples, kept)));
}

function draw({ title, of, show }, samples, kept) {
  const series = of.map((value) => samples.map(value));
  const known = series.flat().filter((it) => it !== null);
  const top = Math.max(...known, 0);
  const figure = el('figure');
  const caption = el('figcaption');
  const last = series[0].findLast((it) => it !== null);
  caption.append(el('span', t(title)), el('span', known.length ? `${last === undefined ? '–' : show(last)} · max ${show(top)}` : '–', 'quiet-text'));
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 ${W} ${H}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  series.forEach((values, n) => {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('d', line(values, top || 1, kept));
    if (n) path.setAttribute('class', 'second');
    svg.append(path);
  });
  figure.append(caption, svg);
  return figure;
}

// Where nothing came there is no line.
function line(values, top, kept) {
  let pen = 'M', path = '';
  values.forEach((value, n) => {
    if (value === null) { pen = 'M'; return; }
    const x = ((kept - values.length + n) / kept) * W, y = H - 2 - (value / top) * (H - 6);
    // A dot where a sample stands alone.
    path += pen === 'M' ? `M${x.toFixed(1)} ${y.toFixed(1)}h1` : `L${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = 'L';
  });
  return path;
}
