// Light, dark, or as the system says, which is where everybody begins.

import { glyph } from "./dom.js";

const KEY = "stent.theme";
const SUN = "M12 4V2m0 20v-2m8-8h2M2 12h2m13.7-5.7 1.4-1.4M4.9 19.1l1.4-1.4m0-11.4L4.9 4.9m14.2 14.2-1.4-1.4M16 12a4 4 0 1 1-8 0 4 4 0 0 1 8 0Z";
const MOON = "M20 14.5A8 8 0 0 1 9.5 4 8 8 0 1 0 20 14.5Z";

const system = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function apply(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

/** Makes the button switch between light and dark. */
export function themeButton(button) {
  const show = () => {
    button.replaceChildren(glyph(isDark() ? SUN : MOON));
    button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
    button.title = button.getAttribute("aria-label");
  };
  button.addEventListener("click", () => {
    const wanted = isDark() ? "light" : "dark";
    // What the system says anyway is not a choice: it may change.
    const follows = wanted === (system.matches ? "dark" : "light");
    try {
      if (follows) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, wanted);
    } catch {
      // Without storage it holds until the page is left.
    }
    apply(follows ? null : wanted);
    show();
  });
  system.addEventListener("change", show);
  apply(chosen());
  show();
}
