// What fills: the server that this page is from, with all that `inpaint fill` can do.

const LOOKED_EVERY_MS = 500;

async function asked(path, options) {
  const reply = await fetch(path, { cache: "no-store", ...options }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The server does not answer. Is inpaint demo still running?");
  });
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => ({ error: `the server answered ${reply.status}` }));
  throw new Error(said.error);
}

// {model, size_px, has_fidelity, has_detail, strategies, max_bytes, max_megapixels, notes}
export async function about() {
  const said = await (await asked("api/about")).json();
  return { ...said, has_detail: true, notes: "Fills are made by the server of this page, on your own machine; nothing else is asked for anything." };
}

// The filled photo as {blob (PNG), warning}. photo is a file, mask a Mask, how {strategy, fidelity, detail}; onState is
// called with what is being waited for.
export async function fill({ photo, mask, how, signal, onState }) {
  onState("Sending");
  const job = [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const query = new URLSearchParams({ job, photo_bytes: photo.size, ...how });
  const looking = setInterval(() => look(job, onState), LOOKED_EVERY_MS);
  try {
    const reply = await asked(`api/fill?${query}`, { method: "POST", body: new Blob([photo, await mask.toPng()]), signal });
    return { blob: await reply.blob(), warning: decodeURIComponent(reply.headers.get("X-Inpaint-Warning") ?? "") };
  } finally {
    clearInterval(looking);
  }
}

async function look(job, onState) {
  // What goes wrong here is told by the request that waits for the fill.
  const queue = await asked(`api/queue?job=${job}`).then((reply) => reply.json(), () => null);
  if (queue?.before === 0) onState(queue.length > 1 ? `Filling; ${queue.length - 1} more in the queue` : "Filling");
  else if (queue?.before > 0) onState(`In the queue: ${queue.before} of ${queue.length} before you`);
}
