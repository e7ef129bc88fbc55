// Fills beside the page, so that it never stands still: onnxruntime-web on one thread, which every static host allows.

import { fillCrops } from "./crops.js";
import * as ort from "./ort.wasm.bundle.min.mjs";

let session = null;

async function started({ wasm, model }) {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"], logSeverityLevel: 3 });
}

// The filled RGB of bytes; known pixels are the image's own.
async function network({ image, mask, width, height }) {
  const { filled } = await session.run({
    image: new ort.Tensor("uint8", image, [1, height, width, 3]),
    mask: new ort.Tensor("uint8", mask, [1, height, width]),
  });
  return filled.data;
}

async function filled({ pixels, hole, width, height, isCropped, ...how }) {
  let num = 0;
  const onWindow = () => postMessage({ state: `Filling, part ${++num}` });
  if (isCropped) await fillCrops({ pixels, hole, width, height, network, onWindow, ...how });
  else await fillWhole(pixels, hole, width, height);
  return pixels;
}

async function fillWhole(pixels, hole, width, height) {
  const image = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < pixels.length; from += 4, to += 3) image.set(pixels.subarray(from, from + 3), to);
  const output = await network({ image, mask: hole, width, height });
  hole.forEach((isHole, at) => isHole && pixels.set([...output.subarray(3 * at, 3 * at + 3), 255], 4 * at));
}

onmessage = async ({ data }) => {
  try {
    if (data.model) {
      await started(data);
      postMessage({ isReady: true });
    } else {
      const pixels = await filled(data);
      postMessage({ pixels }, [pixels.buffer]);
    }
  } catch (error) {
    postMessage({ error: String(error.message ?? error) });
  }
};
