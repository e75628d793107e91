const slides = [...document.querySelectorAll(".slide")], root = document.documentElement;
let now = 0;
function show(k) {
  now = Math.max(0, Math.min(slides.length - 1, k));
  slides.forEach((slide, i) => slide.classList.toggle("now", i === now));
  try { history.replaceState(null, "", location.search + "#" + (now + 1)); } catch { /* a page that may not have one */ }
}
const keys = {
  ArrowRight: () => show(now + 1), ArrowDown: () => show(now + 1), PageDown: () => show(now + 1), " ": () => show(now + 1),
  ArrowLeft: () => show(now - 1), ArrowUp: () => show(now - 1), PageUp: () => show(now - 1),
  Home: () => show(0), End: () => show(slides.length - 1),
  n: () => root.classList.toggle("with-notes"),
  f: () => document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen(),
};
root.classList.add("js");
if (new URLSearchParams(location.search).has("notes")) root.classList.add("with-notes");
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !(event.key in keys)) return;
  if (event.key === " " && event.target.tagName === "BUTTON") return;
  event.preventDefault();
  keys[event.key]();
});
addEventListener("hashchange", () => show(parseInt(location.hash.slice(1)) - 1 || 0));
document.getElementById("back").addEventListener("click", () => show(now - 1));
document.getElementById("on").addEventListener("click", () => show(now + 1));
show(parseInt(location.hash.slice(1)) - 1 || 0);
