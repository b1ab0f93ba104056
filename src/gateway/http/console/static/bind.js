// One press is one request: a second one would be answered "this link is over". Without this script the form does the same.
"use strict";

const form = document.getElementById("bind");
const button = form.querySelector("button");
const words = button.textContent;

function show(working) {
  button.disabled = working;
  button.textContent = working ? button.dataset.working : words;
}

form.addEventListener("submit", () => show(true));
// A page that comes back from the browser's memory is to be pressed anew.
window.addEventListener("pageshow", () => show(false));
