// Puts the parts of a run's page together and follows keys and address.

const SECTIONS = [
  ["findings", "Findings", () => drawFindings(DATA.findings)],
  ["results", "Results", () => el("div", {}, drawScores(DATA.scores), drawTable(DATA.table), el("p", { class: "quiet" }, DATA.table.note)),
    () => DATA.table.rows.length || DATA.table.control.length],
  ["curves", "Curves", () => drawCurves(DATA.curves), () => DATA.curves.length],
  ["rollouts", "Rollouts", drawRollouts, () => DATA.rollouts.length],
  ["answers", "Answers", drawAnswers, () => DATA.answers.rows.length],
  ["data", "Data and cost", () => drawCost(DATA.cost)],
  ["config", "Configuration", () => el("details", {}, el("summary", {}, "config.yaml"), el("pre", {}, DATA.config)), () => DATA.config],
];

function drawPage() {
  const main = byId("main");
  main.textContent = "";
  const shown = SECTIONS.filter(([, , , there]) => !there || there());
  main.append(el("nav", {}, el("a", { href: "#head" }, DATA.head.name), shown.map(([id, title]) => el("a", { href: `#${id}` }, title))),
    drawHead(DATA.head));
  for (const [id, title, draw] of shown) {
    main.append(el("section", { id: `section-${id}`, class: "section" }, el("h2", { id }, title), draw()));
  }
  if (pictureShelfNote()) main.append(el("p", { class: "quiet" }, pictureShelfNote()));
  main.append(drawHelp());
  if (DATA.rollouts.length) refreshRollouts(true);
  if (DATA.answers.rows.length) refreshAnswers("");
}

function pictureShelfNote() {
  return DATA.outside ? `${DATA.outside} pictures didn't fit into this file; they lie in ${DATA.picture_folder}/ beside it.` : "";
}

function drawHelp() {
  const keys = [["j, k", "next and previous problem"], ["h, l", "previous and next step"], ["/", "search the rollouts"], ["?", "this help"]];
  return el("dialog", { id: "help" }, el("h3", {}, "Keys"), el("dl", {}, keys.flatMap(([key, what]) => [el("dt", {}, key), el("dd", {}, what)])),
    el("p", {}, "The address holds what you see: copy it to show it to somebody."),
    el("button", { type: "button", onclick: () => byId("help").close() }, "close"));
}

function followAddress() {
  const address = readAddress();
  const section = byId(address.section) || byId(`section-${address.section}`);
  if (!section) return;
  if (address.section === "rollouts" && DATA.rollouts.length) openRollouts(address);
  if (address.section === "answers" && DATA.answers.rows.length) openAnswers(address);
  section.scrollIntoView();
  if (address.section === "curves" && address.parts[0] && byId("curve-panels")) {
    requestAnimationFrame(() => requestAnimationFrame(() => byId("curve-panels").show(address.parts[0])));
  }
}

const KEYS = {
  j: () => moveGroup(1), k: () => moveGroup(-1), h: () => moveStep(-1), l: () => moveStep(1),
  "/": () => byId("rollout-search").focus(), "?": () => byId("help").showModal(),
};

function followKeys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const act = KEYS[event.key];
  if (!act || (!DATA.rollouts.length && event.key !== "?")) return;
  event.preventDefault();
  act();
}

drawPage();
followAddress();
addEventListener("hashchange", followAddress);
addEventListener("keydown", followKeys);
if (DATA.head.state === "running") {
  setInterval(() => { if (!/^(INPUT|SELECT)$/.test((document.activeElement || {}).tagName)) location.reload(); }, 30000);
}
