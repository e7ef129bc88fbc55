// Images of floats, {width, height, values: red, green and blue of each pixel, from 0 to 1}, made smaller and larger,
// and colours made to meet: the same as inpaint/photographs/scaling.py, border.py and models/generators/smooth_prior.py.

const NUM_LEVELS = 10; // of halvings, in a smooth fill
const REACH = 2; // means on either side of a hole's border are over 5 x 5 pixels
const EDGE = 0.2; // colours that differ by so much are an edge in the photo, which is left

// Half the size: the means of the known part of each 2 x 2 pixels, and its share. share: 1 where known, to 0.
export function halved({ width, height, values, share }) {
  const half = newScaled(width >> 1, height >> 1);
  for (let y = 0; y < 2 * half.height; y++) {
    for (let x = 0, from = y * width; x < 2 * half.width; x++, from++) {
      const to = (y >> 1) * half.width + (x >> 1);
      half.share[to] += share[from] / 4;
      for (let c = 0; c < 3; c++) half.values[3 * to + c] += (values[3 * from + c] * share[from]) / 4;
    }
  }
  return meansOf(half);
}

// Divides what was added up by its share.
export function meansOf(scaled) {
  const { values, share } = scaled;
  for (let at = 0; at < share.length; at++) {
    if (share[at]) for (let c = 0; c < 3; c++) values[3 * at + c] /= share[at];
  }
  return scaled;
}

export function newScaled(width, height) {
  return { width, height, values: new Float32Array(3 * width * height), share: new Float32Array(width * height) };
}

const cubic = (x) => (x <= 1 ? (1.25 * x - 2.25) * x * x + 1 : ((-0.75 * x + 3.75) * x - 6) * x + 3);
const TAPS = [0.75, 0.25].map((at) => [at + 1, at, 1 - at, 2 - at].map(cubic)); // of even and odd places

// Row y, from column `first` to before `end`, of an image at twice the size, bicubically; edges are repeated.
export function enlargedRow({ width, height, values }, y, first, end) {
  const row = new Float32Array(3 * (end - first)), weights = TAPS[y % 2];
  const begin = Math.max(0, (first >> 1) - 2), above = new Float32Array(3 * (Math.min(width, (end >> 1) + 3) - begin));
  for (let tap = 0; tap < 4; tap++) {
    const from = 3 * (clamped((y >> 1) + tap - 2 + (y % 2), height) * width + begin);
    for (let at = 0; at < above.length; at++) above[at] += weights[tap] * values[from + at];
  }
  for (let x = first, to = 0; x < end; x++, to += 3) {
    for (let tap = 0; tap < 4; tap++) {
      const from = 3 * (clamped((x >> 1) + tap - 2 + (x % 2), width) - begin), weight = TAPS[x % 2][tap];
      for (let c = 0; c < 3; c++) row[to + c] += weight * above[from + c];
    }
  }
  return row;
}

const clamped = (at, size) => Math.min(Math.max(at, 0), size - 1);

// The image enlarged, with what is known at that scale laid on it.
export function enlargedUnder(image, { width, height, values, share }) {
  const filled = { width, height, values: new Float32Array(values.length) };
  for (let y = 0; y < height; y++) {
    const row = enlargedRow(image, y, 0, width);
    for (let at = 0, to = 3 * y * width; at < row.length; at++, to++) {
      filled.values[to] = row[at] + (values[to] - row[at]) * share[Math.floor(to / 3)];
    }
  }
  return filled;
}

// What to add to a fill so that its colours meet what is known around it: at the border all of it, inwards less.
export function met({ width, height, values }, isKnown) {
  const differences = newScaled(width, height);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (isKnown[at]) continue;
      const sums = [[0, 0, 0, 0], [0, 0, 0, 0]]; // inside and outside: how many, and their colours
      for (let row = Math.max(0, y - REACH); row <= Math.min(height - 1, y + REACH); row++) {
        for (let column = Math.max(0, x - REACH); column <= Math.min(width - 1, x + REACH); column++) {
          const near = row * width + column, sum = sums[isKnown[near]];
          sum[0] += 1;
          for (let c = 0; c < 3; c++) sum[c + 1] += values[3 * near + c];
        }
      }
      const [inside, outside] = sums;
      if (!outside[0]) continue;
      const apart = [1, 2, 3].map((c) => outside[c] / outside[0] - inside[c] / inside[0]);
      const kept = Math.exp(-((Math.max(...apart.map(Math.abs)) / EDGE) ** 2));
      differences.share[at] = 1;
      for (let c = 0; c < 3; c++) differences.values[3 * at + c] = apart[c] * kept;
    }
  }
  const surface = smoothFill(differences);
  isKnown.forEach((known, at) => known && surface.values.fill(0, 3 * at, 3 * at + 3));
  return surface;
}

// The image with what is not known (share 0, else 1) made of averages of what is, the coarser the farther they are.
function smoothFill(image) {
  const levels = [image];
  for (let level = 0; level < NUM_LEVELS; level++) levels.push(pulled(levels.at(-1)));
  let fill = levels.pop();
  while (levels.length) {
    const { width, height, values, share } = levels.pop(), finer = { width, height, values: values.slice() };
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) if (!share[at]) bilinear(fill, y / 2 - 0.25, x / 2 - 0.25, finer.values, 3 * at);
    }
    fill = finer;
  }
  return fill;
}

// Half the size, rounded up: the means of what is known of each 2 x 2 pixels, known where any of them is.
function pulled({ width, height, values, share }) {
  const half = newScaled((width + 1) >> 1, (height + 1) >> 1), { share: counts } = half;
  for (let y = 0, from = 0; y < height; y++) {
    for (let x = 0; x < width; x++, from++) {
      if (!share[from]) continue;
      const to = (y >> 1) * half.width + (x >> 1);
      counts[to] += 1;
      for (let c = 0; c < 3; c++) half.values[3 * to + c] += values[3 * from + c];
    }
  }
  for (let at = 0; at < counts.length; at++) {
    if (!counts[at]) continue;
    for (let c = 0; c < 3; c++) half.values[3 * at + c] /= counts[at];
    counts[at] = 1;
  }
  return half;
}

// The colours between the pixels around row y and column x, to `into` from `to` on; edges are repeated.
export function bilinear({ width, height, values }, y, x, into, to) {
  y = Math.max(0, y);
  x = Math.max(0, x);
  const top = Math.floor(y), left = Math.floor(x), down = y - top, across = x - left;
  const right = 3 * Math.min(left + 1, width - 1), above = 3 * top * width, below = 3 * Math.min(top + 1, height - 1) * width;
  for (let c = 0; c < 3; c++) {
    const first = values[above + 3 * left + c], second = values[below + 3 * left + c];
    const high = first + (values[above + right + c] - first) * across, low = second + (values[below + right + c] - second) * across;
    into[to + c] = high + (low - high) * down;
  }
}
