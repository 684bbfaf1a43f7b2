// Keeps the parts of a page that are marked `data-live` up to date: asks for the page again and puts the parts in place.
// What somebody is typing in, or has the keyboard on, is left alone.
"use strict";
const live = document.querySelector("[data-live]");
if (live) {
  const seconds = Number(live.dataset.live) || 3;
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(part.id);
        if (fresh && !part.contains(document.activeElement)) part.replaceChildren(...fresh.childNodes);
      }
    } catch {
      // The server is away for the moment; the next turn asks again.
    }
  }, seconds * 1000);
}
