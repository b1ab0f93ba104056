// Redeems the link once, as soon as the page is there. Without this script the button does the same.
"use strict";

const form = document.getElementById("bind");
const outcome = document.getElementById("outcome");

async function redeem() {
  const answer = await fetch("/api/lark/binding/redeem", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token: form.elements.token.value }),
  });
  return String(answer.status);
}

function show(status) {
  const found = document.querySelector(`template[data-status="${status}"]`);
  const template = found || document.querySelector('template[data-status="other"]');
  outcome.replaceChildren(template.content.cloneNode(true));
}

form.hidden = true;
outcome.textContent = outcome.dataset.working;
redeem().then(show, () => show("other"));
