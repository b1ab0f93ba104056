// The page behind a scanned code. What the code asks for enters the page through textContent, never as markup.
"use strict";

const code = new URLSearchParams(location.search).get("user_code") || "";
const person = document.querySelector("#person");
const brand = document.querySelector("#brand");
const title = document.querySelector("#title");
const presets = document.querySelector("#presets");
const notice = document.querySelector("#notice");
const form = document.querySelector("#decision");

async function call(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  const response = await fetch("/_sim/" + path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.msg || response.statusText);
  return answer;
}

function show(scan) {
  title.textContent = scan.state === "pending" ? "An agent asks to become a bot" : "This code is " + scan.state;
  const asked = Object.entries(scan.link).filter(([, value]) => value && Object.keys(value).length !== 0 || value === true);
  presets.replaceChildren(...asked.flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const said = document.createElement("dd");
    term.textContent = name;
    said.textContent = typeof value === "string" ? value : JSON.stringify(value);
    return [term, said];
  }));
  for (const button of form.elements) button.disabled = scan.state !== "pending" || !person.value;
}

async function load() {
  const people = await call("people");
  person.replaceChildren(...people.map((one) => {
    const option = document.createElement("option");
    option.value = one.union_id;
    option.textContent = one.name;
    return option;
  }));
  const scan = await call("scans/" + encodeURIComponent(code) + "?url=" + encodeURIComponent(location.href));
  brand.value = scan.region;
  show(scan);
}

async function decide(choice) {
  const body = choice === "authorize" ? { person: person.value, brand: brand.value, url: location.href } : {};
  show(await call("scans/" + encodeURIComponent(code) + "/" + choice, body));
}

function report(promise) {
  promise.then(() => { notice.textContent = ""; }, (error) => { notice.textContent = error.message; });
}

form.addEventListener("submit", (event) => { event.preventDefault(); report(decide(event.submitter.value)); });
report(load());
