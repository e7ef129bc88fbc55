// Which parts of a large photo the network is shown, at what scale, and which holes it fills in each: the same as
// inpaint/photographs/windows.py, whose comments say why.

const LONGEST = 6;

// Passes of windows that together fill the hole; what the passes before filled is known to the next. A window is {top,
// left, height, width, factor, part}; part is {top, left, height, width, bytes}: the cells of `factor` pixels a side,
// counted from the photo's corner, that are filled in it. hole has a byte a pixel, not 0 where to fill; size is the side
// in pixels of what the network is shown.
export function* plan(hole, width, height, size) {
  const half = Math.max(1, size >> 1), near = Math.max(1, size >> 3);
  let cells = trimmed({ top: 0, left: 0, width, height, bytes: hole });
  for (let factor = 1; cells; factor *= 2) {
    const { labels, boxes } = components(cells, near);
    const thickness = thicknesses(cells, labels, boxes.length);
    const passes = [[], [], [], []];
    const fits = boxes.map((box, label) => {
      const isFit = label > 0 && Math.min(Math.max(box.bottom - box.top, box.right - box.left), LONGEST * thickness[label]) <= half;
      if (isFit) for (const { pass, part } of pieces(cells, labels, label, box, half)) passes[pass].push(windowAround(part, width, height, size, factor));
      return isFit;
    });
    yield* passes.filter((pass) => pass.length);
    cells = trimmed(halved(cells, (at) => cells.bytes[at] && !fits[labels[at]]));
  }
}

// Which pixels of a window are filled in it, a byte each, of those that are unknown.
export function targetsIn({ top, left, height, width, factor, part }, unknown, photoWidth) {
  const targets = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.floor((top + y) / factor) - part.top;
    if (row < 0 || row >= part.height) continue;
    for (let x = 0; x < width; x++) {
      const column = Math.floor((left + x) / factor) - part.left;
      if (column >= 0 && column < part.width && part.bytes[row * part.width + column]) targets[y * width + x] = unknown[(top + y) * photoWidth + left + x];
    }
  }
  return targets;
}

// The part of a grid that holds all its cells, from an even row and column of the photo on, which may lie one before
// the grid; null if there are none.
function trimmed({ top, left, width, height, bytes }) {
  let [first, last, leftmost, rightmost] = [height, -1, width, -1];
  for (let y = 0; y < height; y++) {
    const row = bytes.subarray(y * width, (y + 1) * width);
    const start = row.findIndex((byte) => byte);
    if (start < 0) continue;
    first = Math.min(first, y);
    last = y;
    leftmost = Math.min(leftmost, start);
    rightmost = Math.max(rightmost, row.findLastIndex((byte) => byte));
  }
  if (last < 0) return null;
  first -= (top + first) % 2;
  leftmost -= (left + leftmost) % 2;
  return part({ top, left, width, bytes }, first, leftmost, last + 1, rightmost + 1, (at) => bytes[at] !== 0);
}

function part(grid, top, left, bottom, right, isIn) {
  const bytes = new Uint8Array((bottom - top) * (right - left));
  for (let y = top, to = 0; y < bottom; y++) {
    for (let x = left; x < right; x++) bytes[to++] = y >= 0 && x >= 0 && isIn(y * grid.width + x) ? 1 : 0;
  }
  return { top: grid.top + top, left: grid.left + left, height: bottom - top, width: right - left, bytes };
}

// Cells of twice the side, of which one counts where any of its four does. The grid begins at an even row and column.
function halved({ top, left, width, height }, isIn) {
  const half = { top: top / 2, left: left / 2, width: (width + 1) >> 1, height: (height + 1) >> 1 };
  half.bytes = new Uint8Array(half.width * half.height);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) if (isIn(at)) half.bytes[(y >> 1) * half.width + (x >> 1)] = 1;
  }
  return half;
}

