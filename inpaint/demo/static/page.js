// The page: which photo is open, what was done to it, and what each button and key does. What fills is engine.js.

import { about, fill } from "./engine.js";
import { asJpeg } from "./jpeg.js";
import { fromImage, Mask } from "./mask.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const tools = { name: "brush", size: 36, isSpaceHeld: false, isEnabled: true };
const view = new View($("view"), tools, (stroke) => add(stroke, { isDone: true }));

let can = null; // what the engine can do
let photos = []; // files that are opened one after the other
let name = "";
// What was done, the opened photo first: {kind: "photo", blob, image} or a step of the mask. A fill is a photo, and the
// mask is empty after it. All steps before `num` hold; the others can be done again.
let steps = [];
let num = 0;
let mask = null;
let filling = null; // aborts the fill that is waited for

const lastPhoto = () => steps.slice(0, num).findLast((step) => step.kind === "photo");

// --- what was done

function add(step, { isDone = false } = {}) {
  steps.splice(num++, steps.length, step);
  if (!isDone) mask.apply(step);
  refresh();
}

function go(to) {
  if (filling || to < 1 || to > steps.length) return;
  view.stroke = null;
  num = to;
  redraw();
  refresh();
}

function redraw() {
  mask.clear();
  steps.slice(steps.indexOf(lastPhoto()) + 1, num).forEach((step) => mask.apply(step));
}

function refresh() {
  const photo = lastPhoto();
  view.show({
    photo: photo.image, before: steps[0].image, mask: mask.canvas, onSegment: mask.segment.bind(mask),
    onAbandoned: () => { redraw(); view.draw(); },
  });
  const isFree = !filling;
  tools.isEnabled = isFree;
  $("fill").disabled = !isFree || steps[num - 1].kind === "photo" || steps[num - 1].kind === "clear";
  $("undo").disabled = !isFree || num < 2;
  $("redo").disabled = !isFree || num === steps.length;
  $("brushes").disabled = $("how").disabled = !isFree;
  $("compare-tools").disabled = photo === steps[0];
  $("download-jpeg").hidden = steps[0].blob.type !== "image/jpeg";
  $("download").disabled = $("download-jpeg").disabled = !isFree || photo === steps[0];
  $("open").disabled = $("next-photo").disabled = !isFree;
  $("working").hidden = isFree;
  if (photo === steps[0]) setSplit(0);
}

function tell(text = "") {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// --- photos and masks come in

async function decoded(file, what) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new Error(`The ${what} ${file.name ?? ""} cannot be read: it is damaged, or no kind of image that this browser knows.`);
  }
}

