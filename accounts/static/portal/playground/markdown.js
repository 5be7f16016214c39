// A small part of Markdown as elements: what a bot says is never taken for markup of the page.
// Every pattern is bounded, so that no text makes it slow.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]{0,40})/;
const HEADING = /^#{1,6}\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
const RULE = /^\s*(?:-{3,}|\*{3,}|_{3,})\s*$/;
const QUOTE = /^\s*>\s?/;
const IN_ADDRESS = "[^\\s<>()\\[\\]\"'`*，。；：！？、（）【】「」]";
const INLINE = new RegExp(
  [
    "`(?<code>[^`\\n]{1,2000})`",
    "(?<mark>!?)\\[(?<label>[^\\[\\]\\n]{0,500})\\]\\((?<address>[^\\s()]{1,2000}(?:\\([^\\s()]{0,200}\\)[^\\s()]{0,500})?)\\)",
    "\\*\\*(?<bold>[^\\n]{1,1000}?)\\*\\*",
    "(?<![\\w*])\\*(?<slanted>[^\\s*][^*\\n]{0,500})\\*(?![\\w*])",
    // Without the sentence's own full stop.
    `(?<bare>https?://${IN_ADDRESS}{0,2000}(?![.,;:!?])${IN_ADDRESS})`,
  ].join("|"),
  "g",
);

// Draws a text that grows: what has not changed since the last time stays as it is, with what a reader has selected.
export class Drawing {
  #element;
  #drawn = [];

  constructor(element) {
    this.#element = element;
  }

  show(text) {
    const blocks = blocksOf(text);
    let same = 0;
    while (same < blocks.length && blocks[same] === this.#drawn[same]) same += 1;
    while (this.#element.childNodes.length > same) this.#element.lastChild.remove();
    this.#element.append(...blocks.slice(same).map(block));
    this.#drawn = blocks;
  }
}

function blocksOf(text) {
  const found = [];
  let lines = [];
  let fence = "";
  const end = () => {
    if (lines.length) found.push(lines.join("\n"));
    lines = [];
  };
  for (const line of text.split("\n")) {
    if (fence) {
      lines.push(line);
      if (line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "")) {
        fence = "";
        end();
      }
      continue;
    }
    const opened = FENCE.exec(line);
    const isAlone = HEADING.test(line) || RULE.test(line);
    const isNew = lines.length > 0 && kind(line) !== kind(lines[0]) && kind(line) !== "text";
    if (opened || isAlone || isNew || !line.trim()) end();
    if (opened) fence = opened[1];
    if (line.trim()) lines.push(line);
    if (isAlone) end();
  }
  end();
  return found;
}

function kind(line) {
  if (ITEM.test(line)) return "item";
  return QUOTE.test(line) ? "quote" : "text";
}

function block(source) {
  const lines = source.split("\n");
  const opened = FENCE.exec(lines[0]);
  if (opened) return code(lines, opened[1]);
  const heading = HEADING.exec(source);
  if (heading) return element("p", { className: "heading" }, inline(heading[1]));
  if (RULE.test(source)) return element("hr");
  if (kind(lines[0]) === "item") return list(lines);
  if (kind(lines[0]) === "quote") {
    const inner = lines.map((line) => line.replace(QUOTE, "")).join("\n");
    return element("blockquote", {}, [element("p", { dir: "auto" }, inline(inner))]);
  }
  return element("p", { dir: "auto" }, inline(source));
}

function code(lines, fence) {
  const isClosed = lines.length > 1 && lines.at(-1).trim().startsWith(fence);
  const text = lines.slice(1, isClosed ? -1 : undefined).join("\n");
  // It may be wider than the page: to be scrolled by keyboard too.
  return element("pre", { dir: "ltr", tabIndex: 0 }, [element("code", { textContent: text })]);
}

function list(lines) {
  const open = [];
  let outermost = null;
  for (const line of lines) {
    const [, indent, bullet, number, text] = ITEM.exec(line) ?? [];
    if (text === undefined) {
      open.at(-1).list.lastChild.append("\n", ...inline(line.trim()));
      continue;
    }
    while (open.length > 1 && indent.length <= open.at(-2).indent + 1) open.pop();
    if (open.length === 0 || (indent.length > open.at(-1).indent + 1 && open.length < 6)) {
      const made = element(bullet ? "ul" : "ol", bullet ? {} : { start: Number(number) });
      if (open.length) open.at(-1).list.lastChild.append(made);
      outermost ??= made;
      open.push({ list: made, indent: indent.length });
    }
    open.at(-1).list.append(element("li", { dir: "auto" }, inline(text)));
  }
  return outermost;
}

function inline(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(end, match.index), piece(match));
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

function piece(match) {
  const { code, mark, label, address, bold, slanted, bare } = match.groups;
  if (code !== undefined) return element("code", { textContent: code });
  if (bold !== undefined) return element("strong", {}, inline(bold));
  if (slanted !== undefined) return element("em", {}, inline(slanted));
  if (bare !== undefined) return link(bare, bare) ?? bare;
  if (mark) return picture(label, address) ?? link(label || address, address) ?? match[0];
  return link(label || address, address) ?? match[0];
}

function link(text, address) {
  const url = webAddress(address);
  if (url === null) return null;
  return element("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", textContent: text });
}

function picture(label, address) {
  const url = webAddress(address);
  if (url?.protocol !== "https:") return null;
  return element("img", { alt: label, referrerPolicy: "no-referrer", loading: "lazy", src: url.href });
}

function webAddress(address) {
  const url = URL.canParse(address) ? new URL(address) : null;
  return url !== null && /^https?:$/.test(url.protocol) ? url : null;
}

export function element(name, properties = {}, children = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