// Cells that are at most 2 * near + 1 apart are of one hole, numbered from 1. A box is {top, left, bottom, right}.
function components({ width, height, bytes }, near) {
  const grown = dilated(dilated(bytes, width, height, near, 1, width), height, width, near, width, 1);
  const labels = new Int32Array(width * height), parents = [0];
  const root = (label) => {
    while (parents[label] !== label) label = parents[label] = parents[parents[label]];
    return label;
  };
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!grown[at]) continue;
      let own = x ? root(labels[at - 1]) : 0;
      for (let near = Math.max(0, x - 1); y && near <= Math.min(width - 1, x + 1); near++) {
        const found = root(labels[(y - 1) * width + near]);
        if (!found) continue;
        if (own && own !== found) parents[Math.max(own, found)] = Math.min(own, found);
        own = own ? Math.min(own, found) : found;
      }
      if (!own) parents.push((own = parents.length));
      labels[at] = own;
    }
  }
  const numbers = new Map(), boxes = [null];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!bytes[at]) {
        labels[at] = 0;
        continue;
      }
      const found = root(labels[at]);
      if (!numbers.has(found)) numbers.set(found, boxes.push({ top: y, left: x, bottom: y, right: x }) - 1);
      const box = boxes[(labels[at] = numbers.get(found))];
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x + 1);
      box.bottom = y + 1;
    }
  }
  return { labels, boxes };
}

// 1 where anything within `near` along one axis is not 0: `length` cells, `step` apart, of each of `num` rows.
function dilated(bytes, length, num, near, step, stride) {
  const grown = new Uint8Array(bytes.length);
  for (let row = 0; row < num; row++) {
    let until = -1;
    for (let ahead = 0; ahead < length + near; ahead++) {
      if (ahead < length && bytes[row * stride + ahead * step]) until = ahead + near;
      const here = ahead - near;
      if (here >= 0 && here <= until) grown[row * stride + here * step] = 1;
    }
  }
  return grown;
}

// Side of the largest square within each label's cells.
function thicknesses({ width, height, bytes }, labels, num) {
  const distance = new Int32Array(width * height), thickness = new Int32Array(num);
  const of = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : distance[y * width + x]);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (bytes[at]) distance[at] = 1 + Math.min(of(x - 1, y), of(x - 1, y - 1), of(x, y - 1), of(x + 1, y - 1));
    }
  }
  for (let y = height - 1, at = width * height - 1; y >= 0; y--) {
    for (let x = width - 1; x >= 0; x--, at--) {
      if (!bytes[at]) continue;
      distance[at] = Math.min(distance[at], 1 + Math.min(of(x + 1, y), of(x + 1, y + 1), of(x, y + 1), of(x - 1, y + 1)));
      thickness[labels[at]] = Math.max(thickness[labels[at]], 2 * distance[at] - 1);
    }
  }
  return thickness;
}

// The pieces of one hole, none longer than `longest`; no two neighbouring ones are in the same pass.
function* pieces(cells, labels, label, { top, left, bottom, right }, longest) {
  const downs = edges(top, bottom, longest), acrosses = edges(left, right, longest);
  for (let down = 0; down + 1 < downs.length; down++) {
    for (let across = 0; across + 1 < acrosses.length; across++) {
      const its = part(cells, downs[down], acrosses[across], downs[down + 1], acrosses[across + 1], (at) => labels[at] === label);
      if (its.bytes.includes(1)) yield { pass: 2 * (down % 2) + (across % 2), part: its };
    }
  }
}

function edges(start, end, longest) {
  const num = Math.ceil((end - start) / longest), step = (end - start) / num;
  return Array.from({ length: num + 1 }, (_, index) => (index === num ? end : Math.floor(index * step + start)));
}

// The window around a piece, moved into the photo where it would reach beyond.
function windowAround(part, width, height, size, factor) {
  const place = (start, length, whole) => {
    const reach = Math.min(size * factor, whole), middle = Math.floor(((2 * start + length) * factor) / 2);
    return [Math.min(Math.max(0, middle - (reach >> 1)), whole - reach), reach];
  };
  const [top, rows] = place(part.top, part.height, height), [left, columns] = place(part.left, part.width, width);
  return { top, left, height: rows, width: columns, factor, part };
}
