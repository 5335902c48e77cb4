// The pages work without this. With it, times are in the viewer's zone, tables need no scrolling on a phone, and an
// overview that is left open stays true, without keeping its session alive.
"use strict";

function localTimes(root) {
  const form = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
    const utc = time.textContent;
    time.textContent = form.format(new Date(time.dateTime));
    time.title = utc;
  }
}

// On a narrow screen each row is a block in which a cell says what its column is (console.css). What is laid out so is no
// table to browsers any more, so its roles are said.
function labelCells(root) {
  for (const table of root.querySelectorAll(".scroll > table")) {
    const heads = table.tHead ? [...table.tHead.rows[0].cells].map((head) => head.textContent) : [];
    if (heads.length < 3) continue;
    const roles = { THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };
    for (const part of table.querySelectorAll("thead, tbody, tr, td")) part.setAttribute("role", roles[part.tagName]);
    for (const head of table.querySelectorAll("th")) {
      head.setAttribute("role", head.scope === "row" ? "rowheader" : "columnheader");
    }
    for (const row of table.tBodies[0].rows) [...row.cells].forEach((cell, at) => (cell.dataset.label = heads[at] || ""));
    table.setAttribute("role", "table");
    table.classList.add("blocks");
  }
}

function finish(root) {
  localTimes(root);
  labelCells(root);
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
    finish(fresh);
    part.replaceChildren(...fresh.childNodes);
  }
}

finish(document);
// What the server is still reading is there in a moment.
if (document.querySelector("[data-soon]")) setTimeout(() => refresh().catch(() => undefined), 1500);
setInterval(() => refresh().catch(() => undefined), 10000);
