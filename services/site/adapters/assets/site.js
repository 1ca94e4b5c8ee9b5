// Every page works without scripts. What makes one nicer begins here.

// The fleet, live: one stream a page, none in a hidden tab. Focus and scrolling stay where they are.
const live = document.querySelector("[data-live]");
if (live && "EventSource" in window) {
  const state = document.querySelector("[data-live-state]");
  const SILENT_MS = 45000; // the site sends the board every 15 s at least
  const RETRY_MS = [1000, 60000]; // the first pause, and the longest
  let source = null, timer = 0, pause = RETRY_MS[0];

  const close = (words) => {
    clearTimeout(timer);
    source?.close();
    source = null;
    state.textContent = words;
  };
  const lose = () => {
    close("Not live: the connection was lost, and what is shown is of the time below.");
    timer = setTimeout(open, pause);
    pause = Math.min(2 * pause, RETRY_MS[1]);
  };
  const show = (html) => {
    const focused = live.contains(document.activeElement) ? document.activeElement : null;
    const link = focused?.getAttribute("href"), left = live.querySelector(".wide")?.scrollLeft;
    live.innerHTML = html;
    const table = live.querySelector(".wide");
    if (table) table.scrollLeft = left ?? 0;
    const again = link ? live.querySelector(`a[href="${CSS.escape(link)}"]`) : focused && table;
    again?.focus({ preventScroll: true });
  };
  const watch = () => {
    clearTimeout(timer);
    timer = setTimeout(lose, SILENT_MS);
  };
  const open = () => {
    if (source || document.hidden) return;
    watch();
    source = new EventSource(live.dataset.live);
    source.addEventListener("fleet", (event) => {
      watch();
      pause = RETRY_MS[0];
      show(event.data);
      state.textContent = "Live.";
    });
    source.addEventListener("error", lose); // ours is the one that retries: a browser's own gives up on a 503
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close("Paused.") : open()));
  window.addEventListener("pagehide", () => close("Paused."));
  window.addEventListener("pageshow", open);
  open();
}
