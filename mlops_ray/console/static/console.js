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

async function refresh(part) {
  if (document.hidden || part.contains(document.activeElement)) return;
  const answer = await fetch(location.href, { headers: { "x-console-refresh": "1" } });
  if (!answer.ok || answer.redirected) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.querySelector("[data-refresh]");
  if (!fresh) return;
  localTimes(fresh);
  part.replaceChildren(...fresh.childNodes);
}

localTimes(document);
for (const part of document.querySelectorAll("[data-refresh]")) {
  setInterval(() => refresh(part).catch(() => undefined), 15000);
}
