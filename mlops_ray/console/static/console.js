// The pages work without this. With it, times are in the viewer's zone, and an overview that is left open stays true,
// without keeping its session alive.
"use strict";

function localTimes(root) {
  const form = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
    const utc = time.textContent;
    time.textContent = form.format(new Date(time.dateTime));
    time.title = utc;
  }
}

// The parts that change by themselves, from the same page asked again. A part in which somebody is stays as it is.
async function refresh() {
  const parts = document.querySelectorAll("[data-refresh]");
  if (document.hidden || !parts.length) return;
  const answer = await fetch(location.href, { headers: { "x-console-refresh": "1" } });
  if (!answer.ok || answer.redirected) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const fresh = page.querySelector(`[data-refresh="${part.dataset.refresh}"]`);
    if (!fresh || part.contains(document.activeElement) || part.querySelector("details[open]")) continue;
    localTimes(fresh);
    part.replaceChildren(...fresh.childNodes);
  }
}

localTimes(document);
// What the server is still reading is there in a moment.
if (document.querySelector("[data-soon]")) setTimeout(() => refresh().catch(() => undefined), 1500);
setInterval(() => refresh().catch(() => undefined), 10000);