async function openPhoto(file) {
  if (filling || !can) return;
  try {
    if (file.size > can.max_bytes) {
      throw new Error(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; up to ${can.max_bytes / 1e6} MB are taken.`);
    }
    const image = await decoded(file, "photo");
    const megapixels = (image.width * image.height) / 1e6;
    if (megapixels > can.max_megapixels) {
      throw new Error(`${file.name} has ${megapixels.toFixed(1)} megapixels; up to ${can.max_megapixels} are taken.`);
    }
    steps.forEach((step) => step.image?.close());
    [steps, num] = [[{ kind: "photo", blob: file, image }], 1];
    name = (file.name || "photo").replace(/\.[^.]*$/, "");
    mask = new Mask(image.width, image.height);
    $("photo-name").textContent = `${file.name || "pasted photo"}, ${image.width}x${image.height}`;
    $("empty").hidden = true;
    $("view").hidden = $("zoom").hidden = false;
    tell();
    refresh();
  } catch (error) {
    tell(error.message);
  }
}

function openPhotos(files) {
  const images = files.filter((file) => file.type.startsWith("image/"));
  if (!images.length) return tell(files.length ? `${files[0].name} is not an image.` : "");
  photos = images.slice(1);
  $("next-photo").hidden = !photos.length;
  return openPhoto(images[0]);
}

async function openMask(file) {
  try {
    const image = await decoded(file, "mask");
    add({ kind: "put", canvas: fromImage(image, mask.canvas.width, mask.canvas.height) });
    tell();
  } catch (error) {
    tell(error.message);
  }
}

// Files of what was dropped, those in folders by name.
async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const entries = [];
  for (let more; (more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length; ) entries.push(...more);
  entries.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  return (await Promise.all(entries.map(filesIn))).flat();
}

async function dropped(event) {
  event.preventDefault();
  $("stage").classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  openPhotos((await Promise.all(entries.map(filesIn))).flat());
}

// --- fills go out

async function fillHole() {
  if ($("fill").disabled) return;
  const how = { strategy: $("strategy").value };
  if (can.has_detail) how.detail = $("detail").checked;
  if (can.has_fidelity) how.fidelity = $("fidelity").value;
  filling = new AbortController();
  const onState = (text) => { $("state").textContent = text; };
  tell();
  refresh();
  try {
    if (!mask.bytes().includes(255)) throw new Error("Nothing is painted over: paint what is to go, then fill.");
    const { blob, warning } = await fill({ photo: lastPhoto().blob, image: lastPhoto().image, mask, how, signal: filling.signal, onState });
    const image = await decoded(blob, "filled photo");
    filling.signal.throwIfAborted();
    mask.clear();
    add({ kind: "photo", blob, image }, { isDone: true });
    tell(warning);
  } catch (error) {
    if (error.name !== "AbortError") tell(error.message);
  } finally {
    filling = null;
    refresh();
  }
}

function download(blob, ending) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${name}-filled.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function downloadJpeg() {
  try {
    download(await asJpeg(lastPhoto().image, steps[0].blob), "jpg");
    tell("The JPEG has the photo's EXIF, with place and time if those were in it. All its pixels were written anew and differ a little; in the PNG every pixel that was not painted over is the photo's own.");
  } catch (error) {
    tell(error.message);
  }
}

// --- buttons and keys

function setTool(tool) {
  document.querySelector(`[name=tool][value=${tool}]`).checked = true;
  tools.name = $("view").dataset.tool = tool;
  view.draw();
}

function setSize(size) {
  tools.size = $("size").value = Math.round(Math.min(Math.max(size, 4), 200));
  $("size-value").textContent = `${tools.size} px`;
  view.draw();
}

function setSplit(share) {
  $("split").value = 100 * share;
  view.split = share;
  view.draw();
}

let held = null; // where the slider stood before
function hold(isHeld) {
  if (isHeld === (held !== null) || $("compare-tools").disabled) return;
  if (isHeld) {
    held = view.split;
    view.split = 1;
  } else [view.split, held] = [held, null];
  view.draw();
}

// A hole's rim on a photo of any size.
const growth = () => Math.max(2, Math.round(Math.max(mask.canvas.width, mask.canvas.height) / 400));
const nextPhoto = () => photos.length && !filling && openPhotos(photos);

const clicks = {
  open: () => $("photo-file").click(),
  empty: () => $("photo-file").click(),
  mask: () => $("mask-file").click(),
  "next-photo": nextPhoto,
  download: () => download(lastPhoto().blob, "png"),
  "download-jpeg": downloadJpeg,
  fill: fillHole,
  undo: () => go(num - 1),
  redo: () => go(num + 1),
  clear: () => add({ kind: "clear" }),
  grow: () => add({ kind: "grow", px: growth() }),
  shrink: () => add({ kind: "shrink", px: growth() }),
  invert: () => add({ kind: "invert" }),
  cancel: () => filling?.abort(),
  "zoom-in": () => view.zoom(1.5),
  "zoom-out": () => view.zoom(1 / 1.5),
  "zoom-fit": () => view.what && view.fit(),
};
for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);

const keys = {
  f: fillHole, Escape: clicks.cancel, n: nextPhoto,
  b: () => setTool("brush"), e: () => setTool("eraser"), m: () => setTool("hand"),
  "[": () => setSize(tools.size / 1.2), "]": () => setSize(tools.size * 1.2),
  "+": clicks["zoom-in"], "=": clicks["zoom-in"], "-": clicks["zoom-out"], 0: clicks["zoom-fit"],
  c: () => hold(true),
};
const onPhoto = {
  ArrowLeft: () => view.nudge(-1, 0), ArrowRight: () => view.nudge(1, 0), ArrowUp: () => view.nudge(0, -1),
  ArrowDown: () => view.nudge(0, 1), Enter: () => view.togglePen(),
};

addEventListener("keydown", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    const isRedo = key === "y" || (key === "z" && event.shiftKey);
    if (!steps.length || (key !== "z" && key !== "y")) return;
    event.preventDefault();
    go(isRedo ? num + 1 : num - 1);
    return;
  }
  const isOnPhoto = document.activeElement === $("view") || document.activeElement === document.body;
  if (key === " " && isOnPhoto) {
    tools.isSpaceHeld = true;
    event.preventDefault();
  }
  const action = (document.activeElement === $("view") ? onPhoto[key] : undefined) ?? keys[key];
  if (!action || !steps.length || event.altKey || document.activeElement.tagName === "SELECT") return;
  event.preventDefault();
  action();
});
addEventListener("keyup", (event) => {
  if (event.key === " ") tools.isSpaceHeld = false;
  if (event.key.toLowerCase() === "c") hold(false);
});
addEventListener("blur", () => {
  tools.isSpaceHeld = false;
  hold(false);
});

$("compare").addEventListener("pointerdown", () => hold(true));
for (const type of ["pointerup", "pointercancel", "pointerleave"]) $("compare").addEventListener(type, () => hold(false));
$("compare").addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && hold(true));
for (const type of ["keyup", "blur"]) $("compare").addEventListener(type, () => hold(false));
$("compare").addEventListener("contextmenu", (event) => event.preventDefault());

$("panel").addEventListener("submit", (event) => event.preventDefault());
$("size").addEventListener("input", () => setSize(Number($("size").value)));
$("split").addEventListener("input", () => setSplit($("split").value / 100));
for (const input of document.querySelectorAll("[name=tool]")) input.addEventListener("change", () => setTool(input.value));
for (const [id, open] of [["photo-file", (files) => openPhotos(files)], ["mask-file", ([file]) => file && openMask(file)]]) {
  $(id).addEventListener("change", (event) => {
    open([...event.target.files]);
    event.target.value = ""; // so that the same file can be given again
  });
}
addEventListener("paste", (event) => openPhotos([...event.clipboardData.files]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("stage").classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget || $("stage").classList.remove("over"));
addEventListener("drop", (event) => dropped(event).catch((error) => tell(`What was dropped cannot be read: ${error.message}`)));
addEventListener("beforeunload", (event) => steps.length > 1 && event.preventDefault());

setTool("brush");
setSize(tools.size);
try {
  can = await about();
  $("strategy").append(...can.strategies.map((value) => new Option(value, value)));
  $("strategy-row").hidden = can.strategies.length < 2;
  $("fidelity-row").hidden = !can.has_fidelity;
  $("detail-row").hidden = !can.has_detail;
  $("how").hidden = !can.has_fidelity && !can.has_detail && can.strategies.length < 2;
  $("about").textContent = `Model: ${can.model}${can.size_px ? `, trained at ${can.size_px} px` : ""}. ${can.notes}`;
} catch (error) {
  tell(error.message);
}
document.body.dataset.ready = can !== null;
