// The head of a run, its findings, its results, and what it cost.

function drawHead(head) {
  const box = el("header", { id: "head" },
    el("h1", {}, head.name, " ", el("span", { class: `state is-${head.state}` }, head.state),
      el("small", {}, ` since ${moment(head.since)} · ${head.folder.split("/").at(-1)}`)),
    el("p", { class: "headline" }, head.headline));
  if (head.state === "running") box.append(drawProgress(head));
  if (head.error) box.append(drawError(head));
  box.append(drawChanges(head.changes));
  if (head.command) {
    box.append(el("p", { class: "command" }, el("code", {}, head.command), " ", copyButton(head.command)));
  }
  box.append(drawFacts(head));
  return box;
}

function drawChanges(changes) {
  const chips = (some) => some.map((change) => el("code", { class: "chip" }, change));
  const rest = changes.slice(10);
  return el("div", { class: "changes" }, "Differs from the defaults in: ", changes.length ? chips(changes.slice(0, 10)) : "nothing",
    rest.length ? el("details", {}, el("summary", {}, `${rest.length} more settings`), chips(rest)) : null);
}

function drawProgress(head) {
  const p = head.progress || {};
  const step = p.steps ? `, step ${p.step} of ${p.steps}` : p.answers === undefined ? "" : `, ${p.answers} answers so far`;
  const left = p.left_s === undefined ? "" : `, about ${duration(p.left_s)} of this stage left`;
  const silent = Date.now() / 1000 - head.written > 300
    ? el("b", {}, " No sign of life since then: it may have been killed.") : null;
  return el("p", { class: "banner", id: "progress" },
    `${p.stage}${p.of > 1 ? ` (stage ${p.place} of ${p.of})` : ""}${step}${left}. `,
    `Written ${moment(head.written)}; this page loads itself again every 30 s.`, silent);
}

function drawError(head) {
  const at = [head.error.stage, head.error.step === null ? "" : `after step ${head.error.step}`].filter(Boolean);
  return el("section", { class: "banner bad", id: "error" },
    el("p", {}, el("b", {}, head.state === "failed" ? "Failed" : "Stopped", at.length ? ` in ${at.join(", ")}` : "", ": "),
      head.error.kind ? `${head.error.kind}: ` : "", head.error.sentence),
    head.error.lines.length ? el("details", { open: head.error.kind ? true : null },
      el("summary", {}, "the error's last lines"), el("pre", {}, head.error.lines.join("\n"))) : null,
    head.continue ? el("p", { class: "command" }, "Go on: ", el("code", {}, head.continue), " ",
      copyButton(head.continue)) : null);
}

function drawFacts(head) {
  const facts = [["folder", head.folder], ["seed", head.seed], ...head.facts].filter(([, value]) => value !== null);
  return el("details", { class: "facts" }, el("summary", {}, "commit, versions, hardware"),
    el("dl", {}, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    head.diff ? el("details", {}, el("summary", {}, "uncommitted changes"), el("pre", {}, head.diff)) : null);
}

function drawFindings(findings) {
  if (!findings.length) return el("p", { class: "quiet" }, "No rule found anything wrong in what has been written so far.");
  return el("ul", { class: "findings" }, findings.map((finding) => el("li", {}, finding.sentence, finding.advice
    ? [". ", el("b", {}, "Try: "), finding.advice] : "", " ",
  finding.link ? el("a", { href: finding.link }, "show") : null)));
}

function drawTable(table) {
  const row = (cells, tag) => el("tr", {}, cells.map((cell) => el(tag, {}, cell.replace("->", "→"))));
  return el("div", { class: "scroll", tabindex: "0" }, el("table", {},
    el("thead", {}, row(table.header, "th")),
    el("tbody", {}, table.rows.map((cells) => row(cells, "td"))),
    table.control.length ? el("tbody", { class: "control" },
      el("tr", {}, el("th", { colspan: table.header.length }, "Control: the same SFT, no RL")),
      table.control.map((cells) => row(cells, "td"))) : null));
}

/** Accuracy of the stages with their intervals, as an SVG that follows the page's colours. */
function drawScores(scores) {
  if (scores.length < 2) return null;
  const svg = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = plain(text);
    return node;
  };
  const high = Math.min(1, 1.1 * Math.max(...scores.map((s) => s.high), 0.01));
  const width = Math.max(320, 90 * scores.length), y = (v) => 170 - 150 * (v / high), x = (i) => 60 + 80 * i;
  const chart = svg("svg", { viewBox: `0 0 ${width} 210`, width, class: "scores", role: "img",
    "aria-label": "Accuracy after each stage with 95 % intervals" });
  for (const tick of [0, high / 2, high]) {
    chart.append(svg("line", { x1: 40, x2: width, y1: y(tick), y2: y(tick), class: "grid" }),
      svg("text", { x: 36, y: y(tick) + 4, "text-anchor": "end" }, `${Math.round(100 * tick)} %`));
  }
  scores.forEach((s, i) => {
    chart.append(svg("line", { x1: x(i), x2: x(i), y1: y(s.low), y2: y(s.high), class: "bar" }),
      svg("circle", { cx: x(i), cy: y(s.accuracy), r: 4, class: s.control ? "control" : "" }),
      svg("text", { x: x(i), y: 190, "text-anchor": "middle" }, s.label),
      svg("text", { x: x(i) + 8, y: y(s.accuracy) - 5 }, (100 * s.accuracy).toFixed(1)));
  });
  return el("div", { class: "scroll" }, chart);
}

function drawCost(cost) {
  const most = Math.max(...cost.stages.map((stage) => stage.seconds || 0), 1e-9);
  const bar = (stage) => {
    const parts = Object.keys(stage.parts).length ? stage.parts : { all: stage.seconds || 0 };
    const total = Object.values(parts).reduce((a, b) => a + b, 0) || 1;
    const strip = el("span", { class: "strip" }, Object.entries(parts).map(([name, seconds]) => {
      const piece = el("i", { class: `part-${name}`, title: `${name} ${duration(seconds)}` });
      piece.style.width = `${100 * (seconds / total) * ((stage.seconds || 0) / most)}%`;
      return piece;
    }));
    const words = Object.entries(stage.parts).map(([name, seconds]) => `${name} ${duration(seconds)}`).join(", ");
    return el("div", { class: "cost" }, el("b", {}, stage.label), el("span", { class: "quiet" }, ` ${stage.what} `),
      strip, el("span", {}, stage.done ? duration(stage.seconds) : "not finished", words ? ` (training: ${words})` : ""),
      el("dl", { class: "counts" }, stage.numbers.map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text)))));
  };
  const box = el("div", {}, cost.stages.map(bar));
  if (cost.pictures) box.append(el("p", { class: "quiet" }, cost.pictures));
  if (cost.skipped_count) {
    box.append(el("details", {}, el("summary", {}, `${cost.skipped_count} rows were left out`),
      el("ul", {}, cost.skipped.map(([name, reason]) => el("li", {}, `${name}: ${reason}`)))));
  }
  return box;
}
