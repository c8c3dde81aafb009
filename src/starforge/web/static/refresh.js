// Fetches the page's living part again and again. The page works without this: it then reloads as a whole.
"use strict";

const now = document.getElementById("now");
const lost = document.getElementById("lost");
const every_ms = Number(now.dataset.everyS) * 1000;

function selecting() {
  const selection = document.getSelection();
  return selection !== null && !selection.isCollapsed && now.contains(selection.anchorNode);
}

async function refresh() {
  if (document.hidden || selecting()) return;
  try {
    const answer = await fetch(now.dataset.source, { signal: AbortSignal.timeout(5000) });
    // 503 is an answer too: it says that the database does not answer.
    if (!answer.ok && answer.status !== 503) throw new Error(String(answer.status));
    const html = await answer.text();
    if (!selecting()) now.innerHTML = html;
    lost.hidden = true;
  } catch {
    lost.hidden = false;
  }
}

async function forever() {
  for (;;) {
    await new Promise((wake) => setTimeout(wake, every_ms));
    await refresh();
  }
}

document.addEventListener("visibilitychange", refresh);
forever();
