
"use strict";
const form = document.querySelector(".finder");
const plain = (words) => words.toLowerCase().replace(/\s+/g, " ").trim();
const items = Array.from(document.querySelectorAll("[data-state]"), (item) => [item, plain(item.textContent)]);
function show() {
  const words = plain(form.elements.words.value), state = form.elements.state.value;
  let count = 0;
  for (const [item, said] of items) {
    const fits = (!state || item.dataset.state === state) && said.includes(words);
    item.classList.toggle("off", !fits);
    count += fits;
  }
  form.querySelector("output").textContent = `${count} of ${items.length} shown`;
}
form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
show();
