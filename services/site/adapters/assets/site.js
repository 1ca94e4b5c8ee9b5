// Every page works without scripts. What makes one nicer begins here.

// The fleet, live: one stream a page, none in a hidden tab. The focus stays on the same link.
const live = document.querySelector("[data-live]");
if (live && "EventSource" in window) {
  const state = document.querySelector("[data-live-state]");
  let source = null;
  const close = (words) => {
    if (source) source.close();
    source = null;
    state.textContent = words;
  };
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(live.dataset.live);
    source.addEventListener("fleet", (event) => {
      const focused = live.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      live.innerHTML = event.data;
      if (focused) live.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
      state.textContent = "Live.";
    });
    source.addEventListener("error", () => {
      state.textContent = "Not live: the connection was lost.";
      if (source && source.readyState === EventSource.CLOSED) source = null;
    });
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close("Paused.") : open()));
  window.addEventListener("pagehide", () => close("Paused."));
  open();
}
