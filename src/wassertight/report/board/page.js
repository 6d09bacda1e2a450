// Sorts and filters the rows that are in the page; the state is in the address, so that a view can be linked.

const find = (id) => document.getElementById(id);
const body = find("rows").tBodies[0];
const heads = [...find("rows").tHead.rows[0].cells];
const column = Object.fromEntries(heads.map((head, index) => [head.dataset.key, index]));
const shown = (cell) => cell.textContent.trim();
const entries = [...body.rows].map((row, place) => ({
  row,
  place,
  failed: row.classList.contains("failed"),
  threat: shown(row.cells[column.threat]),
  data: row.cells[column.data].title,
  text: [row, ...row.querySelectorAll("[title]")].map((part) => `${part.title} ${part.textContent}`).join(" ").toLowerCase(),
}));
const empty = { sort: "", down: "", find: "", threat: "", data: "", audited: "", theme: "auto" };
const asked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const state = { ...empty, ...asked };
if (!(state.sort in column)) state.sort = "";
for (const key of ["threat", "data"]) if (!entries.some((entry) => entry[key] === state[key])) state[key] = "";
if (!["auto", "light", "dark"].includes(state.theme)) state.theme = "auto";

function valueOf({ row }, head) {
  const cell = row.cells[column[head.dataset.key]];
  if (head.dataset.kind === "text") return shown(cell) === "-" ? null : shown(cell);
  return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
}

// Rows that failed their audit stay at the end, and before them those without a value, whichever way the table is sorted.
function order() {
  if (!state.sort) return [...entries];
  const head = heads[column[state.sort]], sign = state.down ? -1 : 1;
  const compare = head.dataset.kind === "text" ? (a, b) => a.localeCompare(b, "en", { numeric: true }) : (a, b) => a - b;
  return entries
    .map((entry) => ({ entry, value: valueOf(entry, head) }))
    .sort((a, b) => a.entry.failed - b.entry.failed || (a.value === null) - (b.value === null)
      || (a.value === null ? 0 : sign * compare(a.value, b.value)) || a.entry.place - b.entry.place)
    .map(({ entry }) => entry);
}

function change(parts) {
  Object.assign(state, parts);
  const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const entry of entries) {
    const fits = (!state.threat || entry.threat === state.threat) && (!state.data || entry.data === state.data)
      && !(state.audited && entry.failed) && words.every((word) => entry.text.includes(word));
    entry.row.hidden = !fits;
    count += fits;
  }
  if (state.sort) body.parentNode.dataset.sorted = state.sort;
  else delete body.parentNode.dataset.sorted;
  body.append(...order().map((entry) => entry.row));
  for (const head of heads) {
    if (head.dataset.key !== state.sort) head.removeAttribute("aria-sort");
    else head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
  }
  find("count").textContent = count === entries.length ? `${count} rows` : `${count} of ${entries.length} rows`;
  for (const [id, key] of [["text", "find"], ["threat", "threat"], ["data", "data"]]) {
    if (find(id).value !== state[key]) find(id).value = state[key];
  }
  find("audited").checked = Boolean(state.audited);
  document.documentElement.dataset.theme = state.theme;
  find("theme").textContent = `Theme: ${state.theme}`;
  const kept = Object.entries(state).filter(([key, value]) => key in empty && value !== empty[key]);
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
}

for (const head of heads) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  const largestFirst = head.dataset.kind.includes("best");
  button.addEventListener("click", () => {
    const same = state.sort === head.dataset.key;
    const down = same ? !state.down : largestFirst;
    change(same && down === largestFirst ? { sort: "", down: "" } : { sort: head.dataset.key, down: down ? "1" : "" });
  });
  head.replaceChildren(button);
}
for (const key of ["threat", "data"]) {
  const named = new Map(entries.map((entry) => [entry[key], shown(entry.row.cells[column[key]])]));
  for (const [value, text] of named) find(key).append(new Option(text, value));
  find(key).addEventListener("change", (event) => change({ [key]: event.target.value }));
}
find("text").addEventListener("input", (event) => change({ find: event.target.value }));
find("audited").addEventListener("change", (event) => change({ audited: event.target.checked ? "1" : "" }));
find("filters").addEventListener("submit", (event) => event.preventDefault());
find("filters").addEventListener("reset", () => change({ ...empty, theme: state.theme }));
find("theme").addEventListener("click", () => {
  const all = ["auto", "light", "dark"];
  change({ theme: all[(all.indexOf(state.theme) + 1) % all.length] });
});
find("filters").hidden = find("theme").hidden = false;
change({});
