// Everything that people or bots wrote enters the page through textContent, never as markup.
"use strict";

const POLL_MS = 700;
const person = document.querySelector("#person");
const chats = document.querySelector("#chats");
const list = document.querySelector("#messages");
const notice = document.querySelector("#notice");
const composer = document.querySelector("#composer");
let chat = null;
let shown = "";
let listed = "";
let known = "";
let lost = false;

async function call(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  const response = await fetch("/_sim/" + path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.msg || response.statusText);
  return answer;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function loadPeople(selected) {
  const people = await call("people");
  const state = JSON.stringify(people);
  if (state !== known || selected) showPeople(people, selected || (known && person.value));
  known = state;
  await loadChats();
}

function showPeople(people, selected) {
  person.replaceChildren(...people.map((one) => {
    const option = element("option", "", one.name);
    option.value = one.union_id;
    return option;
  }));
  // `?as=Eve` in the address chooses who one is, so that two people can be two windows.
  const asked = new URLSearchParams(location.search).get("as");
  const wanted = people.find((one) => one.union_id === selected) || people.find((one) => one.name === asked || one.union_id === asked);
  if (wanted) person.value = wanted.union_id;
  nameInAddress();
}

function nameInAddress() {
  const chosen = person.selectedOptions[0];
  if (!chosen) return;
  document.title = chosen.textContent + " - Simulated chat";
  history.replaceState(null, "", "?as=" + encodeURIComponent(chosen.textContent));
}

async function loadChats() {
  const found = person.value ? await call("chats?person=" + encodeURIComponent(person.value)) : [];
  if (!found.some((one) => chat && one.chat_id === chat.chat_id)) chat = found[0] || null;
  const state = JSON.stringify([found, chat && chat.chat_id]);
  if (state !== listed) showChats(found);
  listed = state;
  await refresh();
}

function showChats(found) {
  chats.replaceChildren(...found.map((one) => {
    const button = element("button", "", one.name + " ");
    button.append(element("small", "", one.chat_type === "p2p" ? "bot" : "group"));
    button.setAttribute("aria-current", String(chat && one.chat_id === chat.chat_id));
    button.addEventListener("click", () => { chat = one; shown = ""; report(loadChats()); });
    return button;
  }));
  document.querySelector("#title").textContent = chat ? chat.name + " — " + members(chat) : "No bot yet";
  composer.querySelector("button").disabled = !chat;
}

function members(one) {
  return [...Object.values(one.people), ...Object.values(one.apps)].join(", ");
}

async function refresh() {
  if (!chat) { list.replaceChildren(); shown = ""; return; }
  const of = chat.chat_id;
  const messages = await call("chats/" + of + "/messages");
  const state = JSON.stringify(messages);
  if (!chat || chat.chat_id !== of || state === shown) return;
  // Somebody who reads further up stays there.
  const follow = !shown || list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  shown = state;
  list.replaceChildren(...messages.map(bubble));
  if (follow) list.scrollTop = list.scrollHeight;
}

function bubble(message) {
  const mine = message.sender_id === person.value;
  const item = element("li", (mine ? "mine " : "") + (message.deleted ? "gone" : ""));
  const time = new Date(message.create_time).toLocaleTimeString();
  item.append(element("div", "who", message.sender_name + " · " + time + (message.updated ? " · edited" : "")));
  const words = element("div", "said");
  words.append(...(message.deleted ? ["recalled"] : rich(message)));
  item.append(words);
  // Rich text and cards show their pictures where they stand.
  const loose = ["post", "interactive"].includes(message.message_type) ? message.resources.filter((one) => one.kind !== "image") : message.resources;
  item.append(...loose.map(attached));
  if (message.reactions.length) item.append(element("div", "who", message.reactions.join(" ")));
  return item;
}

function attached(resource) {
  const source = "/_sim/resources/" + resource.key;
  if (resource.kind === "image" || resource.kind === "sticker") {
    const picture = element("img");
    picture.src = source;
    picture.alt = resource.name || "picture";
    return picture;
  }
  const link = element("a", "", resource.name || resource.kind);
  link.href = source;
  return link;
}

function report(promise) {
  promise.then(() => { notice.textContent = ""; }, (error) => { notice.textContent = error.message; });
}

async function send() {
  const field = composer.elements.text;
  const text = field.value.trim();
  if (!text || !chat) return;
  await call("messages", { sender: person.value, to: chat.chat_id, text });
  field.value = "";
  await refresh();
}

composer.addEventListener("submit", (event) => { event.preventDefault(); report(send()); });
composer.elements.text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); report(send()); }
});
person.addEventListener("change", () => { shown = ""; nameInAddress(); report(loadChats()); });
document.querySelector("#new-person").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  report(call("people", { name: form.elements.name.value }).then((one) => { form.reset(); return loadPeople(one.union_id); }));
});
async function poll() {
  try {
    await loadPeople();
    if (lost) notice.textContent = "";
    lost = false;
  } catch {
    lost = true;
    notice.textContent = "The simulator does not answer; trying again.";
  }
  setTimeout(poll, POLL_MS);
}
poll();
