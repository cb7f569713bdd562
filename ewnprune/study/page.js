"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const slider = document.getElementById("level"), taken = document.getElementById("taken");
const charts = [...document.querySelectorAll("figure svg")];
const tip = document.getElementById("tip"), command = document.getElementById("command");
const methods = [...new Set(data.rows.map(row => row.method))];
const hidden = new Set();

const level = () => data.levels[slider.value];
const percent = value => +(100 * value).toPrecision(6) + " %";
const rowOf = method => data.rows.find(row => row.method === method && row.sparsity === level());

// --- the slider: a table, a line in every figure that knows levels, and a command ---

function cell(line, text, label, detail) {
  const made = line.insertCell();
  made.dataset.label = label;
  made.textContent = text;
  if (detail) made.append(Object.assign(document.createElement("small"), { textContent: " " + detail }));
}

function fill() {
  const body = document.querySelector("#at-level tbody");
  body.replaceChildren();
  for (const method of methods.filter(name => !hidden.has(name))) {
    const line = body.insertRow(), row = rowOf(method);
    line.append(Object.assign(document.createElement("th"), { scope: "row", textContent: method }));
    const sd = row && row.sd !== null ? "± " + (100 * row.sd).toFixed(2) : "";
    cell(line, row ? (100 * row.mean).toFixed(2) : "-", "accuracy, %", sd);
    for (const [name, label] of [["neurons", "neurons left"], ["parameters", "parameters left"], ["macs", "MACs left"]]) {
      const left = row && row[name + "_left"], total = row && row[name + "_total"];
      if (total) cell(line, (100 * left / total).toFixed(1) + " %", label, left.toLocaleString("en"));
      else cell(line, "-", label);  // not every method is measured at every level
    }
    cell(line, row ? row.seeds : "-", "seeds");
  }
}

function moveLines() {
  const key = String(+level().toPrecision(6));
  for (const chart of charts) {
    const group = chart.querySelector(".cursor");
    group.replaceChildren(...(JSON.parse(chart.dataset.cursor)[key] || []).map(x => {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
      line.setAttribute("d", `M${x} 12V292`);
      return line;
    }));
    for (const mark of chart.querySelectorAll(".mark[data-level]"))
      mark.classList.toggle("now", mark.dataset.level === key);
  }
}

function show() {
  document.getElementById("asked").textContent = percent(level());
  slider.setAttribute("aria-valuetext", percent(level()) + " removed");
  fill();
  moveLines();
  const row = rowOf(taken.value);
  const why = row ? row.why : "it was not measured at this level";
  command.textContent = row && row.command ? row.command : `Nothing to export: ${why}.`;
  document.getElementById("copy-command").disabled = !(row && row.command);
}

// --- methods: pressed are shown ---

for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    const name = button.dataset.show, off = !hidden.delete(name);
    if (off) hidden.add(name);
    button.setAttribute("aria-pressed", String(!off));
    for (const group of document.querySelectorAll("figure [data-method]"))
      if (group.dataset.method === name) group.classList.toggle("off", off);
    fill();
  });
}

// --- values: those of the mark that is nearest to the pointer ---

function nearest(chart, event) {
  let best = null, least = 24;
  for (const mark of chart.querySelectorAll("g:not(.off) > .mark")) {
    const box = mark.getBoundingClientRect();
    const away = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
    if (away < least) [best, least] = [mark, away];
  }
  return best;
}

function point(mark, event) {
  for (const other of document.querySelectorAll(".near")) if (other !== mark) other.classList.remove("near");
  tip.hidden = !mark;
  if (!mark) return;
  mark.classList.add("near");
  tip.textContent = mark.dataset.tip;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 4)) + "px";
  tip.style.top = (event.clientY > box.height + 24 ? event.clientY - box.height - 14 : event.clientY + 20) + "px";
}

for (const chart of charts) {
  chart.addEventListener("pointermove", event => point(nearest(chart, event), event));
  chart.addEventListener("pointerleave", event => point(null, event));
  chart.addEventListener("click", event => {
    const mark = nearest(chart, event);
    if (!mark || !mark.dataset.level) return;
    taken.value = mark.closest("g").dataset.method;
    slider.value = data.levels.findIndex(each => Math.abs(each - mark.dataset.level) < 1e-6);
    show();
  });
}

// --- copies ---

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // not everywhere may a page from disk do that
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  document.getElementById("said").textContent = `Copied: ${what}.`;
}

const tex = text => text.replace(/[\\{}]/g, c => ({ "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}" })[c])
  .replace(/[&%$#_]/g, "\\$&").replace(/~/g, "\\textasciitilde{}").replace(/\^/g, "\\textasciicircum{}")
  .replace(/→/g, "$\\to$").replace(/±/g, "$\\pm$");
const kinds = {
  Markdown: rows => [rows[0], rows[0].map(() => "---"), ...rows.slice(1)].map((row, i) =>
    "| " + row.map(c => i === 1 ? c : c.replace(/[\\`*_[\]|~#<>]/g, "\\$&")).join(" | ") + " |").join("\n"),
  LaTeX: rows => [`\\begin{tabular}{l${"r".repeat(rows[0].length - 1)}}`, "\\toprule",
    rows[0].map(tex).join(" & ") + " \\\\", "\\midrule",
    ...rows.slice(1).map(row => row.map(tex).join(" & ") + " \\\\"), "\\bottomrule", "\\end{tabular}"].join("\n"),
  CSV: rows => rows.map(row => row.map(c => /[",\n]/.test(c) ? `"${c.replace(/"/g, '""')}"` : c).join(",")).join("\n"),
};

for (const table of document.querySelectorAll("main table")) {
  const title = document.getElementById("h-" + table.id) || document.getElementById("h-level");
  const place = document.createElement("div");
  place.className = "copy";
  for (const [kind, write] of Object.entries(kinds)) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: kind });
    button.setAttribute("aria-label", `Copy the table "${title.textContent}" as ${kind}`);
    button.addEventListener("click", () => {
      const rows = [...table.rows].map(row => [...row.cells].map(each => each.textContent.trim()));
      copy(write(rows) + "\n", `the table as ${kind}`);
    });
    place.append(button);
  }
  place.prepend("Copy as ");
  table.parentElement.after(place);
}
document.getElementById("copy-command").addEventListener("click", () => copy(command.textContent, "the command"));

slider.addEventListener("input", show);
taken.addEventListener("change", show);
show();
