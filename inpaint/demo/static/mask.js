// The hole, as what is painted on a canvas of the photo's own size: opaque where to fill. Every change is a step that
// can be done again, so that undoing is doing all steps but the last on an empty canvas.

const COLOUR = "#f0f";
const OPAQUE = 128; // of 255, as everywhere; edges are drawn smoothly
const STRIP_PIXELS = 2 ** 20; // read at once, since a photo's pixels are many

const DIRECTIONS = [[1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [1, -1], [-1, 1], [-1, -1]];

export function newCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

export class Mask {
  constructor(width, height) {
    this.canvas = newCanvas(width, height);
    this.context = this.canvas.getContext("2d");
  }

  // A step is {kind, ...}: "stroke" with points, radius and isEraser; "put" with another mask's canvas; "grow" and
  // "shrink" with px; "invert"; "clear".
  apply(step) {
    this[step.kind](step);
  }

  stroke({ points, radius, isEraser }) {
    points.forEach((point, index) => this.segment(points[Math.max(0, index - 1)], point, radius, isEraser));
  }

  segment(from, to, radius, isEraser) {
    this.draw(isEraser ? "destination-out" : "source-over", (context) => {
      context.strokeStyle = COLOUR;
      context.lineWidth = 2 * radius;
      context.lineCap = context.lineJoin = "round";
      context.beginPath();
      context.moveTo(from.x, from.y);
      context.lineTo(to.x, to.y);
      context.stroke();
    });
  }

  put({ canvas }) {
    this.clear();
    this.context.drawImage(canvas, 0, 0);
  }

  clear() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  invert() {
    this.draw("source-out", (context) => {
      context.fillStyle = COLOUR;
      context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    });
  }

  // Larger by px all around, an octagon's way: moved copies of itself are laid on it, as far as it has grown.
  grow({ px }) {
    for (let grown = 0; grown < px; ) {
      const far = Math.min(px - grown, Math.max(1, grown));
      const copy = newCanvas(this.canvas.width, this.canvas.height);
      copy.getContext("2d").drawImage(this.canvas, 0, 0);
      for (const [x, y] of DIRECTIONS) {
        const length = x && y ? Math.max(1, Math.round(far * Math.SQRT1_2)) : far;
        this.context.drawImage(copy, x * length, y * length);
      }
      grown += far;
    }
  }

  shrink({ px }) {
    this.invert();
    this.grow({ px });
    this.invert();
  }

  draw(operation, how) {
    this.context.save();
    this.context.globalCompositeOperation = operation;
    how(this.context);
    this.context.restore();
  }

  // One byte a pixel: 255 in the hole, else 0.
  bytes() {
    const { width, height } = this.canvas;
    const bytes = new Uint8Array(width * height);
    const rows = Math.min(height, Math.max(1, Math.floor(STRIP_PIXELS / width)));
    const context = newCanvas(width, rows).getContext("2d", { willReadFrequently: true });
    context.globalCompositeOperation = "copy";
    for (let top = 0; top < height; top += rows) {
      context.drawImage(this.canvas, 0, -top);
      const strip = context.getImageData(0, 0, width, Math.min(rows, height - top)).data;
      for (let from = 3, to = top * width; from < strip.length; from += 4) bytes[to++] = strip[from] >= OPAQUE ? 255 : 0;
    }
    return bytes;
  }

  // White in the hole on black.
  toPng() {
    const copy = newCanvas(this.canvas.width, this.canvas.height);
    const context = copy.getContext("2d");
    context.drawImage(this.canvas, 0, 0);
    for (const [operation, colour] of [["source-in", "white"], ["destination-over", "black"]]) {
      context.globalCompositeOperation = operation;
      context.fillStyle = colour;
      context.fillRect(0, 0, copy.width, copy.height);
    }
    return new Promise((resolve) => copy.toBlob(resolve, "image/png"));
  }
}

// An uploaded mask as the canvas of a step "put"; throws what is wrong with it.
export function fromImage(image, width, height) {
  if (image.width !== width || image.height !== height) {
    throw new Error(`The mask is ${image.width}x${image.height} pixels and the photo ${width}x${height}; they must have the same size.`);
  }
  const canvas = newCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  const { data } = pixels;
  let brightest = 0;
  for (let at = 0; at < data.length; at += 4) {
    const grey = ((0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]) * data[at + 3]) / 255;
    brightest = Math.max(brightest, grey);
    data.set(grey >= OPAQUE ? [255, 0, 255, 255] : [0, 0, 0, 0], at);
  }
  if (brightest < OPAQUE) {
    throw new Error(`The mask has no white: its brightest value is ${Math.round(brightest)} of 255, and only ${OPAQUE} or more is filled.`);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}
