// The server that this page came from, through the typed client.

import { Stent } from "../shared/stent-client.js";

/** Below the page's own address, whatever a proxy put before it. */
const url = new URL(".", document.baseURI).href;

const connect = (key) => new Stent({
  url,
  key: key ?? undefined,
  fetch: (asked, options) => fetch(asked, { ...options, cache: "no-store" }),
});

let kept = null;
try {
  kept = sessionStorage.getItem("stent.key");
} catch {
  // Storage may be switched off.
}

export let stent = connect(kept);

/** The key for servers that ask for one; kept until the tab is closed. */
export function useKey(value) {
  stent = connect(value);
  try {
    sessionStorage.setItem("stent.key", value);
  } catch {
    // Then until the page is left.
  }
}
