// Keeps the page's files for when there is no network. What the server has is newer, and is taken where it answers.

const KEPT = "inpaint";

addEventListener("install", (event) => {
  event.waitUntil(Promise.all([fetch("about.json").then((reply) => reply.json()), caches.open(KEPT)])
    .then(([{ files }, kept]) => kept.addAll(["./", ...files])));
  skipWaiting();
});
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || new URL(event.request.url).origin !== location.origin) return;
  event.respondWith(newest(event.request));
});

async function newest(request) {
  const kept = await caches.open(KEPT);
  try {
    const reply = await fetch(request);
    if (reply.ok) await kept.put(request, reply.clone());
    return reply;
  } catch (error) {
    const old = await kept.match(request, { ignoreSearch: true });
    if (old) return old;
    throw error;
  }
}
