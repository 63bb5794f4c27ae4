// Swaps what has changed of the page that the server rendered. Without this script the page is as it was when it was
// loaded. Nothing here knows what a release is.
"use strict";
{
  const main = document.getElementById("main");
  const stages = document.getElementById("stages");
  const lost = document.getElementById("lost");
  const lostSince = document.getElementById("lost-since");
  let version = document.body.dataset.version;
  let stream, again;

  // become makes a node like another one, and touches only what differs: focus, selection and what somebody has opened stay.
  function become(now, next) {
    if (now.nodeType !== Node.ELEMENT_NODE) {
      if (now.data !== next.data) now.data = next.data;
      return;
    }
    for (const { name } of [...now.attributes]) {
      if (name !== "open" && !next.hasAttribute(name)) now.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (now.getAttribute(name) !== value) now.setAttribute(name, value);
    }
    becomeChildren(now, next);
  }

  // likeFrom is the first of a node and those after it that may become another one.
  function likeFrom(at, wanted) {
    while (at && (at.id || at.nodeName !== wanted.nodeName)) at = at.nextSibling;
    return at;
  }

  function becomeChildren(now, next) {
    const kept = new Map([...next.children].map((child) => [child.id, child.nodeName]));
    const known = new Map();
    for (const child of [...now.children]) {
      if (!child.id) continue;
      if (kept.get(child.id) === child.nodeName) known.set(child.id, child);
      else child.remove();
    }
    let at = now.firstChild;
    for (const wanted of [...next.childNodes]) {
      const same = wanted.id ? known.get(wanted.id) : likeFrom(at, wanted);
      if (!same) {
        now.insertBefore(wanted, at);
        continue;
      }
      if (same === at) at = at.nextSibling;
      else now.insertBefore(same, at);
      become(same, wanted);
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  function announcements() {
    return new Map([...main.querySelectorAll("[data-announce]")].map((e) => [e.id, e.dataset.announce]));
  }

  function show({ title, main: text }) {
    const before = announcements();
    const focused = main.contains(document.activeElement) ? document.activeElement : null;
    const next = document.createElement("template");
    next.innerHTML = text;
    becomeChildren(main, next.content);
    document.title = title;
    if (focused && !focused.isConnected && focused.href) {
      [...main.querySelectorAll("a")].find((a) => a.href === focused.href)?.focus({ preventScroll: true });
    }
    const news = [...announcements()].filter(([id, text]) => before.get(id) !== text).map(([, text]) => text);
    if (news.length > 0) {
      stages.textContent = news.slice(0, 3).join("; ") + (news.length > 3 ? `; and ${news.length - 3} more` : "");
    }
  }

  function listen() {
    clearTimeout(again);
    stream?.close();
    stream = new EventSource(document.body.dataset.events + "?version=" + version);
    stream.onopen = () => { lost.hidden = true; };
    stream.addEventListener("page", (event) => {
      show(JSON.parse(event.data));
      version = event.lastEventId;
    });
    stream.onerror = () => {
      if (lost.hidden) {
        const now = new Date();
        lostSince.dateTime = now.toISOString();
        lostSince.textContent = now.toISOString().slice(0, 19).replace("T", " ") + " (UTC)";
        lost.hidden = false;
      }
      if (stream.readyState === EventSource.CLOSED) again = setTimeout(listen, 5000);
    };
  }

  // A browser opens few connections to one server: pages that nobody sees give theirs back.
  function follow() {
    if (document.visibilityState === "visible") {
      listen();
    } else {
      clearTimeout(again);
      stream?.close();
    }
  }
  document.addEventListener("visibilitychange", follow);
  addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
  follow();
}
