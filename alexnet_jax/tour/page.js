'use strict';
const facts = JSON.parse(document.getElementById('facts').textContent);
const {colors, maps, words} = facts.drawing;

/** Return the bytes of all maps, which are gzipped and in base64. */
async function unpack() {
  const element = document.getElementById('maps');
  const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Return one map as a small canvas, a pixel for each position. */
function picture(bytes, map, channel) {
  const [, height, width] = map.shape, size = height * width;
  const canvas = Object.assign(document.createElement('canvas'), {height, width});
  const context = canvas.getContext('2d'), image = context.createImageData(width, height);
  const table = map.limits[channel][0] < 0 ? colors.signed : colors.positive;
  for (let i = 0; i < size; i++) {
    const color = table[bytes[map.start + channel * size + i]];
    image.data.set([color >> 16, color >> 8 & 255, color & 255, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Draw maps side by side, each with its number. */
function grid(canvas, bytes, map, channels, columns) {
  const scale = Math.min(devicePixelRatio || 1, 2), tile = canvas.clientWidth * scale / columns;
  const gap = 3 * scale, text = columns > 8 ? 0 : 13 * scale, side = tile - gap;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = Math.ceil(channels.length / columns) * (tile + text);
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.fillStyle = '#444';
  context.font = `${10 * scale}px system-ui, sans-serif`;
  channels.forEach((channel, place) => {
    const left = place % columns * tile, top = Math.floor(place / columns) * (tile + text);
    context.drawImage(picture(bytes, map, channel), left, top, side, side);
    if (text) context.fillText(map.labels ? map.labels[channel] : `${channel}`, left, top + side + 10 * scale);
  });
}

/** Draw neurons as bars, upward from 0, in rows of 512. */
function bars(canvas, bytes, map) {
  const count = map.shape[2], [low, high] = map.limits[0], wide = Math.min(count, 512);
  const rows = Math.ceil(count / wide), tall = 48, step = Math.max(1, Math.floor(512 / wide));
  canvas.width = wide * step;
  canvas.height = rows * (tall + 6);
  const context = canvas.getContext('2d');
  for (let i = 0; i < count; i++) {
    const value = low + bytes[map.start + i] / 255 * ((high - low) || 1);
    const zero = tall * high / ((high - low) || 1), end = tall * (high - value) / ((high - low) || 1);
    context.fillStyle = value < 0 ? '#D55E00' : '#0072B2';
    const top = Math.floor(i / wide) * (tall + 6) + Math.min(zero, end);
    context.fillRect(i % wide * step, top, Math.max(1, step - 1), Math.abs(end - zero));
  }
}

function draw(canvas, bytes) {
  const {map: name, tower, channel, all} = canvas.dataset, map = maps[name];
  if (canvas.dataset.bars !== undefined) return bars(canvas, bytes, map);
  if (channel !== undefined) {
    const small = picture(bytes, map, Number(channel));
    Object.assign(canvas, {width: small.width, height: small.height});
    return canvas.getContext('2d').drawImage(small, 0, 0);
  }
  const order = map.order[tower];
  const few = order.length <= 16 ? order : order.slice(0, map.order.length > 1 ? 8 : 16);
  const columns = map.order.length > 1 ? 2 : 4;
  if (all) return grid(canvas, bytes, map, order, map.order.length > 1 ? 8 : 16);
  return grid(canvas, bytes, map, few, Math.min(columns, few.length));
}

/** Draw a canvas when it is about to be seen, and again when its width has changed. */
async function start() {
  const bytes = await unpack(), drawn = new Map();
  const paint = (canvas) => {
    if (canvas.clientWidth && drawn.get(canvas) !== canvas.clientWidth) {
      drawn.set(canvas, canvas.clientWidth);
      draw(canvas, bytes);
    }
  };
  const seen = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => paint(entry.target));
  }, {rootMargin: '400px'});
  const canvases = document.querySelectorAll('canvas[data-map]');
  canvases.forEach((canvas) => seen.observe(canvas));
  window.addEventListener('resize', () => drawn.forEach((_, canvas) => paint(canvas)));

  document.querySelectorAll('button[data-all]').forEach((button) => {
    button.addEventListener('click', () => {
      const all = button.getAttribute('aria-pressed') !== 'true';
      button.setAttribute('aria-pressed', all);
      button.textContent = all ? words.fewer : button.dataset.all;
      button.closest('figure').querySelectorAll('canvas').forEach((canvas) => {
        if (all) canvas.dataset.all = 'yes';
        else delete canvas.dataset.all;
        drawn.delete(canvas);
        paint(canvas);
      });
    });
  });
  document.body.dataset.state = 'ready';
}

/** Show one calculation of a group, the one whose button is pressed. */
function choose(button) {
  const group = button.closest('.picker');
  group.querySelectorAll('button[aria-controls]').forEach((other) => {
    const pressed = other === button;
    other.setAttribute('aria-pressed', pressed);
    document.getElementById(other.getAttribute('aria-controls')).hidden = !pressed;
  });
}

document.querySelectorAll('.picker').forEach((group) => {
  const buttons = group.querySelectorAll('button[aria-controls]');
  buttons.forEach((button) => button.addEventListener('click', () => choose(button)));
  choose(buttons[0]);
});
start();
