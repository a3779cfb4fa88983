// All evaluated rows, with chips, filters, and the same question in every stage.

const ans = { chip: "all", level: "", source: "", type: "", form: "", text: "" };

const lastOf = (row, name) => (row.answers[name] || [null])[0];
const isRight = (row, name) => {
  const said = row.answers[name];
  return said ? said.filter((answer) => answer.right).length * 2 >= said.length && said.some((answer) => answer.right) : null;
};

/** The chips: name, title, and whether a row belongs to it. */
function answerChips(stages) {
  const main = stages.filter((stage) => !stage.control).map((stage) => stage.name);
  const first = main[0], last = main.at(-1);
  const verdict = (kind) => (row) => (lastOf(row, last) || {}).verdict === kind;
  const everyone = (row, right) => main.every((name) => isRight(row, name) === right);
  const over = main.length > 1 ? [
    ["learned", "learned", (row) => isRight(row, first) === false && isRight(row, last)],
    ["lost", "lost", (row) => main.some((name) => isRight(row, name)) && isRight(row, last) === false],
    ["always", "always right", (row) => everyone(row, true)],
    ["never", "never right", (row) => everyone(row, false)],
  ] : [["right", "right", (row) => isRight(row, last)], ["wrong", "wrong", (row) => isRight(row, last) === false]];
  return [["all", "all", () => true], ...over, ["no_answer", "no answer", verdict("no_answer")],
    ["unparsed", "unparsed", verdict("unparsed")], ["timeout", "timed out", verdict("timeout")]];
}

function answerRows(chips) {
  const rows = DATA.answers.rows;
  const chip = (chips || answerChips(DATA.answers.stages)).find(([name]) => name === ans.chip);
  const text = ans.text.toLowerCase();
  return rows.filter((row) => (!chip || chip[2](row)) && (!ans.level || String(row.level) === ans.level)
    && (!ans.source || row.source === ans.source) && (!ans.type || row.type === ans.type)
    && (!ans.form || (ans.form === "choice") === row.choices.length > 0)
    && (!text || [row.id, row.question, row.gold, ...Object.values(row.answers).flat().map((a) => a.text)]
      .some((value) => value.toLowerCase().includes(text))));
}

function drawAnswers() {
  const values = (name) => [...new Set(DATA.answers.rows.map((row) => row[name]).filter((v) => v !== null && v !== ""))].sort();
  const pick = (name) => (value) => { ans[name] = value; refreshAnswers(); };
  const filter = (name, label) => (values(name).length > 1
    ? select(label, [["", "any"], ...values(name).map((v) => [v, v])], ans[name], pick(name)) : null);
  const both = DATA.answers.rows.some((row) => row.choices.length) && DATA.answers.rows.some((row) => !row.choices.length);
  return el("div", { id: "answer-view" }, el("div", { class: "controls chips", id: "answer-chips" }),
    el("div", { class: "controls" }, filter("level", "level"), filter("source", "source"), filter("type", "answer type"),
      both ? select("form", [["", "any"], ["choice", "choice"], ["free", "free"]], ans.form, pick("form")) : null,
      el("input", { type: "search", id: "answer-search", placeholder: "search answers", "aria-label": "search answers", value: ans.text,
        oninput: (event) => pick("text")(event.target.value) }),
      el("output", { id: "answer-count" }),
      el("button", { type: "button", onclick: () => download("answers.jsonl",
        answerRows().map((row) => `${JSON.stringify({ ...row, pictures: undefined })}\n`).join(""), "application/jsonl") }, "download these rows")),
    pictureNote(), el("div", { id: "answer-list" }));
}

/** Why rows have no picture. */
function pictureNote() {
  const without = DATA.answers.rows.filter((row) => !row.pictures.length).length;
  return without ? el("p", { class: "quiet" }, `${without} of ${DATA.answers.rows.length} rows have no picture here: their rows name none, `
    + "or it was generated, and an evaluation writes only its first 60 such pictures.") : null;
}

