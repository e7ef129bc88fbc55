// What fills, where there is no server: the network itself, in this browser. Nothing leaves it. All that is needed is
// fetched when the page is opened, and kept by service.js for when there is no network.

const MOST_BYTES = 2e9; // of the 4 GB that WebAssembly can have at all
const STRANDED = "The files of this page cannot be fetched. Is there a network? Then load the page again.";

let files = null; // {facts, model, wasm}
let worker = null; // a promise of one that is ready

async function fetched(name) {
  const reply = await fetch(name).catch(() => { throw new Error(STRANDED); });
  if (!reply.ok) throw new Error(`${name} is missing beside this page (${reply.status}): copy the whole folder to its server.`);
  return reply;
}

// {model, size_px, has_fidelity, has_detail, strategies, max_bytes, max_megapixels, notes} and what `fill` needs
export async function about() {
  if (typeof WebAssembly !== "object" || typeof Worker !== "function") {
    throw new Error("This browser cannot run the network: it has no WebAssembly, or it is turned off. Any current Chrome, Edge, Firefox or Safari has it.");
  }
  const [facts, model, wasm] = await Promise.all([
    fetched("about.json").then((reply) => reply.json()),
    fetched("model.onnx").then((reply) => reply.arrayBuffer()),
    fetched("ort-wasm-simd-threaded.wasm").then((reply) => reply.arrayBuffer()),
  ]);
  files = { facts, model, wasm };
  worker = newWorker();
  await worker;
  // Last, so that it need not fetch what the page has just fetched. Without one, opening the page needs its server.
  navigator.serviceWorker?.register("service.js").catch(() => {});
  return facts;
}

function newWorker() {
  const made = new Worker("worker.js", { type: "module" });
  const ready = answer(made).then(() => made);
  made.postMessage({ model: files.model, wasm: files.wasm });
  ready.catch(() => made.terminate());
  return ready;
}

// What a worker says next, but for how far it is; rejects what went wrong there.
function answer(from, onState = () => {}) {
  return new Promise((resolve, reject) => {
    from.onmessage = ({ data }) => {
      if (data.state) onState(data.state);
      else if (data.error) reject(new Error(`The network could not be run: ${data.error}`));
      else resolve(data);
    };
    from.onerror = (event) => reject(new Error(`The network could not be run: ${event.message ?? STRANDED}`));
  });
}

// The filled photo as {blob (PNG), warning}. image is what `photo` shows, mask a Mask, how {strategy}; onState is called
// with what is being waited for.
export async function fill({ image, mask, how, signal, onState }) {
  onState("Filling");
  const { width, height } = image, { size_px: size, multiple_px: multiple, bytes_per_px: each } = files.facts;
  const isCropped = how.strategy === "crop" || (how.strategy === "auto" && size !== null && Math.max(width, height) > size);
  if (!isCropped && width * height * each > MOST_BYTES) {
    throw new Error(`${width}x${height} pixels seen whole need about ${((width * height * each) / 1e9).toFixed(1)} GB, more than a browser gives: choose strategy crop, or a smaller photo.`);
  }
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(width - 1, height - 1, 1, 1); // a canvas that is too large stays empty, and nobody says so
  if (!context.getImageData(width - 1, height - 1, 1, 1).data[3]) {
    throw new Error(`This browser cannot hold ${width}x${height} pixels: use a smaller photo.`);
  }
  context.globalCompositeOperation = "copy";
  context.drawImage(image, 0, 0);
  const { data: pixels } = context.getImageData(0, 0, width, height), hole = mask.bytes();
  const stopped = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  try {
    const its = await Promise.race([(worker ??= newWorker()), stopped]);
    its.postMessage({ pixels, hole, width, height, isCropped, size, multiple }, [pixels.buffer, hole.buffer]);
    const filled = await Promise.race([answer(its, onState), stopped]);
    context.putImageData(new ImageData(filled.pixels, width, height), 0, 0);
  } catch (error) {
    worker?.then((its) => its.terminate(), () => {});
    worker = null; // in the middle of a photo it listens to nobody
    throw error;
  }
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error(`This browser could not write ${width}x${height} pixels: it has too little memory for so large a photo.`);
  return { blob, warning: "" };
}
