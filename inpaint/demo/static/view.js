// What is seen of the photo and the hole, at which zoom, and what fingers, mouse and arrow keys do on it.

const MOST_ZOOM = 16; // screen pixels along one of the photo's
const LEAST_SHARE = 0.5; // of the size at which all of it is seen
const HOLE_OPACITY = 0.55;

export class View {
  // what: {photo, before, mask} as images to draw, all of one size, or null; tools: {name, size} of the brush in screen
  // pixels; onStroke is called with each finished stroke.
  constructor(canvas, tools, onStroke) {
    Object.assign(this, { canvas, tools, onStroke });
    this.context = canvas.getContext("2d");
    this.what = null;
    this.ratio = 1;
    this.split = 0; // share of the width, from the left, that shows the photo before
    this.isFitted = true;
    this.pointers = new Map();
    this.stroke = null;
    this.brush = null; // where it hovers, in the photo's pixels
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    addEventListener("resize", () => this.resize());
    for (const [type, handler] of Object.entries({
      pointerdown: this.down, pointermove: this.move, pointerup: this.up, pointercancel: this.cancel, pointerleave: this.leave,
    })) canvas.addEventListener(type, handler.bind(this));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), this.at(event));
    }, { passive: false });
  }

  show(what) {
    const isNew = !this.what || what.photo.width !== this.what.photo.width || what.photo.height !== this.what.photo.height;
    this.what = what;
    if (isNew) this.fit();
    else this.draw();
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    this.ratio = window.devicePixelRatio || 1; // kept, for it may change before the size does
    Object.assign(this.canvas, { width: Math.round(clientWidth * this.ratio), height: Math.round(clientHeight * this.ratio) });
    if (this.what && this.isFitted) this.fit();
    else this.draw();
  }

  fit() {
    const { photo } = this.what;
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    this.fitted = Math.min((clientWidth - 16) / photo.width, (clientHeight - 16) / photo.height);
    this.scale = this.fitted;
    this.left = (clientWidth - photo.width * this.scale) / 2;
    this.top = (clientHeight - photo.height * this.scale) / 2;
    this.isFitted = true;
    this.draw();
  }

  // By a factor about a place on the screen, by default the middle.
  zoom(factor, place) {
    if (!this.what) return;
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    const { x, y } = place ?? { x: clientWidth / 2, y: clientHeight / 2 };
    const scale = Math.min(Math.max(this.scale * factor, this.fitted * LEAST_SHARE), Math.max(MOST_ZOOM, this.fitted));
    this.pan(x - (x - this.left) * (scale / this.scale) - this.left, y - (y - this.top) * (scale / this.scale) - this.top);
    this.scale = scale;
    this.isFitted = false;
  }

  pan(x, y) {
    this.left += x;
    this.top += y;
    this.isFitted = false;
    this.draw();
  }

  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.paint();
    });
  }

  paint() {
    const { context, canvas, what, ratio } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!what) return;
    const { width, height } = what.photo;
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.left, ratio * this.top);
    context.imageSmoothingEnabled = this.scale * ratio < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(what.photo, 0, 0);
    if (this.split < 1) {
      context.globalAlpha = HOLE_OPACITY;
      context.drawImage(what.mask, 0, 0);
      context.globalAlpha = 1;
    }
    if (this.split > 0) {
      context.save();
      context.beginPath();
      context.rect(0, 0, width * this.split, height);
      context.clip();
      context.drawImage(what.before, 0, 0);
      context.restore();
    }
    const thin = 1 / this.scale;
    if (this.split > 0 && this.split < 1) this.outline(2 * thin, () => {
      context.moveTo(width * this.split, 0);
      context.lineTo(width * this.split, height);
    });
    if (this.brush && this.tools.name !== "hand" && !this.isPanning) this.outline(thin, () => {
      context.arc(this.brush.x, this.brush.y, this.radius(), 0, 2 * Math.PI);
    });
  }

  // White in black, to be seen on any photo.
  outline(width, path) {
    for (const [colour, times] of [["#000c", 3], ["#fff", 1]]) {
      this.context.beginPath();
      path();
      this.context.lineWidth = width * times;
      this.context.strokeStyle = colour;
      this.context.stroke();
    }
  }

  radius() {
    return this.tools.size / 2 / this.scale;
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  inPhoto({ x, y }) {
    return { x: (x - this.left) / this.scale, y: (y - this.top) / this.scale };
  }

  down(event) {
    if (!this.what || event.button > 1) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    this.isPanning = this.tools.name === "hand" || this.tools.isSpaceHeld || event.button === 1 || this.pointers.size > 1;
    if (this.pointers.size > 1) this.abandon();
    else if (!this.isPanning) this.begin(this.inPhoto(this.at(event)));
  }

  move(event) {
    if (!this.what) return;
    const before = this.pointers.get(event.pointerId);
    const now = this.at(event);
    this.brush = this.inPhoto(now);
    if (before && this.isPanning) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      this.pan((now.x - before.x) / this.pointers.size, (now.y - before.y) / this.pointers.size);
      if (other) {
        const apart = (place) => Math.hypot(place.x - other.x, place.y - other.y);
        const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
        this.zoom(apart(now) / Math.max(1, apart(before)), middle);
      }
    } else if (before) {
      for (const each of event.getCoalescedEvents?.() ?? []) this.extend(this.inPhoto(this.at(each)));
      this.extend(this.brush);
    }
    if (before) this.pointers.set(event.pointerId, now);
    this.draw();
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (this.pointers.size === 0) {
      this.isPanning = false;
      this.end();
    }
    if (event.pointerType === "touch") this.leave();
  }

  cancel(event) {
    this.abandon();
    this.up(event);
  }

  leave() {
    if (!this.stroke) this.brush = null;
    this.draw();
  }

  begin(point) {
    if (!this.tools.isEnabled) return;
    this.stroke = { kind: "stroke", points: [], radius: this.radius(), isEraser: this.tools.name === "eraser" };
    this.brush = point;
    this.extend(point);
  }

  extend(point) {
    if (!this.stroke) return;
    const { points, radius, isEraser } = this.stroke;
    this.what.onSegment(points.at(-1) ?? point, point, radius, isEraser);
    points.push(point);
    this.draw();
  }

  end() {
    const { stroke } = this;
    this.stroke = null;
    if (stroke) this.onStroke(stroke);
  }

  // A second finger came: it was to be a zoom.
  abandon() {
    if (!this.stroke) return;
    this.stroke = null;
    this.what.onAbandoned();
  }

  // Arrow keys; those who cannot point paint with them.
  nudge(x, y) {
    if (!this.what) return;
    const { width, height } = this.what.photo;
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    const from = this.brush ?? this.inPhoto({ x: clientWidth / 2, y: clientHeight / 2 });
    const step = Math.max(1, this.radius() / 2);
    this.brush = {
      x: Math.min(Math.max(from.x + x * step, 0), width),
      y: Math.min(Math.max(from.y + y * step, 0), height),
    };
    this.extend(this.brush);
    this.draw();
  }

  togglePen() {
    if (!this.what) return;
    if (this.stroke) this.end();
    else {
      this.nudge(0, 0);
      this.begin(this.brush);
    }
  }
}
