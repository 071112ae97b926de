// Keeps an open page current: when the daemon says that something changed, the page is read again and the parts that
// differ are replaced. Without JavaScript a page is as it was when it was loaded.
"use strict";

const status = document.getElementById("live");
const main = document.querySelector("main[data-live]");
let reading = false;
let again = false;

async function refresh() {
  if (reading) {
    again = true;
    return;
  }
  reading = true;
  try {
    const response = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (response.redirected) {
      location.reload();
      return;
    }
    if (!response.ok) {
      say("not current: the daemon is busy", false);
      return;
    }
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of main.querySelectorAll("[data-part]")) {
      const fresh = page.querySelector(`[data-part="${part.dataset.part}"]`);
      if (fresh && fresh.innerHTML !== part.innerHTML && !part.contains(document.activeElement)) {
        const open = [...part.querySelectorAll("details")].map((one) => one.open);
        part.innerHTML = fresh.innerHTML;
        part.querySelectorAll("details").forEach((one, i) => { one.open = open[i] === true; });
      }
    }
    say("live", true);
  } catch {
    say("not current: the daemon is away", false);
  } finally {
    reading = false;
    if (again) {
      again = false;
      refresh();
    }
  }
}

function say(text, fine) {
  status.hidden = false;
  status.className = fine ? "fine" : "away";
  if (status.textContent !== text) {
    status.textContent = text;
  }
}

if (main && status && window.EventSource) {
  const source = new EventSource("/live");
  let lost = false;
  source.addEventListener("changed", refresh);
  source.addEventListener("open", () => {
    say("live", true);
    if (lost) {
      lost = false;
      refresh();
    }
  });
  source.addEventListener("error", () => {
    lost = true;
    say("not current: the daemon is away", false);
    if (source.readyState === EventSource.CLOSED) {
      setTimeout(() => location.reload(), 5000);
    }
  });
}

for (const form of document.querySelectorAll("form[data-submits-itself]")) {
  form.addEventListener("change", () => form.requestSubmit());
}
