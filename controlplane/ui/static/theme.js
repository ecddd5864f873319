// Before the first paint: the theme that was chosen here; without one the system's.
(() => {
  "use strict";
  let chosen = "";
  try { chosen = localStorage.getItem("controlplane.theme") || ""; } catch { /* a browser that keeps nothing */ }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
