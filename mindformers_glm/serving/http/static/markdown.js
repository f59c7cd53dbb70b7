// Markdown to elements. Everything goes in as text nodes: no HTML of an answer is ever parsed.
import { word } from "./words.js";

const element = (name, ...children) => {
  const made = document.createElement(name);
  made.append(...children);
  return made;
};

export function markdown(text) {
  return blocks(text.replaceAll("\r\n", "\n").split("\n"), 0);
}

function blocks(lines, depth) {
  const out = document.createDocumentFragment();
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = /^\s*(`{3,}|~{3,})\s*([^\s`]*)/.exec(line);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      const code = [];
      at += 1;
      while (at < lines.length && !lines[at].trim().startsWith(fence[1])) code.push(lines[at++]);
      at += 1;
      out.append(codeBlock(code.join("\n")));
    } else if (/^#{1,6}\s/.test(line)) {
      const level = /^#+/.exec(line)[0].length;
      out.append(element(`h${Math.min(level + 1, 6)}`, inline(line.replace(/^#+\s+/, ""))));
      at += 1;
    } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
      out.append(element("hr"));
      at += 1;
    } else if (/^\s*>/.test(line) && depth < 6) {
      const inside = [];
      while (at < lines.length && /^\s*>/.test(lines[at])) inside.push(lines[at++].replace(/^\s*> ?/, ""));
      out.append(element("blockquote", blocks(inside, depth + 1)));
    } else if (bullet(line) && depth < 6) {
      at = list(lines, at, out, depth);
    } else if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
      at = table(lines, at, out);
    } else {
      const said = [];
      while (at < lines.length && lines[at].trim() && !/^\s*(`{3,}|~{3,}|#{1,6}\s|>)/.test(lines[at]) && !(said.length && bullet(lines[at]))) {
        said.push(lines[at++]);
      }
      if (!said.length) said.push(lines[at++]);
      out.append(paragraph(said));
    }
  }
  return out;
}

function paragraph(lines) {
  const made = element("p");
  lines.forEach((line, place) => {
    if (place) made.append(element("br"));
    made.append(inline(line));
  });
  return made;
}

const bullet = (line) => /^(\s*)([-*+]|\d{1,9}[.)、])\s+/.exec(line);

function list(lines, begin, out, depth) {
  const first = bullet(lines[begin]);
  const ordered = /\d/.test(first[2]);
  const made = element(ordered ? "ol" : "ul");
  if (ordered) made.start = parseInt(first[2], 10);
  let at = begin;
  while (at < lines.length) {
    const mark = bullet(lines[at]);
    if (!mark || mark[1].length !== first[1].length || /\d/.test(mark[2]) !== ordered) break;
    const inside = [lines[at++].slice(mark[0].length)];
    while (at < lines.length && (/^\s/.test(lines[at]) || !lines[at].trim()) ) {
      if (!lines[at].trim() && !/^\s+\S/.test(lines[at + 1] ?? "")) break;
      if (bullet(lines[at]) && /^\s*/.exec(lines[at])[0].length <= first[1].length) break;
      inside.push(lines[at++].replace(new RegExp(`^\\s{0,${mark[0].length}}`), ""));
    }
    const content = blocks(inside, depth + 1);
    const only = content.childNodes.length === 1 && content.firstChild.nodeName === "P";
    made.append(only ? element("li", ...content.firstChild.childNodes) : element("li", content));
    while (at + 1 < lines.length && !lines[at].trim() && bullet(lines[at + 1])) at += 1;
  }
  out.append(made);
  return at;
}

function table(lines, begin, out) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const head = element("tr", ...cells(lines[begin]).map((cell) => element("th", inline(cell))));
  const body = element("tbody");
  let at = begin + 2;
  while (at < lines.length && lines[at].includes("|")) {
    body.append(element("tr", ...cells(lines[at++]).map((cell) => element("td", inline(cell)))));
  }
  out.append(element("table", element("thead", head), body));
  return at;
}

function codeBlock(code) {
  const copy = element("button", word("copy"));
  copy.type = "button";
  copy.className = "copy";
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code);
    copy.textContent = word("copied");
  });
  return element("pre", copy, element("code", code));
}

const SPANS = /(`+)([^`]+?)\1|\*\*(\S(?:[^*]*?\S)?)\*\*|~~([^~]+)~~|\*(\S(?:[^*\n]*?\S)?)\*|\[([^\]\n]+)\]\((\S+?)\)|(https?:\/\/[^\s<>()"'，。；、）】]+)/g;

function inline(text) {
  const out = document.createDocumentFragment();
  let at = 0;
  for (const found of text.matchAll(SPANS)) {
    if (found.index > at) out.append(text.slice(at, found.index));
    const [whole, , code, strong, struck, weak, label, target, bare] = found;
    if (code !== undefined) out.append(element("code", code.trim() || code));
    else if (strong !== undefined) out.append(element("strong", inline(strong)));
    else if (struck !== undefined) out.append(element("del", inline(struck)));
    else if (weak !== undefined) out.append(element("em", inline(weak)));
    else if (bare !== undefined) out.append(link(bare, bare, whole));
    else out.append(link(target, label, whole));
    at = found.index + whole.length;
  }
  out.append(text.slice(at));
  return out;
}

// A link to the web or to mail; anything else, such as javascript:, stays the text that it is.
function link(target, label, whole) {
  let address;
  try {
    address = new URL(target);
  } catch {
    return whole;
  }
  if (!["http:", "https:", "mailto:"].includes(address.protocol)) return whole;
  const made = element("a", label);
  made.href = address.href;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return made;
}
