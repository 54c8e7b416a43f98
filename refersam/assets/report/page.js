"use strict";
(() => {
  const perPage = 50;
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const options = document.getElementById("verdict").options;
  const verdicts = Array.from(options).slice(1).map((option) => option.textContent);
  const texts = rows.map((row) => (row[1] + " " + row[0]).toLowerCase());
  const search = document.getElementById("search");
  const select = document.getElementById("verdict");
  const body = document.querySelector("#table tbody");
  const headers = Array.from(document.querySelectorAll("#table thead th"));
  let column = null;
  let rising = true;
  let page = 0;
  let shown = [];

  const number = (value) => (value === null ? "–" : value.toFixed(3));

  function compare(one, other) {
    const a = rows[one][column];
    const b = rows[other][column];
    if (a === b) return one - other;
    if (a === null) return 1; // unknown: last, whichever way
    if (b === null) return -1;
    return (a < b) === rising ? -1 : 1;
  }

  function update() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = select.value === "" ? null : Number(select.value);
    shown = [];
    for (let index = 0; index < rows.length; index++) {
      if (wanted !== null && rows[index][4] !== wanted) continue;
      if (words.every((word) => texts[index].includes(word))) shown.push(index);
    }
    if (column !== null) shown.sort(compare);
    page = 0;
    draw();
  }

  function cell(line, text, style) {
    const element = document.createElement("td");
    element.textContent = text; // never as markup
    if (style) element.className = style;
    line.append(element);
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(shown.length / perPage));
    const lines = shown.slice(page * perPage, (page + 1) * perPage).map((index) => {
      const [id, phrase, iou, score, verdict] = rows[index];
      const line = document.createElement("tr");
      cell(line, phrase, "phrase");
      cell(line, number(iou));
      cell(line, number(score));
      cell(line, verdicts[verdict], "text");
      cell(line, id, "text identifier");
      return line;
    });
    body.replaceChildren(...lines);
    document.getElementById("count").textContent = `${shown.length} of ${rows.length} phrases`;
    document.getElementById("page").textContent = `Page ${page + 1} of ${pages}`;
    document.getElementById("previous").disabled = page === 0;
    document.getElementById("next").disabled = page >= pages - 1;
  }

  for (const header of headers) {
    const button = header.querySelector("button");
    button.addEventListener("click", () => {
      const chosen = Number(button.dataset.column);
      rising = chosen === column ? !rising : true;
      column = chosen;
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", rising ? "ascending" : "descending");
      update();
    });
  }
  search.addEventListener("input", update);
  select.addEventListener("change", update);
  document.getElementById("previous").addEventListener("click", () => { page -= 1; draw(); });
  document.getElementById("next").addEventListener("click", () => { page += 1; draw(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      search.focus();
    }
  });
  update();
})();
