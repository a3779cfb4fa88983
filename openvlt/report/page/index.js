// The index of all runs: sort, filter, tick two to compare them.

const table = { sort: "since", down: true, text: "", state: "", kind: "", ticked: [] };
const COLUMNS = [
  ["name", "run", (run) => run.name], ["kind", "kind", (run) => run.kind], ["state", "state", (run) => run.state], ["seed", "seed", (run) => run.seed],
  ["score", "best score", (run) => (run.score ? run.score[0] : null)], ["reward", "last reward", (run) => run.reward],
  ["seconds", "time", (run) => run.seconds], ["since", "since", (run) => run.since], ["changes", "differs from the defaults in", (run) => run.changes.join(" ")],
];

function visibleRuns() {
  const value = COLUMNS.find(([name]) => name === table.sort)[2];
  const text = table.text.toLowerCase();
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || x === undefined) return 1;
    if (y === null || y === undefined) return -1;
    return (x < y ? -1 : x > y ? 1 : 0) * (table.down ? -1 : 1);
  };
  return DATA.runs.filter((run) => (!table.state || run.state === table.state) && (!table.kind || run.kind === table.kind)
    && (!text || `${run.name} ${run.folder} ${run.changes.join(" ")}`.toLowerCase().includes(text))).sort(compare);
}

function runRow(run) {
  const score = run.score ? `${percent(run.score[0])} (${(100 * run.score[1]).toFixed(1)}–${(100 * run.score[2]).toFixed(1)})` : "–";
  const tick = el("input", { type: "checkbox", "aria-label": `compare ${run.folder}`, checked: table.ticked.includes(run.folder), onchange: (event) => {
    table.ticked = table.ticked.filter((folder) => folder !== run.folder);
    if (event.target.checked) table.ticked = [...table.ticked, run.folder].slice(-2);
    refreshIndex();
  } });
  const place = `${run.folder.split("/").map(encodeURIComponent).join("/")}/report.html`;
  return el("tr", { title: run.headline }, el("td", {}, tick, " ", run.page ? el("a", { href: place }, run.name) : run.name,
    el("small", { class: "quiet" }, ` ${run.folder.split("/").at(-1)}`)), el("td", {}, run.kind),
  el("td", {}, el("span", { class: `state is-${run.state}` }, run.state)), el("td", {}, run.seed === null ? "–" : String(run.seed)), el("td", {}, score),
  el("td", {}, number(run.reward)), el("td", {}, duration(run.seconds)), el("td", {}, moment(run.since)),
  el("td", { class: "wrap" }, run.changes.slice(0, 8).join(" "), run.changes.length > 8 ? ` and ${run.changes.length - 8} more` : ""));
}

function drawIndex() {
  const kinds = [...new Set(DATA.runs.map((run) => run.kind))], states = [...new Set(DATA.runs.map((run) => run.state))];
  const pick = (name) => (value) => { table[name] = value; refreshIndex(); };
  byId("main").textContent = "";
  byId("main").append(el("header", { id: "head" }, el("h1", {}, "Runs"), el("p", { class: "quiet" }, "Tick two runs to compare them.")),
    el("div", { class: "controls" }, select("kind", [["", "any"], ...kinds.map((v) => [v, v])], "", pick("kind")),
      select("state", [["", "any"], ...states.map((v) => [v, v])], "", pick("state")),
      el("input", { type: "search", id: "run-search", placeholder: "find runs", "aria-label": "find runs", oninput: (event) => pick("text")(event.target.value) }),
      el("output", { id: "run-count" })),
    el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "texts", id: "runs" }, el("thead", { id: "run-head" }), el("tbody", { id: "run-rows" }))),
    el("div", { id: "compared" }));
}

function refreshIndex() {
  const runs = visibleRuns();
  byId("run-count").textContent = `${runs.length} of ${DATA.runs.length}`;
  byId("run-head").replaceChildren(el("tr", {}, COLUMNS.map(([name, title]) => el("th", {}, el("button", { type: "button", class: "sort", onclick: () => {
    table.down = table.sort === name ? !table.down : false;
    table.sort = name;
    refreshIndex();
  } }, `${title}${table.sort === name ? (table.down ? " ↓" : " ↑") : ""}`)))));
  byId("run-rows").replaceChildren(...runs.map(runRow));
  const two = table.ticked.map((folder) => DATA.runs.find((run) => run.folder === folder)).filter(Boolean);
  const shown = two.map((run) => run.folder).join("\n");
  if (byId("compared").dataset.shown !== shown) {
    byId("compared").dataset.shown = shown;
    byId("compared").replaceChildren(...(two.length === 2 ? [drawCompare(...two)] : []));
    writeAddress("compare", table.ticked, {});
  }
}

const asked = readAddress();
if (asked.section === "compare") table.ticked = asked.parts.slice(0, 2);
drawIndex();
refreshIndex();
if (DATA.runs.some((run) => run.state === "running") && location.protocol.startsWith("http")) setTimeout(() => location.reload(), 30000);