function refreshAnswers(open) {
  const chips = answerChips(DATA.answers.stages), all = DATA.answers.rows;
  const box = byId("answer-chips");
  box.textContent = "";
  for (const [name, title, belongs] of chips) {
    const count = name === "all" ? all.length : all.filter(belongs).length;
    if (!count && name !== "all" && name !== ans.chip) continue;
    box.append(el("button", { type: "button", class: `chip${ans.chip === name ? " current" : ""}`, "aria-pressed": String(ans.chip === name),
      "data-chip": name, onclick: () => { ans.chip = name; refreshAnswers(); } }, `${title} ${count}`));
  }
  const rows = answerRows(chips);
  if (open) {
    const at = rows.findIndex((row) => row.id === open);
    if (at > 0) rows.unshift(...rows.splice(at, 1));
  }
  byId("answer-count").textContent = `${rows.length} of ${all.length}`;
  longList(byId("answer-list"), rows, (row) => answerItem(row, row.id === open));
  const query = { ...ans, chip: ans.chip === "all" ? "" : ans.chip };
  if (open === undefined) writeAddress("answers", [], query);
}

const anyPicture = () => DATA.answers.rows.some((row) => row.pictures.length);

function answerItem(row, open) {
  const marks = DATA.answers.stages.filter((stage) => row.answers[stage.name]).map((stage) => {
    const said = row.answers[stage.name];
    const share = said.length > 1 ? ` ${said.filter((a) => a.right).length}/${said.length}` : "";
    return el("span", { class: "mark", title: stage.label }, verdictMark(said[0].verdict, true), share);
  });
  const item = el("details", { class: "row-item", "data-id": row.id }, el("summary", {}, anyPicture() ? pictures(row.pictures.slice(0, 1), "thumb") : null,
    el("span", { class: "what" }, el("span", { class: "question" }, row.question.slice(0, 200)),
      el("span", { class: "quiet" }, `gold ${row.gold.slice(0, 80)}`, row.level === null ? "" : ` · level ${row.level}`)),
    el("span", { class: "marks" }, marks)));
  item.addEventListener("toggle", () => {
    if (!item.open || item.filled) return;
    item.filled = true;
    item.append(answerDetails(row));
    writeAddress("answers", [row.id], { ...ans, chip: ans.chip === "all" ? "" : ans.chip });
  });
  if (open) item.open = true;
  return item;
}

function answerDetails(row) {
  return el("div", { class: "opened" }, el("div", { class: "problem" }, pictures(row.pictures, "large"), el("div", {},
    el("p", { class: "question" }, row.question),
    row.choices.length ? el("ol", { class: "choices" }, row.choices.map((choice) => el("li", {}, choice))) : null,
    el("p", {}, "gold: ", el("b", {}, row.gold)),
    el("p", { class: "quiet" }, [`row ${row.id}`, row.type, row.source].filter(Boolean).join(" · ")))),
  DATA.answers.stages.filter((stage) => row.answers[stage.name]).map((stage) => el("div", { class: "stage-answer" },
    el("h4", {}, stage.label), row.answers[stage.name].map((said) => el("article", { class: `completion is-${said.verdict}` },
      el("p", { class: "facts" }, verdictMark(said.verdict), said.tokens ? el("span", {}, `${said.tokens} tokens`) : null,
        said.finished === false ? el("span", { class: "warn" }, "cut off") : null,
        said.extracted && !said.why.length ? el("span", {}, "extracted ", el("b", {}, said.extracted)) : null),
      responseText(said.text), explanation(said.why))))));
}

/** Takes the state from an address such as #answers/q7?chip=lost, or #answers/lost. */
function openAnswers(address) {
  for (const name of Object.keys(ans)) ans[name] = address.query.get(name) || (name === "chip" ? "all" : "");
  let open = address.parts[0] || "";
  const chips = answerChips(DATA.answers.stages).map(([name]) => name);
  if (chips.includes(open) && !DATA.answers.rows.some((row) => row.id === open)) [ans.chip, open] = [open, ""];
  byId("answer-view").replaceWith(drawAnswers());
  refreshAnswers(open);
}
