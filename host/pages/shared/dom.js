// Elements without markup: no text can ever become a tag here.

/** `el("p", { class: "x", onclick: f }, "text", child)`; what is null or false is left out. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "hidden" || name === "disabled") node[name] = Boolean(value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** A line drawing; `path` as in SVG's `d`, on 24 x 24. It says nothing to a screen reader. */
export function glyph(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "glyph");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Changes a text only where it differs, so that selection and screen readers are left in peace. */
export function say(node, text) {
  const wanted = String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** Sets attributes only where they differ. */
export function mark(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) node.removeAttribute(name);
    else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
  }
}

/** Gives a list these children in this order. What stays is not touched, so that it keeps the focus. */
export function arrange(list, nodes) {
  const focused = document.activeElement;
  const wanted = new Set(nodes);
  for (const child of [...list.children]) if (!wanted.has(child)) child.remove();
  nodes.forEach((node, at) => {
    if (list.children[at] !== node) list.insertBefore(node, list.children[at] ?? null);
  });
  // Where it had to be moved, it lost it.
  if (focused !== document.activeElement && list.contains(focused)) focused.focus({ preventScroll: true });
}

/** What a header can carry: keys and tokens hold nothing else. */
const SIGNS = { pattern: "[ -~]+", title: "Letters without accents, digits and signs" };

/** Asks in a dialog; resolves to true, or to the text of its field where it has one. */
export function ask({ title, text, yes, danger = false, field = null }) {
  const input = field && el("input", { type: field.type ?? "text", "aria-label": field.label,
    autocomplete: "off", required: true, ...(field.type === "password" ? SIGNS : {}) });
  const dialog = el("dialog", { "aria-labelledby": "ask-title" },
    el("h2", { id: "ask-title" }, title),
    el("p", {}, text),
    el("form", { method: "dialog" }, input,
      el("div", { class: "choices" },
        el("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        el("button", { class: danger ? "danger" : "primary", value: "yes" }, yes))));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      const agreed = dialog.returnValue === "yes";
      resolve(agreed && input ? input.value.trim() : agreed);
    });
  });
}

/** Where a trace is looked at, or null where no viewer is configured. */
export function traceUrl(id) {
  const template = document.querySelector('meta[name="stent-trace-url"]')?.content;
  return template ? template.replaceAll("{trace_id}", encodeURIComponent(id)) : null;
}

export const COPY = "M9 9V5a1 1 0 0 1 1-1h9a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1h-4M5 9h9a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1Z";

/** The trace as a link, or as an id to copy. */
export function traceLink(id) {
  const url = traceUrl(id);
  if (url) {
    return el("a", { href: url, target: "_blank", rel: "noreferrer", title: `trace ${id}` }, "trace");
  }
  const short = `trace ${id.slice(0, 8)}`;
  const words = el("span", {}, short);
  const tell = (text) => say(document.getElementById("told"), text);
  return el("button", { type: "button", class: "trace", title: `Copy the trace's id ${id}`,
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(id);
        say(words, "trace id copied");
        tell("The trace's id was copied.");
        setTimeout(() => say(words, short), 2000);
      } catch {
        // Pages that did not come over a safe connection may not copy: it can be read.
        say(words, `trace ${id}`);
        tell(`This page may not copy. The trace's id is ${id}`);
      }
    } }, glyph(COPY), words);
}
