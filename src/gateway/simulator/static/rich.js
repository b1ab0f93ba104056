// Draws rich text and cards. Everything is put in through textContent; an address is followed only if it is of the web.
"use strict";

const INLINE = /(`[^`\n]+`)|\*\*([^\n]+?)\*\*|~~([^\n]+?)~~|(?<![\w*])\*([^*\n]+?)\*(?![\w*])|(!?)\[([^\]\n]*)\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)\)|(https?:\/\/[^\s<>"）】]+[^\s<>"）】.,;:!?)\]])|<at (?:id|user_id)=["']?([^"'\s>]+)["']?>([^<]*)<\/at>|<font [^>]*>([^<]*)<\/font>/g;

function node(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function link(address, words) {
  if (!/^https?:\/\//i.test(address)) return document.createTextNode(words || address);
  const made = node("a", "", words || address);
  made.href = address;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return made;
}

function inline(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, code, bold, struck, slanted, bang, words, target, address, who, name, coloured] = found;
    parts.push(text.slice(end, found.index));
    end = found.index + whole.length;
    if (code) parts.push(node("code", "", code.slice(1, -1)));
    else if (bold) parts.push(node("strong", "", ...inline(bold)));
    else if (struck) parts.push(node("s", "", ...inline(struck)));
    else if (slanted) parts.push(node("em", "", ...inline(slanted)));
    else if (target) parts.push(bang ? document.createTextNode("[" + (words || "picture") + "]") : link(target, words));
    else if (address) parts.push(link(address));
    else if (who) parts.push(node("span", "at", "@" + (name || (who === "all" ? "all" : who))));
    else if (coloured !== undefined) parts.push(...inline(coloured));
  }
  return [...parts, text.slice(end)].filter((part) => part !== "");
}

function plainText(text) {
  const pieces = text.split(/(https?:\/\/[^\s<>"）】]+[^\s<>"）】.,;:!?)\]])/);
  return pieces.filter(Boolean).map((piece) => /^https?:\/\//.test(piece) ? link(piece) : piece);
}

function cellsOf(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function tableOf(rows) {
  const [head, ...others] = rows;
  const body = others.map((row) => node("tr", "", ...row.map((cell) => node("td", "", ...inline(cell)))));
  const top = node("tr", "", ...head.map((cell) => node("th", "", ...inline(cell))));
  return node("div", "wide", node("table", "", node("thead", "", top), node("tbody", "", ...body)));
}

function markdown(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let at = 0;
  const taken = (pattern) => {
    const group = [];
    while (at < lines.length && pattern.test(lines[at])) group.push(lines[at++]);
    return group;
  };
  while (at < lines.length) {
    const line = lines[at];
    const fence = /^\s*(```+|~~~+)/.exec(line);
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    if (fence) {
      at += 1;
      const code = [];
      while (at < lines.length && !lines[at].trim().startsWith(fence[1])) code.push(lines[at++]);
      at += 1;
      blocks.push(node("pre", "", node("code", "", code.join("\n"))));
    } else if (heading) {
      at += 1;
      blocks.push(node("p", "heading", node("strong", "", ...inline(heading[2]))));
    } else if (/^\s*(?:---+|\*\*\*+|___+)\s*$/.test(line)) {
      at += 1;
      blocks.push(node("hr"));
    } else if (/^\s*>/.test(line)) {
      blocks.push(node("blockquote", "", ...markdown(taken(/^\s*>/).map((one) => one.replace(/^\s*> ?/, "")).join("\n"))));
    } else if (/^\s*[-*+]\s+/.test(line) || /^\s*\d+[.)]\s+/.test(line)) {
      const ordered = /^\s*\d/.test(line);
      const pattern = ordered ? /^\s*\d+[.)]\s+/ : /^\s*[-*+]\s+/;
      const items = taken(pattern).map((one) => node("li", "", ...inline(one.replace(pattern, ""))));
      const made = node(ordered ? "ol" : "ul", "", ...items);
      if (ordered) made.start = Number.parseInt(line, 10);
      blocks.push(made);
    } else if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1] || "")) {
      const head = cellsOf(line);
      at += 2;
      blocks.push(tableOf([head, ...taken(/\|/).map(cellsOf)]));
    } else if (line.trim() === "") {
      at += 1;
    } else {
      const words = [line];
      at += 1;
      while (at < lines.length && lines[at].trim() && !/^\s*(?:[-*+]\s|\d+[.)]\s|>|```|~~~|#{1,6}\s)/.test(lines[at])) words.push(lines[at++]);
      blocks.push(node("p", "", ...words.flatMap((one, place) => place ? [node("br"), ...inline(one)] : inline(one))));
    }
  }
  return blocks;
}

function picture(key, words) {
  if (!key) return node("span", "", "[picture]");
  const made = node("img");
  made.src = "/_sim/resources/" + encodeURIComponent(key);
  made.alt = words || "picture";
  return made;
}

function said(text) {
  if (!text) return [];
  if (typeof text === "string") return plainText(text);
  return text.tag === "plain_text" ? plainText(text.content || "") : markdown(text.content || "");
}

function button(part) {
  const made = node("button", "", ...said(part.text));
  made.type = "button";
  const behaviour = (part.behaviors || []).find((one) => one.type === "open_url") || {};
  const address = part.url || part.multi_url?.url || behaviour.default_url;
  if (address && /^https?:\/\//i.test(address)) return node("span", "action", link(address, made.textContent));
  made.disabled = true;
  made.title = "the simulated client presses no buttons";
  return node("span", "action", made);
}

function cardPart(part) {
  if (!part || typeof part !== "object") return [];
  switch (part.tag) {
    case "markdown": case "lark_md": return markdown(part.content || "");
    case "plain_text": return [node("p", "", ...plainText(part.content || ""))];
    case "div": return [...said(part.text), ...(part.fields || []).flatMap((field) => said(field.text))].map((one) => node("div", "", one));
    case "hr": return [node("hr")];
    case "img": return [picture(part.img_key, part.alt?.content)];
    case "button": return [button(part)];
    case "note": return [node("p", "note", ...(part.elements || []).flatMap(cardPart))];
    case "table": return [tableOf([(part.columns || []).map((one) => one.display_name || one.name || ""), ...(part.rows || []).map((row) => (part.columns || []).map((one) => String(row[one.name] ?? "")))])];
    case "text": return plainText(part.text || "");
    case "a": return [link(part.href || "", part.text)];
    case "at": return [node("span", "at", "@" + (part.user_name || part.user_id || ""))];
    default: return [...(part.elements || []), ...(part.actions || []), ...(part.columns || [])].flatMap(cardPart);
  }
}

function card(content) {
  const made = node("div", "card");
  const title = content.header?.title?.content || (typeof content.title === "string" ? content.title : "");
  if (title) made.append(node("p", "heading", node("strong", "", ...plainText(title))));
  const subtitle = content.header?.subtitle?.content;
  if (subtitle) made.append(node("p", "note", ...plainText(subtitle)));
  for (const part of content.body?.elements || content.elements || []) {
    made.append(...(Array.isArray(part) ? [node("p", "", ...part.flatMap(cardPart))] : cardPart(part)));
  }
  return made;
}

function postSpan(span) {
  switch (span.tag) {
    case "a": return [link(span.href || "", span.text)];
    case "at": return [node("span", "at", "@" + (span.user_name || (span.user_id === "all" ? "all" : span.user_id || "")))];
    case "img": return [picture(span.image_key)];
    case "md": return markdown(span.text || "");
    case "code_block": return [node("pre", "", node("code", "", span.text || ""))];
    case "hr": return [node("hr")];
    case "text": return styled(span);
    default: return span.text ? plainText(span.text) : [];
  }
}

function styled(span) {
  const tags = { bold: "strong", italic: "em", underline: "u", lineThrough: "s" };
  return (span.style || []).filter((one) => tags[one]).reduce((inner, one) => [node(tags[one], "", ...inner)], plainText(span.text || ""));
}

function post(content) {
  const body = Array.isArray(content.content) ? content : Object.values(content).find((one) => Array.isArray(one?.content)) || { content: [] };
  const made = node("div", "post");
  if (body.title) made.append(node("p", "heading", node("strong", "", body.title)));
  for (const line of body.content) made.append(node("div", "", ...line.flatMap(postSpan)));
  return made;
}

// Returns what a bubble shows. A message that cannot be drawn is shown as its text.
function rich(message) {
  try {
    if (message.message_type === "interactive") return [card(JSON.parse(message.content))];
    if (message.message_type === "post") return [post(JSON.parse(message.content))];
  } catch {
    return plainText(message.text);
  }
  return plainText(message.text);
}
