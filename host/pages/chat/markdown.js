// Markdown to elements. What a model writes is not trusted: DOMPurify takes out whatever could run,
// load or lead away unasked, and the page's policy (CSP, Trusted Types) lets nothing else make markup.

import DOMPurify from "../vendor/purify.es.js";
import { Marked } from "../vendor/marked.esm.js";

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escape = (text) => text.replace(/[&<>"]/g, (c) => ESCAPES[c]);

/** Markup that a model writes is shown as it was written; pictures are, at best, their description. */
const marked = new Marked({ gfm: true, breaks: true, renderer: {
  html: ({ text }) => escape(text),
  image: ({ text }) => escape(text),
} });

const ALLOWED = {
  ALLOWED_TAGS: ["p", "br", "hr", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li",
    "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a"],
  ALLOWED_ATTR: ["href", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  RETURN_DOM_FRAGMENT: true,
};

/** A fragment that may be shown. */
export function render(text) {
  const safe = DOMPurify.sanitize(marked.parse(text), ALLOWED);
  for (const link of safe.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noreferrer noopener nofollow";
  }
  // Headings of an answer stand below those of the page.
  for (const heading of safe.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const lower = document.createElement("h3");
    lower.append(...heading.childNodes);
    heading.replaceWith(lower);
  }
  for (const wide of safe.querySelectorAll("pre, table")) wide.tabIndex = 0;
  return safe;
}
