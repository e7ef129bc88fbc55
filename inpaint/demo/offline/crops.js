// A photo's holes filled one by one, each seen in a square around it, scaled down to what the network was trained on: the
// same as `inpaint fill --strategy crop --no-detail` does in inpaint/photographs/crops.py.

import { bilinear, enlargedRow, enlargedUnder, halved, meansOf, met, newScaled } from "./smooth.js";
import { plan, targetsIn } from "./windows.js";

const MET_PIXELS = 2 ** 20; // colours of larger windows are made to meet as seen at a smaller scale

// Fills `pixels` (RGBA, four bytes each) in place where `hole` (a byte each) is not 0. network is called with {image
// (RGB), mask, width, height} as bytes and promises the filled RGB; onWindow is called before each window.
export async function fillCrops({ pixels, hole, width, height, size, multiple, network, onWindow }) {
  const unknown = hole.slice();
  for (const windows of plan(hole, width, height, size)) {
    const filled = [];
    for (const window of windows) {
      onWindow();
      const targets = targetsIn(window, unknown, width);
      await fillWindow({ window, targets, unknown, pixels, photoWidth: width, multiple, network });
      filled.push([window, targets]);
    }
    for (const [{ top, left, width: columns }, targets] of filled) {
      targets.forEach((target, at) => { if (target) unknown[(top + Math.floor(at / columns)) * width + left + (at % columns)] = 0; });
    }
  }
}

async function fillWindow({ window, targets, unknown, pixels, photoWidth, multiple, network }) {
  const photo = framed(window, pixels, unknown, photoWidth, window.factor * multiple);
  const scales = [null, ...scalesOf(photo, window.factor)]; // the first is the photo itself, which is read as bytes
  const smallest = scales.at(-1) ?? scaledOnce(photo);
  let fill = await seen(smallest, network);
  add(fill, met(fill, knownIn(smallest)));
  const set = (at, colours) => pixels.set([...colours.map((value) => Math.round(255 * Math.min(Math.max(value, 0), 1))), 255], 4 * at);
  const inPhoto = (x, y) => (window.top + y) * photoWidth + window.left + x;
  const isTarget = (x, y) => x < window.width && y < window.height && targets[y * window.width + x];
  if (window.factor === 1) {
    for (let y = 0, at = 0; y < fill.height; y++) {
      for (let x = 0; x < fill.width; x++, at++) if (isTarget(x, y)) set(inPhoto(x, y), [...fill.values.subarray(3 * at, 3 * at + 3)]);
    }
    return;
  }
  for (const scaled of scales.slice(1, -1).reverse()) fill = enlargedUnder(fill, scaled);
  // The photo's own scale is passed twice, row by row, since all of it would not fit into a phone.
  const level = Math.max(0, Math.ceil(Math.log2((photo.width * photo.height) / MET_PIXELS) / 2));
  const scaled = scales[level] ?? scaledOnce(photo);
  const surface = met(reduced(photo, fill, scaled, level), knownIn(scaled));
  const added = [0, 0, 0];
  rows(photo, fill, scaled, level, (x, y, colours) => {
    if (!isTarget(x, y)) return;
    bilinear(surface, (y + 0.5) / 2 ** level - 0.5, (x + 0.5) / 2 ** level - 0.5, added, 0);
    set(inPhoto(x, y), [colours[0] + added[0], colours[1] + added[1], colours[2] + added[2]]);
  });
}

// A window's bytes, reflected at its right and lower edge up to a multiple of px: {width, height, at, isKnown}, the
// latter two of a place in it.
function framed({ top, left, width, height }, pixels, unknown, photoWidth, px) {
  const places = (size) => Int32Array.from({ length: Math.ceil(size / px) * px }, (_, at) => {
    const place = at % Math.max(1, 2 * size - 2);
    return Math.min(place, Math.max(0, 2 * size - 2 - place), size - 1);
  });
  const rowsOf = places(height), columnsOf = places(width);
  const place = (x, y) => (top + rowsOf[y]) * photoWidth + left + columnsOf[x];
  return {
    width: columnsOf.length, height: rowsOf.length, bytes: pixels,
    at: (x, y) => 4 * place(x, y), isKnown: (x, y) => !unknown[place(x, y)],
  };
}

// As floats at its own scale.
function scaledOnce(photo) {
  const whole = newScaled(photo.width, photo.height);
  for (let y = 0, to = 0; y < photo.height; y++) {
    for (let x = 0; x < photo.width; x++, to++) if (photo.isKnown(x, y)) write(photo, x, y, whole, to, 1);
  }
  return whole;
}

function write(photo, x, y, { values, share }, to, weight) {
  share[to] += weight;
  for (let c = 0; c < 3; c++) values[3 * to + c] += (weight * photo.bytes[photo.at(x, y) + c]) / 255;
}

// At 1/2, 1/4 and so on to 1 / factor.
function scalesOf(photo, factor) {
  if (factor === 1) return [];
  const half = newScaled(photo.width / 2, photo.height / 2);
  for (let y = 0; y < photo.height; y++) {
    for (let x = 0; x < photo.width; x++) if (photo.isKnown(x, y)) write(photo, x, y, half, (y >> 1) * half.width + (x >> 1), 0.25);
  }
  const scales = [meansOf(half)];
  for (let reached = 2; reached < factor; reached *= 2) scales.push(halved(scales.at(-1)));
  return scales;
}

const knownIn = ({ share }) => Uint8Array.from(share, (value) => Number(value === 1));

// What the network makes of a photo at its scale; what is known of it as it is.
async function seen({ width, height, values, share }, network) {
  const isKnown = knownIn({ share });
  const image = Uint8Array.from(values, (value) => Math.round(255 * value));
  const output = await network({ image, mask: isKnown.map((known) => (known ? 0 : 255)), width, height });
  return { width, height, values: values.map((value, at) => (isKnown[Math.floor(at / 3)] ? value : output[at] / 255)) };
}

function add({ values }, { values: more }) {
  for (let at = 0; at < values.length; at++) values[at] += more[at];
}

// The fill at 1 / 2 ** level of the photo's scale: means of what it is there, where any of that is unknown.
function reduced(photo, fill, scaled, level) {
  const { width, height, values, share } = scaled;
  const small = { width, height, values: values.map((value, at) => (share[Math.floor(at / 3)] === 1 ? value : 0)) };
  rows(photo, fill, scaled, level, (x, y, colours) => {
    const to = (y >> level) * width + (x >> level);
    for (let c = 0; c < 3; c++) small.values[3 * to + c] += colours[c] / 4 ** level;
  });
  return small;
}

// Calls `each` with the place and colours of the pixels of the photo's own scale, of all cells of 2 ** level pixels a side
// that are not known (share 1); unknown pixels are of the fill of half that scale, enlarged.
function rows(photo, fill, { width, share }, level, each) {
  const side = 2 ** level, colours = [0, 0, 0];
  for (let y = 0; y < photo.height; y++) {
    const cells = share.subarray((y >> level) * width, ((y >> level) + 1) * width);
    const isHole = (value) => value !== 1, first = cells.findIndex(isHole) * side, end = (cells.findLastIndex(isHole) + 1) * side;
    if (!end) continue;
    const row = enlargedRow(fill, y, first, end);
    for (let x = first; x < end; x++) {
      if (cells[x >> level] === 1) continue;
      const isKnown = photo.isKnown(x, y), from = isKnown ? photo.at(x, y) : 3 * (x - first);
      for (let c = 0; c < 3; c++) colours[c] = isKnown ? photo.bytes[from + c] / 255 : row[from + c];
      each(x, y, colours);
    }
  }
}
